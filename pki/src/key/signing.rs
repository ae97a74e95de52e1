use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use super::KeyError;
use crate::digest::{Sha256Digest, lower_hex_32};
use crate::pem_text;

const KIND: &str = "Ed25519";
const PEM_LABEL: &str = "PRIVATE KEY";

/// PKCS#8 version 1 around a 32-byte seed (RFC 8410 section 7). Version 1, because OpenSSL does not read
/// the version 2 that also carries the public key.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// An Ed25519 key that signs documents (RFC 8032). Its bytes are wiped when it is dropped and are never
/// part of a `Debug` text.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl SigningKey {
    /// Makes a key from the system's random source.
    ///
    /// # Errors
    /// [`KeyError::Generate`] when that source fails.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0_u8; 32]);
        SystemRandom::new()
            .fill(seed.as_mut_slice())
            .map_err(|_| KeyError::Generate)?;
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(PKCS8_PREFIX.len() + seed.len()));
        pkcs8.extend_from_slice(&PKCS8_PREFIX);
        pkcs8.extend_from_slice(seed.as_slice());
        Self::from_pkcs8(pkcs8)
    }

    /// Reads a PKCS#8 `PRIVATE KEY` block, version 1 or 2.
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
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs `message` as it is. Documents are signed through [`crate::envelope::Envelope`], which binds the
    /// payload type too.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        bytes
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        // "Maybe unchecked": version 1 carries no public key to check the seed against; one that is there
        // is checked.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8)
            .map_err(|error| KeyError::read_private(KIND, &error))?;
        Ok(Self { pair, pkcs8 })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("public", &self.public())
            .finish_non_exhaustive()
    }
}

/// The public half of a [`SigningKey`]: 32 bytes, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes the raw 32 bytes of RFC 8032 section 5.1.5.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// SHA-256 over the raw 32 bytes, as 64 lower-case hex digits without a prefix. It is the `keyid` in an
    /// envelope: a hint for people and logs that nothing decides by.
    #[must_use]
    pub fn key_id(&self) -> String {
        hex::encode(Sha256Digest::of(&self.0).as_bytes())
    }

    /// Checks a signature over `message`.
    ///
    /// # Errors
    /// [`KeyError::Verify`] when it was not made by this key over these bytes.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature)
            .map_err(|_| KeyError::Verify)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        lower_hex_32(text).map(Self).ok_or(KeyError::ReadPublic {
            kind: KIND,
            reason: "expected 64 lower-case hex digits",
        })
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_pem_text() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pkcs8_pem(&key.to_pkcs8_pem()).unwrap();
        assert_eq!(again.public(), key.public());
        key.public().verify(b"message", &again.sign(b"message")).unwrap();
        assert_eq!(
            key.public().verify(b"massage", &again.sign(b"message")),
            Err(KeyError::Verify)
        );
    }

    #[test]
    fn signatures_match_the_rfc_8032_test_vector() {
        // RFC 8032 section 7.1, TEST 2.
        let seed = hex::decode("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap();
        let mut pkcs8 = PKCS8_PREFIX.to_vec();
        pkcs8.extend(seed);
        let key = SigningKey::from_pkcs8(Zeroizing::new(pkcs8)).unwrap();
        assert_eq!(
            key.public().to_string(),
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
        );
        assert_eq!(
            hex::encode(key.sign(&[0x72])),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
    }

    #[test]
    fn a_debug_text_does_not_leak_the_private_key() {
        let key = SigningKey::generate().unwrap();
        let seed = hex::encode(&key.pkcs8[PKCS8_PREFIX.len()..]);
        let text = format!("{key:?}");
        assert!(
            text.contains(&key.public().to_string()) && !text.contains(&seed),
            "{text}"
        );
        assert!(!text.contains("pkcs8"), "{text}");
    }

    #[test]
    fn a_second_spelling_of_a_public_key_is_refused() {
        let text = format!("{:0>64}", "ab");
        assert!(text.parse::<PublicKey>().is_ok());
        assert!(text.to_uppercase().parse::<PublicKey>().is_err());
        assert!(text[1..].parse::<PublicKey>().is_err());
        let json = serde_json::to_string(&text.parse::<PublicKey>().unwrap()).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(
            serde_json::from_str::<PublicKey>(&json).unwrap().to_string(),
            text
        );
    }

    #[test]
    fn a_p256_key_is_not_taken_for_a_signing_key() {
        let host = crate::key::HostKey::generate().unwrap();
        let error = SigningKey::from_pkcs8_pem(&host.to_pkcs8_pem()).unwrap_err();
        assert!(matches!(error, KeyError::ReadPrivate { .. }), "{error}");
    }
}
