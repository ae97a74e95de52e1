//! The agent's part of a decommission: everything that runs here goes, and then the reaper is started, which ends this
//! agent. Nothing is given up: what does not work now is tried again, and after a restart it begins anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use decnet_pki::order::SignedDecommission;
use tokio::sync::watch;

use super::clearance::{ClearanceError, Removed, clear};
use super::launch::{LaunchError, launch};
use super::work::{Job, Phase, Work, WorkError};
use crate::backoff::{Backoff, seeded_by_the_system};
use crate::config::{Config, HostPort};
use crate::error::error_chain;
use crate::identity::IdentityStore;
use crate::ledger::{Ledger, LedgerError};
use crate::reconcile::Condition;
use crate::supervisor::Supervisor;

/// The longest that one try may take.
const TRY: Duration = Duration::from_secs(600);
/// How often the service manager hears that this is alive.
const BEAT: Duration = Duration::from_secs(30);
/// How long the reaper has to end this agent before it is started again.
const ENDED: Duration = Duration::from_secs(60);

pub(crate) struct Leave {
    pub(crate) config: Config,
    pub(crate) identity: Arc<IdentityStore>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) condition: watch::Sender<Condition>,
    pub(crate) supervisor: Supervisor,
    /// Where the enrolment listener is.
    pub(crate) enrol_at: Option<HostPort>,
}

/// Why this host has not left yet.
#[derive(Debug, thiserror::Error)]
enum LeaveError {
    #[error("not everything is removed from the Docker Engine")]
    Engine(#[from] ClearanceError),
    #[error("the reaper cannot be prepared")]
    Work(#[from] WorkError),
    #[error("the reaper does not start")]
    Launch(#[from] LaunchError),
    #[error("the ledger cannot be read")]
    Ledger(#[from] LedgerError),
    #[error("it took longer than {} s", TRY.as_secs())]
    Slow,
}

impl Leave {
    /// Runs until the reaper ends this process.
    pub(crate) async fn run(self, order: &SignedDecommission) {
        let mut backoff = Backoff::for_the_engine(seeded_by_the_system());
        let removed = Removed::default();
        loop {
            self.say("this host was ordered to leave the fleet: what runs here is removed");
            let outcome = self
                .alive_during(async {
                    let leaving = tokio::time::timeout(TRY, self.leave(order, &removed)).await;
                    leaving.unwrap_or(Err(LeaveError::Slow))
                })
                .await;
            let pause = match outcome {
                Ok(()) => {
                    self.say("this host was ordered to leave the fleet: the reaper removes the agent");
                    backoff.reset();
                    ENDED
                }
                Err(error) => {
                    let text = error_chain(&error);
                    tracing::warn!("this host has not left yet: {text}");
                    self.say(&format!(
                        "this host was ordered to leave the fleet, and cannot yet: {text}"
                    ));
                    backoff.next()
                }
            };
            self.alive_during(tokio::time::sleep(pause)).await;
        }
    }

    async fn leave(&self, order: &SignedDecommission, removed: &Removed) -> Result<(), LeaveError> {
        let identity = self.identity.current();
        let images = self.ledger.fetched()?.into_keys().collect();
        clear(&self.config.docker_socket, identity.host, &images, removed).await?;
        let envelope = serde_json::from_slice(&order.envelope().to_json()).unwrap_or_default();
        let work = Work::beside(&self.config.state_dir);
        work.prepare(&Job {
            schema: Job::SCHEMA,
            fleet: identity.fleet,
            host: identity.host,
            order: envelope,
            enrol_at: self.enrol_at.as_ref().map(ToString::to_string),
            docker_socket: self.config.docker_socket.clone(),
            state_dir: self.config.state_dir.clone(),
            program: std::env::current_exe().unwrap_or_default(),
            images,
            phase: Phase::Arm,
            paths: BTreeSet::new(),
            removed: removed.so_far(),
            left: BTreeSet::new(),
            done_at: None,
        })?;
        launch(&work).await?;
        tracing::warn!("the reaper was started: this agent is about to be ended and removed");
        Ok(())
    }

    fn say(&self, text: &str) {
        self.supervisor.status(text);
        self.condition.send_modify(|condition| {
            condition.converged = false;
            condition.pending.clear();
            condition.reason = Some(text.to_owned());
        });
    }

    async fn alive_during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut beat = tokio::time::interval(BEAT);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = beat.tick() => self.supervisor.alive(),
            }
        }
    }
}
