//! Starts the reaper where neither the end of the agent's control group nor the agent's sandbox reaches it.
//!
//! A child of the agent would be in the agent's control group, and end with it. A scope would have a group of its own, and
//! still be a child that inherits the agent's sandbox: read-only programs, no new privileges, filtered calls. So systemd
//! itself starts it, as a service of its own: what `systemd-run --collect` does. Where there is no systemd there is neither
//! such a group's end nor a sandbox of ours; there it is a process of its own session, in the first control group.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::units::{self, Transient, UnitError, Units};
use super::work::Work;

/// Where control groups are, of either version.
const GROUPS: &str = "/sys/fs/cgroup";
/// What the reaper says without a journal.
const LOG: &str = "/var/log/decnet/reaper.log";

/// The reaper cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("systemd does not start the reaper")]
    Unit(#[from] UnitError),
    #[error("cannot start the reaper {program}")]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Starts the reaper. One that works already goes on: the second one ends at once.
///
/// # Errors
/// [`LaunchError`].
pub(crate) async fn launch(work: &Work) -> Result<(), LaunchError> {
    let (program, folder) = (work.program(), work.path());
    if !units::are_there() {
        return detach(&program, folder);
    }
    let name = format!("decnet-reaper-{}.service", std::process::id());
    let (program, folder) = (program.to_string_lossy(), folder.to_string_lossy());
    let command = [&*program, "reap", "--work", &*folder];
    Units::connect()
        .await?
        .start(&Transient {
            name: &name,
            description: "DECNET reaper: removes this host's agent",
            command: &command,
        })
        .await?;
    Ok(())
}

fn detach(program: &Path, folder: &Path) -> Result<(), LaunchError> {
    let log = || File::options().create(true).append(true).open(LOG);
    let output = || log().map_or_else(|_| Stdio::null(), Stdio::from);
    let started = Command::new(program)
        .arg("reap")
        .arg("--work")
        .arg(folder)
        .arg("--detach")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output())
        .stderr(output())
        .spawn();
    started.map(drop).map_err(|source| LaunchError::Start {
        program: program.to_owned(),
        source,
    })
}

/// Leaves the session and the control groups of whoever started this process.
pub(crate) fn leave_the_agent() {
    if let Err(error) = nix::unistd::setsid() {
        tracing::debug!(%error, "this process leads a session already");
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for group in first_groups(&own) {
        let joined = File::options()
            .write(true)
            .open(group.join("cgroup.procs"))
            .and_then(|mut file| write!(file, "{}", std::process::id()));
        if let Err(error) = joined {
            tracing::warn!(group = %group.display(), %error, "cannot leave the agent's control group");
        }
    }
}

/// The first group of each hierarchy in which this process is in another one (cgroups(7), "/proc/pid/cgroup").
fn first_groups(own: &str) -> Vec<PathBuf> {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let folder = controllers.strip_prefix("name=").unwrap_or(controllers);
            (path != "/").then(|| Path::new(GROUPS).join(folder))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_of_ones_own_is_left() {
        let hybrid = "12:cpu,cpuacct:/agent\n3:devices:/\n1:name=systemd:/agent/x:y\n0::/agent\n";
        assert_eq!(
            first_groups(hybrid),
            [
                Path::new("/sys/fs/cgroup/cpu,cpuacct"),
                Path::new("/sys/fs/cgroup/systemd"),
                Path::new("/sys/fs/cgroup"),
            ]
        );
        assert_eq!(first_groups("0::/\n"), Vec::<PathBuf>::new());
    }
}
