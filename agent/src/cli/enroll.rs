//! `enroll`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use decnet_pki::secret::SecretText;
use decnet_wire::ids::Digest;

use super::{Exit, Failure, written};
use crate::config::{Config, edit};
use crate::enrol::{self, EnrolError, Enrolled, Existing, LONGEST_TOKEN, later};

/// What `enroll` takes.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The token, or `-` to read it from standard input, where other users cannot see it.
    #[arg(required_unless_present = "file")]
    token: Option<SecretText>,
    /// Read the token from this file, which was carried here.
    #[arg(long, conflicts_with = "token")]
    file: Option<PathBuf>,
    /// Replace an enrolment that is there, once the new one is good.
    #[arg(long)]
    force: bool,
    /// Keep the token, and let the agent that runs use it as soon as it reaches the master.
    #[arg(long, conflicts_with = "force")]
    later: bool,
    /// Write into the settings file which driver this host's LAN wants. Where the master is asked, its word counts.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipvlan: Option<bool>,
    /// Write into the settings file whether this host installs releases of the agent by itself.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    updater: Option<bool>,
}

pub(super) async fn run(options: &Options, config: &Config, settings: &Path) -> Result<Exit, Failure> {
    let token = read_token(options.token.as_ref(), options.file.as_deref())?;
    let (said, ipvlan) = match enrol::done_before(token.reveal(), config).filter(|_| !options.force) {
        Some(enrolled) => (
            format!("enrolled already as {}", is(&enrolled)),
            Some(enrolled.ipvlan),
        ),
        None if options.later => {
            later::keep(token.reveal(), config).map_err(|error| failure(&error))?;
            let said = "the token is kept: the agent enrols this host as soon as it reaches the master";
            (said.to_owned(), None)
        }
        None => {
            let enrolled = enroll(token.reveal(), options.force, config).await?;
            (format!("enrolled as {}", is(&enrolled)), Some(enrolled.ipvlan))
        }
    };
    // Written here, because the service may write nothing below /etc.
    let asked = [
        ("ipvlan", options.ipvlan.map(|asked| ipvlan.unwrap_or(asked))),
        ("updater", options.updater),
    ];
    let keys: Vec<_> = asked
        .iter()
        .filter_map(|(key, value)| Some((*key, if (*value)? { "true" } else { "false" })))
        .collect();
    if !keys.is_empty() {
        edit::set(settings, &keys).map_err(|error| Failure::new(Exit::Failed, &error))?;
    }
    written(format!("{said}\n").as_bytes())
}

fn is(enrolled: &Enrolled) -> String {
    format!(
        "{} ({}); pulls from {}; certificate until {}",
        enrolled.name, enrolled.host, enrolled.agent_api, enrolled.certificate_ends_at
    )
}

async fn enroll(token: &str, force: bool, config: &Config) -> Result<Enrolled, Failure> {
    let existing = if force { Existing::Replace } else { Existing::Keep };
    let mut waits = |key: &Digest| {
        eprintln!(
            "waiting for an operator's approval. This host's fingerprint: {key}\nat the master: decnet host approve HOST {key}"
        );
    };
    enrol::enrol_over(token, config, existing, &mut waits)
        .await
        .map_err(|error| failure(&error))
}

fn failure(error: &EnrolError) -> Failure {
    let exit = match error {
        EnrolError::Ledger(_) => Exit::Held,
        EnrolError::Token { .. } => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, error)
}

/// The token: given, from standard input, or out of a file.
fn read_token(token: Option<&SecretText>, file: Option<&Path>) -> Result<SecretText, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::new(Exit::Failed, error);
    let mut text = String::new();
    let most = LONGEST_TOKEN as u64 + 2;
    match (token.map(SecretText::reveal), file) {
        (Some("-"), _) => std::io::stdin()
            .take(most)
            .read_to_string(&mut text)
            .map_err(|error| failed(&error))?,
        (_, Some(path)) => {
            let file = std::fs::File::open(path).map_err(|source| Failure {
                text: format!("cannot read {}: {source}", path.display()),
                exit: Exit::Usage,
            })?;
            file.take(most)
                .read_to_string(&mut text)
                .map_err(|error| failed(&error))?
        }
        (token, None) => return Ok(SecretText::from(token.unwrap_or_default().to_owned())),
    };
    Ok(text.into())
}
