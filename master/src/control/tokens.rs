//! Operators' tokens. Only their hashes are stored.

use decnet_pki::secret::Secret;

use super::{Control, ControlError};
use crate::records::{ApiTokenRecord, Role};
use crate::store::Db;
use decnet_wire::ids::Timestamp;

/// How the text of an operator's token begins, so that scanners for leaked secrets can tell it.
const PREFIX: &str = "decnet_";

/// Makes a token of a role and stores its hash. The text is shown once.
///
/// # Errors
/// No randomness, or the store's.
pub fn create(db: &Db, name: &str, role: Role, now: Timestamp) -> Result<String, ControlError> {
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
    };
    db.update(|w| w.put(&hash, &record).map_err(ControlError::from))?;
    Ok(format!("{PREFIX}{}", secret.reveal().as_str()))
}

impl Control {
    /// The role that a token gives, if it is known.
    ///
    /// # Errors
    /// The store's.
    pub fn role(&self, token: &str) -> Result<Option<Role>, ControlError> {
        let Some(Ok(secret)) = token.strip_prefix(PREFIX).map(str::parse::<Secret>) else {
            return Ok(None);
        };
        let hash = secret.hash().to_string();
        let record = self
            .db
            .read(|r| Ok::<_, ControlError>(r.get::<ApiTokenRecord>(&hash)?))?;
        Ok(record.map(|record| record.role))
    }

    /// Makes a token of a role.
    ///
    /// # Errors
    /// No randomness, or the store's.
    pub fn create_token(&self, name: &str, role: Role) -> Result<String, ControlError> {
        create(&self.db, name, role, self.now())
    }
}
