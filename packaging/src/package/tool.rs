//! Runs the programs that packages are made with.

use std::path::Path;
use std::process::Command;

use super::PackageError;

/// A program and Debian's package that has it. Nothing of the caller's language, time zone or folders reaches it.
pub(super) fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(name);
    command.env("LC_ALL", "C").env("TZ", "UTC");
    command
}

/// Runs it to its end and gives back its standard output.
///
/// # Errors
/// It cannot be started, or fails; with what it said.
pub(super) fn run(command: &mut Command, from: &'static str) -> Result<Vec<u8>, PackageError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|source| PackageError::Start {
        program: name.clone(),
        from,
        source,
    })?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(PackageError::Tool {
            program: name,
            said: format!("{}: {}", done.status, said.trim()),
        });
    }
    Ok(done.stdout)
}

/// Compresses a file in place of reading it: without its name and time.
///
/// # Errors
/// As [`run`].
pub(super) fn gzip(path: &Path) -> Result<Vec<u8>, PackageError> {
    run(program("gzip").args(["-9", "-n", "-c"]).arg(path), "gzip")
}
