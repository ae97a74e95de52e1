//! The enrolment listener, for who has no certificate that counts.
//!
//! | request | who | what counts |
//! | --- | --- | --- |
//! | `POST /enroll/v1` | a host to be | a one-shot token |
//! | `POST /enroll/v1/rejoin` | an enrolled host whose certificate has ended | that it holds its known key |
//! | `GET /enroll/v1/trust-root/<version>` | anybody | nothing: trust roots are public, and signed |
//! | `GET /enroll/v1/crl` | anybody | nothing: revocation lists are public, and signed |

use std::convert::Infallible;
use std::sync::Arc;

use decnet_wire::enrol::{self, EnrolRequest, RejoinRequest};
use decnet_wire::limits;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::agent::{blocking, trust_root};
use super::listen::Remote;
use super::message::{self, Body};
use crate::control::{Control, ControlError};
use crate::text::chain;

/// Under what trust roots are found, by version.
const TRUST_ROOT: &str = "/enroll/v1/trust-root/";

/// Answers one request.
///
/// # Errors
/// Never: what goes wrong is an answer.
pub async fn answer(
    control: Arc<Control>,
    remote: Remote,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let answer = match (request.method(), path.as_str()) {
        (&Method::POST, "/enroll/v1") => enrol(control, request.into_body()).await,
        (&Method::POST, "/enroll/v1/rejoin") => rejoin(control, request.into_body()).await,
        (&Method::GET, "/enroll/v1/crl") => revocation_lists(control).await,
        (&Method::GET, path) if path.starts_with(TRUST_ROOT) => {
            trust_root(control, path.trim_start_matches(TRUST_ROOT)).await
        }
        _ => Ok(message::refuse(StatusCode::NOT_FOUND, "there is nothing here")),
    };
    Ok(answer.unwrap_or_else(|error| {
        tracing::warn!(%path, ?remote, error = %chain(&error), "refused a stranger's request");
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = if status.is_server_error() {
            "the master failed; try again".to_owned()
        } else {
            error.to_string()
        };
        message::refuse(status, &detail)
    }))
}

async fn enrol(control: Arc<Control>, body: Incoming) -> Result<Response<Body>, ControlError> {
    let request: EnrolRequest = match message::read(body, limits::ENROLMENT).await {
        Ok(request) => request,
        Err(error) => return Ok(error.response()),
    };
    if request.schema != enrol::SCHEMA {
        return Ok(message::refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "this master reads enrolment requests of schema 1",
        ));
    }
    let response = blocking(move || control.enrol(&request)).await?;
    Ok(message::json(StatusCode::OK, &response))
}

async fn rejoin(control: Arc<Control>, body: Incoming) -> Result<Response<Body>, ControlError> {
    let request: RejoinRequest = match message::read(body, limits::ENROLMENT).await {
        Ok(request) => request,
        Err(error) => return Ok(error.response()),
    };
    let response = blocking(move || control.rejoin(&request)).await?;
    Ok(message::json(StatusCode::OK, &response))
}

async fn revocation_lists(control: Arc<Control>) -> Result<Response<Body>, ControlError> {
    let lists = blocking(move || control.revocation_lists()).await?;
    let mut answer = message::whole(StatusCode::OK, lists);
    let pem = HeaderValue::from_static("application/x-pem-file");
    answer.headers_mut().insert(CONTENT_TYPE, pem);
    Ok(answer)
}
