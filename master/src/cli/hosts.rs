//! `host`.

mod carried;
mod here;
pub(super) mod leaving;
mod releases;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use decnet_wire::bundle::{NetworkDriver, NetworkMode};
use decnet_wire::ids::{Digest, HostId, HostName, InterfaceName};
use decnet_wire::release::ProgressState;
use hyper::Method;
use ipnet::Ipv4Net;
use serde_json::json;

pub(super) use self::releases::show_draft as show_release;
use self::releases::{ReleasesArgs, RollbackArgs, UpdateArgs};
use super::Console;
use super::client::Client;
use super::failure::Failure;
use super::table::{facts, or_none, table};
use leaving::{DecommissionArgs, TeardownArgs};

use crate::serve::operator::views::{ApproveBody, EnrollBody, EnrollView, HostView, NetworkBody};

/// How long a token lives that somebody has to approve of, in seconds.
const APPROVED_TTL: u64 = 3600;
/// The longest that any token lives, in seconds. Which may live for so long, the master says.
const LONGEST: u64 = 7 * 86_400;

/// What `decnet host` takes.
#[derive(Debug, Args)]
pub struct HostArgs {
    #[command(subcommand)]
    pub command: HostCommand,
}

/// What may be done with hosts.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Make a one-shot token, and print the line to run on the host
    Enroll(EnrollArgs),
    /// List hosts
    #[command(after_help = "Examples:\n  decnet host ls")]
    Ls,
    /// Change how a host's deckies are attached to its LAN; their addresses stay
    Network(NetworkArgs),
    /// Believe a host no more: its key is worth nothing from now on, its connections end
    #[command(after_help = "Examples:\n  decnet host revoke edge-01")]
    Revoke {
        /// The host's name or id
        host: String,
    },
    /// Have a host leave the fleet: its deckies, its agent and its keys are removed there
    Decommission(DecommissionArgs),
    /// Remove a host's deckies, and keep the host
    Teardown(TeardownArgs),
    /// Show hosts that were ordered to leave the fleet, and what they said in the end
    #[command(after_help = "Examples:\n  decnet host departures\n  decnet host departures edge-01")]
    Departures {
        /// The host's name or id
        host: Option<String>,
    },
    /// Let a host have its certificate that was invited with --approve and waits
    #[command(
        after_help = "Examples:\n  decnet host approve edge-01 sha256:0f3c…\n\nThe fingerprint is what `decnet-agent enroll` says on the host."
    )]
    Approve {
        /// The host's name or id
        host: String,
        /// The fingerprint that the host says
        fingerprint: Digest,
    },
    /// List releases of the agent, or hand one in
    Releases(ReleasesArgs),
    /// Roll a release out to hosts, in waves; pause, go on with or abort that
    Update(UpdateArgs),
    /// Sign the release before the newest one as a downgrade, and roll that out
    Rollback(RollbackArgs),
    /// Show one host
    #[command(after_help = "Examples:\n  decnet host show edge-01")]
    Show {
        /// The host's name or id
        host: String,
    },
}

/// What `decnet host enroll` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  decnet host enroll edge-01
  decnet host enroll local --here
  decnet host enroll edge-01 --approve
  decnet host enroll edge-02 --out edge-02.sh
  decnet host enroll edge-02 --ipvlan --interface eth1 --subnet 10.20.0.0/24 --gateway 10.20.0.1
  ssh root@edge-03 \"$(decnet host enroll edge-03 --json | jq -r .command)\"")]
pub struct EnrollArgs {
    /// What the host is called from now on
    pub name: HostName,
    /// ipvlan in place of macvlan, for NICs and switches that take one MAC only
    #[arg(long)]
    pub ipvlan: bool,
    /// bridge, private, vepa or passthru; with --ipvlan l2, l3 or l3s [default: bridge, l2]
    #[arg(long, value_name = "MODE")]
    pub mode: Option<NetworkMode>,
    /// The host's interface for deckies, as in eth1, or eth1.30 for its VLAN 30 [default: the fleet's]
    #[arg(long, value_name = "IF")]
    pub interface: Option<InterfaceName>,
    /// The host's own LAN [default: the fleet's]
    #[arg(long, value_name = "CIDR", requires = "gateway")]
    pub subnet: Option<Ipv4Net>,
    /// The gateway of that LAN
    #[arg(long, value_name = "IP", requires = "subnet")]
    pub gateway: Option<std::net::Ipv4Addr>,
    /// The host installs releases of the agent by itself
    #[arg(long)]
    pub updater: bool,
    /// How long the token lives, at most an hour, with --out a week: a number with s, m, h or d [default: 5m, with
    /// --approve 1h, with --out 1d]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub ttl: Option<u64>,
    /// The host gets its certificate only when somebody has compared its fingerprint (decnet host approve)
    #[arg(long)]
    pub approve: bool,
    /// Write everything into this file instead, for a host that does not reach the master yet: carry it there, and run
    /// `sudo sh FILE`
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Enroll this very machine: run the command here, with the package decnet-agent, and start its service. Needs root
    #[arg(long, conflicts_with_all = ["approve", "out"])]
    pub here: bool,
    /// A line for people
    #[arg(long)]
    pub notes: Option<String>,
}

/// What `decnet host network` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  decnet host network edge-01 --driver ipvlan
  decnet host network edge-01 --driver macvlan --mode private --interface eth1.30

What is not given stays, but for the mode: another driver has its usual one. The host's network is made anew, and
its deckies with it.")]
pub struct NetworkArgs {
    /// The host's name or id
    pub host: String,
    /// macvlan, or ipvlan for NICs and switches that take one MAC only
    #[arg(long, value_parser = ["macvlan", "ipvlan"], required_unless_present_any = ["mode", "interface"])]
    pub driver: Option<String>,
    /// bridge, private, vepa or passthru of macvlan; l2, l3 or l3s of ipvlan
    #[arg(long, value_name = "MODE")]
    pub mode: Option<NetworkMode>,
    /// The interface for deckies, as in eth1, or eth1.30 for its VLAN 30
    #[arg(long, value_name = "IF")]
    pub interface: Option<InterfaceName>,
}

/// `90s`, `5m`, `1h` or `7d`, in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "write a number with s, m, h or d, as in 5m, of at most a week".to_owned();
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => return Err(wrong()),
    };
    let number = number
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| number.parse::<u64>().ok())
        .flatten();
    let seconds = number.and_then(|number| number.checked_mul(unit));
    seconds
        .filter(|seconds| (1..=LONGEST).contains(seconds))
        .ok_or_else(wrong)
}

pub(super) async fn run(args: &HostArgs, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    match &args.command {
        HostCommand::Enroll(args) => enroll(args, client, console).await,
        HostCommand::Network(args) => network(args, client, console).await,
        HostCommand::Ls => list(client, console).await,
        HostCommand::Decommission(args) => leaving::decommission(args, client, console).await,
        HostCommand::Teardown(args) => leaving::teardown(args, client, console).await,
        HostCommand::Departures { host } => leaving::departures(host.as_deref(), client, console).await,
        HostCommand::Revoke { host } => revoke(host, client, console).await,
        HostCommand::Approve { host, fingerprint } => approve(host, fingerprint, client, console).await,
        HostCommand::Releases(args) => releases::releases(args, client, console).await,
        HostCommand::Update(args) => releases::update(args, client, console).await,
        HostCommand::Rollback(args) => releases::rollback(args, client, console).await,
        HostCommand::Show { host } => show(host, client, console).await,
    }
}

async fn enroll(args: &EnrollArgs, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    if args.here {
        here::check()?;
    }
    let carried = args.out.is_some();
    let body = EnrollBody {
        name: args.name.to_string(),
        ipvlan: args.ipvlan,
        mode: args.mode.map(|mode| mode.as_str().to_owned()),
        interface: args.interface.as_ref().map(ToString::to_string),
        subnet: args.subnet.map(|subnet| subnet.to_string()),
        gateway: args.gateway.map(|gateway| gateway.to_string()),
        ttl_seconds: args.ttl.or((args.approve && !carried).then_some(APPROVED_TTL)),
        approve: args.approve,
        updater: args.updater,
        carried,
        notes: args.notes.clone(),
    };
    let view: EnrollView = client
        .call(Method::POST, "/api/v1/swarm/hosts/enroll", Some(&json!(body)))
        .await?;
    if let Some(file) = &args.out {
        return carried::write(file, args.name.as_str(), &view, client, console).await;
    }
    if args.here {
        return here::enroll(args, &view, console);
    }
    if console.json {
        return console.document(&view);
    }
    if let Some(line) = &view.line {
        console.remark(&format!(
            "Paste this on {} before {}; it installs the agent, and works once:",
            args.name, view.expires_at
        ));
        return console.say(&super::table::printable(line));
    }
    console.remark(&format!(
        "Run this on {} as root before {}, with the package decnet-agent there; it works once. A master that has the agent's \
         packages (decnet serve --packages) prints a line that installs it as well:",
        args.name, view.expires_at
    ));
    console.say(&super::table::printable(&view.command))
}

async fn network(args: &NetworkArgs, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let host = find(&args.host, client).await?;
    let ipvlan = match (&args.driver, args.mode) {
        (Some(driver), _) => driver == "ipvlan",
        // A mode says its driver.
        (None, Some(mode)) => mode.driver() == NetworkDriver::Ipvlan,
        (None, None) => host.use_ipvlan,
    };
    let kept = host.mode.filter(|_| ipvlan == host.use_ipvlan);
    let interface = args.interface.as_ref().or(host.interface.as_ref());
    let body = NetworkBody {
        ipvlan,
        mode: args.mode.or(kept).map(|mode| mode.as_str().to_owned()),
        interface: interface.map(ToString::to_string),
    };
    let path = format!("/api/v1/swarm/hosts/{}/network", host.uuid);
    let host: HostView = client.call(Method::PUT, &path, Some(&json!(body))).await?;
    if console.json {
        return console.document(&host);
    }
    console.say(&format!("{}: {}", host.name, driver(&host)))
}

async fn revoke(host: &str, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let host = find(host, client).await?;
    let path = format!("/api/v1/swarm/hosts/{}/revoke", host.uuid);
    let host: HostView = client.call(Method::POST, &path, None).await?;
    if console.json {
        return console.document(&host);
    }
    console.say(&format!(
        "{} is revoked. Its deckies run on until somebody stops them there",
        host.name
    ))
}

async fn approve(
    host: &str,
    fingerprint: &Digest,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let host = find(host, client).await?;
    let path = format!("/api/v1/swarm/hosts/{}/approve", host.uuid);
    let body = ApproveBody {
        fingerprint: fingerprint.to_string(),
    };
    let host: HostView = client.call(Method::POST, &path, Some(&json!(body))).await?;
    if console.json {
        return console.document(&host);
    }
    console.say(&format!("{} is approved; it comes by itself", host.name))
}

/// The driver and its mode.
fn driver(host: &HostView) -> String {
    let driver = if host.use_ipvlan {
        NetworkDriver::Ipvlan
    } else {
        NetworkDriver::Macvlan
    };
    let mode = host.mode.or_else(|| NetworkMode::usual(driver));
    let mode = mode.map_or_else(String::new, |mode| format!(", mode {}", mode.as_str()));
    format!("{}{mode}", driver.as_str())
}

async fn list(client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let hosts = all(client).await?;
    if console.json {
        return console.document(&hosts);
    }
    console.print(&overview(hosts))
}

/// The hosts in a table.
pub(super) fn overview(hosts: Vec<HostView>) -> String {
    table(
        [
            "NAME",
            "STATUS",
            "DECKIES",
            "ADDRESS",
            "GENERATION",
            "LAST HEARTBEAT",
            "AGENT",
            "CONDITION",
        ],
        hosts.into_iter().map(|host| {
            [
                host.name.to_string(),
                host.status.as_str().to_owned(),
                host.deckies.to_string(),
                or_none(host.address),
                format!("{}/{}", host.accepted_generation.unwrap_or(0), host.generation),
                or_none(host.last_heartbeat),
                agent(&host),
                condition(&host),
            ]
        }),
    )
}

/// Its version, and what becomes of another one.
fn agent(host: &HostView) -> String {
    let version = or_none(host.agent_version.clone());
    match &host.update {
        Some(update) if update.state != ProgressState::Kept => {
            format!("{version} ({} {})", update.version, update.state.as_str())
        }
        _ => version,
    }
}

fn condition(host: &HostView) -> String {
    if let Some(key) = &host.waiting_key {
        return format!("waits for approval: {key}");
    }
    match (&host.reason, host.converged) {
        (_, true) => "converged".to_owned(),
        (Some(reason), false) => reason.clone(),
        (None, false) => String::new(),
    }
}

async fn show(wanted: &str, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let host = find(wanted, client).await?;
    if console.json {
        return console.document(&host);
    }
    let lan = host.subnet.map(|subnet| match host.gateway {
        Some(gateway) => format!("{subnet}, gateway {gateway}"),
        None => subnet.to_string(),
    });
    let condition = condition(&host);
    let driver = driver(&host);
    let pending: Vec<String> = host
        .pending
        .iter()
        .map(|pending| format!("{}: {}", pending.decky_name, pending.to_text()))
        .collect();
    let drifts = match &host.last_drift {
        Some(last) => format!("{}, the newest {last}", host.drifts),
        None => host.drifts.to_string(),
    };
    console.print(&facts([
        ("name", host.name.to_string()),
        ("id", host.uuid.to_string()),
        ("status", host.status.as_str().to_owned()),
        ("condition", condition),
        (
            "not done",
            or_none((!pending.is_empty()).then(|| pending.join("; "))),
        ),
        ("drifts", drifts),
        ("deckies", host.deckies.to_string()),
        ("address", or_none(host.address)),
        ("last heartbeat", or_none(host.last_heartbeat)),
        ("enrolled", or_none(host.enrolled_at)),
        ("agent", or_none(host.agent_version)),
        ("update", or_none(host.update.as_ref().map(releases::update_text))),
        ("docker", or_none(host.engine)),
        ("generation", host.generation.to_string()),
        ("accepted", or_none(host.accepted_generation)),
        ("driver", driver),
        ("interface", or_none(host.interface)),
        ("own LAN", or_none(lan)),
        ("certificate", or_none(host.client_cert_fingerprint)),
        ("until", or_none(host.certificate_ends_at)),
        ("notes", or_none(host.notes)),
    ]))
}

/// Every host.
pub(super) async fn all(client: &Client) -> Result<Vec<HostView>, Failure> {
    client.get("/api/v1/swarm/hosts").await
}

/// The host of this name or id.
pub(super) async fn find(wanted: &str, client: &Client) -> Result<HostView, Failure> {
    let id: Option<HostId> = wanted.parse().ok();
    let found = all(client)
        .await?
        .into_iter()
        .find(|host| host.name.as_str() == wanted || Some(host.uuid) == id);
    found.ok_or_else(|| Failure::refused(format!("there is no host {wanted}: `decnet host ls` lists them")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_life_is_read_with_its_unit() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("5m"), Ok(300));
        assert_eq!(seconds("1h"), Ok(3600));
        assert_eq!(seconds("7d"), Ok(604_800));
        for bad in [
            "",
            "s",
            "5",
            "0m",
            "10081m",
            "8d",
            "-5m",
            "+5m",
            "5 m",
            "5é",
            "99999999999999999999s",
        ] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
