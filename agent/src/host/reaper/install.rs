//! How the agent was installed, and how that is undone: a package by dpkg or rpm, what was put there by hand by its paths.
//!
//! Guarantees: only paths within [`MAY_GO`] are removed, and the state folder; links are removed, not followed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use super::{MASTER, ReapError, UNITS, file};
use crate::host::work::Job;

/// The package.
const PACKAGE: &str = "decnet-agent";
/// What an install by hand has put where, a path a line; a `#` begins a comment.
const MANIFEST: &str = "/etc/decnet/manifest";
/// How long a package manager may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a process has to end by itself.
const GRACE: Duration = Duration::from_secs(10);
/// What may be removed: whatever begins so, and what is below it.
const MAY_GO: [&str; 6] = [
    "/opt/decnet",
    "/etc/systemd/system/decnet-",
    "/etc/decnet",
    "/run/decnet",
    "/usr/local/bin/decnet",
    "/var/lib/decnet",
];
/// What is a master's, where one lives on this machine.
const MASTERS: [&str; 5] = [
    "/var/lib/decnet/master",
    "/etc/systemd/system/decnet-master.",
    "/usr/local/bin/decnet",
    "/run/decnet",
    "/opt/decnet",
];

/// The agent cannot be removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    #[error("cannot run {program}")]
    Run {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{program} did not end within {} s", PATIENCE.as_secs())]
    Slow { program: &'static str },
    #[error("{program} failed: {said}")]
    Failed { program: &'static str, said: String },
}

/// Every path that has to be gone in the end.
pub(super) async fn own_paths(program: &Path, state_dir: &Path) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::from([state_dir.to_owned()]);
    // What the packages have put there. Folders are shared with others, or empty in the end.
    for (manager, arguments) in [
        ("dpkg-query", ["-L", PACKAGE].as_slice()),
        ("rpm", ["-ql", PACKAGE].as_slice()),
    ] {
        if let Some(listed) = asked(manager, arguments).await {
            let files = listed.lines().map(PathBuf::from);
            paths.extend(files.filter(|path| fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir())));
        }
    }
    let manifest = fs::read_to_string(MANIFEST).unwrap_or_default();
    paths.extend(manifest_paths(&manifest));
    paths.extend([program.to_owned()].into_iter().filter(|program| may_go(program)));
    let folders = [
        (UNITS, "decnet-"),
        ("/etc/decnet", ""),
        ("/run/decnet", ""),
        ("/var/lib/decnet", "updater"),
    ];
    for (folder, begin) in folders {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(begin));
        paths.extend(ours.map(|entry| entry.path()));
    }
    let master = Path::new(MASTER).exists();
    paths.retain(|path| !stays(path, master));
    paths
}

/// Whether a path is not the agent's, or is removed as the last thing; `master` says whether one lives on this machine.
fn stays(path: &Path, master: bool) -> bool {
    let text = path.to_string_lossy();
    text.starts_with("/etc/systemd/system/decnet-reaper") || (master && is_a_masters(path))
}

/// The paths of a manifest that may go.
fn manifest_paths(text: &str) -> impl Iterator<Item = PathBuf> {
    let lines = text.lines().map(str::trim);
    let paths = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    paths.map(PathBuf::from).filter(|path| {
        let may = may_go(path);
        if !may {
            tracing::warn!(path = %path.display(), "the manifest names what is not ours: it stays");
        }
        may
    })
}

/// Whether a path is one that an install by hand may have made.
fn may_go(path: &Path) -> bool {
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let text = path.to_string_lossy();
    plain && MAY_GO.iter().any(|begin| is_within(&text, begin))
}

/// Whether the path is what begins so, or is below it: `/opt/decnet` holds `/opt/decnet-1.0`, and `/etc/decnet` does not
/// hold `/etc/decnetworks`.
fn is_within(path: &str, begin: &str) -> bool {
    path.strip_prefix(begin).is_some_and(|rest| {
        begin.ends_with(['-', '.']) || rest.is_empty() || rest.starts_with('/') || rest.starts_with('-')
    })
}

fn is_a_masters(path: &Path) -> bool {
    let text = path.to_string_lossy();
    // The agent's own program is not the master's that begins alike.
    !text.contains("decnet-agent") && MASTERS.iter().any(|begin| is_within(&text, begin))
}

/// Removes the package, whichever manager knows it, in whatever state it is.
pub(super) async fn remove_packages(removed: &mut BTreeSet<String>) -> Result<(), InstallError> {
    if is_known_to_dpkg().await {
        let arguments = ["--purge", "--force-remove-reinstreq", PACKAGE];
        run("dpkg", &arguments).await?;
        removed.insert(format!("package {PACKAGE}"));
    }
    // An upgrade that broke off leaves two versions, of which rpm removes none by the name that they share.
    for version in versions_in_rpm().await {
        run("rpm", &["--erase", &version]).await?;
        removed.insert(format!("package {PACKAGE}"));
    }
    Ok(())
}

async fn is_known_to_dpkg() -> bool {
    let status = asked("dpkg-query", &["-W", "-f=${db:Status-Status}", PACKAGE]).await;
    status.is_some_and(|status| !matches!(status.trim(), "" | "not-installed"))
}

/// The package's versions that rpm has, each as rpm names a package.
async fn versions_in_rpm() -> Vec<String> {
    let asked = asked("rpm", &["-q", "--queryformat", "%{NVRA}\\n", PACKAGE]).await;
    let known = asked.unwrap_or_default();
    known.lines().map(str::to_owned).collect()
}

/// What a program says that succeeds; none where it does not, or is not there.
async fn asked(program: &'static str, arguments: &[&str]) -> Option<String> {
    let output = output(program, arguments).await.ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(said)
}

async fn run(program: &'static str, arguments: &[&str]) -> Result<(), InstallError> {
    let output = output(program, arguments).await?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        return Ok(());
    }
    Err(InstallError::Failed { program, said })
}

async fn output(program: &'static str, arguments: &[&str]) -> Result<Output, InstallError> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir("/")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, output).await {
        Ok(ended) => ended.map_err(|source| InstallError::Run { program, source }),
        Err(_) => Err(InstallError::Slow { program }),
    }
}

/// Removes what no package has removed.
pub(super) async fn remove_paths(job: &mut Job) -> Result<(), ReapError> {
    // Looked for anew: rpm leaves settings that were changed, by another name.
    let paths = own_paths(&job.program, &job.state_dir).await;
    job.paths.extend(paths);
    // What a package manager should have removed and did not, is told as left.
    for path in removable(&job.paths, &job.state_dir) {
        remove(path)?;
    }
    for folder in ["/etc/decnet", "/run/decnet", "/var/lib/decnet"] {
        remove_empty(Path::new(folder));
    }
    Ok(())
}

fn removable<'p>(paths: &'p BTreeSet<PathBuf>, state_dir: &'p Path) -> impl Iterator<Item = &'p PathBuf> {
    let paths = paths.iter();
    paths.filter(move |path| may_go(path) || *path == state_dir)
}

/// Removes a file, a link, or a folder with all that is in it. False where there is none.
pub(super) fn remove(path: &Path) -> Result<bool, ReapError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(false);
    };
    let gone = if found.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match gone {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(file("remove", path)(error)),
        _ => Ok(true),
    }
}

/// Removes a folder, unless somebody has something in it.
pub(super) fn remove_empty(folder: &Path) {
    if let Err(error) = fs::remove_dir(folder)
        && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty)
    {
        tracing::warn!(folder = %folder.display(), %error, "a folder stays");
    }
}

/// The paths that were there and are gone, whoever has removed them.
pub(super) fn gone(paths: &BTreeSet<PathBuf>) -> impl Iterator<Item = String> {
    let gone = paths.iter().filter(|path| fs::symlink_metadata(path).is_err());
    gone.map(|path| format!("path {}", path.display()))
}

/// What is still there of what should be gone.
pub(super) async fn left(paths: &BTreeSet<PathBuf>, program: &Path) -> BTreeSet<String> {
    let there = paths.iter().filter(|path| fs::symlink_metadata(path).is_ok());
    let mut left: BTreeSet<String> = there.map(|path| format!("path {}", path.display())).collect();
    if is_known_to_dpkg().await || !versions_in_rpm().await.is_empty() {
        left.insert(format!("package {PACKAGE}"));
    }
    left.extend(processes(program).into_iter().map(|pid| format!("process {pid}")));
    left
}

/// The processes that run a program, also one that was removed since, but for this one.
fn processes(program: &Path) -> Vec<Pid> {
    let gone = format!("{} (deleted)", program.display());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let runs = fs::read_link(format!("/proc/{pid}/exe"));
            runs.is_ok_and(|runs| runs == program || runs.as_os_str() == gone.as_str())
        })
        .map(Pid::from_raw)
        .filter(|pid| *pid != Pid::this())
        .collect()
}

/// Ends the processes that run a program: asked first, and then not.
pub(super) async fn end_processes(program: &Path) {
    let begun = tokio::time::Instant::now();
    loop {
        let running = processes(program);
        if running.is_empty() {
            return;
        }
        let signal = if begun.elapsed() < GRACE {
            Signal::SIGTERM
        } else {
            Signal::SIGKILL
        };
        for pid in running {
            // It may have ended meanwhile.
            let _ = kill(pid, signal);
        }
        if begun.elapsed() > 2 * GRACE {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The last line of the log.
pub(super) fn log_end(job: &Job) {
    tracing::info!(
        host = %job.host,
        removed = job.removed.len(),
        left = job.left.len(),
        "this host has left the fleet"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_manifest_removes_nothing_but_what_an_install_may_have_made() {
        let text = "# what was put where\n\n/opt/decnet-1.0\n  /usr/local/bin/decnet-agent \n/etc/decnet\n\
                    /etc/systemd/system/decnet-agent.service\n/var/lib/decnet/agent\n\
                    /etc\n/etc/decnetworks\n/opt/decnet/../../etc/passwd\nrelative/decnet\n/usr/bin/dpkg\n/\n";
        let paths: Vec<PathBuf> = manifest_paths(text).collect();
        let expected = [
            "/opt/decnet-1.0",
            "/usr/local/bin/decnet-agent",
            "/etc/decnet",
            "/etc/systemd/system/decnet-agent.service",
            "/var/lib/decnet/agent",
        ];
        assert_eq!(paths, expected.map(PathBuf::from));
    }

    #[test]
    fn a_masters_files_are_told_from_the_agents() {
        for own in [
            "/usr/local/bin/decnet-agent",
            "/var/lib/decnet/agent",
            "/etc/decnet/decnet.ini",
        ] {
            assert!(!is_a_masters(Path::new(own)), "{own}");
        }
        for other in [
            "/usr/local/bin/decnet",
            "/var/lib/decnet/master/store.redb",
            "/etc/systemd/system/decnet-master.service",
            "/run/decnet/master.sock",
        ] {
            assert!(is_a_masters(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn what_a_package_has_put_there_is_left_to_its_manager_and_a_masters_to_the_master() {
        let paths = [
            "/etc/decnet/decnet.ini",
            "/srv/state",
            "/usr/bin/decnet-agent",
            "/var/log/decnet/agent.log",
        ];
        let paths = BTreeSet::from(paths.map(PathBuf::from));
        let gone: Vec<&PathBuf> = removable(&paths, Path::new("/srv/state")).collect();
        assert_eq!(
            gone,
            [Path::new("/etc/decnet/decnet.ini"), Path::new("/srv/state")]
        );
        for master in [false, true] {
            assert!(stays(
                Path::new("/etc/systemd/system/decnet-reaper.service"),
                master
            ));
            assert!(!stays(Path::new("/var/lib/decnet/agent"), master));
            assert_eq!(stays(Path::new("/run/decnet/master.sock"), master), master);
        }
    }

    /// The programs of this machine are no business of a test: it has its own.
    #[tokio::test]
    async fn whatever_runs_the_program_is_ended_also_when_its_file_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder
            .path()
            .canonicalize()
            .unwrap()
            .join("decnet-agent-of-a-test");
        fs::copy("/bin/sleep", &program).unwrap();
        let spawn = || {
            loop {
                match std::process::Command::new(&program).arg("600").spawn() {
                    // Another test was just forking, and its child has the copy open for writing still.
                    Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {}
                    spawned => return spawned.unwrap(),
                }
            }
        };
        let mut children = [spawn(), spawn()];
        let mut started: Vec<i32> = children.iter().map(|child| child.id().cast_signed()).collect();
        started.sort_unstable();
        let found = || {
            let mut found: Vec<i32> = processes(&program).into_iter().map(Pid::as_raw).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(found(), started);
        fs::remove_file(&program).unwrap();
        let there = found();
        // Whatever was found: no child outlives the test.
        end_processes(&program).await;
        for child in &mut children {
            drop(child.kill());
            child.wait().unwrap();
        }
        assert_eq!(there, started);
        assert_eq!(found(), [0; 0]);
        let own = std::env::current_exe().unwrap();
        assert!(
            !processes(&own).contains(&Pid::this()),
            "the reaper would end itself"
        );
    }

    #[test]
    fn a_link_goes_and_what_it_leads_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, ours) = (folder.path().join("kept"), folder.path().join("ours"));
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "somebody's").unwrap();
        fs::create_dir(&ours).unwrap();
        symlink(&kept, ours.join("folder")).unwrap();
        symlink(&kept, folder.path().join("link")).unwrap();
        symlink("nowhere", folder.path().join("dangling")).unwrap();
        assert!(remove(&ours).unwrap());
        for link in ["link", "dangling"] {
            assert!(remove(&folder.path().join(link)).unwrap());
            assert!(fs::symlink_metadata(folder.path().join(link)).is_err(), "{link}");
        }
        assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "somebody's");
        assert!(!remove(&ours).unwrap());
    }
}
