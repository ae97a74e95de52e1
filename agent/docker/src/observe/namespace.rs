//! Whether a container that joined another's network namespace is in the one that the other has now.
//!
//! A namespace belongs to one run of its owner. When the owner's process ends and is started again, by hand or by its
//! restart policy, it gets a new namespace; a container that keeps running in the old one is cut off from the network,
//! although the engine shows nothing unusual about it.
//!
//! The kernel would tell by `/proc/PID/ns/net`, but only who may trace the process, and the agent may not. When both
//! began is told to everybody: who joins a namespace does so before its process begins, so that a process that began
//! before the owner's present one is in the namespace of an earlier one.

use std::fs;
use std::path::PathBuf;

use super::process::Process;
use crate::host::namespace::{Namespace, in_each};

/// One run of a container: what tells whether two of them share a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// Its first process, where it can be seen from here.
    pub(super) process: Option<Process>,
    /// When the engine says that it began, in a form whose texts compare as times. Empty where it is not known.
    pub(super) started: String,
}

/// `None` of a container that does not run. A start joins the owner's current namespace, so that what does not run is
/// in no outdated one.
pub(super) fn is_current(container: Option<&Run>, owner: Option<&Run>) -> bool {
    let Some(container) = container else { return true };
    let Some(owner) = owner else { return false };
    match (&container.process, &owner.process) {
        // An owner takes longer than the kernel's tick to end and begin anew: who began with it in one tick is in it.
        (Some(mine), Some(owners)) => mine.began >= owners.began,
        // Without a view of the processes, the engine's clock has to do.
        _ => container.started >= owner.started,
    }
}

/// The first process of a container, found through its control group: where the engine puts it by default, with either
/// driver and either version of control groups.
pub(super) fn first_process(id: &str) -> Option<Process> {
    let places = [
        format!("/sys/fs/cgroup/system.slice/docker-{id}.scope/cgroup.procs"),
        format!("/sys/fs/cgroup/docker/{id}/cgroup.procs"),
        format!("/sys/fs/cgroup/pids/docker/{id}/cgroup.procs"),
        format!("/sys/fs/cgroup/pids/system.slice/docker-{id}.scope/cgroup.procs"),
    ];
    let processes = places.iter().find_map(|place| fs::read_to_string(place).ok())?;
    let pids = processes.lines().filter_map(|pid| pid.parse().ok());
    // What is executed in a container later is in its group as well.
    pids.filter_map(Process::find).min_by_key(|process| process.began)
}

/// Runs `work` in the namespace of each, by its file; leaves out who has ended meanwhile.
pub(super) fn in_each_of<T: Send>(
    owners: &[(String, PathBuf)],
    work: impl Fn() -> T + Send + Sync,
) -> Vec<(String, T)> {
    let (ids, namespaces): (Vec<_>, Vec<_>) = owners
        .iter()
        .filter_map(|(id, path)| Some((id.clone(), Namespace::open(path).ok()?)))
        .unzip();
    let results = in_each(&namespaces, work).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot look into the namespaces of containers");
        Vec::new()
    });
    ids.into_iter()
        .zip(results)
        .filter_map(|(id, result)| Some((id, result.ok()?)))
        .collect()
}

/// The engine writes UTC and leaves zeros at the end of the fraction out; with them back, texts compare as times.
pub(super) fn comparable(started_at: &str) -> String {
    let text = started_at.trim_end_matches('Z');
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}.{part:0<9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(started_at: &str) -> Run {
        Run {
            process: None,
            started: comparable(started_at),
        }
    }

    #[test]
    fn without_processes_the_later_start_of_the_owner_tells_a_lost_namespace() {
        let owner = run("2026-01-02T03:04:05.5Z");
        assert!(is_current(Some(&run("2026-01-02T03:04:05.51Z")), Some(&owner)));
        assert!(!is_current(
            Some(&run("2026-01-02T03:04:05.499999999Z")),
            Some(&owner)
        ));
        assert!(!is_current(Some(&run("2026-01-02T03:04:05Z")), Some(&owner)));
    }

    #[test]
    fn who_does_not_run_is_in_no_outdated_namespace_and_who_runs_without_its_owner_is() {
        let up = run("2026-01-02T03:04:05Z");
        assert!(is_current(None, Some(&up)));
        assert!(is_current(None, None));
        assert!(!is_current(Some(&up), None));
    }

    #[test]
    fn what_the_kernel_says_goes_before_the_times() {
        let began = |began| Some(Process { pid: 1, began });
        let (mut old, mut new) = (run("2026-01-02T03:04:05Z"), run("2026-01-02T03:04:06Z"));
        (old.process, new.process) = (began(8), began(7));
        assert!(is_current(Some(&old), Some(&new)));
        assert!(!is_current(Some(&new), Some(&old)));
        new.process = began(8);
        assert!(is_current(Some(&old), Some(&new)));
    }
}
