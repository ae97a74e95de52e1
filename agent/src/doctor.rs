//! What keeps this host from working, and what to do about it. Changes nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use decnet_docker::Engine;
use decnet_wire::observed::Feature;
use http::{Request, StatusCode, header};
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, HostPort};
use crate::control::{self, ControlError};
use crate::error::error_chain;
use crate::identity::{Identity, IdentityError};
use crate::link::{self, Link, LinkError};
use crate::status::Preview;

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

/// Free space under which image archives and the ledger get into trouble, in bytes.
const LITTLE_SPACE: u64 = 1 << 30;
/// Free space under which nothing works, in bytes.
const NO_SPACE: u64 = 64 << 20;
/// A clock that is further off than this makes bundles look expired before their time.
const CLOCK_OFF: Duration = Duration::from_secs(30);
/// A certificate that ends sooner should have been renewed.
const CERTIFICATE_SOON: time::Duration = time::Duration::days(7);
const ANSWER: Duration = Duration::from_secs(10);

/// Looks at everything that the agent depends on.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let now = SystemClock.now().get();
    let mut findings = vec![state_dir(&config.state_dir), space(&config.state_dir)];
    findings.push(engine(&config.docker_socket).await);
    let identity = Identity::load(&config.state_dir);
    let ipvlan = config
        .ipvlan
        .unwrap_or_else(|| identity.as_ref().is_ok_and(|identity| identity.network.ipvlan));
    findings.extend(kernel(ipvlan).await);
    match identity {
        Ok(identity) => {
            findings.push(certificate(&identity, now));
            findings.push(interface(&identity, ipvlan));
            findings.extend(obstacles(config).await);
            findings.extend(master(config, &identity).await);
        }
        Err(error @ IdentityError::NotEnrolled { .. }) => {
            let advice = "run `decnet host enroll NAME` at the master, then here, as root, the `decnet-agent enroll` that it prints";
            findings.push(Finding::fail("identity", error.to_string(), advice));
        }
        Err(error) => {
            let advice = "make a new token at the master and run `decnet-agent enroll --force TOKEN`";
            findings.push(Finding::fail("identity", error_chain(&error), advice));
        }
    }
    findings
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

fn state_dir(path: &Path) -> Finding {
    const CHECK: &str = "state";
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::warn(CHECK, format!("{shown} does not exist"), "enrolment makes it")
        }
        Err(error) => Finding::fail(
            CHECK,
            format!("{shown}: {error}"),
            "run this as the user that the agent runs as",
        ),
        Ok(found) if !found.is_dir() => {
            Finding::fail(CHECK, format!("{shown} is no folder"), "move it away, then enrol")
        }
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            let mode = found.permissions().mode() & 0o7777;
            let says = format!("{shown} has mode {mode:o}: others may look at the host's key");
            Finding::fail(CHECK, says, format!("chmod 700 {shown}"))
        }
        Ok(found) if found.uid() != nix::unistd::geteuid().as_raw() => {
            let says = format!("{shown} belongs to user {}", found.uid());
            Finding::warn(
                CHECK,
                says,
                "the agent must own it; run this as the user that the agent runs as",
            )
        }
        Ok(_) => Finding::ok(CHECK, format!("{shown} is private")),
    }
}

fn space(path: &Path) -> Finding {
    const CHECK: &str = "disk";
    // The folder may not be there yet; its nearest parent is on the same disk more often than not.
    let existing = path
        .ancestors()
        .find(|parent| parent.exists())
        .unwrap_or(Path::new("/"));
    match nix::sys::statvfs::statvfs(existing) {
        Err(error) => Finding::warn(CHECK, format!("{}: {error}", existing.display()), "look with df"),
        Ok(found) => {
            let free = found.blocks_available().saturating_mul(found.fragment_size());
            let says = format!("{} MiB free at {}", free >> 20, existing.display());
            if free < NO_SPACE {
                Finding::fail(CHECK, says, "make room: the ledger cannot be written")
            } else if free < LITTLE_SPACE {
                Finding::warn(CHECK, says, "make room: image archives may not fit")
            } else {
                Finding::ok(CHECK, says)
            }
        }
    }
}

async fn engine(socket: &Path) -> Finding {
    const CHECK: &str = "engine";
    let advice = "install or start the Docker Engine, 20.10 or newer, and let this user reach its socket";
    let version = async { Engine::connect(socket).await?.version().await };
    match version.await {
        Ok(version) => Finding::ok(
            CHECK,
            format!("Docker Engine {version} answers on {}", socket.display()),
        ),
        Err(error) => Finding::fail(CHECK, error_chain(&error), advice),
    }
}

/// What the kernel has of what networks need, found out by trying.
async fn kernel(ipvlan: bool) -> Vec<Finding> {
    let lacks = tokio::task::spawn_blocking(decnet_docker::host::lacks).await;
    let lacks = lacks.unwrap_or_default();
    let check = |feature: Feature, needed: bool, advice: &str| {
        let name = feature.as_str();
        match (lacks.contains(&feature), needed) {
            (false, _) => Finding::ok(name, "the kernel has it"),
            (true, true) => Finding::fail(name, "does not exist in this host's kernel", advice),
            (true, false) => Finding::ok(
                name,
                "does not exist in this host's kernel; this host does not need it",
            ),
        }
    };
    vec![
        check(
            Feature::Macvlan,
            !ipvlan,
            "load it with `modprobe macvlan`, or enrol this host with --ipvlan",
        ),
        check(
            Feature::Ipvlan,
            ipvlan,
            "load it with `modprobe ipvlan`, or enrol this host without --ipvlan",
        ),
        egress(&lacks).await,
    ]
}

/// Whether deckies can be kept from calling out, and by what.
async fn egress(lacks: &[Feature]) -> Finding {
    const CHECK: &str = "egress";
    let closes = tokio::task::spawn_blocking(decnet_docker::host::closes).await;
    match closes.ok().flatten() {
        Some(way) => Finding::ok(CHECK, format!("{way} keeps deckies from calling out")),
        None if lacks.contains(&Feature::Nftables) => Finding::fail(
            CHECK,
            "the kernel has neither nftables with connection tracking nor x_tables for IPv4 and IPv6",
            "load what keeps deckies from calling out: `modprobe -a nf_tables nft_ct`, or `modprobe -a ip_tables \
             ip6_tables iptable_filter ip6table_filter xt_conntrack`",
        ),
        None => Finding::ok(CHECK, "not tried: that needs root"),
    }
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

fn certificate(identity: &Identity, now: OffsetDateTime) -> Finding {
    const CHECK: &str = "certificate";
    let ends = identity.leaf.not_after();
    let says = format!("host {} ({}), until {ends}", identity.name, identity.host);
    if ends <= now {
        Finding::fail(CHECK, says, "it has expired: enrol again with --force")
    } else if identity.leaf.not_before() > now {
        Finding::fail(CHECK, says, "it is not valid yet: set this host's clock")
    } else if ends - now < CERTIFICATE_SOON {
        Finding::warn(CHECK, says, "it ends soon: enrol again with --force")
    } else {
        Finding::ok(CHECK, says)
    }
}

/// The interface that enrolment fixed for this host. Whether it fits the networks of a bundle, `obstacles` tells.
fn interface(identity: &Identity, ipvlan: bool) -> Finding {
    const CHECK: &str = "interface";
    let Some(name) = &identity.network.interface else {
        return Finding::ok(CHECK, "as the fleet has it");
    };
    let found = match decnet_docker::host::interfaces() {
        Ok(all) => all.into_iter().find(|interface| interface.name == *name),
        Err(error) => {
            return Finding::warn(CHECK, error_chain(&error), "look with `ip link`");
        }
    };
    match found {
        None => {
            let says = format!("{name}, which enrolment fixed for this host, does not exist");
            Finding::fail(
                CHECK,
                says,
                "create it, or enrol again with the interface that the host has",
            )
        }
        Some(interface) if !interface.up => Finding::fail(
            CHECK,
            format!("{name} is down"),
            format!("set it up: `ip link set {name} up`"),
        ),
        Some(interface) if interface.wireless && !ipvlan => Finding::fail(
            CHECK,
            format!("{name} is wireless: an access point takes frames of one MAC address from it only"),
            "enrol again with --ipvlan, or with a wired interface",
        ),
        Some(interface) => {
            let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
            let addresses = if addresses.is_empty() {
                "no address".to_owned()
            } else {
                addresses.join(" and ")
            };
            Finding::ok(CHECK, format!("{name} is up, with {addresses}"))
        }
    }
}

/// Whether the master answers this host, and whether the clocks agree.
async fn master(config: &Config, identity: &Identity) -> Vec<Finding> {
    const CHECK: &str = "master";
    let to = config.master.as_ref().unwrap_or(&identity.agent_api);
    let (answer, ours) = match ask(to, identity).await {
        Ok(answer) => answer,
        Err(error) => {
            return vec![Finding::fail(
                CHECK,
                error,
                "check the address, the network and the master",
            )];
        }
    };
    let mut findings = vec![match answer.status() {
        StatusCode::OK | StatusCode::NO_CONTENT => Finding::ok(CHECK, format!("{to} answers this host")),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Finding::fail(
            CHECK,
            format!("{to} does not let this host in ({})", answer.status()),
            "the host was removed at the master; enrol it again",
        ),
        status => Finding::warn(
            CHECK,
            format!("{to} answers {status}"),
            "look at the master's log",
        ),
    }];
    let theirs = answer
        .headers()
        .get(header::DATE)
        .and_then(|value| value.to_str().ok())
        .and_then(parse_http_date);
    findings.push(match theirs {
        None => Finding::warn(
            "clock",
            "the master's answer tells no time",
            "compare the clocks by hand",
        ),
        Some(theirs) => {
            let off = (ours - theirs).unsigned_abs();
            let says = format!("{} s away from the master's", off.as_secs());
            if off > CLOCK_OFF {
                let advice = "let both follow a time server: bundles and certificates expire by the clock";
                Finding::fail("clock", says, advice)
            } else {
                Finding::ok("clock", says)
            }
        }
    });
    findings
}

async fn ask(
    to: &HostPort,
    identity: &Identity,
) -> Result<(http::Response<hyper::body::Incoming>, OffsetDateTime), String> {
    let tls = identity.client_config().map_err(|error| error_chain(&error))?;
    // A generation that is never reached: nothing newer, no wait.
    let request = Request::builder()
        .uri(format!("/agent/v1/bundle?after={}&wait=0", i64::MAX))
        .body(Bytes::new())
        .map_err(|error| error_chain(&LinkError::Request(error)))?;
    let mut link = Link::new(to.clone(), link::fixed(tls)).map_err(|error| error_chain(&error))?;
    let answer = link
        .send(&request, ANSWER)
        .await
        .map_err(|error| error_chain(&error))?;
    Ok((answer, SystemClock.now().get()))
}

/// The one form that servers send today (RFC 9110 section 5.6.7, IMF-fixdate).
fn parse_http_date(text: &str) -> Option<OffsetDateTime> {
    let form = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    time::PrimitiveDateTime::parse(text, form)
        .ok()
        .map(time::PrimitiveDateTime::assume_utc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_http_date_of_the_specification_is_read() {
        let date = parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(date, time::macros::datetime!(1994-11-06 08:49:37 UTC));
        assert!(parse_http_date("Sunday, 06-Nov-94 08:49:37 GMT").is_none());
    }

    #[test]
    fn a_state_folder_that_others_may_read_is_a_failure_with_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let finding = state_dir(dir.path());
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.advice.unwrap().starts_with("chmod 700"));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(state_dir(dir.path()).level, Level::Ok);
    }
}
