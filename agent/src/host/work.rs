//! The reaper's folder, beside the state folder and outside of every package: the program it runs from, the identity that
//! it signs with, and its journal.
//!
//! Guarantees: the journal is written last, so that a folder with one is whole; it is replaced as a whole and synchronised,
//! so that after a power cut it says a phase that was reached.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use decnet_pki::files::{self, FileError};
use decnet_wire::ids::{FleetId, HostId, Timestamp};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::identity::{Identity, IdentityError};

/// What is added to the state folder's name.
const SUFFIX: &str = "-reaper";
const JOURNAL: &str = "journal.json";
const PROGRAM: &str = "decnet-agent";
const LOCK: &str = "lock";
/// More than any journal has: a name for each thing that was removed.
const JOURNAL_CAP: usize = 8 * 1024 * 1024;

/// The folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work(PathBuf);

/// How far the reaper is. Each phase can be begun again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// Have it go on after a reboot.
    Arm,
    /// Stop the agent and what belongs to it.
    Units,
    /// Look at the engine once more, now that nothing of ours works there.
    Engine,
    /// Remove the package, or the files of an install by hand.
    Package,
    /// Remove what no package owns.
    Paths,
    /// Look for what is left.
    Verify,
    /// Tell the master.
    Tombstone,
    /// Erase the identity, and then itself.
    Erase,
}

/// The reaper's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Job {
    pub(crate) schema: u32,
    pub(crate) fleet: FleetId,
    pub(crate) host: HostId,
    /// The signed order.
    pub(crate) order: serde_json::Value,
    /// `host:port` of the enrolment listener, which takes tombstones.
    pub(crate) enrol_at: Option<String>,
    pub(crate) docker_socket: PathBuf,
    pub(crate) state_dir: PathBuf,
    /// The agent's program as it was started.
    pub(crate) program: PathBuf,
    /// Images that were fetched or built for this host, by name.
    pub(crate) images: BTreeSet<String>,
    pub(crate) phase: Phase,
    /// What was there and belongs to the agent, noted before it is removed, to look for afterwards.
    pub(crate) paths: BTreeSet<PathBuf>,
    pub(crate) removed: BTreeSet<String>,
    pub(crate) left: BTreeSet<String>,
    /// Since when there is nothing to do any more but to tell the master.
    pub(crate) done_at: Option<Timestamp>,
}

impl Job {
    pub(crate) const SCHEMA: u32 = 1;
}

/// The reaper's folder cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    #[error("cannot use {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the reaper's folder")]
    Write(#[from] FileError),
    #[error("{path} is no journal of a reaper that this version knows")]
    Journal {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the identity cannot be kept for the tombstone")]
    Identity(#[from] IdentityError),
}

impl Work {
    /// The folder that belongs to a state folder.
    pub(crate) fn beside(state_dir: &Path) -> Self {
        let mut name = state_dir.as_os_str().to_owned();
        name.push(SUFFIX);
        Self(PathBuf::from(name))
    }

    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The program that the reaper runs from.
    pub(crate) fn program(&self) -> PathBuf {
        self.0.join(PROGRAM)
    }

    fn journal(&self) -> PathBuf {
        self.0.join(JOURNAL)
    }

    /// Fills the folder, unless that was done before.
    pub(crate) fn prepare(&self, job: &Job) -> Result<(), WorkError> {
        if self.load()?.is_some() {
            return Ok(());
        }
        files::create_private_dir(&self.0)?;
        let program = self.program();
        let io = |source| WorkError::Io {
            path: program.clone(),
            source,
        };
        // Under another name first: one that is half written must not be run.
        let part = self.0.join("program.part");
        // The program that runs, also where a newer one was put in its place.
        fs::copy("/proc/self/exe", &part).map_err(io)?;
        fs::set_permissions(&part, Permissions::from_mode(0o700)).map_err(io)?;
        File::open(&part).and_then(|file| file.sync_all()).map_err(io)?;
        fs::rename(&part, &program).map_err(io)?;
        Identity::copy(&job.state_dir, &self.0)?;
        self.save(job)
    }

    /// The journal; none where nothing was begun.
    pub(crate) fn load(&self) -> Result<Option<Job>, WorkError> {
        let path = self.journal();
        if !path.try_exists().unwrap_or(true) {
            return Ok(None);
        }
        let bytes = files::read_capped(&path, JOURNAL_CAP)?;
        let job = serde_json::from_slice(&bytes).map_err(|source| WorkError::Journal { path, source })?;
        Ok(Some(job))
    }

    pub(crate) fn save(&self, job: &Job) -> Result<(), WorkError> {
        let path = self.journal();
        let text = serde_json::to_vec_pretty(job).map_err(|source| WorkError::Journal {
            path: path.clone(),
            source,
        })?;
        Ok(files::write_private(&path, &text)?)
    }

    /// Makes this process the only reaper; none where another one works. Held as long as the value is.
    pub(crate) fn lock(&self) -> Result<Option<Flock<File>>, WorkError> {
        let path = self.0.join(LOCK);
        let io = |source| WorkError::Io {
            path: path.clone(),
            source,
        };
        let file = File::create(&path).map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(io(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state_dir: &Path) -> Job {
        Job {
            schema: Job::SCHEMA,
            fleet: FleetId::new(uuid::Uuid::from_u128(1)),
            host: HostId::new(uuid::Uuid::from_u128(2)),
            order: serde_json::json!({}),
            enrol_at: None,
            docker_socket: PathBuf::new(),
            state_dir: state_dir.to_owned(),
            program: PathBuf::new(),
            images: BTreeSet::new(),
            phase: Phase::Arm,
            paths: BTreeSet::new(),
            removed: BTreeSet::new(),
            left: BTreeSet::new(),
            done_at: None,
        }
    }

    #[test]
    fn a_folder_is_whole_before_it_counts_and_is_not_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("agent");
        files::create_private_dir(&state_dir).unwrap();
        let (work, job) = (Work::beside(&state_dir), job(&state_dir));
        // Nothing to sign a tombstone with: it is not begun.
        work.prepare(&job).unwrap_err();
        assert_eq!(work.load().unwrap(), None);

        let stored = crate::testing::Signer::new().stored();
        Identity::store(&state_dir, &stored).unwrap();
        work.prepare(&job).unwrap();
        assert_eq!(work.load().unwrap().as_ref(), Some(&job));
        let mode = fs::metadata(work.program()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        Identity::erase(&state_dir).unwrap();
        let identity = Identity::load(work.path()).unwrap();
        assert_eq!(identity.host, stored.host);

        // The agent asks again, and the reaper is beyond that.
        let beyond = Job {
            phase: Phase::Verify,
            ..job.clone()
        };
        work.save(&beyond).unwrap();
        work.prepare(&job).unwrap();
        assert_eq!(work.load().unwrap(), Some(beyond));
    }

    #[test]
    fn only_one_reaper_works_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let work = Work::at(folder.path().to_owned());
        let first = work.lock().unwrap();
        assert!(first.is_some());
        assert!(work.lock().unwrap().is_none());
        drop(first);
        assert!(work.lock().unwrap().is_some());
    }

    #[test]
    fn the_folder_lies_beside_the_state_folder() {
        let work = Work::beside(Path::new("/var/lib/decnet/agent"));
        assert_eq!(work.path(), Path::new("/var/lib/decnet/agent-reaper"));
    }

    #[test]
    fn a_folder_without_a_journal_was_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let work = Work::at(folder.path().to_owned());
        assert_eq!(work.load().unwrap(), None);
        fs::write(folder.path().join(JOURNAL), "{").unwrap();
        assert!(matches!(work.load(), Err(WorkError::Journal { .. })));
    }
}
