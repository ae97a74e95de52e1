//! `policy`: what bundles may ask of hosts, signed with the operator's own key in no program but this one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use decnet_pki::envelope::{Envelope, VerifyError};
use decnet_pki::files;
use decnet_pki::key::SigningKey;
use decnet_pki::policy::{PolicyError, SignedPolicy};
use decnet_plan::policy::Rule;
use decnet_wire::ids::{HostId, Timestamp};
use decnet_wire::limits;
use decnet_wire::policy::{PAYLOAD_TYPE, Policy, SCHEMA};
use hyper::Method;
use serde_json::{Value, json};

use super::Console;
use super::client::Client;
use super::failure::Failure;
use super::keys::{
    self, RotateArgs, Rotated, StateDir, operator_keys, read_envelope, root, too_few, write_new,
};
use super::policy_file::PolicyFile;
use super::table::{NONE, count, facts, table};
use crate::init::keys_path;
use crate::serve::operator::views::{ForbiddenView, HostView, PoliciesView, PolicyCheckView};
use crate::text::chain;

/// What `decnet policy` takes.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// What may be done with the policy.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the policies that count, and for which hosts
    #[command(after_help = "Examples:\n  decnet policy show\n  decnet policy show --json")]
    Show,
    /// Check a policy file, and tell which deckies of the present fleet it would forbid
    #[command(after_help = "Examples:\n  decnet policy check policy.toml")]
    Check {
        /// The policy (TOML)
        file: PathBuf,
    },
    /// Tell for each thing that is forbidden which line of the file forbids it
    #[command(after_help = "Examples:\n  decnet policy explain policy.toml\n  decnet policy explain")]
    Explain {
        /// The policy (TOML). Without it: the policies that hosts are to hold
        file: Option<PathBuf>,
    },
    /// Sign a policy file with the operator's key, and have every host that it names hold to it
    #[command(after_help = "\
Examples:
  decnet policy sign policy.toml
  decnet policy sign policy.toml --key /media/usb/operator.pem --require
  decnet policy sign policy.toml --out policy.json

Where the operator's key is elsewhere: sign with --out FILE, `decnet sign FILE --key KEY` there, `decnet policy import FILE` here.")]
    Sign(PolicySignArgs),
    /// Take a policy that was signed elsewhere
    #[command(after_help = "Examples:\n  decnet policy import policy.json")]
    Import {
        /// The signed policy
        file: PathBuf,
    },
}

/// What `decnet policy sign` takes.
#[derive(Debug, Args)]
pub struct PolicySignArgs {
    /// The policy (TOML)
    pub file: PathBuf,
    /// A file with an operator's private key to sign with; again for each. Without it: the one in the state folder
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Write the document, with what signatures there are, to this file instead of handing it in
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Have the trust root ask for it as well: a host takes no bundle before it holds this policy or a newer one
    #[arg(long, conflicts_with = "out")]
    pub require: bool,
    /// Sign it although it forbids what runs. That runs on; its hosts take no bundle until it fits
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub state: StateDir,
}

pub(super) async fn run(
    args: &PolicyArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    match &args.command {
        PolicyCommand::Show => show(&client.get("/api/v1/policy").await?, console),
        PolicyCommand::Check { file } => check(file, client, console).await,
        PolicyCommand::Explain { file } => explain(file.as_deref(), client, console).await,
        PolicyCommand::Sign(args) => sign(args, client, console).await,
        PolicyCommand::Import { file } => {
            let envelope = read_envelope(file)?;
            show(&hand_in(&envelope, client).await?, console)
        }
    }
}

async fn check(path: &Path, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let file = read(path)?;
    let draft = draft(&file, client).await?;
    let verdict = verdict(Some(&draft), client).await?;
    if console.json {
        return console.document(&verdict);
    }
    console.say(&format!(
        "{} is a policy, until {}.",
        path.display(),
        draft.expires_at
    ))?;
    summary(&verdict, console)?;
    let rows = verdict.forbidden.iter().map(|found| {
        let decky = found
            .decky
            .as_ref()
            .map_or_else(|| NONE.to_owned(), ToString::to_string);
        [
            found.host.to_string(),
            decky,
            found.rule.as_str().to_owned(),
            what(found),
        ]
    });
    if verdict.forbidden.is_empty() {
        return Ok(());
    }
    console.print(&table(
        ["HOST", "DECKY", "RULE", "FORBIDDEN"],
        rows.collect::<Vec<_>>(),
    ))
}

async fn explain(path: Option<&Path>, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let file = path.map(read).transpose()?;
    let draft = match &file {
        Some(file) => Some(draft(file, client).await?),
        None => None,
    };
    let verdict = verdict(draft.as_ref(), client).await?;
    let line = |rule: Rule| file.as_ref().and_then(|file| file.line_of(rule));
    if console.json {
        let mut document = serde_json::to_value(&verdict)
            .map_err(|error| Failure::Failed(format!("cannot write the answer as JSON: {error}")))?;
        let rows = document.get_mut("forbidden").and_then(Value::as_array_mut);
        for (row, found) in rows.into_iter().flatten().zip(&verdict.forbidden) {
            if let Some((number, text)) = line(found.rule) {
                row["line"] = json!(number);
                row["text"] = json!(text);
            }
        }
        return console.document(&document);
    }
    summary(&verdict, console)?;
    for found in &verdict.forbidden {
        let decky = found
            .decky
            .as_ref()
            .map_or_else(String::new, |decky| format!("{decky} on "));
        console.say(&format!("\n{decky}{}: {}", found.host, what(found)))?;
        let by = match (path, found.rule, line(found.rule)) {
            (_, Rule::Always, _) => "no policy can allow it".to_owned(),
            (_, Rule::BuiltIn, _) => "the built-in policy forbids it, and no key is about it".to_owned(),
            (Some(path), _, Some((number, text))) => format!("{}:{number}: {text}", path.display()),
            (Some(path), rule, None) => format!("no line of {} allows it: {}", path.display(), rule.as_str()),
            (None, rule, _) => format!("by the key {}", rule.as_str()),
        };
        console.say(&format!("    {by}"))?;
    }
    Ok(())
}

async fn sign(args: &PolicySignArgs, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let file = read(&args.file)?;
    if args.require && file.hosts().is_some() {
        return Err(Failure::Usage(
            "--require is for a policy that names every host: leave out hosts".to_owned(),
        ));
    }
    let folder = keys_path(&args.state.state_dir);
    let root = root(client).await?;
    let signers = operator_keys(&args.key, args.out.is_some(), &folder)?;
    let draft = draft(&file, client).await?;
    if draft.fleet != root.fleet() {
        return Err(Failure::Failed(
            "the master says two fleets: look at what it runs on".to_owned(),
        ));
    }
    let verdict = verdict(Some(&draft), client).await?;
    if !verdict.forbidden.is_empty() && !args.force {
        return Err(Failure::refused(format!(
            "it forbids {} of the present fleet: see `decnet policy explain {}`; --force signs it all the same",
            count(verdict.forbidden.len(), "thing", "things"),
            args.file.display()
        )));
    }
    let payload = serde_json::to_vec(&draft)
        .map_err(|error| Failure::Failed(format!("cannot write the policy as JSON: {error}")))?;
    let signers: Vec<&SigningKey> = signers.iter().collect();
    let envelope = Envelope::sign(PAYLOAD_TYPE, payload, &signers);
    if let Some(out) = &args.out {
        write_new(out, &envelope.to_json())?;
        console.remark(&format!(
            "The policy is in {0}. Have it signed: decnet sign {0} --key KEY; then: decnet policy import {0}",
            out.display()
        ));
        return Ok(());
    }
    match SignedPolicy::admit(&envelope.to_json(), &root, None, None, draft.issued_at) {
        Ok(_) => {}
        Err(PolicyError::Signatures(VerifyError::NotEnoughSignatures { valid, threshold })) => {
            return Err(too_few(valid, threshold, "it"));
        }
        Err(error) => {
            return Err(Failure::refused(format!(
                "the policy would be refused: {}",
                chain(&error)
            )));
        }
    }
    let after = hand_in(&envelope, client).await?;
    if args.require {
        let rotation = RotateArgs {
            what: Rotated::Policy,
            key: args.key.clone(),
            operator: Vec::new(),
            new: None,
            threshold: None,
            retire: false,
            out: None,
            state: StateDir {
                state_dir: args.state.state_dir.clone(),
            },
        };
        return keys::rotate(&rotation, client, console).await;
    }
    show(&after, console)
}

fn read(path: &Path) -> Result<PolicyFile, Failure> {
    let bytes = files::read_capped(path, limits::POLICY).map_err(|error| Failure::Failed(chain(&error)))?;
    let text = String::from_utf8(bytes.to_vec())
        .map_err(|_| Failure::refused(format!("{}: it is not text", path.display())))?;
    PolicyFile::parse(path, text).map_err(Failure::refused)
}

/// The document that is to be signed.
async fn draft(file: &PolicyFile, client: &Client) -> Result<Policy, Failure> {
    let present: PoliciesView = client.get("/api/v1/policy").await?;
    let hosts = match file.hosts() {
        None => None,
        Some(names) => Some(ids(
            names,
            &client.get::<Vec<HostView>>("/api/v1/swarm/hosts").await?,
        )?),
    };
    // The operator's own clock: the policy is the operator's word.
    let now = Timestamp::new(time::OffsetDateTime::now_utc());
    let expires_at = file.expires_at(now);
    if expires_at <= now {
        return Err(Failure::refused(format!(
            "the policy expires at {expires_at}: that is over"
        )));
    }
    Ok(Policy {
        schema: SCHEMA,
        fleet: present.fleet,
        version: present.newest.saturating_add(1),
        issued_at: now,
        expires_at,
        hosts,
        rules: file.rules(),
    })
}

fn ids(names: &[String], hosts: &[HostView]) -> Result<BTreeSet<HostId>, Failure> {
    names
        .iter()
        .map(|name| {
            let mut known = hosts.iter();
            let found = known.find(|host| host.name.as_str() == name || host.uuid.to_string() == *name);
            found
                .map(|host| host.uuid)
                .ok_or_else(|| Failure::refused(format!("hosts: there is no host {name}")))
        })
        .collect()
}

async fn verdict(draft: Option<&Policy>, client: &Client) -> Result<PolicyCheckView, Failure> {
    let body = match draft {
        Some(draft) => serde_json::to_value(draft)
            .map_err(|error| Failure::Failed(format!("cannot write the policy as JSON: {error}")))?,
        None => json!({}),
    };
    client
        .call(Method::POST, "/api/v1/policy/check", Some(&body))
        .await
}

async fn hand_in(envelope: &Envelope, client: &Client) -> Result<PoliciesView, Failure> {
    let body: Value = serde_json::from_slice(&envelope.to_json())
        .map_err(|error| Failure::Failed(format!("cannot write the policy as JSON: {error}")))?;
    client.call(Method::POST, "/api/v1/policy", Some(&body)).await
}

fn what(found: &ForbiddenView) -> String {
    let service = if found.service.is_empty() {
        String::new()
    } else {
        format!("{}.", found.service)
    };
    format!("{service}{}: {}", found.attribute, found.reason)
}

fn summary(verdict: &PolicyCheckView, console: &mut Console<'_>) -> Result<(), Failure> {
    let outside: BTreeSet<_> = verdict
        .forbidden
        .iter()
        .filter_map(|found| found.decky.as_ref())
        .collect();
    let shared = verdict
        .forbidden
        .iter()
        .filter(|found| found.decky.is_none())
        .count();
    let mut text = format!(
        "It is for {} with {}; it would forbid {}",
        count(verdict.hosts, "host", "hosts"),
        count(verdict.deckies, "decky", "deckies"),
        if outside.is_empty() {
            "none of them".to_owned()
        } else {
            format!("{} of them", outside.len())
        },
    );
    if shared > 0 {
        text.push_str(&format!(", and {shared} of what hosts have in common"));
    }
    console.say(&format!("{text}."))
}

/// Shows a document that an operator is about to sign.
///
/// # Errors
/// [`Failure`]: it is none.
pub(super) fn show_draft(envelope: &Envelope, file: &Path, console: &mut Console<'_>) -> Result<(), Failure> {
    let policy = SignedPolicy::stored(&envelope.to_json())
        .map_err(|error| Failure::refused(format!("{}: {}", file.display(), chain(&error))))?;
    let document = policy.document();
    let hosts = document.hosts.as_ref().map_or_else(
        || "every host".to_owned(),
        |hosts| {
            hosts
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        },
    );
    console.print(&facts([
        ("fleet", document.fleet.to_string()),
        ("policy", format!("version {}", document.version)),
        ("hosts", hosts),
        ("issued", document.issued_at.to_string()),
        ("until", document.expires_at.to_string()),
    ]))?;
    console.document(&document.rules)
}

fn show(view: &PoliciesView, console: &mut Console<'_>) -> Result<(), Failure> {
    if console.json {
        return console.document(view);
    }
    let required = view.required.map_or_else(
        || "no: a stolen master could keep it from a host (decnet policy sign FILE --require)".to_owned(),
        |least| format!("version {least} or newer"),
    );
    console.print(&facts([
        (
            "policy",
            if view.policies.is_empty() {
                "the built-in one".to_owned()
            } else {
                format!("version {}", view.newest)
            },
        ),
        ("asked for by the trust root", required),
    ]))?;
    let mut rows = Vec::new();
    for policy in &view.policies {
        let mut state = if policy.expired {
            "expired: its hosts take no new bundle"
        } else {
            "in force"
        };
        if !policy.present_operators {
            state = "signed by operators of before: sign it again for hosts to come";
        }
        let names: Vec<String> = policy.hosts.iter().map(ToString::to_string).collect();
        let hosts = match (policy.every_host, names.is_empty()) {
            (true, _) => format!("every host ({})", names.len()),
            (false, true) => NONE.to_owned(),
            (false, false) => names.join(", "),
        };
        rows.push([
            policy.version.to_string(),
            hosts,
            policy.expires_at.to_string(),
            state.to_owned(),
        ]);
    }
    if !view.built_in.is_empty() && !view.policies.is_empty() {
        let names: Vec<String> = view.built_in.iter().map(ToString::to_string).collect();
        rows.push([
            "built-in".to_owned(),
            names.join(", "),
            NONE.to_owned(),
            "in force".to_owned(),
        ]);
    }
    if rows.is_empty() {
        return Ok(());
    }
    console.print(&table(["VERSION", "HOSTS", "UNTIL", "STATE"], rows))?;
    for policy in &view.policies {
        console.say(&format!("\nversion {}:", policy.version))?;
        console.document(&policy.rules)?;
    }
    Ok(())
}
