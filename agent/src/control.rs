//! The control socket: how commands on this host ask a running agent, which alone may hold the ledger.
//!
//! `GET /status`, `GET /health`, `GET /plan`, `GET /journal?limit=<n>`, `POST /retry?stack=<name>`, `POST /renew`; answers are
//! JSON. Only who may enter the state folder reaches it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use decnet_docker::Engine;
use decnet_docker::host::EgressCounters;
use decnet_wire::ids::StackName;
use decnet_wire::release::Progress;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admit::AdmittedBundle;
use crate::clock::SharedClock;
use crate::error::error_chain;
use crate::identity::IdentityStore;
use crate::ledger::{Ledger, LedgerError};
use crate::reconcile::{Condition, Retries};
use crate::status::{Contact, Preview, Retried, Running, Status};
use crate::transfers::Transfers;
use crate::update::health::{BundleHealth, Health};

/// Commands that are served at once; more wait.
const CONNECTIONS: usize = 16;
/// How long a command may take to ask. Those that never do must not keep out one that does.
const QUESTION: Duration = Duration::from_secs(5);
/// How long the agent may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer that a command reads, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024 * 1024;
/// How long a status waits for what the namespaces have counted.
const COUNTERS: Duration = Duration::from_secs(5);
/// Journal entries, when the command does not say.
const JOURNAL: usize = 50;

/// What is asked about.
pub(crate) struct Control {
    pub(crate) identity: Arc<IdentityStore>,
    pub(crate) master: String,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) docker_socket: PathBuf,
    pub(crate) condition: watch::Receiver<Condition>,
    pub(crate) contact: watch::Receiver<Contact>,
    pub(crate) idle_round: Arc<AtomicU64>,
    pub(crate) clock: SharedClock,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) retries: Arc<Retries>,
    pub(crate) bundles: watch::Receiver<Option<Arc<AdmittedBundle>>>,
    pub(crate) update: watch::Receiver<Option<Progress>>,
    /// Wakes the reconcile loop.
    pub(crate) wake: Arc<Notify>,
    /// Asks for a new key and certificate.
    pub(crate) renew: Arc<Notify>,
}

/// The control socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("cannot listen on {path}")]
    Listen {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("no agent answers on {path}")]
    Connect {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the agent on {path} broke off")]
    Exchange {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the agent on {path} did not answer in time")]
    Timeout { path: PathBuf },
    #[error("the agent says: {0}")]
    Said(String),
    #[error("the agent's answer is not readable; is it of another version?")]
    Answer(#[source] serde_json::Error),
}

/// Makes the socket. Whoever calls holds the ledger, so a socket that is there is a dead agent's.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, ControlError> {
    let failed = |source| ControlError::Listen {
        path: path.to_owned(),
        source,
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // The folder is 0700: nobody else gets here between the two lines.
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves for ever.
pub(crate) async fn serve(listener: UnixListener, control: Control) {
    let control = Arc::new(control);
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let control = Arc::clone(&control);
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let control = Arc::clone(&control);
                        async move { Ok::<_, Infallible>(control.answer(&request).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(QUESTION)
                        .serve_connection(TokioIo::new(stream), service);
                    // A command that went away needs no answer.
                    drop(connection.await);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept on the control socket: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

impl Control {
    /// What closed namespaces have counted; nothing while the engine does not answer at once.
    async fn egress(&self) -> BTreeMap<String, EgressCounters> {
        let read = async {
            let engine = Engine::connect(&self.docker_socket).await?;
            engine.egress(self.identity.current().host).await
        };
        match timeout(COUNTERS, read).await {
            Ok(Ok(counters)) => counters,
            _ => BTreeMap::new(),
        }
    }

    /// How this agent has begun: what an updater asks.
    async fn health(&self) -> Result<Health, LedgerError> {
        let bundle = match (self.bundles.borrow().is_some(), self.ledger.accepted()?) {
            (true, _) => BundleHealth::Good,
            (false, Some(_)) => BundleHealth::Bad,
            (false, None) => BundleHealth::None,
        };
        let engine = match timeout(COUNTERS, Engine::connect(&self.docker_socket)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error_chain(&error)),
            Err(_) => Some("it does not answer in time".to_owned()),
        };
        let contact = self.contact.borrow().clone();
        Ok(Health {
            process: std::process::id(),
            bundle,
            engine,
            poll: contact.poll,
            poll_error: contact.error,
        })
    }

    /// Lets everything, or one stack or decky, be tried again at once that is not as it was asked for.
    async fn retry(&self, wanted: Option<&str>) -> Result<Retried, LedgerError> {
        let condition = self.condition.borrow().clone();
        let waiting = condition
            .pending
            .into_iter()
            .map(|(stack, pending)| (stack, pending.decky));
        let known = self
            .ledger
            .troubles()?
            .into_iter()
            .map(|(stack, trouble)| (stack, trouble.decky));
        let stacks: BTreeSet<StackName> = waiting
            .chain(known)
            .filter(|(stack, decky)| {
                wanted.is_none_or(|wanted| stack.as_str() == wanted || decky.as_str() == wanted)
            })
            .map(|(stack, _)| stack)
            .collect();
        let forgotten: Vec<StackName> = stacks.iter().cloned().collect();
        self.ledger
            .write(move |tx| tx.forget_troubles(&forgotten))
            .await?;
        self.retries.add(stacks.iter().cloned());
        self.wake.notify_one();
        Ok(Retried::new(stacks))
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let method = match path {
            "/retry" | "/renew" => Method::POST,
            _ => Method::GET,
        };
        if request.method() != method {
            return said(StatusCode::METHOD_NOT_ALLOWED, &format!("{path} takes {method}"));
        }
        match path {
            "/status" => {
                let idle = self.idle_round.load(Ordering::Relaxed);
                let mut running = Running::new(
                    self.condition.borrow().clone(),
                    self.contact.borrow().clone(),
                    idle,
                    self.clock.now(),
                );
                running.fetching = self.transfers.list();
                running.update.clone_from(&self.update.borrow());
                let status = Status::read(
                    &self.identity.current(),
                    self.master.clone(),
                    &self.ledger,
                    Some(running),
                );
                let egress = self.egress().await;
                json(
                    status
                        .map(|status| status.with_egress(egress))
                        .map_err(|error| error_chain(&error)),
                )
            }
            "/health" => json(self.health().await.map_err(|error| error_chain(&error))),
            "/plan" => {
                let preview =
                    Preview::make(self.identity.current().host, &self.ledger, &self.docker_socket).await;
                json(preview.map_err(|error| error_chain(&error)))
            }
            "/journal" => {
                let limit = request
                    .uri()
                    .query()
                    .and_then(|query| query.strip_prefix("limit="));
                let limit = match limit.map(str::parse) {
                    None => JOURNAL,
                    Some(Ok(limit)) => limit,
                    Some(Err(_)) => return said(StatusCode::BAD_REQUEST, "limit is not a number"),
                };
                json(self.ledger.journal(limit).map_err(|error| error_chain(&error)))
            }
            "/retry" => {
                let wanted = request
                    .uri()
                    .query()
                    .and_then(|query| query.strip_prefix("stack="));
                match self.retry(wanted).await {
                    Ok(retried) if retried.stacks.is_empty() && wanted.is_some() => said(
                        StatusCode::NOT_FOUND,
                        "no stack or decky of that name waits for a try: see `decnet-agent status`",
                    ),
                    outcome => json(outcome.map_err(|error| error_chain(&error))),
                }
            }
            "/renew" => {
                self.renew.notify_one();
                json(Ok(serde_json::json!({ "asked": true })))
            }
            _ => said(
                StatusCode::NOT_FOUND,
                "known are /status, /health, /plan, /journal, /retry and /renew",
            ),
        }
    }
}

fn json<T: Serialize>(outcome: Result<T, String>) -> Response<Full<Bytes>> {
    let written = outcome.and_then(|value| serde_json::to_vec(&value).map_err(|error| error.to_string()));
    match written {
        Ok(body) => respond(StatusCode::OK, body),
        Err(error) => said(StatusCode::INTERNAL_SERVER_ERROR, &error),
    }
}

fn said(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    respond(
        status,
        serde_json::json!({ "detail": detail }).to_string().into_bytes(),
    )
}

fn respond(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Asks the agent behind a socket.
pub(crate) async fn ask<T: DeserializeOwned>(path: &Path, query: &str) -> Result<T, ControlError> {
    call(path, Method::GET, query).await
}

/// The same with another method.
pub(crate) async fn call<T: DeserializeOwned>(
    path: &Path,
    method: Method,
    query: &str,
) -> Result<T, ControlError> {
    timeout(PATIENCE, exchange(path, method, query))
        .await
        .map_err(|_| ControlError::Timeout {
            path: path.to_owned(),
        })?
}

async fn exchange<T: DeserializeOwned>(path: &Path, method: Method, query: &str) -> Result<T, ControlError> {
    let broke = |source: Box<dyn std::error::Error + Send + Sync>| ControlError::Exchange {
        path: path.to_owned(),
        source,
    };
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| ControlError::Connect {
            path: path.to_owned(),
            source,
        })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broke(error.into()))?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(query)
        .header(header::HOST, "agent")
        .body(Empty::<Bytes>::new())
        .map_err(|error| broke(error.into()))?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| broke(error.into()))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST_ANSWER)
        .collect()
        .await
        .map_err(broke)?
        .to_bytes();
    driver.abort();
    if status == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(ControlError::Answer);
    }
    let value: serde_json::Value = serde_json::from_slice(&body).map_err(ControlError::Answer)?;
    let detail = value.get("detail").and_then(serde_json::Value::as_str);
    Err(ControlError::Said(detail.unwrap_or("it failed").to_owned()))
}
