//! What `/metrics` says (OpenMetrics 1.0): counters that move with what happens, and what is counted when it is asked for.
//!
//! No label names a decky, a host, a token or an address: the number of series is fixed, whatever the fleet's size and
//! whoever knocks. Names and units follow the Prometheus naming conventions; every family has a help text.

mod listener;
mod process;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use decnet_trace::Tracer;
use decnet_wire::bundle::OperationKind;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use listener::ListenerMeter;
use listener::Listeners;
pub(crate) use listener::Refused;

use crate::audit::Action;
use crate::control::events::GapReason;
use crate::control::events::topic::Topic;
use crate::control::hosts::{DeckyState, HostState};
use crate::records::{Row, RowStatus};
use process::Process;

/// As an answer names it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds that a report, or a commit, may take: around the 50 ms in which a report is to be answered.
const QUICK: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Seconds that an operation may take: up to the quarter of an hour after which it has failed.
const SLOW: [f64; 11] = [
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0,
];

const STATUSES: [RowStatus; 5] = [
    RowStatus::Pending,
    RowStatus::Running,
    RowStatus::Succeeded,
    RowStatus::Failed,
    RowStatus::Superseded,
];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Gauges<const N: usize> = Family<Labels<N>, Gauge>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// What was counted since the master started.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    transitions: Counters<2>,
    durations: Histograms<2>,
    events: Counters<1>,
    pub(crate) readers: Gauge,
    gaps: Counters<1>,
    reports: Counter,
    rejected: Counters<1>,
    report_events: Counter,
    duplicates: Counter,
    report_duration: Histogram,
    pub(crate) bundles: Counter,
    pub(crate) polls: Gauge,
    commits: Arc<Commits>,
    alarms: Counters<1>,
    listeners: Listeners,
    taken: Taken,
    store: OnceLock<PathBuf>,
    tracer: OnceLock<Tracer>,
}

/// What transactions of the store took.
#[derive(Debug)]
pub struct Commits {
    duration: Histogram,
    failed: Counter,
}

impl Commits {
    /// One that was asked for so long ago.
    pub(crate) fn ended(&self, took: Duration, durable: bool) {
        if durable {
            self.duration.observe(took.as_secs_f64());
        } else {
            self.failed.inc();
        }
    }
}

/// Why a report was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// It does not read, or is too long.
    Malformed,
    /// Its schema is another one.
    Schema,
    /// Another report of the host came meanwhile.
    Overtaken,
    /// It is about what is not the host's.
    Foreign,
    /// Its numbers are such that no event could follow.
    Numbers,
    /// The master failed; the agent sends it again.
    Failed,
}

impl Rejected {
    const ALL: [Self; 6] = [
        Self::Malformed,
        Self::Schema,
        Self::Overtaken,
        Self::Foreign,
        Self::Numbers,
        Self::Failed,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Schema => "schema",
            Self::Overtaken => "overtaken",
            Self::Foreign => "foreign",
            Self::Numbers => "numbers",
            Self::Failed => "failed",
        }
    }
}

/// What is there at the moment of the scrape.
#[derive(Debug, Default)]
struct Taken {
    hosts: Gauges<1>,
    deckies: Gauges<1>,
    open: Gauges<1>,
    audit: Counter,
    spans: Counter,
    lost_spans: Counter,
    store: Gauge,
    process: Process,
}

/// What the store holds, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub hosts: Vec<HostState>,
    pub deckies: Vec<DeckyState>,
    /// The status of every row that has not ended.
    pub open: Vec<RowStatus>,
    /// The number of the newest entry of the audit log.
    pub audit: u64,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        let histogram = || Histogram::new(QUICK);
        let metrics = Self {
            registry: Mutex::new(Registry::default()),
            transitions: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SLOW)),
            events: Family::default(),
            readers: Gauge::default(),
            gaps: Family::default(),
            reports: Counter::default(),
            rejected: Family::default(),
            report_events: Counter::default(),
            duplicates: Counter::default(),
            report_duration: histogram(),
            bundles: Counter::default(),
            polls: Gauge::default(),
            commits: Arc::new(Commits {
                duration: histogram(),
                failed: Counter::default(),
            }),
            alarms: Family::default(),
            listeners: Listeners::default(),
            taken: Taken::default(),
            store: OnceLock::new(),
            tracer: OnceLock::new(),
        };
        metrics.register();
        metrics.begin();
        Arc::new(metrics)
    }

    /// Every series is there from the beginning: a rate over one that comes into being with its first event would not see
    /// that event.
    fn begin(&self) {
        for operation in [
            OperationKind::Deploy,
            OperationKind::Mutate,
            OperationKind::Teardown,
        ] {
            for status in STATUSES {
                let labels = [("operation", operation.as_str()), ("status", status.as_str())];
                drop(self.transitions.get_or_create(&labels));
                if status.is_terminal() {
                    drop(self.durations.get_or_create(&labels));
                }
            }
        }
        for kind in Topic::CLASSES {
            drop(self.events.get_or_create(&[("kind", kind)]));
        }
        for reason in GapReason::ALL {
            drop(self.gaps.get_or_create(&[("reason", reason.as_str())]));
        }
        for reason in Rejected::ALL {
            drop(self.rejected.get_or_create(&[("reason", reason.as_str())]));
        }
        for action in Action::ALARMS {
            drop(self.alarms.get_or_create(&[("action", action.as_str())]));
        }
    }

    fn register(&self) {
        let mut whole = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.taken.process.register(&mut whole);
        let r = whole.sub_registry_with_prefix("decnet");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "The version of this master", version);
        r.register(
            "lifecycle_transitions",
            "Transitions of lifecycle rows, by operation and the status that it came to",
            self.transitions.clone(),
        );
        r.register_with_unit(
            "lifecycle_duration",
            "Time from the request of an operation to its end, by the clock",
            Unit::Seconds,
            self.durations.clone(),
        );
        r.register(
            "lifecycle_open",
            "Lifecycle rows that have not ended",
            self.taken.open.clone(),
        );
        r.register("hosts", "Hosts by state", self.taken.hosts.clone());
        r.register("deckies", "Deckies by state", self.taken.deckies.clone());
        r.register(
            "reports",
            "Reports of hosts that were taken in",
            self.reports.clone(),
        );
        r.register(
            "reports_rejected",
            "Reports that were not taken in, by why",
            self.rejected.clone(),
        );
        r.register(
            "report_events",
            "Events in reports that were taken in, those that were known already among them",
            self.report_events.clone(),
        );
        r.register(
            "report_events_duplicate",
            "Events in reports that were known already: resent after a lost answer",
            self.duplicates.clone(),
        );
        r.register_with_unit(
            "report_duration",
            "Time that it took to take in or refuse a report, once it had arrived",
            Unit::Seconds,
            self.report_duration.clone(),
        );
        r.register(
            "bundles_published",
            "Bundles signed and published",
            self.bundles.clone(),
        );
        r.register(
            "polls_waiting",
            "Polls that wait for a newer bundle",
            self.polls.clone(),
        );
        r.register_with_unit(
            "store_commit_duration",
            "Time from asking for a transaction of the store until it was durable, waiting for other writers included",
            Unit::Seconds,
            self.commits.duration.clone(),
        );
        r.register(
            "store_commits_failed",
            "Transactions of the store that the disk refused",
            self.commits.failed.clone(),
        );
        r.register_with_unit(
            "store_size",
            "Size of the store's file",
            Unit::Bytes,
            self.taken.store.clone(),
        );
        r.register("events", "Events announced, by kind", self.events.clone());
        r.register(
            "event_readers",
            "Streams of events that are open",
            self.readers.clone(),
        );
        r.register(
            "event_gaps",
            "Times that a reader of events was told that it missed some, by why",
            self.gaps.clone(),
        );
        r.register(
            "audit_entries",
            "Entries of the audit log",
            self.taken.audit.clone(),
        );
        r.register(
            "alarms",
            "Alarms, by what somebody tried; also those that the audit log counts without an entry of their own",
            self.alarms.clone(),
        );
        r.register(
            "spans_exported",
            "Spans that the OpenTelemetry collector took",
            self.taken.spans.clone(),
        );
        r.register(
            "spans_dropped",
            "Spans that the OpenTelemetry collector did not take, or not in time",
            self.taken.lost_spans.clone(),
        );
        self.listeners.register(r);
    }

    /// Rows that came to a status.
    pub(crate) fn transition(&self, row: &Row) {
        let labels = [
            ("operation", row.operation.as_str()),
            ("status", row.status.as_str()),
        ];
        self.transitions.get_or_create(&labels).inc();
        if let Some(ended) = row.completed_at {
            let took = (ended.get() - row.started_at.get()).as_seconds_f64().max(0.0);
            self.durations.get_or_create(&labels).observe(took);
        }
    }

    pub(crate) fn announced(&self, kind: &'static str) {
        self.events.get_or_create(&[("kind", kind)]).inc();
    }

    pub(crate) fn gap(&self, reason: GapReason) {
        self.gaps.get_or_create(&[("reason", reason.as_str())]).inc();
    }

    /// A report was taken in, with so many events of which so many were known.
    pub(crate) fn report(&self, events: usize, known: usize) {
        self.reports.inc();
        self.report_events.inc_by(events as u64);
        self.duplicates.inc_by(known as u64);
    }

    pub(crate) fn report_rejected(&self, why: Rejected) {
        self.rejected.get_or_create(&[("reason", why.as_str())]).inc();
    }

    pub(crate) fn report_took(&self, took: Duration) {
        self.report_duration.observe(took.as_secs_f64());
    }

    pub(crate) fn alarm(&self, action: Action) {
        self.alarms.get_or_create(&[("action", action.as_str())]).inc();
    }

    /// What to tell the time of transactions.
    pub(crate) fn commits(&self) -> Arc<Commits> {
        Arc::clone(&self.commits)
    }

    /// The meter of a listener.
    #[must_use]
    pub fn listener(&self, name: &'static str) -> ListenerMeter {
        self.listeners.meter(name)
    }

    /// Where the store's file is.
    pub fn store_is_at(&self, path: PathBuf) {
        // It is where it was.
        let _ = self.store.set(path);
    }

    /// Who takes spans.
    pub(crate) fn traces_are_taken_by(&self, tracer: Tracer) {
        // It is the one that it was.
        let _ = self.tracer.set(tracer);
    }

    /// Everything as text, together with what the store holds now.
    ///
    /// # Errors
    /// Never in practice: text is written to memory.
    pub fn text(&self, tally: &Tally) -> Result<String, std::fmt::Error> {
        // One scrape at a time: each sets what it says.
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.take(tally);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn take(&self, tally: &Tally) {
        let taken = &self.taken;
        for state in HostState::ALL {
            set(&taken.hosts, "state", state.as_str(), count(&tally.hosts, &state));
        }
        for state in DeckyState::ALL {
            set(
                &taken.deckies,
                "state",
                state.as_str(),
                count(&tally.deckies, &state),
            );
        }
        for status in [RowStatus::Pending, RowStatus::Running] {
            set(
                &taken.open,
                "status",
                status.as_str(),
                count(&tally.open, &status),
            );
        }
        let store = |counter: &Counter, number| counter.inner().store(number, Ordering::Relaxed);
        store(&taken.audit, tally.audit);
        if let Some(tracer) = self.tracer.get() {
            store(&taken.spans, tracer.sent());
            store(&taken.lost_spans, tracer.dropped());
        }
        let bytes = self.store.get().and_then(|path| std::fs::metadata(path).ok());
        taken.store.set(bytes.map_or(0, |file| signed(file.len())));
        taken.process.take();
    }
}

fn count<T: PartialEq>(all: &[T], wanted: &T) -> usize {
    all.iter().filter(|one| *one == wanted).count()
}

fn set(gauges: &Gauges<1>, label: &'static str, value: &'static str, number: usize) {
    gauges.get_or_create(&[(label, value)]).set(signed(number as u64));
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number with a fraction.
type Fraction = Gauge<f64, AtomicU64>;

/// Something that is going on; over when it is dropped.
#[derive(Debug)]
pub(crate) struct Ongoing(Gauge);

impl Ongoing {
    pub(crate) fn begin(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.0.dec();
    }
}
