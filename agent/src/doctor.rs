//! What keeps this host from working, and what to do about it: before it is enrolled and afterwards. Changes nothing.
//!
//! | module | what it looks at |
//! | --- | --- |
//! | `host` | rights, control groups, the state folder, the disk, the clock |
//! | `engine` | the Docker Engine |
//! | `network` | drivers, the interface, and what the LAN lets pass |
//! | `master` | whether the master is reached, by whose clock, with which certificate |

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, HostPort};
use crate::control::{self, ControlError};
use crate::enrol::later;
use crate::error::error_chain;
use crate::identity::{Identity, IdentityError};
use crate::status::Preview;

mod engine;
mod host;
mod master;
mod network;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub level: Level,
    /// What was found.
    pub says: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warn,
    Fail,
}

impl Finding {
    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            says: says.into(),
            advice: None,
        }
    }

    fn warn(check: &'static str, says: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Warn,
            says: says.into(),
            advice: Some(advice.into()),
        }
    }

    fn fail(check: &'static str, says: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Fail,
            says: says.into(),
            advice: Some(advice.into()),
        }
    }
}

/// Looks at everything that the agent depends on. `master` is where a host that is not enrolled yet will have to reach.
pub async fn examine(config: &Config, master: Option<&HostPort>) -> Vec<Finding> {
    let now = SystemClock.now().get();
    let identity = Identity::load(&config.state_dir);
    let ipvlan = config
        .ipvlan
        .unwrap_or_else(|| identity.as_ref().is_ok_and(|identity| identity.network.ipvlan));
    let mut findings = host::examine(&config.state_dir);
    findings.extend(engine::examine(&config.docker_socket).await);
    findings.extend(network::examine(identity.as_ref().ok(), ipvlan).await);
    match identity {
        Ok(identity) => {
            findings.push(master::certificate(&identity, now));
            findings.extend(obstacles(config).await);
            findings.extend(master::of_the_enrolled(config, &identity).await);
        }
        Err(error) => {
            let kept = later::kept_for(config);
            findings.push(match &kept {
                Some(kept) => Finding::warn(
                    "identity",
                    format!("this host is not enrolled yet: it keeps a token for the master at {kept}"),
                    "the agent uses it as soon as it runs and reaches the master",
                ),
                None => not_enrolled(&error),
            });
            findings.push(host::clock());
            let kept: Option<HostPort> = kept.and_then(|kept| kept.parse().ok());
            let told = master.or(config.enrolment.as_ref()).or(config.master.as_ref());
            findings.push(master::of_the_stranger(told.or(kept.as_ref())).await);
        }
    }
    findings
}

fn not_enrolled(error: &IdentityError) -> Finding {
    const CHECK: &str = "identity";
    match error {
        IdentityError::NotEnrolled { .. } => Finding::fail(
            CHECK,
            "this host is not enrolled",
            "run `decnet host enroll NAME` at the master, then here, as root, the `decnet-agent enroll` that it prints",
        ),
        error => Finding::fail(
            CHECK,
            error_chain(error),
            "make a new token at the master and run `decnet-agent enroll --force TOKEN`",
        ),
    }
}

/// The findings for people.
#[must_use]
pub fn to_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding {
        check,
        level,
        says,
        advice,
    } in findings
    {
        let level = match level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{level:<5} {check:<12} {says}");
        if let Some(advice) = advice {
            let _ = writeln!(text, "{:<18} → {advice}", "");
        }
    }
    text
}

/// What keeps the accepted bundle from being reached: said by the agent that runs, or worked out from its ledger.
async fn obstacles(config: &Config) -> Vec<Finding> {
    const CHECK: &str = "bundle";
    let preview: Result<Preview, String> = match control::ask(&config.socket_path(), "/plan").await {
        Ok(preview) => Ok(preview),
        Err(ControlError::Connect { .. }) if !config.ledger_path().exists() => return Vec::new(),
        Err(ControlError::Connect { .. }) => match crate::Agent::open(config.clone()) {
            Ok(agent) => agent.preview().await.map_err(|error| error_chain(&error)),
            Err(error) => Err(error_chain(&error)),
        },
        Err(error) => Err(error_chain(&error)),
    };
    let preview = match preview {
        Ok(preview) => preview,
        Err(error) => {
            return vec![Finding::warn(
                CHECK,
                format!("what is left to do cannot be worked out: {error}"),
                "the other findings tell why",
            )];
        }
    };
    let Some(generation) = preview.generation else {
        return vec![Finding::ok(CHECK, "none was accepted yet")];
    };
    // Every stack of a network that does not work says the same.
    let reasons: BTreeSet<&str> = preview
        .plan
        .blocked
        .iter()
        .map(|blocked| blocked.reason.as_str())
        .collect();
    if reasons.is_empty() {
        return vec![Finding::ok(
            CHECK,
            format!("nothing speaks against generation {generation}"),
        )];
    }
    reasons
        .into_iter()
        .map(|reason| Finding::fail(CHECK, reason, "put that right, or change the fleet at the master"))
        .collect()
}
