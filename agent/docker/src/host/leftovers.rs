//! Processes of containers that the engine has forgotten.
//!
//! An engine that is killed in the middle of a start takes the container, once it is back, for one that does not run. Its
//! processes live on, and with them its network namespace, its address and its MAC; neither a start nor the removal of
//! the container ends them.
//!
//! What looked after them, containerd's shim, may live on as well. As long as it does, containerd has a task of that
//! container, with or without a process, and refuses to make another one; without it, containerd clears the task away.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
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
    if !is_id(id) {
        return Ok(0);
    }
    let mut killed = 0;
    poll("its processes do not end", || {
        let processes = processes(id)?;
        for process in &processes {
            killed += usize::from(end_process(*process)?);
        }
        Ok(processes.is_empty())
    })
    .await?;
    Ok(killed)
}

/// Kills the shims of a container that the engine says does not run, and waits until containerd has cleared away what they
/// looked after. Gives how many there were. Every process of the machine is looked at, so this is nothing for each step.
pub(crate) async fn end_shims(id: &str) -> io::Result<usize> {
    if !is_id(id) {
        return Ok(0);
    }
    let shims = shims(id)?;
    for shim in &shims {
        end_process(shim.process)?;
    }
    poll(
        "containerd does not clear away what its shim looked after",
        || {
            // A containerd that does not run does that when it starts; until then it refuses no task.
            Ok(shims
                .iter()
                .filter_map(|shim| shim.bundle.as_ref())
                .all(|bundle| !bundle.exists()))
        },
    )
    .await?;
    Ok(shims.len())
}

/// Only an id is part of a path: nothing that came from elsewhere climbs out of it.
fn is_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Waits for a condition, for as long as killed processes may take to be gone.
async fn poll(late: &str, mut done: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > LIMIT {
            return Err(io::Error::new(io::ErrorKind::TimedOut, late));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Whether it was there.
fn end_process(process: Pid) -> io::Result<bool> {
    match kill(process, Signal::SIGKILL) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug)]
struct Shim {
    process: Pid,
    /// Where containerd keeps the task; none where that is not found, so that nothing can be waited for.
    bundle: Option<PathBuf>,
}

/// The shims that were started for a container: `containerd-shim-runc-v2 -namespace moby -id ID -address …`.
fn shims(id: &str) -> io::Result<Vec<Shim>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(process) = path.file_name().and_then(OsStr::to_str) else {
            continue;
        };
        let Ok(process) = process.parse() else { continue };
        // One that has ended meanwhile is none any more.
        let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
        if is_shim_of(&command, id) {
            found.push(Shim {
                process: Pid::from_raw(process),
                bundle: bundle(&command, id),
            });
        }
    }
    Ok(found)
}

fn is_shim_of(command: &[u8], id: &str) -> bool {
    let program = command.split(|byte| *byte == 0).next();
    let program = program.map(OsStr::from_bytes).map(Path::new);
    let name = program.and_then(Path::file_name).unwrap_or_default();
    name.as_bytes().starts_with(b"containerd-shim") && flag(command, "-id") == Some(OsStr::new(id))
}

/// What follows a flag on a command line.
fn flag<'a>(command: &'a [u8], name: &str) -> Option<&'a OsStr> {
    let mut arguments = command.split(|byte| *byte == 0).skip(1);
    arguments.find(|argument| *argument == name.as_bytes())?;
    arguments.next().map(OsStr::from_bytes)
}

/// The folder of a shim's task. The shim stands in it, which only who may trace it is told; it is in containerd's state
/// folder, which is the one of its socket, or `daemon` in that where the engine runs a containerd of its own.
fn bundle(command: &[u8], id: &str) -> Option<PathBuf> {
    let state = Path::new(flag(command, "-address")?).parent()?;
    let task = Path::new("io.containerd.runtime.v2.task")
        .join(flag(command, "-namespace")?)
        .join(id);
    let places = [state.join(&task), state.join("daemon").join(&task)];
    places.into_iter().find(|place| place.is_dir())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_known_by_the_id_that_it_was_given() {
        let (id, other) = ("a".repeat(64), "b".repeat(64));
        let command = |program: &str, id: &str| {
            format!("{program}\0-namespace\0moby\0-id\0{id}\0-address\0/run/containerd/containerd.sock\0")
        };
        let of = |command: String| is_shim_of(command.as_bytes(), &id);
        assert!(of(command("/usr/bin/containerd-shim-runc-v2", &id)));
        assert!(of(command("containerd-shim", &id)));
        assert!(!of(command("/usr/bin/containerd-shim-runc-v2", &other)));
        assert!(!of(command("/usr/bin/less", &id)), "who names an id is no shim");
        assert!(!of(format!("/usr/bin/containerd-shim-runc-v2\0{id}\0-id\0")));
        assert!(!of(String::new()), "threads of the kernel have no command line");
    }

    #[test]
    fn a_task_is_found_beside_the_socket_of_the_hosts_containerd_and_of_the_engines_own() {
        let id = "a".repeat(64);
        for state in ["", "daemon"] {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("containerd.sock");
            let command = format!(
                "containerd-shim-runc-v2\0-namespace\0moby\0-id\0{id}\0-address\0{}\0",
                socket.display()
            );
            assert_eq!(bundle(command.as_bytes(), &id), None);
            let task = folder
                .path()
                .join(state)
                .join("io.containerd.runtime.v2.task/moby")
                .join(&id);
            std::fs::create_dir_all(&task).unwrap();
            assert_eq!(bundle(command.as_bytes(), &id), Some(task));
        }
    }
}
