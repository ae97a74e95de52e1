//! Operators' tokens.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use hyper::StatusCode;

use super::App;
use super::access::Admin;
use super::answer::{Problem, ask};
use super::body::{Fields, lifetime};
use super::views::{ErrorView, MessageView, NameBody, TokenBody, TokenInfo, TokenView, TokensView};
use crate::control::Control;
use crate::control::tokens::LIFETIME_MAX;
use crate::records::Role;

/// Make an operator token
///
/// Only its hash is stored: it is shown this once.
#[utoipa::path(
    post, path = "/tokens", tag = "tokens", request_body = TokenBody,
    responses(
        (status = 201, description = "The token, shown once", body = TokenView),
        (status = 400, description = "A key is missing, unknown or of the wrong type", body = ErrorView),
        (status = 409, description = "Another token has this name", body = ErrorView),
        (status = 422, description = "A value outside its range", body = ErrorView),
    )
)]
pub(super) async fn create(
    Admin(by): Admin,
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Response, Problem> {
    let name = fields.text("name")?;
    let role = fields.text("role")?;
    let seconds = fields.number("ttl_seconds")?;
    fields.done()?;
    if name.is_empty() {
        return Err(Problem::malformed("name is empty"));
    }
    if name.chars().count() > 64 || name.contains(char::is_control) {
        return Err(Problem::invalid("name is not 1 to 64 characters in one line"));
    }
    let role = match role.as_str() {
        "viewer" => Role::Viewer,
        "admin" => Role::Admin,
        _ => return Err(Problem::invalid("role is not viewer or admin")),
    };
    let lifetime = seconds
        .map(|seconds| lifetime(seconds, LIFETIME_MAX))
        .transpose()?;
    let owned = name.clone();
    let token = ask(&app, move |control| {
        control.create_token(&by, &owned, role, lifetime)
    })
    .await?;
    Ok((StatusCode::CREATED, Json(TokenView { name, role, token })).into_response())
}

/// List the operators' tokens, without the tokens themselves
#[utoipa::path(
    get, path = "/tokens", tag = "tokens",
    responses((status = 200, description = "All tokens, by name", body = TokensView))
)]
pub(super) async fn list(_: Admin, State(app): State<App>) -> Result<Json<TokensView>, Problem> {
    let tokens = ask(&app, Control::tokens).await?;
    let tokens = tokens.into_iter().map(|token| TokenInfo {
        name: token.name,
        role: token.role,
        created_at: token.created_at.to_string(),
        expires_at: token.expires_at.map(|at| at.to_string()),
        last_used: token.last_used.map(|at| at.to_string()),
    });
    Ok(Json(TokensView {
        tokens: tokens.collect(),
    }))
}

/// Revoke an operator's token, at once
#[utoipa::path(
    post, path = "/tokens/revoke", tag = "tokens", request_body = NameBody,
    responses(
        (status = 200, description = "It is not known any more", body = MessageView),
        (status = 400, description = "The name is missing or no text", body = ErrorView),
        (status = 404, description = "There is no token of this name", body = ErrorView),
    )
)]
pub(super) async fn revoke(
    Admin(by): Admin,
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Json<MessageView>, Problem> {
    let name = fields.text("name")?;
    fields.done()?;
    let owned = name.clone();
    ask(&app, move |control| control.revoke_token(&by, &owned)).await?;
    Ok(Json(MessageView {
        message: format!("the token {name} is revoked"),
    }))
}
