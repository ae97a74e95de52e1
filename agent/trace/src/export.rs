//! Sends spans to the collector, a batch at a time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::span::{Attribute, Span, request};
use crate::{Counts, Endpoint};

/// Spans that are sent at once.
const BATCH: usize = 256;
/// How long spans are gathered after the first one.
const GATHER: Duration = Duration::from_secs(1);
/// How long one request may take, connecting included.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a batch is sent that the collector may take later.
const TRIES: u32 = 5;
/// Before the second try; twice as long before each one after that.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of the program may take for the last spans.
const FAREWELL: Duration = Duration::from_secs(2);
/// The head of an answer is no longer, in bytes. Its body is not read.
const ANSWER: usize = 16 * 1024;

/// Sends what its [`Tracer`](crate::Tracer) takes.
#[derive(Debug)]
pub struct Exporter {
    to: Endpoint,
    resource: Vec<Attribute>,
    spans: mpsc::Receiver<Span>,
    counts: Arc<Counts>,
    /// The collector did not take the last batch.
    failing: bool,
}

/// A batch that was not taken.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("the exchange broke off: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Timeout,
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("it answered {0}")]
    Status(StatusCode),
}

impl PostError {
    /// Whether the same batch may be taken later (OTLP 1, "Retryable Response Codes", "All Other Responses").
    fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Exchange(_) | Self::Timeout => true,
            Self::Request(_) => false,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

impl Exporter {
    pub(crate) fn new(
        to: Endpoint,
        resource: Vec<Attribute>,
        spans: mpsc::Receiver<Span>,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            to,
            resource,
            spans,
            counts,
            failing: false,
        }
    }

    /// Runs until `end` is cancelled; then sends what is there, if that goes quickly.
    pub async fn run(mut self, end: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = end.cancelled() => break,
                came = self.gather(&mut batch) => if !came { return },
            }
            tokio::select! {
                () = end.cancelled() => break,
                () = self.deliver(&batch) => batch.clear(),
            }
        }
        while let Ok(span) = self.spans.try_recv() {
            batch.push(span);
        }
        if !batch.is_empty() {
            let last = timeout(FAREWELL, self.post(self.body(&batch))).await;
            if !matches!(last, Ok(Ok(()))) {
                tracing::debug!(spans = batch.len(), "the last spans were not taken");
            }
        }
    }

    /// Waits for a span and for those that come soon after it. False when none can come any more. What was gathered
    /// when it is cancelled stays in `batch`.
    async fn gather(&mut self, batch: &mut Vec<Span>) -> bool {
        if self.spans.recv_many(batch, BATCH).await == 0 {
            return false;
        }
        sleep(GATHER).await;
        while batch.len() < BATCH
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
        true
    }

    /// Sends a batch, or gives it up.
    async fn deliver(&mut self, batch: &[Span]) {
        let (body, spans) = (self.body(batch), batch.len() as u64);
        let mut pause = PAUSE;
        for tries_left in (0..TRIES).rev() {
            let error = match self.post(body.clone()).await {
                Ok(()) => {
                    self.counts.sent.fetch_add(spans, Ordering::Relaxed);
                    if std::mem::take(&mut self.failing) {
                        let dropped = self.counts.dropped.load(Ordering::Relaxed);
                        tracing::info!(to = %self.to, dropped, "the collector takes spans again");
                    }
                    return;
                }
                Err(error) => error,
            };
            if !std::mem::replace(&mut self.failing, true) {
                tracing::warn!(to = %self.to, %error, "the collector takes no spans; nothing else waits for it");
            }
            if tries_left == 0 || !error.may_pass() {
                break;
            }
            sleep(pause).await;
            pause *= 2;
        }
        self.counts.dropped.fetch_add(spans, Ordering::Relaxed);
    }

    fn body(&self, batch: &[Span]) -> Bytes {
        request(&self.resource, batch).to_string().into()
    }

    async fn post(&self, body: Bytes) -> Result<(), PostError> {
        timeout(PATIENCE, self.exchange(body))
            .await
            .unwrap_or(Err(PostError::Timeout))
    }

    async fn exchange(&self, body: Bytes) -> Result<(), PostError> {
        let request = Request::post(self.to.path())
            .header(HOST, self.to.authority())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(CONNECTION, HeaderValue::from_static("close"))
            .body(Full::new(body))?;
        let stream = TcpStream::connect(self.to.address())
            .await
            .map_err(PostError::Connect)?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(ANSWER)
            .handshake(TokioIo::new(stream))
            .await?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let status = sender.send_request(request).await?.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(PostError::Status(status))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::Tracer;
    use crate::span::tests::span;

    /// A collector that answers every request with `answer`, and hands on what it was sent.
    async fn collector(answer: &'static str) -> (Endpoint, mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (heard, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut text = Vec::new();
                while !text.ends_with(b"}]}]}") {
                    let mut part = [0; 4096];
                    match stream.read(&mut part).await {
                        Ok(0) | Err(_) => break,
                        Ok(count) => text.extend_from_slice(&part[..count]),
                    }
                }
                let _ = heard.send(String::from_utf8_lossy(&text).into_owned());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (endpoint.parse().unwrap(), requests)
    }

    #[tokio::test]
    async fn a_batch_is_posted_as_json_and_counted() {
        let (endpoint, mut requests) = collector("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        let (tracer, mut exporter) = Tracer::new(endpoint, Vec::new());
        exporter.deliver(&[span(), span()]).await;
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{request}");
        assert!(
            request.contains("content-type: application/json\r\n"),
            "{request}"
        );
        let (_, body) = request.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"]
            .as_array()
            .unwrap();
        assert_eq!(spans.len(), 2);
        assert_eq!((tracer.sent(), tracer.dropped()), (2, 0));
    }

    #[tokio::test]
    async fn a_batch_that_is_refused_for_good_is_dropped_at_once_and_counted() {
        for answer in [
            "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        ] {
            let (endpoint, mut requests) = collector(answer).await;
            let (tracer, mut exporter) = Tracer::new(endpoint, Vec::new());
            exporter.deliver(&[span()]).await;
            assert_eq!((tracer.sent(), tracer.dropped()), (0, 1), "{answer}");
            assert!(requests.recv().await.is_some());
            assert!(requests.try_recv().is_err(), "it was sent once");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_no_http_is_an_error_that_may_pass() {
        let (endpoint, _requests) = collector("rubbish\r\n\r\n").await;
        let (_tracer, exporter) = Tracer::new(endpoint, Vec::new());
        let error = exporter.post(exporter.body(&[span()])).await.unwrap_err();
        assert!(matches!(error, PostError::Exchange(_)), "{error:?}");
        assert!(error.may_pass());
    }

    #[tokio::test]
    async fn the_last_spans_are_sent_when_the_program_ends() {
        let (endpoint, mut requests) = collector("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let (tracer, exporter) = Tracer::new(endpoint, Vec::new());
        tracer.record(span());
        let end = CancellationToken::new();
        end.cancel();
        exporter.run(end).await;
        assert!(requests.recv().await.unwrap().contains("\"spans\""));
    }
}
