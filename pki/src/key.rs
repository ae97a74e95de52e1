//! Keys.
//!
//! Two kinds, never mixed: [`SigningKey`] (Ed25519) signs documents in envelopes and never speaks TLS;
//! [`HostKey`] (ECDSA P-256) is the key of one host or server, which TLS needs and which never leaves the
//! machine it was made on.

mod host;
mod signing;

pub use host::{HostKey, HostPublicKey, KeyDigest};
pub use signing::{PublicKey, SigningKey};

/// What went wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The system gave no randomness.
    #[error("cannot generate a key: the system's random source failed")]
    Generate,
    /// A private key's PEM text or its content cannot be used.
    #[error("cannot read the {kind} private key: {reason}")]
    ReadPrivate {
        /// `Ed25519` or `P-256`.
        kind: &'static str,
        /// What is wrong with it; never any part of the key.
        reason: String,
    },
    /// A public key cannot be used.
    #[error("cannot read the {kind} public key: {reason}")]
    ReadPublic {
        /// `Ed25519` or `P-256`.
        kind: &'static str,
        /// What was expected instead.
        reason: &'static str,
    },
    /// The P-256 signature could not be made; only a failing random source does that.
    #[error("cannot sign: the system's random source failed")]
    Sign,
    /// A signature does not belong to this key and these bytes.
    #[error("the signature does not match the key and the content")]
    Verify,
}

impl KeyError {
    fn read_private(kind: &'static str, reason: &impl ToString) -> Self {
        Self::ReadPrivate {
            kind,
            reason: reason.to_string(),
        }
    }
}
