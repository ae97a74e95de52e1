//! Who a host certificate says its holder is.

use time::OffsetDateTime;
use uuid::Uuid;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::certificate::{self, CertificateError};
use crate::key::KeyDigest;

/// The identity in a host certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The fleet the host belongs to.
    pub fleet: Uuid,
    /// The host.
    pub host: Uuid,
    /// The host's key.
    pub key: KeyDigest,
    /// When the certificate ends. TLS looked at it when the connection opened; a connection may live longer.
    pub not_after: OffsetDateTime,
}

impl PeerIdentity {
    /// Reads the identity out of a client's leaf certificate in DER.
    ///
    /// Assumption: TLS has verified this certificate against the fleet's authority. Nothing here checks its
    /// signature or the time; what is checked is that it has the form the authority gives host certificates,
    /// so that no other certificate of that authority passes for a host's.
    ///
    /// # Errors
    /// [`PeerError`] tells what is not as in a host certificate.
    pub fn from_leaf(der: &[u8]) -> Result<Self, PeerError> {
        let certificate = certificate::parse(der)?;
        if certificate::basic_constraints_ca(&certificate)? {
            return Err(CertificateError::NotLeaf.into());
        }
        check_usage(&certificate)?;
        let (fleet, host) = name(&certificate)?;
        Ok(Self {
            fleet,
            host,
            key: certificate::public_key(&certificate)?.digest(),
            not_after: certificate.validity().not_after.to_datetime(),
        })
    }
}

/// The certificate is not a host's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The certificate itself cannot be used.
    #[error("the client certificate cannot be used")]
    Certificate(#[from] CertificateError),
    /// It is not for TLS clients, or for more than that.
    #[error("the client certificate is not for TLS clients alone")]
    Usage,
    /// Its alternative name is not exactly one `urn:decnet:fleet:<uuid>:host:<uuid>`, or its subject names
    /// another host.
    #[error("the client certificate does not name one host of one fleet")]
    Name,
}

/// The alternative name of a host: UUIDs lower-case with hyphens.
pub(crate) fn host_urn(fleet: Uuid, host: Uuid) -> String {
    format!(
        "urn:decnet:fleet:{}:host:{}",
        fleet.hyphenated(),
        host.hyphenated()
    )
}

fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), PeerError> {
    let usage = certificate
        .extended_key_usage()
        .map_err(|_| PeerError::Usage)?
        .ok_or(PeerError::Usage)?
        .value;
    let others = usage.any
        || usage.server_auth
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty();
    if usage.client_auth && !others {
        Ok(())
    } else {
        Err(PeerError::Usage)
    }
}

fn name(certificate: &X509Certificate<'_>) -> Result<(Uuid, Uuid), PeerError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| PeerError::Name)?
        .ok_or(PeerError::Name)?;
    let [GeneralName::URI(urn)] = names.value.general_names.as_slice() else {
        return Err(PeerError::Name);
    };
    let (fleet, host) = parse_urn(urn).ok_or(PeerError::Name)?;
    let mut common_names = certificate.subject().iter_common_name();
    let (Some(common_name), None) = (common_names.next(), common_names.next()) else {
        return Err(PeerError::Name);
    };
    if common_name.as_str().ok() != Some(host.hyphenated().to_string().as_str()) {
        return Err(PeerError::Name);
    }
    Ok((fleet, host))
}

fn parse_urn(urn: &str) -> Option<(Uuid, Uuid)> {
    let (fleet, host) = urn.strip_prefix("urn:decnet:fleet:")?.split_once(":host:")?;
    let (fleet, host) = (Uuid::try_parse(fleet).ok()?, Uuid::try_parse(host).ok()?);
    // UUIDs have several spellings; the authority writes one.
    (host_urn(fleet, host) == urn).then_some((fleet, host))
}
