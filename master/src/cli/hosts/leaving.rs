//! `host decommission`, `host teardown` and `host departures`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use decnet_pki::envelope::{Envelope, VerifyError};
use decnet_pki::key::SigningKey;
use decnet_pki::order::{OrderError, SignedDecommission};
use decnet_wire::ids::{HostId, Timestamp};
use decnet_wire::order::{DECOMMISSION_TYPE, Decommission, Nonce, SCHEMA};
use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::Console;
use super::super::client::Client;
use super::super::failure::Failure;
use super::super::follow::{follow, judge};
use super::super::keys::{StateDir, operator_keys, read_envelope, root, too_few, write_new};
use super::super::table::{count, facts, or_none, table};
use super::find;
use crate::init::keys_path;
use crate::serve::operator::views::{DecommissionView, DepartureView, TeardownBody, TeardownView};
use crate::text::chain;

/// The most that is read of an answer, in bytes.
const LONGEST_ANSWER: u64 = 1024;

/// What `decnet host decommission` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  decnet host decommission edge-01
  decnet host decommission edge-01 --force --yes
  decnet host decommission edge-01 --out order.json

The operator signs the order. Where his key is elsewhere: write it with --out FILE, `decnet sign FILE --key KEY` there, and
hand it in with --order FILE here. A host that is dead, or stolen, is forgotten with --force; should it ever come back, it
gets the order all the same.")]
pub struct DecommissionArgs {
    /// The host's name or id
    pub host: String,
    /// Do not wait for the host: forget it and its key at once
    #[arg(long)]
    pub force: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// A file with an operator's private key to sign with; again for each. Without it: the one in the state folder
    #[arg(long, value_name = "FILE", conflicts_with = "order")]
    pub key: Vec<PathBuf>,
    /// Write the order, with what signatures there are, to this file instead of handing it in
    #[arg(long, value_name = "FILE", conflicts_with_all = ["order", "force"])]
    pub out: Option<PathBuf>,
    /// Hand in this order, which was signed elsewhere
    #[arg(long, value_name = "FILE")]
    pub order: Option<PathBuf>,
    #[command(flatten)]
    pub state: StateDir,
}

/// What `decnet host teardown` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  decnet host teardown edge-01 --wait\n  decnet host teardown edge-01 --decky web-01 --yes"
)]
pub struct TeardownArgs {
    /// The host's name or id
    pub host: String,
    /// This decky only
    #[arg(long, value_name = "NAME")]
    pub decky: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Return when all of them are gone
    #[arg(long)]
    pub wait: bool,
}

pub(super) async fn decommission(
    args: &DecommissionArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let (host, name) = target(&args.host, client).await?;
    let envelope = match &args.order {
        Some(file) => read_envelope(file)?,
        None => order(args, host, client).await?,
    };
    if let Some(out) = &args.out {
        write_new(out, &envelope.to_json())?;
        console.remark(&format!(
            "The order is in {0}. Have it signed: decnet sign {0} --key KEY; then: decnet host decommission {name} --order {0}",
            out.display()
        ));
        return Ok(());
    }
    match SignedDecommission::admit(&envelope.to_json(), &root(client).await?, host) {
        Ok(_) => {}
        Err(OrderError::Signatures(VerifyError::NotEnoughSignatures { valid, threshold })) => {
            return Err(too_few(valid, threshold, "the order"));
        }
        Err(error) => {
            return Err(Failure::refused(format!(
                "the order would be refused: {}",
                chain(&error)
            )));
        }
    }
    let what = if args.force {
        format!("{name} is forgotten at once, and its deckies with it. It is wiped should it ever come back")
    } else {
        format!("{name} removes its deckies, its agent and its keys")
    };
    confirm(args.yes, &what, console)?;
    let order: Value = serde_json::from_slice(&envelope.to_json())
        .map_err(|error| Failure::Failed(format!("cannot write the order as JSON: {error}")))?;
    let path = format!("/api/v1/swarm/hosts/{host}");
    let body = json!({ "order": order, "force": args.force });
    let begun: DecommissionView = client.call(Method::DELETE, &path, Some(&body)).await?;
    if console.json {
        return console.document(&begun);
    }
    console.say(&match begun.departure.status.as_str() {
        "forgotten" => format!("{name} is forgotten"),
        _ => format!(
            "{name} is told with its next bundle, and is out of the fleet once it says that it is wiped: decnet host departures {name}"
        ),
    })
}

async fn order(args: &DecommissionArgs, host: HostId, client: &Client) -> Result<Envelope, Failure> {
    let keys = operator_keys(&args.key, args.out.is_some(), &keys_path(&args.state.state_dir))?;
    let order = Decommission {
        schema: SCHEMA,
        fleet: root(client).await?.fleet(),
        host,
        nonce: Nonce::from_random(*Uuid::new_v4().as_bytes()),
        // The operator's own clock: the order is the operator's word.
        issued_at: Timestamp::new(time::OffsetDateTime::now_utc()),
    };
    let payload = serde_json::to_vec(&order)
        .map_err(|error| Failure::Failed(format!("cannot write the order as JSON: {error}")))?;
    let signers: Vec<&SigningKey> = keys.iter().collect();
    Ok(Envelope::sign(DECOMMISSION_TYPE, payload, &signers))
}

/// The host of this name or id, also one that was forgotten and has not come back.
async fn target(wanted: &str, client: &Client) -> Result<(HostId, String), Failure> {
    let missing = match find(wanted, client).await {
        Ok(host) => return Ok((host.uuid, host.name.to_string())),
        Err(missing) => missing,
    };
    let departures: Vec<DepartureView> = client.get("/api/v1/swarm/departures").await?;
    let found = departures
        .into_iter()
        .filter(|departure| departure.tombstone_at.is_none())
        .find(|departure| is_called(departure, wanted));
    found
        .map(|departure| (departure.host_uuid, departure.host_name.to_string()))
        .ok_or(missing)
}

fn is_called(departure: &DepartureView, wanted: &str) -> bool {
    departure.host_name.as_str() == wanted || departure.host_uuid.to_string() == wanted
}

fn confirm(yes: bool, what: &str, console: &mut Console<'_>) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !console.asks {
        return Err(Failure::Usage(format!(
            "{what}: say --yes, for nobody is here to be asked"
        )));
    }
    let mut answer = String::new();
    let asked = write!(console.err, "{what}. Go on? [y/N] ");
    // Nothing else is read after it.
    let input = (&mut *console.input).take(LONGEST_ANSWER);
    let answered = asked.and_then(|()| BufReader::new(input).read_line(&mut answer));
    match answered {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        _ => Err(Failure::refused("nothing was done".to_owned())),
    }
}

pub(super) async fn teardown(
    args: &TeardownArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let host = find(&args.host, client).await?;
    let what = args
        .decky
        .as_ref()
        .map_or_else(|| "all deckies".to_owned(), |decky| format!("the decky {decky}"));
    confirm(
        args.yes,
        &format!("{what} of {} go; the host stays", host.name),
        console,
    )?;
    let body = TeardownBody {
        decky_id: args.decky.clone(),
    };
    let path = format!("/api/v1/swarm/hosts/{}/teardown", host.uuid);
    let begun: TeardownView = client.call(Method::POST, &path, Some(&json!(body))).await?;
    if args.wait && !begun.lifecycle_ids.is_empty() {
        let rows = follow(client, &begun.lifecycle_ids, console).await?;
        if console.json {
            console.document(&json!({ "lifecycle_ids": begun.lifecycle_ids, "rows": rows }))?;
        }
        return judge(&rows);
    }
    if console.json {
        return console.document(&begun);
    }
    console.say(&format!(
        "{} of {} go",
        count(begun.decky_names.len(), "decky", "deckies"),
        host.name
    ))
}

pub(super) async fn departures(
    wanted: Option<&str>,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let mut all: Vec<DepartureView> = client.get("/api/v1/swarm/departures").await?;
    let Some(wanted) = wanted else {
        if console.json {
            return console.document(&all);
        }
        return console.print(&table(
            ["NAME", "STATUS", "ORDERED", "TOMBSTONE", "LEFT", "ID"],
            all.into_iter().map(|departure| {
                [
                    departure.host_name.to_string(),
                    departure.status,
                    departure.ordered_at.to_string(),
                    or_none(departure.tombstone_at),
                    departure.left.len().to_string(),
                    departure.host_uuid.to_string(),
                ]
            }),
        ));
    };
    // The newest order is the first.
    let at = all.iter().position(|departure| is_called(departure, wanted));
    let found = at.map(|at| all.swap_remove(at)).ok_or_else(|| {
        Failure::refused(format!(
            "no host {wanted} was ordered to leave: `decnet host departures` lists them"
        ))
    })?;
    if console.json {
        return console.document(&found);
    }
    console.print(&facts([
        ("name", found.host_name.to_string()),
        ("id", found.host_uuid.to_string()),
        ("status", found.status),
        ("ordered", found.ordered_at.to_string()),
        ("nonce", found.nonce.to_string()),
        ("tombstone", or_none(found.tombstone_at)),
        ("signed with", or_none(found.host_key)),
    ]))?;
    for (title, things) in [("removed", found.removed), ("left", found.left)] {
        if !things.is_empty() {
            console.say(&format!("\n{title}:"))?;
        }
        for thing in things {
            console.say(&format!("  {}", super::super::table::printable(&thing)))?;
        }
    }
    Ok(())
}

/// Shows an order that an operator is about to sign.
///
/// # Errors
/// [`Failure`]: it is none.
pub(in super::super) fn show_draft(
    envelope: &Envelope,
    file: &Path,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let order = SignedDecommission::stored(&envelope.to_json())
        .map_err(|error| Failure::refused(format!("{}: {}", file.display(), chain(&error))))?;
    let document = order.document();
    console.print(&facts([
        ("order", "leave the fleet: everything there is removed".to_owned()),
        ("fleet", document.fleet.to_string()),
        ("host", document.host.to_string()),
        ("nonce", document.nonce.to_string()),
        ("issued", document.issued_at.to_string()),
    ]))
}
