//! The host itself.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::Finding;

/// Free space under which image archives and the ledger get into trouble, in bytes.
const LITTLE_SPACE: u64 = 1 << 30;
/// Free space under which nothing works, in bytes.
const NO_SPACE: u64 = 64 << 20;
/// What the agent does needs these (capabilities(7)): links and filter rules, raw frames, the network namespaces of
/// containers, and the end of processes that the engine has forgotten.
const RIGHTS: [(u32, &str); 4] = [
    (5, "CAP_KILL"),
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (21, "CAP_SYS_ADMIN"),
];

pub(super) fn examine(state: &Path) -> Vec<Finding> {
    vec![
        rights(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()),
        groups(),
        state_dir(state),
        space("disk", state, "the ledger cannot be written"),
    ]
}

/// Of the process that asks: whoever runs this is to be who runs the agent.
fn rights(status: &str) -> Finding {
    const CHECK: &str = "permissions";
    let held = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let Some(held) = held else {
        return Finding::warn(
            CHECK,
            "the kernel does not tell what this process may do",
            "look into /proc/self/status",
        );
    };
    let lacks: Vec<&str> = RIGHTS
        .iter()
        .filter(|(bit, _)| held >> bit & 1 == 0)
        .map(|(_, name)| *name)
        .collect();
    if lacks.is_empty() {
        return Finding::ok(CHECK, "this process has every right that the agent needs");
    }
    Finding::fail(
        CHECK,
        format!("this process lacks {}", lacks.join(", ")),
        "run it as root; in a container, add these capabilities",
    )
}

/// What keeps a decky from taking all memory and all processes of its host.
fn groups() -> Finding {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    groups_of(&read("/sys/fs/cgroup/cgroup.controllers"), &read("/proc/cgroups"))
}

/// `second` is what control groups of version 2 have (cgroups(7), `cgroup.controllers`), empty where there are none;
/// `first` is the table of those of version 1.
fn groups_of(second: &str, first: &str) -> Finding {
    const CHECK: &str = "cgroup";
    let version = if second.is_empty() { 1 } else { 2 };
    let has = |name: &str| {
        if version == 2 {
            return second.split_whitespace().any(|found| found == name);
        }
        first.lines().any(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            matches!(columns.as_slice(), [found, _, _, "1"] if *found == name)
        })
    };
    let lacks: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|name| !has(name))
        .collect();
    if lacks.is_empty() {
        return Finding::ok(
            CHECK,
            format!("version {version}, which limits CPU, memory and processes"),
        );
    }
    let mut advice = "use a kernel that has them".to_owned();
    if lacks.contains(&"memory") {
        advice.push_str(
            "; `cgroup_enable=memory` on the kernel's command line turns memory on where it is off",
        );
    }
    Finding::warn(
        CHECK,
        format!(
            "version {version}, which does not limit {}: a decky may use all of it",
            lacks.join(", ")
        ),
        advice,
    )
}

fn state_dir(path: &Path) -> Finding {
    const CHECK: &str = "state";
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::warn(CHECK, format!("{shown} does not exist"), "enrolment makes it")
        }
        Err(error) => Finding::fail(
            CHECK,
            format!("{shown}: {error}"),
            "run this as the user that the agent runs as",
        ),
        Ok(found) if !found.is_dir() => {
            Finding::fail(CHECK, format!("{shown} is no folder"), "move it away, then enrol")
        }
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            let mode = found.permissions().mode() & 0o7777;
            let says = format!("{shown} has mode {mode:o}: others may look at the host's key");
            Finding::fail(CHECK, says, format!("chmod 700 {shown}"))
        }
        Ok(found) if found.uid() != nix::unistd::geteuid().as_raw() => {
            let says = format!("{shown} belongs to user {}", found.uid());
            Finding::warn(
                CHECK,
                says,
                "the agent must own it; run this as the user that the agent runs as",
            )
        }
        Ok(_) => Finding::ok(CHECK, format!("{shown} is private")),
    }
}

/// `full` is what happens when there is none left.
pub(super) fn space(check: &'static str, path: &Path, full: &str) -> Finding {
    // The folder may not be there yet; its nearest parent is on the same disk more often than not.
    let existing = path
        .ancestors()
        .find(|parent| parent.exists())
        .unwrap_or(Path::new("/"));
    match nix::sys::statvfs::statvfs(existing) {
        Err(error) => Finding::warn(check, format!("{}: {error}", existing.display()), "look with df"),
        Ok(found) => {
            let free = found.blocks_available().saturating_mul(found.fragment_size());
            let says = format!("{} MiB free at {}", free >> 20, existing.display());
            if free < NO_SPACE {
                Finding::fail(check, says, format!("make room: {full}"))
            } else if free < LITTLE_SPACE {
                Finding::warn(check, says, "make room: image archives may not fit")
            } else {
                Finding::ok(check, says)
            }
        }
    }
}

/// Whether something keeps the clock right. Once the host is enrolled, the master's is what it is held to.
pub(super) fn clock() -> Finding {
    const CHECK: &str = "clock";
    let said = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let said = said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
    match said.as_deref() {
        Ok("yes") => Finding::ok(CHECK, "a time server is followed"),
        Ok("no") => Finding::warn(
            CHECK,
            "no time server is followed",
            "install and start one of systemd-timesyncd, chrony and ntpsec: bundles and certificates expire by the clock",
        ),
        _ => Finding::ok(
            CHECK,
            "not looked at: that needs systemd; it is compared with the master's once enrolled",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn rights_that_are_missing_are_named() {
        let of = |held: &str| rights(&format!("Name:\tx\nCapEff:\t{held}\nCapBnd:\t000001ffffffffff\n"));
        assert_eq!(of("000001ffffffffff").level, Level::Ok);
        let user = of("0000000000000000");
        assert_eq!(user.level, Level::Fail);
        assert!(
            user.says
                .contains("CAP_KILL, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN"),
            "{user:?}"
        );
        // What the engine gives a container by itself.
        assert!(
            of("00000000a80425fb")
                .says
                .contains("lacks CAP_NET_ADMIN, CAP_SYS_ADMIN"),
            "NET_RAW and KILL are there"
        );
        assert_eq!(rights("").level, Level::Warn);
    }

    #[test]
    fn control_groups_of_both_versions_are_understood() {
        let table =
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t1\t1\nmemory\t0\t1\t0\npids\t5\t1\t1\n";
        let first = groups_of("", table);
        assert_eq!(first.level, Level::Warn);
        assert!(
            first.says.contains("version 1") && first.says.contains("memory:"),
            "{first:?}"
        );
        assert!(first.advice.unwrap().contains("cgroup_enable=memory"));
        let second = groups_of("cpuset cpu io memory hugetlb pids\n", table);
        assert_eq!(
            second.level,
            Level::Ok,
            "version 2 counts where it is there: {second:?}"
        );
        let without = groups_of("cpuset io memory\n", "");
        assert!(without.says.contains("cpu, pids"), "{without:?}");
        assert!(!without.advice.unwrap().contains("cgroup_enable"));
    }

    #[test]
    fn a_state_folder_that_others_may_read_is_a_failure_with_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let finding = state_dir(dir.path());
        assert_eq!(finding.level, Level::Fail);
        assert!(finding.advice.unwrap().starts_with("chmod 700"));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(state_dir(dir.path()).level, Level::Ok);
    }
}
