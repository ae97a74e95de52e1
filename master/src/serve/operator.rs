//! The operator API under `/api/v1`, served over HTTPS and on the Unix socket.
//!
//! ```text
//!  request ─▶ catch panics ─▶ who is it (401) ─▶ trace ─▶ content type (415) ─▶ handler: may they (403), body, control
//! ```
//!
//! Every route is registered together with its description, so the OpenAPI document at `/api/v1/openapi.json`
//! lists exactly the routes there are. Beside them is `/metrics`. Nothing answers anybody without a role.

mod access;
mod answer;
mod audit;
mod backup;
mod body;
mod catalogue;
mod deckies;
mod departures;
mod document;
mod events;
mod history;
mod lifecycle;
mod metrics;
mod parameters;
mod policy;
mod releases;
mod swarm;
mod system;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tokens;
mod traces;
mod trust;
pub mod views;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::{self, AddExtension};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::FutureExt as _;
use hyper::StatusCode;
use hyper::body::Body as _;
use hyper::header::CONTENT_TYPE;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::Layer as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::installer::Installer;
use super::listen::Remote;
use crate::control::Control;
use access::Streams;
use answer::Problem;
pub use document::document;

/// Under what everything is found.
const PREFIX: &str = "/api/v1";

/// Where Prometheus looks for metrics.
const METRICS: &str = "/metrics";

/// Who is at the other end of the connection that a request came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A process on this machine, by its user id.
    Unix { uid: u32 },
    /// A TLS client, by its address.
    Tls { address: SocketAddr },
}

impl From<&Remote> for Peer {
    fn from(remote: &Remote) -> Self {
        match remote {
            Remote::Unix { uid } => Self::Unix { uid: *uid },
            Remote::Tls { address, .. } => Self::Tls { address: *address },
        }
    }
}

/// What every handler works with.
#[derive(Debug, Clone)]
struct App {
    control: Arc<Control>,
    installer: Arc<Installer>,
    streams: Arc<Streams>,
    /// One package at a time.
    uploads: Arc<Mutex<()>>,
    /// One backup at a time.
    backups: Arc<Semaphore>,
    /// Ends the streams, which would hold up the end of the master.
    end: CancellationToken,
}

/// The operator API, whose streams end with `end`. Requests without a [`Peer`] need a token.
pub fn router(control: Arc<Control>, installer: Arc<Installer>, end: CancellationToken) -> Router {
    let app = App {
        control,
        installer,
        streams: Arc::new(Streams::default()),
        uploads: Arc::default(),
        backups: Arc::new(Semaphore::new(1)),
        end,
    };
    let (routes, mut document) = described().split_for_parts();
    document::add_common_answers(&mut document);
    let routes = routes.route(
        &format!("{PREFIX}/openapi.json"),
        get(async move || axum::Json(document)),
    );
    let routes = routes.route(METRICS, get(metrics::metrics));
    deckies::with_reserved_names(routes)
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "Not Found"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        })
        .layer(middleware::from_fn(json_only))
        .layer(middleware::from_fn_with_state(app.clone(), traces::trace))
        .layer(middleware::from_fn_with_state(app.clone(), access::authenticate))
        .layer(middleware::from_fn(catch_panics))
        .with_state(app)
}

/// The service for one connection: every request carries its [`Peer`].
pub fn for_peer(router: Router, remote: &Remote) -> AddExtension<Router, Peer> {
    Extension(Peer::from(remote)).layer(router)
}

fn described() -> OpenApiRouter<App> {
    let api = OpenApiRouter::new()
        .routes(routes!(deckies::deploy))
        .routes(routes!(deckies::plan))
        .routes(routes!(deckies::list))
        .routes(routes!(deckies::show, deckies::remove))
        .routes(routes!(deckies::mutate))
        .routes(routes!(deckies::set_interval))
        .routes(routes!(lifecycle::by_ids))
        .routes(routes!(lifecycle::list))
        .routes(routes!(events::transitions))
        .routes(routes!(events::events))
        .routes(routes!(history::purge))
        .routes(routes!(swarm::hosts))
        .routes(routes!(swarm::host, departures::decommission))
        .routes(routes!(departures::teardown))
        .routes(routes!(departures::list))
        .routes(routes!(departures::show))
        .routes(routes!(swarm::enroll))
        .routes(routes!(swarm::package))
        .routes(routes!(swarm::set_network))
        .routes(routes!(swarm::revoke))
        .routes(routes!(swarm::approve))
        .routes(routes!(releases::list, releases::take))
        .routes(routes!(releases::roll_out))
        .routes(routes!(releases::put_package))
        .routes(routes!(backup::take))
        .routes(routes!(backup::accept_loss))
        .routes(routes!(catalogue::services))
        .routes(routes!(catalogue::archetypes))
        .routes(routes!(catalogue::distros))
        .routes(routes!(system::deployment_mode))
        .routes(routes!(system::config))
        .routes(routes!(system::set_deployment_limit))
        .routes(routes!(system::health))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(policy::show, policy::take))
        .routes(routes!(policy::check))
        .routes(routes!(audit::list))
        .routes(routes!(trust::show))
        .routes(routes!(trust::root, trust::replace))
        .routes(routes!(trust::draft))
        .routes(routes!(trust::revocation_lists));
    OpenApiRouter::with_openapi(document::frame()).nest(PREFIX, api)
}

/// A body that is not JSON is not read, but a package's. The answer is plain text: who sends something else may not read JSON.
async fn json_only(request: Request, next: middleware::Next) -> Response {
    let has_body = !request.body().is_end_stream();
    let json = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/json"));
    let package = request.uri().path().starts_with(releases::PACKAGES);
    if has_body && !json && !package {
        let text = "Unsupported Media Type: send application/json\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response();
    }
    next.run(request).await
}

/// A defect answers 500 with an id that stands in the log as well, and the master goes on.
async fn catch_panics(request: Request, next: middleware::Next) -> Response {
    // The request is dropped with whatever state the panic left it in; nothing looks at it again.
    match std::panic::AssertUnwindSafe(next.run(request))
        .catch_unwind()
        .await
    {
        Ok(response) => response,
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            Problem::internal(&format!("panicked: {text}")).into_response()
        }
    }
}
