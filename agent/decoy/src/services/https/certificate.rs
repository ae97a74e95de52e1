//! A self-signed certificate that is the same, byte for byte, after every restart.

use p256::SecretKey;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::sec1::ToSec1Point;
use p256::pkcs8::EncodePrivateKey;
use rcgen::{CertificateParams, DistinguishedName, DnType, PublicKeyData, SerialNumber, SignatureAlgorithm};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use crate::identity::Identity;

/// 2022-01-01 and 2024-01-01, between which the machine was set up.
const SET_UP: std::ops::RangeInclusive<u64> = 1_640_995_200..=1_704_067_200;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("no key in the seed")]
    Key,
    #[error("{0}")]
    Sign(#[from] rcgen::Error),
}

/// Chain and key for `name`.
pub(super) fn self_signed(
    identity: &Identity,
    name: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertificateError> {
    // A scalar outside the group's order has odds of 2^-32; the next label gives another.
    let secret = (0..16)
        .find_map(|n| SecretKey::from_slice(&identity.bytes::<32>(&format!("tls.key.{n}"))).ok())
        .ok_or(CertificateError::Key)?;
    let pkcs8 = secret.to_pkcs8_der().map_err(|_| CertificateError::Key)?;

    // A name that is neither DNS name nor address stands in the subject alone.
    let mut params = CertificateParams::new([name.to_owned()]).unwrap_or_default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // RFC 5280 §4.1.2.2: positive, at most 20 octets.
    let mut serial = identity.bytes::<16>("tls.serial");
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let set_up = i64::try_from(identity.number("tls.not-before", SET_UP)).unwrap_or_default();
    params.not_before = OffsetDateTime::from_unix_timestamp(set_up).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    params.not_after = params.not_before + Duration::days(3650);

    let certificate = params.self_signed(&Signing::new(&secret))?;
    let key = PrivatePkcs8KeyDer::from(pkcs8.as_bytes().to_vec());
    Ok((vec![certificate.der().clone()], key.into()))
}

/// Signs with the nonce of RFC 6979. ring draws it at random, which would make another certificate at
/// every start.
struct Signing {
    key: SigningKey,
    public: Vec<u8>,
}

impl Signing {
    fn new(secret: &SecretKey) -> Self {
        let public = secret.public_key().to_sec1_point(false).as_bytes().to_vec();
        Self {
            key: SigningKey::from(secret),
            public,
        }
    }
}

impl PublicKeyData for Signing {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Signing {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: Signature = self.key.sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}
