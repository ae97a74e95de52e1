//! Answers that are not what was asked for, and the way from [`Control`] to an answer.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use uuid::Uuid;

use super::App;
use super::views::{ErrorView, FleetErrorView};
use crate::control::{Control, ControlError};
use crate::text::chain;

/// An answer `{"detail": …}` with its status.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    body: ErrorView,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            body: ErrorView {
                detail: detail.into(),
                errors: Vec::new(),
                error_id: None,
            },
        }
    }

    /// A missing or unknown key, or a text where none is: 400.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// A value outside its range or pattern: 422.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// A failure of the master itself. The caller gets an id, the log the id and the reason.
    pub(super) fn internal(reason: &str) -> Self {
        let error_id = Uuid::new_v4().simple().to_string();
        tracing::error!(error_id, error = reason, "an operator's request failed");
        let mut problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
        problem.body.error_id = Some(error_id);
        problem
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if error.is_disk_full() {
            tracing::error!(error = chain(&error), "an operator's request failed");
            return Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "its disk is full; nothing was changed",
            );
        }
        if status.is_server_error() {
            return Self::internal(&chain(&error));
        }
        let mut problem = Self::new(status, chain(&error));
        if let ControlError::Fleet(reasons) = error {
            if let Some(first) = reasons.first() {
                problem.body.detail.clone_from(&first.message);
            }
            let view = |reason: crate::control::error::FleetProblem| FleetErrorView {
                class: reason.class,
                message: reason.message,
            };
            problem.body.errors = reasons.into_iter().map(view).collect();
        }
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        match self.status {
            // RFC 9110 §11.6.1: a 401 names the scheme.
            StatusCode::UNAUTHORIZED => {
                response
                    .headers_mut()
                    .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS => {
                response
                    .headers_mut()
                    .insert(RETRY_AFTER, HeaderValue::from_static("30"));
            }
            _ => {}
        }
        response
    }
}

/// Runs work that waits for the disk where waiting is allowed.
pub(super) async fn ask<T, F>(app: &App, work: F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: FnOnce(&Control) -> Result<T, ControlError> + Send + 'static,
{
    let control = Arc::clone(&app.control);
    match tokio::task::spawn_blocking(move || work(&control)).await {
        Ok(done) => done.map_err(Problem::from),
        Err(error) => Err(Problem::internal(&error.to_string())),
    }
}
