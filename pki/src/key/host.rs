use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use super::KeyError;
use crate::digest::{Sha256Digest, digest_of};
use crate::envelope::pre_authentication_encoding;
use crate::pem_text;

const KIND: &str = "P-256";
const PEM_LABEL: &str = "PRIVATE KEY";

/// Length of an uncompressed P-256 point: `04`, x, y (SEC 1 section 2.3.3).
const POINT_LEN: usize = 65;

/// The DER around an uncompressed P-256 point in a SubjectPublicKeyInfo (RFC 5480 section 2). DER leaves no
/// choice here, so a key has one encoding and one digest.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The ECDSA P-256 key of one host or one server. Its bytes are wiped when it is dropped and are never part
/// of a `Debug` text.
pub struct HostKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    public: HostPublicKey,
}

impl HostKey {
    /// Makes a key from the system's random source.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when that source fails.
    pub fn generate() -> Result<Self, KeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| KeyError::Generate)?;
        Self::from_pkcs8(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Reads a PKCS#8 `PRIVATE KEY` block.
    ///
    /// # Errors
    /// [`KeyError::ReadPrivate`] when the text is not one such block or holds another kind of key.
    pub fn from_pkcs8_pem(text: &str) -> Result<Self, KeyError> {
        Self::from_pkcs8(
            pem_text::decode_one(PEM_LABEL, text).map_err(|error| KeyError::read_private(KIND, &error))?,
        )
    }

    /// Writes the PKCS#8 `PRIVATE KEY` block; the text is wiped when dropped.
    #[must_use]
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        pem_text::encode(PEM_LABEL, &self.pkcs8)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &HostPublicKey {
        &self.public
    }

    /// The name of this key; see [`KeyDigest`].
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        self.public.digest()
    }

    /// Signs a document of the given type: ECDSA with SHA-256 over the DSSE pre-authentication encoding of
    /// both, as DER. The encoding keeps these signatures apart from those TLS and certificate requests ask
    /// of the same key.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when the system's random source fails.
    pub fn sign_document(&self, payload_type: &str, payload: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.sign_raw(&pre_authentication_encoding(payload_type, payload))
    }

    pub(crate) fn to_private_key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }

    fn sign_raw(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message)
            .map_err(|_| KeyError::Sign)?;
        Ok(signature.as_ref().to_vec())
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &SystemRandom::new())
            .map_err(|error| KeyError::read_private(KIND, &error))?;
        let mut point = [0; POINT_LEN];
        point.copy_from_slice(pair.public_key().as_ref());
        Ok(Self {
            pair,
            pkcs8,
            public: HostPublicKey(point),
        })
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKey")
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}

// Certificates and requests are signed with the key as ring holds it; rcgen never sees its bytes.
impl rcgen::SigningKey for HostKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_raw(message).map_err(|_| rcgen::Error::RingUnspecified)
    }
}

impl rcgen::PublicKeyData for HostKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.public.algorithm()
    }
}

/// The public half of a [`HostKey`], written as the base64 of its SubjectPublicKeyInfo.
///
/// Parsing checks the encoding. That the point lies on the curve is checked by the first signature it
/// verifies, as it is for a key out of a [`crate::csr::VerifiedCsr`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostPublicKey([u8; POINT_LEN]);

impl HostPublicKey {
    /// Reads a DER SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7).
    ///
    /// # Errors
    /// [`KeyError::ReadPublic`] for anything but an uncompressed P-256 key.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        der.strip_prefix(&SPKI_PREFIX)
            .and_then(|point| <[u8; POINT_LEN]>::try_from(point).ok())
            .filter(|point| point[0] == 0x04)
            .map(Self)
            .ok_or(KeyError::ReadPublic {
                kind: KIND,
                reason: "expected an uncompressed P-256 public key",
            })
    }

    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn to_spki_der(&self) -> Vec<u8> {
        [SPKI_PREFIX.as_slice(), self.0.as_slice()].concat()
    }

    /// The name of this key; see [`KeyDigest`].
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::from(Sha256Digest::of(&self.to_spki_der()))
    }

    /// Checks what [`HostKey::sign_document`] made.
    ///
    /// # Errors
    /// [`KeyError::Verify`] when the signature was not made by this key over this type and payload.
    pub fn verify_document(
        &self,
        payload_type: &str,
        payload: &[u8],
        signature: &[u8],
    ) -> Result<(), KeyError> {
        self.verify_raw(&pre_authentication_encoding(payload_type, payload), signature)
    }

    pub(crate) fn verify_raw(&self, message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.0)
            .verify(message, signature)
            .map_err(|_| KeyError::Verify)
    }
}

impl rcgen::PublicKeyData for HostPublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl fmt::Display for HostPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.to_spki_der()))
    }
}

impl fmt::Debug for HostPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostPublicKey({})", self.digest())
    }
}

impl FromStr for HostPublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let der = STANDARD.decode(text).map_err(|_| KeyError::ReadPublic {
            kind: KIND,
            reason: "expected the base64 of a SubjectPublicKeyInfo",
        })?;
        Self::from_spki_der(&der)
    }
}

impl Serialize for HostPublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

digest_of! {
    /// The name of a [`HostKey`]: SHA-256 over its DER SubjectPublicKeyInfo, written `sha256:<hex>`.
    /// Equality takes the same time wherever two values differ.
    KeyDigest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_pem_text() {
        let key = HostKey::generate().unwrap();
        let again = HostKey::from_pkcs8_pem(&key.to_pkcs8_pem()).unwrap();
        assert_eq!(again.digest(), key.digest());
        let public: HostPublicKey = key.public().to_string().parse().unwrap();
        let signature = again.sign_document("type", b"payload").unwrap();
        public.verify_document("type", b"payload", &signature).unwrap();
    }

    #[test]
    fn a_signature_for_one_document_type_does_not_pass_for_another() {
        let key = HostKey::generate().unwrap();
        let signature = key.sign_document("tombstone", b"payload").unwrap();
        assert!(
            key.public()
                .verify_document("tombston", b"epayload", &signature)
                .is_err()
        );
        assert!(
            key.public()
                .verify_document("renewal", b"payload", &signature)
                .is_err()
        );
        assert!(key.public().verify_raw(b"payload", &signature).is_err());
    }

    #[test]
    fn a_debug_text_does_not_leak_the_private_key() {
        let key = HostKey::generate().unwrap();
        assert_eq!(
            format!("{key:?}"),
            format!("HostKey {{ digest: {:?}, .. }}", key.digest())
        );
    }

    #[test]
    fn an_ed25519_key_is_not_taken_for_a_host_key() {
        let other = crate::key::SigningKey::generate().unwrap();
        let error = HostKey::from_pkcs8_pem(&other.to_pkcs8_pem()).unwrap_err();
        assert!(
            matches!(error, KeyError::ReadPrivate { kind: "P-256", .. }),
            "{error}"
        );
    }

    #[test]
    fn a_key_file_holding_two_keys_is_refused() {
        let two = format!(
            "{}{}",
            *HostKey::generate().unwrap().to_pkcs8_pem(),
            *HostKey::generate().unwrap().to_pkcs8_pem()
        );
        assert!(HostKey::from_pkcs8_pem(&two).is_err());
    }
}
