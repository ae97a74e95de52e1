//! The report: heartbeat, events from the outbox in sequence, and the observed state when it changed.
//!
//! Guarantees: an event leaves the ledger only when the master said that it has stored it. A lost answer
//! costs a resend under the same number.

use std::sync::Arc;
use std::time::Duration;

use decnet_wire::limits;
use decnet_wire::observed::Observed;
use decnet_wire::release::Progress;
use decnet_wire::report::{Accepted, Heartbeat, Report, ReportAnswer, SCHEMA};
use http::StatusCode;
use tokio::sync::watch;

use crate::admit::AdmittedBundle;
use crate::backoff::Patience;
use crate::clock::SharedClock;
use crate::error::error_chain;
use crate::ledger::{Ledger, LedgerError};
use crate::link::{self, Link, LinkError, Wait};
use crate::reconcile::Condition;
use crate::status::Contact;

/// What happens together is sent together.
const COALESCE: Duration = Duration::from_millis(20);
/// A reason that is another one waits for as long: while something is being done, one follows the other.
const REASON: Duration = Duration::from_secs(2);
/// Bytes of events in one report, so that the rest of it fits under [`limits::REPORT`] as well.
const EVENT_BYTES: usize = 4 * 1024 * 1024;
/// What a master may set the heartbeat to, in seconds.
const HEARTBEAT_RANGE: std::ops::RangeInclusive<u32> = 1..=3600;
/// What a master may set the wait of a long poll to, in seconds.
const POLL_RANGE: std::ops::RangeInclusive<u32> = 0..=600;
/// The longest over which renewals are spread, in seconds.
const RENEW_WITHIN_MAX_S: u32 = 24 * 3600;

/// Who takes reports: the master behind a link.
pub(crate) trait Post: Send {
    fn post(&mut self, report: &Report) -> impl Future<Output = Result<ReportAnswer, SendError>> + Send;
}

pub(crate) struct Reporter<P> {
    pub(crate) link: P,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) clock: SharedClock,
    pub(crate) bundles: watch::Receiver<Option<Arc<AdmittedBundle>>>,
    pub(crate) condition: watch::Receiver<Condition>,
    pub(crate) poll_wait: watch::Sender<Duration>,
    pub(crate) renew_within: watch::Sender<Duration>,
    pub(crate) contact: watch::Sender<Contact>,
    pub(crate) update: watch::Receiver<Option<Progress>>,
    pub(crate) patience: Patience,
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("the master was not reached")]
    Link(#[source] LinkError),
    #[error("the master's answer is not what this agent knows")]
    Answer(#[source] serde_json::Error),
}

impl Post for Link {
    async fn post(&mut self, report: &Report) -> Result<ReportAnswer, SendError> {
        let body = serde_json::to_vec(report).map_err(SendError::Answer)?;
        let request = link::post("/agent/v1/report", body).map_err(SendError::Link)?;
        let (_, body) = self
            .exchange(&request, &[StatusCode::OK], limits::REPORT_ANSWER, Wait::USUAL)
            .await
            .map_err(SendError::Link)?;
        serde_json::from_slice(&body).map_err(SendError::Answer)
    }
}

impl<P: Post> Reporter<P> {
    /// Runs for ever; ends only when the ledger fails.
    pub(crate) async fn run(mut self) -> Result<(), LedgerError> {
        // What the master has of the observed state.
        let mut theirs: Option<Arc<Observed>> = None;
        // Whether it said which events it has. Before that none is sent: a ledger that is an older copy would
        // give new events the numbers of old ones.
        let mut greeted = false;
        loop {
            let (mut report, condition) = self.compose(theirs.as_ref())?;
            if !greeted {
                report.events.clear();
            }
            let observed = &condition.observed;
            let sent = report.events.last().map(|event| event.seq);
            let full = report.observed.is_some();
            let heartbeat = match self.link.post(&report).await {
                Ok(answer) => {
                    self.patience.reset();
                    if full {
                        theirs.clone_from(observed);
                    }
                    if answer.resync {
                        theirs = None;
                    }
                    let heartbeat = self.obey(&answer);
                    let waiting = match sent {
                        Some(sent) => self.acknowledge(&answer, sent).await?,
                        None if !greeted => self.greet(&answer).await?,
                        None => false,
                    };
                    greeted = true;
                    // A master that asks again and again for the same is left alone until the next heartbeat.
                    if waiting || (answer.resync && !full && observed.is_some()) {
                        continue;
                    }
                    heartbeat
                }
                Err(error) => {
                    let pause = match &error {
                        SendError::Link(error) => self.patience.after(error),
                        SendError::Answer(_) => self.patience.after_nothing(),
                    };
                    let text = error_chain(&error);
                    tracing::warn!(pause_ms = pause.as_millis(), "no report was taken: {text}");
                    tokio::time::sleep(pause).await;
                    continue;
                }
            };
            drop(report);
            self.wait(&condition, heartbeat).await;
        }
    }

    /// The report, and the condition that the master knows once it took the report; what was observed under an
    /// older bundle is not in it.
    fn compose(&mut self, theirs: Option<&Arc<Observed>>) -> Result<(Report, Condition), LedgerError> {
        let batch = self.ledger.outbox(limits::EVENTS, EVENT_BYTES)?;
        let mut condition = self.condition.borrow_and_update().clone();
        let bundle = self.bundles.borrow_and_update().clone();
        let digest = bundle.as_ref().map(|bundle| bundle.digest());
        // The condition may still be about the bundle before.
        let current = condition.digest.as_ref() == digest;
        condition.observed = condition.observed_under(digest).cloned();
        let reason = if current {
            condition.reason.clone()
        } else {
            Some("the newest bundle was not looked at yet".to_owned())
        };
        let mut pending = Vec::new();
        if current && condition.observed.is_some() {
            pending = condition.pending_stacks(self.clock.now());
            pending.truncate(limits::PENDING);
        }
        let report = Report {
            schema: SCHEMA,
            heartbeat: Heartbeat {
                agent_version: crate::VERSION.to_owned(),
                sent_at: self.clock.now(),
                accepted: bundle.as_ref().map(|admitted| Accepted {
                    epoch: admitted.bundle().epoch,
                    generation: admitted.bundle().generation,
                    digest: admitted.digest().clone(),
                }),
                converged: current && condition.converged,
                reason,
                engine: condition.engine.clone(),
                pending,
                update: self.update.borrow_and_update().clone(),
            },
            observed: condition
                .observed
                .as_ref()
                .filter(|observed| theirs.is_none_or(|theirs| theirs != *observed))
                .cloned(),
            events: batch.events,
        };
        Ok((report, condition))
    }

    fn obey(&self, answer: &ReportAnswer) -> Duration {
        let clamp = |seconds: u32, range: &std::ops::RangeInclusive<u32>| {
            Duration::from_secs(seconds.clamp(*range.start(), *range.end()).into())
        };
        let poll = clamp(answer.poll_wait_s, &POLL_RANGE);
        self.poll_wait
            .send_if_modified(|known| std::mem::replace(known, poll) != poll);
        if let Some(seconds) = answer.renew_within_s {
            let within = Duration::from_secs(seconds.min(RENEW_WITHIN_MAX_S).into());
            self.renew_within.send_replace(within);
        }
        let now = self.clock.now();
        let ahead = now.get() - answer.time.get();
        self.contact.send_modify(|contact| {
            contact.last = Some(now);
            contact.clock_ahead_s = Some(ahead.whole_seconds());
        });
        clamp(answer.heartbeat_s, &HEARTBEAT_RANGE)
    }

    /// Goes on after what the master has. True when events are waiting.
    async fn greet(&self, answer: &ReportAnswer) -> Result<bool, LedgerError> {
        let (acked, first) = (answer.acked, self.ledger.first_number());
        if self.ledger.write(move |tx| tx.number_after(acked, first)).await? {
            tracing::warn!(
                acked,
                "the master knows more than this ledger: it is an older copy"
            );
        }
        Ok(self.ledger.outbox(1, 1)?.waiting > 0)
    }

    /// Forgets what the master has. True when more is waiting and the last batch went through.
    async fn acknowledge(&self, answer: &ReportAnswer, sent: u64) -> Result<bool, LedgerError> {
        let acked = answer.acked;
        self.ledger.write(move |tx| tx.acknowledge(acked, sent)).await?;
        Ok(acked >= sent && self.ledger.outbox(1, 1)?.waiting > 0)
    }

    /// Until the next heartbeat, until there is something to tell beyond `told`, or until the poll loses the
    /// master. What changed while the report was on its way was not told.
    async fn wait(&mut self, told: &Condition, heartbeat: Duration) {
        let mut condition = self.condition.clone();
        // Convergence is worth a report; what else changes in the observed state has time.
        let converged = async {
            let differs = |now: &Condition| now.digest != told.digest || now.converged != told.converged;
            if condition.wait_for(differs).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        // Why it does not converge is what somebody who looks wants to know.
        let mut reason = self.condition.clone();
        let reason = async {
            if reason.wait_for(|now| now.differs(told)).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(REASON).await;
        };
        // A master that went away may be back without its newest memory of this host: it is told again.
        let mut contact = self.contact.subscribe();
        let lost = async {
            let polls = contact.wait_for(|contact| contact.error.is_none()).await.is_ok();
            if !polls || contact.wait_for(|contact| contact.error.is_some()).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let mut update = self.update.clone();
        let updated = async {
            if update.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.ledger.outbox_grew().notified() => tokio::time::sleep(COALESCE).await,
            () = converged => tokio::time::sleep(COALESCE).await,
            () = reason => {}
            () = lost => {}
            () = updated => {}
            () = tokio::time::sleep(heartbeat) => {}
        }
    }
}
