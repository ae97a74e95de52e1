//! A host whose parts can be taken apart: a disk, an engine, a clock, a master, and an agent between them that can be
//! ended at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use decnet_plan::sim;
use decnet_trace::Tracer;
use decnet_wire::bundle::Bundle;
use decnet_wire::ids::{OperationId, Timestamp};
use decnet_wire::report::{Event, EventBody, Outcome, Report, ReportAnswer, SCHEMA};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::disk::Disk;
use crate::admit::{Admission, Verdict};
use crate::backoff::{Backoff, Patience};
use crate::clock::Clock as _;
use crate::config::HostPort;
use crate::ledger::{Ledger, LedgerError};
use crate::link::LinkError;
use crate::reconcile::{Condition, Pulse, Reconciler, Retries};
use crate::report::{Post, Reporter, SendError};
use crate::status::Contact;
use crate::testing::{FixedClock, Signer, SimMachine, now};

/// The master, as far as reports go: it takes every event once, by its number.
#[derive(Debug, Clone, Default)]
pub(super) struct Master {
    pub(super) away: bool,
    acked: u64,
    pub(super) events: Vec<Event>,
    /// What no agent may do.
    pub(super) broken: Vec<String>,
    /// Reports that came, whether they were taken or not.
    pub(super) knocks: u64,
}

impl Master {
    fn take(&mut self, report: &Report, time: Timestamp) -> ReportAnswer {
        let mut last = 0;
        for event in &report.events {
            if event.seq <= last {
                self.broken
                    .push(format!("{} after {last} in one report", event.seq));
            }
            last = event.seq;
            if event.seq > self.acked {
                self.acked = event.seq;
                self.events.push(event.clone());
            } else if !self.events.iter().any(|known| known == event) {
                // A real one would take it for what it has: it is lost.
                self.broken.push(format!("the number of {event:?} was another's"));
            }
        }
        ReportAnswer {
            schema: SCHEMA,
            acked: self.acked,
            time,
            poll_wait_s: 50,
            heartbeat_s: 30,
            resync: false,
            renew_within_s: None,
        }
    }

    /// How each operation ended, and that it was told once and in order.
    pub(super) fn ends(&mut self) -> BTreeMap<OperationId, bool> {
        let mut told: BTreeMap<OperationId, Vec<&Outcome>> = BTreeMap::new();
        for event in &self.events {
            if let EventBody::Operation { id, outcome, .. } = &event.body {
                told.entry(*id).or_default().push(outcome);
            }
        }
        let mut ends = BTreeMap::new();
        let mut broken = Vec::new();
        for (id, outcomes) in told {
            match outcomes.as_slice() {
                [Outcome::Running, end] | [end] if **end != Outcome::Running => {
                    ends.insert(id, **end == Outcome::Succeeded);
                }
                other => broken.push(format!("{id}: {other:?}")),
            }
        }
        self.broken.extend(broken);
        ends
    }
}

impl Master {
    /// What was told last of each operation: also of those that were told of twice because a ledger was lost, which
    /// changes no row.
    pub(super) fn told_last(&self) -> BTreeMap<OperationId, bool> {
        let last = self.events.iter().filter_map(|event| match &event.body {
            EventBody::Operation { id, outcome, .. } => Some((*id, *outcome == Outcome::Succeeded)),
            _ => None,
        });
        last.collect()
    }
}

/// Called with the master whenever it has changed.
pub(super) type OnReport = Arc<dyn Fn(&Master) + Send + Sync>;

/// The way to the master.
#[derive(Clone)]
struct Way {
    master: Arc<Mutex<Master>>,
    clock: Arc<FixedClock>,
    on_report: Option<OnReport>,
}

impl Post for Way {
    async fn post(&mut self, report: &Report) -> Result<ReportAnswer, SendError> {
        let mut master = self.master.lock().unwrap();
        master.knocks += 1;
        if master.away {
            return Err(away());
        }
        let answer = master.take(report, self.clock.now());
        if let Some(call) = &self.on_report {
            call(&master);
        }
        Ok(answer)
    }
}

/// What an agent sees of a master that is not there.
fn away() -> SendError {
    SendError::Link(LinkError::Connect {
        to: "192.0.2.1:8770".parse::<HostPort>().unwrap(),
        source: std::io::ErrorKind::ConnectionRefused.into(),
    })
}

/// What outlives an agent.
pub(super) struct Host {
    pub(super) signer: Arc<Signer>,
    pub(super) disk: Disk,
    pub(super) machine: Arc<SimMachine>,
    pub(super) clock: Arc<FixedClock>,
    pub(super) master: Arc<Mutex<Master>>,
    pub(super) on_report: Option<OnReport>,
}

/// An agent that runs.
pub(super) struct Life {
    pub(super) ledger: Arc<Ledger>,
    pub(super) admission: Admission,
    pub(super) condition: watch::Receiver<Condition>,
    pub(super) wake: Arc<Notify>,
    pub(super) tasks: JoinSet<Result<(), LedgerError>>,
}

impl Host {
    pub(super) fn new(signer: Arc<Signer>) -> Self {
        let machine = SimMachine::new(signer.host);
        Self {
            signer,
            disk: Disk::default(),
            machine,
            clock: FixedClock::at(now()),
            master: Arc::default(),
            on_report: None,
        }
    }

    /// The same host as it was found later.
    pub(super) fn found(&self, bytes: Vec<u8>, engine: sim::Engine, master: Master) -> Self {
        let host = Self::new(Arc::clone(&self.signer));
        *host.machine.engine.lock().unwrap() = engine;
        host.clock
            .set(Timestamp::new(self.clock.now().get() + Duration::from_secs(60)));
        Self {
            disk: Disk::with(bytes),
            master: Arc::new(Mutex::new(master)),
            ..host
        }
    }

    pub(super) fn boot(&self) -> Result<Life, LedgerError> {
        self.boot_with(true)
    }

    /// Without a report when nothing can be reported for long.
    pub(super) fn boot_with(&self, reports: bool) -> Result<Life, LedgerError> {
        let ledger = Arc::new(Ledger::open_at(&self.disk, self.clock.now())?.ledger);
        let (bundles, _) = watch::channel(None);
        let (condition, watching) = watch::channel(Condition::default());
        let wake = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let reconciler = Reconciler {
            host: self.signer.host,
            machine: Arc::clone(&self.machine),
            ledger: Arc::clone(&ledger),
            clock: self.clock.clone(),
            bundles: bundles.subscribe(),
            wake: Arc::clone(&wake),
            condition,
            engine_backoff: Backoff::for_the_engine(SmallRng::seed_from_u64(1)),
            retries: Arc::new(Retries::default()),
            idle_round: Arc::default(),
            relist: Duration::from_secs(60),
            tracer: Tracer::off(),
            pulse: Pulse::default(),
        };
        let reporter = Reporter {
            link: Way {
                master: Arc::clone(&self.master),
                clock: Arc::clone(&self.clock),
                on_report: self.on_report.clone(),
            },
            ledger: Arc::clone(&ledger),
            clock: self.clock.clone(),
            bundles: bundles.subscribe(),
            condition: watching.clone(),
            poll_wait: watch::channel(Duration::ZERO).0,
            renew_within: watch::channel(Duration::ZERO).0,
            contact: watch::channel(Contact::default()).0,
            update: watch::channel(None).1,
            patience: Patience::new(),
        };
        let admission = Admission::new(
            self.signer.audiences(),
            Arc::clone(&ledger),
            self.clock.clone(),
            bundles,
        );
        admission.restore()?;
        tasks.spawn(reconciler.run());
        if reports {
            tasks.spawn(reporter.run());
        }
        Ok(Life {
            ledger,
            admission,
            condition: watching,
            wake,
            tasks,
        })
    }

    /// What runs, and what else there is: everything but what the engine calls it.
    pub(super) fn picture(&self) -> Picture {
        let engine = self.machine.engine.lock().unwrap();
        let observed = engine.observe(self.signer.host);
        let containers = observed.containers.iter().map(|container| {
            let attached: Vec<_> = container
                .attachments
                .iter()
                .map(|at| format!("{} {:?} {:?}", at.network, at.address, at.mac))
                .collect();
            let state = if container.state.is_running() {
                "runs"
            } else {
                "does not run"
            };
            let text = format!("{} {} {attached:?} {state}", container.hash, container.image);
            (container.name.clone(), text)
        });
        let networks = observed
            .networks
            .iter()
            .map(|network| (network.name.clone(), network.hash.clone()));
        Picture {
            containers: containers.collect(),
            networks: networks.collect(),
            all: engine.containers.len() + engine.networks.len() + engine.volumes.len(),
        }
    }
}

/// An engine, for comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) containers: BTreeMap<String, String>,
    pub(super) networks: Vec<(String, String)>,
    /// Objects, ours or not.
    all: usize,
}

impl Picture {
    /// No two containers have one address or one MAC on a network.
    pub(super) fn is_without_doubles(&self) -> bool {
        let mut seen = BTreeSet::new();
        let places = self.containers.values().filter_map(|text| {
            let inside = text.split_once('[')?.1.rsplit_once(']')?.0;
            (!inside.is_empty()).then_some(inside)
        });
        let names: BTreeSet<_> = self.networks.iter().map(|(name, _)| name).collect();
        places.into_iter().all(|place| seen.insert(place)) && names.len() == self.networks.len()
    }
}

/// The longest that an agent may take to come to rest, in simulated time.
const REST: Duration = Duration::from_secs(3600);

impl Life {
    /// Gives it the bundle as a poll would: unless it has it.
    pub(super) async fn poll(&self, host: &Host, bundle: &Bundle) -> Result<(), LedgerError> {
        if self.admission.generation() < bundle.generation {
            let verdict = self.admission.admit(host.signer.sign(bundle)).await?;
            assert!(
                !matches!(verdict, Verdict::Refused),
                "{:?}",
                self.ledger.refusals()
            );
        }
        Ok(())
    }

    /// Until nothing is left to do and the master has everything. An error is the ledger's.
    pub(super) async fn rests(&mut self) -> Result<(), LedgerError> {
        let digest = self.ledger.accepted()?.map(|accepted| accepted.digest);
        let (ledger, condition) = (Arc::clone(&self.ledger), &mut self.condition);
        let rests = async {
            loop {
                let found = condition.wait_for(|found| found.converged && found.digest == digest);
                if found.await.is_err() {
                    std::future::pending::<()>().await;
                }
                let open = ledger
                    .operations()?
                    .values()
                    .any(|known| !known.state.is_terminal());
                if !open && ledger.outbox(1, 1)?.waiting == 0 {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            rested = tokio::time::timeout(REST, rests) => match rested {
                Ok(rested) => rested,
                Err(_) => panic!(
                    "it does not come to rest: {:?}\n{:?}\n{:?}",
                    self.condition.borrow().reason,
                    self.ledger.operations(),
                    self.ledger.outbox(9, usize::MAX),
                ),
            },
            ended = self.tasks.join_next() => match ended {
                Some(Ok(Err(error))) => Err(error),
                other => panic!("a task has ended: {other:?}"),
            },
        }
    }

    /// Ends it without a word.
    pub(super) async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}
