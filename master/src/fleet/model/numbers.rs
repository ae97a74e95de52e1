//! Numbers with a range, and a decky's seed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number or text outside what its place allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
pub struct RangeError {
    what: &'static str,
    rule: &'static str,
}

/// Whole minutes, 1 to 5,256,000 (ten years of 365 days).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Minutes(u32);

impl Minutes {
    /// Ten years of 365 days.
    pub const MAX: u32 = 10 * 525_600;

    /// The number of minutes.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The fleet's rotation interval where nothing else is set: 30 minutes.
impl Default for Minutes {
    fn default() -> Self {
        Self(30)
    }
}

impl TryFrom<u32> for Minutes {
    type Error = RangeError;
    fn try_from(minutes: u32) -> Result<Self, RangeError> {
        if (1..=Self::MAX).contains(&minutes) {
            return Ok(Self(minutes));
        }
        Err(RangeError {
            what: "an interval in minutes",
            rule: "1 to 5256000",
        })
    }
}

impl From<Minutes> for u32 {
    fn from(minutes: Minutes) -> Self {
        minutes.0
    }
}

/// How often one decky changes its services. Three values, so that "never" cannot be read as "as the fleet".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interval {
    /// As the fleet.
    #[default]
    Inherit,
    /// Never.
    Disabled,
    Minutes(Minutes),
}

/// Most deckies in the fleet, 1 to 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct DeploymentLimit(u16);

impl DeploymentLimit {
    /// No fleet has more deckies than this.
    pub const MAX: u16 = 500;

    /// The number of deckies.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl Default for DeploymentLimit {
    fn default() -> Self {
        Self(10)
    }
}

impl TryFrom<u16> for DeploymentLimit {
    type Error = RangeError;
    fn try_from(limit: u16) -> Result<Self, RangeError> {
        if (1..=Self::MAX).contains(&limit) {
            return Ok(Self(limit));
        }
        Err(RangeError {
            what: "the deployment limit",
            rule: "1 to 500",
        })
    }
}

impl From<DeploymentLimit> for u16 {
    fn from(limit: DeploymentLimit) -> Self {
        limit.0
    }
}

/// 32 secret random bytes from which a decky derives everything it shows. Written as 64 hexadecimal digits;
/// `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Seed([u8; 32]);

impl Seed {
    /// A seed of bytes that the caller drew.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 64 hexadecimal digits. Secret.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl TryFrom<String> for Seed {
    type Error = RangeError;
    fn try_from(text: String) -> Result<Self, RangeError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| RangeError {
            what: "a seed",
            rule: "64 hexadecimal digits",
        })?;
        Ok(Self(bytes))
    }
}

impl From<Seed> for String {
    fn from(seed: Seed) -> Self {
        seed.hex()
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// How many deckies a request asks for, 1 to [`DeploymentLimit::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeckyCount(u16);

impl DeckyCount {
    /// The number of deckies.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// One.
impl Default for DeckyCount {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<u16> for DeckyCount {
    type Error = RangeError;
    fn try_from(count: u16) -> Result<Self, RangeError> {
        if (1..=DeploymentLimit::MAX).contains(&count) {
            return Ok(Self(count));
        }
        Err(RangeError {
            what: "a number of deckies",
            rule: "1 to 500",
        })
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A port that something listens on, written `22/tcp`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Port {
    /// Never 0.
    pub number: u16,
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads `22/tcp`, `161/udp`, or `22`, which means TCP.
impl FromStr for Port {
    type Err = RangeError;
    fn from_str(text: &str) -> Result<Self, RangeError> {
        let error = || RangeError {
            what: "a port",
            rule: "1 to 65535 with /tcp or /udp, as in 161/udp",
        };
        let (number, protocol) = match text.split_once('/').unwrap_or((text, "tcp")) {
            (number, "tcp") => (number, Protocol::Tcp),
            (number, "udp") => (number, Protocol::Udp),
            _ => return Err(error()),
        };
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        match number.parse() {
            Ok(number) if digits && number != 0 => Ok(Self { number, protocol }),
            _ => Err(error()),
        }
    }
}

impl TryFrom<String> for Port {
    type Error = RangeError;
    fn try_from(text: String) -> Result<Self, RangeError> {
        text.parse()
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.to_string()
    }
}
