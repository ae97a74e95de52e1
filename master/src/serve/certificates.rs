//! The listeners' own certificates: made at the start, and anew while they serve when the trust root changes or half of
//! their time is over.

use std::sync::Arc;
use std::time::Duration;

use decnet_pki::ServerName;
use decnet_pki::ca::{CaError, CertificateAuthority};
use decnet_pki::certificate::CaCertificate;
use decnet_pki::tls::{self, TlsError};
use rustls::ServerConfig;
use tokio::sync::watch;

use crate::control::Control;
use crate::keys::MasterKeys;
use crate::text::chain;

/// How long the listeners' own certificates are valid: what browsers take (CA/Browser Forum, Baseline Requirements
/// §6.3.2).
const LIFETIME: time::Duration = time::Duration::days(398);
/// How long until one that could not be made is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// The longest until the clock is looked at again: it may be set, and timers stand still while a machine sleeps.
const LOOK: Duration = Duration::from_secs(60);

/// What listeners take for each new connection.
pub(super) type Tls = watch::Receiver<Arc<ServerConfig>>;

/// A certificate for the listeners was not made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("the listeners' certificate was not made")]
    Certificate(#[source] CaError),
    #[error("TLS is not to be had")]
    Tls(#[source] TlsError),
}

/// The listeners' TLS, kept up to date by [`Certificates::run`].
#[derive(Debug)]
pub(super) struct Certificates {
    names: Vec<ServerName<'static>>,
    keys: watch::Receiver<Arc<MasterKeys>>,
    agents: watch::Sender<Arc<ServerConfig>>,
    public: watch::Sender<Arc<ServerConfig>>,
    made_at: time::OffsetDateTime,
}

struct Made {
    agents: Arc<ServerConfig>,
    public: Arc<ServerConfig>,
}

impl Certificates {
    /// Makes the first ones, for these names and addresses.
    pub(super) fn new(control: &Control, names: Vec<ServerName<'static>>) -> Result<Self, IssueError> {
        let mut keys = control.watch_keys();
        let now = time::OffsetDateTime::now_utc();
        let Made { agents, public } = make(&keys.borrow_and_update().clone(), &names, now)?;
        Ok(Self {
            names,
            keys,
            agents: watch::Sender::new(agents),
            public: watch::Sender::new(public),
            made_at: now,
        })
    }

    /// For the agent API.
    pub(super) fn agents(&self) -> Tls {
        self.agents.subscribe()
    }

    /// For everybody else.
    pub(super) fn public(&self) -> Tls {
        self.public.subscribe()
    }

    /// Runs until the keys' owner is gone.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                changed = self.keys.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {
                    let age = time::OffsetDateTime::now_utc() - self.made_at;
                    if age.abs() < LIFETIME / 2 {
                        continue;
                    }
                }
            }
            while let Err(error) = self.renew() {
                tracing::error!(error = %chain(&error), "the listeners keep their certificates");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    fn renew(&mut self) -> Result<(), IssueError> {
        let now = time::OffsetDateTime::now_utc();
        let keys = self.keys.borrow_and_update().clone();
        let Made { agents, public } = make(&keys, &self.names, now)?;
        self.agents.send_replace(agents);
        self.public.send_replace(public);
        self.made_at = now;
        tracing::info!(ca = %keys.serving().pin(), "the listeners have new certificates");
        Ok(())
    }
}

fn make(keys: &MasterKeys, names: &[ServerName<'_>], now: time::OffsetDateTime) -> Result<Made, IssueError> {
    let (leaf, key) = keys
        .serving()
        .issue_server(names, now, LIFETIME)
        .map_err(IssueError::Certificate)?;
    let clients: Vec<CaCertificate> = keys
        .authorities()
        .map(CertificateAuthority::certificate)
        .cloned()
        .collect();
    Ok(Made {
        agents: tls::agent_server_config(&leaf, &key, &clients).map_err(IssueError::Tls)?,
        public: tls::server_config(&leaf, &key).map_err(IssueError::Tls)?,
    })
}
