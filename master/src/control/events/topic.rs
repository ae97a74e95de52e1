//! What events are about, and which of them somebody wants.

use std::fmt;
use std::str::FromStr;

use decnet_wire::ids::{DeckyName, HostName};

/// The longest pattern, in bytes.
const PATTERN: usize = 200;
/// Patterns of one filter.
const PATTERNS: usize = 16;

/// `decky.<name>.lifecycle|state|mutation` or `host.<name>.state`. Names have no dot: a topic is three words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    about: About,
    name: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Decky,
    Host,
}

impl About {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Decky => "decky",
            Self::Host => "host",
        }
    }
}

/// A topic's last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Lifecycle,
    State,
    Mutation,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::State => "state",
            Self::Mutation => "mutation",
        }
    }
}

impl Topic {
    pub(super) fn decky(name: &DeckyName, kind: Kind) -> Self {
        Self {
            about: About::Decky,
            name: name.to_string(),
            kind,
        }
    }

    pub(super) fn host(name: &HostName) -> Self {
        Self {
            about: About::Host,
            name: name.to_string(),
            kind: Kind::State,
        }
    }

    /// What [`Topic::class`] may be.
    pub(crate) const CLASSES: [&'static str; 4] = ["lifecycle", "decky_state", "mutation", "host_state"];

    /// As it is counted: a fixed number of them.
    pub(super) const fn class(&self) -> &'static str {
        match (self.about, self.kind) {
            (About::Host, _) => "host_state",
            (About::Decky, Kind::Lifecycle) => "lifecycle",
            (About::Decky, Kind::State) => "decky_state",
            (About::Decky, Kind::Mutation) => "mutation",
        }
    }

    fn words(&self) -> [&str; 3] {
        [self.about.as_str(), &self.name, self.kind.as_str()]
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [about, name, kind] = self.words();
        write!(f, "{about}.{name}.{kind}")
    }
}

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error(
        "{0:?} is no topic: write words of a-z, 0-9, '-' and '_' with dots between them, '*' for one word, and '>' at the end \
         for all that follow, as in decky.*.lifecycle or host.>"
    )]
    Pattern(String),
    #[error("more than {PATTERNS} topics")]
    TooMany,
}

/// Words with dots between them. `*` stands for one word, `>` at the end for one or more.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    words: Vec<Option<String>>,
    rest: bool,
}

impl FromStr for Pattern {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let wrong = || FilterError::Pattern(text.chars().take(PATTERN).collect());
        let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        if text.len() > PATTERN {
            return Err(wrong());
        }
        let mut pattern = Self {
            words: Vec::new(),
            rest: false,
        };
        for word in text.split('.') {
            if pattern.rest || word.is_empty() {
                return Err(wrong());
            }
            match word {
                ">" => pattern.rest = true,
                "*" => pattern.words.push(None),
                word if word.bytes().all(plain) => pattern.words.push(Some(word.to_owned())),
                _ => return Err(wrong()),
            }
        }
        Ok(pattern)
    }
}

impl Pattern {
    fn takes(&self, topic: &Topic) -> bool {
        let words = topic.words();
        let fits = if self.rest {
            self.words.len() < words.len()
        } else {
            self.words.len() == words.len()
        };
        fits && self
            .words
            .iter()
            .zip(words)
            .all(|(pattern, word)| pattern.as_deref().is_none_or(|pattern| pattern == word))
    }
}

/// The topics that somebody wants: those that any pattern takes, or all where there is no pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter(Vec<Pattern>);

impl Filter {
    /// Every topic.
    #[must_use]
    pub const fn all() -> Self {
        Self(Vec::new())
    }

    /// # Errors
    /// One is no pattern, or there are more than 16.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, FilterError> {
        let mut filter = Self::all();
        for pattern in patterns {
            if filter.0.len() == PATTERNS {
                return Err(FilterError::TooMany);
            }
            filter.0.push(pattern.parse()?);
        }
        Ok(filter)
    }

    #[must_use]
    pub fn takes(&self, topic: &Topic) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.takes(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> [Topic; 4] {
        let decky = |kind| Topic::decky(&"web".parse().unwrap(), kind);
        [
            decky(Kind::Lifecycle),
            decky(Kind::State),
            decky(Kind::Mutation),
            Topic::host(&"edge-01".parse().unwrap()),
        ]
    }

    #[test]
    fn a_star_is_one_word_and_an_angle_is_all_the_rest() {
        for (pattern, taken) in [
            ("decky.web.lifecycle", [true, false, false, false]),
            ("decky.*.lifecycle", [true, false, false, false]),
            ("decky.web.*", [true, true, true, false]),
            ("*.*.state", [false, true, false, true]),
            ("decky.>", [true, true, true, false]),
            ("decky.web.>", [true, true, true, false]),
            (">", [true, true, true, true]),
            ("*.>", [true, true, true, true]),
            ("host.edge-01.state", [false, false, false, true]),
            // Nothing is left for the angle, or too few words are there.
            ("decky.web.lifecycle.>", [false; 4]),
            ("decky.*", [false; 4]),
            ("*", [false; 4]),
            ("decky.we.lifecycle", [false; 4]),
        ] {
            let filter = Filter::new([pattern]).unwrap();
            assert_eq!(topics().map(|topic| filter.takes(&topic)), taken, "{pattern}");
        }
        let either = Filter::new(["host.>", "decky.*.mutation"]).unwrap();
        assert_eq!(
            topics().map(|topic| either.takes(&topic)),
            [false, false, true, true]
        );
        assert_eq!(topics().map(|topic| Filter::all().takes(&topic)), [true; 4]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let long = "a".repeat(PATTERN + 1);
        for bad in [
            "",
            ".",
            "decky.",
            "decky..state",
            "a>",
            ">.a",
            "de*y.web",
            "Decky.web.state",
            "a b",
            &long,
        ] {
            assert!(
                matches!(Filter::new([bad]), Err(FilterError::Pattern(_))),
                "{bad}"
            );
        }
        assert_eq!(Filter::new(vec![">"; 17]), Err(FilterError::TooMany));
        assert!(Filter::new(vec![">"; 16]).is_ok());
    }
}
