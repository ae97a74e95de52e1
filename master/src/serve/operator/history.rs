//! What is kept of operations that have ended.

use axum::Json;
use axum::extract::State;

use super::App;
use super::access::Admin;
use super::answer::{Problem, ask};
use super::body::Fields;
use super::views::{ErrorView, PurgeBody, PurgedView};
use crate::control::history::Keep;

/// The most days that may be asked for.
const DAYS: u64 = 36_500;

/// Remove rows of operations that have ended
///
/// With neither `older_than_days` nor `keep`: what the master would remove by itself. Open rows and the newest row of
/// each decky stay; so does the audit log.
#[utoipa::path(
    post, path = "/lifecycle/purge", tag = "lifecycle", request_body = PurgeBody,
    responses(
        (status = 200, description = "What was removed, or would be", body = PurgedView),
        (status = 400, description = "A key is unknown", body = ErrorView),
        (status = 422, description = "A value outside its range", body = ErrorView),
    )
)]
pub(super) async fn purge(
    Admin(by): Admin,
    State(app): State<App>,
    mut fields: Fields,
) -> Result<Json<PurgedView>, Problem> {
    let days = fields.number("older_than_days")?;
    let rows = fields.number("keep")?;
    let dry_run = fields.switch("dry_run")?;
    fields.done()?;
    let days = days.map(|days| {
        let days = i64::try_from(days).ok().filter(|_| days <= DAYS);
        days.ok_or_else(|| Problem::invalid(format!("older_than_days is not within 0 to {DAYS}")))
    });
    let age = days.transpose()?.map(time::Duration::days);
    let purged = ask(&app, move |control| {
        let keep = match (age, rows) {
            (None, None) => control.kept(),
            (age, rows) => Keep { age, rows },
        };
        control.purge(&by, keep, dry_run)
    })
    .await?;
    Ok(Json(PurgedView {
        rows: purged.rows(),
        by_status: purged
            .by_status
            .into_iter()
            .map(|(status, count)| (status.as_str().to_owned(), count))
            .collect(),
        oldest: purged.oldest,
        newest: purged.newest,
        left: purged.left,
        dry_run,
    }))
}
