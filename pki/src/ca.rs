//! The issuing authority: one P-256 key whose certificate every host and server of a fleet trusts.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, RevocationReason, RevokedCertParams,
    SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::ServerName;
use time::{Duration, OffsetDateTime, UtcOffset};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::certificate::{CaCertificate, CaPin, CertificateError, Leaf};
use crate::csr::VerifiedCsr;
use crate::key::{HostKey, HostPublicKey, KeyError};
use crate::peer::host_urn;
use crate::pem_text;

const CRL_LABEL: &str = "X509 CRL";

/// How long a CA certificate is valid.
const CA_LIFETIME: Duration = Duration::days(3650);

/// Certificates are valid from a little before they are made, for machines whose clocks are behind.
const BACKDATE: Duration = Duration::minutes(5);

/// RFC 5280 appendix A, `ub-common-name`.
const MAX_COMMON_NAME: usize = 64;

/// The subject of every server certificate. Clients go by the alternative names alone (RFC 9525 section 2).
const SERVER_COMMON_NAME: &str = "DECNET master";

/// The authority that issues host and server certificates.
#[derive(Debug)]
pub struct CertificateAuthority {
    certificate: CaCertificate,
    issuer: Issuer<'static, HostKey>,
}

impl CertificateAuthority {
    /// Makes a key and its self-signed certificate: valid for ten years from five minutes before `now`, for
    /// signing leaves and revocation lists, no further CA below it.
    ///
    /// # Errors
    /// [`CaError::CommonName`] unless `common_name` is 1 to 64 printable characters; [`CaError::Key`] and
    /// [`CaError::Sign`] when making the key or the certificate fails.
    pub fn create(common_name: &str, now: OffsetDateTime) -> Result<Self, CaError> {
        let len = common_name.chars().count();
        if len == 0 || len > MAX_COMMON_NAME || common_name.chars().any(char::is_control) {
            return Err(CaError::CommonName);
        }
        let key = HostKey::generate().map_err(CaError::Key)?;
        let (not_before, not_after) = validity(now, CA_LIFETIME)?;
        let mut params = parameters(common_name, not_before, not_after)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(CaError::Sign)?;
        Self::new(
            CaCertificate::from_der(certificate.der()).map_err(CaError::Certificate)?,
            key,
        )
    }

    /// Takes up an authority that [`CertificateAuthority::cert_pem`] and [`CertificateAuthority::key_pem`]
    /// wrote.
    ///
    /// # Errors
    /// [`CaError::Certificate`], [`CaError::Key`], and [`CaError::KeyMismatch`] when the two do not belong
    /// together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, CaError> {
        let certificate = CaCertificate::from_pem(certificate).map_err(CaError::Certificate)?;
        Self::new(certificate, HostKey::from_pkcs8_pem(key).map_err(CaError::Key)?)
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CaCertificate {
        &self.certificate
    }

    /// The authority's own certificate as PEM.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The authority's private key as PEM; the text is wiped when dropped.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.issuer.key().to_pkcs8_pem()
    }

    /// The pin of the authority's certificate.
    #[must_use]
    pub fn pin(&self) -> CaPin {
        self.certificate.pin()
    }

    /// Certifies a host's key for use as a TLS client. Of the request only the key counts; who the host is
    /// comes from `subject`. The certificate never outlives the authority's own.
    ///
    /// # Errors
    /// [`CaError::Lifetime`] when `lifetime` is not positive, [`CaError::NotValid`] when the authority's own
    /// certificate is not valid at `now`, [`CaError::Sign`].
    pub fn issue_host(
        &self,
        csr: &VerifiedCsr,
        subject: HostSubject,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<Leaf, CaError> {
        let (not_before, not_after) = self.leaf_validity(now, lifetime)?;
        let mut params = parameters(&subject.host.hyphenated().to_string(), not_before, not_after)?;
        let name = host_urn(subject.fleet, subject.host)
            .try_into()
            .map_err(CaError::Sign)?;
        params.subject_alt_names = vec![SanType::URI(name)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, csr.key())
    }

    /// Makes a key for a server known by `names` (DNS names and IP addresses) and certifies it. The
    /// certificate never outlives the authority's own.
    ///
    /// # Errors
    /// [`CaError::NoNames`] when `names` is empty, [`CaError::Key`], and as for
    /// [`CertificateAuthority::issue_host`].
    pub fn issue_server(
        &self,
        names: &[ServerName<'_>],
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<(Leaf, HostKey), CaError> {
        if names.is_empty() {
            return Err(CaError::NoNames);
        }
        let (not_before, not_after) = self.leaf_validity(now, lifetime)?;
        let mut params = parameters(SERVER_COMMON_NAME, not_before, not_after)?;
        params.subject_alt_names = names.iter().map(alternative_name).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = HostKey::generate().map_err(CaError::Key)?;
        Ok((self.issue(params, key.public())?, key))
    }

    /// Signs the list of leaves that are not to be believed any more (RFC 5280 section 5), in PEM.
    ///
    /// `number` has to be higher than that of every list before (section 5.2.3). The list says that the next one comes
    /// `lifetime` from `now` at the latest.
    ///
    /// # Errors
    /// [`CaError::Lifetime`], [`CaError::Revoked`] for a serial that is none, [`CaError::Sign`].
    pub fn issue_crl(
        &self,
        revoked: &[Revoked],
        number: u64,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<String, CaError> {
        let (this_update, next_update) = validity(now, lifetime)?;
        let revoked_certs = revoked
            .iter()
            .map(|leaf| {
                let serial = hex::decode(&leaf.serial).map_err(|_| CaError::Revoked(leaf.serial.clone()))?;
                Ok(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&serial),
                    revocation_time: whole_seconds(leaf.at),
                    reason_code: Some(RevocationReason::CessationOfOperation),
                    invalidity_date: None,
                })
            })
            .collect::<Result<_, CaError>>()?;
        let params = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).map_err(CaError::Sign)?;
        Ok(std::mem::take(&mut *pem_text::encode(CRL_LABEL, list.der())))
    }

    fn new(certificate: CaCertificate, key: HostKey) -> Result<Self, CaError> {
        if certificate.key() != key.public() {
            return Err(CaError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key).map_err(CaError::Sign)?;
        Ok(Self { certificate, issuer })
    }

    fn leaf_validity(
        &self,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<(OffsetDateTime, OffsetDateTime), CaError> {
        if !self.certificate.is_valid_at(now) {
            return Err(CaError::NotValid {
                not_after: self.certificate.not_after(),
            });
        }
        let (not_before, not_after) = validity(now, lifetime)?;
        Ok((not_before, not_after.min(self.certificate.not_after())))
    }

    fn issue(&self, mut params: CertificateParams, key: &HostPublicKey) -> Result<Leaf, CaError> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(CaError::Sign)?;
        Leaf::from_chain(vec![certificate.into(), self.certificate.der().clone()])
            .map_err(CaError::Certificate)
    }
}

/// Whom a host certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSubject {
    /// The fleet the host belongs to.
    pub fleet: Uuid,
    /// The host.
    pub host: Uuid,
}

/// A leaf that is not to be believed any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// As [`Leaf::serial`] gives it.
    pub serial: String,
    /// Since when.
    pub at: OffsetDateTime,
}

/// The authority could not be made, taken up, or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The name for a new authority cannot be used.
    #[error("a CA's name needs 1 to {MAX_COMMON_NAME} printable characters")]
    CommonName,
    /// A private key failed.
    #[error("the private key cannot be used")]
    Key(#[source] KeyError),
    /// A certificate failed.
    #[error("the certificate cannot be used")]
    Certificate(#[source] CertificateError),
    /// Certificate and private key are of different authorities.
    #[error("the CA's certificate and private key do not belong together")]
    KeyMismatch,
    /// The lifetime is zero, negative, or beyond what a certificate can say.
    #[error("a certificate cannot be valid for {lifetime}")]
    Lifetime {
        /// What was asked for.
        lifetime: Duration,
    },
    /// The authority's own time is over, or has not begun.
    #[error("the CA's own certificate is not valid now; it ends at {not_after}")]
    NotValid {
        /// The end of the CA's validity.
        not_after: OffsetDateTime,
    },
    /// A server certificate for no name at all.
    #[error("a server certificate needs at least one DNS name or IP address")]
    NoNames,
    /// A server name that is neither.
    #[error("a server's name must be a DNS name or an IP address")]
    NameKind,
    /// A serial number that is none.
    #[error("{0:?} is no serial number in hex")]
    Revoked(String),
    /// The system gave no randomness for a serial number.
    #[error("cannot draw a serial number: the system's random source failed")]
    Serial,
    /// Building or signing a certificate failed.
    #[error("cannot build and sign the certificate")]
    Sign(#[source] rcgen::Error),
}

fn parameters(
    common_name: &str,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = not_before;
    params.not_after = not_after;
    // RFC 5280 section 4.1.2.2 wants a positive number of at most 20 bytes. 128 random bits never repeat.
    let mut serial = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| CaError::Serial)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn validity(now: OffsetDateTime, lifetime: Duration) -> Result<(OffsetDateTime, OffsetDateTime), CaError> {
    let out_of_range = CaError::Lifetime { lifetime };
    if !lifetime.is_positive() {
        return Err(out_of_range);
    }
    let now = whole_seconds(now);
    now.checked_sub(BACKDATE)
        .zip(now.checked_add(lifetime))
        .ok_or(out_of_range)
}

/// Certificates tell whole seconds in UTC (RFC 5280 section 4.1.2.5).
fn whole_seconds(at: OffsetDateTime) -> OffsetDateTime {
    let at = at.checked_to_offset(UtcOffset::UTC).unwrap_or(at);
    at.replace_nanosecond(0).unwrap_or(at)
}

fn alternative_name(name: &ServerName<'_>) -> Result<SanType, CaError> {
    Ok(match name {
        ServerName::DnsName(name) => SanType::DnsName(name.as_ref().try_into().map_err(CaError::Sign)?),
        ServerName::IpAddress(address) => SanType::IpAddress((*address).into()),
        // The type is open for kinds of names to come.
        _ => return Err(CaError::NameKind),
    })
}
