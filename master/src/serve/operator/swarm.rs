//! Hosts and their enrolment.

use std::net::Ipv4Addr;
use std::str::FromStr;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use decnet_wire::ids::HostId;
use hyper::StatusCode;
use ipnet::Ipv4Net;

use super::super::installer::HostSettings;
use super::super::message;
use super::App;
use super::access::Admin;
use super::answer::{Problem, ask};
use super::body::{Fields, lifetime};
use super::parameters::{HostPath, Pairs};
use super::views::{
    ApproveBody, EnrollBody, EnrollView, ErrorView, FileView, HostView, NetworkBody, PackageView,
};
use crate::control::enrol::{
    CARRIED_LIFETIME, CARRIED_LIFETIME_MAX, HostNetworking, Invitation, TOKEN_LIFETIME, TOKEN_LIFETIME_MAX,
};
use crate::control::hosts::HostState;
use crate::control::{Control, ControlError};
use crate::fleet::model::Lan;

/// The longest notes of a host, in characters.
const NOTES: usize = 512;

/// List hosts
///
/// By name. Whether a host is there follows from its heartbeats; nothing is asked of it.
#[utoipa::path(
    get, path = "/swarm/hosts", tag = "swarm",
    params(("host_status" = Option<String>, Query, description = "`invited`, `enrolled`, `active`, `unreachable` or `revoked`")),
    responses(
        (status = 200, description = "The hosts", body = Vec<HostView>),
        (status = 422, description = "No such status", body = ErrorView),
    )
)]
pub(super) async fn hosts(
    _: Admin,
    State(app): State<App>,
    pairs: Pairs,
) -> Result<Json<Vec<HostView>>, Problem> {
    let wanted = pairs.last("host_status").map(|text| {
        let state: Result<HostState, _> = serde_json::from_value(serde_json::Value::String(text.to_owned()));
        state.map_err(|_| {
            Problem::invalid("host_status is not invited, enrolled, active, unreachable or revoked")
        })
    });
    let wanted = wanted.transpose()?;
    let views = ask(&app, Control::hosts).await?;
    let views = views
        .into_iter()
        .filter(|view| wanted.is_none_or(|wanted| view.state == wanted));
    Ok(Json(views.map(HostView::from).collect()))
}

/// Show one host
#[utoipa::path(
    get, path = "/swarm/hosts/{uuid}", tag = "swarm",
    params(("uuid" = String, Path, description = "The host's id")),
    responses(
        (status = 200, description = "The host", body = HostView),
        (status = 404, description = "No such host", body = ErrorView),
        (status = 422, description = "Not a UUID", body = ErrorView),
    )
)]
pub(super) async fn host(
    _: Admin,
    State(app): State<App>,
    HostPath(id): HostPath,
) -> Result<Json<HostView>, Problem> {
    let view = ask(&app, move |control| control.host(id)).await?;
    Ok(Json(view.into()))
}

/// Invite a host
///
/// Makes a one-shot token and the command to run on the host. An invitation that was never used may be repeated;
/// the old token is worth nothing then.
#[utoipa::path(
    post, path = "/swarm/hosts/enroll", tag = "swarm", request_body = EnrollBody,
    responses(
        (status = 201, description = "The token, shown once", body = EnrollView),
        (status = 400, description = "A key is missing, unknown or of the wrong type", body = ErrorView),
        (status = 409, description = "The name is an enrolled host's", body = ErrorView),
        (status = 422, description = "A value outside its pattern or range", body = ErrorView),
    )
)]
pub(super) async fn enroll(
    Admin(by): Admin,
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Response, Problem> {
    let name = fields.text("name")?;
    let network = networking(&mut fields);
    let subnet = fields.optional_text("subnet")?;
    let gateway = fields.optional_text("gateway")?;
    let seconds = fields.number("ttl_seconds")?;
    let approve = fields.switch("approve")?;
    let updater = fields.switch("updater")?;
    let carried = fields.switch("carried")?;
    let notes = fields.optional_text("notes")?;
    fields.done()?;

    let lan = lan(subnet.as_deref(), gateway.as_deref())?;
    if notes
        .as_ref()
        .is_some_and(|notes| notes.chars().count() > NOTES || notes.contains(char::is_control))
    {
        return Err(Problem::invalid(format!(
            "notes is not one line of at most {NOTES} characters"
        )));
    }
    let lifetime = match seconds {
        None if carried => CARRIED_LIFETIME,
        None => TOKEN_LIFETIME,
        Some(seconds) if carried => lifetime(seconds, CARRIED_LIFETIME_MAX)?,
        Some(seconds) => lifetime(seconds, TOKEN_LIFETIME_MAX)?,
    };
    let network: HostNetworking = network?;
    let settings = HostSettings {
        ipvlan: network.is_ipvlan(),
        updater,
    };
    let invitation = Invitation {
        name: parsed("name", &name)?,
        network,
        lan,
        lifetime,
        carried,
        approve,
        notes,
    };
    let invited = ask(&app, move |control| control.invite(&by, &invitation)).await?;
    let line = app.installer.line(&invited.token, settings).filter(|_| !carried);
    let file = app
        .installer
        .carried(&invited.token, settings)
        .filter(|_| carried);
    let view = EnrollView {
        host_uuid: invited.host,
        line,
        file: file.map(|file| FileView {
            script: file.script,
            packages: file.packages.iter().map(PackageView::from).collect(),
        }),
        command: format!("decnet-agent enroll {}", invited.token),
        token: invited.token,
        expires_at: invited.expires_at,
    };
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

/// Get a package of the agent
///
/// One that the answer to an invitation names. Its bytes are to be looked at: their SHA-256 is the name.
#[utoipa::path(
    get, path = "/swarm/packages/{digest}", tag = "swarm",
    params(("digest" = String, Path, description = "As `sha256:0f3c…`")),
    responses(
        (status = 200, description = "The package", body = String, content_type = "application/octet-stream"),
        (status = 404, description = "No such package", body = ErrorView),
        (status = 422, description = "Not a digest", body = ErrorView),
    )
)]
pub(super) async fn package(
    _: Admin,
    State(app): State<App>,
    Path(digest): Path<String>,
) -> Result<Response, Problem> {
    let digest = parsed("digest", &digest)?;
    let package = app
        .installer
        .packages()
        .find(&digest)
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "there is no such package"))?;
    let body = package
        .open()
        .await
        .map_err(|error| Problem::internal(&format!("{}: {error}", package.path.display())))?;
    Ok(message::stream(package.size, body).map(axum::body::Body::new))
}

/// Change how a host's deckies are attached
///
/// The host makes its network anew, and its deckies with it. Their addresses stay.
#[utoipa::path(
    put, path = "/swarm/hosts/{uuid}/network", tag = "swarm", request_body = NetworkBody,
    params(("uuid" = String, Path, description = "The host's id")),
    responses(
        (status = 200, description = "The host", body = HostView),
        (status = 400, description = "A key is unknown or of the wrong type", body = ErrorView),
        (status = 404, description = "No such host", body = ErrorView),
        (status = 409, description = "The host is revoked, or its deckies could not run so", body = ErrorView),
        (status = 422, description = "A value outside its pattern, or a mode of the other driver", body = ErrorView),
    )
)]
pub(super) async fn set_network(
    Admin(by): Admin,
    State(app): State<App>,
    HostPath(id): HostPath,
    mut fields: Fields,
) -> Result<Json<HostView>, Problem> {
    let network = networking(&mut fields);
    fields.done()?;
    let network = network?;
    changed(&app, id, move |control| control.set_networking(&by, id, &network)).await
}

/// Approve of a host that waits
///
/// The fingerprint is what the host itself says. Another one is refused.
#[utoipa::path(
    post, path = "/swarm/hosts/{uuid}/approve", tag = "swarm", request_body = ApproveBody,
    params(("uuid" = String, Path, description = "The host's id")),
    responses(
        (status = 200, description = "The host", body = HostView),
        (status = 404, description = "No such host", body = ErrorView),
        (status = 409, description = "Nobody waits, or somebody with another key", body = ErrorView),
        (status = 422, description = "Not a fingerprint", body = ErrorView),
    )
)]
pub(super) async fn approve(
    Admin(by): Admin,
    State(app): State<App>,
    HostPath(id): HostPath,
    mut fields: Fields,
) -> Result<Json<HostView>, Problem> {
    let fingerprint = fields.text("fingerprint")?;
    fields.done()?;
    let key = parsed("fingerprint", &fingerprint)?;
    changed(&app, id, move |control| control.approve(&by, id, &key)).await
}

/// Revoke a host, at once
///
/// Its key is worth nothing from now on, and its connections end. Its deckies stay where they are.
#[utoipa::path(
    post, path = "/swarm/hosts/{uuid}/revoke", tag = "swarm",
    params(("uuid" = String, Path, description = "The host's id")),
    responses(
        (status = 200, description = "The host", body = HostView),
        (status = 404, description = "No such host", body = ErrorView),
        (status = 409, description = "It is the worker inside the master", body = ErrorView),
    )
)]
pub(super) async fn revoke(
    Admin(by): Admin,
    State(app): State<App>,
    HostPath(id): HostPath,
) -> Result<Json<HostView>, Problem> {
    changed(&app, id, move |control| control.revoke(&by, id)).await
}

/// Changes a host, and answers with how it is then.
async fn changed(
    app: &App,
    id: HostId,
    change: impl FnOnce(&Control) -> Result<(), ControlError> + Send + 'static,
) -> Result<Json<HostView>, Problem> {
    let view = ask(app, move |control| {
        change(control)?;
        control.host(id)
    })
    .await?;
    Ok(Json(view.into()))
}

/// Takes the fields that say how deckies are attached.
fn networking(fields: &mut Fields) -> Result<HostNetworking, Problem> {
    let ipvlan = fields.switch("ipvlan");
    let mode = fields.optional_text("mode");
    let interface = fields.optional_text("interface");
    let mode = mode?.map(|text| parsed("mode", &text)).transpose()?;
    let interface = interface?.map(|text| parsed("interface", &text)).transpose()?;
    Ok(HostNetworking::new(ipvlan?, mode, interface)?)
}

fn parsed<T: FromStr<Err = decnet_wire::ids::ParseError>>(key: &str, text: &str) -> Result<T, Problem> {
    text.parse()
        .map_err(|error: decnet_wire::ids::ParseError| Problem::invalid(format!("{key}: {error}")))
}

/// A host's own LAN: both or neither, and the gateway is one of the subnet's hosts.
fn lan(subnet: Option<&str>, gateway: Option<&str>) -> Result<Option<Lan>, Problem> {
    let (subnet, gateway) = match (subnet, gateway) {
        (None, None) => return Ok(None),
        (Some(subnet), Some(gateway)) => (subnet, gateway),
        _ => {
            return Err(Problem::invalid(
                "subnet and gateway go together: give both or neither",
            ));
        }
    };
    let subnet: Ipv4Net = subnet
        .parse()
        .map_err(|_| Problem::invalid("subnet is not an IPv4 network such as 10.20.0.0/24"))?;
    let subnet = subnet.trunc();
    let gateway: Ipv4Addr = gateway
        .parse()
        .map_err(|_| Problem::invalid("gateway is not an IPv4 address such as 10.20.0.1"))?;
    if !subnet.contains(&gateway) || gateway == subnet.network() || gateway == subnet.broadcast() {
        return Err(Problem::invalid(format!(
            "gateway {gateway} is not a host address of {subnet}"
        )));
    }
    Ok(Some(Lan {
        subnet,
        gateway: Some(gateway),
        interface: None,
    }))
}
