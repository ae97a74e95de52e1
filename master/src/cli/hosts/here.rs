//! `host enroll --here`: the agent of this very machine.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use super::super::Console;
use super::super::failure::Failure;
use super::EnrollArgs;
use crate::serve::operator::views::EnrollView;

/// The program of the package of the same name.
const AGENT: &str = "decnet-agent";
const UNIT: &str = "decnet-agent.service";
/// There only where systemd runs (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// Whether it can be done, before anything is made at the master.
pub(super) fn check() -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::Usage(
            "--here enrolls this machine, which only root may: run it as root".to_owned(),
        ));
    }
    run(Command::new(AGENT).arg("--version"), "").map(drop)
}

/// Gives the token to this machine's agent, and starts its service.
pub(super) fn enroll(args: &EnrollArgs, view: &EnrollView, console: &mut Console<'_>) -> Result<(), Failure> {
    // By standard input: a command line is for everybody to read.
    let mut command = Command::new(AGENT);
    command.args(["enroll", "-"]);
    command.arg(format!("--ipvlan={}", args.ipvlan));
    command.arg(format!("--updater={}", args.updater));
    let enrolled = run(&mut command, &view.token)?;
    let has_systemd = Path::new(SYSTEMD).exists();
    if has_systemd {
        run(Command::new("systemctl").args(["enable", "--now", UNIT]), "")?;
    }
    if console.json {
        let (name, host, started) = (&args.name, view.host_uuid, has_systemd);
        return console.document(&json!({ "name": name, "host_uuid": host, "started": started }));
    }
    console.say(&super::super::table::printable(enrolled.trim_end()))?;
    if has_systemd {
        console.say(&format!("{UNIT} runs, and starts with this machine"))
    } else {
        console.remark("There is no systemd here. Run: decnet-agent run");
        Ok(())
    }
}

/// Runs a program to its end; gives what it printed.
fn run(command: &mut Command, input: &str) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::Failed(format!("{program} is not on this machine: install its package"))
        }
        _ => Failure::Failed(format!("cannot run {program}: {error}")),
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it says itself what is wrong.
        let _ = stdin.write_all(input.as_bytes());
    }
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().map_err(failed)?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&stderr);
    Err(Failure::Failed(format!(
        "{program} failed ({status}): {}",
        said.trim()
    )))
}
