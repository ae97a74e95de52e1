//! Renewal: a new key and a certificate for it, long before the present one ends.

use std::sync::Arc;
use std::time::Duration;

use decnet_pki::csr::{self, CsrError};
use decnet_pki::key::HostKey;
use decnet_wire::enrol::{LeafResponse, RenewRequest, SCHEMA};
use decnet_wire::ids::Timestamp;
use decnet_wire::limits;
use http::StatusCode;
use rand::RngExt as _;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, watch};

use super::{CheckError, check};
use crate::backoff::Patience;
use crate::clock::SharedClock;
use crate::error::error_chain;
use crate::identity::{Identity, IdentityError, IdentityStore, PendingKey};
use crate::link::{self, Link, LinkError, Wait};

/// The longest until the clock is looked at again: it may be set, and timers stand still while a machine sleeps.
const LOOK: Duration = Duration::from_secs(3600);
/// Certificates are renewed after half of their time and up to a tenth more: hosts that enrolled together do not come
/// together.
const SPREAD: f64 = 0.1;

/// Keeps the certificate new.
pub(crate) struct Renewal {
    pub(crate) link: Link,
    pub(crate) identity: Arc<IdentityStore>,
    pub(crate) clock: SharedClock,
    /// Over how long hosts spread their renewals when a new CA is there; the master says so.
    pub(crate) within: watch::Receiver<Duration>,
    /// Somebody on this host wants it now.
    pub(crate) asked: Arc<Notify>,
    pub(crate) patience: Patience,
    pub(crate) random: SmallRng,
}

/// Why there is no new certificate yet. The present one stays in use.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("the new key or the identity cannot be kept")]
    Identity(#[source] IdentityError),
    #[error("the certificate request cannot be made")]
    Csr(#[source] CsrError),
    #[error("the master cannot be asked")]
    Ask(#[source] LinkError),
    #[error("the request or the answer is not what this agent knows")]
    Document(#[source] serde_json::Error),
    #[error("the answer's certificate is not believed")]
    Check(#[source] CheckError),
}

impl Renewal {
    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        // Whoever asks while the present key is on trial, or when the master cannot be reached, is not forgotten.
        let mut wanted = false;
        loop {
            self.until_due(&mut wanted).await;
            match self.renew().await {
                Ok(()) => {
                    wanted = false;
                    self.patience.reset();
                }
                Err(error) => {
                    let pause = match &error {
                        RenewError::Ask(error) => self.patience.after(error),
                        _ => self.patience.after_nothing(),
                    };
                    tracing::warn!(
                        pause_ms = pause.as_millis(),
                        "no new certificate: {}",
                        error_chain(&error)
                    );
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Waits until the certificate is to be renewed, or somebody has `wanted` it and it can be done.
    async fn until_due(&mut self, wanted: &mut bool) {
        let mut identity = self.identity.watch();
        let mut newest_ca: Option<tokio::time::Instant> = None;
        loop {
            let current = Arc::clone(&identity.borrow_and_update());
            // One at a time; and who has lost his certificate already cannot ask here.
            let able = !current.on_trial && current.leaf.not_after() > self.clock.now().get();
            let due = if !able {
                LOOK
            } else if *wanted {
                return;
            } else if is_of_the_newest(&current) {
                newest_ca = None;
                until(due_at(&current), self.clock.now())
            } else {
                let within = *self.within.borrow();
                let at = *newest_ca.get_or_insert_with(|| {
                    tokio::time::Instant::now() + within.mul_f64(self.random.random::<f64>())
                });
                at.saturating_duration_since(tokio::time::Instant::now())
            };
            if due.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(due.min(LOOK)) => {}
                changed = identity.changed() => if changed.is_err() { std::future::pending::<()>().await },
                () = self.asked.notified() => *wanted = true,
            }
        }
    }

    async fn renew(&mut self) -> Result<(), RenewError> {
        let current = self.identity.current();
        let state_dir = self.identity.state_dir().to_owned();
        let key = PendingKey::Renewal
            .get(&state_dir)
            .map_err(RenewError::Identity)?;
        let response = self.ask(&key).await?;
        let leaf = check(
            &response.certificate,
            &key,
            current.host,
            &current.root,
            self.clock.now(),
        )
        .map_err(RenewError::Check)?;
        self.identity.adopt(&key, &leaf).map_err(RenewError::Identity)?;
        tracing::info!(until = %Timestamp::new(leaf.not_after()), "this host has a new key and certificate");
        PendingKey::Renewal
            .forget(&state_dir)
            .map_err(RenewError::Identity)
    }

    async fn ask(&mut self, key: &HostKey) -> Result<LeafResponse, RenewError> {
        let request = RenewRequest {
            schema: SCHEMA,
            csr: csr::create(key).map_err(RenewError::Csr)?,
        };
        let body = serde_json::to_vec(&request).map_err(RenewError::Document)?;
        let request = link::post("/agent/v1/renew", body).map_err(RenewError::Ask)?;
        let (_, body) = self
            .link
            .exchange(&request, &[StatusCode::OK], limits::ENROLMENT, Wait::USUAL)
            .await
            .map_err(RenewError::Ask)?;
        serde_json::from_slice(&body).map_err(RenewError::Document)
    }
}

/// Whether the newest CA that the trust root lists has issued the certificate.
fn is_of_the_newest(identity: &Identity) -> bool {
    let newest = identity.root.authorities().first();
    newest.is_none_or(|newest| identity.leaf.is_of(newest))
}

/// Half of the certificate's time, and of the next tenth as much as the key says: each host has another moment, and
/// keeps it through restarts.
fn due_at(identity: &Identity) -> Timestamp {
    let (begin, end) = (identity.leaf.not_before(), identity.leaf.not_after());
    let drawn = f64::from(identity.key.digest().sha256().as_bytes()[0]) / 256.0;
    Timestamp::new(begin + (end - begin) * (0.5 + SPREAD * drawn))
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    // What lies in the past is due.
    Duration::try_from(at.get() - now.get()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use rand::SeedableRng as _;

    use super::*;
    use crate::testing::{FixedClock, Signer, now};

    #[tokio::test]
    async fn a_wish_while_the_key_is_on_trial_is_done_when_the_key_has_worked() {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::new();
        let identity = Arc::new(signer.identity(folder.path()));
        let key = HostKey::generate().unwrap();
        identity.adopt(&key, &signer.certify(&key)).unwrap();
        let asked = Arc::new(Notify::new());
        let mut renewal = Renewal {
            link: Link::new("127.0.0.1:1".parse().unwrap(), identity.tls()).unwrap(),
            identity: Arc::clone(&identity),
            clock: FixedClock::at(now()),
            within: watch::Sender::new(Duration::ZERO).subscribe(),
            asked: Arc::clone(&asked),
            patience: Patience::new(),
            random: SmallRng::seed_from_u64(1),
        };
        asked.notify_one();
        let mut wanted = false;
        assert_eq!(renewal.until_due(&mut wanted).now_or_never(), None);
        identity.confirm().unwrap();
        assert_eq!(renewal.until_due(&mut wanted).now_or_never(), Some(()));
    }
}
