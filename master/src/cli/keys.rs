//! `key` and `sign`: the keys of the trust root, with the operator's own key in no program but this one.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use decnet_pki::envelope::{Envelope, VerifyError};
use decnet_pki::files;
use decnet_pki::key::{PublicKey, SigningKey};
use decnet_pki::root::{Root, RootError};
use decnet_wire::order::DECOMMISSION_TYPE;
use decnet_wire::trust::{PAYLOAD_TYPE, TrustRoot};
use decnet_wire::{limits, policy, release};
use hyper::Method;
use serde_json::{Value, json};

use super::Console;
use super::client::Client;
use super::failure::Failure;
use super::table::{count, facts, table};
use crate::init::{STATE_DIR, keys_path};
use crate::keys::{OPERATOR, signing_key};
use crate::serve::operator::views::TrustView;
use crate::text::chain;

/// The operator's coming key, beside the present one, until the root that names it counts.
const OPERATOR_NEXT: &str = "operator.next.pem";

/// What `decnet key` takes.
#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What may be done with the keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the keys that the trust root names
    #[command(after_help = "Examples:\n  decnet key ls\n  decnet key ls --json")]
    Ls,
    /// Replace a key: draft the next trust root, sign it, and let every host follow
    #[command(after_help = "\
Examples:
  decnet key rotate online
  decnet key rotate online --key /media/usb/operator.pem
  decnet key rotate operator
  decnet key rotate operator --key /media/usb/operator.pem --new /media/usb/operator-2.pem
  decnet key rotate operator --operator KEY1 --operator KEY2 --operator KEY3 --threshold 2 --out root.json
  decnet key rotate epoch --out root.json
  decnet key rotate ca
  decnet key rotate ca --retire
  decnet key rotate policy

Where the operator's key is elsewhere: rotate with --out FILE, `decnet sign FILE --key KEY` there, `decnet key import FILE` here.")]
    Rotate(RotateArgs),
    /// Print the signed trust root, to keep or to compare
    #[command(after_help = "Examples:\n  decnet key export > trust-root.json")]
    Export,
    /// Print the revocation lists of all CAs that are believed, in PEM
    #[command(
        after_help = "Examples:\n  decnet key crl > crl.pem\n  openssl verify -crl_check -CAfile ca.crt -CRLfile crl.pem host.pem"
    )]
    Crl,
    /// Take a trust root that was signed elsewhere
    #[command(after_help = "Examples:\n  decnet key import root.json")]
    Import {
        /// The signed trust root
        file: PathBuf,
    },
    /// Move the operator's key out of the master's state folder
    #[command(after_help = "Examples:\n  decnet key offline /media/usb/operator.pem")]
    Offline {
        /// Where to: a file that is not there yet
        file: PathBuf,
        #[command(flatten)]
        state: StateDir,
    },
}

/// Where the master keeps its keys.
#[derive(Debug, Args)]
pub struct StateDir {
    /// The master's state folder, on this machine
    #[arg(long, env = "DECNET_MASTER_DIR", default_value = STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
}

/// What `decnet key rotate` takes.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// What is to be another one
    pub what: Rotated,
    /// A file with an operator's private key to sign with; again for each. Without it: the one in the state folder
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Of `operator`: the public key of an operator from now on, in hex; again for each. Without it: one new key, made here
    #[arg(long, value_name = "KEY")]
    pub operator: Vec<PublicKey>,
    /// Of `operator`: where the new private key goes, a file that is not there yet. Without it: the state folder, if the
    /// present one is there
    #[arg(long, value_name = "FILE", conflicts_with = "operator")]
    pub new: Option<PathBuf>,
    /// Of `operator`: how many of them must sign
    #[arg(long, value_name = "N", requires = "operator")]
    pub threshold: Option<u32>,
    /// Of `ca`: no new one. From now on no CA but the newest is believed
    #[arg(long)]
    pub retire: bool,
    /// Write the draft, with what signatures there are, to this file instead of handing it in
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub state: StateDir,
}

/// What a rotation replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rotated {
    /// The master's key, which signs bundles
    Online,
    /// The operator's keys, which sign the trust root
    Operator,
    /// The epoch: every bundle of before is worth nothing
    Epoch,
    /// The policy that a host must hold to take any bundle: the newest that names every host
    Policy,
    /// The CA, which issues hosts' certificates. That of before is believed besides, until it is retired
    Ca,
}

/// What `decnet sign` takes.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// A draft, or a document that others have signed already
    pub file: PathBuf,
    /// A file with an operator's private key. Without it the document is only shown
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

pub(super) async fn run(args: &KeyArgs, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    match &args.command {
        KeyCommand::Ls => show(&client.get("/api/v1/trust").await?, console),
        KeyCommand::Rotate(args) => rotate(args, client, console).await,
        KeyCommand::Export => {
            let root: Value = client.get("/api/v1/trust/root").await?;
            console.document(&root)
        }
        KeyCommand::Crl => console.print(&client.text("/api/v1/trust/crl").await?),
        KeyCommand::Import { file } => {
            let envelope = read_envelope(file)?;
            show(&hand_in(&envelope, client).await?, console)
        }
        KeyCommand::Offline { file, state } => offline(file, state, console),
    }
}

pub(super) async fn rotate(
    args: &RotateArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    if args.what != Rotated::Operator && (!args.operator.is_empty() || args.new.is_some()) {
        return Err(Failure::Usage(
            "--operator and --new are for `decnet key rotate operator`".to_owned(),
        ));
    }
    if args.what != Rotated::Ca && args.retire {
        return Err(Failure::Usage(
            "--retire is for `decnet key rotate ca`".to_owned(),
        ));
    }
    let folder = keys_path(&args.state.state_dir);
    let current = root(client).await?;
    finish_operator(&folder, &current)?;
    let mut keys = operator_keys(&args.key, args.out.is_some(), &folder)?;
    let made = match args.what {
        Rotated::Operator if args.operator.is_empty() => Some(match &args.new {
            Some(file) => {
                let key = new_key()?;
                write_new(file, key.to_pkcs8_pem().as_bytes())?;
                key
            }
            // Who has moved the key away does not want the next one back here.
            None if !folder.join(OPERATOR).exists() => {
                return Err(Failure::Usage(
                    "the operator's key is not on this master: say with --new FILE where the new one goes, or name public \
                     keys with --operator"
                        .to_owned(),
                ));
            }
            None => next_operator(&folder)?,
        }),
        _ => None,
    };
    let body = match args.what {
        Rotated::Online => json!({ "online": true }),
        Rotated::Epoch => json!({ "epoch": true }),
        Rotated::Policy => json!({ "policy": true }),
        Rotated::Ca if args.retire => json!({ "retire": true }),
        Rotated::Ca => json!({ "authority": true }),
        Rotated::Operator => {
            let operators: Vec<String> = match &made {
                Some(made) => vec![made.public().to_string()],
                None => args.operator.iter().map(ToString::to_string).collect(),
            };
            json!({ "operator_keys": operators.join(","), "threshold": args.threshold.unwrap_or(1) })
        }
    };
    keys.extend(made);
    let draft: TrustRoot = client
        .call(Method::POST, "/api/v1/trust/draft", Some(&body))
        .await?;
    let payload = serde_json::to_vec(&draft)
        .map_err(|error| Failure::Failed(format!("cannot write the draft as JSON: {error}")))?;
    let signers: Vec<&SigningKey> = keys.iter().collect();
    let envelope = Envelope::sign(PAYLOAD_TYPE, payload, &signers);
    if let Some(out) = &args.out {
        write_new(out, &envelope.to_json())?;
        console.remark(&format!(
            "The draft is in {0}. Have it signed: decnet sign {0} --key KEY; then: decnet key import {0}",
            out.display()
        ));
        return Ok(());
    }
    let next = match current.next(envelope.clone()) {
        Ok(next) => next,
        Err(
            RootError::Signatures(VerifyError::NotEnoughSignatures { valid, threshold })
            | RootError::OwnSignatures(VerifyError::NotEnoughSignatures { valid, threshold }),
        ) => {
            return Err(Failure::refused(format!(
                "{valid} of {threshold} operators have signed: give their keys with --key, or draft with --out FILE and have it \
                 signed where they are"
            )));
        }
        Err(error) => {
            return Err(Failure::refused(format!(
                "the draft would be refused: {}",
                chain(&error)
            )));
        }
    };
    let after = hand_in(&envelope, client).await?;
    finish_operator(&folder, &next)?;
    if args.what == Rotated::Ca && !args.retire {
        console.remark(
            "Hosts that are there fetch certificates of the new CA now. `decnet key ls` tells how many have one of each; \
             `decnet key rotate ca --retire` ends the old one. A host that is away until then comes back all the same.",
        );
    }
    show(&after, console)
}

/// The operator's keys that sign: those of the files, or the one in the state folder. A draft may do without.
pub(super) fn operator_keys(
    files: &[PathBuf],
    is_draft: bool,
    folder: &Path,
) -> Result<Vec<SigningKey>, Failure> {
    let own = folder.join(OPERATOR);
    let files = if files.is_empty() && own.exists() {
        vec![own]
    } else {
        files.to_vec()
    };
    if files.is_empty() && !is_draft {
        return Err(Failure::Usage(format!(
            "no operator's key is in {}: give it with --key FILE, or draft with --out FILE and have it signed where the key is",
            folder.display()
        )));
    }
    files.iter().map(|file| private_key(file)).collect()
}

/// What to do when too few operators have signed `what`, as in `it`.
pub(super) fn too_few(valid: usize, threshold: usize, what: &str) -> Failure {
    Failure::refused(format!(
        "{valid} of {threshold} operators have signed: give their keys with --key, or write {what} with --out FILE and have \
         it signed where they are"
    ))
}

/// The operator's coming key: made once, and kept until a root names it.
fn next_operator(folder: &Path) -> Result<SigningKey, Failure> {
    let path = folder.join(OPERATOR_NEXT);
    if path.exists() {
        return private_key(&path);
    }
    let key = new_key()?;
    files::write_private(&path, key.to_pkcs8_pem().as_bytes())
        .map_err(|error| Failure::Failed(chain(&error)))?;
    Ok(key)
}

fn new_key() -> Result<SigningKey, Failure> {
    SigningKey::generate().map_err(|error| Failure::Failed(chain(&error)))
}

/// Once a root names the coming key, it is the operator's.
fn finish_operator(folder: &Path, root: &Root) -> Result<(), Failure> {
    let next = folder.join(OPERATOR_NEXT);
    if !next.exists() {
        return Ok(());
    }
    let key = private_key(&next)?;
    if !root.operators().keys().any(|known| *known == key.public()) {
        return Ok(());
    }
    std::fs::rename(&next, folder.join(OPERATOR))
        .map_err(|error| Failure::Failed(format!("cannot rename {}: {error}", next.display())))
}

fn offline(file: &Path, state: &StateDir, console: &mut Console<'_>) -> Result<(), Failure> {
    let own = keys_path(&state.state_dir).join(OPERATOR);
    let key = private_key(&own)?;
    write_new(file, key.to_pkcs8_pem().as_bytes())?;
    // Only what can be read back there is removed here.
    if private_key(file)?.public() != key.public() {
        return Err(Failure::Failed(format!(
            "{} reads back as another key: nothing was removed",
            file.display()
        )));
    }
    std::fs::remove_file(&own)
        .map_err(|error| Failure::Failed(format!("cannot remove {}: {error}", own.display())))?;
    console.remark(&format!(
        "The operator's key is in {} and no longer on this master. What needs it takes --key FILE, or a document signed with `decnet sign`.",
        file.display()
    ));
    Ok(())
}

/// Shows a document that wants the operator's signature, and signs it.
///
/// # Errors
/// [`Failure`]: it is no such document, or the key cannot be read.
pub(super) fn sign(args: &SignArgs, console: &mut Console<'_>) -> Result<(), Failure> {
    let mut envelope = read_envelope(&args.file)?;
    let payload_type = match envelope.payload_type() {
        PAYLOAD_TYPE => {
            show_root(&envelope, &args.file, console)?;
            PAYLOAD_TYPE
        }
        policy::PAYLOAD_TYPE => {
            super::policy::show_draft(&envelope, &args.file, console)?;
            policy::PAYLOAD_TYPE
        }
        DECOMMISSION_TYPE => {
            super::hosts::leaving::show_draft(&envelope, &args.file, console)?;
            DECOMMISSION_TYPE
        }
        release::PAYLOAD_TYPE => {
            super::hosts::show_release(&envelope, &args.file, console)?;
            release::PAYLOAD_TYPE
        }
        other => {
            return Err(Failure::refused(format!(
                "{} holds a document of type {other:?}; operators sign {PAYLOAD_TYPE}, {}, {} and {DECOMMISSION_TYPE}",
                args.file.display(),
                policy::PAYLOAD_TYPE,
                release::PAYLOAD_TYPE
            )));
        }
    };
    let Some(file) = &args.key else { return Ok(()) };
    let key = private_key(file)?;
    envelope
        .cosign(payload_type, &key)
        .map_err(|error| Failure::refused(chain(&error)))?;
    files::write_private(&args.file, &envelope.to_json()).map_err(|error| Failure::Failed(chain(&error)))?;
    console.remark(&format!("signed by {}", key.public()));
    Ok(())
}

fn show_root(envelope: &Envelope, file: &Path, console: &mut Console<'_>) -> Result<(), Failure> {
    let document: TrustRoot = serde_json::from_slice(envelope.unverified_payload()).map_err(|error| {
        Failure::refused(format!(
            "{} holds no trust root that this version knows: {error}",
            file.display()
        ))
    })?;
    console.print(&facts([
        ("fleet", document.fleet.to_string()),
        ("version", document.version.to_string()),
        ("epoch", document.epoch.to_string()),
        (
            "operators",
            format!(
                "{} of {}",
                document.threshold,
                count(document.operator_keys.len(), "key", "keys")
            ),
        ),
        ("", document.operator_keys.join(", ")),
        ("online key", document.online_key.clone()),
        ("until", document.online_key_expires_at.to_string()),
        ("CAs", document.ca_certificates.len().to_string()),
        (
            "asks for policy",
            document
                .policy
                .map_or_else(|| "none".to_owned(), |least| format!("version {least} or newer")),
        ),
    ]))
}

pub(super) async fn root(client: &Client) -> Result<Root, Failure> {
    let root: Value = client.get("/api/v1/trust/root").await?;
    let unusable = |error: String| Failure::Failed(format!("the master's trust root is not usable: {error}"));
    let envelope = Envelope::parse(root.to_string().as_bytes(), limits::ENROLMENT)
        .map_err(|error| unusable(chain(&error)))?;
    Root::stored(envelope).map_err(|error| unusable(chain(&error)))
}

async fn hand_in(envelope: &Envelope, client: &Client) -> Result<TrustView, Failure> {
    let body: Value = serde_json::from_slice(&envelope.to_json())
        .map_err(|error| Failure::Failed(format!("cannot write the trust root as JSON: {error}")))?;
    client.call(Method::POST, "/api/v1/trust/root", Some(&body)).await
}

fn show(trust: &TrustView, console: &mut Console<'_>) -> Result<(), Failure> {
    if console.json {
        return console.document(trust);
    }
    let mut rows = Vec::new();
    for key in &trust.operator_keys {
        let of = format!(
            "operator, {} of {} sign",
            trust.threshold,
            trust.operator_keys.len()
        );
        rows.push([of, key.clone(), String::new()]);
    }
    let online = "online, signs bundles".to_owned();
    rows.push([
        online,
        trust.online_key.clone(),
        trust.online_key_expires_at.clone(),
    ]);
    for authority in &trust.authorities {
        rows.push([
            format!("CA of {}", count(authority.hosts, "host", "hosts")),
            authority.pin.clone(),
            authority.expires_at.clone(),
        ]);
    }
    console.print(&facts([
        ("trust root", format!("version {}", trust.version)),
        ("epoch", trust.epoch.to_string()),
        (
            "asks for policy",
            trust
                .policy
                .map_or_else(|| "none".to_owned(), |least| format!("version {least} or newer")),
        ),
        (
            "operator's private key",
            if trust.operator_key_here {
                "on this master: decnet key offline FILE moves it away".to_owned()
            } else {
                "elsewhere".to_owned()
            },
        ),
    ]))?;
    console.print(&table(["KEY", "IS", "UNTIL"], rows))
}

fn private_key(file: &Path) -> Result<SigningKey, Failure> {
    signing_key(file).map_err(|error| Failure::Failed(format!("no operator's key: {}", chain(&error))))
}

pub(super) fn read_envelope(file: &Path) -> Result<Envelope, Failure> {
    let bytes =
        files::read_capped(file, limits::ENROLMENT).map_err(|error| Failure::Failed(chain(&error)))?;
    Envelope::parse(&bytes, limits::ENROLMENT)
        .map_err(|error| Failure::refused(format!("{}: {}", file.display(), chain(&error))))
}

pub(super) fn write_new(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if file.exists() {
        return Err(Failure::Usage(format!(
            "{} is there already: name a new file",
            file.display()
        )));
    }
    files::write_private(file, bytes).map_err(|error| Failure::Failed(chain(&error)))
}
