//! The call that builds an image: `POST /build`, with the context as its body.
//!
//! It is made here because bollard speaks to BuildKit through a session only; `docs-dev/builders.md` says what that would
//! bring. Each line of the answer is a JSON object about one thing that happened.

use std::collections::VecDeque;
use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bollard::errors::Error;
use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncBufReadExt as _;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::io::StreamReader;

use super::Body;
use super::trace::Trace;

/// The last lines of a build that failed, which its error repeats.
const LAST: usize = 5;

/// One line of the answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    /// What the classic builder says, and both at the end.
    stream: Option<String>,
    error: Option<String>,
    id: Option<String>,
    aux: Option<Value>,
}

/// Sends a build to the engine behind `socket` and tells what it says, a line at a time, until it ends.
pub(super) async fn post(
    socket: &str,
    target: &str,
    context: Body,
    mut tell: impl FnMut(&str),
) -> Result<(), Error> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this call: the engine gives up a build whose caller has left.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(target)
        .header(header::HOST, "docker")
        .header(header::CONTENT_TYPE, "application/x-tar")
        .body(StreamBody::new(context.map_ok(Frame::data)))?;
    let answer = sender.send_request(request).await?;
    if answer.status() != StatusCode::OK {
        return Err(refusal(answer).await);
    }

    let body = answer.into_body().into_data_stream().map_err(io::Error::other);
    let mut lines = StreamReader::new(body).lines();
    let mut trace = Trace::default();
    let mut last = VecDeque::new();
    while let Some(line) = lines.next_line().await? {
        if line.trim().is_empty() {
            continue;
        }
        let said: Line = serde_json::from_str(&line).map_err(|error| Error::JsonDataError {
            message: error.to_string(),
            column: error.column(),
        })?;
        let mut texts = Vec::new();
        if let Some(text) = said.stream {
            texts.push(text);
        }
        if let (Some("moby.buildkit.trace"), Some(Value::String(encoded))) = (said.id.as_deref(), &said.aux) {
            // What cannot be read is no more than progress.
            let message = BASE64_STANDARD.decode(encoded).unwrap_or_default();
            texts.extend(trace.lines(&message));
        }
        for text in texts.iter().flat_map(|text| text.lines()) {
            if !text.trim().is_empty() {
                tell(text);
                if last.len() == LAST {
                    last.pop_front();
                }
                last.push_back(text.to_owned());
            }
        }
        if let Some(error) = said.error {
            let mut whole = error;
            if !last.is_empty() {
                let last: Vec<_> = last.into();
                whole = format!("{whole}; the build's last lines: {}", last.join(" | "));
            }
            return Err(Error::DockerStreamError { error: whole });
        }
    }
    Ok(())
}

/// What the engine says instead of building.
async fn refusal(answer: Response<Incoming>) -> Error {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    let status_code = answer.status().as_u16();
    let body = match answer.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let message = match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
    };
    Error::DockerResponseServerError { status_code, message }
}
