//! Whether a container that joined another's network namespace is in the one that the other has now.
//!
//! A namespace belongs to one run of its owner. When the owner's process ends and is started again, by hand or by its
//! restart policy, it gets a new namespace; a container that keeps running in the old one is cut off from the network,
//! although the engine shows nothing unusual about it.

use std::fs;
use std::path::PathBuf;

use crate::host::namespace::{Namespace, in_each};

/// One run of a container: what tells whether two of them share a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// The kernel's name of the network namespace, such as `net:[4026532281]` (namespaces(7)).
    pub(super) namespace: Option<PathBuf>,
    /// When it began, in a form whose texts compare as times. Empty where it is not known.
    pub(super) started: String,
}

/// `None` of a container that does not run. A start joins the owner's current namespace, so that what does not run is
/// in no outdated one.
pub(super) fn is_current(container: Option<&Run>, owner: Option<&Run>) -> bool {
    let Some(container) = container else { return true };
    let Some(owner) = owner else { return false };
    match (&container.namespace, &owner.namespace) {
        (Some(mine), Some(owners)) => mine == owners,
        // Without a view of the processes, the times of the last starts have to do.
        _ => container.started >= owner.started,
    }
}

pub(super) fn of_process(pid: i64) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// A process of a container, and its namespace, found through its control group: where the engine
/// puts it by default, with either driver and either version of control groups.
pub(super) fn of_container(id: &str) -> Option<(i64, PathBuf)> {
    let places = [
        format!("/sys/fs/cgroup/system.slice/docker-{id}.scope/cgroup.procs"),
        format!("/sys/fs/cgroup/docker/{id}/cgroup.procs"),
        format!("/sys/fs/cgroup/pids/docker/{id}/cgroup.procs"),
        format!("/sys/fs/cgroup/pids/system.slice/docker-{id}.scope/cgroup.procs"),
    ];
    let processes = places.iter().find_map(|place| fs::read_to_string(place).ok())?;
    let mut pids = processes.lines().filter_map(|pid| pid.parse().ok());
    let pid = pids.next()?;
    Some((pid, of_process(pid)?))
}

/// Runs `work` in the namespace of each; leaves out who has ended meanwhile.
pub(super) fn in_each_of<T: Send>(
    owners: &[(String, u32)],
    work: impl Fn() -> T + Send + Sync,
) -> Vec<(String, T)> {
    let (ids, namespaces): (Vec<_>, Vec<_>) = owners
        .iter()
        .filter_map(|(id, pid)| Some((id.clone(), Namespace::of_process(*pid).ok()?)))
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
            namespace: None,
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
        let (mut old, mut new) = (run("2026-01-02T03:04:05Z"), run("2026-01-02T03:04:06Z"));
        old.namespace = Some("net:[1]".into());
        new.namespace = Some("net:[1]".into());
        assert!(is_current(Some(&old), Some(&new)));
        new.namespace = Some("net:[2]".into());
        assert!(!is_current(Some(&new), Some(&old)));
    }
}
