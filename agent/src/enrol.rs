//! Enrolment: from a one-shot token to an identity.
//!
//! Flow: read the token → make the key (or take the one that an interrupted try left) → ask the master over
//! TLS that the token's CA pin vouches for → check everything in the answer → write the identity.
//!
//! Guarantees: the key never leaves the host. Nothing is written before all of it holds, and an identity
//! that is there stays whole until then. A try that broke off anywhere can be repeated with the same token.

pub(crate) mod later;

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use decnet_pki::certificate::CaPin;
use decnet_pki::csr::{self, CsrError};
use decnet_pki::digest::Sha256Digest;
use decnet_pki::files::{self, FileError};
use decnet_pki::key::HostKey;
use decnet_pki::secret::Secret;
use decnet_pki::tls::{self, TlsError};
use decnet_wire::enrol::{EnrolRequest, EnrolResponse, SCHEMA, Token};
use decnet_wire::ids::{Digest, FleetId, HostId, HostName, Timestamp};
use decnet_wire::limits;
use http::StatusCode;

use crate::certificate::{self, CheckError};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, HostPort, HostPortError};
use crate::error::error_chain;
use crate::identity::{Identity, IdentityError, PendingKey, Stored};
use crate::ledger::{Ledger, LedgerError};
use crate::link::{self, Link, LinkError, Wait};
use crate::trust::{self, TrustError, wire_digest};

const PREFIX: &str = "decnet1.";
/// The longest token, in characters.
pub const LONGEST_TOKEN: usize = 8 * 1024;

/// How often it is asked whether an operator has approved.
const APPROVAL: Duration = Duration::from_secs(3);

/// What an enrolment gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    pub fleet: FleetId,
    pub host: HostId,
    pub name: HostName,
    /// Where the agent will pull from.
    pub agent_api: String,
    /// Whether the master has its deckies on ipvlan.
    pub ipvlan: bool,
    pub certificate_ends_at: Timestamp,
}

/// What to do when the state folder holds an identity already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Leave it and fail.
    #[default]
    Keep,
    /// Replace it, once the new one is good.
    Replace,
}

/// Why an enrolment did not come about. Nothing was changed but the pending key.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("the token is not a DECNET token: {why}; copy it whole, from {PREFIX:?} to its end")]
    Token { why: &'static str },
    #[error("the token expired at {0}; make a new one at the master")]
    Expired(Timestamp),
    #[error("the token's address is not usable")]
    Address(#[source] HostPortError),
    #[error("this host is enrolled already as {name} ({host}); --force replaces that")]
    AlreadyEnrolled { name: HostName, host: HostId },
    #[error("the state folder cannot be used")]
    StateDir(#[source] FileError),
    #[error("the host key or the identity cannot be used")]
    Identity(#[source] IdentityError),
    #[error("the ledger of the identity before cannot be put away; stop the agent first")]
    Ledger(#[source] LedgerError),
    #[error("cannot put {path} away")]
    PutAway {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the certificate request cannot be made")]
    Csr(#[source] CsrError),
    #[error("cannot speak TLS")]
    Tls(#[source] TlsError),
    #[error("the master cannot be asked")]
    Ask(#[source] LinkError),
    #[error("the request or the answer is not what this agent knows")]
    Document(#[source] serde_json::Error),
    #[error("nobody approved of this host before its token ended at {0}; make a new one at the master")]
    NotApproved(Timestamp),
    #[error("the answer is wrong and was not believed: {0}")]
    Answer(String),
    #[error("the answer's trust root was not believed")]
    Trust(#[source] TrustError),
    #[error("the answer's certificate was not believed")]
    Certificate(#[source] CheckError),
}

/// Spends a token: makes this host the one that it names. An identity that is there is kept.
///
/// # Errors
/// [`EnrolError`]; trying again with the same token is always safe.
pub async fn enrol(token: &str, config: &Config) -> Result<Enrolled, EnrolError> {
    enrol_over(token, config, Existing::Keep, &mut |_| {}).await
}

/// As [`enrol`], and says what to do with an identity that is there. `waits` is called once, with the fingerprint of this
/// host's key, if an operator has to approve of it first.
///
/// # Errors
/// As for [`enrol`].
pub async fn enrol_over(
    token: &str,
    config: &Config,
    existing: Existing,
    waits: &mut (dyn FnMut(&Digest) + Send),
) -> Result<Enrolled, EnrolError> {
    enrol_at(token, config, existing, &SystemClock, waits).await
}

/// As [`enrol_over`], by the given clock. Only the TLS handshake asks the system's.
pub(crate) async fn enrol_at(
    token: &str,
    config: &Config,
    existing: Existing,
    clock: &dyn Clock,
    waits: &mut (dyn FnMut(&Digest) + Send),
) -> Result<Enrolled, EnrolError> {
    let token = parse_token(token)?;
    if token.expires_at <= clock.now() {
        return Err(EnrolError::Expired(token.expires_at));
    }
    let enrol_at: HostPort = token.enrol_at.parse().map_err(EnrolError::Address)?;
    files::create_private_dir(&config.state_dir).map_err(EnrolError::StateDir)?;
    let before = standing(config, existing)?;
    let key = PendingKey::Enrolment
        .get(&config.state_dir)
        .map_err(EnrolError::Identity)?;
    let mut told = false;
    let response = loop {
        match ask(&token, enrol_at.clone(), &key).await {
            Ok(Some(response)) => break response,
            Ok(None) if !std::mem::replace(&mut told, true) => waits(&wire_digest(key.digest().sha256())),
            Ok(None) => {}
            // A master that is started anew has not forgotten who waits.
            Err(EnrolError::Ask(error)) if told && error.may_pass() => {
                tracing::warn!("the master does not answer: {}", error_chain(&error));
            }
            Err(error) => return Err(error),
        }
        if token.expires_at <= clock.now() {
            return Err(EnrolError::NotApproved(token.expires_at));
        }
        tokio::time::sleep(APPROVAL).await;
    };
    let (stored, enrolled) = check(&token, &key, response, clock.now())?;
    if before != Some(enrolled.host) {
        put_ledger_away(config, clock.now())?;
    }
    Identity::store(&config.state_dir, &stored).map_err(EnrolError::Identity)?;
    later::forget(&config.state_dir).map_err(EnrolError::Identity)?;
    Ok(enrolled)
}

/// The host that is enrolled here, if that may be replaced.
fn standing(config: &Config, existing: Existing) -> Result<Option<HostId>, EnrolError> {
    match Identity::load(&config.state_dir) {
        Ok(identity) if existing == Existing::Keep => Err(EnrolError::AlreadyEnrolled {
            name: identity.name,
            host: identity.host,
        }),
        Ok(identity) => Ok(Some(identity.host)),
        Err(IdentityError::NotEnrolled { .. }) => Ok(None),
        Err(_) if existing == Existing::Replace => Ok(None),
        Err(error) => Err(EnrolError::Identity(error)),
    }
}

/// What this host is enrolled as, where that is the host that the token is for: who runs a command once more with a token
/// that was used has what he asked for.
pub(crate) fn done_before(token: &str, config: &Config) -> Option<Enrolled> {
    let token = parse_token(token).ok()?;
    let identity = Identity::load(&config.state_dir).ok()?;
    (identity.host == token.host).then(|| Enrolled {
        fleet: identity.fleet,
        host: identity.host,
        name: identity.name.clone(),
        agent_api: identity.agent_api.to_string(),
        ipvlan: identity.network.ipvlan,
        certificate_ends_at: Timestamp::new(identity.leaf.not_after()),
    })
}

/// Reads the text that an operator carries.
pub(crate) fn parse_token(text: &str) -> Result<Token, EnrolError> {
    let text = text.trim();
    if text.len() > LONGEST_TOKEN {
        return Err(EnrolError::Token {
            why: "it is too long",
        });
    }
    let body = text.strip_prefix(PREFIX).ok_or(EnrolError::Token {
        why: "it starts with something else",
    })?;
    let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| EnrolError::Token {
        why: "it holds characters that no token has, or ends early",
    })?;
    let token: Token = serde_json::from_slice(&json).map_err(|_| EnrolError::Token {
        why: "its content is cut off or changed",
    })?;
    if token.schema != SCHEMA {
        return Err(EnrolError::Token {
            why: "it is of a version that this agent does not know",
        });
    }
    if token.secret.parse::<Secret>().is_err() {
        return Err(EnrolError::Token {
            why: "its secret is not whole",
        });
    }
    Ok(token)
}

/// None while it waits for approval.
async fn ask(token: &Token, at: HostPort, key: &HostKey) -> Result<Option<EnrolResponse>, EnrolError> {
    let request = EnrolRequest {
        schema: SCHEMA,
        host: token.host,
        secret: token.secret.clone(),
        csr: csr::create(key).map_err(EnrolError::Csr)?,
        agent_version: crate::VERSION.to_owned(),
    };
    let body = serde_json::to_vec(&request).map_err(EnrolError::Document)?;
    let request = link::post("/enroll/v1", body).map_err(EnrolError::Ask)?;
    let config = tls::pinned_client_config(pin(token)).map_err(EnrolError::Tls)?;
    let mut link = Link::new(at, link::fixed(config)).map_err(EnrolError::Ask)?;
    let accepted = [StatusCode::OK, StatusCode::CREATED, StatusCode::ACCEPTED];
    let (status, body) = link
        .exchange(&request, &accepted, limits::ENROLMENT, Wait::USUAL)
        .await
        .map_err(EnrolError::Ask)?;
    if status == StatusCode::ACCEPTED {
        return Ok(None);
    }
    serde_json::from_slice(&body)
        .map(Some)
        .map_err(EnrolError::Document)
}

/// Believes nothing of the answer that the token, our key or a signature does not vouch for.
fn check(
    token: &Token,
    key: &HostKey,
    response: EnrolResponse,
    now: Timestamp,
) -> Result<(Stored, Enrolled), EnrolError> {
    let wrong = |what: String| Err(EnrolError::Answer(what));
    if response.schema != SCHEMA {
        return wrong(format!(
            "it is of version {}, this agent knows version {SCHEMA}",
            response.schema
        ));
    }
    if response.host != token.host {
        return wrong(format!(
            "it is for host {}, the token is for {}",
            response.host, token.host
        ));
    }
    let root = trust::pinned(&response.trust_root, &token.root_pin).map_err(EnrolError::Trust)?;
    if response.fleet != root.fleet() {
        return wrong(format!(
            "it names fleet {}, its trust root {}",
            response.fleet,
            root.fleet()
        ));
    }
    if root.online_key_expires_at() <= now {
        return wrong(format!(
            "the master's signing key expired at {}",
            root.online_key_expires_at()
        ));
    }
    if !root
        .authorities()
        .iter()
        .any(|authority| authority.pin() == pin(token))
    {
        return wrong("its trust root does not hold the authority that the token pins".to_owned());
    }
    let leaf = certificate::check(&response.certificate, key, response.host, &root, now)
        .map_err(EnrolError::Certificate)?;
    let agent_api: HostPort = response.agent_api.parse().map_err(EnrolError::Address)?;
    let enrolled = Enrolled {
        fleet: response.fleet,
        host: response.host,
        name: response.name.clone(),
        agent_api: agent_api.to_string(),
        ipvlan: response.network.ipvlan,
        certificate_ends_at: Timestamp::new(leaf.not_after()),
    };
    let stored = Stored {
        schema: Stored::SCHEMA,
        fleet: response.fleet,
        host: response.host,
        name: response.name,
        agent_api: response.agent_api,
        network: response.network,
        certificate: response.certificate,
        key: key.to_pkcs8_pem().to_string(),
        trust_root: response.trust_root,
        enrol_at: Some(token.enrol_at.clone()),
        previous: None,
    };
    Ok((stored, enrolled))
}

fn pin(token: &Token) -> CaPin {
    // A wire digest is 64 hexadecimal digits; were it not, the pin of nothing matches no certificate.
    CaPin::from(
        token
            .ca_pin
            .as_str()
            .parse()
            .unwrap_or_else(|_| Sha256Digest::of(b"")),
    )
}

/// A ledger belongs to one host identity: its generations and sequence numbers mean nothing under another.
fn put_ledger_away(config: &Config, now: Timestamp) -> Result<(), EnrolError> {
    let path = config.ledger_path();
    if !path.exists() {
        return Ok(());
    }
    // Opening it proves that no agent works with it.
    match Ledger::open(&path, now) {
        Ok(opened) => drop(opened),
        Err(error @ LedgerError::Held { .. }) => return Err(EnrolError::Ledger(error)),
        // Unreadable as well is fine for putting it away.
        Err(_) => {}
    }
    let mut aside = path.clone().into_os_string();
    aside.push(format!(".before-{}", now.to_string().replace(':', "")));
    std::fs::rename(&path, aside).map_err(|source| EnrolError::PutAway { path, source })
}
