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
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use super::Body;
use super::trace::Trace;

/// The last lines of a build that failed, which its error repeats.
const LAST: usize = 5;
/// Bytes of one line of the answer, and of a refusal.
const LONGEST_LINE: usize = 4 << 20;
const LONGEST_REFUSAL: usize = 64 << 10;

/// What became of a build.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Built,
    /// The builder's own words, and the last lines of the build.
    Failed {
        why: String,
        last: Vec<String>,
    },
}

/// One line of the answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    /// What the classic builder says, and both at the end.
    stream: Option<String>,
    /// Engines that have both say the same in both.
    #[serde(rename = "errorDetail")]
    detail: Option<Refusal>,
    error: Option<String>,
    id: Option<String>,
    aux: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    message: String,
}

/// Sends a build to the engine behind `socket` and tells what it says, a line at a time, until it ends.
pub(super) async fn post(
    socket: &str,
    target: &str,
    context: Body,
    mut tell: impl FnMut(&str),
) -> Result<Outcome, Error> {
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
    let lines = LinesCodec::new_with_max_length(LONGEST_LINE);
    let mut lines = FramedRead::new(StreamReader::new(body), lines);
    let mut trace = Trace::default();
    let mut last = VecDeque::new();
    let mut built = false;
    while let Some(line) = lines.next().await {
        let line = line.map_err(|error| match error {
            LinesCodecError::Io(error) => error,
            LinesCodecError::MaxLineLengthExceeded => io::ErrorKind::InvalidData.into(),
        })?;
        if line.trim().is_empty() {
            continue;
        }
        let said: Line = serde_json::from_str(&line).map_err(|error| Error::JsonDataError {
            message: error.to_string(),
            column: error.column(),
        })?;
        let mut texts = Vec::from_iter(said.stream);
        match (said.id.as_deref(), said.aux) {
            (Some("moby.buildkit.trace"), Some(Value::String(encoded))) => {
                // What cannot be read is no more than progress.
                let message = BASE64_STANDARD.decode(encoded).unwrap_or_default();
                texts.extend(trace.lines(&message));
            }
            // The image's id, which both builders tell.
            (_, Some(aux)) => built |= aux.get("ID").is_some_and(Value::is_string),
            (_, None) => {}
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
        let detail = said.detail.map(|detail| detail.message);
        if let Some(why) = detail.filter(|why| !why.is_empty()).or(said.error) {
            let last = last.into();
            return Ok(Outcome::Failed { why, last });
        }
    }
    if built {
        return Ok(Outcome::Built);
    }
    Ok(Outcome::Failed {
        why: "the engine's answer ended and named no image".to_owned(),
        last: last.into(),
    })
}

/// What the engine says instead of building.
async fn refusal(answer: Response<Incoming>) -> Error {
    let status_code = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), LONGEST_REFUSAL).collect().await;
    let body = body.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
    let message = match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
    };
    Error::DockerResponseServerError { status_code, message }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    /// What becomes of a build that an engine answers with these bytes.
    async fn answered(answer: &'static str) -> Result<Outcome, Error> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let engine = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            // The end of a body that comes in chunks.
            while !seen.ends_with(b"0\r\n\r\n") {
                assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0);
            }
            client.write_all(answer.as_bytes()).await.unwrap();
        });
        let body = stream::iter([Ok(Bytes::from_static(b"context"))]).boxed();
        let outcome = post(&socket.display().to_string(), "/build", body, |_| {}).await;
        engine.await.unwrap();
        outcome
    }

    fn failed(why: &str, last: &[&str]) -> Outcome {
        Outcome::Failed {
            why: why.to_owned(),
            last: last.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    #[tokio::test]
    async fn a_build_is_done_when_the_engine_names_the_image() {
        let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"stream\":\"one\\n\"}\r\n\
                      {\"aux\":{\"ID\":\"sha256:1\"}}\r\n{\"stream\":\"two\"}\r\n";
        assert_eq!(answered(answer).await.unwrap(), Outcome::Built);
    }

    #[tokio::test]
    async fn an_answer_that_ends_without_an_image_is_a_failure() {
        let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"stream\":\"one\\n\"}\r\n";
        let why = "the engine's answer ended and named no image";
        assert_eq!(answered(answer).await.unwrap(), failed(why, &["one"]));
    }

    #[tokio::test]
    async fn an_error_is_told_with_the_lines_before_it_in_either_of_its_forms() {
        for line in [
            "{\"errorDetail\":{\"message\":\"no\"}}",
            "{\"error\":\"no\"}",
            "{\"errorDetail\":{},\"error\":\"no\"}",
        ] {
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"stream\":\"1\\n2\\n3\\n4\\n5\\n6\"}\n";
            let answer: &'static str = format!("{head}{line}\n").leak();
            assert_eq!(
                answered(answer).await.unwrap(),
                failed("no", &["2", "3", "4", "5", "6"])
            );
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_engines_words_and_a_cut_answer_is_no_result() {
        let error = answered("HTTP/1.1 400 Bad Request\r\nContent-Length: 17\r\n\r\n{\"message\":\"bad\"}");
        let error = error.await.unwrap_err();
        assert!(
            matches!(&error, Error::DockerResponseServerError { status_code: 400, message } if message == "bad"),
            "{error:?}"
        );
        let error = answered("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"aux").await;
        assert!(matches!(error, Err(Error::IOError { .. })), "{error:?}");
    }
}
