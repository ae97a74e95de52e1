//! Certificate requests (PKCS#10, RFC 2986).
//!
//! A request proves that whoever sent it holds a key, and nothing else: names, usages and extensions it asks
//! for are ignored. The authority decides them.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

use crate::key::{HostKey, HostPublicKey, KeyDigest};
use crate::pem_text;

const PEM_LABEL: &str = "CERTIFICATE REQUEST";

/// `ecdsa-with-SHA256` (RFC 5758 section 3.2).
const ECDSA_WITH_SHA256: &str = "1.2.840.10045.4.3.2";

/// Makes a PEM request for `key`, with an empty subject.
///
/// # Errors
/// [`CsrError::Create`] when signing fails.
pub fn create(key: &HostKey) -> Result<String, CsrError> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(key).map_err(CsrError::Create)?;
    Ok(std::mem::take(&mut *pem_text::encode(PEM_LABEL, request.der())))
}

/// Proof that somebody who holds this key asked for a certificate. [`VerifiedCsr::parse`] is the only way to
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCsr {
    key: HostPublicKey,
}

impl VerifiedCsr {
    /// Reads one PEM request and checks its own signature.
    ///
    /// # Errors
    /// [`CsrError::TooLarge`] before anything is parsed when `pem` is longer than `max_len` bytes;
    /// [`CsrError::Malformed`], [`CsrError::KeyType`] for anything but ECDSA P-256 with SHA-256, and
    /// [`CsrError::Signature`] otherwise.
    pub fn parse(pem: &str, max_len: usize) -> Result<Self, CsrError> {
        if pem.len() > max_len {
            return Err(CsrError::TooLarge {
                len: pem.len(),
                max_len,
            });
        }
        let der =
            pem_text::decode_one(PEM_LABEL, pem).map_err(|error| CsrError::Malformed(error.to_string()))?;
        let (rest, request) = X509CertificationRequest::from_der(&der)
            .map_err(|error| CsrError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed("bytes follow the request".to_owned()));
        }
        let info = &request.certification_request_info;
        // RFC 2986 section 4.1: version 0 is the only one there is.
        if info.version != X509Version(0) {
            return Err(CsrError::Malformed("unknown version".to_owned()));
        }
        if request.signature_algorithm.algorithm.to_id_string() != ECDSA_WITH_SHA256 {
            return Err(CsrError::KeyType);
        }
        let key = HostPublicKey::from_spki_der(info.subject_pki.raw).map_err(|_| CsrError::KeyType)?;
        key.verify_raw(info.raw, &request.signature_value.data)
            .map_err(|_| CsrError::Signature)?;
        Ok(Self { key })
    }

    /// The key that asked.
    #[must_use]
    pub fn key(&self) -> &HostPublicKey {
        &self.key
    }

    /// The name of the key that asked.
    #[must_use]
    pub fn key_digest(&self) -> KeyDigest {
        self.key.digest()
    }
}

/// A certificate request cannot be made or accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Making a request failed.
    #[error("cannot make a certificate request")]
    Create(#[source] rcgen::Error),
    /// Refused by length alone.
    #[error("the certificate request is {len} bytes long, more than the {max_len} allowed")]
    TooLarge {
        /// Bytes received.
        len: usize,
        /// Bytes allowed.
        max_len: usize,
    },
    /// Not one PKCS#10 request in PEM.
    #[error("not a certificate request: {0}")]
    Malformed(String),
    /// Another kind of key, or another signature algorithm.
    #[error("the certificate request does not use ECDSA P-256 with SHA-256, the only kind accepted")]
    KeyType,
    /// Whoever made the request does not hold the key in it, or the request was changed.
    #[error("the certificate request's own signature does not hold")]
    Signature,
}
