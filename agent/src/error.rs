//! How an error is shown.

use std::error::Error;

/// An error with all its causes, on one line, as people and the master read it.
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat their source in their own text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    one_line(&text)
}

/// The longest error that a report carries (`decnet_wire::report::Outcome::Failed`), in characters.
const LONGEST: usize = 2000;

/// Cuts a text to one line of what a report takes.
#[must_use]
pub(crate) fn one_line(text: &str) -> String {
    cut(&text.split_whitespace().collect::<Vec<_>>().join(" "), 0)
}

/// Cuts a line so that so many characters more are still what a report takes.
#[must_use]
pub(crate) fn cut(line: &str, more: usize) -> String {
    let most = LONGEST.saturating_sub(more);
    if line.chars().count() <= most {
        return line.to_owned();
    }
    let kept = most.saturating_sub(1);
    line.chars().take(kept).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read a")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_is_one_line_with_every_cause_once() {
        let error = Outer(std::io::Error::other("disk\nbroken"));
        assert_eq!(error_chain(&error), "cannot read a: disk broken");
    }

    #[test]
    fn an_endless_error_is_cut_to_what_a_report_takes() {
        let long = one_line(&"é".repeat(5000));
        assert_eq!(long.chars().count(), 2000);
        assert!(long.ends_with('…'));
    }
}
