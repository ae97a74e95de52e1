//! What BuildKit tells while it builds: `StatusResponse` of its `api/services/control/control.proto`, as far as somebody who
//! reads along wants to know.

use std::collections::HashSet;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, repeated, tag = "1")]
    vertexes: Vec<Vertex>,
    #[prost(message, repeated, tag = "3")]
    logs: Vec<VertexLog>,
}

/// One step of a build. It is told again whenever something about it changes.
#[derive(Clone, PartialEq, Message)]
struct Vertex {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(string, tag = "3")]
    name: String,
    /// Set once it has begun: a `google.protobuf.Timestamp`.
    #[prost(bytes = "vec", optional, tag = "5")]
    started: Option<Vec<u8>>,
}

/// What a step's program wrote.
#[derive(Clone, PartialEq, Message)]
struct VertexLog {
    #[prost(bytes = "vec", tag = "4")]
    message: Vec<u8>,
}

/// The steps that were told already.
#[derive(Debug, Default)]
pub(super) struct Trace {
    told: HashSet<String>,
}

impl Trace {
    /// The lines that one message is worth: each step once, when it begins, and what programs wrote. None for a message
    /// that cannot be read.
    pub(super) fn lines(&mut self, message: &[u8]) -> Vec<String> {
        let Ok(status) = StatusResponse::decode(message) else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        for vertex in status.vertexes {
            if vertex.started.is_some() && self.told.insert(vertex.digest) {
                lines.push(vertex.name);
            }
        }
        let written = status.logs.iter();
        lines.extend(written.map(|log| String::from_utf8_lossy(&log.message).into_owned()));
        lines
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    fn vertex(digest: &str, name: &str, started: bool) -> Vertex {
        Vertex {
            digest: digest.to_owned(),
            name: name.to_owned(),
            started: started.then(Vec::new),
        }
    }

    #[test]
    fn a_step_is_told_once_when_it_begins() {
        let mut trace = Trace::default();
        let mut told = |vertex: Vertex| {
            let status = StatusResponse {
                vertexes: vec![vertex],
                logs: Vec::new(),
            };
            trace.lines(&status.encode_to_vec())
        };
        assert!(told(vertex("a", "COPY", false)).is_empty());
        assert_eq!(told(vertex("a", "COPY", true)), ["COPY"]);
        assert!(told(vertex("a", "COPY", true)).is_empty());
        assert_eq!(told(vertex("b", "COPY", true)), ["COPY"]);
    }

    #[test]
    fn what_programs_write_is_told_whatever_its_bytes() {
        let status = StatusResponse {
            vertexes: Vec::new(),
            logs: vec![VertexLog {
                message: b"one\n\xff".to_vec(),
            }],
        };
        let lines = Trace::default().lines(&status.encode_to_vec());
        assert_eq!(lines, ["one\n\u{fffd}"]);
    }

    /// As an engine 20.10.24 sent it.
    #[test]
    fn a_message_of_an_engine_is_read() {
        let message = BASE64_STANDARD
            .decode(
                "CpYBCkdzaGEyNTY6NGU4Nzk3YTI4YWM3NWU0ZmE5NGMxOGE5NDM0OWU1Nzg3YzY4MzAzMmNhYmY0ZGMxYTlkYWI5NTUxOTZl\
                 MTZlNBo9W2ludGVybmFsXSBsb2FkIG1ldGFkYXRhIGZvciBkb2NrZXIuaW8vbGlicmFyeS9iazJ0ZXN0OmxhdGVzdCoMCIKF\
                 h9gGEOuji8kD",
            )
            .unwrap();
        let lines = Trace::default().lines(&message);
        assert_eq!(
            lines,
            ["[internal] load metadata for docker.io/library/bk2test:latest"]
        );
        let cut = &message[..message.len() - 1];
        assert!(Trace::default().lines(cut).is_empty(), "damaged");
    }
}
