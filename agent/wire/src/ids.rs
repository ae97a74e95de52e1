//! Names, ids and digests. Each parses into a type that cannot be wrong; there is nothing to validate later.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// A text that is not what its place asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct ParseError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl ParseError {
    pub(crate) fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        let text = text.chars().take(80).collect();
        Self { what, text, rule }
    }

    /// The rule that the text breaks, for messages that name the place themselves.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that the caller made or read.
            #[must_use]
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }

            /// The UUID itself.
            #[must_use]
            pub const fn uuid(&self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_| ParseError::new($what, text, "a UUID like 0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11"))
            }
        }
    };
}

uuid_id!(
    /// One fleet: everything under one master.
    FleetId, "fleet id"
);
uuid_id!(
    /// One enrolled worker.
    HostId, "host id"
);
uuid_id!(
    /// One thing that the operator asked of one decky; also the id of its lifecycle row.
    OperationId, "operation id"
);

impl HostId {
    /// The first eight hexadecimal digits: enough to tell a host's objects apart on a shared engine.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.0.simple().to_string();
        text.truncate(8);
        text
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(ParseError::new($what, text, $rule))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseError;
            fn try_from(text: String) -> Result<Self, ParseError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

pub(crate) use text_id;

text_id!(
    /// A decky's name: one DNS label (RFC 1123 §2.1), in lower case. The same rule holds in the INI, the API,
    /// container names and event topics.
    DeckyName,
    "decky name",
    "1 to 63 of a-z, 0-9 and '-', neither starting nor ending with '-'",
    is_dns_label
);
text_id!(
    /// A host's name, as the operator calls it: one DNS label.
    HostName,
    "host name",
    "1 to 63 of a-z, 0-9 and '-', neither starting nor ending with '-'",
    is_dns_label
);
text_id!(
    /// A service of the catalogue, such as `ssh`. Without '-', so that `<decky>-<slug>` reads one way only.
    ServiceSlug,
    "service",
    "1 to 32 of a-z, 0-9 and '_', starting with a letter",
    |text| is_compact(text, 32, |b| b == b'_') && text.as_bytes()[0].is_ascii_lowercase()
);
text_id!(
    /// A stack's name, which is also its Compose project name (Compose Specification, "name").
    StackName,
    "stack name",
    "1 to 80 of a-z, 0-9, '_' and '-', starting with a letter or a digit",
    |text| is_compact(text, 80, |b| b == b'_' || b == b'-') && text.as_bytes()[0].is_ascii_alphanumeric()
);
text_id!(
    /// A network's name on the engine (Docker's rule for object names).
    NetworkName,
    "network name",
    "1 to 64 of a-z, A-Z, 0-9, '_', '.' and '-', starting with a letter or a digit",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && text.as_bytes()[0].is_ascii_alphanumeric()
);
text_id!(
    /// A network interface's name: at most 15 bytes (Linux `IFNAMSIZ` less its NUL), no '/' and no space.
    InterfaceName,
    "interface",
    "1 to 15 letters, digits, '.', '_', '-', ':' or '@'",
    |text| (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b':' | b'@'))
        && text != "." && text != ".."
);
text_id!(
    /// A SHA-256 digest as the OCI image specification writes it: `sha256:` and 64 lower-case hex digits.
    Digest,
    "digest",
    "sha256: and 64 lower-case hexadecimal digits",
    |text| text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
);

impl Digest {
    /// The digest of 32 bytes that the caller computed.
    #[must_use]
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in bytes {
            // Writing into a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The 64 hexadecimal digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

/// A MAC address; displayed and stored as six lower-case pairs with colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// A unicast MAC: the group bit of the first byte (IEEE 802, I/G) is cleared.
    #[must_use]
    pub const fn unicast(mut bytes: [u8; 6]) -> Self {
        bytes[0] &= 0xfe;
        Self(bytes)
    }

    /// The six bytes.
    #[must_use]
    pub const fn bytes(&self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || {
            ParseError::new(
                "MAC address",
                text,
                "six pairs of hexadecimal digits with ':', unicast",
            )
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(hex).ok_or_else(error)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() || bytes[0] & 1 == 1 {
            return Err(error());
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A moment in UTC, written as RFC 3339.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(#[serde(with = "time::serde::rfc3339")] OffsetDateTime);

impl Timestamp {
    /// The moment, cut to whole milliseconds so that it reads the same after a round trip.
    #[must_use]
    pub fn new(at: OffsetDateTime) -> Self {
        let at = at.to_offset(time::UtcOffset::UTC);
        Self(at.replace_millisecond(at.millisecond()).unwrap_or(at))
    }

    /// The moment as the `time` crate has it.
    #[must_use]
    pub const fn get(&self) -> OffsetDateTime {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // RFC 3339 can write every year from 0 to 9999, and nothing else gets in here.
        f.pad(&self.0.format(&Rfc3339).unwrap_or_default())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_compact(text: &str, most: usize, also: fn(u8) -> bool) -> bool {
    (1..=most).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9') || also(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decky_name_is_one_dns_label() {
        for good in ["a", "web-01", "0x", &"a".repeat(63)] {
            assert!(good.parse::<DeckyName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "Web", "a.b", "a_b", "ü", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<DeckyName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_service_slug_has_no_hyphen() {
        assert!("docker_api".parse::<ServiceSlug>().is_ok());
        for bad in ["docker-api", "9p", "_x", "SSH", ""] {
            assert!(bad.parse::<ServiceSlug>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mac_is_unicast_and_reads_back() {
        let mac: MacAddress = "02:42:ac:11:00:02".parse().unwrap();
        assert_eq!(mac.to_string().parse::<MacAddress>().unwrap(), mac);
        for bad in [
            "01:00:5e:00:00:01",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:0:2",
            "+2:42:ac:11:00:02",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_is_lower_case_sha256() {
        let digest = Digest::from_sha256([0xab; 32]);
        assert_eq!(digest.as_str().parse::<Digest>().unwrap(), digest);
        assert!(digest.as_str().to_uppercase().parse::<Digest>().is_err());
        assert!("sha256:abcd".parse::<Digest>().is_err());
    }

    #[test]
    fn a_timestamp_survives_a_round_trip() {
        let at = Timestamp::new(time::macros::datetime!(2026-01-02 03:04:05.678901 UTC));
        let text = serde_json::to_string(&at).unwrap();
        assert_eq!(text, "\"2026-01-02T03:04:05.678Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), at);
    }
}
