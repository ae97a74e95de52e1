//! The tombstone: signed with the host's own key, and sent to the enrolment listener, which asks for no certificate. The
//! host's own may have ended, or be believed no more.

use decnet_pki::envelope::ParseError;
use decnet_pki::key::KeyError;
use decnet_pki::order::{OrderError, SignedDecommission, sign_tombstone};
use decnet_pki::tls::{self, TlsError};
use decnet_wire::ids::Timestamp;
use decnet_wire::limits;
use decnet_wire::order::{SCHEMA, Tombstone, TombstoneRequest};
use http::StatusCode;

use super::super::work::{Job, Work};
use super::now;
use crate::config::{HostPort, HostPortError};
use crate::identity::{Identity, IdentityError};
use crate::link::{self, Link, LinkError, Wait};
use crate::trust::{self, ROOTS_AT_ONCE, TrustError, wire_digest};

/// Where the enrolment listener is unless somebody said otherwise.
const PORT: u16 = 8771;
/// Under what trust roots are found there, by version.
const TRUST_ROOT: &str = "/enroll/v1/trust-root/";

/// The master has not taken the tombstone.
#[derive(Debug, thiserror::Error)]
pub(super) enum TellError {
    #[error("the identity cannot be used")]
    Identity(#[from] IdentityError),
    #[error("the order cannot be read")]
    Order(#[from] OrderError),
    #[error("the tombstone cannot be signed")]
    Sign(#[from] KeyError),
    #[error("the tombstone cannot be written")]
    Write(#[from] serde_json::Error),
    #[error("the tombstone is no envelope")]
    Envelope(#[from] ParseError),
    #[error("the address of the enrolment listener is none")]
    Address(#[from] HostPortError),
    #[error("cannot speak TLS")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the master's certificate is not believed, and no newer trust root leads to it")]
    Trust(#[source] TrustError),
}

impl TellError {
    /// Whether asking again is of no use.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Link(error) => error.is_final(),
            Self::Tls(_) | Self::Trust(_) => false,
            _ => true,
        }
    }
}

/// Sends it once.
pub(super) async fn send(work: &Work, job: &Job) -> Result<(), TellError> {
    let identity = Identity::load(work.path())?;
    let to = match &job.enrol_at {
        Some(at) => at.parse()?,
        None => identity.agent_api.with_port(PORT),
    };
    let request = link::post("/enroll/v1/tombstone", body(job, &identity, now())?)?;
    match post(&to, &identity, &request).await {
        Err(TellError::Link(error)) if error.is_unknown_server() => {
            // The master may have another CA by now: roots prove themselves.
            let identity = follow(&to, identity).await?;
            post(&to, &identity, &request).await
        }
        other => other,
    }
}

async fn post(
    to: &HostPort,
    identity: &Identity,
    request: &http::Request<bytes::Bytes>,
) -> Result<(), TellError> {
    let config = tls::client_config_without_certificate(identity.root.authorities())?;
    let mut link = Link::new(to.clone(), link::fixed(config))?;
    let taken = [StatusCode::OK, StatusCode::NO_CONTENT];
    link.exchange(request, &taken, limits::REPORT_ANSWER, Wait::USUAL)
        .await?;
    Ok(())
}

async fn follow(to: &HostPort, mut identity: Identity) -> Result<Identity, TellError> {
    let mut link = Link::new(to.clone(), link::fixed(tls::unverified_client_config()?))?;
    for _ in 0..ROOTS_AT_ONCE {
        match trust::fetch_next(&mut link, TRUST_ROOT, &identity.root, Wait::USUAL).await {
            Ok(Some(next)) => identity.root = next,
            Ok(None) => break,
            Err(trust::NextError::Fetch(error)) => return Err(error.into()),
            Err(trust::NextError::Refused { source, .. }) => return Err(TellError::Trust(source)),
        }
    }
    Ok(identity)
}

fn body(job: &Job, identity: &Identity, finished_at: Timestamp) -> Result<Vec<u8>, TellError> {
    let order = SignedDecommission::stored(job.order.to_string().as_bytes())?;
    let tombstone = Tombstone {
        schema: SCHEMA,
        fleet: job.fleet,
        host: job.host,
        nonce: order.document().nonce.clone(),
        order: wire_digest(&order.digest()),
        finished_at,
        removed: job.removed.iter().cloned().collect(),
        left: job.left.iter().cloned().collect(),
    };
    let envelope = sign_tombstone(&tombstone, &identity.key)?;
    let request = TombstoneRequest {
        schema: SCHEMA,
        host: job.host,
        key: identity.key.public().to_string(),
        tombstone: serde_json::from_slice(&envelope.to_json())?,
    };
    Ok(serde_json::to_vec(&request)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use decnet_pki::order::admit_tombstone;

    use super::*;
    use crate::host::work::Phase;
    use crate::testing::Signer;

    #[test]
    fn a_tombstone_answers_the_order_and_says_what_is_left() {
        let signer = Signer::new();
        let order = signer.decommission(signer.host);
        let job = Job {
            schema: Job::SCHEMA,
            fleet: signer.fleet,
            host: signer.host,
            order: serde_json::from_slice(&order).unwrap(),
            enrol_at: None,
            docker_socket: PathBuf::new(),
            state_dir: PathBuf::new(),
            program: PathBuf::new(),
            images: BTreeSet::new(),
            phase: Phase::Tombstone,
            paths: BTreeSet::new(),
            removed: BTreeSet::from(["package decnet-agent".to_owned()]),
            left: BTreeSet::from(["path /opt/decnet".to_owned()]),
            done_at: None,
        };
        let identity = Identity::from_stored(&signer.stored()).unwrap();
        let sent = body(&job, &identity, crate::testing::now()).unwrap();
        let sent: TombstoneRequest = serde_json::from_slice(&sent).unwrap();
        assert_eq!((sent.schema, sent.host), (SCHEMA, signer.host));
        assert_eq!(sent.key, signer.host_key.public().to_string());
        let keys = [*signer.host_key.public()];
        let envelope = sent.tombstone.to_string();
        let told = admit_tombstone(envelope.as_bytes(), signer.fleet, signer.host, &keys).unwrap();
        let given = SignedDecommission::stored(&order).unwrap();
        assert_eq!(told.nonce, given.document().nonce);
        assert_eq!(told.order, wire_digest(&given.digest()));
        assert_eq!(
            (told.removed, told.left),
            (
                vec!["package decnet-agent".to_owned()],
                vec!["path /opt/decnet".to_owned()]
            )
        );
    }

    #[test]
    fn a_master_that_cannot_answer_now_is_told_later() {
        let answered = |status| {
            TellError::Link(LinkError::Status {
                to: "master:8771".parse().unwrap(),
                status,
                said: None,
            })
        };
        for later in [
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::INTERNAL_SERVER_ERROR,
            StatusCode::SERVICE_UNAVAILABLE,
        ] {
            assert!(!answered(later).is_final(), "{later}");
        }
        for never in [
            StatusCode::FORBIDDEN,
            StatusCode::NOT_FOUND,
            StatusCode::UNPROCESSABLE_ENTITY,
        ] {
            assert!(answered(never).is_final(), "{never}");
        }
    }
}
