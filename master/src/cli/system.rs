//! `status` and `system`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;

use super::client::Client;
use super::failure::Failure;
use super::follow::summary;
use super::table::{count, facts, printable};
use super::{Console, hosts, lifecycle};
use crate::control::hosts::HostState;
use crate::serve::operator::views::{
    ConfigView, DeckyView, HealthView, HostView, MessageView, ModeView, RowsView,
};

/// What `decnet system` takes.
#[derive(Debug, Args)]
pub struct SystemArgs {
    #[command(subcommand)]
    pub command: SystemCommand,
}

/// What may be asked of the master itself.
#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Show where deckies run: on this machine (unihost) or on enrolled hosts (swarm)
    #[command(after_help = "Examples:\n  decnet system mode")]
    Mode,
    /// Show the master's health; fails unless deploys work
    #[command(after_help = "Examples:\n  decnet system health")]
    Health,
    /// Show or set how many deckies the fleet may have
    #[command(after_help = "Examples:\n  decnet system limit\n  decnet system limit 50")]
    Limit {
        /// 1 to 500
        #[arg(value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: Option<u16>,
    },
}

pub(super) async fn run(
    args: &SystemArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    match &args.command {
        SystemCommand::Mode => {
            let mode: ModeView = client.get("/api/v1/system/deployment-mode").await?;
            if console.json {
                console.document(&mode)
            } else {
                console.say(&mode_text(&mode))
            }
        }
        SystemCommand::Health => health(client, console).await,
        SystemCommand::Limit { limit: None } => {
            let config: ConfigView = client.get("/api/v1/config").await?;
            if console.json {
                console.document(&config)
            } else {
                console.say(&config.deployment_limit.to_string())
            }
        }
        SystemCommand::Limit { limit: Some(limit) } => {
            let body = json!({ "deployment_limit": limit });
            let set: MessageView = client
                .call(Method::PUT, "/api/v1/config/deployment-limit", Some(&body))
                .await?;
            if console.json {
                console.document(&set)
            } else {
                console.say(&printable(&set.message))
            }
        }
    }
}

fn mode_text(mode: &ModeView) -> String {
    let hosts = count(mode.swarm_host_count, "enrolled host", "enrolled hosts");
    printable(&format!("{} ({hosts})", mode.mode))
}

async fn health(client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let health: HealthView = client.any("/api/v1/health").await?;
    if console.json {
        console.document(&health)?;
    } else {
        console.say(&printable(&health.status))?;
        for (name, component) in &health.components {
            let detail = component
                .detail
                .as_ref()
                .map_or_else(String::new, |detail| format!(": {detail}"));
            console.say(&printable(&format!("  {name} {}{detail}", component.status)))?;
        }
    }
    if health.status == "unhealthy" {
        return Err(Failure::Failed(
            "the master is unhealthy: deploys will not work".to_owned(),
        ));
    }
    Ok(())
}

pub(super) async fn status(client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let mode: ModeView = client.get("/api/v1/system/deployment-mode").await?;
    let config: ConfigView = client.get("/api/v1/config").await?;
    let health: HealthView = client.any("/api/v1/health").await?;
    let deckies: Vec<DeckyView> = client.get("/api/v1/deckies").await?;
    let open: RowsView = client.get("/api/v1/lifecycle?open=true&limit=1000").await?;
    // Hosts are shown to admins only.
    let hosts = match hosts::all(client).await {
        Ok(hosts) => Some(hosts),
        Err(Failure::Denied(_)) => None,
        Err(failure) => return Err(failure),
    };
    if console.json {
        return console.document(&json!({
            "mode": mode, "config": config, "health": health, "hosts": hosts, "deckies": deckies, "open": open.rows,
        }));
    }
    let parts = health
        .components
        .iter()
        .filter(|(_, component)| component.status != "ok");
    let complaints: Vec<String> = parts
        .map(|(name, component)| {
            format!(
                "{name}: {}",
                component.detail.as_deref().unwrap_or(&component.status)
            )
        })
        .collect();
    let master = if complaints.is_empty() {
        health.status.clone()
    } else {
        format!("{} ({})", health.status, complaints.join("; "))
    };
    let states = tally(deckies.iter().map(|decky| decky.state.as_str()));
    console.print(&facts([
        ("mode", mode_text(&mode)),
        ("master", master),
        (
            "hosts",
            hosts
                .as_ref()
                .map_or_else(|| "shown to admins only".to_owned(), |hosts| host_states(hosts)),
        ),
        ("deckies", format!("{states} (limit {})", config.deployment_limit)),
        (
            "open operations",
            if open.rows.is_empty() {
                "none".to_owned()
            } else {
                summary(&open.rows)
            },
        ),
    ]))?;
    if let Some(hosts) = hosts.filter(|hosts| !hosts.is_empty()) {
        console.print(&format!("\n{}", hosts::overview(hosts)))?;
    }
    let pending: Vec<String> = deckies
        .iter()
        .filter_map(|decky| {
            let pending = decky.pending.as_ref()?.to_text();
            Some(printable(&format!("  {}: {pending}", decky.name)))
        })
        .collect();
    if !pending.is_empty() {
        console.print(&format!("\nnot as asked:\n{}\n", pending.join("\n")))?;
    }
    if !open.rows.is_empty() {
        let names = lifecycle::names(client).await;
        console.print(&format!("\n{}", lifecycle::overview(open.rows, &names)))?;
    }
    Ok(())
}

fn host_states(hosts: &[HostView]) -> String {
    tally(hosts.iter().map(|host| {
        if host.status == HostState::Active && !host.converged {
            if host.pending.iter().any(|pending| !pending.quarantined) || host.pending.is_empty() {
                "active, still at work"
            } else {
                "active, with deckies in quarantine"
            }
        } else {
            host.status.as_str()
        }
    }))
}

/// How often each word occurs, as in `3 running, 1 degraded`.
fn tally<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    if counts.is_empty() {
        return "none".to_owned();
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let parts: Vec<String> = counts
        .into_iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_counted_the_most_frequent_first() {
        assert_eq!(
            tally(["running", "failed", "running"].into_iter()),
            "2 running, 1 failed"
        );
        assert_eq!(tally(std::iter::empty()), "none");
    }
}
