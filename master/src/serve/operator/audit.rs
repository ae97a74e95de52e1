//! The audit log.

use axum::Json;
use axum::extract::State;

use super::App;
use super::access::Admin;
use super::answer::{Problem, ask};
use super::parameters::Pairs;
use super::views::{AuditHeadView, AuditView, ErrorView};
use crate::control::audit::AuditFilter;
use crate::text::moment;

/// Entries where nobody says otherwise, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// The longest condition, in characters.
const WORD: usize = 256;

/// List the audit log: who changed what, and alarms
///
/// In the order of the numbers: the newest entries, or with `after` those that follow. A page ends at `limit` entries,
/// or at 2 MiB. Every entry names the digest of the one before it.
#[utoipa::path(
    get, path = "/audit", tag = "audit",
    params(
        ("since" = Option<String>, Query, description = "Not before this moment (RFC 3339)"),
        ("until" = Option<String>, Query, description = "Before this moment (RFC 3339)"),
        ("actor" = Option<String>, Query, description = "The actor's name, id or kind, as in `ci`, `root`, `edge-01`, `master`"),
        ("action" = Option<String>, Query, description = "What the action begins with, as in `host.` or `alarm`"),
        ("subject" = Option<String>, Query, description = "The subject, whole (`host/edge-01`) or its name (`edge-01`)"),
        ("after" = Option<u64>, Query, description = "Only what follows the entry of this number; 0: from the beginning"),
        ("limit" = Option<u16>, Query, description = "At most so many: 1 to 1000, 100 where left out"),
    ),
    responses(
        (status = 200, description = "The entries", body = AuditView),
        (status = 422, description = "A parameter outside its range", body = ErrorView),
    )
)]
pub(super) async fn list(_: Admin, State(app): State<App>, pairs: Pairs) -> Result<Json<AuditView>, Problem> {
    let limit: Option<usize> = given(&pairs, "limit", "a number", |text| text.parse().ok())?;
    let limit = limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::invalid(format!("limit is not within 1 to {LIMIT_MAX}")));
    }
    let word = |name: &'static str| match pairs.last(name) {
        Some(text) if text.chars().count() > WORD => Err(Problem::invalid(format!("{name} is too long"))),
        text => Ok(text.map(str::to_owned)),
    };
    let filter = AuditFilter {
        since: given(&pairs, "since", "a moment as in 2026-01-02T03:04:05Z", moment)?,
        until: given(&pairs, "until", "a moment as in 2026-01-02T03:04:05Z", moment)?,
        actor: word("actor")?,
        action: word("action")?,
        subject: word("subject")?,
        after: given(&pairs, "after", "an entry's number", |text| text.parse().ok())?,
        limit,
    };
    let page = ask(&app, move |control| control.audit(&filter)).await?;
    Ok(Json(AuditView {
        entries: page.entries,
        next: page.next,
        head: page.head.map(|(seq, digest)| AuditHeadView { seq, digest }),
    }))
}

fn given<T>(
    pairs: &Pairs,
    name: &str,
    what: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let read = |text| read(text).ok_or_else(|| Problem::invalid(format!("{name} is not {what}")));
    pairs.last(name).map(read).transpose()
}
