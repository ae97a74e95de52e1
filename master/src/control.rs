//! What the master does, apart from how it is asked: every change of the fleet, the hosts and the rows goes
//! through [`Control`], and every one is a single transaction of the store.
//!
//! ```text
//!  operator API ──▶ deploy · mutate · remove · hosts ──▶ store ──▶ publish ──▶ bundles ──▶ waiting polls
//!  agent API ─────▶ ingest (reports) ────────────────▶ store ──▶ events ──▶ SSE, `decnet events`
//!  timers ────────▶ rotate (mutate intervals) · sweep (deadlines, liveness)
//! ```

mod alarms;
mod announce;
pub mod audit;
pub mod backup;
pub mod certificates;
pub mod decommission;
pub mod deploy;
pub mod enrol;
pub mod error;
pub mod events;
pub mod health;
pub mod history;
pub mod hosts;
pub mod ingest;
pub mod liveness;
pub mod mutate;
pub mod policy;
pub mod publish;
pub mod releases;
pub mod remove;
pub mod restored;
pub mod revoke;
pub mod rows;
pub mod sweep;
pub mod tokens;
pub(crate) mod traces;
pub mod trust;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use decnet_trace::Tracer;
use decnet_wire::bundle::Blob;
use decnet_wire::ids::{DeckyName, FleetId, HostId, OperationId, Timestamp};
use ipnet::Ipv4Net;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

pub(crate) use alarms::Alarm;
pub use error::ControlError;

use crate::fleet::catalogue::Catalogue;
use crate::fleet::model::{Fleet, HostSlot, Lan};
use crate::keys::MasterKeys;
use crate::metrics::Metrics;
use crate::records::{AwaitedRecord, DeckyRecord, Host, HostStatus, ObservedRecord, Settings};
use crate::store::{Db, Reader, StoreError, Writer};
use events::Events;
use liveness::{Listening, Liveness};

/// Where the time comes from.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    uptime: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Clock {
    /// `now` may be set to and fro; `uptime` only ever grows, from any beginning.
    #[must_use]
    pub fn new(
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        uptime: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self {
            now: Arc::new(now),
            uptime: Arc::new(uptime),
        }
    }
}

/// The system's clock.
#[must_use]
pub fn system_clock() -> Clock {
    let began = Instant::now();
    Clock::new(
        || Timestamp::new(time::OffsetDateTime::now_utc()),
        move || began.elapsed(),
    )
}

/// The image that deckies run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoyImage {
    /// How Compose documents name it.
    pub reference: String,
    /// The archive that hosts fetch.
    pub blob: Blob,
}

/// Where agents find this master, as `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    pub agent_api: String,
    pub enrolment: String,
}

/// The master's state and everything that may be done to it. Shared by all listeners and timers.
pub struct Control {
    db: Db,
    clock: Clock,
    keys: watch::Sender<Arc<MasterKeys>>,
    /// Held while the trust root is replaced.
    following: Mutex<()>,
    /// Never held while the store is waited for: whoever has the store asks what holds for a host.
    policies: RwLock<policy::Policies>,
    /// Held while a policy is taken.
    taking: Mutex<()>,
    catalogue: Catalogue,
    image: Option<DecoyImage>,
    addresses: Addresses,
    blobs: PathBuf,
    detect: fn() -> Option<Lan>,
    fleet: FleetId,
    started_at: Timestamp,
    listening: Mutex<Listening>,
    /// When hosts were heard since this master listens.
    liveness: Mutex<HashMap<HostId, Liveness>>,
    events: Events,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    said: announce::LastSaid,
    /// Wakes the publisher.
    publish: Notify,
    /// The generation published last for each host; long polls wait on it.
    published: Mutex<HashMap<HostId, watch::Sender<u64>>>,
    connections: revoke::Connections<HostId>,
    /// The streams that tokens opened, by the tokens' hashes.
    streams: revoke::Connections<String>,
    alarms: alarms::Alarms,
    /// The revocation lists, and when they were looked at.
    lists: Mutex<Option<(Timestamp, String)>>,
    /// What hosts last said, newer than the store between two flushes.
    status: Mutex<HashMap<HostId, HostStatus>>,
    /// How long what is open has been so.
    watch: Mutex<sweep::Watch>,
    /// The hosts of which a report is waited for after a restore.
    awaits: Mutex<BTreeSet<HostId>>,
    limits: Limits,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("fleet", &self.fleet)
            .finish_non_exhaustive()
    }
}

/// What [`Control::new`] is made from.
#[derive(Debug)]
pub struct Parts {
    pub db: Db,
    pub keys: MasterKeys,
    pub catalogue: Catalogue,
    pub image: Option<DecoyImage>,
    pub addresses: Addresses,
    /// Folder of the blobs that hosts fetch.
    pub blobs: PathBuf,
    /// The LAN of the master's own default route, for fleets whose description names none.
    pub detect: fn() -> Option<Lan>,
    pub limits: Limits,
    /// Takes what there is to tell of operations.
    pub tracer: Tracer,
}

/// How long operations may take, and how much of them is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    pub deadlines: sweep::Deadlines,
    pub keep: history::Keep,
}

impl Control {
    /// Takes up the state that the store holds.
    ///
    /// # Errors
    /// The store does not answer, or was never initialised.
    pub fn new(parts: Parts, clock: Clock) -> Result<Arc<Self>, ControlError> {
        let Parts {
            db,
            keys,
            catalogue,
            image,
            addresses,
            blobs,
            detect,
            limits,
            tracer,
        } = parts;
        let metrics = Metrics::new();
        metrics.traces_are_taken_by(tracer.clone());
        let db = db.measured(metrics.commits());
        let (fleet, status, awaits, said) = db.read(|r| {
            let settings = settings(r)?;
            let status = r
                .all::<HostStatus>()?
                .into_iter()
                .map(|status| (status.host, status))
                .collect();
            let awaits: BTreeSet<HostId> = r
                .all::<AwaitedRecord>()?
                .into_iter()
                .map(|awaited| awaited.host)
                .collect();
            let said = announce::LastSaid::of_deckies(r)?;
            Ok::<_, ControlError>((settings.fleet, status, awaits, said))
        })?;
        let policies = RwLock::new(policy::load(&db)?);
        let started_at = (clock.now)();
        let uptime = (clock.uptime)();
        let listening = Mutex::new(Listening::begin(uptime));
        let watch = Mutex::new(sweep::Watch::begin(uptime));
        let control = Arc::new(Self {
            db,
            clock,
            keys: watch::Sender::new(Arc::new(keys)),
            following: Mutex::new(()),
            policies,
            taking: Mutex::default(),
            catalogue,
            image,
            addresses,
            blobs,
            detect,
            fleet,
            started_at,
            listening,
            liveness: Mutex::new(HashMap::new()),
            events: Events::new(Arc::clone(&metrics)),
            metrics,
            tracer,
            said,
            publish: Notify::new(),
            published: Mutex::new(HashMap::new()),
            connections: revoke::Connections::default(),
            streams: revoke::Connections::default(),
            alarms: alarms::Alarms::default(),
            lists: Mutex::new(None),
            status: Mutex::new(status),
            watch,
            awaits: Mutex::new(awaits),
            limits,
        });
        control.begin_with_hosts()?;
        control.note_root()?;
        control.republish_outdated()?;
        Ok(control)
    }

    /// The fleet under this master.
    #[must_use]
    pub fn fleet_id(&self) -> FleetId {
        self.fleet
    }

    /// The tables that fleets are built from.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The bus that events are announced on.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// What was counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The image that deckies run, if this master has one.
    #[must_use]
    pub fn image(&self) -> Option<&DecoyImage> {
        self.image.as_ref()
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock.now)()
    }

    /// Does not care for whoever sets the clock.
    fn uptime(&self) -> Duration {
        (self.clock.uptime)()
    }

    fn awaits(&self) -> MutexGuard<'_, BTreeSet<HostId>> {
        self.awaits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) -> MutexGuard<'_, sweep::Watch> {
        // Whole after every statement that changes it.
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes every second that the master listens, until it ends. Started when the listeners are open: only what passes
    /// from then on makes a host unreachable, and nothing while this task does not get to run.
    pub async fn run_listening(self: Arc<Self>) {
        *self.listening() = Listening::begin(self.uptime());
        let mut timer = tokio::time::interval(liveness::BEAT);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let uptime = self.uptime();
            self.listening().beat(uptime);
        }
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        // Nothing panics while it is held.
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long the master has listened.
    fn listened(&self) -> Duration {
        let uptime = self.uptime();
        self.listening().at(uptime)
    }

    /// Takes a host's heartbeat.
    fn hear(&self, host: HostId) {
        let now = self.listened();
        let mut all = self.liveness.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(host).or_default().hear(now);
    }

    /// For how long nothing came from a host while the master listened.
    fn silence(&self, host: HostId) -> Duration {
        let (liveness, now) = self.heard(host);
        liveness.silent_for(now)
    }

    /// The same; none when nothing came from it since this master began.
    fn silent_for(&self, host: HostId) -> Option<Duration> {
        let (liveness, now) = self.heard(host);
        liveness.was_heard().then(|| liveness.silent_for(now))
    }

    /// When a host was heard, and for how long the master has listened.
    fn heard(&self, host: HostId) -> (Liveness, Duration) {
        let now = self.listened();
        let all = self.liveness.lock().unwrap_or_else(PoisonError::into_inner);
        (all.get(&host).copied().unwrap_or_default(), now)
    }

    fn status(&self) -> MutexGuard<'_, HashMap<HostId, HostStatus>> {
        // The map is whole after every statement that changes it, so a panic elsewhere leaves nothing half-done.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers from where a host speaks; written to the store with the next flush.
    pub(crate) fn saw(&self, host: HostId, address: IpAddr) {
        let mut status = self.status();
        status
            .entry(host)
            .or_insert_with(|| HostStatus::unheard(host))
            .address = Some(address);
    }
}

/// A fresh operation id. Version 7, so that rows sort by the time they were asked for.
fn new_operation() -> OperationId {
    OperationId::new(Uuid::now_v7())
}

fn settings(r: &Reader<'_>) -> Result<Settings, ControlError> {
    r.get::<Settings>(&())?.ok_or(ControlError::NotInitialised)
}

/// The fleet as the builder and the compiler take it.
fn assemble(settings: &Settings, deckies: &[DeckyRecord]) -> Fleet {
    Fleet {
        lan: settings.lan.clone(),
        mutate_interval: settings.mutate_interval,
        deployment_limit: settings.deployment_limit,
        deckies: deckies
            .iter()
            .map(|record| (record.decky.name.clone(), record.decky.clone()))
            .collect(),
        custom_services: settings.custom_services.clone(),
    }
}

/// The host as the builder and the compiler take it. Its own addresses are those that it last reported.
fn slot(host: &Host, seen: Option<&ObservedRecord>) -> HostSlot {
    let interfaces = seen
        .map(|seen| seen.observed.interfaces.as_slice())
        .unwrap_or_default();
    HostSlot {
        id: host.id,
        name: host.name.clone(),
        lan: host.lan.clone(),
        ipvlan: host.ipvlan,
        mode: host.mode,
        interface: host.interface.clone(),
        addresses: interfaces
            .iter()
            .flat_map(|nic| nic.addresses.iter().map(Ipv4Net::addr))
            .collect(),
    }
}

/// The hosts that new deckies go to: every enrolled one, or the embedded worker when there is none.
fn targets(hosts: &[Host]) -> Vec<&Host> {
    let enrolled = |host: &&Host| host.takes_deckies();
    let mut targets: Vec<&Host> = hosts
        .iter()
        .filter(enrolled)
        .filter(|host| !host.embedded)
        .collect();
    if targets.is_empty() {
        targets = hosts
            .iter()
            .filter(enrolled)
            .filter(|host| host.embedded)
            .collect();
    }
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    targets
}

/// Decides that a host needs a new bundle. In the transaction of the change that makes it needed.
fn touch(w: &mut Writer<'_>, host: HostId) -> Result<(), StoreError> {
    if let Some(mut record) = w.get::<Host>(&host)? {
        record.generation += 1;
        w.put(&host, &record)?;
    }
    Ok(())
}

fn decky(r: &Reader<'_>, name: &DeckyName) -> Result<DeckyRecord, ControlError> {
    r.get::<DeckyRecord>(name)?.ok_or_else(|| ControlError::NotFound {
        what: "decky",
        name: name.to_string(),
    })
}
