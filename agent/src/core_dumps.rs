//! A crash must not write keys to the disk, and another process of the same user must not read them out of this one.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Lets this process leave no core dump (`core(5)`), and nobody but root look into it (`PR_SET_DUMPABLE` in `prctl(2)`,
/// which also keeps it from pipes that take dumps of any size). What fails is told: it is no reason not to run.
pub fn forbid() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!(%error, "a crash would leave a core dump, with keys in it");
    }
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!(%error, "processes of the same user can look into this one");
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::getrlimit;

    use super::*;

    #[test]
    fn a_crash_leaves_no_keys_behind() {
        forbid();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        assert!(!prctl::get_dumpable().unwrap());
    }
}
