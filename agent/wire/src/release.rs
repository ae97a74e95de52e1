//! Releases of the agent: which packages hosts may install, signed by the operators of the trust root; and what a host
//! says of what became of one.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{Digest, FleetId, ParseError, Timestamp, text_id};

/// The DSSE payload type of a [`Release`].
pub const PAYLOAD_TYPE: &str = "application/vnd.decnet.release+json";
/// The version of this document's form.
pub const SCHEMA: u32 = 1;
/// The whole fleet, in a [`Rollout`].
pub const WHOLE: u16 = 1000;

/// A version that may be installed. Signed, so that nobody else puts a program on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ReleaseFields")]
pub struct Release {
    /// Always [`SCHEMA`].
    pub schema: u32,
    pub fleet: FleetId,
    /// Strictly increasing over the fleet, from 1. A host takes none that is not newer than what it took before.
    pub sequence: u64,
    pub version: Version,
    /// The version is lower than one before it, and that is meant: a host takes no lower version otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub downgrade: bool,
    pub issued_at: Timestamp,
    /// One for each kind of host; at least one.
    pub packages: Vec<Package>,
}

/// A [`Release`] as JSON has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseFields {
    schema: u32,
    fleet: FleetId,
    sequence: u64,
    version: Version,
    #[serde(default)]
    downgrade: bool,
    issued_at: Timestamp,
    packages: Vec<Package>,
}

/// A release that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    #[error("a release's sequence begins at 1")]
    Sequence,
    #[error("it has no packages")]
    NoPackages,
    #[error("it has two packages for {format} on {architecture}")]
    Twice {
        format: Format,
        architecture: Architecture,
    },
}

impl TryFrom<ReleaseFields> for Release {
    type Error = ReleaseError;
    fn try_from(fields: ReleaseFields) -> Result<Self, ReleaseError> {
        let ReleaseFields {
            schema,
            fleet,
            sequence,
            version,
            downgrade,
            issued_at,
            packages,
        } = fields;
        if sequence == 0 {
            return Err(ReleaseError::Sequence);
        }
        if packages.is_empty() {
            return Err(ReleaseError::NoPackages);
        }
        for (index, package) in packages.iter().enumerate() {
            let is_same = |other: &Package| {
                other.format == package.format && other.architecture == package.architecture
            };
            if packages[..index].iter().any(is_same) {
                return Err(ReleaseError::Twice {
                    format: package.format,
                    architecture: package.architecture.clone(),
                });
            }
        }
        Ok(Self {
            schema,
            fleet,
            sequence,
            version,
            downgrade,
            issued_at,
            packages,
        })
    }
}

impl Release {
    /// The package for a kind of host.
    #[must_use]
    pub fn package(&self, format: Format, architecture: &str) -> Option<&Package> {
        let mut packages = self.packages.iter();
        packages.find(|package| package.format == format && package.architecture.as_str() == architecture)
    }
}

/// A package of the agent, which hosts fetch as a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    pub format: Format,
    pub architecture: Architecture,
    /// SHA-256 of the file.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// For which package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// dpkg's.
    Deb,
    /// rpm's.
    Rpm,
}

impl Format {
    /// How such a file's name ends.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

text_id!(
    /// A processor as Rust calls it: `x86_64`, `aarch64`.
    Architecture,
    "architecture",
    "1 to 32 of a-z, 0-9 and '_'",
    |text| (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
);

/// A version that means the same to dpkg and to rpm. Ordered as dpkg orders them (deb-version(7)).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);

impl Version {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Version {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'~';
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_digit());
        if starts && text.len() <= 64 && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::new(
                "version",
                text,
                "1 to 64 digits, letters, dots and tildes, a digit first",
            ))
        }
    }
}

impl TryFrom<String> for Version {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.0.as_bytes(), other.0.as_bytes()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Parts that are no digits and parts that are, by turns (deb-version(7), "Sorting algorithm").
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (words_a, rest_a) = a.split_at(length(a, |b| !b.is_ascii_digit()));
        let (words_b, rest_b) = b.split_at(length(b, |b| !b.is_ascii_digit()));
        let longest = words_a.len().max(words_b.len());
        let weight = |words: &[u8], at: usize| words.get(at).map_or(0, |byte| weight(*byte));
        let words = (0..longest)
            .map(|at| weight(words_a, at).cmp(&weight(words_b, at)))
            .find(|order| order.is_ne());
        if let Some(order) = words {
            return order;
        }
        let (number_a, next_a) = rest_a.split_at(length(rest_a, |b| b.is_ascii_digit()));
        let (number_b, next_b) = rest_b.split_at(length(rest_b, |b| b.is_ascii_digit()));
        let significant = |digits: &[u8]| digits.len() - length(digits, |b| b == b'0');
        let (digits_a, digits_b) = (
            &number_a[number_a.len() - significant(number_a)..],
            &number_b[number_b.len() - significant(number_b)..],
        );
        let numbers = digits_a
            .len()
            .cmp(&digits_b.len())
            .then_with(|| digits_a.cmp(digits_b));
        if numbers.is_ne() {
            return numbers;
        }
        (a, b) = (next_a, next_b);
    }
    Ordering::Equal
}

fn length(text: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    text.iter().take_while(|byte| belongs(**byte)).count()
}

/// A tilde is before the end, that before letters, and those before everything else.
fn weight(byte: u8) -> i32 {
    match byte {
        b'~' => -1,
        letter if letter.is_ascii_alphabetic() => i32::from(letter),
        other => i32::from(other) + 256,
    }
}

/// The order to install a release, as far as it is rolled out: the same for every host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// A signed [`Release`]: a DSSE envelope.
    pub release: Value,
    /// Hosts whose position is below it begin; [`WHOLE`] means every host.
    pub per_mille: u16,
}

/// What became of a release on a host. Part of its heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    pub sequence: u64,
    pub version: Version,
    /// SHA-256 of the release's payload.
    pub release: Digest,
    pub state: ProgressState,
    /// One line: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How far a host is with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProgressState {
    /// This host does not update itself: its settings say so, or it has no package.
    Off,
    /// It is not this host's turn.
    Waiting,
    /// The package is on its way.
    Fetching,
    /// The updater has it.
    Installing,
    /// The new version runs and is kept.
    Kept,
    /// The new version did not work: the previous one runs again.
    Restored,
    /// Nothing was installed: something about the release or its package is wrong.
    Refused,
}

impl ProgressState {
    /// The name in documents and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Waiting => "waiting",
            Self::Fetching => "fetching",
            Self::Installing => "installing",
            Self::Kept => "kept",
            Self::Restored => "restored",
            Self::Refused => "refused",
        }
    }

    /// Whether the release is no good for this host.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Restored | Self::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        // As `dpkg --compare-versions A lt B` has it.
        let ascending = [
            "0.1.0~rc1",
            "0.1.0~rc2",
            "0.1.0",
            "0.1.0a",
            "0.1.1",
            "0.2",
            "0.2.0",
            "0.9.0",
            "0.10.0",
            "1.0~",
            "1.0",
            "1.0a",
            "1.0.1",
            "10",
        ];
        for (at, lower) in ascending.iter().enumerate() {
            for higher in &ascending[at + 1..] {
                assert!(version(lower) < version(higher), "{lower} {higher}");
                assert!(version(higher) > version(lower), "{lower} {higher}");
            }
        }
        assert_eq!(compare(b"1.01", b"1.1"), Ordering::Equal);
    }

    #[test]
    fn a_version_is_what_packages_may_be_called() {
        for bad in ["", "v1", "1-2", "1 2", "1/2", "~1", "1:2"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_release_that_makes_no_sense_is_none() {
        let package = serde_json::json!({
            "format": "deb", "architecture": "x86_64", "digest": Digest::from_sha256([1; 32]), "size": 1
        });
        let release = |sequence: u64, packages: Vec<Value>| {
            serde_json::from_value::<Release>(serde_json::json!({
                "schema": 1,
                "fleet": "6d2f7d0a-53a4-4f7d-8a35-0c9f5f5a1111",
                "sequence": sequence,
                "version": "1.0",
                "issued_at": "2026-01-02T03:04:05.678Z",
                "packages": packages,
            }))
        };
        let told = |result: Result<Release, serde_json::Error>| result.unwrap_err().to_string();
        assert!(release(1, vec![package.clone()]).is_ok());
        assert!(told(release(0, vec![package.clone()])).contains("begins at 1"));
        assert!(told(release(1, Vec::new())).contains("no packages"));
        assert!(told(release(1, vec![package.clone(), package])).contains("two packages for deb on x86_64"));
    }
}
