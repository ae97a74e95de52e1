//! Trust roots: who may sign what, and how the next one follows.
//!
//! Rules and their source (The Update Framework, specification 1.0.34; "§" are its sections):
//!
//! | rule | source | the threat it answers |
//! | --- | --- | --- |
//! | the first root is pinned by its digest, out of band | §5.1, §5.2 | a root from nowhere |
//! | version N+1 is signed by the thresholds of N's keys and of its own | §5.3.4 | key loss, arbitrary software |
//! | versions follow each other without a gap | §5.3.3, §5.3.5 | rollback, fast-forward |
//! | a key counts once however often it is listed, and by its bytes | §4.3 (`keyid` is computed), §5.3.4 | one key listed twice |
//! | a threshold of zero, or of more keys than there are, makes no root | §4.3 | threshold |
//! | the fleet never changes, the epoch never falls | this project | mix and match, rollback |
//!
//! A root itself does not expire; what it delegates does ([`Root::online_key_expires_at`]), so that a host that was
//! off for years can still follow the chain.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use decnet_wire::ids::{FleetId, Timestamp};
use decnet_wire::trust::{PAYLOAD_TYPE, SCHEMA, TrustRoot};

use crate::certificate::{CaCertificate, CertificateError};
use crate::digest::Sha256Digest;
use crate::envelope::{Envelope, MAX_SIGNATURES, VerifiedPayload, VerifyError};
use crate::key::{KeyError, PublicKey};

/// Most CA certificates in one root: a fleet has one, and two while it changes from one to the other.
const MAX_AUTHORITIES: usize = 8;

/// A trust root that its own operators signed, and that was pinned or follows one that was.
#[derive(Debug, Clone)]
pub struct Root {
    envelope: Envelope,
    document: TrustRoot,
    operators: Operators,
    online_key: PublicKey,
    authorities: Vec<CaCertificate>,
}

/// Whose signatures count for the operator's, and how many it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operators {
    keys: BTreeSet<PublicKey>,
    threshold: NonZeroUsize,
}

impl Operators {
    /// The keys, each once.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &PublicKey> {
        self.keys.iter()
    }

    /// Checks that enough of them signed a document of this type.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn verify(&self, envelope: &Envelope, payload_type: &str) -> Result<VerifiedPayload, VerifyError> {
        let keys: Vec<PublicKey> = self.keys.iter().copied().collect();
        envelope.verify(payload_type, &keys, self.threshold)
    }

    fn of(document: &TrustRoot) -> Result<Self, RootError> {
        let keys = document
            .operator_keys
            .iter()
            .map(|key| key.parse())
            .collect::<Result<BTreeSet<PublicKey>, _>>()
            .map_err(RootError::Key)?;
        // More keys than an envelope holds signatures could never sign all together.
        usize::try_from(document.threshold)
            .ok()
            .and_then(NonZeroUsize::new)
            .filter(|threshold| threshold.get() <= keys.len() && keys.len() <= MAX_SIGNATURES)
            .map(|threshold| Self { keys, threshold })
            .ok_or(RootError::Threshold {
                threshold: document.threshold,
                keys: document.operator_keys.len(),
            })
    }
}

impl Root {
    /// The root whose payload has this digest.
    ///
    /// # Errors
    /// It is another one, or none.
    pub fn pinned(envelope: Envelope, pin: &Sha256Digest) -> Result<Self, RootError> {
        let found = envelope.digest();
        if found != *pin {
            return Err(RootError::Pin { pinned: *pin, found });
        }
        Self::stored(envelope)
    }

    /// A root that was believed before and has been kept where nobody else writes. Which keys to check it with stands
    /// in the document itself, so that this proves nothing about a document from elsewhere.
    ///
    /// # Errors
    /// It is damaged.
    pub fn stored(envelope: Envelope) -> Result<Self, RootError> {
        let document = parse(envelope.unverified_payload())?;
        let operators = Operators::of(&document)?;
        operators
            .verify(&envelope, PAYLOAD_TYPE)
            .map_err(RootError::OwnSignatures)?;
        let online_key = document.online_key.parse().map_err(RootError::Key)?;
        if document.ca_certificates.is_empty() || document.ca_certificates.len() > MAX_AUTHORITIES {
            return Err(RootError::Authorities(document.ca_certificates.len()));
        }
        let authorities = document
            .ca_certificates
            .iter()
            .map(|pem| CaCertificate::from_pem(pem))
            .collect::<Result<_, _>>()
            .map_err(RootError::Authority)?;
        Ok(Self {
            envelope,
            document,
            operators,
            online_key,
            authorities,
        })
    }

    /// The root that follows this one.
    ///
    /// # Errors
    /// It does not: too few of this root's operators signed it, or too few of its own, or its version is not the next
    /// one, or it is another fleet's, or its epoch is lower. Nothing of it is to be believed then.
    pub fn next(&self, envelope: Envelope) -> Result<Self, RootError> {
        // Those who decide now come first: before they have signed, nothing in it is worth a look.
        self.operators
            .verify(&envelope, PAYLOAD_TYPE)
            .map_err(RootError::Signatures)?;
        let next = Self::stored(envelope)?;
        if self.document.version.checked_add(1) != Some(next.document.version) {
            return Err(RootError::Version {
                known: self.document.version,
                found: next.document.version,
            });
        }
        if next.document.fleet != self.document.fleet {
            return Err(RootError::Fleet {
                known: self.document.fleet,
                found: next.document.fleet,
            });
        }
        if next.document.epoch < self.document.epoch {
            return Err(RootError::Epoch {
                known: self.document.epoch,
                found: next.document.epoch,
            });
        }
        Ok(next)
    }

    /// The signed document.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// What it says.
    #[must_use]
    pub fn document(&self) -> &TrustRoot {
        &self.document
    }

    /// The fleet that it is about.
    #[must_use]
    pub fn fleet(&self) -> FleetId {
        self.document.fleet
    }

    /// Strictly increasing.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.document.version
    }

    /// The epoch that bundles must be of.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.document.epoch
    }

    /// Who signs the next root, policies and releases.
    #[must_use]
    pub fn operators(&self) -> &Operators {
        &self.operators
    }

    /// The master's key, which signs bundles.
    #[must_use]
    pub fn online_key(&self) -> &PublicKey {
        &self.online_key
    }

    /// When the online key's signatures stop to count.
    #[must_use]
    pub fn online_key_expires_at(&self) -> Timestamp {
        self.document.online_key_expires_at
    }

    /// Who may stand behind the master's listeners.
    #[must_use]
    pub fn authorities(&self) -> &[CaCertificate] {
        &self.authorities
    }
}

fn parse(payload: &[u8]) -> Result<TrustRoot, RootError> {
    // The version of the form is read by itself: a newer document need not parse as one of ours.
    #[derive(serde::Deserialize)]
    struct Head {
        schema: u32,
    }
    let head: Head = serde_json::from_slice(payload).map_err(RootError::Malformed)?;
    if head.schema != SCHEMA {
        return Err(RootError::Schema(head.schema));
    }
    serde_json::from_slice(payload).map_err(RootError::Malformed)
}

/// A trust root that cannot be believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// Another document than the one that was pinned.
    #[error("the trust root is not the one that is pinned: it is {found}, the pin says {pinned}")]
    Pin {
        /// What was pinned.
        pinned: Sha256Digest,
        /// The digest of what came.
        found: Sha256Digest,
    },
    /// The payload is no trust root.
    #[error("the trust root is not a document that this version knows")]
    Malformed(#[source] serde_json::Error),
    /// Of another form.
    #[error("the trust root is of form {0}, this version knows form {SCHEMA}")]
    Schema(u32),
    /// A key in it is none.
    #[error("a key in the trust root cannot be read")]
    Key(#[source] KeyError),
    /// Nobody, or more than there are, would have to sign.
    #[error("a trust root with {keys} operator keys of which {threshold} must sign makes no sense")]
    Threshold {
        /// How many must sign.
        threshold: u32,
        /// How many are listed.
        keys: usize,
    },
    /// A CA certificate in it is none.
    #[error("a CA certificate in the trust root cannot be read")]
    Authority(#[source] CertificateError),
    /// None, or too many of them.
    #[error("a trust root has 1 to {MAX_AUTHORITIES} CA certificates, not {0}")]
    Authorities(usize),
    /// Too few of the keys that it lists itself have signed it.
    #[error("the trust root is not signed by its own operators")]
    OwnSignatures(#[source] VerifyError),
    /// Too few of the keys that the known root lists have signed it.
    #[error("the next trust root is not signed by the operators of the known one")]
    Signatures(#[source] VerifyError),
    /// Not the next one.
    #[error("the trust root after version {known} has version {found}")]
    Version {
        /// The version that is known.
        known: u64,
        /// The version that came.
        found: u64,
    },
    /// Another fleet's.
    #[error("the trust root is of fleet {found}, the known one of {known}")]
    Fleet {
        /// The fleet that is known.
        known: FleetId,
        /// The fleet that came.
        found: FleetId,
    },
    /// It goes back in time.
    #[error("the trust root is of epoch {found}, the known one of {known}")]
    Epoch {
        /// The epoch that is known.
        known: u64,
        /// The epoch that came.
        found: u64,
    },
}
