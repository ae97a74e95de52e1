//! Whether a container that joined another's network namespace is in the one that the other has now.
//!
//! A namespace belongs to one run of its owner. When the owner's process ends and is started again, by hand or by its
//! restart policy, it gets a new namespace; a container that keeps running in the old one is cut off from the network,
//! although the engine shows nothing unusual about it.

use std::fs;
use std::path::PathBuf;

use bollard::models::{ContainerInspectResponse, ContainerState};

use crate::host::namespace::{Namespace, in_each};

/// True while the container does not run: a start joins the owner's current namespace.
pub(super) fn is_current(container: &ContainerInspectResponse, owner: &ContainerInspectResponse) -> bool {
    let (Some(container), Some(owner)) = (&container.state, &owner.state) else {
        return true;
    };
    if container.running != Some(true) {
        return true;
    }
    if owner.running != Some(true) {
        return false;
    }
    match (namespace(container), namespace(owner)) {
        (Some(mine), Some(owners)) => mine == owners,
        // Without a view of the processes, the times of the last starts have to do.
        _ => started(container) >= started(owner),
    }
}

/// The containers that run and have a network namespace of their own with something in it: their ids and processes.
pub(crate) fn owners(containers: &[ContainerInspectResponse]) -> Vec<(String, u32)> {
    let owner = |container: &ContainerInspectResponse| {
        let mode = container.host_config.as_ref()?.network_mode.as_deref()?;
        let state = container.state.as_ref()?;
        let shares = mode.starts_with("container:") || matches!(mode, "host" | "none");
        if shares || state.running != Some(true) {
            return None;
        }
        let pid = state.pid.filter(|pid| *pid > 0)?;
        Some((container.id.clone()?, u32::try_from(pid).ok()?))
    };
    containers.iter().filter_map(owner).collect()
}

/// Runs `work` in the namespace of each; leaves out who has ended meanwhile.
pub(crate) fn in_each_of<T: Send>(
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

/// The kernel's name of the namespace, such as `net:[4026532281]` (namespaces(7)).
fn namespace(state: &ContainerState) -> Option<PathBuf> {
    let pid = state.pid.filter(|pid| *pid > 0)?;
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// The engine writes UTC and leaves zeros at the end of the fraction out; with them back, texts compare as times.
fn started(state: &ContainerState) -> String {
    let text = state
        .started_at
        .as_deref()
        .unwrap_or_default()
        .trim_end_matches('Z');
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}.{part:0<9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(pid: i64, running: bool, started_at: &str) -> ContainerInspectResponse {
        let state = ContainerState {
            running: Some(running),
            pid: Some(pid),
            started_at: Some(started_at.to_owned()),
            ..ContainerState::default()
        };
        ContainerInspectResponse {
            state: Some(state),
            ..ContainerInspectResponse::default()
        }
    }

    #[test]
    fn without_processes_the_later_start_of_the_owner_tells_a_lost_namespace() {
        let owner = inspected(0, true, "2026-01-02T03:04:05.5Z");
        assert!(is_current(&inspected(0, true, "2026-01-02T03:04:05.51Z"), &owner));
        assert!(!is_current(
            &inspected(0, true, "2026-01-02T03:04:05.499999999Z"),
            &owner
        ));
        assert!(!is_current(&inspected(0, true, "2026-01-02T03:04:05Z"), &owner));
    }

    #[test]
    fn who_does_not_run_is_in_no_outdated_namespace_and_who_runs_without_its_owner_is() {
        let (up, down) = (
            inspected(0, true, "2026-01-02T03:04:05Z"),
            inspected(0, false, "2026-01-02T03:04:05Z"),
        );
        assert!(is_current(&down, &up));
        assert!(is_current(&down, &down));
        assert!(!is_current(&up, &down));
    }
}
