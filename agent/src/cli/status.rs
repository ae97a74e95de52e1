//! `status`, and waiting for it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Exit, Failure, asked};
use crate::agent::Agent;
use crate::config::Config;
use crate::enrol::later;
use crate::status::Status;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(200);

/// The status of the agent that runs, or else what the ledger has.
pub(super) async fn now(config: Config) -> Result<Status, Failure> {
    if let Some(status) = asked(&config, "/status").await? {
        return Ok(status);
    }
    let kept = later::kept_for(&config);
    match (Agent::open(config), kept) {
        (Err(error), Some(master)) if error.is_not_enrolled() => Err(not_yet(&master)),
        (opened, _) => opened?
            .status()
            .map_err(|error| Failure::new(Exit::Failed, &error)),
    }
}

/// The status once the master has heard from this host: it has answered a report, and given a bundle that was accepted. That is
/// when it counts the host as active.
pub(super) async fn heard(config: &Config, limit: Duration) -> Result<Status, Failure> {
    let begun = Instant::now();
    loop {
        let status: Option<Status> = asked(config, "/status").await?;
        let missing = match &status {
            None => match later::kept_for(config) {
                Some(master) => not_yet(&master).text,
                None => "no agent runs here; `systemctl status decnet-agent` may say why".to_owned(),
            },
            Some(status) => missing(status),
        };
        match status {
            Some(status) if missing.is_empty() => return Ok(status),
            _ if begun.elapsed() >= limit => {
                return Err(Failure {
                    text: format!("after {} s: {missing}", limit.as_secs()),
                    exit: Exit::Failed,
                });
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// What keeps the master from counting this host as active; nothing of one that it does.
fn missing(status: &Status) -> String {
    let Some(running) = &status.running else {
        return "no agent runs here".to_owned();
    };
    match &running.contact.error {
        Some(error) => format!("the master at {} is not reached: {error}", status.master),
        // The master's clock comes with its answer to a report, and with nothing else.
        None if running.contact.clock_ahead_s.is_none() => {
            format!("the master at {} has not answered a report yet", status.master)
        }
        None if status.accepted.is_none() => "no bundle was accepted yet".to_owned(),
        None => String::new(),
    }
}

fn not_yet(master: &str) -> Failure {
    Failure {
        text: format!(
            "this host is not enrolled yet: its agent does that once it reaches the master at {master}; `systemctl status decnet-agent` says what it waits for"
        ),
        exit: Exit::NotEnrolled,
    }
}
