//! Threads that stand in another network namespace.
//!
//! A namespace belongs to a thread, and one that has left its own must not go back to a pool: every piece of work
//! gets a thread of its own, which ends with it.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// Runs `work` in a new, empty network namespace, which goes with everything in it when `work` returns.
pub(crate) fn in_a_new_one<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

/// A way into a network namespace, as long as this value lives.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// The namespace that a file stands for: the one that the engine keeps for a container (`SandboxKey`), or
    /// `/proc/PID/ns/net`, which opens only to who may trace that process.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(failed)?;
        // The engine mounts the namespace over an empty file, which stays for a while when the namespace has gone, and is all
        // that is seen where mounts do not come through.
        if fstatfs(&file).map_err(io::Error::from)?.filesystem_type() != NSFS_MAGIC {
            return Err(failed(io::Error::other(
                "no namespace is there: the container has ended, or the engine's mounts do not reach this process, whose \
                 mount namespace has to get those of the host",
            )));
        }
        Ok(Self(file))
    }

    /// Whether it is the one that this process lives in.
    pub(crate) fn is_own(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let (this, own) = (
            self.0.metadata()?,
            std::fs::metadata(Path::new("/proc/self/ns/net"))?,
        );
        Ok((this.dev(), this.ino()) == (own.dev(), own.ino()))
    }

    /// Runs `work` in it.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_a_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Moves the calling thread there, for good. Only for threads that this module made.
    fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.0, CloneFlags::CLONE_NEWNET)?)
    }
}

/// Runs `work` in each namespace in turn, on one thread.
pub(crate) fn in_each<T: Send>(
    namespaces: &[Namespace],
    work: impl Fn() -> T + Send + Sync,
) -> io::Result<Vec<io::Result<T>>> {
    on_a_thread(|| {
        Ok(namespaces
            .iter()
            .map(|namespace| namespace.enter().map(|()| work()))
            .collect())
    })
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("namespace".to_owned())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}
