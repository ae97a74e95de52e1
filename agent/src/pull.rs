//! The long poll: asks the master for a bundle newer than the accepted one, and hands what comes to
//! admission.
//!
//! Every answer also says which trust root is the newest. Those that are missing are fetched one after the other, and
//! checked, before a bundle is looked at that may be signed by a key of the last one. So it is with the policy.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use decnet_pki::root::Root;
use decnet_wire::ids::Digest;
use decnet_wire::limits;
use decnet_wire::policy;
use decnet_wire::trust::VERSION_HEADER;
use http::{Request, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admit::{Admission, Verdict};
use crate::backoff::Patience;
use crate::certificate::Recovery;
use crate::clock::SharedClock;
use crate::error::{error_chain, one_line};
use crate::identity::{Identity, IdentityError, IdentityStore};
use crate::ledger::{LedgerError, digest_of};
use crate::link::{Link, LinkError};
use crate::status::Contact;
use crate::trust::{self, TrustError};

/// How long a master may take beyond the wait that it was asked for.
const GRACE: Duration = Duration::from_secs(30);
/// How long the body of a bundle may take.
const BODY: Duration = Duration::from_secs(120);
/// Trust roots that are followed for one answer: a bound on what a master can make a host do at once. The rest comes
/// with the next answer.
const ROOTS_AT_ONCE: usize = 64;
/// Two polls begin no closer to each other, however quickly the master has nothing to say.
const PACE: Duration = Duration::from_secs(1);
/// How often in a row a way back is tried at once: the next root, then a certificate, and the other key.
const RECOVERIES_AT_ONCE: u32 = 4;

pub(crate) struct Pull {
    pub(crate) link: Link,
    pub(crate) identity: Arc<IdentityStore>,
    pub(crate) admission: Admission,
    pub(crate) clock: SharedClock,
    /// How long a poll may wait; the master says so with every answer to a report.
    pub(crate) poll_wait: watch::Receiver<Duration>,
    pub(crate) contact: watch::Sender<Contact>,
    pub(crate) patience: Patience,
    pub(crate) recovery: Recovery,
    /// How often it has changed something since the master last answered.
    pub(crate) recoveries: u32,
}

/// What a poll brought.
#[derive(Debug)]
struct Answer {
    /// None when there is nothing newer.
    envelope: Option<Bytes>,
    /// The version of the newest trust root that the master has.
    newest_root: Option<u64>,
    /// The version of the policy that it has for this host.
    policy: Option<u64>,
}

/// Why the next trust root is not believed yet.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("it cannot be fetched")]
    Fetch(#[source] LinkError),
    #[error("it is refused")]
    Refused {
        digest: Digest,
        #[source]
        source: TrustError,
    },
    #[error("it cannot be kept")]
    Keep(#[source] IdentityError),
}

impl Pull {
    /// Runs for ever; ends only when the ledger fails.
    pub(crate) async fn run(mut self) -> Result<(), LedgerError> {
        loop {
            let begun = Instant::now();
            // A poll that was begun with another key or root would be answered for that one.
            let mut changed = self.identity.watch();
            let identity = Arc::clone(&changed.borrow_and_update());
            let outcome = tokio::select! {
                outcome = self.poll() => outcome,
                _ = changed.changed() => continue,
            };
            let pause = match outcome {
                Ok(answer) => {
                    self.heard(None);
                    self.works(&identity);
                    self.follow(answer.newest_root).await?;
                    self.follow_policy(answer.policy).await?;
                    match answer.envelope {
                        None => {
                            self.patience.reset();
                            PACE.saturating_sub(begun.elapsed())
                        }
                        Some(envelope) => match self.admission.admit(envelope.into()).await? {
                            Verdict::Accepted => {
                                self.patience.reset();
                                Duration::ZERO
                            }
                            // The master would send the same again at once.
                            Verdict::NoNews | Verdict::Refused => self.patience.after_nothing(),
                        },
                    }
                }
                Err(error) if self.recovers(&error).await => Duration::ZERO,
                Err(error) => {
                    let text = error_chain(&error);
                    let pause = self.patience.after(&error);
                    if matches!(error, LinkError::TooLarge { .. }) {
                        self.admission.refuse_endless(&one_line(&text)).await?;
                    } else if error.is_refusal() {
                        tracing::error!(
                            "the master does not let this host in: {text}; if the host was removed there, enrol it again"
                        );
                    } else {
                        tracing::warn!(pause_ms = pause.as_millis(), "no bundle from the master: {text}");
                    }
                    self.heard(Some(text));
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The master has answered to this identity: a new key has worked.
    fn works(&mut self, identity: &Identity) {
        self.recoveries = 0;
        if identity.on_trial
            && let Err(error) = self.identity.confirm()
        {
            tracing::warn!("the key of before is kept: {}", error_chain(&error));
        }
    }

    /// Whether there was something to be done about an error, so that it is worth another try at once.
    async fn recovers(&mut self, error: &LinkError) -> bool {
        match self.recovery.after(error).await {
            Ok(changed) => {
                self.recoveries += u32::from(changed);
                changed && self.recoveries <= RECOVERIES_AT_ONCE
            }
            Err(error) => {
                tracing::warn!("no way back to the master yet: {}", error_chain(&*error));
                false
            }
        }
    }

    async fn poll(&mut self) -> Result<Answer, LinkError> {
        let after = self.admission.generation();
        let wait = *self.poll_wait.borrow();
        let uri = format!("/agent/v1/bundle?after={after}&wait={}", wait.as_secs());
        let request = Request::builder()
            .uri(uri)
            .body(Bytes::new())
            .map_err(LinkError::Request)?;
        let answer = self.link.send(&request, wait + GRACE).await?;
        let version = |header| {
            let version = answer.headers().get(header);
            version.and_then(|version| version.to_str().ok()?.parse().ok())
        };
        let (newest_root, policy) = (version(VERSION_HEADER), version(policy::VERSION_HEADER));
        let envelope = match answer.status() {
            StatusCode::NO_CONTENT => {
                self.link.read(answer, 0, GRACE).await?;
                None
            }
            StatusCode::OK => Some(self.link.read(answer, limits::BUNDLE_ENVELOPE, BODY).await?),
            _ => return Err(self.link.unexpected(answer).await),
        };
        Ok(Answer {
            envelope,
            newest_root,
            policy,
        })
    }

    /// Fetches and believes every trust root up to `newest` (TUF §5.3.3 to §5.3.9). What does not work now is tried
    /// again with the next answer.
    async fn follow(&mut self, newest: Option<u64>) -> Result<(), LedgerError> {
        for _ in 0..ROOTS_AT_ONCE {
            let known = self.identity.current();
            if newest.is_none_or(|newest| newest <= known.root.version()) {
                return Ok(());
            }
            match self.next_root(&known.root).await {
                Ok(Some(version)) => tracing::info!(version, "trust root accepted"),
                Ok(None) => return Ok(()),
                Err(FollowError::Refused { digest, source }) => {
                    let detail = one_line(&error_chain(&source));
                    return self.admission.refuse_root(&digest, &detail).await;
                }
                Err(error) => {
                    tracing::warn!("no newer trust root: {}", error_chain(&error));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The version of the next root, once it is kept; none when the master has none.
    async fn next_root(&mut self, known: &Root) -> Result<Option<u64>, FollowError> {
        let request = Request::builder()
            .uri(format!(
                "/agent/v1/trust-root/{}",
                known.version().saturating_add(1)
            ))
            .body(Bytes::new())
            .map_err(|error| FollowError::Fetch(LinkError::Request(error)))?;
        let answer = self
            .link
            .send(&request, GRACE)
            .await
            .map_err(FollowError::Fetch)?;
        let status = answer.status();
        if status != StatusCode::OK && status != StatusCode::NOT_FOUND {
            return Err(FollowError::Fetch(self.link.unexpected(answer).await));
        }
        let body = self
            .link
            .read(answer, limits::ENROLMENT, BODY)
            .await
            .map_err(FollowError::Fetch)?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let root = trust::next(known, &body).map_err(|source| FollowError::Refused {
            digest: digest_of(&body),
            source,
        })?;
        self.identity.follow(&root).map_err(FollowError::Keep)?;
        Ok(Some(root.version()))
    }

    /// Fetches a newer policy and has it decided about. What does not work now is tried again with the next answer.
    async fn follow_policy(&mut self, newest: Option<u64>) -> Result<(), LedgerError> {
        if newest.is_none_or(|newest| newest <= self.admission.policy_version()) {
            return Ok(());
        }
        match self.fetch_policy().await {
            Ok(envelope) => self.admission.admit_policy(&envelope).await,
            Err(error) => {
                tracing::warn!("no newer policy: {}", error_chain(&error));
                Ok(())
            }
        }
    }

    async fn fetch_policy(&mut self) -> Result<Bytes, LinkError> {
        let request = Request::builder()
            .uri("/agent/v1/policy")
            .body(Bytes::new())
            .map_err(LinkError::Request)?;
        let answer = self.link.send(&request, GRACE).await?;
        match answer.status() {
            StatusCode::OK => self.link.read(answer, limits::POLICY, BODY).await,
            _ => Err(self.link.unexpected(answer).await),
        }
    }

    fn heard(&self, error: Option<String>) {
        let now = self.clock.now();
        self.contact.send_modify(|contact| {
            if error.is_none() {
                contact.last = Some(now);
            }
            contact.error = error;
        });
    }
}
