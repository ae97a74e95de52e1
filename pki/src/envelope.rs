//! DSSE v1 envelopes: a payload, its type, and signatures over both.
//!
//! The specification is <https://github.com/secure-systems-lab/dsse> (`protocol.md`, `envelope.md`).
//!
//! Flow: [`Envelope::parse`] caps and decodes, [`Envelope::verify`] checks the type and counts signatures,
//! and only the [`VerifiedPayload`] it gives out should ever be interpreted.
//!
//! Guarantees: what was verified are the very bytes given out. A key counts once, however often it is listed
//! or signs, and whatever key ids stand in the envelope. A signature for one payload type is worth nothing
//! for another.

mod json;

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;

use crate::digest::Sha256Digest;
use crate::key::{HostKey, HostPublicKey, KeyError, PublicKey, SigningKey};

/// The most signatures an envelope may carry. Enough for any sensible threshold, and a bound on the work
/// that checking a hostile envelope takes.
pub const MAX_SIGNATURES: usize = 16;

/// The longest payload type, in bytes.
pub const MAX_PAYLOAD_TYPE_LEN: usize = 128;

/// The longest key id, in bytes.
pub const MAX_KEY_ID_LEN: usize = 256;

/// The longest signature, in bytes. An Ed25519 signature is 64; the rest is room for other schemes, whose
/// signatures are skipped.
const MAX_SIGNATURE_LEN: usize = 1024;

/// The bytes that are signed: type and payload, each behind its length (DSSE `protocol.md`, "PAE").
#[must_use]
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload_type.len() + payload.len() + 52);
    out.extend_from_slice(b"DSSEv1 ");
    out.extend_from_slice(payload_type.len().to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(payload_type.as_bytes());
    out.push(b' ');
    out.extend_from_slice(payload.len().to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(payload);
    out
}

/// A signed document on its way: nothing in it may be believed before [`Envelope::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

#[derive(Clone, PartialEq, Eq)]
struct Signature {
    key_id: String,
    bytes: Vec<u8>,
}

impl Envelope {
    /// Wraps `payload` and signs it with every key of `keys`, each once. [`Envelope::parse`] takes at most
    /// [`MAX_SIGNATURES`] of them, and a type of at most [`MAX_PAYLOAD_TYPE_LEN`] bytes.
    #[must_use]
    pub fn sign(payload_type: &str, payload: Vec<u8>, keys: &[&SigningKey]) -> Self {
        let mut envelope = Self {
            payload_type: payload_type.to_owned(),
            payload,
            signatures: Vec::new(),
        };
        for key in keys {
            envelope.add_signature(key);
        }
        envelope
    }

    /// Wraps `payload` and signs it with a host's key (ECDSA P-256 with SHA-256, as DER).
    ///
    /// # Errors
    /// The system's random source fails.
    pub fn sign_by_host(payload_type: &str, payload: Vec<u8>, key: &HostKey) -> Result<Self, KeyError> {
        let signature = Signature {
            key_id: key.digest().to_string(),
            bytes: key.sign_document(payload_type, &payload)?,
        };
        Ok(Self {
            payload_type: payload_type.to_owned(),
            payload,
            signatures: vec![signature],
        })
    }

    /// Adds one more signature, for thresholds whose keys are never in one place. Signing twice with one key
    /// changes nothing.
    ///
    /// Whoever signs answers for the payload: look at [`Envelope::unverified_payload`] first.
    ///
    /// # Errors
    /// [`CosignError`] when the envelope holds another type of payload, or is full.
    pub fn cosign(&mut self, payload_type: &str, key: &SigningKey) -> Result<(), CosignError> {
        if self.payload_type != payload_type {
            return Err(CosignError::PayloadType {
                expected: payload_type.to_owned(),
                found: self.payload_type.clone(),
            });
        }
        self.add_signature(key);
        if self.signatures.len() > MAX_SIGNATURES {
            self.signatures.pop();
            return Err(CosignError::Full);
        }
        Ok(())
    }

    /// Reads the JSON envelope. Both base64 alphabets are accepted, padded or not; unknown members are
    /// ignored.
    ///
    /// # Errors
    /// [`ParseError::TooLarge`] before anything is parsed when `bytes` is longer than `max_len` bytes;
    /// [`ParseError::Malformed`] when it is not an envelope or goes beyond [`MAX_SIGNATURES`],
    /// [`MAX_PAYLOAD_TYPE_LEN`] or [`MAX_KEY_ID_LEN`].
    pub fn parse(bytes: &[u8], max_len: usize) -> Result<Self, ParseError> {
        if bytes.len() > max_len {
            return Err(ParseError::TooLarge {
                len: bytes.len(),
                max_len,
            });
        }
        serde_json::from_slice(bytes).map_err(ParseError::Malformed)
    }

    /// Writes the JSON envelope, with standard padded base64.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        json::write(self)
    }

    /// The claimed type of the payload.
    #[must_use]
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The payload, before anything vouches for it: to show it to a person who is about to sign it, never to
    /// act on it.
    #[must_use]
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// SHA-256 over the payload's bytes. Signatures are not part of it: cosigning does not change the digest.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.payload)
    }

    /// Checks that the payload is a `payload_type` and that at least `threshold` different keys of `keys`
    /// signed it.
    ///
    /// # Errors
    /// [`VerifyError::PayloadType`] before any signature is looked at; [`VerifyError::NotEnoughSignatures`]
    /// otherwise.
    pub fn verify(
        &self,
        payload_type: &str,
        keys: &[PublicKey],
        threshold: NonZeroUsize,
    ) -> Result<VerifiedPayload, VerifyError> {
        if self.payload_type != payload_type {
            return Err(VerifyError::PayloadType {
                expected: payload_type.to_owned(),
                found: self.payload_type.clone(),
            });
        }
        let signed = pre_authentication_encoding(&self.payload_type, &self.payload);
        // A set of key bytes: listing a key twice, or under two ids, adds nothing.
        let known: BTreeSet<PublicKey> = keys.iter().copied().collect();
        let signers: Vec<PublicKey> = known
            .into_iter()
            .filter(|key| {
                self.signatures
                    .iter()
                    .any(|signature| key.verify(&signed, &signature.bytes).is_ok())
            })
            .collect();
        if signers.len() < threshold.get() {
            return Err(VerifyError::NotEnoughSignatures {
                valid: signers.len(),
                threshold: threshold.get(),
            });
        }
        Ok(VerifiedPayload {
            payload_type: self.payload_type.clone(),
            bytes: self.payload.clone(),
            signers,
        })
    }

    /// Checks that the payload is a `payload_type` and that one of these hosts' keys signed it.
    ///
    /// # Errors
    /// As [`Envelope::verify`].
    pub fn verify_by_host(&self, payload_type: &str, keys: &[HostPublicKey]) -> Result<(), VerifyError> {
        if self.payload_type != payload_type {
            return Err(VerifyError::PayloadType {
                expected: payload_type.to_owned(),
                found: self.payload_type.clone(),
            });
        }
        let signed = |key: &HostPublicKey| {
            let mut signatures = self.signatures.iter();
            signatures.any(|signature| {
                key.verify_document(payload_type, &self.payload, &signature.bytes)
                    .is_ok()
            })
        };
        if keys.iter().any(signed) {
            return Ok(());
        }
        Err(VerifyError::NotEnoughSignatures {
            valid: 0,
            threshold: 1,
        })
    }

    fn add_signature(&mut self, key: &SigningKey) {
        let bytes = key
            .sign(&pre_authentication_encoding(&self.payload_type, &self.payload))
            .to_vec();
        // Ed25519 is deterministic: a key signs the same bytes the same way again. The key id is not asked,
        // for a wrong one in a hostile envelope would throw out somebody else's signature.
        if !self.signatures.iter().any(|signature| signature.bytes == bytes) {
            self.signatures.push(Signature {
                key_id: key.public().key_id(),
                bytes,
            });
        }
    }
}

/// Proof that enough keys signed these bytes as this type. [`Envelope::verify`] is the only way to one.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedPayload {
    payload_type: String,
    bytes: Vec<u8>,
    signers: Vec<PublicKey>,
}

impl VerifiedPayload {
    /// The type that was verified.
    #[must_use]
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The very bytes that were signed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The keys whose signatures hold, each once, in byte order.
    #[must_use]
    pub fn signers(&self) -> &[PublicKey] {
        &self.signers
    }

    /// SHA-256 over [`VerifiedPayload::bytes`].
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.bytes)
    }
}

// Payloads may be megabytes: a log line names them by digest.
impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("payload_type", &self.payload_type)
            .field("payload", &self.digest())
            .field("signatures", &self.signatures.len())
            .finish()
    }
}

impl fmt::Debug for VerifiedPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedPayload")
            .field("payload_type", &self.payload_type)
            .field("payload", &self.digest())
            .field("signers", &self.signers)
            .finish()
    }
}

/// The bytes are not an envelope.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Refused by length alone.
    #[error("the envelope is {len} bytes long, more than the {max_len} allowed")]
    TooLarge {
        /// Bytes received.
        len: usize,
        /// Bytes allowed.
        max_len: usize,
    },
    /// Not the JSON of a DSSE envelope within its caps.
    #[error("not a DSSE envelope")]
    Malformed(#[source] serde_json::Error),
}

/// The envelope must not be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It holds another kind of document.
    #[error("expected a payload of type {expected:?}, found {found:?}")]
    PayloadType {
        /// What the caller asked for.
        expected: String,
        /// What the envelope claims.
        found: String,
    },
    /// Too few of the known keys signed it.
    #[error("{valid} of the known keys signed the payload, {threshold} must")]
    NotEnoughSignatures {
        /// How many different known keys did.
        valid: usize,
        /// How many must.
        threshold: usize,
    },
}

/// One more signature cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CosignError {
    /// It holds another kind of document than the signer means to sign.
    #[error("expected a payload of type {expected:?}, found {found:?}")]
    PayloadType {
        /// What the signer asked for.
        expected: String,
        /// What the envelope holds.
        found: String,
    },
    /// It has [`MAX_SIGNATURES`] already.
    #[error("the envelope already carries {MAX_SIGNATURES} signatures")]
    Full,
}
