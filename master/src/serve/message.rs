//! Request bodies with a cap, and JSON answers, for the listeners that speak to agents.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long a client may take to send a body. An agent behind a slow line sends its largest report in less.
const ARRIVAL: Duration = Duration::from_secs(60);

/// An answer's body: whole, or streamed from a file.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// Why a request's body was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not arrive whole")]
    Read,
    #[error("the body took longer than {} s", ARRIVAL.as_secs())]
    TooSlow,
    #[error("the body is not the document that is expected: {0}")]
    Parse(serde_json::Error),
}

impl BodyError {
    /// The answer that says it.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
        let status = match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Read => StatusCode::BAD_REQUEST,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Parse(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        refuse(status, &self.to_string())
    }
}

/// Reads a JSON document of at most `cap` bytes.
///
/// # Errors
/// It is larger, is cut off, or is another document.
pub async fn read<T: DeserializeOwned>(body: Incoming, cap: usize) -> Result<T, BodyError> {
    let collected = tokio::time::timeout(ARRIVAL, Limited::new(body, cap).collect()).await;
    let bytes = match collected.map_err(|_| BodyError::TooSlow)? {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(BodyError::TooLarge(cap)),
        Err(_) => return Err(BodyError::Read),
    };
    serde_json::from_slice(&bytes).map_err(BodyError::Parse)
}

/// A JSON answer.
#[must_use]
pub fn json(status: StatusCode, document: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(document) {
        Ok(bytes) => whole(status, bytes),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// A JSON answer that is text already.
#[must_use]
pub fn whole(status: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(bytes.into()).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer without a body.
#[must_use]
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = whole(status, Bytes::new());
    response.headers_mut().remove(CONTENT_TYPE);
    response
}

/// A refusal: `{"detail": …}`.
#[must_use]
pub fn refuse(status: StatusCode, detail: &str) -> Response<Body> {
    json(status, &serde_json::json!({ "detail": detail }))
}
