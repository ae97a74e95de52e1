//! The identity in use, and the only way to change it while the agent runs.

use std::path::PathBuf;
use std::sync::Arc;

use decnet_pki::root::Root;
use decnet_pki::tls::TlsError;
use rustls::ClientConfig;
use tokio::sync::watch;

use super::{Identity, IdentityError, Stored};
use crate::admit::Audience;

/// Everybody who asks sees the newest identity.
///
/// Guarantees: what is seen here is on disk.
#[derive(Debug)]
pub(crate) struct IdentityStore {
    state_dir: PathBuf,
    identity: watch::Sender<Arc<Identity>>,
    audience: watch::Sender<Arc<Audience>>,
    tls: watch::Sender<Arc<ClientConfig>>,
}

impl IdentityStore {
    /// Over an identity that was read out of this folder.
    pub(crate) fn new(state_dir: PathBuf, identity: Identity) -> Result<Self, TlsError> {
        let tls = identity.client_config()?;
        Ok(Self {
            state_dir,
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

    /// Writes a changed identity, then shows it. One that makes no sense changes nothing.
    fn change(&self, change: impl FnOnce(&mut Stored)) -> Result<(), IdentityError> {
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
