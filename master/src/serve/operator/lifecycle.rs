//! Lifecycle rows and the stream of their transitions.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use decnet_wire::ids::OperationId;
use futures_util::{StreamExt as _, stream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::App;
use super::access::Caller;
use super::answer::{Problem, ask};
use super::parameters::Pairs;
use super::views::{ErrorView, RowView, RowsView};
use crate::control::events::LifecycleEvent;
use crate::control::rows::RowFilter;

/// The most ids that one request may ask for.
const IDS: usize = 200;
/// Rows of a list where nobody says otherwise, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// How often a stream with nothing to say shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Show rows by their ids
///
/// In the order in which they were started. Ids that are unknown are left out.
#[utoipa::path(
    get, path = "/deckies/lifecycle", tag = "lifecycle",
    params(("ids" = Vec<String>, Query, description = "1 to 200 ids, one parameter each", explode = true)),
    responses(
        (status = 200, description = "The rows", body = RowsView),
        (status = 400, description = "No ids", body = ErrorView),
        (status = 422, description = "More than 200 ids", body = ErrorView),
    )
)]
pub(super) async fn by_ids(State(app): State<App>, pairs: Pairs) -> Result<Json<RowsView>, Problem> {
    match pairs.all("ids").count() {
        0 => return Err(Problem::malformed("ids is missing")),
        1..=IDS => {}
        _ => return Err(Problem::invalid(format!("more than {IDS} ids"))),
    }
    // What is no UUID is the id of no row.
    let ids: Vec<OperationId> = pairs.all("ids").filter_map(|id| id.parse().ok()).collect();
    let rows = ask(&app, move |control| control.rows(&ids)).await?;
    Ok(Json(RowsView {
        rows: rows.into_iter().map(RowView::from).collect(),
    }))
}

/// List rows, the newest first
#[utoipa::path(
    get, path = "/lifecycle", tag = "lifecycle",
    params(
        ("open" = Option<bool>, Query, description = "Only those that have not ended"),
        ("host" = Option<String>, Query, description = "Only those of the host of this id"),
        ("limit" = Option<u16>, Query, description = "At most so many: 1 to 1000, 100 where left out"),
    ),
    responses(
        (status = 200, description = "The rows", body = RowsView),
        (status = 422, description = "A parameter outside its range", body = ErrorView),
    )
)]
pub(super) async fn list(State(app): State<App>, pairs: Pairs) -> Result<Json<RowsView>, Problem> {
    let open = match pairs.last("open") {
        None | Some("false" | "0") => false,
        Some("true" | "1" | "") => true,
        Some(_) => return Err(Problem::invalid("open is not true or false")),
    };
    let host = pairs.last("host").map(str::parse).transpose();
    let host = host.map_err(|error: decnet_wire::ids::ParseError| Problem::invalid(error.to_string()))?;
    let limit = pairs.last("limit").map_or(Some(LIMIT), |text| text.parse().ok());
    let limit = limit
        .filter(|limit| (1..=LIMIT_MAX).contains(limit))
        .ok_or_else(|| Problem::invalid(format!("limit is not within 1 to {LIMIT_MAX}")))?;
    let filter = RowFilter { open, host, limit };
    let rows = ask(&app, move |control| control.list_rows(filter)).await?;
    Ok(Json(RowsView {
        rows: rows.into_iter().map(RowView::from).collect(),
    }))
}

/// Follow every transition
///
/// Server-sent events named `decky.<name>.lifecycle`. The stream ends at once when the caller's token is revoked or
/// expires. A reader that is too slow gets an event `lagged` with
/// `{"missed": n}` and reads the rows again. A comment comes first, and every 15 seconds.
#[utoipa::path(
    get, path = "/events", tag = "lifecycle",
    responses(
        (status = 200, description = "The stream", body = String, content_type = "text/event-stream"),
        (status = 429, description = "The caller has too many streams open", body = ErrorView),
    )
)]
pub(super) async fn events(caller: Caller, State(app): State<App>) -> Result<Response, Problem> {
    follow(&caller, &app)
}

/// Follow the transitions of deckies
///
/// The same stream as `/events`.
#[utoipa::path(
    get, path = "/deckies/lifecycle/events", tag = "lifecycle",
    responses(
        (status = 200, description = "The stream", body = String, content_type = "text/event-stream"),
        (status = 429, description = "The caller has too many streams open", body = ErrorView),
    )
)]
pub(super) async fn decky_events(caller: Caller, State(app): State<App>) -> Result<Response, Problem> {
    follow(&caller, &app)
}

fn follow(caller: &Caller, app: &App) -> Result<Response, Problem> {
    let place = app.streams.open(caller)?;
    let (end, ended) = (app.end.clone(), caller.ended(&app.control));
    let over = async move {
        tokio::select! {
            () = end.cancelled_owned() => {}
            () = ended => {}
        }
    };
    Ok(transitions(app.control.events().subscribe(), over, place))
}

/// The stream of what `events` receives until `over`. Holds `place` until it ends or its reader goes.
pub(super) fn transitions(
    events: Receiver<LifecycleEvent>,
    over: impl Future<Output = ()> + Send + 'static,
    place: impl Send + 'static,
) -> Response {
    // A first comment sends the headers at once and says that nothing from here on is missed.
    let greeting = Some(Event::default().comment("keep-alive"));
    let stream = stream::unfold(
        (greeting, events, place),
        async |(mut greeting, mut events, place)| {
            let event = match greeting.take() {
                Some(greeting) => greeting,
                None => match events.recv().await {
                    Ok(event) => {
                        let data = serde_json::to_string(&event).unwrap_or_default();
                        Event::default().event(event.topic).data(data)
                    }
                    Err(RecvError::Lagged(missed)) => Event::default()
                        .event("lagged")
                        .data(format!("{{\"missed\":{missed}}}")),
                    Err(RecvError::Closed) => return None,
                },
            };
            Some((Ok::<_, Infallible>(event), (greeting, events, place)))
        },
    );
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    let stream = stream.take_until(Box::pin(over));
    Sse::new(stream).keep_alive(keep_alive).into_response()
}
