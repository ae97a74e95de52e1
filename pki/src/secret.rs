//! One-shot token secrets: 256 random bits that whoever holds them may spend, and the hash that is stored.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::digest::{Sha256Digest, digest_of};

/// Characters of 32 bytes in unpadded base64url (RFC 4648 section 5).
const TEXT_LEN: usize = 43;

/// 256 random bits. They are wiped when dropped, never part of a `Debug` text, and only
/// [`Secret::reveal`] gives them out.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// Makes a secret from the system's random source.
    ///
    /// # Errors
    /// [`SecretError::Generate`] when that source fails.
    pub fn generate() -> Result<Self, SecretError> {
        let mut bytes = Zeroizing::new([0; 32]);
        SystemRandom::new()
            .fill(bytes.as_mut_slice())
            .map_err(|_| SecretError::Generate)?;
        Ok(Self(bytes))
    }

    /// The text to hand to whoever may spend the secret: 43 characters of unpadded base64url.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
        URL_SAFE_NO_PAD.encode_string(self.0.as_slice(), &mut text);
        text
    }

    /// What to store. The secret has 256 bits of its own, so a plain hash cannot be searched.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::from(Sha256Digest::of(self.0.as_slice()))
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Decoding wants room for whole groups of four, so the buffer is a byte longer than the secret.
        let mut buffer = Zeroizing::new([0_u8; 33]);
        if text.len() != TEXT_LEN {
            return Err(SecretError::Parse);
        }
        let len = URL_SAFE_NO_PAD
            .decode_slice(text, buffer.as_mut_slice())
            .map_err(|_| SecretError::Parse)?;
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(
            buffer
                .get(..len)
                .filter(|read| read.len() == 32)
                .ok_or(SecretError::Parse)?,
        );
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A secret as text, where the program only passes it on: an argument, a variable. Never part of a `Debug` text.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

digest_of! {
    /// SHA-256 over a [`Secret`]: safe to store and to show.
    SecretHash
}

impl SecretHash {
    /// Whether `secret` is the one this hash was made of. Takes the same time for every wrong secret.
    #[must_use]
    pub fn matches(&self, secret: &Secret) -> bool {
        *self == secret.hash()
    }
}

/// What went wrong with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The system gave no randomness.
    #[error("cannot generate a secret: the system's random source failed")]
    Generate,
    /// The text is not a secret; it was probably cut off or wrapped when it was copied.
    #[error("not a secret: expected {TEXT_LEN} characters of base64url")]
    Parse,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_its_text_and_matches_its_hash_alone() {
        let secret = Secret::generate().unwrap();
        let again: Secret = secret.reveal().parse().unwrap();
        assert_eq!(again.reveal(), secret.reveal());
        assert!(secret.hash().matches(&again));
        assert!(!secret.hash().matches(&Secret::generate().unwrap()));
    }

    #[test]
    fn a_damaged_secret_is_refused() {
        let text = Secret::generate().unwrap().reveal();
        for bad in [
            text[1..].to_owned(),
            format!("{}A", *text),
            format!("{}=", &text[1..]),
            format!("{}+", &text[1..]),
            format!("{} ", &text[1..]),
            // Stray bits after the last byte would give one secret several spellings.
            format!("{}B", &text[..42]),
            String::new(),
        ] {
            assert_eq!(bad.parse::<Secret>().unwrap_err(), SecretError::Parse, "{bad}");
        }
    }

    #[test]
    fn a_debug_text_does_not_leak_the_secret() {
        assert_eq!(format!("{:?}", Secret::generate().unwrap()), "Secret(..)");
        assert_eq!(
            format!("{:?}", SecretText::from("x".to_owned())),
            "SecretText(..)"
        );
    }
}
