//! The master's part of a trace: an operation from its request to the end of its row, and every bundle that carries it to
//! its host.
//!
//! Where an operation stands in a trace is in its row, so that a master that was started again goes on with it. No span
//! says what an error said, only of what kind it was.

use decnet_trace::{Attribute, Kind, Moment, Span, Tracer, Value, fresh};
use decnet_wire::ids::{HostId, Timestamp};
use decnet_wire::trace::Traceparent;

use super::Control;
use crate::audit::Actor;
use crate::records::{Row, RowStatus, Trace};

impl Control {
    /// Takes spans.
    pub(crate) fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Announces rows that were just committed.
    pub(super) fn announce(&self, rows: &[Row]) {
        self.events.announce(rows);
        for row in rows {
            if let Some(span) = whole(row) {
                self.tracer.record(span);
            }
        }
    }
}

/// Where an operation stands that `by` asks for. None: nobody keeps its trace.
pub(super) fn place(tracer: &Tracer, by: &Actor) -> Option<Trace> {
    if !tracer.is_on() {
        return None;
    }
    let above = by.trace();
    let traceparent = fresh(above);
    traceparent.sampled.then(|| Trace {
        traceparent,
        parent: above.map(|above| above.span),
    })
}

/// The span of a request that begins operations.
pub(crate) fn request(
    at: Traceparent,
    above: Option<Traceparent>,
    name: (&str, &str),
    status: u16,
    begun: Timestamp,
    ended: Timestamp,
) -> Span {
    let (method, route) = name;
    let parent = above.map(|above| above.span);
    let mut span = Span::new(at, parent, format!("{method} {route}"), begun, ended);
    span.kind = Kind::Server;
    span.attributes = vec![
        ("http.request.method", Value::text(method)),
        ("http.route", Value::text(route)),
        ("http.response.status_code", Value::Number(status.into())),
    ];
    span.error = (status >= 500).then_some("internal");
    span
}

/// A bundle that carries an operation whose host has not begun. None when the operation is not traced.
pub(super) fn published(
    row: &Row,
    host: HostId,
    generation: u64,
    begun: Timestamp,
    ended: Timestamp,
) -> Option<Span> {
    let trace = row.trace.filter(|_| row.status == RowStatus::Pending)?;
    let mut span = Span::below(trace.traceparent, "publish bundle", begun, ended);
    span.kind = Kind::Producer;
    span.attributes = attributes(row, Some(host));
    span.attributes
        .push(("decnet.generation", Value::Number(generation)));
    Some(span)
}

/// The operation itself. None when it has not ended, or is not traced.
fn whole(row: &Row) -> Option<Span> {
    let trace = row.trace.filter(|_| row.status.is_terminal())?;
    let name = format!("operation {}", row.operation.as_str());
    let mut span = Span::new(
        trace.traceparent,
        trace.parent,
        name,
        row.started_at,
        row.updated_at,
    );
    span.attributes = attributes(row, row.host);
    span.attributes
        .push(("decnet.outcome", Value::text(row.status.as_str())));
    let moment = |transition: &crate::records::Transition| Moment {
        name: transition.status.as_str(),
        at: transition.at,
    };
    span.events = row.transitions.iter().map(moment).collect();
    span.error = match row.status {
        RowStatus::Failed => Some(row.cause.map_or("failed", |cause| cause.as_str())),
        _ => None,
    };
    Some(span)
}

fn attributes(row: &Row, host: Option<HostId>) -> Vec<Attribute> {
    let mut attributes = vec![
        ("decnet.operation.id", Value::text(row.id)),
        ("decnet.decky", Value::text(&row.decky)),
    ];
    attributes.extend(host.map(|host| ("decnet.host.id", Value::text(host))));
    attributes
}

#[cfg(test)]
mod tests {
    use decnet_wire::bundle::OperationKind;
    use decnet_wire::ids::OperationId;
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;
    use crate::audit::Who;
    use crate::records::{Cause, End};

    fn at(second: u8) -> Timestamp {
        Timestamp::new(datetime!(2026-03-01 12:00 UTC).replace_second(second).unwrap())
    }

    fn on() -> Tracer {
        Tracer::new("http://127.0.0.1:4318".parse().unwrap(), Vec::new()).0
    }

    fn host() -> HostId {
        HostId::new(Uuid::from_u128(7))
    }

    fn row(trace: Option<Trace>) -> Row {
        let id = OperationId::new(Uuid::from_u128(3));
        let decky = "web".parse().unwrap();
        let mut row = Row::begin(id, OperationKind::Deploy, decky, host(), &Who::Master {}, at(1));
        row.trace = trace;
        row
    }

    #[test]
    fn an_operation_belongs_to_the_trace_of_its_request_or_begins_one_of_its_own() {
        let request = fresh(None);
        let asked = Actor::local(0).traced(request);
        let trace = place(&on(), &asked).unwrap();
        assert_eq!(
            (trace.traceparent.trace, trace.parent),
            (request.trace, Some(request.span))
        );
        assert_ne!(trace.traceparent.span, request.span);
        let alone = place(&on(), &Actor::master()).unwrap();
        assert_eq!(alone.parent, None);
        assert_ne!(
            alone.traceparent.trace,
            place(&on(), &Actor::master()).unwrap().traceparent.trace
        );
    }

    #[test]
    fn nothing_is_traced_while_it_is_off_nor_what_the_caller_does_not_sample() {
        let request = fresh(None);
        assert_eq!(place(&Tracer::off(), &Actor::local(0).traced(request)), None);
        let unsampled = Traceparent {
            sampled: false,
            ..request
        };
        assert_eq!(place(&on(), &Actor::local(0).traced(unsampled)), None);
    }

    #[test]
    fn the_span_of_an_operation_holds_its_transitions_and_that_of_a_bundle_is_below_it() {
        let request = fresh(None);
        let trace = place(&on(), &Actor::local(0).traced(request)).unwrap();
        let mut row = row(Some(trace));
        let bundle = published(&row, host(), 4, at(2), at(3)).unwrap();
        assert_eq!(
            (bundle.trace, bundle.parent),
            (request.trace, Some(trace.traceparent.span))
        );
        assert_eq!(whole(&row), None, "it has not ended");
        row.run(&Who::Master {}, at(5));
        assert_eq!(published(&row, host(), 5, at(6), at(6)), None, "its host has it");
        row.end(
            End::Failed(Cause::EngineDown, "a secret".to_owned()),
            &Who::Master {},
            at(9),
        );
        let span = whole(&row).unwrap();
        assert_eq!((span.trace, span.id), (request.trace, trace.traceparent.span));
        assert_eq!(span.parent, Some(request.span));
        assert_eq!((span.begun, span.ended), (at(1), at(9)));
        let moments: Vec<_> = span
            .events
            .iter()
            .map(|moment| (moment.name, moment.at))
            .collect();
        assert_eq!(
            moments,
            [("pending", at(1)), ("running", at(5)), ("failed", at(9))]
        );
        assert_eq!(span.error, Some("engine-down"));
        assert!(!format!("{span:?}").contains("secret"));
    }

    #[test]
    fn a_row_without_a_trace_makes_no_spans() {
        let mut row = row(None);
        assert_eq!(published(&row, host(), 1, at(1), at(2)), None);
        row.end(End::Succeeded, &Who::Master {}, at(9));
        assert_eq!(whole(&row), None);
    }
}
