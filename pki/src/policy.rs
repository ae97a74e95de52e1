//! Policies: what the operators allow, checked in the same way by agents and by the master.
//!
//! Rules and their source (The Update Framework, specification 1.0.34, of which a policy is closest to `targets`; DSSE
//! v1 `protocol.md`):
//!
//! | rule | source | the threat it answers |
//! | --- | --- | --- |
//! | no more bytes than a policy may have are parsed | TUF §5.6.1 | endless data |
//! | a threshold of the operators of the root in force has signed it | TUF §5.6.3; DSSE, "Verification" and "(t, n)-ENVELOPE" | arbitrary software |
//! | the type that was signed is a policy's | DSSE, "PAE" | type confusion |
//! | only verified bytes are parsed, and they name the fleet and the host | DSSE, "Verification"; this project | mix and match, another host's policy |
//! | it has not expired | TUF §5.6.5 | freeze |
//! | its version is not lower than the one that is held | TUF §5.6.4 | rollback |
//! | its version is not far beyond it | this project (TUF §6.1 recovers from it instead) | fast-forward |
//! | the same version with other bytes is told apart | this project | equivocation |
//!
//! That a policy is kept from a host altogether is answered by the least version that the trust root asks for
//! ([`decnet_wire::trust::TrustRoot::policy`]).

use decnet_wire::ids::{FleetId, HostId, Timestamp};
use decnet_wire::limits;
use decnet_wire::policy::{PAYLOAD_TYPE, Policy, SCHEMA};

use crate::digest::Sha256Digest;
use crate::document::{self, ReadError};
use crate::envelope::{Envelope, ParseError, VerifyError};
use crate::root::Root;

/// How far ahead of the one that is held a policy may be. The version that an operator's tool signs is one more than
/// what a master told it; without a bound one lie would use up the numbers.
const MAX_JUMP: u64 = 1 << 20;

/// A policy that the operators signed.
#[derive(Debug, Clone)]
pub struct SignedPolicy {
    envelope: Envelope,
    document: Policy,
}

impl SignedPolicy {
    /// Believes a policy, or says why not. `host` is whom it has to name, none for a master, which hands it on; `held`
    /// is the newest that was believed before.
    ///
    /// # Errors
    /// [`PolicyError`]: nothing of it is to be believed then.
    pub fn admit(
        bytes: &[u8],
        root: &Root,
        host: Option<HostId>,
        held: Option<&Self>,
        now: Timestamp,
    ) -> Result<Self, PolicyError> {
        let envelope = Envelope::parse(bytes, limits::POLICY).map_err(PolicyError::Envelope)?;
        root.operators()
            .verify(&envelope, PAYLOAD_TYPE)
            .map_err(PolicyError::Signatures)?;
        let found = Self::read(envelope)?;
        let document = &found.document;
        if document.fleet != root.fleet() {
            return Err(PolicyError::Fleet {
                own: root.fleet(),
                found: document.fleet,
            });
        }
        if let Some(host) = host.filter(|host| !document.names(*host)) {
            return Err(PolicyError::Host(host));
        }
        if document.expires_at <= now {
            return Err(PolicyError::Expired {
                at: document.expires_at,
                now,
            });
        }
        let known = held.map_or(0, Self::version);
        if document.version < known {
            return Err(PolicyError::Rollback {
                known,
                found: document.version,
            });
        }
        if held.is_some_and(|held| held.version() == found.version() && held.digest() != found.digest()) {
            return Err(PolicyError::Equivocation(known));
        }
        if document.version - known > MAX_JUMP {
            return Err(PolicyError::FastForward {
                known,
                found: document.version,
            });
        }
        Ok(found)
    }

    /// A policy that was believed before and has been kept where nobody else writes. Its signatures are not looked at:
    /// its operators may have been replaced since.
    ///
    /// # Errors
    /// It is damaged.
    pub fn stored(bytes: &[u8]) -> Result<Self, PolicyError> {
        Self::read(Envelope::parse(bytes, limits::POLICY).map_err(PolicyError::Envelope)?)
    }

    fn read(envelope: Envelope) -> Result<Self, PolicyError> {
        let document = document::read(envelope.unverified_payload(), SCHEMA)?;
        Ok(Self { envelope, document })
    }

    /// The signed document.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// What it says.
    #[must_use]
    pub fn document(&self) -> &Policy {
        &self.document
    }

    /// Strictly increasing over the fleet.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.document.version
    }

    /// Of what was signed.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.envelope.digest()
    }

    /// Whether it is this fleet's and names this host.
    #[must_use]
    pub fn is_for(&self, fleet: FleetId, host: HostId) -> bool {
        self.document.fleet == fleet && self.document.names(host)
    }
}

/// A policy that cannot be believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Too long, or no envelope.
    #[error("the policy is not a signed document")]
    Envelope(#[source] ParseError),
    /// Too few of the operators have signed it, or it is a document of another kind.
    #[error("the policy is not signed by the operators of the trust root in force")]
    Signatures(#[source] VerifyError),
    /// The payload is no policy.
    #[error("the policy is not a document that this version knows")]
    Malformed(#[source] serde_json::Error),
    /// Of another form.
    #[error("the policy is of form {0}, this version knows form {SCHEMA}")]
    Schema(u32),
    /// Another fleet's.
    #[error("the policy is of fleet {found}, this is {own}")]
    Fleet {
        /// The fleet that it should be of.
        own: FleetId,
        /// The fleet that it is of.
        found: FleetId,
    },
    /// Not for this host.
    #[error("the policy does not name host {0}")]
    Host(HostId),
    /// Past its end.
    #[error("the policy expired at {at}, it is {now}")]
    Expired {
        /// When it did.
        at: Timestamp,
        /// The time that counts.
        now: Timestamp,
    },
    /// Older than what is held.
    #[error("the policy has version {found}, version {known} is held")]
    Rollback {
        /// The version that is held.
        known: u64,
        /// The version that came.
        found: u64,
    },
    /// So far ahead that few could follow.
    #[error("the policy has version {found}, too far ahead of {known}")]
    FastForward {
        /// The version that is held.
        known: u64,
        /// The version that came.
        found: u64,
    },
    /// Two policies of one version.
    #[error("version {0} of the policy is held with other content: the operators signed two of them")]
    Equivocation(u64),
}

impl From<ReadError> for PolicyError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Malformed(error) => Self::Malformed(error),
            ReadError::Schema(found) => Self::Schema(found),
        }
    }
}
