//! The trust root as this host believes it: whose signatures count, and which authority stands behind the
//! master's listeners.

use std::num::NonZeroUsize;

use decnet_pki::certificate::{CaCertificate, CertificateError};
use decnet_pki::digest::Sha256Digest;
use decnet_pki::envelope::{Envelope, ParseError, VerifyError};
use decnet_pki::key::{KeyError, PublicKey};
use decnet_wire::ids::{Digest, FleetId, Timestamp};
use decnet_wire::limits;
use decnet_wire::trust::{PAYLOAD_TYPE, SCHEMA, TrustRoot};

/// A trust root whose own operators signed it.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    pub(crate) fleet: FleetId,
    pub(crate) epoch: u64,
    pub(crate) online_key: PublicKey,
    pub(crate) online_key_expires_at: Timestamp,
    pub(crate) authorities: Vec<CaCertificate>,
}

/// The trust root cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("the trust root is not a signed document")]
    Parse(#[source] ParseError),
    #[error("the trust root is not the one that the token pins: it is {found}, the token says {pinned}")]
    Pin { pinned: Digest, found: Digest },
    #[error("the trust root's threshold of {0} signatures makes no sense")]
    Threshold(u32),
    #[error("the trust root is not signed by its own operators")]
    Signature(#[source] VerifyError),
    #[error("the trust root is not a document that this agent knows")]
    Malformed(#[source] serde_json::Error),
    #[error("the trust root is of version {0}, this agent knows version {SCHEMA}")]
    Schema(u32),
    #[error("a key in the trust root cannot be read")]
    Key(#[source] KeyError),
    #[error("a CA certificate in the trust root cannot be read")]
    Authority(#[source] CertificateError),
}

impl Trust {
    /// Reads a trust root and checks it against its own operator keys and, where there is one, the pin.
    ///
    /// Which keys to check with stands in the document itself. That proves nothing about a document from
    /// nowhere: the pin, or having been checked with it before, is what makes it believable.
    pub(crate) fn read(envelope: &serde_json::Value, pin: Option<&Digest>) -> Result<Self, TrustError> {
        // Writing a JSON value that was just read cannot fail; an empty text is no envelope.
        let bytes = serde_json::to_vec(envelope).unwrap_or_default();
        let envelope = Envelope::parse(&bytes, limits::ENROLMENT).map_err(TrustError::Parse)?;
        let digest = wire_digest(&envelope.digest());
        if let Some(pinned) = pin.filter(|pinned| **pinned != digest) {
            return Err(TrustError::Pin {
                pinned: pinned.clone(),
                found: digest,
            });
        }
        let claimed: TrustRoot =
            serde_json::from_slice(envelope.unverified_payload()).map_err(TrustError::Malformed)?;
        if claimed.schema != SCHEMA {
            return Err(TrustError::Schema(claimed.schema));
        }
        let operators = claimed
            .operator_keys
            .iter()
            .map(|key| key.parse())
            .collect::<Result<Vec<PublicKey>, _>>()
            .map_err(TrustError::Key)?;
        let threshold = usize::try_from(claimed.threshold)
            .ok()
            .and_then(NonZeroUsize::new)
            .ok_or(TrustError::Threshold(claimed.threshold))?;
        let verified = envelope
            .verify(PAYLOAD_TYPE, &operators, threshold)
            .map_err(TrustError::Signature)?;
        // From here on only what was verified counts.
        let root: TrustRoot = serde_json::from_slice(verified.bytes()).map_err(TrustError::Malformed)?;
        Ok(Self {
            fleet: root.fleet,
            epoch: root.epoch,
            online_key: root.online_key.parse().map_err(TrustError::Key)?,
            online_key_expires_at: root.online_key_expires_at,
            authorities: root
                .ca_certificates
                .iter()
                .map(|pem| CaCertificate::from_pem(pem))
                .collect::<Result<_, _>>()
                .map_err(TrustError::Authority)?,
        })
    }
}

/// The same digest in the wire's form.
pub(crate) fn wire_digest(digest: &Sha256Digest) -> Digest {
    Digest::from_sha256(*digest.as_bytes())
}
