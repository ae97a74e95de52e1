//! What an agent says of how it began, and whether that is good enough to keep its version.
//!
//! Only what a release can be blamed for counts. A master that is away or answers errors, an engine that nobody reaches:
//! neither says anything about the new version.

use serde::{Deserialize, Serialize};

/// What an agent says at `GET /health`. Its ledger is open, or it would say nothing. Other versions read it: fields are only
/// added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Health {
    /// Whose answer it is.
    pub(crate) process: u32,
    pub(crate) bundle: BundleHealth,
    /// Why the engine was not reached; none when it was.
    #[serde(default)]
    pub(crate) engine: Option<String>,
    pub(crate) poll: Poll,
    /// Why the newest poll failed.
    #[serde(default)]
    pub(crate) poll_error: Option<String>,
}

/// What became of the bundle that was accepted last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BundleHealth {
    /// None was ever accepted.
    #[default]
    None,
    /// It was verified, and is what this host is held to.
    Good,
    /// It cannot be used.
    Bad,
}

/// How the newest poll went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Poll {
    /// None has ended.
    #[default]
    NotTried,
    /// The master answered as it should.
    Answered,
    /// The master is away, or answered an error.
    Away,
    /// It failed on this side.
    Failed,
}

/// What was so before the update, whoever is to blame for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Before {
    pub(super) bundle: BundleHealth,
    pub(super) poll: Poll,
}

impl From<&Health> for Before {
    fn from(health: &Health) -> Self {
        Self {
            bundle: health.bundle,
            poll: health.poll,
        }
    }
}

/// Whether an agent has begun well; `engine_answers` says whether anybody else reaches the engine.
///
/// # Errors
/// What is missing yet, in a few words.
pub(super) fn judge(before: Before, health: &Health, engine_answers: bool) -> Result<(), String> {
    match (before.bundle, health.bundle) {
        (_, BundleHealth::Good) | (BundleHealth::None | BundleHealth::Bad, BundleHealth::None) => {}
        (BundleHealth::Bad, BundleHealth::Bad) => {}
        (_, BundleHealth::Bad) => return Err("it cannot use the bundle that was accepted".to_owned()),
        (BundleHealth::Good, BundleHealth::None) => {
            return Err("its ledger has lost the bundle that was accepted".to_owned());
        }
    }
    if let Some(error) = health.engine.as_ref().filter(|_| engine_answers) {
        return Err(format!(
            "it does not reach the engine, which answers others: {error}"
        ));
    }
    match (before.poll, health.poll) {
        (_, Poll::Answered | Poll::Away) | (Poll::Failed, Poll::Failed) => Ok(()),
        (_, Poll::NotTried) => Err("it has not asked the master".to_owned()),
        (_, Poll::Failed) => Err(format!(
            "it cannot speak with the master: {}",
            health.poll_error.as_deref().unwrap_or("it does not say why")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health {
            process: 1,
            bundle: BundleHealth::Good,
            engine: None,
            poll: Poll::Answered,
            poll_error: None,
        }
    }

    const WELL: Before = Before {
        bundle: BundleHealth::Good,
        poll: Poll::Answered,
    };

    #[test]
    fn an_agent_is_good_that_has_its_bundle_and_reached_engine_and_master() {
        judge(WELL, &health(), true).unwrap();
        judge(Before::default(), &health(), true).unwrap();
    }

    #[test]
    fn each_thing_that_a_release_can_be_blamed_for_counts() {
        type Change = fn(&mut Health);
        let bad: [(Change, &str); 5] = [
            (|h| h.bundle = BundleHealth::Bad, "cannot use the bundle"),
            (|h| h.bundle = BundleHealth::None, "lost the bundle"),
            (
                |h| h.engine = Some("refused".to_owned()),
                "does not reach the engine",
            ),
            (|h| h.poll = Poll::NotTried, "not asked the master"),
            (|h| h.poll = Poll::Failed, "cannot speak with the master"),
        ];
        for (change, says) in bad {
            let mut found = health();
            change(&mut found);
            let why = judge(WELL, &found, true).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn what_a_release_cannot_be_blamed_for_does_not() {
        let away = Health {
            poll: Poll::Away,
            poll_error: Some("connection refused".to_owned()),
            ..health()
        };
        judge(WELL, &away, true).unwrap();
        let no_engine = Health {
            engine: Some("no such file".to_owned()),
            ..health()
        };
        judge(WELL, &no_engine, false).unwrap();
        let fresh = Health {
            bundle: BundleHealth::None,
            ..health()
        };
        judge(Before::default(), &fresh, true).unwrap();
        let failed = Health {
            poll: Poll::Failed,
            ..health()
        };
        let before = Before {
            poll: Poll::Failed,
            ..WELL
        };
        judge(before, &failed, true).unwrap();
    }
}
