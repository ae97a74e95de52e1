//! Certificates as they lie on disk and go over the wire: CA certificates with their pins, and leaves.

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::digest::{Sha256Digest, digest_of};
use crate::key::{HostPublicKey, KeyDigest};
use crate::pem_text;

const PEM_LABEL: &str = "CERTIFICATE";

/// A leaf comes with its CA, and during a change of CAs with one more.
const MAX_CHAIN: usize = 4;

digest_of! {
    /// Names one CA certificate: SHA-256 over its DER, written `sha256:<hex>`. Whoever holds the pin can meet
    /// a server of that CA without ever having seen the certificate.
    CaPin
}

/// The certificate of an issuing authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCertificate {
    der: CertificateDer<'static>,
    key: HostPublicKey,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl CaCertificate {
    /// Reads a text that holds exactly one PEM certificate.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`], or [`CertificateError::NotAuthority`] when it may not sign others.
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        let der = pem_text::decode_one(PEM_LABEL, text).map_err(CertificateError::malformed)?;
        Self::from_der(&der)
    }

    /// Reads one DER certificate.
    ///
    /// # Errors
    /// As for [`CaCertificate::from_pem`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let is_authority = basic_constraints_ca(&certificate)?
            && certificate
                .key_usage()
                .map_err(CertificateError::malformed)?
                .is_some_and(|usage| usage.value.key_cert_sign());
        if !is_authority {
            return Err(CertificateError::NotAuthority);
        }
        Ok(Self {
            key: public_key(&certificate)?,
            not_before: certificate.validity().not_before.to_datetime(),
            not_after: certificate.validity().not_after.to_datetime(),
            der: CertificateDer::from(der.to_vec()),
        })
    }

    /// The DER form.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The PEM form.
    #[must_use]
    pub fn pem(&self) -> String {
        encode(&self.der)
    }

    /// The pin that names this very certificate.
    #[must_use]
    pub fn pin(&self) -> CaPin {
        CaPin::from(Sha256Digest::of(&self.der))
    }

    /// The end of its validity.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Whether `now` lies in its validity, both ends included (RFC 5280 section 4.1.2.5).
    #[must_use]
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    pub(crate) fn key(&self) -> &HostPublicKey {
        &self.key
    }
}

/// A host's or server's certificate, followed by the certificates of those who issued it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: HostPublicKey,
    serial: String,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Leaf {
    /// Reads a PEM text: the leaf first, its issuers after it, as [`Leaf::chain_pem`] writes it.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`], [`CertificateError::NotLeaf`] when the first one is a CA's,
    /// [`CertificateError::KeyType`] when its key is not P-256, [`CertificateError::ChainTooLong`].
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        let blocks = pem_text::decode_all(PEM_LABEL, text).map_err(CertificateError::malformed)?;
        Self::from_chain(
            blocks
                .iter()
                .map(|der| CertificateDer::from(der.to_vec()))
                .collect(),
        )
    }

    pub(crate) fn from_chain(chain: Vec<CertificateDer<'static>>) -> Result<Self, CertificateError> {
        if chain.len() > MAX_CHAIN {
            return Err(CertificateError::ChainTooLong { len: chain.len() });
        }
        let (first, issuers) = chain
            .split_first()
            .ok_or_else(|| CertificateError::malformed("no certificate in the text"))?;
        let certificate = parse(first)?;
        if basic_constraints_ca(&certificate)? {
            return Err(CertificateError::NotLeaf);
        }
        for issuer in issuers {
            parse(issuer)?;
        }
        let leaf = Self {
            key: public_key(&certificate)?,
            serial: hex::encode(certificate.raw_serial()),
            not_before: certificate.validity().not_before.to_datetime(),
            not_after: certificate.validity().not_after.to_datetime(),
            chain: Vec::new(),
        };
        Ok(Self { chain, ..leaf })
    }

    /// The leaf and its issuers, in the order TLS sends them.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf and its issuers as one PEM text.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(encode).collect()
    }

    /// Whether it came with this authority's certificate as its issuer's.
    #[must_use]
    pub fn is_of(&self, authority: &CaCertificate) -> bool {
        self.chain.get(1) == Some(authority.der())
    }

    /// The name of the key it certifies.
    #[must_use]
    pub fn key_digest(&self) -> KeyDigest {
        self.key.digest()
    }

    /// The serial number: the DER integer's bytes in lower-case hex.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The start of its validity.
    #[must_use]
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// The end of its validity.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }
}

/// A certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Not a certificate, or not in PEM.
    #[error("not a certificate: {0}")]
    Malformed(String),
    /// A CA certificate was expected.
    #[error("the certificate may not issue others: it is not a CA's")]
    NotAuthority,
    /// A leaf was expected.
    #[error("the certificate is a CA's, not one of a host or server")]
    NotLeaf,
    /// Another kind of key.
    #[error("the certificate's key is not P-256, the only kind accepted")]
    KeyType,
    /// Too many certificates.
    #[error("{len} certificates in one chain, at most {MAX_CHAIN} are accepted")]
    ChainTooLong {
        /// How many there were.
        len: usize,
    },
}

impl CertificateError {
    // By value, so that it goes into `map_err` as it stands.
    #[allow(clippy::needless_pass_by_value)]
    fn malformed(reason: impl ToString) -> Self {
        Self::Malformed(reason.to_string())
    }
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(CertificateError::malformed)?;
    if !rest.is_empty() {
        return Err(CertificateError::malformed("bytes follow the certificate"));
    }
    Ok(certificate)
}

pub(crate) fn public_key(certificate: &X509Certificate<'_>) -> Result<HostPublicKey, CertificateError> {
    HostPublicKey::from_spki_der(certificate.public_key().raw).map_err(|_| CertificateError::KeyType)
}

/// RFC 5280 section 4.2.1.9: without the extension it is no CA.
pub(crate) fn basic_constraints_ca(certificate: &X509Certificate<'_>) -> Result<bool, CertificateError> {
    let constraints = certificate
        .basic_constraints()
        .map_err(CertificateError::malformed)?;
    Ok(constraints.is_some_and(|extension| extension.value.ca))
}

fn encode(der: &CertificateDer<'_>) -> String {
    std::mem::take(&mut *pem_text::encode(PEM_LABEL, der))
}
