//! Two thousand clients that misbehave, and five hundred agents that notice nothing of it.
//!
//! `make siege` lays a longer one (`DECNET_SIEGE_SECONDS`) with five hundred agents as they are installed, after which the
//! attackers hold on to what they have.

use std::time::Duration;

use anyhow::{Context as _, Result};
use decnet_tests::processes::Master;
use decnet_tests::siege::Siege;

/// What the master may take, in bytes: a good part of it is what 1,000 connections of agents need.
const MEMORY: u64 = 400 << 20;

#[test]
fn slow_and_endless_clients_starve_no_agent_and_fill_no_memory() -> Result<()> {
    let longer = match std::env::var("DECNET_SIEGE_SECONDS") {
        Ok(seconds) => Some(
            seconds
                .parse::<u64>()
                .context("DECNET_SIEGE_SECONDS is no number")?,
        ),
        Err(_) => None,
    };
    let siege = Siege {
        agents: if longer.is_some() { 100 } else { 500 },
        real: if longer.is_some() { 500 } else { 0 },
        attackers: 2000,
        lasts: Duration::from_secs(longer.unwrap_or(25)),
        they_hold: longer.is_some(),
    };
    let folder = tempfile::Builder::new().prefix("decnet-").tempdir_in("/tmp")?;
    let mut master = Master::init(folder.path())?.without_worker();
    master.start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(siege.lay(&mut master))?;
    let mib = outcome.memory.map(|bytes| bytes >> 20);
    println!(
        "{} heartbeats, {} missed, the slowest in {:?}; {} polls, {} failed; {} enrolled; the operator waited {:?}",
        outcome.heartbeats,
        outcome.missed.len(),
        outcome.slowest,
        outcome.polls,
        outcome.failed_polls.len(),
        outcome.newcomers,
        outcome.operator,
    );
    println!(
        "an installed agent was not heard for {:?} at most",
        outcome.unheard
    );
    println!(
        "the master before, at most and after: {mib:?} MiB, {:?} files",
        outcome.files
    );
    for (kind, (count, longest)) in &outcome.attackers {
        println!("{count:6} connections {kind}, cut off after {longest:?} at most");
    }
    outcome.judge(MEMORY)?;
    master.stop()
}
