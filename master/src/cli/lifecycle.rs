//! `lifecycle`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use decnet_wire::ids::{HostId, OperationId, Timestamp};
use hyper::Method;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::events::{Following, document};
use super::failure::Failure;
use super::follow::{follow, judge, rows};
use super::table::{facts, or_none, printable, table};
use super::{Console, hosts};
use crate::records::Cause;
use crate::serve::operator::views::{PurgeBody, PurgedView, RowView, RowsView};

/// The topics of transitions.
pub(super) const TRANSITIONS: &str = "decky.*.lifecycle";

/// What `decnet lifecycle` takes.
#[derive(Debug, Args)]
pub struct LifecycleArgs {
    #[command(subcommand)]
    pub command: LifecycleCommand,
}

/// What may be done with operations.
#[derive(Debug, Subcommand)]
pub enum LifecycleCommand {
    /// List operations, the newest first
    #[command(
        after_help = "Examples:\n  decnet lifecycle ls --open\n  decnet lifecycle ls --host edge-01 --limit 20"
    )]
    Ls {
        /// Only those that have not ended
        #[arg(long)]
        open: bool,
        /// Only those of this host, by name or id
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Show operations
    #[command(after_help = "Examples:\n  decnet lifecycle show 0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11")]
    Show {
        /// Their ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<OperationId>,
    },
    /// Remove operations that have ended
    Purge(PurgeArgs),
    /// Wait until operations have ended; without ids: print every transition until interrupted
    #[command(after_help = "\
Examples:
  decnet lifecycle watch                                        every transition, one a line
  decnet lifecycle watch 0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11   fails unless it succeeds
  decnet lifecycle watch --json | jq -c 'select(.status == \"failed\")'")]
    Watch {
        /// Their ids
        #[arg(value_name = "ID")]
        ids: Vec<OperationId>,
    },
}

/// What `decnet purge` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Open operations and the newest one of each decky stay. Without options: what the master would remove \
                  by itself.\n\nExamples:\n  decnet purge --dry-run\n  decnet purge --older-than 30\n  decnet purge --keep 10000"
)]
pub struct PurgeArgs {
    /// Those that ended more than so many days ago
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(0..=36_500))]
    pub older_than: Option<u64>,
    /// Those beyond so many, the oldest first
    #[arg(long, value_name = "N")]
    pub keep: Option<u64>,
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
}

pub(super) async fn run(
    args: &LifecycleArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    match &args.command {
        LifecycleCommand::Ls { open, host, limit } => {
            list(*open, host.as_deref(), *limit, client, console).await
        }
        LifecycleCommand::Show { ids } => show(ids, client, console).await,
        LifecycleCommand::Purge(args) => purge(args, client, console).await,
        LifecycleCommand::Watch { ids } if ids.is_empty() => stream(client, console).await,
        LifecycleCommand::Watch { ids } => {
            let rows = follow(client, ids, console).await?;
            if console.json {
                console.document(&RowsView { rows: rows.clone() })?;
            }
            judge(&rows)
        }
    }
}

pub(super) async fn purge(
    args: &PurgeArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let body = json!(PurgeBody {
        older_than_days: args.older_than,
        keep: args.keep,
        dry_run: args.dry_run,
    });
    let purged: PurgedView = client
        .call(Method::POST, "/api/v1/lifecycle/purge", Some(&body))
        .await?;
    if console.json {
        return console.document(&purged);
    }
    let parts: Vec<String> = purged
        .by_status
        .iter()
        .map(|(status, count)| format!("{count} {status}"))
        .collect();
    let what = if purged.dry_run { "would go" } else { "removed" };
    let of = if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(", "))
    };
    console.print(&facts([
        (what, format!("{} operations{of}", purged.rows)),
        ("oldest", or_none(purged.oldest)),
        ("newest", or_none(purged.newest)),
        ("left", format!("{} operations", purged.left)),
    ]))
}

async fn list(
    open: bool,
    host: Option<&str>,
    limit: u16,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let mut path = format!("/api/v1/lifecycle?open={open}&limit={limit}");
    if let Some(host) = host {
        path.push_str(&format!("&host={}", hosts::find(host, client).await?.uuid));
    }
    let view: RowsView = client.get(&path).await?;
    if console.json {
        return console.document(&view);
    }
    let names = names(client).await;
    console.print(&overview(view.rows, &names))
}

/// The names of hosts, as far as the caller may see them.
pub(super) async fn names(client: &Client) -> BTreeMap<HostId, String> {
    let hosts = hosts::all(client).await.unwrap_or_default();
    hosts
        .into_iter()
        .map(|host| (host.uuid, host.name.to_string()))
        .collect()
}

/// Rows in a table.
pub(super) fn overview(rows: Vec<RowView>, names: &BTreeMap<HostId, String>) -> String {
    table(
        ["ID", "DECKY", "OPERATION", "STATUS", "HOST", "UPDATED", "ERROR"],
        rows.into_iter().map(|row| {
            let host = row
                .host_uuid
                .map(|id| names.get(&id).cloned().unwrap_or_else(|| id.to_string()));
            [
                row.id.to_string(),
                row.decky_name.to_string(),
                row.operation.as_str().to_owned(),
                row.status.as_str().to_owned(),
                or_none(host),
                row.updated_at.to_string(),
                or_none(ended(why(row.cause, row.error), row.late)),
            ]
        }),
    )
}

/// The cause, and its text.
fn why(cause: Option<Cause>, error: Option<String>) -> Option<String> {
    match cause {
        // The host's own words say it.
        None | Some(Cause::ReportedByHost) => error,
        Some(cause) => Some(format!("[{}] {}", cause.as_str(), error.unwrap_or_default())),
    }
}

/// How it ended, and what came of it afterwards.
fn ended(error: Option<String>, late: Option<String>) -> Option<String> {
    match (error, late) {
        (Some(error), Some(late)) => Some(format!("{error}; later: {late}")),
        (None, Some(late)) => Some(format!("later: {late}")),
        (error, None) => error,
    }
}

async fn show(ids: &[OperationId], client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let rows = rows(client, ids).await?;
    if console.json {
        return console.document(&RowsView { rows });
    }
    let texts: Vec<String> = rows
        .into_iter()
        .map(|row| {
            let history = history(&row);
            let text = facts([
                ("id", row.id.to_string()),
                ("decky", row.decky_name.to_string()),
                ("operation", row.operation.as_str().to_owned()),
                ("status", row.status.as_str().to_owned()),
                ("cause", or_none(row.cause.map(Cause::as_str))),
                ("error", or_none(row.error)),
                ("later", or_none(later(row.late, row.late_at))),
                ("host", or_none(row.host_uuid)),
                ("started", row.started_at.to_string()),
                ("updated", row.updated_at.to_string()),
                ("completed", or_none(row.completed_at)),
            ]);
            format!("{text}{history}")
        })
        .collect();
    console.print(&texts.join("\n"))
}

/// What came after the end, and when.
fn later(late: Option<String>, at: Option<Timestamp>) -> Option<String> {
    let late = late?;
    Some(at.map_or_else(|| late.clone(), |at| format!("{late} (at {at})")))
}

/// Every transition, one a line.
fn history(row: &RowView) -> String {
    let lines = row.transitions.iter().map(|transition| {
        let line = format!(
            "  {}  {} by {}",
            transition.at,
            transition.status.as_str(),
            transition.by
        );
        format!("{}\n", printable(&line))
    });
    lines.collect()
}

async fn stream(client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let mut following = Following::open(client, vec![TRANSITIONS.to_owned()]).await?;
    loop {
        let event = following.next(console).await?;
        let data: Map<String, Value> = serde_json::from_str(&event.data).unwrap_or_default();
        if console.json {
            console.say(&document(&event, data))?;
            continue;
        }
        let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
        let parts = ["ts", "decky_name", "operation", "status", "error"].map(text);
        console.say(printable(&parts.join("  ")).trim_end())?;
    }
}
