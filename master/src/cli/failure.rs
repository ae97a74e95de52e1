//! Why a command did not do what it was told, and the exit code that says so.

use super::table::printable;

/// A failure. Each line says what, on what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The operation was begun and failed, or something on this machine failed.
    #[error("{0}")]
    Failed(String),
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// No master answers.
    #[error("{0}")]
    Unreachable(String),
    /// The master refuses, for all these reasons.
    #[error("{}", .0.join("; "))]
    Refused(Vec<String>),
    /// The caller may not.
    #[error("{0}")]
    Denied(String),
    /// Whoever reads the output has seen enough, as `head` does. No failure of ours.
    #[error("nobody reads the output any more")]
    ReaderLeft,
}

impl Failure {
    /// One refusal.
    pub(super) fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(vec![reason.into()])
    }

    /// The process's exit code. 0 is success; 2 is also what a command line that does not parse ends with.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::ReaderLeft => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Refused(_) => 4,
            Self::Denied(_) => 5,
        }
    }

    /// What to print, line by line. Holds nothing that a terminal would obey.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Refused(reasons) => reasons.iter().map(|reason| printable(reason)).collect(),
            Self::ReaderLeft => Vec::new(),
            other => vec![printable(&other.to_string())],
        }
    }
}

/// The exit codes, as help and manual give them.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the operation failed
  2  the command line is wrong
  3  the master is not reachable
  4  the master refused; every reason is printed
  5  no permission";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_has_its_own_exit_code() {
        let text = || "x".to_owned();
        let failures = [
            Failure::Failed(text()),
            Failure::Usage(text()),
            Failure::Unreachable(text()),
            Failure::refused("x"),
            Failure::Denied(text()),
        ];
        let codes: Vec<u8> = failures.iter().map(Failure::code).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5]);
        for code in codes {
            assert!(
                EXIT_CODES.contains(&format!("\n  {code}  ")),
                "{code} is not documented"
            );
        }
    }

    #[test]
    fn a_refusal_prints_every_reason_in_a_line_of_its_own() {
        let failure = Failure::Refused(vec!["line 3: a".to_owned(), "line 9:\nb".to_owned()]);
        assert_eq!(failure.lines(), ["line 3: a", "line 9: b"]);
    }
}
