//! The enrolment listener, for who has no certificate that counts.
//!
//! | request | who | what counts |
//! | --- | --- | --- |
//! | `POST /enroll/v1` | a host to be | a one-shot token |
//! | `POST /enroll/v1/rejoin` | an enrolled host whose certificate has ended | that it holds its known key |
//! | `POST /enroll/v1/tombstone` | a host that was wiped | that it is signed with its known key |
//! | `GET /enroll/v1/trust-root/<version>` | anybody | nothing: trust roots are public, and signed |
//! | `GET /enroll/v1/crl` | anybody | nothing: revocation lists are public, and signed |
//! | `GET /enroll/v1/install/sha256/<hex>`, `GET /enroll/v1/packages/sha256/<hex>` | who knows the digest | nothing: it is looked at there ([`super::installer`]) |

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use decnet_wire::enrol::{self, EnrolRequest, EnrolWaiting, RejoinRequest};
use decnet_wire::ids::Digest;
use decnet_wire::limits;
use decnet_wire::order::TombstoneRequest;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};

use super::agent::{blocking, trust_root};
use super::attempts::Attempts;
use super::installer::{self, Installer};
use super::listen::Remote;
use super::listen::limits as bounds;
use super::message::{self, Bodies, Body};
use crate::audit::Actor;
use crate::control::{Control, ControlError, certificates};
use crate::text::chain;
use tokio::sync::Semaphore;

/// Under what trust roots are found, by version.
const TRUST_ROOT: &str = "/enroll/v1/trust-root/";

/// What the listener serves from.
#[derive(Debug)]
pub struct Enrolment {
    control: Arc<Control>,
    installer: Arc<Installer>,
    /// Packages that are on their way.
    downloads: Arc<Semaphore>,
    attempts: Attempts,
    bodies: Bodies,
}

impl Enrolment {
    #[must_use]
    pub fn new(control: Arc<Control>, installer: Arc<Installer>) -> Self {
        Self {
            control,
            installer,
            downloads: Arc::new(Semaphore::new(bounds::DOWNLOADS)),
            attempts: Attempts::default(),
            bodies: Bodies::new(bounds::ENROLMENT_BODIES, bounds::ENROLMENT_BODY),
        }
    }

    /// Answers one request, unless its sender was refused too often of late.
    ///
    /// # Errors
    /// Never: what goes wrong is an answer.
    pub async fn answer(
        self: Arc<Self>,
        remote: Remote,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let Remote::Tls { address, .. } = &remote else {
            return Ok(self.look(&remote, request).await);
        };
        if let Some(wait) = self.attempts.wait(address.ip(), Instant::now()) {
            let mut refused = message::refuse(
                StatusCode::TOO_MANY_REQUESTS,
                "too many requests of this address were refused; wait",
            );
            let seconds = HeaderValue::from(wait.as_secs() + 1);
            refused.headers_mut().insert(RETRY_AFTER, seconds);
            return Ok(refused);
        }
        let response = self.look(&remote, request).await;
        // Trust roots are asked for until there is none.
        if response.status().is_client_error() && response.status() != StatusCode::NOT_FOUND {
            self.attempts.refused(address.ip(), Instant::now());
        }
        Ok(response)
    }

    async fn look(&self, remote: &Remote, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let by = Actor::stranger(remote.ip());
        let answer = match (request.method(), path.as_str()) {
            (&Method::POST, "/enroll/v1") => self.enrol(by, request.into_body()).await,
            (&Method::POST, "/enroll/v1/rejoin") => self.rejoin(by, request.into_body()).await,
            (&Method::POST, "/enroll/v1/tombstone") => self.tombstone(by, request.into_body()).await,
            (&Method::GET, "/enroll/v1/crl") => self.revocation_lists().await,
            (&Method::GET, path) if path.starts_with(TRUST_ROOT) => {
                let control = Arc::clone(&self.control);
                trust_root(control, path.trim_start_matches(TRUST_ROOT)).await
            }
            (&Method::GET, path) if path.starts_with(installer::SCRIPT_PATH) => {
                Ok(self.script(path.trim_start_matches(installer::SCRIPT_PATH)))
            }
            (&Method::GET, path) if path.starts_with(installer::PACKAGE_PATH) => Ok(self
                .package(path.trim_start_matches(installer::PACKAGE_PATH))
                .await),
            _ => Ok(nothing()),
        };
        answer.unwrap_or_else(|error| {
            if let ControlError::Leave(order) = error {
                return message::whole(StatusCode::GONE, order);
            }
            tracing::warn!(%path, ?remote, error = %chain(&error), "refused a stranger's request");
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let detail = if status.is_server_error() {
                "the master failed; try again".to_owned()
            } else {
                error.to_string()
            };
            message::refuse(status, &detail)
        })
    }

    async fn enrol(&self, by: Actor, body: Incoming) -> Result<Response<Body>, ControlError> {
        let request: EnrolRequest = match self.bodies.read(body, limits::ENROLMENT).await {
            Ok(request) => request,
            Err(error) => return Ok(error.response()),
        };
        if request.schema != enrol::SCHEMA {
            return Ok(message::refuse(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this master reads enrolment requests of schema 1",
            ));
        }
        let (control, csr) = (Arc::clone(&self.control), request.csr.clone());
        Ok(match blocking(move || control.enrol(&by, &request)).await? {
            Some(response) => message::json(StatusCode::OK, &response),
            None => message::json(StatusCode::ACCEPTED, &waiting(&csr)?),
        })
    }

    async fn rejoin(&self, by: Actor, body: Incoming) -> Result<Response<Body>, ControlError> {
        let request: RejoinRequest = match self.bodies.read(body, limits::ENROLMENT).await {
            Ok(request) => request,
            Err(error) => return Ok(error.response()),
        };
        let control = Arc::clone(&self.control);
        let response = blocking(move || control.rejoin(&by, &request)).await?;
        Ok(message::json(StatusCode::OK, &response))
    }

    async fn tombstone(&self, by: Actor, body: Incoming) -> Result<Response<Body>, ControlError> {
        let request: TombstoneRequest = match self.bodies.read(body, limits::TOMBSTONE).await {
            Ok(request) => request,
            Err(error) => return Ok(error.response()),
        };
        let control = Arc::clone(&self.control);
        blocking(move || control.bury(&by, &request)).await?;
        Ok(message::empty(StatusCode::NO_CONTENT))
    }

    fn script(&self, hex: &str) -> Response<Body> {
        let digest = format!("sha256:{hex}").parse::<Digest>().ok();
        let Some(script) = digest.and_then(|digest| self.installer.script(&digest)) else {
            return nothing();
        };
        let mut answer = message::whole(StatusCode::OK, script.to_owned());
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, text);
        answer
    }

    async fn package(&self, hex: &str) -> Response<Body> {
        let digest = format!("sha256:{hex}").parse::<Digest>().ok();
        let Some(package) = digest.and_then(|digest| self.installer.packages().find(&digest)) else {
            return nothing();
        };
        let Ok(turn) = Arc::clone(&self.downloads).try_acquire_owned() else {
            return message::refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many hosts fetch a package now; try again",
            );
        };
        match package.open().await {
            Ok(body) => {
                // The turn is over when the body is.
                let body = body.map_frame(move |frame| {
                    let _held = &turn;
                    frame
                });
                message::stream(package.size, body.boxed())
            }
            Err(error) => {
                tracing::error!(package = %package.path.display(), %error, "could not read a package");
                message::refuse(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the master failed to read the package",
                )
            }
        }
    }

    async fn revocation_lists(&self) -> Result<Response<Body>, ControlError> {
        let control = Arc::clone(&self.control);
        let lists = blocking(move || control.revocation_lists()).await?;
        let mut answer = message::whole(StatusCode::OK, lists);
        let pem = HeaderValue::from_static("application/x-pem-file");
        answer.headers_mut().insert(CONTENT_TYPE, pem);
        Ok(answer)
    }
}

fn nothing() -> Response<Body> {
    message::refuse(StatusCode::NOT_FOUND, "there is nothing here")
}

/// What an operator compares.
fn waiting(csr: &str) -> Result<EnrolWaiting, ControlError> {
    let (_, key) = certificates::read_csr(csr)?;
    Ok(EnrolWaiting {
        schema: enrol::SCHEMA,
        key,
    })
}
