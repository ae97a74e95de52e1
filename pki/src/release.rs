//! Releases of the agent: signed by the operators, checked in the same way by the master, by agents and, once more by
//! itself, by what installs them.
//!
//! | rule | the threat it answers |
//! | --- | --- |
//! | no more bytes than a release may have are parsed | endless data |
//! | a threshold of the operators of the root in force has signed it, as a release | arbitrary software, type confusion |
//! | it names the fleet | mix and match |
//! | its sequence is beyond that of what was taken before | replay |
//! | its sequence is not far beyond it | fast-forward |
//! | its version is not lower than the one that runs, unless it says that this is meant | rollback |
//! | a package has the digest and the size that are signed | tampering, endless data |
//!
//! That a release is kept from a host is not answered: a master that does so leaves it on the version that it has.

use decnet_wire::ids::HostId;
use decnet_wire::limits;
use decnet_wire::release::{PAYLOAD_TYPE, Release, SCHEMA, Version, WHOLE};

use crate::digest::Sha256Digest;
use crate::document::{self, ReadError};
use crate::envelope::{Envelope, ParseError, VerifyError};
use crate::root::Root;

/// How far beyond the one that was taken a sequence may be. What an operator's tool signs is one more than what a master
/// told it; without a bound one lie would use up the numbers.
const MAX_JUMP: u64 = 1 << 20;

/// A release that the operators signed.
#[derive(Debug, Clone)]
pub struct SignedRelease {
    envelope: Envelope,
    document: Release,
}

impl SignedRelease {
    /// Believes a release, or says why not. Whether it may be installed, [`SignedRelease::may_follow`] says.
    ///
    /// # Errors
    /// [`ReleaseError`]: nothing of it is to be believed then.
    pub fn admit(bytes: &[u8], root: &Root) -> Result<Self, ReleaseError> {
        let envelope = Envelope::parse(bytes, limits::RELEASE).map_err(ReleaseError::Envelope)?;
        root.operators()
            .verify(&envelope, PAYLOAD_TYPE)
            .map_err(ReleaseError::Signatures)?;
        let found = Self::read(envelope)?;
        if found.document.fleet != root.fleet() {
            return Err(ReleaseError::Fleet {
                own: root.fleet().to_string(),
                found: found.document.fleet.to_string(),
            });
        }
        if let Some(package) = found.document.packages.iter().find(|p| p.size > limits::PACKAGE) {
            return Err(ReleaseError::Size(package.size));
        }
        Ok(found)
    }

    /// A release that was believed before and has been kept where nobody else writes.
    ///
    /// # Errors
    /// It is damaged.
    pub fn stored(bytes: &[u8]) -> Result<Self, ReleaseError> {
        Self::read(Envelope::parse(bytes, limits::RELEASE).map_err(ReleaseError::Envelope)?)
    }

    fn read(envelope: Envelope) -> Result<Self, ReleaseError> {
        let document = document::read(envelope.unverified_payload(), SCHEMA)?;
        Ok(Self { envelope, document })
    }

    /// Whether it may take the place of what is there: `taken` is the highest sequence that was taken before, zero
    /// before the first; `version` is what is installed.
    ///
    /// # Errors
    /// [`ReleaseError::Replay`], [`ReleaseError::FastForward`], [`ReleaseError::Downgrade`].
    pub fn may_follow(&self, taken: u64, version: &Version) -> Result<(), ReleaseError> {
        let document = &self.document;
        if document.sequence <= taken {
            return Err(ReleaseError::Replay {
                taken,
                found: document.sequence,
            });
        }
        if document.sequence - taken > MAX_JUMP {
            return Err(ReleaseError::FastForward {
                taken,
                found: document.sequence,
            });
        }
        if document.version < *version && !document.downgrade {
            return Err(ReleaseError::Downgrade {
                version: version.clone(),
                found: document.version.clone(),
            });
        }
        Ok(())
    }

    /// The signed document.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// What it says.
    #[must_use]
    pub fn document(&self) -> &Release {
        &self.document
    }

    /// Strictly increasing over the fleet.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.document.sequence
    }

    /// Of what was signed.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.envelope.digest()
    }

    /// Where a host stands in the order in which hosts get this release, from 0 to below [`WHOLE`]. The host computes it by
    /// itself; with another release it stands elsewhere, so that no host is always the first.
    #[must_use]
    pub fn position(&self, host: HostId) -> u16 {
        let mut text = self.digest().as_bytes().to_vec();
        text.extend_from_slice(host.uuid().as_bytes());
        let hash = Sha256Digest::of(&text);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        // Below `WHOLE`, which is a u16.
        u16::try_from(u64::from_be_bytes(first) % u64::from(WHOLE)).unwrap_or_default()
    }
}

/// A release that cannot be believed, or must not be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// Too long, or no envelope.
    #[error("the release is not a signed document")]
    Envelope(#[source] ParseError),
    /// Too few of the operators have signed it, or it is a document of another kind.
    #[error("the release is not signed by the operators of the trust root in force")]
    Signatures(#[source] VerifyError),
    /// The payload is no release.
    #[error("the release is not a document that this version knows")]
    Malformed(#[source] serde_json::Error),
    /// Of another form.
    #[error("the release is of form {0}, this version knows form {SCHEMA}")]
    Schema(u32),
    /// Another fleet's.
    #[error("the release is of fleet {found}, this is {own}")]
    Fleet {
        /// The fleet that it should be of.
        own: String,
        /// The fleet that it is of.
        found: String,
    },
    /// A package that is longer than any may be.
    #[error("the release has a package of {0} bytes, more than any may have")]
    Size(u64),
    /// Not newer than what was taken before.
    #[error("the release has sequence {found}, sequence {taken} was taken before")]
    Replay {
        /// The highest sequence that was taken.
        taken: u64,
        /// The sequence that came.
        found: u64,
    },
    /// Too far beyond what was taken before.
    #[error("the release has sequence {found}, too far beyond {taken} that was taken before")]
    FastForward {
        /// The highest sequence that was taken.
        taken: u64,
        /// The sequence that came.
        found: u64,
    },
    /// A lower version, which nobody has said is meant.
    #[error(
        "the release is version {found}, lower than {version} that is installed, and is not signed as a downgrade"
    )]
    Downgrade {
        /// What is installed.
        version: Version,
        /// What came.
        found: Version,
    },
}

impl From<ReadError> for ReleaseError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Malformed(error) => Self::Malformed(error),
            ReadError::Schema(found) => Self::Schema(found),
        }
    }
}
