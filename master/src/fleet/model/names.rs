//! The catalogue's names, and host names of deckies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that cannot be the name that its place asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct NameError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

macro_rules! name {
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
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    return Ok(Self(text.to_owned()));
                }
                Err(NameError { what: $what, text: text.chars().take(80).collect(), rule: $rule })
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
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

name!(
    /// A kind of machine, such as `web-server`.
    ArchetypeSlug,
    "archetype",
    "1 to 32 of a-z, 0-9, '-' and '_', starting with a letter",
    is_slug
);
name!(
    /// A distribution that a decky claims to run, such as `debian`.
    DistroSlug,
    "distro",
    "1 to 32 of a-z, 0-9, '-' and '_', starting with a letter",
    is_slug
);
name!(
    /// An operating system family, such as `linux`: what the network stack looks like.
    OsFamilySlug,
    "OS family",
    "1 to 32 of a-z, 0-9, '-' and '_', starting with a letter",
    is_slug
);
name!(
    /// What a decky calls itself: labels of letters, digits and '-' (RFC 1123 §2.1), at most 63 bytes (Linux
    /// `HOST_NAME_MAX`, less its NUL).
    Hostname,
    "host name",
    "1 to 63 of letters, digits, '-' and '.', no empty label",
    |text| (1..=63).contains(&text.len())
        && text.split('.').all(|label| !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
);

impl OsFamilySlug {
    /// The family of a decky for which nothing else is said. Always in the catalogue: built-in entries can be
    /// replaced, never removed.
    #[must_use]
    pub fn linux() -> Self {
        Self("linux".to_owned())
    }
}

fn is_slug(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        && text.starts_with(|c: char| c.is_ascii_lowercase())
}
