//! The master itself: mode, settings, health.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use decnet_wire::ids::HostName;
use hyper::StatusCode;

use super::App;
use super::access::{Admin, Caller};
use super::answer::{Problem, ask};
use super::body::Fields;
use super::views::{ComponentView, ConfigView, ErrorView, HealthView, LimitBody, MessageView, ModeView};
use crate::control::Control;
use crate::control::hosts::{HostState, HostView};

/// From when on the end of the online key is told.
const ONLINE_KEY_WARNING: time::Duration = time::Duration::days(30);

/// Show where deckies run
#[utoipa::path(
    get, path = "/system/deployment-mode", tag = "system",
    responses((status = 200, description = "The mode", body = ModeView))
)]
pub(super) async fn deployment_mode(State(app): State<App>) -> Result<Json<ModeView>, Problem> {
    let (mode, hosts) = ask(&app, Control::mode).await?;
    let role = "master".to_owned();
    Ok(Json(ModeView {
        mode: mode.as_str().to_owned(),
        role,
        swarm_host_count: hosts,
    }))
}

/// Show the fleet's settings
#[utoipa::path(
    get, path = "/config", tag = "system",
    responses((status = 200, description = "The settings", body = ConfigView))
)]
pub(super) async fn config(caller: Caller, State(app): State<App>) -> Result<Json<ConfigView>, Problem> {
    let settings = ask(&app, Control::settings).await?;
    Ok(Json(ConfigView {
        role: caller.role(),
        deployment_limit: settings.deployment_limit.get(),
        global_mutation_interval: format!("{}m", settings.mutate_interval.get()),
    }))
}

/// Set how many deckies the fleet may have
#[utoipa::path(
    put, path = "/config/deployment-limit", tag = "system", request_body = LimitBody,
    responses(
        (status = 200, description = "Set", body = MessageView),
        (status = 400, description = "The key is missing or unknown", body = ErrorView),
        (status = 422, description = "Not within 1 to 500", body = ErrorView),
    )
)]
pub(super) async fn set_deployment_limit(
    Admin(by): Admin,
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Json<MessageView>, Problem> {
    let limit = fields
        .number("deployment_limit")?
        .ok_or_else(|| Problem::malformed("deployment_limit is missing"))?;
    fields.done()?;
    // What does not fit is far outside the range, and is refused as such.
    let limit = u16::try_from(limit).unwrap_or(u16::MAX);
    ask(&app, move |control| control.set_deployment_limit(&by, limit)).await?;
    Ok(Json(MessageView {
        message: format!("the fleet may have {limit} deckies"),
    }))
}

/// Show the master's health
#[utoipa::path(
    get, path = "/health", tag = "system",
    responses(
        (status = 200, description = "Deploys work", body = HealthView),
        (status = 503, description = "Deploys will not work", body = HealthView),
    )
)]
pub(super) async fn health(State(app): State<App>) -> Result<Response, Problem> {
    let read = ask(&app, |control| {
        let hosts = control.hosts()?;
        let behind = control.unpublished()?;
        Ok((hosts, behind, control.awaited()?))
    })
    .await;
    let mut components = BTreeMap::new();
    match read {
        Ok((hosts, behind, awaited)) => {
            if !awaited.is_empty() {
                components.insert("restore", restore(&awaited));
            }
            components.insert("store", part("ok", None));
            components.insert("publisher", publisher(&behind));
            components.insert("hosts", hosts_part(&hosts));
        }
        Err(_) => {
            components.insert(
                "store",
                part(
                    "failed",
                    Some("the store does not answer; see the log".to_owned()),
                ),
            );
        }
    }
    components.insert("online-key", online_key(app.control.online_key_left()));
    let image = app.control.image().is_some();
    components.insert(
        "image",
        if image {
            part("ok", None)
        } else {
            part(
                "failed",
                Some("there is no decoy image: start the master with --decoy-image".to_owned()),
            )
        },
    );
    let has = |status: &str| components.values().any(|component| component.status == status);
    let (code, status) = if has("failed") {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
    } else if has("degraded") {
        (StatusCode::OK, "degraded")
    } else {
        (StatusCode::OK, "healthy")
    };
    let components = components
        .into_iter()
        .map(|(name, component)| (name.to_owned(), component))
        .collect();
    Ok((
        code,
        Json(HealthView {
            status: status.to_owned(),
            components,
        }),
    )
        .into_response())
}

fn part(status: &str, detail: Option<String>) -> ComponentView {
    ComponentView {
        status: status.to_owned(),
        detail,
    }
}

/// A bundle that is due now may be a moment away; one that cannot be made stays due, and the log says why.
fn publisher(behind: &[String]) -> ComponentView {
    match behind {
        [] => part("ok", None),
        names => part(
            "degraded",
            Some(format!(
                "the newest bundle is not out yet for: {}",
                names.join(", ")
            )),
        ),
    }
}

/// A restored store publishes nothing for a host that has not said where it is.
fn restore(awaited: &[HostName]) -> ComponentView {
    let names: Vec<&str> = awaited.iter().map(HostName::as_str).collect();
    part(
        "degraded",
        Some(format!(
            "the store was restored; no bundle before they report for: {} (or decnet restore --accept-loss HOST)",
            names.join(", ")
        )),
    )
}

/// Hosts refuse every bundle of a key that has expired, so there is time to replace it.
fn online_key(left: time::Duration) -> ComponentView {
    let cure = "replace it: decnet key rotate online";
    if left <= time::Duration::ZERO {
        part(
            "failed",
            Some(format!("the master's signing key has expired; {cure}")),
        )
    } else if left < ONLINE_KEY_WARNING {
        let days = left.whole_days();
        part(
            "degraded",
            Some(format!("the master's signing key expires in {days} days; {cure}")),
        )
    } else {
        part("ok", None)
    }
}

fn hosts_part(hosts: &[HostView]) -> ComponentView {
    let away: Vec<&str> = hosts
        .iter()
        .filter(|view| view.state == HostState::Unreachable)
        .map(|view| view.host.name.as_str())
        .collect();
    if away.is_empty() {
        part("ok", None)
    } else {
        part(
            "degraded",
            Some(format!("no heartbeat from: {}", away.join(", "))),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::online_key;

    #[test]
    fn the_end_of_the_online_key_is_told_a_month_before() {
        for (days, status) in [(31, "ok"), (29, "degraded"), (0, "failed"), (-1, "failed")] {
            let part = online_key(time::Duration::days(days));
            assert_eq!(part.status, status, "{days}");
            assert_eq!(part.detail.is_some(), status != "ok");
        }
    }
}
