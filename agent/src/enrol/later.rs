//! Enrolment of a host that cannot reach its master yet: the token is kept, and the agent that runs uses it.
//!
//! Guarantees: the token lies in the state folder, for root alone, and is gone once it was used or is worth nothing. What
//! counts for an enrolment by hand counts here: the host's key is made on the host, and nothing is written before the
//! master's answer is proven. Who answers in the master's place without its CA gets nothing and changes nothing.

use std::path::Path;
use std::time::Duration;

use decnet_pki::files;
use decnet_pki::secret::SecretText;
use decnet_wire::ids::Digest;
use tokio_util::sync::CancellationToken;

use super::{EnrolError, Existing, LONGEST_TOKEN, enrol_over, parse_token, standing};
use crate::backoff::{Backoff, seeded_by_the_system};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::error::error_chain;
use crate::identity::IdentityError;
use crate::supervisor::Supervisor;

const FILE: &str = "enrolling.token";

/// Between how many seconds the master is looked for. A host that is carried to its place works soon after it is there.
const LOOK: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];
/// How often the service manager hears that this is alive.
const ALIVE: Duration = Duration::from_secs(10);

/// What became of a kept token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Enrolled,
    /// There is none.
    NoToken,
    /// The agent is to end.
    Stopped,
}

/// Keeps a token until [`use_kept`] uses it. One that is there is replaced.
///
/// # Errors
/// It is no token, or has expired; the host is enrolled; the state folder cannot be used.
pub(crate) fn keep(text: &str, config: &Config) -> Result<(), EnrolError> {
    let token = parse_token(text)?;
    if token.expires_at <= SystemClock.now() {
        return Err(EnrolError::Expired(token.expires_at));
    }
    files::create_private_dir(&config.state_dir).map_err(EnrolError::StateDir)?;
    standing(config, Existing::Keep)?;
    let path = config.state_dir.join(FILE);
    files::write_private(&path, text.trim().as_bytes())
        .map_err(|error| EnrolError::Identity(IdentityError::Write(error)))
}

/// Where the master of the token is that is kept; none where none is.
pub(crate) fn kept_for(config: &Config) -> Option<String> {
    let text = kept(&config.state_dir).ok()??;
    Some(parse_token(text.reveal()).ok()?.enrol_at)
}

/// Removes a token that was used, or is worth nothing.
pub(crate) fn forget(state_dir: &Path) -> Result<(), IdentityError> {
    let path = state_dir.join(FILE);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(IdentityError::Remove { path, source })
        }
        _ => Ok(()),
    }
}

/// Enrols with the token that is kept, however long the master cannot be reached.
///
/// # Errors
/// The token is worth nothing any more, as the master or its end says: it is gone, and somebody has to bring another one.
pub(crate) async fn use_kept(
    config: &Config,
    supervisor: &Supervisor,
    shutdown: &CancellationToken,
) -> Result<Outcome, EnrolError> {
    let Some(token) = kept(&config.state_dir)? else {
        return Ok(Outcome::NoToken);
    };
    // Whoever started this need not wait for the master.
    supervisor.ready("waiting for the master, to enrol this host");
    let told = supervisor.clone();
    let enrolling = tries(token.reveal(), config, supervisor);
    let alive = async {
        loop {
            told.alive();
            tokio::time::sleep(ALIVE).await;
        }
    };
    tokio::select! {
        outcome = enrolling => outcome.map(|()| Outcome::Enrolled),
        () = alive => Ok(Outcome::Stopped),
        () = shutdown.cancelled() => Ok(Outcome::Stopped),
    }
}

async fn tries(token: &str, config: &Config, supervisor: &Supervisor) -> Result<(), EnrolError> {
    let [soonest, latest] = LOOK;
    let mut backoff = Backoff::new(soonest, latest, seeded_by_the_system());
    let mut waits = |key: &Digest| {
        let text = format!("waiting for an operator's approval of this host's fingerprint {key}");
        tracing::info!("{text}: run `decnet host approve` at the master");
        supervisor.status(&text);
    };
    loop {
        let error = match enrol_over(token, config, Existing::Keep, &mut waits).await {
            Ok(enrolled) => {
                tracing::info!(host = %enrolled.host, "enrolled as {}", enrolled.name);
                return Ok(());
            }
            Err(error) => error,
        };
        if is_final(&error) {
            forget(&config.state_dir).map_err(EnrolError::Identity)?;
            return Err(error);
        }
        let (pause, said) = (backoff.next(), error_chain(&error));
        tracing::warn!(
            pause_ms = pause.as_millis(),
            "this host is not enrolled yet: {said}"
        );
        supervisor.status(&format!("waiting for the master, to enrol this host: {said}"));
        tokio::time::sleep(pause).await;
    }
}

/// Whether another try with this token can come to nothing else. Only the master itself may say so: who is in its way has
/// no part in it.
fn is_final(error: &EnrolError) -> bool {
    match error {
        EnrolError::Token { .. }
        | EnrolError::Address(_)
        | EnrolError::Expired(_)
        | EnrolError::NotApproved(_)
        | EnrolError::AlreadyEnrolled { .. } => true,
        EnrolError::Ask(error) => error.is_refusal(),
        _ => false,
    }
}

fn kept(state_dir: &Path) -> Result<Option<SecretText>, EnrolError> {
    let path = state_dir.join(FILE);
    if !path.try_exists().unwrap_or(true) {
        return Ok(None);
    }
    let bytes = files::read_private(&path, LONGEST_TOKEN)
        .map_err(|error| EnrolError::Identity(IdentityError::Read(error)))?;
    // What is no text is no token, and is told as that.
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned().into()))
}
