//! dpkg, rpm and systemd, as far as an update needs them.
//!
//! The files of the installed package are copied before it is replaced. They can be put back whatever the package manager
//! says, so that going back depends neither on its locks, nor on scripts of a package that does not work, nor on a package
//! of before being at hand. What it knows of is put right after that: for dpkg by a package that was made of the installed
//! files, for rpm by its own record of the version of before ([`record`]).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use decnet_wire::release::{Format, Version};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::record;

/// The package, and its unit.
pub(super) const NAME: &str = "decnet-agent";
/// What package scripts find in their environment: the updater starts the unit by itself.
const TOLD: (&str, &str) = ("DECNET_UPDATER", "1");
/// How long a package manager may be at work.
pub(super) const WORK: Duration = Duration::from_secs(300);
/// How long somebody else's work with the package manager is waited for.
const LOCKED: Duration = Duration::from_secs(120);
/// How long systemd may take to answer.
const SYSTEMD: Duration = Duration::from_secs(20);
/// What only a package of one format has. The agent runs no package manager, and their databases are their own.
const OWN_FILES: [(Format, &str); 2] = [
    (Format::Deb, "/usr/share/zsh/vendor-completions/_decnet-agent"),
    (Format::Rpm, "/usr/share/zsh/site-functions/_decnet-agent"),
];
/// Scripts and lists that are part of a package for dpkg. Not its list of settings: as they were shipped they are not to be had,
/// and what the administrator has changed would be taken for that, and be replaced by the next version.
const DPKG_PARTS: [&str; 5] = ["preinst", "postinst", "prerm", "postrm", "triggers"];

/// A processor as a package manager has it, and as Rust does.
pub(super) fn architecture() -> &'static str {
    std::env::consts::ARCH
}

/// Which package manager has installed the agent; none has when it came another way.
pub(crate) fn format() -> Option<Format> {
    let mut formats = OWN_FILES.into_iter();
    let found = formats.find(|(_, file)| Path::new(file).exists());
    found.map(|(format, _)| format)
}

/// The installed version, whole: as the package manager has it.
pub(super) async fn installed(format: Format) -> Result<String, String> {
    let said = match format {
        Format::Deb => {
            run(
                "dpkg-query",
                ["--show", "--showformat=${db:Status-Status} ${Version}", NAME],
                WORK,
            )
            .await?
        }
        Format::Rpm => {
            run(
                "rpm",
                ["-q", "--queryformat", "installed %{VERSION}-%{RELEASE}", NAME],
                WORK,
            )
            .await?
        }
    };
    match said.split_once(' ') {
        Some((_, version)) if !version.is_empty() => Ok(version.to_owned()),
        _ => Err(format!("the package {NAME} is not installed: {said}")),
    }
}

/// The part of a package's version that a release names.
pub(super) fn upstream(version: &str) -> Result<Version, String> {
    let upstream = version.rsplit_once('-').map_or(version, |(upstream, _)| upstream);
    upstream
        .parse()
        .map_err(|error| format!("the installed package: {error}"))
}

/// Sees to it that a file is the agent's package of a version.
pub(super) async fn check(format: Format, file: &Path, version: &Version) -> Result<(), String> {
    let said = match format {
        Format::Deb => {
            let show = "--showformat=${Package} ${Version}".as_ref();
            run("dpkg-deb", ["--show".as_ref(), show, file.as_os_str()], WORK).await?
        }
        Format::Rpm => {
            let show = "%{NAME} %{VERSION}-%{RELEASE}".as_ref();
            run(
                "rpm",
                ["-qp".as_ref(), "--queryformat".as_ref(), show, file.as_os_str()],
                WORK,
            )
            .await?
        }
    };
    is_of(&said, version)
}

/// Whether what a package manager says of a file, as `name version`, is the agent of this version.
fn is_of(said: &str, version: &Version) -> Result<(), String> {
    let (name, found) = said.trim().split_once(' ').unwrap_or_default();
    if name != NAME {
        return Err(format!("the package is {name:?}, not {NAME}"));
    }
    if upstream(found)? != *version {
        return Err(format!(
            "the package has version {found}, the release says {version}"
        ));
    }
    Ok(())
}

/// Installs a package, whatever version is there. Its scripts start nothing.
pub(super) async fn install(format: Format, file: &Path) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let done = match format {
            Format::Deb => {
                let arguments = ["--force-confold", "--force-confdef", "--install"].map(OsStr::new);
                run("dpkg", arguments.into_iter().chain([file.as_os_str()]), WORK).await
            }
            Format::Rpm => {
                let arguments = ["--upgrade", "--oldpackage", "--replacepkgs"].map(OsStr::new);
                run("rpm", arguments.into_iter().chain([file.as_os_str()]), WORK).await
            }
        };
        match done {
            Err(error) if error.contains("lock") && begun.elapsed() < LOCKED => {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            done => return done.map(drop),
        }
    }
}

/// Copies the installed package's files into a folder, but settings, which stay as they are.
pub(super) async fn save(format: Format, folder: &Path) -> Result<(), String> {
    let listed = match format {
        Format::Deb => run("dpkg-query", ["--listfiles", NAME], WORK).await?,
        Format::Rpm => run("rpm", ["-q", "--list", NAME], WORK).await?,
    };
    let paths: Vec<PathBuf> = listed.lines().map(PathBuf::from).collect();
    let to = folder.to_owned();
    blocking(move || {
        remove_all(&to)?;
        fs::create_dir_all(&to)?;
        let mut saved = 0;
        for path in paths
            .iter()
            .filter(|path| path.is_absolute() && !path.starts_with("/etc"))
        {
            saved += u32::from(copy(path, &beneath(&to, path), false)?);
        }
        if saved == 0 {
            return Err(io::Error::other("the package has no files"));
        }
        Ok(())
    })
    .await
    .map_err(|error| format!("the installed files cannot be saved: {error}"))
}

/// Keeps what the package manager is told of the installed version when it comes back: for dpkg a package of the saved files.
pub(super) async fn remember(format: Format, saved: &Path, version: &str, file: &Path) -> Result<(), String> {
    match format {
        Format::Deb => repack(saved, version, file).await,
        Format::Rpm => record::keep(version, file).await,
    }
}

/// Tells the package manager that a version is installed again, by what was kept of it. Files of it are there already.
pub(super) async fn recall(format: Format, version: &str, file: &Path) -> Result<(), String> {
    match format {
        Format::Deb => install(format, file).await,
        Format::Rpm => record::put_back(version, file).await,
    }
}

/// Makes a package of saved files.
async fn repack(saved: &Path, version: &str, file: &Path) -> Result<(), String> {
    let status = run("dpkg-query", ["--status", NAME], WORK).await?;
    let control = control_file(&status, version);
    let listed = run("dpkg-query", ["--control-list", NAME], WORK).await?;
    let mut parts = Vec::new();
    for part in DPKG_PARTS {
        if listed.lines().any(|line| line == part) {
            let text = run("dpkg-query", ["--control-show", NAME, part], WORK).await?;
            parts.push((part, format!("{text}\n")));
        }
    }
    let (saved, tree) = (saved.to_owned(), file.with_extension("tree"));
    let folder = tree.clone();
    blocking(move || {
        remove_all(&folder)?;
        for path in files_below(&saved)? {
            let path = path.strip_prefix(&saved).unwrap_or(&path).to_owned();
            copy(&saved.join(&path), &folder.join(&path), false)?;
        }
        let information = folder.join("DEBIAN");
        fs::create_dir_all(&information)?;
        fs::set_permissions(&information, fs::Permissions::from_mode(0o755))?;
        fs::write(information.join("control"), control)?;
        for (part, text) in parts {
            let path = information.join(part);
            fs::write(&path, text)?;
            let mode = if part == "triggers" { 0o644 } else { 0o755 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    })
    .await
    .map_err(|error| format!("the installed package cannot be packed: {error}"))?;
    let arguments = ["--root-owner-group", "-Znone", "--build"].map(OsStr::new);
    let built = run(
        "dpkg-deb",
        arguments.into_iter().chain([tree.as_os_str(), file.as_os_str()]),
        WORK,
    )
    .await;
    // It only takes room; the next update removes it as well.
    let _ = fs::remove_dir_all(&tree);
    built.map(drop)
}

/// The control file of an installed package: what dpkg says of it, but what is of this machine alone.
fn control_file(status: &str, version: &str) -> String {
    let mut control = String::new();
    let mut kept = true;
    for line in status.lines() {
        if !line.starts_with(' ') {
            let (name, _) = line.split_once(':').unwrap_or_default();
            kept = !matches!(name, "Status" | "Conffiles" | "Version" | "Config-Version");
        }
        if kept && !line.is_empty() {
            control.push_str(line);
            control.push('\n');
        }
    }
    control.push_str(&format!("Version: {version}\n"));
    control
}

/// Puts saved files back, each as a whole.
pub(super) async fn put_back(folder: &Path) -> Result<(), String> {
    let from = folder.to_owned();
    blocking(move || {
        for path in files_below(&from)? {
            let to = path.strip_prefix(&from).map(|path| Path::new("/").join(path));
            copy(&path, &to.map_err(io::Error::other)?, true)?;
        }
        Ok(())
    })
    .await
    .map_err(|error| format!("the files of before cannot be put back: {error}"))
}

/// Has systemd read units anew and start the agent, without waiting for it.
pub(super) async fn restart() -> Result<(), String> {
    systemctl(&["daemon-reload"]).await?;
    // A version that failed again and again before is to be started all the same.
    let _ = systemctl(&["reset-failed", "decnet-agent.service"]).await;
    systemctl(&["restart", "--no-block", "decnet-agent.service"]).await
}

/// Ends the agent at once: what is to be replaced need not end in order.
pub(super) async fn kill() -> Result<(), String> {
    // There may be no process: what counts is that the unit is stopped.
    let _ = systemctl(&["kill", "--signal=SIGKILL", "decnet-agent.service"]).await;
    systemctl(&["stop", "decnet-agent.service"]).await
}

/// How often systemd has begun the agent again by itself since it was started; none where it does not say.
pub(super) async fn restarts() -> Option<u32> {
    let asked = ["show", "--property=NRestarts", "--value", "decnet-agent.service"];
    run("systemctl", asked, SYSTEMD).await.ok()?.parse().ok()
}

async fn systemctl(arguments: &[&str]) -> Result<(), String> {
    run("systemctl", arguments.iter().copied(), SYSTEMD)
        .await
        .map(drop)
}

/// Runs a program to its end; gives its standard output.
pub(super) async fn run<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
    limit: Duration,
) -> Result<String, String> {
    run_with(program, arguments, Stdio::null(), limit).await
}

/// As [`run`], with something to read.
pub(super) async fn run_with<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
    stdin: Stdio,
    limit: Duration,
) -> Result<String, String> {
    let mut command = command(program);
    command.args(arguments).stdin(stdin);
    let ended = timeout(limit, command.output())
        .await
        .map_err(|_| format!("{program} did not end within {} s", limit.as_secs()))?
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let said = said.trim().lines().last().unwrap_or("it does not say why");
    Err(format!("{program} failed ({}): {said}", ended.status))
}

/// A program, which ends with this one, reads nothing and asks nobody.
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env(TOLD.0, TOLD.1)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// An absolute path below a folder.
fn beneath(folder: &Path, path: &Path) -> PathBuf {
    folder.join(OsStr::from_bytes(
        path.as_os_str().as_bytes().strip_prefix(b"/").unwrap_or_default(),
    ))
}

/// Copies a file or link, a file with its time, which rpm looks at; what is neither, or not there, is none. The copy takes its
/// name at once and as a whole, and is on the disk. Over what is there only where that is meant.
fn copy(from: &Path, to: &Path, replace: bool) -> io::Result<bool> {
    let kind = match fs::symlink_metadata(from) {
        Ok(kind) => kind,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !kind.is_file() && !kind.is_symlink() {
        return Ok(false);
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut name = to.as_os_str().to_owned();
    name.push(".decnet-updater");
    let beside = PathBuf::from(name);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, &beside)?;
    } else {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        io::copy(&mut File::open(from)?, &mut file)?;
        file.set_permissions(kind.permissions())?;
        file.flush()?;
        file.set_modified(kind.modified()?)?;
        file.sync_all()?;
    }
    if !replace && fs::symlink_metadata(to).is_ok() {
        fs::remove_file(to)?;
    }
    fs::rename(&beside, to)?;
    if let Some(parent) = to.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(true)
}

/// Copies a program to where it is found again, as a whole.
pub(super) async fn keep_program(from: &Path, to: &Path) -> Result<(), String> {
    let (from, to) = (from.to_owned(), to.to_owned());
    match blocking(move || copy(&from, &to, true)).await {
        Ok(true) => Ok(()),
        Ok(false) => Err("the updater's program is not there".to_owned()),
        Err(error) => Err(format!("the updater's program cannot be copied: {error}")),
    }
}

fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Removes a folder with all that is in it, or a file; nothing there is fine.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(kind) if kind.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_has_what_a_package_says_and_nothing_of_the_machine() {
        let status = "Package: decnet-agent\nStatus: install ok installed\nVersion: 2.0-1\nConffiles:\n /etc/decnet/decnet.ini abc\nDescription: decoys\n more\n";
        assert_eq!(
            control_file(status, "1.0-1"),
            "Package: decnet-agent\nDescription: decoys\n more\nVersion: 1.0-1\n"
        );
    }

    #[tokio::test]
    async fn saved_files_come_back_with_their_modes_times_and_links() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::write(from.join("bin/program"), "old").unwrap();
        fs::set_permissions(from.join("bin/program"), fs::Permissions::from_mode(0o755)).unwrap();
        let built = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let program = File::options().write(true).open(from.join("bin/program"));
        program.unwrap().set_modified(built).unwrap();
        std::os::unix::fs::symlink("program", from.join("bin/link")).unwrap();
        for path in files_below(&from).unwrap() {
            assert!(copy(&path, &to.join(path.strip_prefix(&from).unwrap()), true).unwrap());
        }
        assert_eq!(fs::read(to.join("bin/program")).unwrap(), b"old");
        let program = fs::metadata(to.join("bin/program")).unwrap();
        assert_eq!(program.permissions().mode() & 0o777, 0o755);
        assert_eq!(program.modified().unwrap(), built);
        assert_eq!(fs::read_link(to.join("bin/link")).unwrap(), Path::new("program"));
        // Over what is there.
        fs::write(from.join("bin/program"), "older").unwrap();
        assert!(copy(&from.join("bin/program"), &to.join("bin/program"), true).unwrap());
        assert_eq!(fs::read(to.join("bin/program")).unwrap(), b"older");
        assert!(!copy(&from.join("nothing"), &to.join("nothing"), true).unwrap());
        assert_eq!(files_below(&to).unwrap().len(), 2, "nothing is left beside them");
    }

    #[test]
    fn a_package_is_the_agents_and_of_the_version_that_was_signed() {
        let version = "1.1".parse().unwrap();
        is_of("decnet-agent 1.1-1\n", &version).unwrap();
        for (said, why) in [
            ("decnet 1.1-1", "not decnet-agent"),
            ("decnet-agent 1.0-1", "the release says 1.1"),
            ("decnet-agent 1.1.1-1", "the release says 1.1"),
            ("", "not decnet-agent"),
        ] {
            let told = is_of(said, &version).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn the_upstream_version_is_what_a_release_names() {
        assert_eq!(upstream("0.2.0-1").unwrap().as_str(), "0.2.0");
        assert_eq!(upstream("0.2.0~rc1-1").unwrap().as_str(), "0.2.0~rc1");
        assert!(upstream("what").is_err());
    }
}
