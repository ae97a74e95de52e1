//! Where agent and updater keep what, and in which form.
//!
//! The agent writes into its own folder alone, the updater into both. The agent only reads the updater's.

use std::path::{Path, PathBuf};

use decnet_pki::files::{self, FileError};
use decnet_wire::ids::Digest;
use decnet_wire::release::{Format, Progress};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::health::Before;
use super::phase::Phase;
use crate::config::Config;

const SCHEMA: u32 = 1;
/// More than any of these documents has.
const LONGEST: usize = 1024 * 1024;

/// What the agent asks the updater for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    pub(super) schema: u32,
    /// The signed release.
    pub(super) release: Value,
    /// The package that was fetched.
    pub(super) package: Digest,
}

impl Request {
    pub(super) fn new(release: Value, package: Digest) -> Self {
        Self {
            schema: SCHEMA,
            release,
            package,
        }
    }
}

/// An update under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Journal {
    pub(super) schema: u32,
    pub(super) phase: Phase,
    /// The signed release.
    pub(super) release: Value,
    pub(super) format: Format,
    /// What was installed before, as the package manager has it.
    pub(super) previous: String,
    pub(super) before: Before,
}

impl Journal {
    pub(super) const SCHEMA: u32 = SCHEMA;
}

/// What became of updates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) schema: u32,
    /// The highest sequence that was acted on: none that is not beyond it is taken again.
    pub(crate) taken: u64,
    pub(crate) last: Option<Progress>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            taken: 0,
            last: None,
        }
    }
}

/// The paths.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    agent: PathBuf,
    updater: PathBuf,
}

impl Places {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            agent: config.state_dir.join("update"),
            updater: config.updater_dir(),
        }
    }

    /// What the agent writes into.
    pub(super) fn agent(&self) -> &Path {
        &self.agent
    }

    pub(super) fn updater(&self) -> &Path {
        &self.updater
    }

    pub(super) fn request(&self) -> PathBuf {
        self.agent.join("request.json")
    }

    /// The package as the agent has fetched it.
    pub(super) fn fetched(&self, package: &Digest) -> PathBuf {
        self.agent.join(package.hex())
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.updater.join("journal.json")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.updater.join("state.json")
    }

    /// The program of before: an update that was cut off is taken up by it.
    pub(super) fn program(&self) -> PathBuf {
        self.updater.join("decnet-agent")
    }

    /// The package that is installed.
    pub(super) fn package(&self, format: Format) -> PathBuf {
        self.updater.join(format!("new.{format}"))
    }

    /// The files of before.
    pub(super) fn previous(&self) -> PathBuf {
        self.updater.join("previous")
    }

    /// What the package manager is told of the version of before: dpkg by a package, rpm by its record.
    pub(super) fn record(&self, format: Format) -> PathBuf {
        self.updater.join(match format {
            Format::Deb => "previous.deb",
            Format::Rpm => "previous.header",
        })
    }

    /// What became of updates; none of them, where there is nothing to be read.
    pub(crate) fn read_state(&self) -> State {
        match read(&self.state()) {
            Ok(state) => state.unwrap_or_default(),
            Err(error) => {
                tracing::warn!("what became of updates is not known: {error}");
                State::default()
            }
        }
    }
}

/// What `decnet-agent update` shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// Whether this host updates itself.
    pub updater: bool,
    /// The highest sequence of a release that was acted on.
    pub taken: u64,
    /// What became of the last one.
    pub last: Option<Progress>,
    /// Whether an update is under way.
    pub under_way: bool,
}

impl Overview {
    /// Reads the updater's folder.
    #[must_use]
    pub fn read(config: &Config) -> Self {
        let places = Places::of(config);
        let State { taken, last, .. } = places.read_state();
        Self {
            updater: config.updater,
            taken,
            last,
            under_way: places.journal().exists() || places.request().exists(),
        }
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let updater = if self.updater {
            "on"
        } else {
            "off: set `[agent] updater = true` in /etc/decnet/decnet.ini"
        };
        let last = self
            .last
            .as_ref()
            .map_or_else(|| "nothing was installed yet".to_owned(), progress_text);
        let now = if self.under_way { "under way" } else { "none" };
        format!(
            "{:<12} {updater}\n{:<12} {last}\n{:<12} {now}\n",
            "updater", "last", "update"
        )
    }
}

/// One line about a release on this host.
pub(crate) fn progress_text(progress: &Progress) -> String {
    let mut text = format!(
        "version {} (release {}): {}",
        progress.version,
        progress.sequence,
        progress.state.as_str()
    );
    if let Some(detail) = &progress.detail {
        text.push_str(&format!(", {detail}"));
    }
    text
}

/// Reads a document; none where there is no file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    if !path.try_exists().unwrap_or(true) {
        return Ok(None);
    }
    let bytes = files::read_private(path, LONGEST).map_err(|error| crate::error_chain(&error))?;
    let document = serde_json::from_slice(&bytes);
    document
        .map(Some)
        .map_err(|error| format!("{} is damaged: {error}", path.display()))
}

/// Replaces a document as a whole; it is on the disk when this returns.
pub(super) fn write<T: Serialize>(path: &Path, document: &T) -> Result<(), FileError> {
    // Texts and numbers: they can be written as JSON.
    let bytes = serde_json::to_vec_pretty(document).unwrap_or_default();
    files::write_private(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_document_is_replaced_as_a_whole_and_what_is_damaged_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::of(&Config::new(folder.path().join("agent")));
        files::create_private_dir(places.updater()).unwrap();
        let path = places.state();
        let known = |taken| State {
            taken,
            ..State::default()
        };
        write(&path, &known(1)).unwrap();
        // Held open, so that its number is not given again.
        let before = std::fs::File::open(&path).unwrap().metadata().unwrap();
        let held = std::fs::File::open(&path).unwrap();
        write(&path, &known(2)).unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_ne!(before.ino(), after.ino(), "it was written over");
        assert_eq!(after.mode() & 0o777, 0o600);
        drop(held);
        assert_eq!(places.read_state().taken, 2);

        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(read::<State>(&path).unwrap_err().contains("is damaged"));
        assert_eq!(places.read_state(), State::default());
    }
}
