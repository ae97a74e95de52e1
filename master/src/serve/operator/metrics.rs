//! Metrics, for Prometheus.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use hyper::header::CONTENT_TYPE;

use super::App;
use super::access::Caller;
use super::answer::{Problem, ask};
use crate::control::Control;
use crate::metrics;

/// Everything that is counted. For viewers, not for everybody: how many deckies there are, and what they are about, tells
/// that this is no ordinary server.
pub(super) async fn metrics(_viewer: Caller, State(app): State<App>) -> Result<Response, Problem> {
    let tally = ask(&app, Control::tally).await?;
    let text = app.control.metrics().text(&tally);
    let text = text.map_err(|error| Problem::internal(&error.to_string()))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
