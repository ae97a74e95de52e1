//! http (RFC 9110, RFC 9112, RFC 9113): a web server with a persona. https serves the same over TLS.

mod apps;
mod disguise;
mod log;
mod site;
mod software;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Failure;
use crate::environment::{Context, EnvironmentError};
use crate::serve::Session;
use disguise::Disguise;
pub(super) use site::Site;

/// The longest request body read, in bytes; more is answered 413. All streams of all connections
/// together stay well under a container's 64 MiB.
const BODY_CAP: usize = 32 * 1024;

/// HTTP/2 requests at a time on one connection.
const STREAMS: u32 = 8;

/// Request line and headers, in bytes.
const HEAD_CAP: usize = 16 * 1024;

/// How long a visitor may take to send a request's headers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests of one connection; then it is closed.
const REQUESTS: u32 = 1000;

/// A protocol version of the persona's `http_versions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Version {
    #[serde(rename = "http/1.1")]
    Http1,
    #[serde(rename = "http/2")]
    Http2,
    #[serde(rename = "http/3")]
    Http3,
}

/// The versions served.
#[derive(Debug, Clone, Copy)]
pub(super) struct Versions {
    pub(super) http1: bool,
    pub(super) http2: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct VersionsKey {
    http_versions: Option<Vec<Version>>,
}

impl Versions {
    /// The persona's `http_versions`; HTTP/1.1 when there are none.
    pub(super) fn of(context: &Context) -> Result<Self, EnvironmentError> {
        let wanted = context
            .persona::<VersionsKey>()?
            .http_versions
            .unwrap_or_default();
        if wanted.contains(&Version::Http3) {
            return Err(EnvironmentError::PersonaValue {
                key: "http_versions",
                problem: "asks for http/3, which this decoy does not speak: ask for http/1.1, http/2 or both"
                    .to_owned(),
            });
        }
        let http2 = wanted.contains(&Version::Http2);
        Ok(Self {
            http1: !http2 || wanted.contains(&Version::Http1),
            http2,
        })
    }
}

pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let site = Arc::new(Site::new(&context)?);
    let versions = Versions::of(&context)?;
    crate::serve::tcp(&context, move |connection, session| {
        serve(connection, Arc::clone(&site), session, versions)
    })
    .await
}

/// Serves the site on one connection.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    site: Arc<Site>,
    session: Arc<Session>,
    versions: Versions,
) -> io::Result<()> {
    let served = AtomicU32::new(0);
    let disguised = (Arc::clone(&site), Arc::clone(&session));
    let service = service_fn(|request| {
        let last = served.fetch_add(1, Ordering::Relaxed) >= REQUESTS;
        let (site, session) = (Arc::clone(&site), Arc::clone(&session));
        async move { Ok::<_, Infallible>(respond(&site, &session, request, last).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_CAP);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_CAP as u32)
        .initial_stream_window_size(BODY_CAP as u32)
        .initial_connection_window_size(4 * BODY_CAP as u32);
    let builder = match versions {
        Versions {
            http1: true,
            http2: true,
        } => builder,
        Versions { http2: true, .. } => builder.http2_only(),
        Versions { .. } => builder.http1_only(),
    };
    let stream = Disguise::new(stream, Arc::clone(&disguised.0), disguised.1);
    let served = builder.serve_connection(TokioIo::new(stream), service).await;
    served.map_err(|error| io::Error::other(error.to_string()))
}

async fn respond(
    site: &Site,
    session: &Session,
    request: Request<Incoming>,
    last: bool,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let (body, whole) = match Limited::new(body, BODY_CAP).collect().await {
        Ok(collected) => (collected.to_bytes(), true),
        Err(error) => (Bytes::new(), !error.is::<LengthLimitError>()),
    };
    let credentials = log::credentials(&head, &body);
    let own = session.local_address();
    let asked = head.uri.host().map(str::to_owned).or_else(|| {
        let host = head.headers.get(HOST)?.to_str().ok()?;
        Some(host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned())
    });
    // Whatever stands in a page of the server's is escaped there; a name needs nothing that would have to be.
    let plain = |name: &String| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    let host = asked.filter(plain).unwrap_or_else(|| own.ip().to_string());
    let place = (host.as_str(), own.port());
    let mut response = match whole {
        true => site.answer(&head, !credentials.is_empty(), place),
        false => site.failure(StatusCode::PAYLOAD_TOO_LARGE, place),
    };
    log::request(session, &head, &body, response.status());
    for (user, password) in credentials {
        session.login(user, password, false);
    }
    if last || !whole {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
