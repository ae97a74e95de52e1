//! Agents as they are installed: what `decnet-agent run` runs, hundreds of times in one process. No engine answers them, so
//! that all they do is to poll, to report and to wait.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use decnet_agent::{Agent, Config, enrol};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::line::Operator;

/// How often an agent reports, as the master tells it.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How late a heartbeat may be before it counts as missed: the next one would be due.
pub(super) const LATE: Duration = Duration::from_secs(2 * HEARTBEAT.as_secs());
/// Enrolments at once.
const AT_ONCE: usize = 4;
const PREFIX: &str = "real-";

/// Enrols so many agents and starts them.
pub(super) async fn start(
    operator: &Operator,
    folder: &Path,
    many: usize,
    end: &CancellationToken,
) -> Result<JoinSet<Result<()>>> {
    let agents: Vec<Agent> = stream::iter(0..many)
        .map(|at| async move { open(operator, folder, at).await })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let mut running = JoinSet::new();
    for agent in agents {
        let end = end.clone();
        running.spawn(async move { agent.run(end).await.context("an agent has ended") });
    }
    Ok(running)
}

async fn open(operator: &Operator, folder: &Path, at: usize) -> Result<Agent> {
    let name = format!("{PREFIX}{at}");
    let invitation = operator
        .post("/api/v1/swarm/hosts/enroll", &json!({ "name": name }))
        .await?;
    let token = invitation["token"].as_str().context("no token")?;
    let mut config = Config::new(folder.join(&name));
    config.docker_socket = folder.join("no-engine.sock");
    enrol::enrol(token, &config).await?;
    Ok(Agent::open(config)?)
}

/// How long ago the agent was heard that was not heard for the longest time. None before all were.
pub(super) async fn oldest(operator: &Operator, many: usize) -> Result<Option<Duration>> {
    let hosts = operator.get("/api/v1/swarm/hosts").await?;
    let hosts: Vec<&Value> = hosts
        .as_array()
        .context("no list of hosts")?
        .iter()
        .filter(|host| host["name"].as_str().is_some_and(|name| name.starts_with(PREFIX)))
        .collect();
    ensure!(hosts.len() == many, "{} of {many} agents are known", hosts.len());
    let now = OffsetDateTime::now_utc();
    let mut oldest = Duration::ZERO;
    for host in hosts {
        let Some(heard) = host["last_heartbeat"].as_str() else {
            return Ok(None);
        };
        let age = now - OffsetDateTime::parse(heard, &Rfc3339)?;
        oldest = oldest.max(Duration::try_from(age).unwrap_or_default());
    }
    Ok(Some(oldest))
}
