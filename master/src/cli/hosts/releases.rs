//! `host releases`, `host update` and `host rollback`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use decnet_pki::digest::Sha256Digest;
use decnet_pki::envelope::{Envelope, VerifyError};
use decnet_pki::files;
use decnet_pki::key::SigningKey;
use decnet_pki::release::{ReleaseError, SignedRelease};
use decnet_wire::ids::{Digest, HostId, Timestamp};
use decnet_wire::limits;
use decnet_wire::release::{
    Architecture, Format, PAYLOAD_TYPE, Package, ProgressState, Release, SCHEMA, Version, WHOLE,
};
use hyper::Method;
use serde_json::{Value, json};

use super::{Client, Console, Failure, find};
use crate::cli::keys::{StateDir, operator_keys, read_envelope, root, too_few, write_new};
use crate::cli::table::{NONE, count, facts, or_none, printable, table};
use crate::init::keys_path;
use crate::serve::operator::views::{ReleaseView, ReleasesView, RolloutBody, RolloutView, UpdateView};
use crate::text::chain;

/// Where packages of the agent lie that came with the master.
const PACKAGES: &str = "/usr/share/decnet/packages";
/// What the files of the agent's package are called, up to the version.
const NAMES: [(Format, &str); 2] = [(Format::Deb, "decnet-agent_"), (Format::Rpm, "decnet-agent-")];

/// What `decnet host releases` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  decnet host releases
  decnet host releases add decnet-agent_0.2.0-1_amd64.deb decnet-agent-0.2.0-1.x86_64.rpm --key operator.pem")]
pub struct ReleasesArgs {
    #[command(subcommand)]
    pub command: Option<ReleasesCommand>,
}

/// What may be done with releases.
#[derive(Debug, Subcommand)]
pub enum ReleasesCommand {
    /// Sign packages as a release with the operator's key, and hand both in. Nothing is installed by that
    Add(AddArgs),
    /// Take a release that was signed elsewhere; its packages were handed in with `add --out`
    #[command(after_help = "Examples:\n  decnet host releases import release.json")]
    Import {
        /// The signed release
        file: PathBuf,
    },
}

/// What `decnet host releases add` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  decnet host releases add
  decnet host releases add decnet-agent_0.2.0-1_amd64.deb --key /media/usb/operator.pem
  decnet host releases add decnet-agent_0.2.0-1_amd64.deb --out release.json

Where the operator's key is elsewhere: `decnet sign FILE --key KEY` there, `decnet host releases import FILE` here.")]
pub struct AddArgs {
    /// Packages of the agent, of one version, named as they were built. Without them: those that came with the master
    pub packages: Vec<PathBuf>,
    /// The version is lower than one before it, and that is meant
    #[arg(long)]
    pub downgrade: bool,
    #[command(flatten)]
    pub signing: Signing,
}

/// Who signs, and where to.
#[derive(Debug, Args)]
pub struct Signing {
    /// A file with an operator's private key to sign with; again for each. Without it: the one in the state folder
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Write the document, with what signatures there are, to this file instead of handing it in
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub state: StateDir,
}

/// What `decnet host update` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  decnet host update --all --percent 10
  decnet host update --all
  decnet host update edge-01 edge-02 --release 0.2.0
  decnet host update --pause

Every host computes its own place in the order; --percent is how many of them begin. Given again with a higher number, more do.
The master pauses by itself when 5 % of a wave, or the first host of a small one, goes back to its previous version.")]
pub struct UpdateArgs {
    /// The hosts' names or ids
    #[arg(conflicts_with = "all", required_unless_present_any = ["all", "pause", "resume", "abort"])]
    pub hosts: Vec<String>,
    /// Every host
    #[arg(long)]
    pub all: bool,
    /// Which version [default: the newest release]
    #[arg(long, value_name = "VERSION")]
    pub release: Option<Version>,
    /// How many of these hosts begin, in percent [default: 100]
    #[arg(long, value_name = "N", value_parser = per_mille)]
    pub percent: Option<u16>,
    /// No host begins any more, for now
    #[arg(long, conflicts_with_all = ["hosts", "all", "release", "percent", "resume", "abort"])]
    pub pause: bool,
    /// Go on with what is paused
    #[arg(long, conflicts_with_all = ["hosts", "all", "release", "percent", "abort"])]
    pub resume: bool,
    /// No host begins any more. Those that have begun go on to their end
    #[arg(long, conflicts_with_all = ["hosts", "all", "release", "percent"])]
    pub abort: bool,
}

/// What `decnet host rollback` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  decnet host rollback --all
  decnet host rollback edge-01 --to 0.1.0 --key /media/usb/operator.pem")]
pub struct RollbackArgs {
    /// The hosts' names or ids
    #[arg(conflicts_with = "all", required_unless_present = "all")]
    pub hosts: Vec<String>,
    /// Every host
    #[arg(long)]
    pub all: bool,
    /// To which version [default: the newest release that hosts have kept and that is lower than what is rolled out]
    #[arg(long, value_name = "VERSION")]
    pub to: Option<Version>,
    #[command(flatten)]
    pub signing: Signing,
}

/// A percentage with at most one digit after the point, in thousandths.
fn per_mille(text: &str) -> Result<u16, String> {
    let wrong = || "write a number from 0 to 100, with at most one digit after the point".to_owned();
    let (whole, tenths) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
    };
    if !digits(whole, 3) || !digits(tenths, 1) {
        return Err(wrong());
    }
    let value: u16 = format!("{whole}{tenths}").parse().map_err(|_| wrong())?;
    Some(value).filter(|value| *value <= WHOLE).ok_or_else(wrong)
}

pub(super) async fn releases(
    args: &ReleasesArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    match &args.command {
        None => show(&present(client).await?, console),
        Some(ReleasesCommand::Add(args)) => add(args, client, console).await,
        Some(ReleasesCommand::Import { file }) => {
            let envelope = read_envelope(file)?;
            show(&hand_in(&envelope, client).await?, console)
        }
    }
}

async fn add(args: &AddArgs, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let files = if args.packages.is_empty() {
        packages_here()?
    } else {
        args.packages.clone()
    };
    let mut version: Option<Version> = None;
    let mut packages = Vec::new();
    for file in &files {
        let (format, architecture, found) = named(file).ok_or_else(|| {
            Failure::Usage(format!(
                "{} is not named as a package of the agent, such as decnet-agent_0.2.0-1_amd64.deb or \
                 decnet-agent-0.2.0-1.x86_64.rpm",
                file.display()
            ))
        })?;
        if let Some(other) = version.as_ref().filter(|version| **version != found) {
            return Err(Failure::Usage(format!(
                "{} is of version {found}, another file of {other}: a release is of one version",
                file.display(),
            )));
        }
        version = Some(found);
        packages.push(upload(file, format, architecture, client).await?);
    }
    let Some(version) = version else {
        return Err(Failure::Usage(format!(
            "name packages of the agent: there are none in {PACKAGES}"
        )));
    };
    let present = present(client).await?;
    let draft = Draft {
        present: &present,
        version,
        downgrade: args.downgrade,
        packages,
    };
    match draft.sign(&args.signing, client, console).await? {
        Some(after) => show(&after, console),
        None => Ok(()),
    }
}

/// Hands a package in; gives what a release says of it.
async fn upload(
    file: &Path,
    format: Format,
    architecture: Architecture,
    client: &Client,
) -> Result<Package, Failure> {
    let most = usize::try_from(limits::PACKAGE).unwrap_or(usize::MAX);
    let bytes = files::read_capped(file, most).map_err(|error| Failure::Failed(chain(&error)))?;
    let digest = Digest::from_sha256(*Sha256Digest::of(&bytes).as_bytes());
    let size = bytes.len() as u64;
    let path = format!("/api/v1/swarm/packages/{digest}");
    client.upload(&path, Bytes::from(bytes)).await?;
    Ok(Package {
        format,
        architecture,
        digest,
        size,
    })
}

/// What is to be signed.
struct Draft<'a> {
    present: &'a ReleasesView,
    version: Version,
    downgrade: bool,
    packages: Vec<Package>,
}

impl Draft<'_> {
    /// Signs it and hands it in; none when it was only written down.
    async fn sign(
        self,
        signing: &Signing,
        client: &Client,
        console: &mut Console<'_>,
    ) -> Result<Option<ReleasesView>, Failure> {
        let folder = keys_path(&signing.state.state_dir);
        let root = root(client).await?;
        let signers = operator_keys(&signing.key, signing.out.is_some(), &folder)?;
        let document = Release {
            schema: SCHEMA,
            fleet: root.fleet(),
            sequence: self.present.newest.saturating_add(1),
            version: self.version,
            downgrade: self.downgrade,
            // The operator's own clock: the release is the operator's word.
            issued_at: Timestamp::new(time::OffsetDateTime::now_utc()),
            packages: self.packages,
        };
        let payload = serde_json::to_vec(&document)
            .map_err(|error| Failure::Failed(format!("cannot write the release as JSON: {error}")))?;
        let signers: Vec<&SigningKey> = signers.iter().collect();
        let envelope = Envelope::sign(PAYLOAD_TYPE, payload, &signers);
        if let Some(out) = &signing.out {
            write_new(out, &envelope.to_json())?;
            console.remark(&format!(
                "The release is in {0}. Have it signed: decnet sign {0} --key KEY; then: decnet host releases import {0}",
                out.display()
            ));
            return Ok(None);
        }
        match SignedRelease::admit(&envelope.to_json(), &root) {
            Ok(_) => {}
            Err(ReleaseError::Signatures(VerifyError::NotEnoughSignatures { valid, threshold })) => {
                return Err(too_few(valid, threshold, "it"));
            }
            Err(error) => {
                return Err(Failure::refused(format!(
                    "the release would be refused: {}",
                    chain(&error)
                )));
            }
        }
        hand_in(&envelope, client).await.map(Some)
    }
}

pub(super) async fn update(
    args: &UpdateArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let body = if args.pause {
        RolloutBody::Pause {}
    } else if args.resume {
        RolloutBody::Resume {}
    } else if args.abort {
        RolloutBody::Abort {}
    } else {
        let present = present(client).await?;
        let mut releases = present.releases.iter();
        let release = match &args.release {
            None => releases.next(),
            Some(version) => releases.find(|release| release.version == *version),
        };
        let release = release.ok_or_else(|| {
            Failure::refused(
                "there is no such release: `decnet host releases` lists them, `decnet host releases add` makes one",
            )
        })?;
        RolloutBody::Advance {
            sequence: release.sequence,
            per_mille: args.percent.unwrap_or(WHOLE),
            hosts: ids(&args.hosts, client).await?,
        }
    };
    roll_out(&body, client, console).await
}

pub(super) async fn rollback(
    args: &RollbackArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let present = present(client).await?;
    let current = present.rollout.as_ref().map(|rollout| rollout.version.clone());
    let mut releases = present.releases.iter();
    let wanted = match (&args.to, current) {
        (Some(to), _) => releases.find(|release| release.version == *to),
        (None, Some(current)) => releases.find(|release| release.proven && release.version < current),
        (None, None) => {
            return Err(Failure::refused(
                "nothing was ever rolled out: say with --to VERSION which release hosts are to have",
            ));
        }
    };
    let wanted: &ReleaseView = wanted.ok_or_else(|| {
        Failure::refused(
            "no release to go back to is here that hosts have kept: name one with --to VERSION, or hand its packages in with `decnet host releases add FILE… --downgrade`, then \
             `decnet host update`",
        )
    })?;
    let hosts = ids(&args.hosts, client).await?;
    let draft = Draft {
        version: wanted.version.clone(),
        downgrade: true,
        packages: wanted.packages.clone(),
        present: &present,
    };
    let Some(after) = draft.sign(&args.signing, client, console).await? else {
        return Ok(());
    };
    let body = RolloutBody::Advance {
        sequence: after.newest,
        per_mille: WHOLE,
        hosts,
    };
    roll_out(&body, client, console).await
}

/// The ids of these hosts; none when none are named.
async fn ids(names: &[String], client: &Client) -> Result<Option<Vec<HostId>>, Failure> {
    let mut ids = Vec::new();
    for name in names {
        ids.push(find(name, client).await?.uuid);
    }
    Ok((!ids.is_empty()).then_some(ids))
}

async fn present(client: &Client) -> Result<ReleasesView, Failure> {
    client.get("/api/v1/swarm/releases").await
}

async fn hand_in(envelope: &Envelope, client: &Client) -> Result<ReleasesView, Failure> {
    let body: Value = serde_json::from_slice(&envelope.to_json())
        .map_err(|error| Failure::Failed(format!("cannot write the release as JSON: {error}")))?;
    client
        .call(Method::POST, "/api/v1/swarm/releases", Some(&body))
        .await
}

async fn roll_out(body: &RolloutBody, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let after: ReleasesView = client
        .call(Method::PUT, "/api/v1/swarm/rollout", Some(&json!(body)))
        .await?;
    if console.json {
        return console.document(&after);
    }
    let rollout = after.rollout.as_ref();
    rollout.map_or(Ok(()), |rollout| show_rollout(rollout, console))
}

/// The agent's packages that came with the master.
fn packages_here() -> Result<Vec<PathBuf>, Failure> {
    let entries = match std::fs::read_dir(PACKAGES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::Failed(format!("cannot list {PACKAGES}: {error}"))),
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| named(path).is_some())
        .collect();
    found.sort();
    Ok(found)
}

/// What a package's file name says: its format, its processor, and the version that a release names.
fn named(file: &Path) -> Option<(Format, Architecture, Version)> {
    let name = file.file_name()?.to_str()?;
    let (format, rest) = NAMES.into_iter().find_map(|(format, begins)| {
        let rest = name.strip_prefix(begins)?;
        Some((format, rest.strip_suffix(format.as_str())?.strip_suffix('.')?))
    })?;
    let (version, architecture) = match format {
        Format::Deb => rest.rsplit_once('_')?,
        Format::Rpm => rest.rsplit_once('.')?,
    };
    let architecture = match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    };
    let (upstream, _) = version.rsplit_once('-')?;
    Some((format, architecture.parse().ok()?, upstream.parse().ok()?))
}

/// Shows a document that an operator is about to sign.
///
/// # Errors
/// [`Failure`]: it is none.
pub(in crate::cli) fn show_draft(
    envelope: &Envelope,
    file: &Path,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let release = SignedRelease::stored(&envelope.to_json())
        .map_err(|error| Failure::refused(format!("{}: {}", file.display(), chain(&error))))?;
    let document = release.document();
    let version = if document.downgrade {
        format!("{}, a downgrade that is meant", document.version)
    } else {
        document.version.to_string()
    };
    console.print(&facts([
        ("fleet", document.fleet.to_string()),
        ("release", document.sequence.to_string()),
        ("version", version),
        ("issued", document.issued_at.to_string()),
    ]))?;
    let rows = document.packages.iter().map(|package| {
        [
            package.format.to_string(),
            package.architecture.to_string(),
            package.size.to_string(),
            package.digest.to_string(),
        ]
    });
    console.print(&table(["FORMAT", "PROCESSOR", "BYTES", "DIGEST"], rows))
}

/// One line about a release on a host.
pub(super) fn update_text(update: &UpdateView) -> String {
    let mut text = format!(
        "version {} (release {}): {}",
        update.version,
        update.sequence,
        update.state.as_str()
    );
    if let Some(detail) = &update.detail {
        text.push_str(&format!(", {detail}"));
    }
    text
}

fn show(view: &ReleasesView, console: &mut Console<'_>) -> Result<(), Failure> {
    if console.json {
        return console.document(view);
    }
    if view.releases.is_empty() {
        return console.say("There are no releases: `decnet host releases add FILE…` hands one in.");
    }
    let rows = view.releases.iter().map(|release| {
        let packages: Vec<String> = release
            .packages
            .iter()
            .map(|package| format!("{} {}", package.format, package.architecture))
            .collect();
        [
            release.sequence.to_string(),
            release.version.to_string(),
            if release.downgrade { "downgrade" } else { NONE }.to_owned(),
            release.taken_at.to_string(),
            packages.join(", "),
        ]
    });
    console.print(&table(
        ["RELEASE", "VERSION", "KIND", "HERE SINCE", "PACKAGES"],
        rows,
    ))?;
    view.rollout.as_ref().map_or(Ok(()), |rollout| {
        console.say("")?;
        show_rollout(rollout, console)
    })
}

fn show_rollout(rollout: &RolloutView, console: &mut Console<'_>) -> Result<(), Failure> {
    let of = if rollout.every_host {
        "every host"
    } else {
        "the hosts below"
    };
    console.print(&facts([
        (
            "rollout",
            format!("version {} (release {})", rollout.version, rollout.sequence),
        ),
        ("state", rollout.state.as_str().to_owned()),
        ("because", or_none(rollout.reason.as_deref().map(printable))),
        (
            "wave",
            format!("{}.{} % of {of}", rollout.per_mille / 10, rollout.per_mille % 10),
        ),
        ("failed", count(rollout.failures, "host", "hosts")),
    ]))?;
    let rows = rollout.hosts.iter().map(|host| {
        [
            host.name.to_string(),
            or_none(host.state.map(ProgressState::as_str)),
            or_none(host.detail.clone()),
        ]
    });
    console.print(&table(["HOST", "STATE", "BECAUSE"], rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_in_thousandths() {
        for (text, expected) in [("0", 0), ("10", 100), ("2.5", 25), ("100", 1000), ("100.0", 1000)] {
            assert_eq!(per_mille(text), Ok(expected), "{text}");
        }
        for bad in ["", "101", "-1", "1.25", "100.1", "x", "1.", ".5", "10%"] {
            assert!(per_mille(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_packages_name_says_what_it_is() {
        let read = |name: &str| {
            named(Path::new(name))
                .map(|(format, architecture, version)| format!("{format} {architecture} {version}"))
        };
        assert_eq!(
            read("/x/decnet-agent_0.2.0-1_amd64.deb").unwrap(),
            "deb x86_64 0.2.0"
        );
        assert_eq!(
            read("decnet-agent_0.2.0~rc1-2_arm64.deb").unwrap(),
            "deb aarch64 0.2.0~rc1"
        );
        assert_eq!(
            read("decnet-agent-0.2.0-1.x86_64.rpm").unwrap(),
            "rpm x86_64 0.2.0"
        );
        for other in [
            "decnet_0.2.0-1_amd64.deb",
            "decnet-agent-0.2.0-1.x86_64.deb",
            "decnet-agent_0.2.0_amd64.deb",
            "decnet-agent_v2-1_amd64.deb",
            "notes.txt",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
