//! The enrolment listener: `POST /enroll/v1`. Anybody may connect; only a token counts.

use std::convert::Infallible;
use std::sync::Arc;

use decnet_wire::enrol::{self, EnrolRequest};
use decnet_wire::limits;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};

use super::agent::blocking;
use super::listen::Remote;
use super::message::{self, Bodies, Body};
use crate::control::Control;
use crate::text::chain;

/// Answers one request.
///
/// # Errors
/// Never: what goes wrong is an answer.
pub async fn answer(
    control: Arc<Control>,
    bodies: Arc<Bodies>,
    remote: Remote,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if request.method() != Method::POST || request.uri().path() != "/enroll/v1" {
        return Ok(message::refuse(StatusCode::NOT_FOUND, "there is nothing here"));
    }
    let request: EnrolRequest = match bodies.read(request.into_body(), limits::ENROLMENT).await {
        Ok(request) => request,
        Err(error) => return Ok(error.response()),
    };
    if request.schema != enrol::SCHEMA {
        return Ok(message::refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "this master reads enrolment requests of schema 1",
        ));
    }
    let host = request.host;
    Ok(match blocking(move || control.enrol(&request)).await {
        Ok(response) => message::json(StatusCode::OK, &response),
        Err(error) => {
            tracing::warn!(%host, ?remote, error = %chain(&error), "refused an enrolment");
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let detail = if status.is_server_error() {
                "the master failed; try again".to_owned()
            } else {
                error.to_string()
            };
            message::refuse(status, &detail)
        }
    })
}
