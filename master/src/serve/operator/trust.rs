//! The trust root: which keys may sign what.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use decnet_pki::key::PublicKey;
use decnet_wire::ids::Digest;
use decnet_wire::trust::TrustRoot;
use hyper::header;
use serde_json::Value;

use super::App;
use super::access::{Admin, Caller};
use super::answer::{Problem, ask};
use super::body::Fields;
use super::views::{AuthorityView, DraftBody, ErrorView, TrustView};
use crate::control::trust::RootChange;
use crate::control::{Control, ControlError};
use crate::keys::MasterKeys;

/// Show the trust root that counts, and the keys that it names
#[utoipa::path(
    get, path = "/trust", tag = "trust",
    responses((status = 200, description = "The trust root", body = TrustView))
)]
pub(super) async fn show(_: Caller, State(app): State<App>) -> Result<Json<TrustView>, Problem> {
    ask(&app, |control| Ok(Json(view(control, &control.keys())?))).await
}

/// Get the revocation lists of all CAs that are believed (RFC 5280, in PEM)
#[utoipa::path(
    get, path = "/trust/crl", tag = "trust",
    responses((status = 200, description = "One after the other", body = String, content_type = "application/x-pem-file"))
)]
pub(super) async fn revocation_lists(
    _: Caller,
    State(app): State<App>,
) -> Result<impl IntoResponse, Problem> {
    let lists = ask(&app, Control::revocation_lists).await?;
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], lists))
}

/// Get the signed trust root, as agents get it
#[utoipa::path(
    get, path = "/trust/root", tag = "trust",
    responses((status = 200, description = "A DSSE envelope", body = Object))
)]
pub(super) async fn root(_: Caller, State(app): State<App>) -> Result<Json<Value>, Problem> {
    let bytes = ask(&app, |control| Ok(control.keys().root.envelope().to_json())).await?;
    serde_json::from_slice(&bytes)
        .map(Json)
        .map_err(|error| Problem::internal(&error.to_string()))
}

/// Draft the next trust root, for its operators to sign; changes nothing
#[utoipa::path(
    post, path = "/trust/draft", tag = "trust", request_body = DraftBody,
    responses(
        (status = 200, description = "The document to be signed", body = Object),
        (status = 400, description = "A key is unknown", body = ErrorView),
        (status = 422, description = "Nothing would change, or an operator's key is none", body = ErrorView),
    )
)]
pub(super) async fn draft(
    _: Admin,
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Json<TrustRoot>, Problem> {
    let online = fields.switch("online")?;
    let authority = fields.switch("authority")?;
    let retire = fields.switch("retire")?;
    let policy = fields.switch("policy")?;
    let epoch = fields.switch("epoch")?;
    let operators = fields.optional_text("operator_keys")?;
    let threshold = fields.number("threshold")?;
    fields.done()?;
    let operators = match (operators, threshold) {
        (None, None) => None,
        (Some(keys), threshold) => Some((read_keys(&keys)?, threshold.unwrap_or(1))),
        (None, Some(_)) => {
            return Err(Problem::malformed(
                "threshold goes with operator_keys: name all of them",
            ));
        }
    };
    let operators = operators
        .map(|(keys, threshold)| match u32::try_from(threshold) {
            Ok(threshold) if (1..=keys.len()).contains(&(threshold as usize)) => Ok((keys, threshold)),
            _ => Err(Problem::invalid(format!(
                "{threshold} of {} operators cannot sign",
                keys.len()
            ))),
        })
        .transpose()?;
    let change = RootChange {
        online,
        operators,
        authority,
        retire,
        policy,
        epoch,
    };
    ask(&app, move |control| control.draft_root(&change).map(Json)).await
}

/// Replace the trust root by a signed one
///
/// Every host hears of it with its next bundle, which is signed anew.
#[utoipa::path(
    post, path = "/trust/root", tag = "trust", request_body = Object,
    responses(
        (status = 200, description = "It counts from now on", body = TrustView),
        (status = 422, description = "It does not follow the one that counts", body = ErrorView),
    )
)]
pub(super) async fn replace(
    Admin(by): Admin,
    State(app): State<App>,
    fields: Fields,
) -> Result<Json<TrustView>, Problem> {
    let envelope = fields.whole().to_string();
    ask(&app, move |control: &Control| {
        let keys = control.follow_root(&by, envelope.as_bytes())?;
        Ok(Json(view(control, &keys)?))
    })
    .await
}

fn read_keys(text: &str) -> Result<Vec<PublicKey>, Problem> {
    text.split(',')
        .map(str::trim)
        .map(|key| {
            key.parse()
                .map_err(|error| Problem::invalid(format!("the operator key {key:?} is refused: {error}")))
        })
        .collect()
}

fn view(control: &Control, keys: &MasterKeys) -> Result<TrustView, ControlError> {
    let root = &keys.root;
    let hosts = control.hosts_by_authority()?;
    Ok(TrustView {
        version: root.version(),
        epoch: root.epoch(),
        policy: root.document().policy,
        threshold: root.document().threshold,
        operator_keys: root.document().operator_keys.clone(),
        operator_key_here: keys.has_operator_key(),
        online_key: root.online_key().to_string(),
        online_key_expires_at: root.online_key_expires_at().to_string(),
        authorities: root
            .authorities()
            .iter()
            .map(|authority| AuthorityView {
                pin: authority.pin().to_string(),
                expires_at: decnet_wire::ids::Timestamp::new(authority.not_after()).to_string(),
                hosts: hosts
                    .get(&Digest::from_sha256(*authority.pin().sha256().as_bytes()))
                    .copied()
                    .unwrap_or_default(),
            })
            .collect(),
    })
}
