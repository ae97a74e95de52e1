//! `decky`.

use clap::{Args, Subcommand};
use decnet_wire::ids::{DeckyName, OperationId};
use hyper::Method;
use serde_json::{Value, json};

use super::Console;
use super::client::Client;
use super::failure::Failure;
use super::follow::{follow, judge};
use super::table::{facts, or_none, printable, table};
use crate::serve::operator::views::{BegunView, DeckyView, MessageView, PendingView};

/// What `decnet decky` takes.
#[derive(Debug, Args)]
pub struct DeckyArgs {
    #[command(subcommand)]
    pub command: DeckyCommand,
}

/// What may be done with deckies.
#[derive(Debug, Subcommand)]
pub enum DeckyCommand {
    /// List deckies
    #[command(after_help = "Examples:\n  decnet decky ls\n  decnet decky ls --json | jq -r '.[].ip'")]
    Ls,
    /// Show one decky; values of secret settings are masked
    #[command(after_help = "Examples:\n  decnet decky show web-01")]
    Show {
        /// The decky
        name: DeckyName,
    },
    /// Change a decky's services; its address and MAC stay
    #[command(after_help = "Examples:\n  decnet decky mutate web-01 --wait")]
    Mutate {
        /// The decky
        name: DeckyName,
        /// Wait until it has ended; fail unless it succeeds
        #[arg(long)]
        wait: bool,
    },
    /// Set how often a decky mutates by itself
    #[command(after_help = "\
Examples:
  decnet decky interval web-01 12d       every 12 days
  decnet decky interval web-01 disabled  never
  decnet decky interval web-01 inherit   as the fleet")]
    Interval {
        /// The decky
        name: DeckyName,
        /// A number with m (minutes), d (days), M (30 days) or y (365 days); `disabled`; `inherit`
        value: String,
    },
    /// Remove a decky; its name and address are free once its host reports that nothing of it is left
    #[command(after_help = "Examples:\n  decnet decky rm web-01 --wait\n  decnet decky rm --all --wait")]
    Rm {
        /// The decky
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<DeckyName>,
        /// Every decky of the fleet
        #[arg(long)]
        all: bool,
        /// Wait until it is gone; fail unless it goes
        #[arg(long)]
        wait: bool,
    },
}

pub(super) async fn run(args: &DeckyArgs, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    match &args.command {
        DeckyCommand::Ls => list(client, console).await,
        DeckyCommand::Show { name } => show(name, client, console).await,
        DeckyCommand::Mutate { name, wait } => {
            let path = format!("/api/v1/deckies/{name}/mutate");
            let begun: BegunView = client.call(Method::POST, &path, None).await?;
            ended(begun.lifecycle_ids, *wait, "mutation", client, console).await
        }
        DeckyCommand::Interval { name, value } => {
            let path = format!("/api/v1/deckies/{name}/mutate-interval");
            let body = json!({ "mutate_interval": value });
            let set: MessageView = client.call(Method::PUT, &path, Some(&body)).await?;
            if console.json {
                console.document(&set)
            } else {
                console.say(&printable(&set.message))
            }
        }
        DeckyCommand::Rm { name, wait, .. } => {
            let ids = remove(name.as_ref(), client).await?;
            ended(ids, *wait, "removal", client, console).await
        }
    }
}

async fn list(client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    if console.json {
        let deckies: Value = client.get("/api/v1/deckies").await?;
        return console.document(&deckies);
    }
    let deckies: Vec<DeckyView> = client.get("/api/v1/deckies").await?;
    console.print(&table(
        ["NAME", "STATE", "IP", "HOST", "ARCHETYPE", "INTERVAL", "SERVICES"],
        deckies.into_iter().map(|decky| {
            [
                decky.name.to_string(),
                decky.state.as_str().to_owned(),
                decky.ip.to_string(),
                or_none(decky.host_name),
                or_none(decky.archetype),
                decky.mutate_interval,
                decky.services.join(","),
            ]
        }),
    ))
}

async fn show(name: &DeckyName, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    // Taken from the list: a decky may have the name of a path of its own, such as `lifecycle`.
    let deckies: Vec<DeckyView> = client.get("/api/v1/deckies").await?;
    let found = deckies.into_iter().find(|decky| decky.name == *name);
    let decky = found
        .ok_or_else(|| Failure::refused(format!("there is no decky {name}: `decnet decky ls` lists them")))?;
    if console.json {
        return console.document(&decky);
    }
    let settings: Vec<String> = decky
        .service_config
        .iter()
        .map(|(slug, value)| format!("{slug} {value}"))
        .collect();
    let operation = decky.lifecycle.as_ref().map(|row| {
        let error = row
            .error
            .as_ref()
            .map_or_else(String::new, |error| format!(": {error}"));
        format!(
            "{} {} {}{error}",
            row.operation.as_str(),
            row.status.as_str(),
            row.id
        )
    });
    let pending = decky.pending.as_ref().map(PendingView::to_text);
    console.print(&facts([
        ("name", decky.name.to_string()),
        ("state", decky.state.as_str().to_owned()),
        ("not done", or_none(pending)),
        ("ip", decky.ip.to_string()),
        ("mac", decky.mac.to_string()),
        (
            "host",
            format!("{} {}", or_none(decky.host_name), decky.host_uuid),
        ),
        ("host name", decky.hostname),
        ("archetype", or_none(decky.archetype)),
        ("distro", decky.distro),
        ("os family", decky.os_family),
        ("services", decky.services.join(", ")),
        ("settings", settings.join("; ")),
        ("may call", decky.egress.join(", ")),
        ("mutates", decky.mutate_interval),
        ("last mutated", decky.last_mutated.to_string()),
        ("last seen", or_none(decky.seen_at)),
        ("operation", or_none(operation)),
    ]))
}

/// Begins to remove one decky or all, and gives out the operations.
async fn remove(name: Option<&DeckyName>, client: &Client) -> Result<Vec<OperationId>, Failure> {
    let names: Vec<DeckyName> = match name {
        Some(name) => vec![name.clone()],
        None => {
            let deckies: Vec<DeckyView> = client.get("/api/v1/deckies").await?;
            deckies.into_iter().map(|decky| decky.name).collect()
        }
    };
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        let path = format!("/api/v1/deckies/{name}");
        let id = client
            .header(Method::DELETE, &path, "decnet-lifecycle-id")
            .await?;
        let id = id.and_then(|id| id.parse().ok());
        ids.push(
            id.ok_or_else(|| Failure::Failed(format!("the removal of {name} was begun, but not named")))?,
        );
    }
    Ok(ids)
}

async fn ended(
    ids: Vec<OperationId>,
    wait: bool,
    what: &str,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    if wait && !ids.is_empty() {
        let rows = follow(client, &ids, console).await?;
        if console.json {
            console.document(&json!({ "lifecycle_ids": ids, "rows": rows }))?;
        }
        return judge(&rows);
    }
    if console.json {
        return console.document(&BegunView { lifecycle_ids: ids });
    }
    if ids.is_empty() {
        return console.say("nothing to do: there are no deckies");
    }
    for id in ids {
        console.say(&format!("{what} begun: {id}"))?;
    }
    Ok(())
}
