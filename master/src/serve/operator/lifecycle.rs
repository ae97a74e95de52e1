//! Lifecycle rows.

use axum::Json;
use axum::extract::State;
use decnet_wire::ids::OperationId;

use super::App;
use super::answer::{Problem, ask};
use super::parameters::Pairs;
use super::views::{ErrorView, RowView, RowsView};
use crate::control::rows::RowFilter;

/// The most ids that one request may ask for.
const IDS: usize = 200;
/// Rows of a list where nobody says otherwise, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

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
