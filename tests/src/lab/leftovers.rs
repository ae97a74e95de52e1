//! What a run left that was killed before it could clean up. Its guests ended with it.

use std::path::Path;

use crate::command::{SHORT, program, run};

/// What names of labs' namespaces and folders begin with; the process's id and a number follow.
pub(super) const NAMESPACE: &str = "declab-";

/// Removes namespaces and folders of processes that do not run any more. What cannot be removed harms nobody: names
/// do not repeat.
pub(super) fn remove() {
    let namespaces = run(&mut program("ip", &["netns", "list"]), SHORT).map(|said| said.stdout);
    for name in namespaces
        .unwrap_or_default()
        .split_whitespace()
        .filter(|name| is_left(name))
    {
        drop(run(&mut program("ip", &["netns", "del", name]), SHORT));
    }
    let Ok(folders) = std::fs::read_dir("/tmp") else {
        return;
    };
    for folder in folders.flatten() {
        if folder.file_name().to_str().is_some_and(is_left) {
            drop(std::fs::remove_dir_all(folder.path()));
        }
    }
}

/// Whether that is the name of a lab, and its process has ended.
fn is_left(name: &str) -> bool {
    let process = name
        .strip_prefix(NAMESPACE)
        .and_then(|rest| rest.split_once('-'))
        .and_then(|(process, _)| process.parse::<u32>().ok());
    process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labs_of_ended_processes_are_left_over() {
        let ended = u32::MAX;
        assert!(is_left(&format!("declab-{ended}-0")));
        assert!(!is_left(&format!("declab-{}-0", std::process::id())));
        for name in ["declab-", "declab-x-1", "decnet-test-4294967295-0", "lab"] {
            assert!(!is_left(name), "{name}");
        }
    }
}
