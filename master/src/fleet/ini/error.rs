//! What is wrong with a fleet INI, or with deploying it.

use std::fmt;

use serde::Serialize;

use super::At;

/// Most faults in one answer; one more entry counts the rest.
pub const MAX_ERRORS: usize = 100;

/// One fault: where, what and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IniError {
    /// From 1; none when no line is to blame.
    pub line: Option<usize>,
    pub section: Option<String>,
    pub key: Option<String>,
    pub class: IniClass,
    /// What is wrong and what to do, without the place.
    pub message: String,
}

impl IniError {
    /// A fault without a place.
    #[must_use]
    pub fn new(class: IniClass, message: impl Into<String>) -> Self {
        Self {
            line: None,
            section: None,
            key: None,
            class,
            message: message.into(),
        }
    }

    /// The same at a line; 0 is none.
    #[must_use]
    pub fn line(mut self, line: usize) -> Self {
        self.line = (line > 0).then_some(line);
        self
    }

    /// The same in a section.
    #[must_use]
    pub fn section(mut self, section: &str) -> Self {
        self.section = Some(shown(section));
        self
    }

    /// The same at the place of a value.
    #[must_use]
    pub fn at<T>(self, at: &At<T>) -> Self {
        self.line(at.line).section(&at.section).key(&at.key)
    }

    /// The same at a key.
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(shown(key));
        self
    }
}

impl fmt::Display for IniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if let Some(section) = &self.section {
            write!(f, "[{section}] ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for IniError {}

/// The kind of a fault; decides the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IniClass {
    /// The request has no text, or keys that it must not have.
    Structural,
    /// A request field has the wrong type.
    RequestValidation,
    /// Nothing but white space.
    Empty,
    TooLarge,
    Syntax,
    /// Only comments, or only `[DEFAULT]`.
    NoSections,
    UnknownKey,
    /// A key or a section twice.
    Duplicate,
    Amount,
    AmountLimit,
    /// `ip` together with an amount.
    IpAmount,
    IntervalType,
    IntervalRange,
    Name,
    Archetype,
    Service,
    OsFamily,
    Distro,
    Persona,
    /// What a decky may call.
    Egress,
    /// A `[custom-NAME]` section.
    Custom,
    Address,
    /// No free address is left.
    Exhausted,
    /// Subnet, gateway or interface are unknown, or would change under running deckies.
    Network,
    /// No host can take a decky.
    Host,
    /// No decky in the file, and none deployed.
    EmptyFleet,
    /// No decky in the file, while some are deployed.
    NothingToDeploy,
    /// A name or an address is taken.
    Collision,
    /// Over the deployment limit.
    Limit,
    /// Counts the faults that are not listed.
    More,
}

impl IniClass {
    /// The HTTP status of a refusal of this class.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Structural => 400,
            Self::RequestValidation | Self::TooLarge | Self::EmptyFleet => 422,
            _ => 409,
        }
    }
}

/// The class as JSON has it, such as `ip-amount`.
impl fmt::Display for IniClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The HTTP status of a whole refusal: that of its first fault.
#[must_use]
pub fn status(errors: &[IniError]) -> u16 {
    errors.first().map_or(409, |error| error.class.status())
}

/// Faults as they are found. Keeps a bounded number, whatever the text, and counts the rest.
#[derive(Debug, Default)]
pub(in crate::fleet) struct Faults {
    errors: Vec<IniError>,
    dropped: usize,
}

impl Faults {
    /// Most faults kept before the first ones by line are chosen.
    const KEPT: usize = 10 * MAX_ERRORS;

    pub(in crate::fleet) fn push(&mut self, error: IniError) {
        // One line of [DEFAULT] is looked at once for every section that inherits it.
        if error.section.as_deref() == Some("DEFAULT") && self.errors.contains(&error) {
            return;
        }
        if self.errors.len() < Self::KEPT {
            self.errors.push(error);
        } else {
            self.dropped += 1;
        }
    }

    pub(in crate::fleet) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// At most [`MAX_ERRORS`], in line order, and a count of the rest.
    pub(in crate::fleet) fn into_errors(mut self) -> Vec<IniError> {
        self.errors.sort_by_key(|error| error.line.unwrap_or(usize::MAX));
        let more = self.errors.len().saturating_sub(MAX_ERRORS) + self.dropped;
        if more > 0 {
            let line = self.errors.get(MAX_ERRORS).and_then(|error| error.line);
            self.errors.truncate(MAX_ERRORS);
            let message = format!("and {more} more faults; correct the ones above first");
            self.errors.push(IniError {
                line,
                ..IniError::new(IniClass::More, message)
            });
        }
        self.errors
    }
}

/// Outside text as messages show it: short and on one line.
pub(in crate::fleet) fn shown(text: &str) -> String {
    let cut: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        format!("{cut}…")
    } else {
        cut
    }
}
