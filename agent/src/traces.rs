//! The agent's part of a trace: an operation from its admission to its end, and below it the admission itself and every
//! step.
//!
//! Of what a bundle says of traces only ids are taken. No span says what an error said: it may name what a host keeps to
//! itself.

use std::collections::{BTreeMap, BTreeSet};

use decnet_trace::{Attribute, Kind, Span, Tracer, Value};
use decnet_wire::bundle::{Bundle, Stack};
use decnet_wire::ids::{DeckyName, HostId, OperationId, StackName, Timestamp};
use decnet_wire::trace::{SpanId, Traceparent};

use crate::ledger::{OperationRecord, OperationState};
use crate::reconcile::{Outcome, Part};

/// An operation that belongs to a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Traced {
    host: HostId,
    stack: StackName,
    decky: DeckyName,
    operation: OperationId,
    /// The agent's own span of it. Its id follows from the operation's, so that it is the same after a restart.
    own: Traceparent,
    /// The master's.
    above: SpanId,
}

impl Traced {
    /// None when the stack's operation belongs to no trace, or to one that nobody keeps.
    pub(crate) fn new(host: HostId, stack: &Stack) -> Option<Self> {
        let operation = stack.operation?;
        let above = operation.traceparent.filter(|above| above.sampled)?;
        let span = SpanId::of(operation.id.uuid())?;
        Some(Self {
            host,
            stack: stack.name.clone(),
            decky: stack.decky.clone(),
            operation: operation.id,
            own: Traceparent { span, ..above },
            above: above.span,
        })
    }

    fn attributes(&self) -> Vec<Attribute> {
        vec![
            ("decnet.host.id", Value::text(self.host)),
            ("decnet.stack", Value::text(&self.stack)),
            ("decnet.decky", Value::text(&self.decky)),
            ("decnet.operation.id", Value::text(self.operation)),
        ]
    }

    /// From the arrival of the bundle that asks for it until it is in the ledger.
    pub(crate) fn admission(&self, generation: u64, begun: Timestamp, ended: Timestamp) -> Span {
        let mut span = Span::below(self.own, "admit bundle", begun, ended);
        span.attributes = self.attributes();
        span.attributes
            .push(("decnet.generation", Value::Number(generation)));
        span
    }

    /// One step for it.
    pub(crate) fn step(&self, kind: &str, begun: Timestamp, ended: Timestamp, outcome: &Outcome) -> Span {
        let mut span = Span::below(self.own, format!("step {kind}"), begun, ended);
        span.attributes = self.attributes();
        span.attributes.push(("decnet.step.kind", Value::text(kind)));
        span.error = outcome.code();
        let outcome = if span.error.is_none() { "done" } else { "failed" };
        span.attributes.push(("decnet.outcome", Value::text(outcome)));
        span
    }

    /// From its admission to its end.
    fn whole(&self, record: &OperationRecord) -> Span {
        let name = format!("host {}", record.kind.as_str());
        let (begun, ended) = (record.opened_at, record.changed_at);
        let mut span = Span::new(self.own, Some(self.above), name, begun, ended);
        span.kind = Kind::Consumer;
        span.attributes = self.attributes();
        span.attributes
            .push(("decnet.outcome", Value::text(record.state.as_str())));
        span.error = (record.state == OperationState::Failed).then_some("failed");
        span
    }
}

/// The operations under way that belong to a trace. What is forgotten here costs a span.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(BTreeMap<StackName, Traced>);

impl UnderWay {
    /// Takes up what the bundle asks for and is not done.
    pub(crate) fn take_up(
        &mut self,
        host: HostId,
        bundle: &Bundle,
        operations: &BTreeMap<OperationId, OperationRecord>,
        tracer: &Tracer,
    ) {
        self.end(operations, tracer);
        if !tracer.is_on() {
            return;
        }
        let traced = bundle.stacks.iter().filter_map(|stack| Traced::new(host, stack));
        let open = |traced: &Traced| {
            let known = operations.get(&traced.operation);
            known.is_some_and(|known| !known.state.is_terminal())
        };
        self.0
            .extend(traced.filter(open).map(|traced| (traced.stack.clone(), traced)));
    }

    /// Tells of those that have ended.
    pub(crate) fn end(&mut self, operations: &BTreeMap<OperationId, OperationRecord>, tracer: &Tracer) {
        self.0.retain(|_, traced| {
            // One that the ledger has forgotten ended unseen.
            let Some(record) = operations.get(&traced.operation) else {
                return false;
            };
            if record.state.is_terminal() {
                tracer.record(traced.whole(record));
            }
            !record.state.is_terminal()
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose trace a step belongs to: of the stacks that it serves, the first one that has any. A step that many wait
    /// for is told of once.
    pub(crate) fn of_step(&self, served: &BTreeSet<Part>) -> Option<&Traced> {
        served.iter().flatten().find_map(|stack| self.0.get(stack))
    }
}

#[cfg(test)]
mod tests {
    use decnet_docker::Fault;
    use decnet_wire::bundle::{Operation, OperationKind};
    use time::macros::datetime;

    use super::*;
    use crate::testing::{Signer, document, operation, stack};

    const MASTERS: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn host() -> HostId {
        HostId::new(uuid::Uuid::from_u128(7))
    }

    fn at(second: u8) -> Timestamp {
        Timestamp::new(datetime!(2026-03-01 12:00 UTC).replace_second(second).unwrap())
    }

    fn traced(traceparent: Option<&str>) -> Stack {
        let operation = Operation {
            traceparent: traceparent.map(|text| text.parse().unwrap()),
            ..operation(0x0190_b6f2_7a4e_7c1a_9f57_3b1f_6f2f_8a11, OperationKind::Deploy)
        };
        stack("web", document(5, &["ssh"]), Some(operation))
    }

    fn record(state: OperationState) -> BTreeMap<OperationId, OperationRecord> {
        let stack = traced(None);
        let record = OperationRecord {
            stack: stack.name,
            decky: stack.decky,
            kind: OperationKind::Deploy,
            state,
            attempts: 0,
            error: Some("a secret of the host".to_owned()),
            opened_at: at(1),
            changed_at: at(9),
        };
        BTreeMap::from([(stack.operation.unwrap().id, record)])
    }

    #[test]
    fn steps_and_admission_are_below_the_operation_and_that_is_below_the_masters() {
        let traced = Traced::new(host(), &traced(Some(MASTERS))).unwrap();
        let masters: Traceparent = MASTERS.parse().unwrap();
        let operations = record(OperationState::Succeeded);
        let whole = traced.whole(&operations[&traced.operation]);
        assert_eq!((whole.trace, whole.parent), (masters.trace, Some(masters.span)));
        assert_eq!((whole.begun, whole.ended), (at(1), at(9)));
        assert_eq!(
            whole.id.to_string(),
            "9f573b1f6f2f8a11",
            "the same after a restart"
        );
        let admission = traced.admission(3, at(1), at(2));
        let step = traced.step("create-container", at(3), at(4), &Outcome::Done);
        for below in [&admission, &step] {
            assert_eq!((below.trace, below.parent), (masters.trace, Some(whole.id)));
        }
        assert_ne!(admission.id, step.id);
        assert_eq!((step.name.as_str(), step.error), ("step create-container", None));
    }

    #[test]
    fn a_failure_is_told_by_its_code_alone() {
        let traced = Traced::new(host(), &traced(Some(MASTERS))).unwrap();
        let failed = Outcome::Failed {
            error: "a secret of the host".to_owned(),
            fault: Fault::Wish,
        };
        let step = traced.step("start-container", at(3), at(4), &failed);
        assert_eq!(step.error, Some("wish"));
        let whole = traced.whole(&record(OperationState::Failed)[&traced.operation]);
        assert_eq!(whole.error, Some("failed"));
        assert!(!format!("{step:?}{whole:?}").contains("secret"));
    }

    #[test]
    fn what_belongs_to_no_trace_or_to_one_that_is_not_kept_is_not_traced() {
        assert_eq!(Traced::new(host(), &traced(None)), None);
        let unsampled = MASTERS.replace("-01", "-00");
        assert_eq!(Traced::new(host(), &traced(Some(&unsampled))), None);
    }

    #[test]
    fn an_operation_is_told_of_once_when_it_has_ended() {
        let endpoint = "http://127.0.0.1:4318".parse().unwrap();
        // Every span that comes is counted as dropped: nobody sends it.
        let (tracer, exporter) = Tracer::new(endpoint, Vec::new());
        drop(exporter);
        let bundle = Signer::new().bundle(1, vec![traced(Some(MASTERS))]);
        let part = BTreeSet::from([None, Some("other".parse().unwrap()), Some("web".parse().unwrap())]);
        let mut under_way = UnderWay::default();
        under_way.take_up(host(), &bundle, &record(OperationState::Running), &tracer);
        assert!(under_way.of_step(&part).is_some());
        assert!(under_way.of_step(&BTreeSet::from([None])).is_none());
        under_way.end(&record(OperationState::Running), &tracer);
        assert_eq!(tracer.dropped(), 0);
        under_way.end(&record(OperationState::Succeeded), &tracer);
        under_way.take_up(host(), &bundle, &record(OperationState::Succeeded), &tracer);
        assert_eq!(tracer.dropped(), 1);
        assert!(under_way.is_empty());
    }

    #[test]
    fn nothing_is_followed_while_tracing_is_off() {
        let bundle = Signer::new().bundle(1, vec![traced(Some(MASTERS))]);
        let mut under_way = UnderWay::default();
        under_way.take_up(host(), &bundle, &record(OperationState::Running), &Tracer::off());
        assert!(under_way.is_empty());
    }
}
