//! `backup` and `restore`.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::Args;
use decnet_wire::ids::{HostName, Timestamp};
use hyper::Method;
use serde_json::json;

use super::client::Client;
use super::failure::Failure;
use super::table::{facts, or_none, printable};
use super::{Console, hosts};
use crate::audit::Actor;
use crate::backup::{self, Backup, BackupError, Header, Restored, Sealing};
use crate::init;
use crate::text::chain;

/// What `decnet backup` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
The file has everything that the store holds: the fleet, hosts, operations, the audit log, and what operators' tokens hash \
to. It has no keys: keep a copy of the keys folder elsewhere, once, or say --with-keys.

Examples:
  decnet backup /var/backups/decnet-2026-01-02.backup
  decnet backup /root/whole.backup --with-keys")]
pub struct BackupArgs {
    /// The file to write; there must be none of that name
    pub file: PathBuf,
    /// Add the private keys of the master, and the operator's where it lies there: whoever has the file is the master
    #[arg(long)]
    pub with_keys: bool,
    /// The master's state folder, where the keys are
    #[arg(long, alias = "data", env = "DECNET_MASTER_DIR", value_name = "DIR", default_value = init::STATE_DIR)]
    pub state_dir: PathBuf,
}

/// What `decnet restore` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Stop the master first. The store that is there is kept under another name.

Examples:
  decnet restore /var/backups/decnet-2026-01-02.backup
  decnet restore --accept-loss edge-07")]
pub struct RestoreArgs {
    /// The backup
    #[arg(required_unless_present = "accept_loss", conflicts_with = "accept_loss")]
    pub file: Option<PathBuf>,
    /// The master's state folder
    #[arg(long, alias = "data", env = "DECNET_MASTER_DIR", value_name = "DIR", default_value = init::STATE_DIR)]
    pub state_dir: PathBuf,
    /// Ask the running master to wait no more for what this host, by name or id, accepted last
    #[arg(long, value_name = "HOST")]
    pub accept_loss: Option<String>,
}

pub(super) async fn take(
    args: &BackupArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let target = &args.file;
    if target.exists() {
        return Err(Failure::Usage(format!(
            "{} is there already: take another name",
            target.display()
        )));
    }
    let mut making = target.clone().into_os_string();
    making.push(".part");
    let making = PathBuf::from(making);
    let done = write(&making, args, client).await;
    let done = done.and_then(|header| {
        // Never over another file.
        std::fs::hard_link(&making, target).map_err(|error| unwritten(target, &error))?;
        Ok(header)
    });
    if !matches!(&done, Err(Failure::Usage(_))) {
        // The finished file has its own name by now.
        let _ = std::fs::remove_file(&making);
    }
    let header = done?;
    let bytes = std::fs::metadata(target)
        .map(|meta| meta.len())
        .unwrap_or_default();
    if console.json {
        return console.document(&json!({
            "file": target, "bytes": bytes, "with_keys": args.with_keys, "backup": header,
        }));
    }
    let keys = if args.with_keys {
        "in it: whoever has this file is the master"
    } else {
        "not in it: keep a copy of the keys folder as well"
    };
    console.print(&facts([
        ("backup", target.display().to_string()),
        ("of", header.taken_at.to_string()),
        ("fleet", header.fleet.to_string()),
        ("records", header.tables.values().sum::<u64>().to_string()),
        ("bytes", bytes.to_string()),
        ("keys", keys.to_owned()),
    ]))
}

async fn write(making: &Path, args: &BackupArgs, client: &Client) -> Result<Header, Failure> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(making)
        .map_err(|error| {
            Failure::Usage(format!(
                "cannot write {}: {error}; is a backup being written there?",
                making.display()
            ))
        })?;
    let failed = |error: std::io::Error| unwritten(making, &error);
    // A file system without modes shows it to everybody.
    let mode = file.metadata().map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        return Err(Failure::Failed(format!(
            "{} can be read by others (mode {:o}), whatever is asked: take a folder on another file system",
            making.display(),
            mode & 0o777
        )));
    }
    client.download(Method::POST, "/api/v1/backup", &mut file).await?;
    if args.with_keys {
        let folder = init::keys_path(&args.state_dir);
        let before = BufReader::new(File::open(making).map_err(failed)?);
        let mut sealing = Sealing::resume(&mut file, before).map_err(failed)?;
        sealing.add_files(&folder).map_err(|error| refused(&error))?;
    }
    file.flush().and_then(|()| file.sync_all()).map_err(failed)?;
    let written = BufReader::new(File::open(making).map_err(failed)?);
    let (header, _) = Backup::open(written)
        .and_then(Backup::check)
        .map_err(|error| refused(&error))?;
    Ok(header)
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot write {}: {error}", path.display()))
}

fn refused(error: &BackupError) -> Failure {
    Failure::Failed(chain(error))
}

pub(super) async fn restore(
    args: &RestoreArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    if let Some(host) = &args.accept_loss {
        let host = hosts::find(host, client).await?;
        let path = format!("/api/v1/swarm/hosts/{}/accept-loss", host.uuid);
        client.header(Method::POST, &path, "date").await?;
        if !console.json {
            console.say(&printable(&format!("{} is not waited for any more", host.name)))?;
        }
        return Ok(());
    }
    let Some(file) = &args.file else {
        return Err(Failure::Usage("say which backup".to_owned()));
    };
    let by = Actor::local(nix::unistd::getuid().as_raw());
    let now = Timestamp::new(time::OffsetDateTime::now_utc());
    let restored = backup::restore(file, &args.state_dir, &by, now).map_err(|error| refused(&error))?;
    if console.json {
        return console.document(&json!({
            "backup": restored.header,
            "replaced": restored.replaced,
            "keys_restored": restored.keys,
            "awaited": restored.awaited,
            "voided_enrolment_tokens": restored.voided,
            "believed_hosts": restored.believed,
            "operator_tokens": restored.tokens,
            "stay_revoked": restored.since.as_ref().map(|since| &since.revoked),
            "tokens_stay_revoked": restored.since.as_ref().map(|since| &since.tokens),
            "unknown_hosts": restored.since.as_ref().map(|since| &since.unknown),
        }));
    }
    tell(&restored, console)
}

fn tell(restored: &Restored, console: &mut Console<'_>) -> Result<(), Failure> {
    let header = &restored.header;
    let replaced = restored.replaced.as_ref().map(|path| path.display().to_string());
    console.print(&facts([
        ("restored", format!("the backup of {}", header.taken_at)),
        ("fleet", header.fleet.to_string()),
        ("replaced store", or_none(replaced)),
        (
            "keys",
            if restored.keys {
                "out of the backup"
            } else {
                "those that were there"
            }
            .to_owned(),
        ),
        (
            "enrolment tokens",
            format!("{} are worth nothing any more", restored.voided),
        ),
    ]))?;
    console.say("")?;
    let said = |names: &[HostName]| {
        let names: Vec<&str> = names.iter().map(HostName::as_str).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    };
    let mut lines = vec![format!(
        "No bundle is published for a host before it has reported: {}",
        said(&restored.awaited)
    )];
    match &restored.since {
        Some(since) => {
            lines.push(format!(
                "Revoked since the backup, and still so: hosts {}; tokens {}",
                said(&since.revoked),
                if since.tokens.is_empty() {
                    "none".to_owned()
                } else {
                    since.tokens.join(", ")
                }
            ));
            lines.push(format!(
                "Enrolled since the backup, and not known any more; enrol them again: {}",
                said(&since.unknown)
            ));
        }
        None => {
            lines.push(
                "The replaced store could not be read: what was revoked since the backup COUNTS AGAIN."
                    .to_owned(),
            );
            lines.push(format!(
                "Revoke what must not be believed. Hosts: {}",
                said(&restored.believed)
            ));
            lines.push(format!("Operator tokens: {}", restored.tokens.join(", ")));
        }
    }
    lines.push(
        "What was deployed since the backup is not in the fleet: its host removes it with its next bundle."
            .to_owned(),
    );
    for line in lines {
        console.say(&printable(&line))?;
    }
    Ok(())
}
