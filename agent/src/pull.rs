//! The long poll: asks the master for a bundle newer than the accepted one, and hands what comes to
//! admission.

use std::time::Duration;

use bytes::Bytes;
use decnet_wire::limits;
use http::{Request, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admit::{Admission, Verdict};
use crate::backoff::Patience;
use crate::clock::SharedClock;
use crate::error::error_chain;
use crate::ledger::LedgerError;
use crate::link::{Link, LinkError};
use crate::status::Contact;

/// How long a master may take beyond the wait that it was asked for.
const GRACE: Duration = Duration::from_secs(30);
/// How long the body of a bundle may take.
const BODY: Duration = Duration::from_secs(120);
/// Two polls begin no closer to each other, however quickly the master has nothing to say.
const PACE: Duration = Duration::from_secs(1);

pub(crate) struct Pull {
    pub(crate) link: Link,
    pub(crate) admission: Admission,
    pub(crate) clock: SharedClock,
    /// How long a poll may wait; the master says so with every answer to a report.
    pub(crate) poll_wait: watch::Receiver<Duration>,
    pub(crate) contact: watch::Sender<Contact>,
    pub(crate) patience: Patience,
}

impl Pull {
    /// Runs for ever; ends only when the ledger fails.
    pub(crate) async fn run(mut self) -> Result<(), LedgerError> {
        loop {
            let begun = Instant::now();
            let pause = match self.poll().await {
                Ok(answer) => {
                    self.heard(None);
                    match answer {
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
                Err(error) => {
                    let text = error_chain(&error);
                    let pause = self.patience.after(&error);
                    if error.is_refusal() {
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

    /// One poll; none when there is nothing newer.
    async fn poll(&mut self) -> Result<Option<Bytes>, LinkError> {
        let after = self.admission.generation();
        let wait = *self.poll_wait.borrow();
        let uri = format!("/agent/v1/bundle?after={after}&wait={}", wait.as_secs());
        let request = Request::builder()
            .uri(uri)
            .body(Bytes::new())
            .map_err(LinkError::Request)?;
        let answer = self.link.send(&request, wait + GRACE).await?;
        match answer.status() {
            StatusCode::NO_CONTENT => {
                self.link.read(answer, 0, GRACE).await?;
                Ok(None)
            }
            StatusCode::OK => self
                .link
                .read(answer, limits::BUNDLE_ENVELOPE, BODY)
                .await
                .map(Some),
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
