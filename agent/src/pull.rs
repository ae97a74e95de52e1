//! The long poll: asks the master for a bundle newer than the accepted one, and hands what comes to
//! admission.
//!
//! Every answer also says which trust root is the newest. Those that are missing are fetched one after the other, and
//! checked, before a bundle is looked at that may be signed by a key of the last one. So it is with the policy.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use decnet_wire::limits;
use decnet_wire::policy;
use decnet_wire::trust::VERSION_HEADER;
use http::StatusCode;
use nix::errno::Errno;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admit::{Admission, Verdict};
use crate::backoff::Patience;
use crate::certificate::{Recovered, Recovery};
use crate::clock::SharedClock;
use crate::error::{error_chain, one_line};
use crate::identity::{Identity, IdentityStore};
use crate::ledger::LedgerError;
use crate::link::{self, Link, LinkError, Wait};
use crate::status::{Contact, Poll};
use crate::trust::{self, NextError, ROOTS_AT_ONCE};

/// How long a master may take beyond the wait that it was asked for.
const GRACE: Duration = Duration::from_secs(30);
/// How long the body of a bundle may take.
const BODY: Duration = Duration::from_secs(120);
/// How long a trust root or a policy may take.
const DOCUMENT: Wait = Wait {
    head: GRACE,
    body: BODY,
};
/// Under what trust roots are found, by version.
const TRUST_ROOT: &str = "/agent/v1/trust-root/";
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
    /// The order to leave, where the master lets this host in no more.
    order: Option<Bytes>,
    /// The version of the newest trust root that the master has.
    newest_root: Option<u64>,
    /// The version of the policy that it has for this host.
    policy: Option<u64>,
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
                Ok(Answer {
                    order: Some(order), ..
                }) => {
                    self.heard(Poll::Answered, None);
                    self.admission.admit_order(&order).await?;
                    self.patience.after_nothing()
                }
                Ok(answer) => {
                    self.heard(Poll::Answered, None);
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
                Err(error) if self.recovers(&error).await? => Duration::ZERO,
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
                    self.heard(blame(&error), Some(text));
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
    async fn recovers(&mut self, error: &LinkError) -> Result<bool, LedgerError> {
        Ok(match self.recovery.after(error).await {
            Ok(Recovered::Nothing) => false,
            Ok(Recovered::Changed) => {
                self.recoveries += 1;
                self.recoveries <= RECOVERIES_AT_ONCE
            }
            Ok(Recovered::Ordered(order)) => {
                self.admission.admit_order(&order).await?;
                false
            }
            Err(error) => {
                tracing::warn!("no way back to the master yet: {}", error_chain(&*error));
                false
            }
        })
    }

    async fn poll(&mut self) -> Result<Answer, LinkError> {
        let after = self.admission.generation();
        // The first one is answered at once: an updater waits for how it goes.
        let wait = match self.contact.borrow().poll {
            Poll::NotTried => Duration::ZERO,
            _ => *self.poll_wait.borrow(),
        };
        let uri = format!("/agent/v1/bundle?after={after}&wait={}", wait.as_secs());
        let request = link::get(&uri)?;
        let answer = self.link.send(&request, wait + GRACE).await?;
        let version = |header| {
            let version = answer.headers().get(header);
            version.and_then(|version| version.to_str().ok()?.parse().ok())
        };
        let (newest_root, policy) = (version(VERSION_HEADER), version(policy::VERSION_HEADER));
        if answer.status() == StatusCode::GONE {
            let order = self.link.read(answer, limits::ORDER, BODY).await?;
            return Ok(Answer {
                envelope: None,
                order: Some(order),
                newest_root: None,
                policy: None,
            });
        }
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
            order: None,
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
            let next = trust::fetch_next(&mut self.link, TRUST_ROOT, &known.root, DOCUMENT).await;
            match next {
                Ok(Some(root)) => {
                    if let Err(error) = self.identity.follow(&root) {
                        tracing::warn!("the newer trust root cannot be kept: {}", error_chain(&error));
                        return Ok(());
                    }
                    tracing::info!(version = root.version(), "trust root accepted");
                }
                Ok(None) => return Ok(()),
                Err(NextError::Refused { digest, source }) => {
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
        let request = link::get("/agent/v1/policy")?;
        let (_, body) = self
            .link
            .exchange(&request, &[StatusCode::OK], limits::POLICY, DOCUMENT)
            .await?;
        Ok(body)
    }

    fn heard(&self, poll: Poll, error: Option<String>) {
        let now = self.clock.now();
        self.contact.send_modify(|contact| {
            if error.is_none() {
                contact.last = Some(now);
            }
            contact.poll = poll;
            contact.error = error;
        });
    }
}

/// Whose fault a failed poll is: a master that is away or answers errors says nothing about this version.
fn blame(error: &LinkError) -> Poll {
    let own = match error {
        // What the sandbox of the unit forbids.
        LinkError::Connect { source, .. } => matches!(
            source.raw_os_error().map(Errno::from_raw),
            Some(Errno::EACCES | Errno::EPERM | Errno::EAFNOSUPPORT)
        ),
        LinkError::Tls { .. } => error.is_unknown_server(),
        LinkError::Name(_) | LinkError::Request(_) => true,
        _ => false,
    };
    if own { Poll::Failed } else { Poll::Away }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_master_that_is_away_or_answers_errors_is_not_this_versions_fault() {
        let to = || "master:8770".parse().unwrap();
        let connect = |errno: Errno| LinkError::Connect {
            to: to(),
            source: io::Error::from_raw_os_error(errno as i32),
        };
        let status = |status| LinkError::Status {
            to: to(),
            status,
            said: None,
        };
        for away in [
            connect(Errno::ECONNREFUSED),
            connect(Errno::EHOSTUNREACH),
            status(StatusCode::INTERNAL_SERVER_ERROR),
            status(StatusCode::FORBIDDEN),
            LinkError::Timeout {
                to: to(),
                after: Duration::from_secs(1),
            },
            LinkError::Tls {
                to: to(),
                source: io::Error::from(io::ErrorKind::UnexpectedEof),
            },
        ] {
            assert_eq!(blame(&away), Poll::Away, "{away}");
        }
        for own in [
            connect(Errno::EACCES),
            connect(Errno::EAFNOSUPPORT),
            LinkError::Name("?".to_owned()),
        ] {
            assert_eq!(blame(&own), Poll::Failed, "{own}");
        }
    }
}
