//! The agent API: `GET /agent/v1/bundle`, `POST /agent/v1/report`, `GET /agent/v1/blobs/sha256/<hex>`,
//! `GET /agent/v1/policy`, `GET /agent/v1/trust-root/<version>`, `POST /agent/v1/renew`.
//!
//! TLS has checked that the client's certificate is one of ours. Every request checks besides that its host and
//! key are enrolled now: a revoked host is refused on a connection that is still open.

mod latest;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use decnet_pki::peer::PeerIdentity;
use decnet_wire::enrol::RenewRequest;
use decnet_wire::ids::{Digest, HostId, Timestamp};
use decnet_wire::limits;
use decnet_wire::policy;
use decnet_wire::report::{self, Report};
use decnet_wire::trust::VERSION_HEADER;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, IF_RANGE, RANGE,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use super::blobs;
use super::listen::{Remote, limits as bounds};
use super::message::{self, Bodies, Body};
use crate::audit::Actor;
use crate::control::{Control, ControlError};
use crate::metrics::{Ongoing, Rejected};
use crate::text::chain;
use latest::Latest;

/// Under what trust roots are found, by version.
const TRUST_ROOT: &str = "/agent/v1/trust-root/";

/// A host that has proved who it is.
struct Speaker {
    id: HostId,
    actor: Actor,
}

/// What the agent API serves from.
#[derive(Debug)]
pub struct AgentApi {
    control: Arc<Control>,
    blobs: PathBuf,
    end: CancellationToken,
    polls: Latest,
    reports: Latest,
    bodies: Bodies,
}

impl AgentApi {
    /// Serves bundles from `control` and blobs from the folder. Polls wait until `end` at most.
    #[must_use]
    pub fn new(control: Arc<Control>, blobs: PathBuf, end: CancellationToken) -> Self {
        Self {
            control,
            blobs,
            end,
            polls: Latest::new(bounds::POLLS_OF_A_HOST),
            reports: Latest::new(bounds::REPORTS_OF_A_HOST),
            bodies: Bodies::new(bounds::BODIES, bounds::BODY),
        }
    }

    /// Answers one request.
    ///
    /// # Errors
    /// Never: what goes wrong is an answer.
    pub async fn answer(
        self: Arc<Self>,
        remote: Remote,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let response = match self.route(&remote, request).await {
            Ok(response) => response,
            Err(ControlError::Leave(order)) => message::whole(StatusCode::GONE, order),
            Err(error) => {
                let status =
                    StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                if status.is_server_error() {
                    tracing::error!(error = %chain(&error), "an agent's request failed");
                    message::refuse(status, "the master failed to answer; try again")
                } else {
                    tracing::warn!(error = %chain(&error), ?remote, "refused an agent's request");
                    message::refuse(status, &error.to_string())
                }
            }
        };
        Ok(response)
    }

    async fn route(
        &self,
        remote: &Remote,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, ControlError> {
        let by = self.identify(remote).await?;
        let host = by.id;
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::GET, "/agent/v1/bundle") => {
                let mut answer = self.bundle(host, request.uri().query().unwrap_or("")).await?;
                // Read after the bundle: the root that it was signed by is not newer.
                let newest = self.control.keys().root.version();
                answer
                    .headers_mut()
                    .insert(VERSION_HEADER, HeaderValue::from(newest));
                if let Some(policy) = self.control.policy_for(host) {
                    let version = HeaderValue::from(policy.version());
                    answer.headers_mut().insert(policy::VERSION_HEADER, version);
                }
                Ok(answer)
            }
            (&Method::POST, "/agent/v1/renew") => self.renew(by, request.into_body()).await,
            (&Method::POST, "/agent/v1/report") => self.report(host, request.into_body()).await,
            (&Method::GET, "/agent/v1/policy") => Ok(self.policy(host)),
            (&Method::GET, path) if path.starts_with(TRUST_ROOT) => {
                let control = Arc::clone(&self.control);
                trust_root(control, path.trim_start_matches(TRUST_ROOT)).await
            }
            (&Method::GET, path) if path.starts_with("/agent/v1/blobs/sha256/") => {
                self.blob(host, path, request.headers()).await
            }
            _ => Ok(message::refuse(StatusCode::NOT_FOUND, "there is nothing here")),
        }
    }

    /// The host that the client certificate names, if it is enrolled with that key now.
    async fn identify(&self, remote: &Remote) -> Result<Speaker, ControlError> {
        let Remote::Tls {
            address,
            certificate: Some(leaf),
            connection,
        } = remote
        else {
            return Err(ControlError::Forbidden(
                "a client certificate is required".to_owned(),
            ));
        };
        let peer = PeerIdentity::from_leaf(leaf).map_err(|error| {
            ControlError::Forbidden(format!("the client certificate is refused: {error}"))
        })?;
        if peer.fleet != self.control.fleet_id().uuid() {
            return Err(ControlError::Forbidden(
                "the client certificate is another fleet's".to_owned(),
            ));
        }
        let now = Timestamp::new(time::OffsetDateTime::now_utc());
        if peer.not_after <= now.get() {
            // The next connection is refused by TLS, with an alert of which the host knows what to do.
            connection.cut.cancel();
            return Err(ControlError::Conflict(format!(
                "the client certificate ended at {}, and it is {now} here: connect again; if that is not so, look at both clocks",
                Timestamp::new(peer.not_after)
            )));
        }
        let id = HostId::new(peer.host);
        let key = Digest::from_sha256(*peer.key.sha256().as_bytes());
        if !connection.known.swap(true, Ordering::Relaxed) {
            self.control.speaks(id, connection.cut.clone());
        }
        let control = Arc::clone(&self.control);
        let from = address.ip();
        let host = blocking(move || control.authorize(id, &key, Some(from))).await?;
        self.control.saw(host.id, from);
        Ok(Speaker {
            id: host.id,
            actor: Actor::host(host.id, host.name, Some(from)),
        })
    }

    async fn bundle(&self, host: HostId, query: &str) -> Result<Response<Body>, ControlError> {
        let number = |name: &str| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
        };
        let after = number("after").unwrap_or(0);
        let wait = Duration::from_secs(number("wait").unwrap_or(0).min(bounds::POLL_S));
        let deadline = tokio::time::Instant::now() + wait;
        let mut newer = self.control.watch_bundle(host);
        let poll = self.polls.enter(host);
        let _waiting = Ongoing::begin(&self.control.metrics().polls);
        loop {
            newer.borrow_and_update();
            let control = Arc::clone(&self.control);
            if let Some(envelope) = blocking(move || control.envelope(host, after)).await? {
                return Ok(message::whole(StatusCode::OK, envelope));
            }
            tokio::select! {
                changed = newer.changed() => if changed.is_err() { break },
                () = tokio::time::sleep_until(deadline) => break,
                () = poll.given_up() => break,
                () = self.end.cancelled() => break,
            }
        }
        Ok(message::empty(StatusCode::NO_CONTENT))
    }

    async fn renew(&self, by: Speaker, body: Incoming) -> Result<Response<Body>, ControlError> {
        let request: RenewRequest = match self.bodies.read(body, limits::ENROLMENT).await {
            Ok(request) => request,
            Err(error) => return Ok(error.response()),
        };
        let control = Arc::clone(&self.control);
        let answer = blocking(move || control.renew(&by.actor, by.id, &request)).await?;
        Ok(message::json(StatusCode::OK, &answer))
    }

    fn policy(&self, host: HostId) -> Response<Body> {
        let policy = self.control.policy_for(host);
        let envelope = policy.map(|policy| String::from_utf8(policy.envelope().to_json()));
        match envelope {
            Some(Ok(envelope)) => message::whole(StatusCode::OK, envelope),
            _ => message::refuse(StatusCode::NOT_FOUND, "there is no policy for this host"),
        }
    }

    async fn report(&self, host: HostId, body: Incoming) -> Result<Response<Body>, ControlError> {
        let arriving = self.reports.enter(host);
        let read = tokio::select! {
            read = self.bodies.read(body, limits::REPORT) => read,
            () = arriving.given_up() => {
                self.control.metrics().report_rejected(Rejected::Overtaken);
                let detail = "another report of this host came meanwhile";
                return Ok(message::refuse(StatusCode::CONFLICT, detail));
            }
        };
        let report: Report = match read {
            Ok(report) => report,
            Err(error) => {
                self.control.metrics().report_rejected(Rejected::Malformed);
                return Ok(error.response());
            }
        };
        drop(arriving);
        if report.schema != report::SCHEMA || report.events.len() > limits::EVENTS {
            self.control.metrics().report_rejected(Rejected::Schema);
            return Ok(message::refuse(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this master reads reports of schema 1",
            ));
        }
        let control = Arc::clone(&self.control);
        let answer = blocking(move || control.ingest(host, &report)).await?;
        Ok(message::json(StatusCode::OK, &answer))
    }

    async fn blob(
        &self,
        host: HostId,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, ControlError> {
        let hex = path.trim_start_matches("/agent/v1/blobs/sha256/");
        let Ok(digest) = format!("sha256:{hex}").parse::<Digest>() else {
            return Ok(message::refuse(
                StatusCode::NOT_FOUND,
                "a blob is named by 64 hexadecimal digits",
            ));
        };
        let (control, wanted) = (Arc::clone(&self.control), digest.clone());
        if !blocking(move || control.may_fetch(host, &wanted)).await? {
            return Ok(message::refuse(
                StatusCode::NOT_FOUND,
                "this host's bundle names no such blob",
            ));
        }
        Ok(send_blob(&self.blobs, &digest, range(headers, &digest)).await)
    }
}

/// A blob never changes, so that its digest is a strong validator (RFC 9110 §8.8.1).
fn entity_tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// The range that is asked for, unless it is meant for something else (RFC 9110 §13.1.5).
fn range<'a>(headers: &'a HeaderMap, digest: &Digest) -> Option<&'a str> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let same = !headers.contains_key(IF_RANGE) || text(IF_RANGE) == Some(entity_tag(digest).as_str());
    text(RANGE).filter(|_| same)
}

async fn send_blob(folder: &Path, digest: &Digest, range: Option<&str>) -> Response<Body> {
    match blobs::open(folder, digest, range).await {
        Ok(part) => {
            let content_range = part.content_range();
            let mut response = Response::new(part.body);
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            if let Ok(tag) = HeaderValue::from_str(&entity_tag(digest)) {
                headers.insert(ETAG, tag);
            }
            headers.insert(CONTENT_LENGTH, HeaderValue::from(part.length));
            if part.start > 0
                && let Ok(value) = HeaderValue::from_str(&content_range)
            {
                headers.insert(CONTENT_RANGE, value);
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            }
            response
        }
        Err(blobs::OpenError::Range { size }) => {
            let mut response =
                message::refuse(StatusCode::RANGE_NOT_SATISFIABLE, "the range is beyond the blob");
            if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
                response.headers_mut().insert(CONTENT_RANGE, value);
            }
            response
        }
        Err(blobs::OpenError::Read(error)) => {
            tracing::error!(%digest, %error, "could not read a blob");
            message::refuse(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the master failed to read the blob; try again",
            )
        }
    }
}

/// A signed trust root. Anybody may have it.
pub(super) async fn trust_root(control: Arc<Control>, version: &str) -> Result<Response<Body>, ControlError> {
    let root = match version.parse() {
        Ok(version) => blocking(move || control.root_document(version)).await?,
        Err(_) => None,
    };
    Ok(match root.map(String::from_utf8) {
        Some(Ok(root)) => message::whole(StatusCode::OK, root),
        _ => message::refuse(StatusCode::NOT_FOUND, "there is no trust root of this version"),
    })
}

/// Runs work that touches the disk off the event loop.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
) -> Result<T, ControlError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ControlError::Sign {
            what: "an answer: the work was cut off",
            source: error.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn get(
        folder: &Path,
        digest: &Digest,
        headers: &[(&'static str, &str)],
    ) -> (StatusCode, String, Vec<u8>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let response = send_blob(folder, digest, range(&map, digest)).await;
        let status = response.status();
        let text = |name| {
            response
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let content_range = text(CONTENT_RANGE).unwrap_or_default();
        if status.is_success() {
            assert_eq!(text(ETAG).unwrap(), entity_tag(digest));
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, content_range, body.to_vec())
    }

    #[tokio::test]
    async fn the_rest_of_a_blob_is_sent_to_whoever_has_the_beginning_of_the_same_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"0123456789").unwrap();
        let (digest, size) = blobs::take(folder.path(), &file).unwrap();
        assert_eq!(size, 10);
        let blob = |headers: Vec<(&'static str, String)>| {
            let (folder, digest) = (folder.path().to_owned(), digest.clone());
            async move {
                let headers: Vec<_> = headers
                    .iter()
                    .map(|(name, value)| (*name, value.as_str()))
                    .collect();
                get(&folder, &digest, &headers).await
            }
        };
        let from = |at: u64| ("range", format!("bytes={at}-"));
        let whole = (StatusCode::OK, String::new(), b"0123456789".to_vec());
        assert_eq!(blob(vec![]).await, whole);
        let rest = (
            StatusCode::PARTIAL_CONTENT,
            "bytes 7-9/10".to_owned(),
            b"789".to_vec(),
        );
        assert_eq!(blob(vec![from(7)]).await, rest);
        let same = ("if-range", entity_tag(&digest));
        assert_eq!(blob(vec![from(7), same]).await, rest);
        for other in ["\"sha256:00\"", "Sat, 01 Jan 2028 00:00:00 GMT", "W/\"x\""] {
            assert_eq!(
                blob(vec![from(7), ("if-range", other.to_owned())]).await,
                whole,
                "{other}"
            );
        }
        let (status, content_range, _) = blob(vec![from(10)]).await;
        assert_eq!(
            (status, content_range.as_str()),
            (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */10")
        );
    }
}
