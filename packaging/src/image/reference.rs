//! An image's name: `repository:tag` without a registry, as the engine shows it.

use std::fmt;
use std::str::FromStr;

/// Length limits of the distribution reference grammar.
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// `namespace/name:tag`; never a registry host, never a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    repository: String,
    tag: String,
}

/// Why a text is not an image reference.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("it has no tag; write it as namespace/name:tag")]
    NoTag,
    #[error(
        "`{0}` is not a repository of this form: namespace/name, of lower-case letters and digits, \
         separated by single . _ or any number of -"
    )]
    Repository(String),
    #[error("`{0}` is not a tag: up to 128 letters, digits, _ . -, not starting with . or -")]
    Tag(String),
}

impl Reference {
    /// The name used when none is given. `short` is hex, so it is a valid tag.
    pub(super) fn decoy(short: &str) -> Self {
        Self {
            repository: "decnet/decoy".to_owned(),
            tag: short.to_owned(),
        }
    }

    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// With the registry that engines assume when a name has none; containerd wants it spelt out.
    pub(super) fn familiar_to_full(&self) -> String {
        format!("docker.io/{self}")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (repository, tag) = text.rsplit_once(':').ok_or(ReferenceError::NoTag)?;
        if repository.len() > MAX_REPOSITORY || !is_repository(repository) {
            return Err(ReferenceError::Repository(repository.to_owned()));
        }
        let tag_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if tag.is_empty() || tag.len() > MAX_TAG || tag.starts_with(['.', '-']) || !tag.chars().all(tag_char)
        {
            return Err(ReferenceError::Tag(tag.to_owned()));
        }
        Ok(Self {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

/// Two components or more: a single one would mean `docker.io/library/…` to the engine. A dot in the first
/// would mean a registry host.
fn is_repository(text: &str) -> bool {
    let components: Vec<&str> = text.split('/').collect();
    components.len() >= 2
        && !components[0].contains('.')
        && components[0] != "localhost"
        && components.iter().all(|component| is_component(component))
}

fn is_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(word)
        && text.ends_with(word)
        && text.chars().all(|c| word(c) || matches!(c, '.' | '_' | '-'))
        && !["..", "._", "_.", ".-", "-.", "_-", "-_", "___"]
            .iter()
            .any(|bad| text.contains(bad))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_an_engine_accepts_round_trip() {
        for text in [
            "decnet/decoy:1",
            "decnet/decoy:abc_1.2-3",
            "a/b-c/d:latest",
            "a/b__c:1",
        ] {
            assert_eq!(
                text.parse::<Reference>().map(|r| r.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn names_an_engine_would_refuse_or_read_differently_are_refused() {
        for text in [
            "decoy",
            "decoy:1",
            "a/b",
            "A/b:1",
            "reg.example/b:1",
            "localhost/b:1",
            "a/b:",
            "a/b:-1",
            "a//b:1",
            "a/b@sha256:1",
            "a/b..c:1",
            "a/b:x y",
            "a/-b:1",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text} was accepted");
        }
    }
}
