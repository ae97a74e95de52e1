//! The policies that the operators have signed.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use decnet_wire::ids::{HostName, Timestamp};
use decnet_wire::policy::Policy;
use serde_json::Value;

use super::App;
use super::access::{Admin, Caller};
use super::answer::{Problem, ask};
use super::body::Fields;
use super::views::{ErrorView, ForbiddenView, PoliciesView, PolicyCheckView, PolicyView};
use crate::control::policy::Forbidden;
use crate::control::{Control, ControlError};

/// Show the policies that count, and for which hosts
#[utoipa::path(
    get, path = "/policy", tag = "policy",
    responses((status = 200, description = "The policies", body = PoliciesView))
)]
pub(super) async fn show(_: Caller, State(app): State<App>) -> Result<Json<PoliciesView>, Problem> {
    ask(&app, |control| view(control).map(Json)).await
}

/// Take a signed policy
///
/// It is checked as an agent checks it. Every host that it names gets its bundle anew, and fetches the policy first.
#[utoipa::path(
    post, path = "/policy", tag = "policy", request_body = Object,
    responses(
        (status = 200, description = "It counts from now on", body = PoliciesView),
        (status = 422, description = "No host would believe it", body = ErrorView),
    )
)]
pub(super) async fn take(
    Admin(by): Admin,
    State(app): State<App>,
    fields: Fields,
) -> Result<Json<PoliciesView>, Problem> {
    let envelope = fields.whole().to_string();
    ask(&app, move |control| {
        control.take_policy(&by, envelope.as_bytes())?;
        view(control).map(Json)
    })
    .await
}

/// Tell what a policy would forbid of the present fleet; changes nothing
///
/// The body is the document that is to be signed. An empty object stands for the policies that are held.
#[utoipa::path(
    post, path = "/policy/check", tag = "policy", request_body = Object,
    responses(
        (status = 200, description = "What is forbidden", body = PolicyCheckView),
        (status = 422, description = "It is no policy", body = ErrorView),
    )
)]
pub(super) async fn check(
    _: Admin,
    State(app): State<App>,
    fields: Fields,
) -> Result<Json<PolicyCheckView>, Problem> {
    let draft = match fields.whole() {
        Value::Object(empty) if empty.is_empty() => None,
        body => Some(
            serde_json::from_value::<Policy>(body)
                .map_err(|error| Problem::invalid(format!("the policy is not one: {error}")))?,
        ),
    };
    let verdict = ask(&app, move |control| control.check_policy(draft.as_ref())).await?;
    Ok(Json(PolicyCheckView {
        hosts: verdict.hosts,
        deckies: verdict.deckies,
        forbidden: verdict.forbidden.into_iter().map(forbidden).collect(),
    }))
}

fn forbidden(found: Forbidden) -> ForbiddenView {
    let Forbidden {
        host,
        decky,
        service,
        attribute,
        reason,
        rule,
    } = found;
    ForbiddenView {
        host,
        decky,
        service,
        attribute,
        reason,
        rule,
    }
}

fn view(control: &Control) -> Result<PoliciesView, ControlError> {
    let policies = control.policies();
    let mut of: BTreeMap<u64, Vec<HostName>> = BTreeMap::new();
    let mut built_in = Vec::new();
    let hosts = control.hosts()?;
    for view in hosts.iter().filter(|view| view.host.lives()) {
        let name = view.host.name.clone();
        match control.policy_for(view.host.id) {
            Some(policy) => of.entry(policy.version()).or_default().push(name),
            None => built_in.push(name),
        }
    }
    // Hosts to come get the newest for every host.
    let fleet_wide = control.fleet_wide_policy();
    let now = Timestamp::new(time::OffsetDateTime::now_utc());
    let shown = policies
        .values()
        .rev()
        .filter(|policy| of.contains_key(&policy.version()) || Some(policy.version()) == fleet_wide);
    let views = shown
        .map(|policy| {
            let document = policy.document();
            PolicyView {
                version: document.version,
                issued_at: document.issued_at,
                expires_at: document.expires_at,
                expired: document.expires_at <= now,
                every_host: document.hosts.is_none(),
                hosts: of.get(&document.version).cloned().unwrap_or_default(),
                present_operators: control.is_policy_of_present_operators(policy),
                rules: document.rules.clone(),
            }
        })
        .collect();
    Ok(PoliciesView {
        fleet: control.fleet_id(),
        newest: policies.keys().next_back().copied().unwrap_or(0),
        required: control.keys().root.document().policy,
        policies: views,
        built_in,
    })
}
