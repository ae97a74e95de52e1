//! `lifecycle`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use decnet_wire::ids::{HostId, OperationId};
use serde_json::{Value, json};

use super::client::Client;
use super::failure::Failure;
use super::follow::{follow, judge, rows};
use super::table::{facts, or_none, printable, table};
use super::{Console, hosts};
use crate::serve::operator::views::{RowView, RowsView};

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
                or_none(ended(row.error, row.late)),
            ]
        }),
    )
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
            facts([
                ("id", row.id.to_string()),
                ("decky", row.decky_name.to_string()),
                ("operation", row.operation.as_str().to_owned()),
                ("status", row.status.as_str().to_owned()),
                ("error", or_none(row.error)),
                ("later", or_none(row.late)),
                ("host", or_none(row.host_uuid)),
                ("started", row.started_at.to_string()),
                ("updated", row.updated_at.to_string()),
                ("completed", or_none(row.completed_at)),
            ])
        })
        .collect();
    console.print(&texts.join("\n"))
}

async fn stream(client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let mut events = client.events().await?;
    while let Some(event) = events.next().await {
        if event.name == "lagged" {
            console.remark("decnet: some transitions were missed: `decnet lifecycle ls` has the rows");
            continue;
        }
        if console.json {
            // The data is JSON already; read and written again it is one line, whatever the master sent.
            let data: Value = serde_json::from_str(&event.data).unwrap_or(json!({ "event": event.name }));
            console.say(&data.to_string())?;
            continue;
        }
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
        let parts = [
            text("ts"),
            text("decky_name"),
            text("operation"),
            text("status"),
            text("error"),
        ];
        console.say(printable(&parts.join("  ")).trim_end())?;
    }
    Err(Failure::Unreachable(
        "the stream of transitions ended: the master went away".to_owned(),
    ))
}
