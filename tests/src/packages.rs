//! Packages of the programs that were built here, quickly made and not small.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::command::{program, run};
use crate::processes::{bin, decoy_image};

/// How long it may take on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(120);
/// The time of every file in a package, in seconds since 1970.
pub const EPOCH: &str = "1700000000";

/// Makes the agent's deb of a version, with units of one's own where a folder of them is given; gives its path.
///
/// # Errors
///
/// When it cannot be made.
pub fn agent_deb(version: &str, units: Option<&Path>, out: &Path) -> Result<PathBuf> {
    let mut command = pack("deb", "decnet-agent", version, &project(), out)?;
    if let Some(units) = units {
        command.arg("--units").arg(units);
    }
    made(&mut command)
}

/// Makes a package for rpm from a folder as [`project`] is; gives its path.
///
/// # Errors
///
/// When it cannot be made.
pub fn rpm(package: &str, version: &str, source: &Path, out: &Path) -> Result<PathBuf> {
    made(&mut pack("rpm", package, version, source, out)?)
}

/// The command that makes a package of a format (`deb`, `rpm`, `tree`) without compression, and prints its path.
///
/// # Errors
///
/// When a program or the decoy image was not built.
pub fn pack(format: &str, package: &str, version: &str, source: &Path, out: &Path) -> Result<Command> {
    let mut command = Command::new(bin("decnet-pack")?);
    command.args([format, "--package", package, "--level", "0"]);
    command.args(["--package-version", version]);
    command.arg("--binary").arg(bin(package)?);
    command.arg("--decoy-image").arg(decoy_image()?);
    command.arg("--source").arg(source).arg("--out").arg(out);
    command.env("SOURCE_DATE_EPOCH", EPOCH);
    Ok(command)
}

fn made(command: &mut Command) -> Result<PathBuf> {
    Ok(PathBuf::from(run(command, LIMIT)?.ok()?.trim()))
}

/// What packages are made of.
#[must_use]
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Copies what packages are made of into a folder, which is made; gives it back.
///
/// # Errors
///
/// When it cannot be copied.
pub fn source_in(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    for from in [
        "Cargo.toml",
        "Cargo.lock",
        "agent",
        "master",
        "packaging",
        "pki",
        "systemd",
        "tests",
        "CHANGELOG.md",
        "LICENSE",
    ] {
        let mut copy = program("cp", &["-r"]);
        run(copy.arg(project().join(from)).arg(folder.join(from)), LIMIT)?.ok()?;
    }
    Ok(folder.to_owned())
}
