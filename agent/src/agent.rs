//! An agent: opened, then run.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use decnet_pki::files::{self, FileError};
use decnet_pki::order::SignedDecommission;
use decnet_pki::tls::TlsError;
use decnet_trace::{Exporter, Tracer, Value};
use decnet_wire::ids::HostId;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::admit::{Admission, Orders};
use crate::backoff::{Backoff, Patience, seeded_by_the_system};
use crate::blobs::Blobs;
use crate::certificate::{Recovery, Renewal};
use crate::clock::{SharedClock, SystemClock};
use crate::config::{Config, HostPort};
use crate::control::{self, Control, ControlError};
use crate::host::leave::Leave;
use crate::identity::{Identity, IdentityError, IdentityStore};
use crate::ledger::{Ledger, LedgerError};
use crate::link::{Link, LinkError};
use crate::pull::Pull;
use crate::reconcile::{Condition, DockerMachine, Pulse, Reconciler, Retries};
use crate::report::Reporter;
use crate::status::{Contact, Preview, PreviewError, Retried, Status};
use crate::supervisor::Supervisor;
use crate::transfers::Transfers;
use crate::update::watch::Updates;

/// How long a poll waits until the master says otherwise.
const POLL_WAIT: Duration = Duration::from_secs(30);
/// Over how long hosts spread their renewals until the master says otherwise.
const RENEW_WITHIN: Duration = Duration::from_secs(300);

/// One enrolled host's agent. It holds the ledger: there is one per state folder.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    identity: Arc<IdentityStore>,
    master: HostPort,
    ledger: Arc<Ledger>,
    clock: SharedClock,
    supervisor: Supervisor,
}

/// An agent that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The host is not enrolled, or its identity cannot be used.
    #[error("no usable identity in the state folder")]
    Identity(#[source] IdentityError),
    #[error("cannot speak TLS with this identity")]
    Tls(#[source] TlsError),
    #[error("the state folder cannot be used")]
    StateDir(#[source] FileError),
    /// Also when another agent holds it.
    #[error("the ledger cannot be used")]
    Ledger(#[source] LedgerError),
}

impl OpenError {
    /// Whether the host has to be enrolled first.
    #[must_use]
    pub fn is_not_enrolled(&self) -> bool {
        matches!(self, Self::Identity(IdentityError::NotEnrolled { .. }))
    }

    /// Whether another agent holds the state folder.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Ledger(LedgerError::Held { .. }))
    }

    /// Whether it may work later without anybody's doing here, as when the disk is full.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Ledger(error) if error.may_pass())
    }
}

/// An agent that had to stop. The deckies keep running; starting it again continues from the ledger.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the master's address is not usable")]
    Link(#[source] LinkError),
    #[error("the control socket cannot be made")]
    Control(#[source] ControlError),
    #[error("the ledger failed")]
    Ledger(#[source] LedgerError),
    #[error("a task of the agent ended unexpectedly")]
    Task(#[source] Option<JoinError>),
}

impl Agent {
    /// Opens the state folder: reads the identity, takes the ledger.
    ///
    /// # Errors
    /// [`OpenError`]; see [`OpenError::is_not_enrolled`] and [`OpenError::is_held`].
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let identity = Identity::load(&config.state_dir).map_err(OpenError::Identity)?;
        files::create_private_dir(&config.state_dir).map_err(OpenError::StateDir)?;
        let clock: SharedClock = Arc::new(SystemClock);
        let opened = Ledger::open(&config.ledger_path(), clock.now()).map_err(OpenError::Ledger)?;
        if let Some(aside) = opened.set_aside {
            tracing::error!(kept_as = %aside.display(), "the ledger was damaged; a fresh one was begun");
        }
        let master = config
            .master
            .clone()
            .unwrap_or_else(|| identity.agent_api.clone());
        let identity = IdentityStore::new(config.state_dir.clone(), identity).map_err(OpenError::Tls)?;
        Ok(Self {
            config,
            identity: Arc::new(identity),
            master,
            ledger: Arc::new(opened.ledger),
            clock,
            supervisor: Supervisor::default(),
        })
    }

    /// The same agent, which tells whoever started this process that it is ready, what it does, and that it is alive.
    #[must_use]
    pub fn supervised_by(mut self, supervisor: Supervisor) -> Self {
        self.supervisor = supervisor;
        self
    }

    /// The host that this agent works for.
    #[must_use]
    pub fn host(&self) -> HostId {
        self.identity.current().host
    }

    /// The ledger, to look at.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The status as it stands in the ledger.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn status(&self) -> Result<Status, LedgerError> {
        Status::read(
            &self.identity.current(),
            self.master.to_string(),
            &self.ledger,
            None,
        )
    }

    /// Ends quarantines in the ledger, of a stack or decky, or of all: for when no agent runs.
    ///
    /// # Errors
    /// The ledger cannot be read or written.
    pub async fn retry(&self, wanted: Option<&str>) -> Result<Retried, LedgerError> {
        let stacks: Vec<_> = self
            .ledger
            .troubles()?
            .into_iter()
            .filter(|(stack, trouble)| {
                wanted.is_none_or(|wanted| stack.as_str() == wanted || trouble.decky.as_str() == wanted)
            })
            .map(|(stack, _)| stack)
            .collect();
        let forgotten = stacks.clone();
        self.ledger
            .write(move |tx| tx.forget_troubles(&forgotten))
            .await?;
        Ok(Retried::new(stacks))
    }

    /// What would be done now. Changes nothing.
    ///
    /// # Errors
    /// The ledger or the engine cannot be looked at.
    pub async fn preview(&self) -> Result<Preview, PreviewError> {
        Preview::make(self.host(), &self.ledger, &self.config.docker_socket).await
    }

    /// Runs until `shutdown` is cancelled. The deckies keep running after that.
    ///
    /// # Errors
    /// [`RunError`], when the agent cannot go on.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let (tracer, exporter) = self.tracing();
        let (orders, mut ordered) = watch::channel(None);
        let Started {
            mut working,
            mut serving,
            leave,
        } = self.start(&tracer, orders)?;
        // Ends with this function, at the latest.
        let exporting =
            exporter.map(|exporter| AbortOnDropHandle::new(tokio::spawn(exporter.run(shutdown.clone()))));
        let outcome = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            order = wanted(&mut ordered) => {
                // Nothing is pulled, renewed or repaired any more. What was under way is found by its label.
                working.shutdown().await;
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = leave.run(&order) => {}
                }
                Ok(())
            }
            ended = working.join_next() => Err(why(ended)),
            ended = serving.join_next() => Err(why(ended)),
        };
        working.shutdown().await;
        serving.shutdown().await;
        if let Some(exporting) = exporting.filter(|_| outcome.is_ok()) {
            // It ends with the shutdown. It does not panic, and nobody else aborts it.
            let _ = exporting.await;
        }
        outcome
    }

    /// Where the enrolment listener is: at the address of the token, or where the master is said to be now.
    fn enrol_at(&self) -> Option<HostPort> {
        if let Some(told) = &self.config.enrolment {
            return Some(told.clone());
        }
        let at = self.identity.current().enrol_at.clone()?;
        Some(match &self.config.master {
            Some(master) => master.with_port(at.port()),
            None => at,
        })
    }

    /// What takes spans, and what sends them, where a collector is configured.
    fn tracing(&self) -> (Tracer, Option<Exporter>) {
        let Some(endpoint) = self.config.otlp_endpoint.clone() else {
            return (Tracer::off(), None);
        };
        let identity = self.identity.current();
        let resource = vec![
            ("service.name", Value::text("decnet-agent")),
            ("service.version", Value::text(env!("CARGO_PKG_VERSION"))),
            ("service.instance.id", Value::text(identity.host)),
            ("decnet.host.name", Value::text(&identity.name)),
        ];
        tracing::info!(to = %endpoint, "operations are traced");
        let (tracer, exporter) = Tracer::new(endpoint, resource);
        (tracer, Some(exporter))
    }

    fn start(self, tracer: &Tracer, orders: Orders) -> Result<Started, RunError> {
        // A connection each: one waits in the long poll, one must never wait.
        let link = || Link::new(self.master.clone(), self.identity.tls()).map_err(RunError::Link);
        let (bundles, _) = watch::channel(None);
        let (condition, _) = watch::channel(Condition::default());
        let (contact, _) = watch::channel(Contact::default());
        let (poll_wait, _) = watch::channel(POLL_WAIT);
        let (renew_within, _) = watch::channel(RENEW_WITHIN);
        let wake = Arc::new(Notify::new());
        let idle_round = Arc::new(AtomicU64::new(0));
        let retries = Arc::new(Retries::default());
        let renew = Arc::new(Notify::new());
        let (progress, _) = watch::channel(None);
        let host = self.host();

        let transfers = Arc::new(Transfers::default());
        let blobs = Arc::new(Blobs::new(
            self.config.blobs_dir(),
            link()?,
            Arc::clone(&transfers),
        ));
        let relist = self.config.relist;
        let socket = self.config.docker_socket.clone();
        let machine = DockerMachine::new(socket, host, blobs, Arc::clone(&transfers), relist);
        let machine = Arc::new(machine);
        let (supervisor, shown) = (self.supervisor.clone(), condition.subscribe());
        let listener = control::listen(&self.config.socket_path()).map_err(RunError::Control)?;
        let control = Control {
            identity: Arc::clone(&self.identity),
            master: self.master.to_string(),
            ledger: Arc::clone(&self.ledger),
            docker_socket: self.config.docker_socket.clone(),
            condition: condition.subscribe(),
            contact: contact.subscribe(),
            idle_round: Arc::clone(&idle_round),
            clock: Arc::clone(&self.clock),
            transfers: Arc::clone(&transfers),
            retries: Arc::clone(&retries),
            bundles: bundles.subscribe(),
            update: progress.subscribe(),
            wake: Arc::clone(&wake),
            renew: Arc::clone(&renew),
        };
        let reporter = Reporter {
            link: link()?,
            ledger: Arc::clone(&self.ledger),
            clock: Arc::clone(&self.clock),
            bundles: bundles.subscribe(),
            condition: condition.subscribe(),
            poll_wait: poll_wait.clone(),
            renew_within: renew_within.clone(),
            contact: contact.clone(),
            update: progress.subscribe(),
            patience: Patience::new(),
        };
        let updates = Updates {
            config: self.config.clone(),
            identity: Arc::clone(&self.identity),
            ledger: Arc::clone(&self.ledger),
            clock: Arc::clone(&self.clock),
            bundles: bundles.subscribe(),
            blobs: Blobs::new(Updates::folder(&self.config), link()?, Arc::clone(&transfers)),
            progress,
            format: crate::update::package::format(),
            asked: None,
        };
        let reconciler = Reconciler {
            host,
            machine: Arc::clone(&machine),
            ledger: Arc::clone(&self.ledger),
            clock: Arc::clone(&self.clock),
            bundles: bundles.subscribe(),
            wake: Arc::clone(&wake),
            condition: condition.clone(),
            engine_backoff: Backoff::for_the_engine(seeded_by_the_system()),
            retries,
            idle_round: Arc::clone(&idle_round),
            relist,
            tracer: tracer.clone(),
            pulse: Pulse::new(self.supervisor.clone()),
        };
        let admission = Admission::new(
            self.identity.audience(),
            Arc::clone(&self.ledger),
            Arc::clone(&self.clock),
            bundles,
        )
        .traced(tracer.clone())
        .ordering(orders);
        admission.restore().map_err(RunError::Ledger)?;
        let pull = Pull {
            link: link()?,
            identity: Arc::clone(&self.identity),
            admission,
            clock: Arc::clone(&self.clock),
            poll_wait: poll_wait.subscribe(),
            contact,
            patience: Patience::new(),
            recovery: Recovery {
                identity: Arc::clone(&self.identity),
                clock: Arc::clone(&self.clock),
                enrol_at: self.enrol_at(),
                mistimed: Mutex::default(),
            },
            recoveries: 0,
        };
        let renewal = Renewal {
            link: link()?,
            identity: Arc::clone(&self.identity),
            clock: Arc::clone(&self.clock),
            within: renew_within.subscribe(),
            asked: renew,
            patience: Patience::new(),
            random: seeded_by_the_system(),
        };

        tracing::info!(%host, name = %self.identity.current().name, master = %self.master, "agent started");
        let leave = Leave {
            enrol_at: self.enrol_at(),
            config: self.config,
            identity: self.identity,
            ledger: self.ledger,
            condition,
            supervisor: supervisor.clone(),
        };
        let (mut working, mut serving) = (JoinSet::new(), JoinSet::new());
        working.spawn(pull.run());
        serving.spawn(reporter.run());
        working.spawn(updates.run());
        working.spawn(async move {
            renewal.run().await;
            Ok(())
        });
        working.spawn(reconciler.run());
        working.spawn(async move {
            machine
                .wake_on_events(&wake, Backoff::for_the_engine(seeded_by_the_system()))
                .await;
            Ok(())
        });
        serving.spawn(async move {
            control::serve(listener, control).await;
            Ok(())
        });
        // Neither the engine nor the master is waited for: an agent that has its ledger keeps what runs, and says in its
        // status what it waits for.
        supervisor.ready("started");
        if supervisor.is_there() {
            serving.spawn(async move {
                tell_conditions(&supervisor, shown).await;
                Ok(())
            });
        }
        Ok(Started {
            working,
            serving,
            leave,
        })
    }
}

type Tasks = JoinSet<Result<(), LedgerError>>;

/// What an agent that runs consists of.
struct Started {
    /// Ends when this host is to leave the fleet.
    working: Tasks,
    /// Goes on until the process ends: whoever asks is told how far it is.
    serving: Tasks,
    leave: Leave,
}

/// Returns once this host is to leave the fleet.
async fn wanted(ordered: &mut watch::Receiver<Option<Arc<SignedDecommission>>>) -> Arc<SignedDecommission> {
    loop {
        if let Some(order) = ordered.borrow_and_update().clone() {
            return order;
        }
        if ordered.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Why a task has ended that goes on for ever.
fn why(ended: Option<Result<Result<(), LedgerError>, JoinError>>) -> RunError {
    match ended {
        Some(Ok(Err(error))) => RunError::Ledger(error),
        Some(Ok(Ok(()))) | None => RunError::Task(None),
        Some(Err(error)) => RunError::Task(Some(error)),
    }
}

/// Tells every condition that is another one than before, for ever: why the loop that makes them has ended is the loop's
/// own to say.
async fn tell_conditions(supervisor: &Supervisor, mut shown: watch::Receiver<Condition>) {
    let mut told = String::new();
    loop {
        let text = shown.borrow_and_update().in_a_line();
        if text != told {
            supervisor.status(&text);
            told = text;
        }
        if shown.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
