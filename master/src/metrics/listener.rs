//! What listeners count.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Counters, Gauges, Ongoing};

/// The connections of all listeners.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: Gauges<1>,
    accepted: Counters<1>,
    refused: Counters<2>,
}

impl Listeners {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "listener_connections",
            "Connections that are open, by listener",
            self.open.clone(),
        );
        r.register(
            "listener_accepted",
            "Connections that were accepted, by listener",
            self.accepted.clone(),
        );
        r.register(
            "listener_refused",
            "Connections that were ended before their time, by listener and why",
            self.refused.clone(),
        );
    }

    pub(super) fn meter(&self, name: &'static str) -> ListenerMeter {
        let label = [("listener", name)];
        for why in Refused::ALL {
            let labels = [("listener", name), ("reason", why.as_str())];
            drop(self.refused.get_or_create(&labels));
        }
        ListenerMeter {
            name,
            open: self.open.get_or_create_owned(&label),
            accepted: self.accepted.get_or_create_owned(&label),
            refused: self.refused.clone(),
        }
    }
}

/// Why a connection was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The TLS handshake failed: another protocol, no certificate of ours, one that is revoked.
    Handshake,
    /// The handshake took too long.
    HandshakeTime,
    /// It gave way to another one: all places were taken.
    GaveWay,
    /// No place was left for one more client that has proven itself.
    NoPlace,
    /// Its host was revoked, or its key replaced.
    Cut,
}

impl Refused {
    const ALL: [Self; 5] = [
        Self::Handshake,
        Self::HandshakeTime,
        Self::GaveWay,
        Self::NoPlace,
        Self::Cut,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::HandshakeTime => "handshake_time",
            Self::GaveWay => "gave_way",
            Self::NoPlace => "no_place",
            Self::Cut => "cut",
        }
    }
}

/// What one listener counts. The default one counts for nobody.
#[derive(Debug, Clone, Default)]
pub struct ListenerMeter {
    name: &'static str,
    open: Gauge,
    accepted: Counter,
    refused: Counters<2>,
}

impl ListenerMeter {
    /// A connection was accepted; it is open until what is given out is dropped.
    pub(crate) fn accept(&self) -> Ongoing {
        self.accepted.inc();
        Ongoing::begin(&self.open)
    }

    pub(crate) fn refuse(&self, why: Refused) {
        let labels = [("listener", self.name), ("reason", why.as_str())];
        self.refused.get_or_create(&labels).inc();
    }
}
