//! SHA-256 values, written `sha256:<64 lower-case hex digits>`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use subtle::ConstantTimeEq;

const PREFIX: &str = "sha256:";

/// A SHA-256 value. Equality takes the same time wherever two values differ.
#[derive(Clone, Copy, Eq, Hash, PartialOrd, Ord)]
#[allow(clippy::derived_hash_with_manual_eq)] // The manual `eq` compares the same bytes the hash covers.
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut value = [0; 32];
        value.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
        Self(value)
    }

    /// Takes a value that was computed elsewhere, such as while a blob streamed by.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Sha256Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected `sha256:` and 64 lower-case hex digits")]
pub struct DigestParseError;

impl FromStr for Sha256Digest {
    type Err = DigestParseError;

    /// One spelling for one value: upper-case digits are refused, so that two texts are equal exactly when
    /// the values are.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix(PREFIX)
            .and_then(lower_hex_32)
            .map(Self)
            .ok_or(DigestParseError)
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Decodes exactly 64 lower-case hex digits.
pub(crate) fn lower_hex_32(text: &str) -> Option<[u8; 32]> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut value = [0; 32];
    hex::decode_to_slice(text, &mut value).ok()?;
    Some(value)
}

/// Declares a digest of one certain thing, so that digests of different things cannot be mixed up.
macro_rules! digest_of {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name($crate::digest::Sha256Digest);

        impl $name {
            /// The SHA-256 value itself.
            #[must_use]
            pub fn sha256(&self) -> &$crate::digest::Sha256Digest {
                &self.0
            }
        }

        impl From<$crate::digest::Sha256Digest> for $name {
            fn from(value: $crate::digest::Sha256Digest) -> Self {
                Self(value)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::digest::DigestParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}
pub(crate) use digest_of;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_round_trips_and_matches_a_known_value() {
        // FIPS 180-2, appendix B.1.
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256Digest::of(b"abc").to_string(), text);
        assert_eq!(text.parse::<Sha256Digest>().unwrap(), Sha256Digest::of(b"abc"));
    }

    #[test]
    fn a_second_spelling_of_a_digest_is_refused() {
        let text = Sha256Digest::of(b"abc").to_string();
        for bad in [
            text.replace("ba78", "BA78"),
            text.replace("sha256:", ""),
            text.replace("sha256:", "SHA256:"),
            format!("{text}0"),
            format!(" {text}"),
            text[..text.len() - 1].to_owned(),
        ] {
            assert_eq!(bad.parse::<Sha256Digest>(), Err(DigestParseError), "{bad}");
        }
    }
}
