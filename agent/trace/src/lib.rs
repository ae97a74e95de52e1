//! Spans of operations, sent to an OpenTelemetry collector as OTLP 1 over HTTP, in JSON.
//!
//! ```text
//!  master, agent ─▶ Tracer::record ─▶ queue of QUEUE spans ─▶ Exporter::run ─▶ POST <endpoint>/v1/traces
//! ```
//!
//! Guarantees: whoever records a span never waits and never fails. While the collector is away, slow or talks nonsense, a
//! queue of spans and one batch are held; what does not fit is counted and gone.

mod endpoint;
mod export;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use uuid::Uuid;

use decnet_wire::trace::{SpanId, TraceId, Traceparent};

pub use endpoint::{Endpoint, EndpointError};
pub use export::Exporter;
pub use span::{Attribute, Kind, Moment, Span, Value};

/// Spans that wait to be sent.
pub const QUEUE: usize = 1024;

/// Takes spans. A clone is the same one.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Inlet>>);

#[derive(Debug)]
struct Inlet {
    queue: mpsc::Sender<Span>,
    counts: Arc<Counts>,
}

/// What became of spans.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Tracer {
    /// One that takes nothing.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// One that takes spans for a collector, and what sends them there: to be run. `resource` says whose spans they are,
    /// in the names of OpenTelemetry's semantic conventions.
    #[must_use]
    pub fn new(to: Endpoint, resource: Vec<Attribute>) -> (Self, Exporter) {
        let (queue, spans) = mpsc::channel(QUEUE);
        let counts = Arc::new(Counts::default());
        let exporter = Exporter::new(to, resource, spans, Arc::clone(&counts));
        (Self(Some(Arc::new(Inlet { queue, counts }))), exporter)
    }

    /// Whether anybody wants spans.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Takes a span that has ended, if there is place for it.
    pub fn record(&self, span: Span) {
        if let Some(inlet) = &self.0
            && inlet.queue.try_send(span).is_err()
        {
            inlet.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans that a collector took.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.count(|counts| &counts.sent)
    }

    /// Spans that no collector got.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.count(|counts| &counts.dropped)
    }

    fn count(&self, which: impl Fn(&Counts) -> &AtomicU64) -> u64 {
        let inlet = self.0.as_ref();
        inlet.map_or(0, |inlet| which(&inlet.counts).load(Ordering::Relaxed))
    }
}

/// A fresh span in a trace that goes on, or in a fresh trace.
#[must_use]
pub fn fresh(within: Option<Traceparent>) -> Traceparent {
    let trace = match within {
        Some(within) => within.trace,
        None => fresh_trace(),
    };
    Traceparent {
        trace,
        span: fresh_span(),
        sampled: within.is_none_or(|within| within.sampled),
    }
}

fn fresh_trace() -> TraceId {
    loop {
        // Never zeros alone: its version is 4.
        if let Some(id) = TraceId::new(Uuid::new_v4().into_bytes()) {
            return id;
        }
    }
}

fn fresh_span() -> SpanId {
    loop {
        // Never zeros alone: its variant is that of RFC 9562.
        if let Some(id) = SpanId::of(Uuid::new_v4()) {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::tests::span;

    #[test]
    fn what_does_not_fit_into_the_queue_is_counted_and_nobody_waits() {
        let endpoint = "http://127.0.0.1:4318".parse().unwrap();
        let (tracer, exporter) = Tracer::new(endpoint, Vec::new());
        for _ in 0..QUEUE + 3 {
            tracer.record(span());
        }
        assert_eq!((tracer.sent(), tracer.dropped()), (0, 3));
        drop(exporter);
        tracer.record(span());
        assert_eq!(tracer.dropped(), 4, "nobody is left to send it");
    }

    #[test]
    fn a_span_within_a_trace_stays_in_it_and_one_without_begins_another() {
        let first = fresh(None);
        let second = fresh(Some(first));
        assert_eq!((second.trace, second.sampled), (first.trace, true));
        assert_ne!(second.span, first.span);
        assert_ne!(fresh(None).trace, first.trace);
        let unsampled = Traceparent {
            sampled: false,
            ..first
        };
        assert!(!fresh(Some(unsampled)).sampled);
    }
}
