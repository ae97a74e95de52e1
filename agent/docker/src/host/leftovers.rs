//! Processes of containers that the engine has forgotten.
//!
//! An engine that is killed in the middle of a start takes the container, once it is back, for one that does not run. Its
//! processes live on, and with them its network namespace, its address and its MAC; neither a start nor the removal of
//! the container ends them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

/// Hierarchies of control groups: the only one of version 2, the one beside version 1, and some of version 1, of which
/// every engine uses at least one.
const HIERARCHIES: [&str; 5] = [
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup/pids",
    "/sys/fs/cgroup/memory",
    "/sys/fs/cgroup/systemd",
];
/// How long killed processes may take to be gone.
const LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// Kills what still runs of a container that the engine says does not run or is not there. Gives how many processes were
/// killed. An engine that was told to use other control groups than its own (`--cgroup-parent`) is not looked into.
pub(crate) async fn end(id: &str) -> io::Result<usize> {
    // Only an id is part of a path: nothing that came from elsewhere climbs out of it.
    if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(0);
    }
    let start = Instant::now();
    let mut killed = 0;
    loop {
        let processes = processes(id)?;
        if processes.is_empty() {
            return Ok(killed);
        }
        if start.elapsed() > LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{processes:?} do not end"),
            ));
        }
        for process in processes {
            match kill(process, Signal::SIGKILL) {
                Ok(()) => killed += 1,
                Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The processes of a container, by its control groups.
fn processes(id: &str) -> io::Result<Vec<Pid>> {
    for group in groups(id) {
        match std::fs::read_to_string(group.join("cgroup.procs")) {
            Ok(text) => {
                let processes: Vec<Pid> = text
                    .lines()
                    .filter_map(|line| line.parse().ok())
                    // 0 is a process of another namespace of processes, and to `kill` the caller's own group.
                    .filter(|id: &i32| *id > 0)
                    .map(Pid::from_raw)
                    .collect();
                if !processes.is_empty() {
                    return Ok(processes);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A group that goes away while it is read.
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Vec::new())
}

/// Where an engine puts a container, with the drivers `cgroupfs` and `systemd`.
fn groups(id: &str) -> impl Iterator<Item = PathBuf> {
    let names = [format!("docker/{id}"), format!("system.slice/docker-{id}.scope")];
    HIERARCHIES
        .into_iter()
        .flat_map(move |hierarchy| names.clone().map(|name| PathBuf::from(hierarchy).join(name)))
}
