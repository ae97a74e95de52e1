//! An OpenTelemetry collector: it takes OTLP over HTTP in JSON, and knows of it only what the protocol publishes.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// What it does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Takes,
    /// It answers 500.
    Refuses,
    /// It never answers.
    Hangs,
}

/// A collector on a port of the loopback address. It ends when it is dropped.
#[derive(Debug)]
pub struct Collector {
    /// As settings name it.
    pub endpoint: String,
    state: Arc<Mutex<State>>,
    _runtime: Runtime,
}

#[derive(Debug)]
struct State {
    manner: Manner,
    requests: usize,
    spans: Vec<Collected>,
    /// What was no request of the protocol.
    problems: Vec<String>,
}

/// A span that was taken, and whose it is.
#[derive(Debug, Clone)]
pub struct Collected {
    /// `service.name` of the resource.
    pub service: String,
    pub span: Span,
}

/// `opentelemetry.proto.trace.v1.Span`, as far as it is used.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Span {
    pub trace_id: String,
    pub span_id: String,
    #[serde(default)]
    pub parent_span_id: Option<String>,
    pub name: String,
    pub kind: u8,
    #[serde(deserialize_with = "decimal")]
    pub start_time_unix_nano: u64,
    #[serde(deserialize_with = "decimal")]
    pub end_time_unix_nano: u64,
    #[serde(default)]
    pub attributes: Vec<Attribute>,
    #[serde(default)]
    pub events: Vec<Event>,
    #[serde(default)]
    pub status: Status,
}

impl Span {
    /// The text of an attribute.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|attribute| attribute.key == key)?;
        found.value.string_value.as_deref()
    }
}

/// `opentelemetry.proto.common.v1.KeyValue`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    pub key: String,
    pub value: AnyValue,
}

/// `opentelemetry.proto.common.v1.AnyValue`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnyValue {
    #[serde(default)]
    pub string_value: Option<String>,
    #[serde(default)]
    pub int_value: Option<String>,
}

/// `opentelemetry.proto.trace.v1.Span.Event`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Event {
    #[serde(deserialize_with = "decimal")]
    pub time_unix_nano: u64,
    pub name: String,
}

/// `opentelemetry.proto.trace.v1.Status`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    #[serde(default)]
    pub code: u8,
}

/// `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Export {
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourceSpans {
    resource: Resource,
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    attributes: Vec<Attribute>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScopeSpans {
    #[serde(rename = "scope")]
    _scope: serde_json::Value,
    spans: Vec<Span>,
}

/// 64-bit numbers are texts in the JSON of protocol buffers.
fn decimal<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

impl Collector {
    /// # Errors
    ///
    /// When no port is free.
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(Mutex::new(State {
            manner: Manner::Takes,
            requests: 0,
            spans: Vec::new(),
            problems: Vec::new(),
        }));
        runtime.spawn(serve(listener, Arc::clone(&state)));
        Ok(Self {
            endpoint,
            state,
            _runtime: runtime,
        })
    }

    /// From now on it does this.
    pub fn set(&self, manner: Manner) {
        lock(&self.state).manner = manner;
    }

    /// How many requests have come.
    #[must_use]
    pub fn requests(&self) -> usize {
        lock(&self.state).requests
    }

    /// Every span that was taken of a trace.
    ///
    /// # Errors
    ///
    /// When anything came that the protocol does not know.
    pub fn trace(&self, id: &str) -> Result<Vec<Collected>> {
        let state = lock(&self.state);
        ensure!(state.problems.is_empty(), "no OTLP: {:?}", state.problems);
        let of_trace = |collected: &&Collected| collected.span.trace_id == id;
        Ok(state.spans.iter().filter(of_trace).cloned().collect())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&state), request));
            let served = hyper::server::conn::http1::Builder::new();
            // Whoever leaves early tells so on its own side.
            let _ = served.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let manner = {
        let mut state = lock(&state);
        state.requests += 1;
        state.manner
    };
    let status = match manner {
        Manner::Hangs => std::future::pending().await,
        Manner::Refuses => StatusCode::INTERNAL_SERVER_ERROR,
        Manner::Takes => match read(request).await {
            Ok(spans) => {
                lock(&state).spans.extend(spans);
                StatusCode::OK
            }
            Err(error) => {
                lock(&state).problems.push(format!("{error:#}"));
                StatusCode::BAD_REQUEST
            }
        },
    };
    let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
    *response.status_mut() = status;
    Ok(response)
}

async fn read(request: Request<Incoming>) -> Result<Vec<Collected>> {
    ensure!(request.method() == Method::POST, "{}", request.method());
    ensure!(request.uri().path() == "/v1/traces", "{}", request.uri());
    let kind = request.headers().get("content-type").context("no content type")?;
    ensure!(kind == "application/json", "{kind:?}");
    let body = request.into_body().collect().await?.to_bytes();
    let export: Export = serde_json::from_slice(&body)?;
    let mut collected = Vec::new();
    for resource in export.resource_spans {
        let attributes = resource.resource.attributes;
        let service = attributes.into_iter().find(|one| one.key == "service.name");
        let service = service.and_then(|one| one.value.string_value);
        let service = service.context("no service.name")?;
        for scope in resource.scope_spans {
            collected.extend(scope.spans.into_iter().map(|span| Collected {
                service: service.clone(),
                span,
            }));
        }
    }
    Ok(collected)
}
