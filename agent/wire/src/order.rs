//! Orders: what a host is told about itself. Signed by the operators of the trust root, never by the master alone.
//!
//! An order is a document of its own in a DSSE envelope. It reaches its host as a part of a bundle, or, where the
//! master believes the host no more, as the answer to whatever it asks.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{Digest, FleetId, HostId, ParseError, Timestamp};
use crate::release::Rollout;

/// The DSSE payload type of a [`Decommission`].
pub const DECOMMISSION_TYPE: &str = "application/vnd.decnet.decommission+json";
/// The DSSE payload type of a [`Tombstone`].
pub const TOMBSTONE_TYPE: &str = "application/vnd.decnet.tombstone+json";
/// The media type of a signed order where it is the answer to a request.
pub const MEDIA_TYPE: &str = "application/vnd.dsse+json";
/// The version of these documents.
pub const SCHEMA: u32 = 1;

/// What a bundle says about its host itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// A signed [`Decommission`]: a DSSE envelope.
    Decommission(Value),
    /// A release that is being rolled out. Agents that know no such order refuse a bundle that has it.
    Update(Rollout),
}

/// That a host is to remove everything that it runs, then its agent, and every trace but logs. A host's id is given
/// once, so it needs neither a sequence nor an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decommission {
    /// Always [`SCHEMA`].
    pub schema: u32,
    pub fleet: FleetId,
    pub host: HostId,
    /// Told apart by it from every other order, and named by the tombstone.
    pub nonce: Nonce,
    pub issued_at: Timestamp,
}

/// 128 random bits, in 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(String);

impl Nonce {
    /// Of these random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Nonce {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if digits && text.len() == 32 {
            Ok(Self(text))
        } else {
            Err(ParseError::new("nonce", &text, "32 digits of 0-9 and a-f"))
        }
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> Self {
        nonce.0
    }
}

impl std::fmt::Display for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host's receipt that it was wiped. Signed with the host's own key, the last thing that key does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    /// Always [`SCHEMA`].
    pub schema: u32,
    pub fleet: FleetId,
    pub host: HostId,
    /// Of the order that was carried out.
    pub nonce: Nonce,
    /// SHA-256 of that order's payload.
    pub order: Digest,
    pub finished_at: Timestamp,
    /// What was removed, each as `kind name`, as in `container decnet-web-base`; of files only the topmost.
    pub removed: Vec<String>,
    /// What could not be removed, with the reason. Empty: nothing is left.
    pub left: Vec<String>,
}

/// Body of `POST /enroll/v1/tombstone`: needs no certificate, for it proves itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TombstoneRequest {
    /// Always [`SCHEMA`].
    pub schema: u32,
    pub host: HostId,
    /// The host's public key: the base64 of its SubjectPublicKeyInfo. The master knows its SHA-256.
    pub key: String,
    /// The signed [`Tombstone`]: a DSSE envelope.
    pub tombstone: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_32_digits_in_one_spelling() {
        let good = Nonce::from_random([0xab; 16]);
        assert_eq!(Nonce::try_from(good.as_str().to_owned()), Ok(good.clone()));
        for bad in [
            String::new(),
            good.as_str()[1..].to_owned(),
            format!("{good}0"),
            good.as_str().to_uppercase(),
            "g".repeat(32),
        ] {
            assert!(Nonce::try_from(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
