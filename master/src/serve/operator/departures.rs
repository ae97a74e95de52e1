//! Hosts that leave the fleet, and hosts that are emptied.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use decnet_wire::ids::DeckyName;
use hyper::StatusCode;

use super::App;
use super::access::Admin;
use super::answer::{Problem, ask};
use super::body::Fields;
use super::parameters::HostPath;
use super::views::{
    DecommissionBody, DecommissionView, DepartureView, ErrorView, TeardownBody, TeardownView,
};
use crate::control::Control;

/// Decommission a host
///
/// The order is the operators' own: a document of type `application/vnd.decnet.decommission+json` for this host, signed
/// with the keys of the trust root, as `decnet host decommission` makes it. The host gets it with its next bundle, removes
/// everything, and sends a tombstone. With `force` it is forgotten at once; should it ever come back, it gets the order.
#[utoipa::path(
    delete, path = "/swarm/hosts/{uuid}", tag = "swarm", request_body = DecommissionBody,
    params(("uuid" = String, Path, description = "The host's id")),
    responses(
        (status = 202, description = "Begun", body = DecommissionView),
        (status = 404, description = "No such host", body = ErrorView),
        (status = 409, description = "It is the worker inside the master", body = ErrorView),
        (status = 422, description = "The operators have not signed the order, or it is for another host", body = ErrorView),
    )
)]
pub(super) async fn decommission(
    Admin(by): Admin,
    State(app): State<App>,
    HostPath(id): HostPath,
    fields: Fields,
) -> Result<Response, Problem> {
    let body: DecommissionBody = serde_json::from_value(fields.whole())
        .map_err(|error| Problem::malformed(format!("the body is not an order: {error}")))?;
    let begun = ask(&app, move |control| {
        control.decommission(&by, id, body.order.to_string().as_bytes(), body.force)
    })
    .await?;
    Ok((StatusCode::ACCEPTED, Json(DecommissionView::from(begun))).into_response())
}

/// Remove a host's deckies, and keep the host
#[utoipa::path(
    post, path = "/swarm/hosts/{uuid}/teardown", tag = "swarm", request_body = TeardownBody,
    params(("uuid" = String, Path, description = "The host's id")),
    responses(
        (status = 202, description = "Begun", body = TeardownView),
        (status = 404, description = "No such host, or it has no such decky", body = ErrorView),
        (status = 422, description = "Not a decky's name", body = ErrorView),
    )
)]
pub(super) async fn teardown(
    Admin(by): Admin,
    State(app): State<App>,
    HostPath(id): HostPath,
    mut fields: Fields,
) -> Result<Response, Problem> {
    let only = fields.optional_text("decky_id")?;
    fields.done()?;
    let only: Option<DeckyName> = only
        .map(|text| text.parse())
        .transpose()
        .map_err(|error| Problem::invalid(format!("decky_id: {error}")))?;
    let operations = ask(&app, move |control| {
        control.tear_down_host(&by, id, only.as_ref())
    })
    .await?;
    let (decky_names, lifecycle_ids) = operations.into_iter().unzip();
    let view = TeardownView {
        host_uuid: id,
        decky_names,
        lifecycle_ids,
    };
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

/// List the hosts that were ordered to leave the fleet
///
/// The newest order first; also those that are long gone.
#[utoipa::path(
    get, path = "/swarm/departures", tag = "swarm",
    responses((status = 200, description = "The hosts", body = Vec<DepartureView>))
)]
pub(super) async fn list(_: Admin, State(app): State<App>) -> Result<Json<Vec<DepartureView>>, Problem> {
    let all = ask(&app, Control::departures).await?;
    Ok(Json(all.into_iter().map(DepartureView::from).collect()))
}

/// Show how a host left the fleet, with its tombstone
#[utoipa::path(
    get, path = "/swarm/departures/{uuid}", tag = "swarm",
    params(("uuid" = String, Path, description = "The host's id")),
    responses(
        (status = 200, description = "The host", body = DepartureView),
        (status = 404, description = "No such host was ordered to leave", body = ErrorView),
    )
)]
pub(super) async fn show(
    _: Admin,
    State(app): State<App>,
    HostPath(id): HostPath,
) -> Result<Json<DepartureView>, Problem> {
    let found = ask(&app, move |control| control.departure(id)).await?;
    Ok(Json(found.into()))
}
