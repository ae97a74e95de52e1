//! Operators' tokens. Only their hashes are stored.

use std::sync::Arc;
use std::time::Duration;

use decnet_pki::secret::Secret;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Control, ControlError};
use crate::audit::{Action, Actor, Change};
use crate::records::{ApiTokenRecord, Role};
use crate::store::{Db, Reader};
use decnet_wire::ids::Timestamp;

/// How the text of an operator's token begins, so that scanners for leaked secrets can tell it.
const PREFIX: &str = "decnet_";

/// How exactly it is remembered when a token was last used: every note of it waits for the disk.
const LAST_USE: time::Duration = time::Duration::minutes(1);
/// How often it is looked at the latest whether a token still counts that has a stream open.
const LOOK: Duration = Duration::from_secs(60);
/// The longest that a token with an end may live.
pub const LIFETIME_MAX: time::Duration = time::Duration::days(3650);

/// Makes a token of a role and stores its hash. The text is shown once.
///
/// # Errors
/// The name is another token's (409), no randomness, or the store's.
pub fn create(
    db: &Db,
    by: &Actor,
    name: &str,
    role: Role,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> Result<String, ControlError> {
    let secret = Secret::generate().map_err(|error| ControlError::Sign {
        what: "an operator token",
        source: error.into(),
    })?;
    let hash = secret.hash().to_string();
    let record = ApiTokenRecord {
        hash: hash.clone(),
        name: name.to_owned(),
        role,
        created_at: now,
        expires_at,
        last_used: None,
    };
    db.change(by, now, |w| {
        if find(&w.reader(), name)?.is_some() {
            return Err(ControlError::Conflict(format!(
                "there is a token {name} already: revoke it, or take another name"
            )));
        }
        w.put(&hash, &record)?;
        Ok(Change::new(Action::TokenCreate, subject(name))
            .after(shown(&record))
            .done(()))
    })?;
    Ok(format!("{PREFIX}{}", secret.reveal().as_str()))
}

impl Control {
    /// What is known of a token, if it is known and has not expired. Asked at every request.
    ///
    /// # Errors
    /// The store's.
    pub fn operator(&self, token: &str) -> Result<Option<ApiTokenRecord>, ControlError> {
        let Some(Ok(secret)) = token.strip_prefix(PREFIX).map(str::parse::<Secret>) else {
            return Ok(None);
        };
        let hash = secret.hash().to_string();
        let now = self.now();
        let record = self
            .db
            .read(|r| Ok::<_, ControlError>(r.get::<ApiTokenRecord>(&hash)?))?;
        let Some(record) = record.filter(|record| record.expires_at.is_none_or(|end| now < end)) else {
            return Ok(None);
        };
        let noted = |last: Timestamp| (now.get() - last.get()).abs() < LAST_USE;
        if !record.last_used.is_some_and(noted) {
            // It may have been revoked in between.
            let noted = self.db.bookkeep(|w| {
                if let Some(mut record) = w.get::<ApiTokenRecord>(&hash)? {
                    record.last_used = Some(now);
                    w.put(&hash, &record)?;
                }
                Ok::<_, ControlError>(())
            });
            // Whoever comes to look at a master whose disk is full gets in all the same.
            if let Err(error) = noted {
                tracing::warn!(name = record.name, error = %crate::text::chain(&error), "a token's use is not noted");
            }
        }
        Ok(Some(record))
    }

    /// Makes a token of a role.
    ///
    /// # Errors
    /// The name is another token's (409), the lifetime makes no sense (422), no randomness, or the store's.
    pub fn create_token(
        &self,
        by: &Actor,
        name: &str,
        role: Role,
        lifetime: Option<time::Duration>,
    ) -> Result<String, ControlError> {
        if lifetime.is_some_and(|lifetime| lifetime <= time::Duration::ZERO || lifetime > LIFETIME_MAX) {
            return Err(ControlError::Invalid(
                "a token lives from one second to ten years".to_owned(),
            ));
        }
        let now = self.now();
        let expires_at = lifetime.map(|lifetime| Timestamp::new(now.get() + lifetime));
        create(&self.db, by, name, role, now, expires_at)
    }

    /// All tokens, by name; also those that have expired.
    ///
    /// # Errors
    /// The store's.
    pub fn tokens(&self) -> Result<Vec<ApiTokenRecord>, ControlError> {
        let mut tokens = self
            .db
            .read(|r| Ok::<_, ControlError>(r.all::<ApiTokenRecord>()?))?;
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tokens)
    }

    /// Ends a token: from now on it is not known.
    ///
    /// # Errors
    /// There is none of this name (404), or the store's.
    pub fn revoke_token(&self, by: &Actor, name: &str) -> Result<(), ControlError> {
        let hash = self.db.change(by, self.now(), |w| {
            let token = find(&w.reader(), name)?.ok_or_else(|| ControlError::NotFound {
                what: "token",
                name: name.to_owned(),
            })?;
            w.remove::<ApiTokenRecord>(&token.hash)?;
            let change = Change::new(Action::TokenRevoke, subject(name)).before(shown(&token));
            Ok::<_, ControlError>(change.done(token.hash))
        })?;
        self.streams.cut(&hash);
        Ok(())
    }

    /// Waits until a token counts no more: it is revoked, or has expired.
    pub async fn token_ended(self: Arc<Self>, hash: String) {
        // Noted before the token is looked up, so that no revocation slips through between the two; and cancelled when
        // nobody waits any more, so that nothing is left of it.
        let cut = CancellationToken::new();
        let _ended = cut.clone().drop_guard();
        self.streams.add(hash.clone(), cut.clone());
        loop {
            let (control, wanted) = (Arc::clone(&self), hash.clone());
            let read = move || {
                control
                    .db
                    .read(|r| Ok::<_, ControlError>(r.get::<ApiTokenRecord>(&wanted)?))
            };
            let known = match tokio::task::spawn_blocking(read).await {
                Ok(Ok(known)) => known,
                // A store that does not answer now may do so later.
                Ok(Err(_)) | Err(_) => {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            };
            let Some(known) = known else { return };
            let left = match known.expires_at {
                None => LOOK,
                Some(end) if end <= self.now() => return,
                // The clock may be set meanwhile.
                Some(end) => LOOK.min((end.get() - self.now().get()).try_into().unwrap_or_default()),
            };
            tokio::select! {
                () = cut.cancelled() => return,
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

fn subject(name: &str) -> String {
    format!("token/{name}")
}

fn shown(token: &ApiTokenRecord) -> Value {
    json!({ "role": token.role, "created_at": token.created_at, "expires_at": token.expires_at })
}

fn find(r: &Reader<'_>, name: &str) -> Result<Option<ApiTokenRecord>, ControlError> {
    let mut tokens = r.all::<ApiTokenRecord>()?.into_iter();
    Ok(tokens.find(|token| token.name == name))
}
