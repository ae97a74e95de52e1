//! The identity in use, and the only way to change it while the agent runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use decnet_pki::certificate::Leaf;
use decnet_pki::key::HostKey;
use decnet_pki::root::Root;
use decnet_pki::tls::TlsError;
use rustls::ClientConfig;
use tokio::sync::watch;

use super::{Identity, IdentityError, Stored, StoredPair};
use crate::admit::Audience;

/// Everybody who asks sees the newest identity.
///
/// Guarantees: what is seen here is on disk; of changes at the same time none undoes another.
#[derive(Debug)]
pub(crate) struct IdentityStore {
    state_dir: PathBuf,
    /// Held from reading the file to showing what became of it.
    changing: Mutex<()>,
    identity: watch::Sender<Arc<Identity>>,
    audience: watch::Sender<Arc<Audience>>,
    tls: watch::Sender<Arc<ClientConfig>>,
}

impl Stored {
    /// Replaces the key and the certificate; gives those of before.
    fn put_in_use(&mut self, pair: StoredPair) -> StoredPair {
        StoredPair {
            certificate: std::mem::replace(&mut self.certificate, pair.certificate),
            key: std::mem::replace(&mut self.key, pair.key),
        }
    }
}

impl IdentityStore {
    /// Over an identity that was read out of this folder.
    pub(crate) fn new(state_dir: PathBuf, identity: Identity) -> Result<Self, TlsError> {
        let tls = identity.client_config()?;
        Ok(Self {
            state_dir,
            changing: Mutex::default(),
            audience: watch::Sender::new(Arc::new(identity.audience())),
            tls: watch::Sender::new(tls),
            identity: watch::Sender::new(Arc::new(identity)),
        })
    }

    pub(crate) fn current(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.borrow())
    }

    /// Whom bundles must be for and whose signature counts.
    pub(crate) fn audience(&self) -> watch::Receiver<Arc<Audience>> {
        self.audience.subscribe()
    }

    /// How the agent API is spoken with.
    pub(crate) fn tls(&self) -> watch::Receiver<Arc<ClientConfig>> {
        self.tls.subscribe()
    }

    /// Believes a root that follows the one in use.
    pub(crate) fn follow(&self, root: &Root) -> Result<(), IdentityError> {
        self.change(|stored| {
            // An envelope's JSON is JSON.
            stored.trust_root = serde_json::from_slice(&root.envelope().to_json()).unwrap_or_default();
        })
    }

    /// The folder that the identity is kept in.
    pub(crate) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Every change of the identity.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Identity>> {
        self.identity.subscribe()
    }

    /// Takes a new key and its certificate into use. The pair of before is kept until [`IdentityStore::confirm`].
    pub(crate) fn adopt(&self, key: &HostKey, certificate: &Leaf) -> Result<(), IdentityError> {
        self.change(|stored| {
            let pair = StoredPair {
                certificate: certificate.chain_pem(),
                key: key.to_pkcs8_pem().to_string(),
            };
            stored.previous = Some(stored.put_in_use(pair));
        })
    }

    /// Takes another certificate for the present key into use.
    pub(crate) fn recertify(&self, certificate: &Leaf) -> Result<(), IdentityError> {
        self.change(|stored| stored.certificate = certificate.chain_pem())
    }

    /// The present key has worked: the one of before is forgotten.
    pub(crate) fn confirm(&self) -> Result<(), IdentityError> {
        self.change(|stored| stored.previous = None)
    }

    /// The present key does not work: goes on with the one of before, and keeps this one beside it, for it may be the
    /// master that is confused.
    pub(crate) fn fall_back(&self) -> Result<(), IdentityError> {
        self.change(|stored| {
            if let Some(previous) = stored.previous.take() {
                stored.previous = Some(stored.put_in_use(previous));
            }
        })
    }

    /// Writes a changed identity, then shows it. One that makes no sense changes nothing.
    fn change(&self, change: impl FnOnce(&mut Stored)) -> Result<(), IdentityError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stored = Stored::load(&self.state_dir)?;
        change(&mut stored);
        let identity = Identity::from_stored(&stored)?;
        let tls = identity.client_config().map_err(IdentityError::Tls)?;
        stored.write(&self.state_dir)?;
        self.audience.send_replace(Arc::new(identity.audience()));
        self.tls.send_replace(tls);
        self.identity.send_replace(Arc::new(identity));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use decnet_pki::key::HostKey;
    use decnet_pki::root::Root;

    use crate::testing::Signer;
    use crate::trust;

    /// Renewal and the trust root are followed by tasks of their own.
    #[test]
    fn a_trust_root_that_comes_with_a_new_key_does_not_undo_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut signer = Signer::new();
        let store = signer.identity(folder.path());
        let versions = 2..40;
        let roots: Vec<Root> = versions
            .clone()
            .map(|version| {
                signer.trust_root.version = version;
                trust::stored(&signer.trust_envelope()).unwrap()
            })
            .collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in versions {
                    let key = HostKey::generate().unwrap();
                    store.adopt(&key, &signer.certify(&key)).unwrap();
                    assert_eq!(store.current().key.digest(), key.digest());
                    store.confirm().unwrap();
                    assert!(!store.current().on_trial);
                }
            });
            for root in &roots {
                store.follow(root).unwrap();
                assert_eq!(store.current().root.version(), root.version());
            }
        });
    }
}
