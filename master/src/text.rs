//! Text for people.

use std::error::Error;
use std::fmt::Write as _;

use decnet_wire::ids::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The most characters that a text of a host is kept with.
const HOST_TEXT: usize = 2000;

/// What a host says, as one line of at most 2,000 characters: a host may send megabytes, or words that move a
/// terminal's cursor.
#[must_use]
pub fn from_host(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(HOST_TEXT).map(plain).collect()
}

/// A moment as people write it (RFC 3339).
#[must_use]
pub fn moment(text: &str) -> Option<Timestamp> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(Timestamp::new)
}

/// An error with everything that stands behind it, in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing into a String cannot fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}
