//! A span, and how OTLP writes it in JSON (OTLP 1, "JSON Protobuf Encoding"): ids in lower-case hex, 64-bit numbers as
//! decimal strings, enumerations as numbers.

use decnet_wire::ids::Timestamp;
use decnet_wire::trace::{SpanId, TraceId, Traceparent};
use serde_json::json;

/// Something that took time, once it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub trace: TraceId,
    pub id: SpanId,
    /// None: the first of its trace.
    pub parent: Option<SpanId>,
    /// One of few: what differs from one to the next is an attribute.
    pub name: String,
    pub kind: Kind,
    pub begun: Timestamp,
    /// Not before it began, whatever the clock did.
    pub ended: Timestamp,
    pub attributes: Vec<Attribute>,
    pub events: Vec<Moment>,
    /// A code that names why it failed, as the attribute `error.type`.
    pub error: Option<&'static str>,
}

/// A name of OpenTelemetry's semantic conventions, or one of ours that begins with `decnet.`, and its value.
pub type Attribute = (&'static str, Value);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(u64),
}

impl Value {
    /// Anything that has a text.
    pub fn text(value: impl std::fmt::Display) -> Self {
        Self::Text(value.to_string())
    }
}

/// A moment within a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub name: &'static str,
    pub at: Timestamp,
}

/// What a span is to those on the other side of it (`SpanKind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Internal,
    /// It answers a request.
    Server,
    /// It hands on what another process takes up later.
    Producer,
    /// It takes up what another process handed on.
    Consumer,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Server => 2,
            Self::Producer => 4,
            Self::Consumer => 5,
        }
    }
}

/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

impl Span {
    /// The span that `at` names.
    #[must_use]
    pub fn new(
        at: Traceparent,
        parent: Option<SpanId>,
        name: impl Into<String>,
        begun: Timestamp,
        ended: Timestamp,
    ) -> Self {
        Self {
            trace: at.trace,
            id: at.span,
            parent,
            name: name.into(),
            kind: Kind::Internal,
            begun,
            ended: ended.max(begun),
            attributes: Vec::new(),
            events: Vec::new(),
            error: None,
        }
    }

    /// A fresh span below another one.
    #[must_use]
    pub fn below(parent: Traceparent, name: impl Into<String>, begun: Timestamp, ended: Timestamp) -> Self {
        Self::new(crate::fresh(Some(parent)), Some(parent.span), name, begun, ended)
    }

    fn json(&self) -> serde_json::Value {
        let mut attributes = json_attributes(&self.attributes);
        if let Some(code) = self.error {
            attributes.push(json_attribute("error.type", &Value::text(code)));
        }
        let events: Vec<_> = self
            .events
            .iter()
            .map(|moment| json!({ "timeUnixNano": nanoseconds(moment.at), "name": moment.name }))
            .collect();
        let mut span = json!({
            "traceId": self.trace,
            "spanId": self.id,
            "name": self.name,
            "kind": self.kind.number(),
            "startTimeUnixNano": nanoseconds(self.begun),
            "endTimeUnixNano": nanoseconds(self.ended),
            "attributes": attributes,
            "events": events,
            "status": {},
        });
        if let Some(parent) = self.parent {
            span["parentSpanId"] = json!(parent);
        }
        if self.error.is_some() {
            span["status"] = json!({ "code": ERROR });
        }
        span
    }
}

/// The body of a request (`ExportTraceServiceRequest`).
pub(crate) fn request(resource: &[Attribute], spans: &[Span]) -> serde_json::Value {
    let spans: Vec<_> = spans.iter().map(Span::json).collect();
    json!({
        "resourceSpans": [{
            "resource": { "attributes": json_attributes(resource) },
            "scopeSpans": [{
                "scope": { "name": "decnet", "version": env!("CARGO_PKG_VERSION") },
                "spans": spans,
            }],
        }],
    })
}

fn json_attributes(attributes: &[Attribute]) -> Vec<serde_json::Value> {
    attributes
        .iter()
        .map(|(key, value)| json_attribute(key, value))
        .collect()
}

fn json_attribute(key: &str, value: &Value) -> serde_json::Value {
    let value = match value {
        Value::Text(text) => json!({ "stringValue": text }),
        Value::Number(number) => json!({ "intValue": number.to_string() }),
    };
    json!({ "key": key, "value": value })
}

fn nanoseconds(at: Timestamp) -> String {
    // A fixed64: no moment before 1970 has one.
    at.get().unix_timestamp_nanos().max(0).to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use time::macros::datetime;

    use super::*;

    fn at(millisecond: u16) -> Timestamp {
        Timestamp::new(
            datetime!(2026-03-01 12:00 UTC)
                .replace_millisecond(millisecond)
                .unwrap(),
        )
    }

    fn parent() -> Traceparent {
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            .parse()
            .unwrap()
    }

    pub(crate) fn span() -> Span {
        Span::below(parent(), "step", at(5), at(9))
    }

    #[test]
    fn a_span_is_written_as_otlp_has_it_in_json() {
        let own = "00-4bf92f3577b34da6a3ce929d0e0e4736-53995c3f42cd8ad8-01"
            .parse()
            .unwrap();
        let mut span = Span::new(own, Some(parent().span), "step", at(5), at(9));
        span.kind = Kind::Consumer;
        span.attributes = vec![
            ("decnet.step", Value::text("load-image")),
            ("decnet.generation", Value::Number(7)),
        ];
        span.events = vec![Moment {
            name: "pending",
            at: at(6),
        }];
        span.error = Some("wish");
        let body = request(&[("service.name", Value::text("decnet-agent"))], &[span]);
        let expected = json!({
            "resourceSpans": [{
                "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": "decnet-agent" } }] },
                "scopeSpans": [{
                    "scope": { "name": "decnet", "version": env!("CARGO_PKG_VERSION") },
                    "spans": [{
                        "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
                        "spanId": "53995c3f42cd8ad8",
                        "parentSpanId": "00f067aa0ba902b7",
                        "name": "step",
                        "kind": 5,
                        "startTimeUnixNano": "1772366400005000000",
                        "endTimeUnixNano": "1772366400009000000",
                        "attributes": [
                            { "key": "decnet.step", "value": { "stringValue": "load-image" } },
                            { "key": "decnet.generation", "value": { "intValue": "7" } },
                            { "key": "error.type", "value": { "stringValue": "wish" } },
                        ],
                        "events": [{ "timeUnixNano": "1772366400006000000", "name": "pending" }],
                        "status": { "code": 2 },
                    }],
                }],
            }],
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn the_first_span_of_a_trace_has_no_parent_and_what_did_not_fail_has_no_status() {
        let first = Span::new(parent(), None, "request", at(1), at(2)).json();
        assert_eq!(first.get("parentSpanId"), None);
        assert_eq!(first["status"], json!({}));
    }

    #[test]
    fn a_span_ends_no_earlier_than_it_begins_when_the_clock_was_set_back() {
        let span = Span::below(parent(), "step", at(9), at(5));
        assert_eq!((span.begun, span.ended), (at(9), at(9)));
        assert_eq!((span.trace, span.parent), (parent().trace, Some(parent().span)));
        assert_ne!(span.id, parent().span);
    }
}
