//! The trust root: drafting the next one, and taking it once it is signed.
//!
//! The master drafts and never signs: it has no operator's key in its hands. Whoever has one signs the draft, on this
//! machine or on another, and brings it back.

use std::sync::{Arc, PoisonError};

use decnet_pki::key::PublicKey;
use decnet_pki::root::Root;
use decnet_wire::ids::Timestamp;
use decnet_wire::trust::TrustRoot;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Control, ControlError};
use crate::audit::{Action, Actor, Change, StoredEntry};
use crate::keys::{KeysError, MasterKeys, ONLINE_KEY_LIFETIME};

/// What is to be different in the next trust root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootChange {
    /// A new online key, which may sign for a year from now.
    pub online: bool,
    /// These operators, of whom so many must sign from then on.
    pub operators: Option<(Vec<PublicKey>, u32)>,
    /// A new CA, which issues hosts' certificates from then on. Those of before are still believed.
    pub authority: bool,
    /// No CA but the newest is believed any more.
    pub retire: bool,
    /// Hosts take no bundle before they hold the newest policy that names every host.
    pub policy: bool,
    /// A new epoch: every bundle of before is refused, whatever its number.
    pub epoch: bool,
}

impl Control {
    /// The master's keys as they are now.
    #[must_use]
    pub fn keys(&self) -> Arc<MasterKeys> {
        Arc::clone(&self.keys.borrow())
    }

    /// The master's keys, and every change of them.
    #[must_use]
    pub fn watch_keys(&self) -> watch::Receiver<Arc<MasterKeys>> {
        self.keys.subscribe()
    }

    /// The trust root that would follow, for its operators to sign.
    ///
    /// # Errors
    /// Nothing would change (422), or the new key cannot be kept.
    pub fn draft_root(&self, change: &RootChange) -> Result<TrustRoot, ControlError> {
        if *change == RootChange::default() {
            return Err(ControlError::Invalid(
                "nothing would change in the trust root".to_owned(),
            ));
        }
        let keys = self.keys();
        let mut document = keys.root.document().clone();
        document.version = document.version.saturating_add(1);
        if change.online {
            document.online_key = keys.next_online_key().map_err(failed)?.to_string();
            document.online_key_expires_at = Timestamp::new(self.now().get() + ONLINE_KEY_LIFETIME);
        }
        if let Some((operators, threshold)) = &change.operators {
            document.operator_keys = operators.iter().map(ToString::to_string).collect();
            document.threshold = *threshold;
        }
        if change.retire {
            if document.ca_certificates.len() < 2 {
                return Err(ControlError::Invalid(
                    "there is no CA but the newest: nothing is to be retired".to_owned(),
                ));
            }
            document.ca_certificates.truncate(1);
        }
        if change.authority {
            let next = keys.next_authority(self.now()).map_err(failed)?;
            document.ca_certificates.insert(0, next.pem());
        }
        if change.policy {
            let newest = self.fleet_wide_policy().ok_or_else(|| {
                ControlError::Invalid(
                    "no policy names every host: sign one without hosts: decnet policy sign FILE".to_owned(),
                )
            })?;
            document.policy = Some(newest);
        }
        if change.epoch {
            document.epoch = document.epoch.saturating_add(1);
        }
        Ok(document)
    }

    /// Takes a signed trust root, and signs every host's bundle anew by what it says.
    ///
    /// # Errors
    /// It does not follow the one that counts, or names keys that this master does not have (422).
    pub fn follow_root(&self, by: &Actor, envelope: &[u8]) -> Result<Arc<MasterKeys>, ControlError> {
        let keys = {
            // One at a time: the files on disk are changed here.
            let _following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
            let before = self.keys();
            // The root is a file and its entry is not: one that was written without the other is told of at the next
            // start, by [`Control::note_root`].
            let keys = self.db.change(by, self.now(), |_| {
                let next = before.follow(envelope).map_err(failed)?;
                let change = Change::new(Action::TrustRotate, SUBJECT)
                    .before(shown(&before.root))
                    .after(shown(&next.root));
                Ok::<_, ControlError>(change.done(Arc::new(next)))
            })?;
            self.keys.send_replace(Arc::clone(&keys));
            keys
        };
        self.forget_lists();
        self.republish_outdated()?;
        Ok(keys)
    }

    /// Notes the trust root that is there when the audit log knows an older one, or none: this master ended between the
    /// root and its entry, or somebody put the file there.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn note_root(&self) -> Result<(), ControlError> {
        let keys = self.keys();
        let mut known = None;
        self.db.read(|r| {
            r.newest::<StoredEntry>(|StoredEntry(entry)| {
                known = entry["after"]["trust_root"].as_u64();
                known.is_none()
            })
        })?;
        if known == Some(keys.root.version()) {
            return Ok(());
        }
        self.db.change(&Actor::master(), self.now(), |_| {
            Ok(Change::new(Action::TrustRotate, SUBJECT)
                .before(json!({ "trust_root": known }))
                .after(shown(&keys.root))
                .done(()))
        })
    }

    /// How long the online key may still sign.
    #[must_use]
    pub fn online_key_left(&self) -> time::Duration {
        self.keys().root.online_key_expires_at().get() - self.now().get()
    }

    /// The signed trust root of a version, as agents get it; none when there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn root_document(&self, version: u64) -> Result<Option<Vec<u8>>, ControlError> {
        self.keys().root_document(version).map_err(failed)
    }
}

/// What the audit log calls it.
const SUBJECT: &str = "trust-root";

fn shown(root: &Root) -> Value {
    let pins = root
        .authorities()
        .iter()
        .map(|authority| authority.pin().to_string());
    let document = root.document();
    json!({
        "trust_root": root.version(),
        "epoch": root.epoch(),
        "threshold": document.threshold,
        "operator_keys": document.operator_keys,
        "online_key": document.online_key,
        "online_key_expires_at": document.online_key_expires_at,
        "authorities": pins.collect::<Vec<_>>(),
    })
}

fn failed(error: KeysError) -> ControlError {
    match error {
        KeysError::Parse(_)
        | KeysError::Root(_)
        | KeysError::ForeignOnlineKey { .. }
        | KeysError::ForeignAuthority { .. } => ControlError::Invalid(crate::text::chain(&error)),
        _ => ControlError::Sign {
            what: "the trust root",
            source: error.into(),
        },
    }
}
