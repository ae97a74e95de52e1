//! Deckies: deploy, plan, list, mutate, remove.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete};
use axum::{Json, Router};
use decnet_plan::planner::describe;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use super::access::Admin;
use super::answer::{Problem, ask};
use super::body::Fields;
use super::parameters::DeckyPath;
use super::views::{
    BegunView, BlockedView, DeckyView, DeployBody, DeployedView, ErrorView, HostPlanView, IntervalBody,
    MessageView, PlanView, StepView, interval_text,
};
use super::{App, PREFIX};
use crate::control::ControlError;
use crate::control::deploy::{DeployRequest, HostPlan, refused};
use crate::fleet::model::Interval;
use crate::fleet::mutate::parse_duration;

/// The header of a 204 that names the row of the operation that was begun.
const LIFECYCLE_ID: HeaderName = HeaderName::from_static("decnet-lifecycle-id");

fn request(fields: Fields) -> Result<DeployRequest, Problem> {
    Ok(DeployRequest::from_json(&fields.whole()).map_err(refused)?)
}

/// Deploy a fleet description
///
/// Accepted means stored: the hosts then work on it, and the rows tell how it goes. Nothing is changed when it is
/// refused. A description that was deployed before is refused (409) unless it replaces the fleet.
#[utoipa::path(
    post, path = "/deckies/deploy", tag = "deckies", request_body = DeployBody,
    responses(
        (status = 202, description = "Accepted", body = DeployedView),
        (status = 400, description = "A key is missing, unknown or of the wrong type", body = ErrorView),
        (status = 409, description = "The description is refused; `errors` has every reason", body = ErrorView),
        (status = 413, description = "The body is too large", body = ErrorView),
        (status = 422, description = "The body is not JSON, or the description is too large or empty", body = ErrorView),
    )
)]
pub(super) async fn deploy(
    Admin(by): Admin,
    State(app): State<App>,
    fields: Fields,
) -> Result<Response, Problem> {
    let request = request(fields)?;
    let deployed = ask(&app, move |control| control.deploy(&by, &request)).await?;
    let count = deployed.lifecycle_ids.len();
    let view = DeployedView {
        message: match count {
            0 => "nothing to do: the fleet is as described".to_owned(),
            1 => "accepted: 1 operation".to_owned(),
            count => format!("accepted: {count} operations"),
        },
        mode: deployed.mode.as_str().to_owned(),
        lifecycle_ids: deployed.lifecycle_ids,
        warnings: deployed.warnings,
    };
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

/// Show what a deploy would do
///
/// The same checks as a deploy, and nothing is changed.
#[utoipa::path(
    post, path = "/deckies/plan", tag = "deckies", request_body = DeployBody,
    responses(
        (status = 200, description = "What each host would do", body = PlanView),
        (status = 400, description = "A key is missing, unknown or of the wrong type", body = ErrorView),
        (status = 409, description = "The description is refused; `errors` has every reason", body = ErrorView),
        (status = 422, description = "The body is not JSON, or the description is too large or empty", body = ErrorView),
    )
)]
pub(super) async fn plan(
    _: Admin,
    State(app): State<App>,
    fields: Fields,
) -> Result<Json<PlanView>, Problem> {
    let request = request(fields)?;
    let preview = ask(&app, move |control| control.plan(&request)).await?;
    let hosts = preview.hosts.into_iter().map(host_plan).collect();
    Ok(Json(PlanView {
        mode: preview.mode.as_str().to_owned(),
        hosts,
        warnings: preview.warnings,
    }))
}

fn host_plan(host: HostPlan) -> HostPlanView {
    let steps = host.plan.steps.into_iter().map(|planned| StepView {
        describe: describe(&planned.step),
        stack: planned.stack,
        step: planned.step,
    });
    HostPlanView {
        host_uuid: host.host,
        host_name: host.name,
        observed: host.observed,
        steps: steps.collect(),
        blocked: host.plan.blocked.into_iter().map(BlockedView::from).collect(),
    }
}

/// List deckies
#[utoipa::path(
    get, path = "/deckies", tag = "deckies",
    responses((status = 200, description = "Every decky, by name", body = Vec<DeckyView>))
)]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<DeckyView>>, Problem> {
    let views = ask(&app, |control| {
        let deckies = control.deckies()?;
        Ok(deckies
            .into_iter()
            .map(|decky| DeckyView::new(decky, control.catalogue()))
            .collect())
    })
    .await?;
    Ok(Json(views))
}

/// Show one decky
#[utoipa::path(
    get, path = "/deckies/{name}", tag = "deckies",
    params(("name" = String, Path, description = "1 to 64 of a-z, 0-9 and '-'")),
    responses(
        (status = 200, description = "The decky", body = DeckyView),
        (status = 404, description = "No such decky", body = ErrorView),
        (status = 422, description = "Not a decky's name", body = ErrorView),
    )
)]
pub(super) async fn show(
    State(app): State<App>,
    DeckyPath(name): DeckyPath,
) -> Result<Json<DeckyView>, Problem> {
    let view = ask(&app, move |control| {
        let found = control
            .deckies()?
            .into_iter()
            .find(|decky| decky.record.decky.name == name);
        let decky = found.ok_or_else(|| ControlError::NotFound {
            what: "decky",
            name: name.to_string(),
        })?;
        Ok(DeckyView::new(decky, control.catalogue()))
    })
    .await?;
    Ok(Json(view))
}

/// Remove one decky
///
/// Its name and address are free once its host reports that nothing of it is left.
#[utoipa::path(
    delete, path = "/deckies/{name}", tag = "deckies",
    params(("name" = String, Path, description = "1 to 64 of a-z, 0-9 and '-'")),
    responses(
        (status = 204, description = "Begun", headers(("decnet-lifecycle-id" = String, description = "The row's id"))),
        (status = 404, description = "No such decky", body = ErrorView),
        (status = 422, description = "Not a decky's name", body = ErrorView),
    )
)]
pub(super) async fn remove(
    Admin(by): Admin,
    State(app): State<App>,
    DeckyPath(name): DeckyPath,
) -> Result<Response, Problem> {
    let id = ask(&app, move |control| control.remove(&by, &name)).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    // A UUID's digits and hyphens always make a header value.
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(LIFECYCLE_ID, value);
    }
    Ok(response)
}

/// Change one decky's services
///
/// The decky keeps its address, MAC and base container. The new services are drawn from its archetype.
#[utoipa::path(
    post, path = "/deckies/{name}/mutate", tag = "deckies",
    params(("name" = String, Path, description = "1 to 64 of a-z, 0-9 and '-'")),
    responses(
        (status = 202, description = "Begun", body = BegunView),
        (status = 404, description = "No such decky", body = ErrorView),
        (status = 409, description = "It has the only services it can have, or is being removed", body = ErrorView),
        (status = 422, description = "Not a decky's name", body = ErrorView),
    )
)]
pub(super) async fn mutate(
    Admin(by): Admin,
    State(app): State<App>,
    DeckyPath(name): DeckyPath,
) -> Result<Response, Problem> {
    let id = ask(&app, move |control| control.mutate(&by, &name)).await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(BegunView {
            lifecycle_ids: vec![id],
        }),
    )
        .into_response())
}

/// Set how often one decky mutates by itself
#[utoipa::path(
    put, path = "/deckies/{name}/mutate-interval", tag = "deckies", request_body = IntervalBody,
    params(("name" = String, Path, description = "1 to 64 of a-z, 0-9 and '-'")),
    responses(
        (status = 200, description = "Set", body = MessageView),
        (status = 400, description = "The key is missing, unknown or of the wrong type", body = ErrorView),
        (status = 404, description = "No such decky", body = ErrorView),
        (status = 422, description = "Not an interval, or not a decky's name", body = ErrorView),
    )
)]
pub(super) async fn set_interval(
    Admin(by): Admin,
    State(app): State<App>,
    DeckyPath(name): DeckyPath,
    mut fields: Fields,
) -> Result<Json<MessageView>, Problem> {
    let text = fields.text_or_null("mutate_interval")?;
    fields.done()?;
    let interval = interval(text.as_deref()).ok_or_else(|| {
        Problem::invalid(
            "mutate_interval is not null, \"disabled\", \"inherit\" or a number with a unit m, d, M or y, as in \
             \"30m\", of at most ten years",
        )
    })?;
    let message = format!("{name} mutates: {}", interval_text(interval));
    ask(&app, move |control| control.set_interval(&by, &name, interval)).await?;
    Ok(Json(MessageView { message }))
}

/// `null`, `disabled`, `inherit` or `[1-9][0-9]*[mdMyY]`.
fn interval(text: Option<&str>) -> Option<Interval> {
    match text {
        None | Some("disabled") => Some(Interval::Disabled),
        Some("inherit") => Some(Interval::Inherit),
        Some(text) => parse_duration(text).ok().map(Interval::Minutes),
    }
}

/// `deploy`, `plan` and `lifecycle` are names that deckies may have, and paths of their own besides. A path of
/// its own wins whatever the method, so the other methods on it are given to the decky of that name here.
pub(super) fn with_reserved_names(router: Router<App>) -> Router<App> {
    let named = |name: &'static str| -> MethodRouter<App> {
        delete(async move |admin: Admin, app: State<App>| remove(admin, app, DeckyPath::parse(name)?).await)
    };
    let shown = |name: &'static str| -> MethodRouter<App> {
        named(name).get(async move |app: State<App>| show(app, DeckyPath::parse(name)?).await)
    };
    router
        .route(&format!("{PREFIX}/deckies/deploy"), shown("deploy"))
        .route(&format!("{PREFIX}/deckies/plan"), shown("plan"))
        .route(&format!("{PREFIX}/deckies/lifecycle"), named("lifecycle"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::model::Minutes;

    fn minutes(count: u32) -> Option<Interval> {
        Some(Interval::Minutes(Minutes::try_from(count).unwrap()))
    }

    #[test]
    fn inherit_disabled_and_a_number_are_three_things() {
        assert_eq!(interval(None), Some(Interval::Disabled));
        assert_eq!(interval(Some("disabled")), Some(Interval::Disabled));
        assert_eq!(interval(Some("inherit")), Some(Interval::Inherit));
        assert_eq!(interval(Some("30m")), minutes(30));
        assert_eq!(interval(Some("2d")), minutes(2880));
        assert_eq!(interval(Some("1M")), minutes(43_200));
        assert_eq!(interval(Some("1y")), interval(Some("1Y")));
    }

    #[test]
    fn an_interval_outside_its_pattern_is_refused() {
        for bad in [
            "",
            "m",
            "0m",
            "01m",
            "-1m",
            "+1m",
            "1",
            "1h",
            "1 m",
            "m1",
            "1mm",
            "99999999999y",
            "11y",
            "1é",
            "é",
        ] {
            assert_eq!(interval(Some(bad)), None, "{bad}");
        }
    }
}
