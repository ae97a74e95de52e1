//! Why the master did not do what it was asked.

use crate::store::StoreError;

/// A refusal or a failure. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("this master has not been initialised: run `decnet init`")]
    NotInitialised,
    #[error("there is no {what} {name}")]
    NotFound { what: &'static str, name: String },
    /// It clashes with what is there.
    #[error("{0}")]
    Conflict(String),
    /// It cannot be right whatever is there.
    #[error("{0}")]
    Invalid(String),
    /// The fleet description is refused, for all these reasons.
    #[error("the fleet description has {} error(s)", .0.len())]
    Fleet(Vec<FleetProblem>),
    /// The caller is not, or is no longer, who may ask this.
    #[error("{0}")]
    Forbidden(String),
    /// The caller was forgotten: all that he is told is this order, a DSSE envelope.
    #[error("this host was ordered to leave the fleet")]
    Leave(String),
    /// Asked too often.
    #[error("{0}")]
    TooMany(String),
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("could not sign or issue {what}")]
    Sign {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// One reason why a fleet description is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetProblem {
    /// The HTTP status of its class: 400, 409 or 422.
    pub status: u16,
    /// The class, such as `address` or `limit`.
    pub class: String,
    /// One line that names line, section and key.
    pub message: String,
}

impl ControlError {
    /// Whether the disk had no room for it.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let Self::Store(StoreError::Open { source, .. } | StoreError::Access { source, .. }) = self else {
            return false;
        };
        matches!(source, redb::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull)
    }

    /// The HTTP status that says it.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::NotFound { .. } => 404,
            Self::Conflict(_) => 409,
            Self::Invalid(_) => 422,
            Self::Forbidden(_) => 403,
            Self::Leave(_) => 410,
            Self::TooMany(_) => 429,
            // Several classes in one answer: the first one met in the text decides, as if it stood alone.
            Self::Fleet(problems) => problems.first().map_or(422, |problem| problem.status),
            Self::NotInitialised | Self::Store(_) | Self::Sign { .. } => 500,
        }
    }
}
