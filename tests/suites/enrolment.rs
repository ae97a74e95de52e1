//! How a host comes into the fleet: with a token that somebody pasted, carried in a file, or approved by an operator who
//! compares what the host says; and how one does not.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::processes::{Agent, Process, bin};
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};

const SOON: Duration = Duration::from_secs(30);

/// Begins an enrolment that waits for approval; gives it and what it says is its fingerprint.
fn begin(scene: &Scene, name: &str, token: &str) -> Result<(Process, String)> {
    let log = scene.folder().join(format!("{name}.enrol.log"));
    let mut command = Command::new(bin("decnet-agent")?);
    command
        .arg("--state-dir")
        .arg(scene.folder().join(name))
        .args(["enroll", token]);
    let process = Process::start(&mut command, &log)?;
    let fingerprint = until("the host says its fingerprint", SOON, || {
        let said = std::fs::read_to_string(&log)?;
        let word = said.split_whitespace().find(|word| word.starts_with("sha256:"));
        Ok(word.map_or_else(|| Seen::not_yet(said.clone()), |word| Seen::Done(word.to_owned())))
    })?;
    Ok((process, fingerprint))
}

fn state(scene: &Scene, host: &str) -> Result<String> {
    Ok(scene.operator.hosts()?[host].status.clone())
}

#[test]
fn a_host_waits_until_an_operator_has_compared_its_fingerprint() -> Result<()> {
    let mut scene = Scene::swarm("enrolment, approval")?;
    let (_, token) = scene.operator.enroll("edge", None, &["--approve"])?;
    let (mut waiting, fingerprint) = begin(&scene, "edge", &token)?;
    ensure!(state(&scene, "edge")? == "waiting", "{}", state(&scene, "edge")?);

    scene.expects_alarms()?;
    // Who has the token as well, and another key, does not get in between, neither now nor later.
    let thief = Agent::new(scene.folder(), "thief").command(&["enroll", &token])?;
    ensure!(thief.status.code() == Some(1), "{}", thief.said());
    ensure!(thief.said().contains("403"), "{}", thief.said());

    // The wrong fingerprint is no approval.
    let wrong = format!("sha256:{}", "0".repeat(64));
    let said = scene.operator.command(&["host", "approve", "edge", &wrong])?;
    ensure!(said.status.code() == Some(4), "{}", said.said());
    ensure!(said.said().contains(&fingerprint), "{}", said.said());

    // A restart forgets nobody.
    scene.master.kill()?;
    scene.master.start()?;
    waiting.check()?;
    ensure!(state(&scene, "edge")? == "waiting", "{}", state(&scene, "edge")?);
    scene
        .operator
        .command(&["host", "approve", "edge", &fingerprint])?
        .ok()?;
    let code = until("the enrolment ends", SOON, || {
        Ok(waiting
            .ended()?
            .map_or_else(|| Seen::not_yet("it waits"), Seen::Done))
    })?;
    ensure!(code == 0, "the enrolment ended with {code}");
    let mut agent = Agent::new(scene.folder(), "edge");
    agent.start()?;
    scene.explained(scene.operator.active("edge"))?;
    let thief = Agent::new(scene.folder(), "thief").command(&["enroll", &token])?;
    ensure!(thief.status.code() == Some(1), "{}", thief.said());
    scene.end()
}

#[test]
fn a_token_in_a_file_does_for_a_host_that_nobody_can_paste_into() -> Result<()> {
    let scene = Scene::swarm("enrolment, file")?;
    let file = scene.folder().join("token");
    let file = file.to_str().context("not UTF-8")?;
    scene
        .operator
        .command(&["host", "enroll", "far", "--out", file])?
        .ok()?;
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(file)?);
    ensure!(mode & 0o777 == 0o600, "others may read it: {mode:o}");
    let mut agent = Agent::new(scene.folder(), "far");
    agent.command(&["enroll", "--file", file])?.ok()?;
    agent.start()?;
    scene.explained(scene.operator.active("far"))?;
    scene.end()
}

#[test]
fn who_guesses_is_put_off_and_nobody_else_waits_for_him() -> Result<()> {
    let scene = Scene::swarm("enrolment, guesses")?;
    let at = format!("https://127.0.0.1:{}/enroll/v1/rejoin", scene.master.enrol_port);
    // All of one machine: every address of loopback is its own.
    let guess = |from: &str| -> Result<String> {
        let mut command = Command::new("curl");
        command
            .args(["-sk", "-w", "\n%{http_code}\n", "--interface", from])
            .args([
                "-d",
                r#"{"schema":1,"host":"00000000-0000-4000-8000-000000000001","csr":"x"}"#,
            ])
            .args(vec![at.as_str(); 40]);
        decnet_tests::command::run(&mut command, SOON)?.ok()
    };
    let answers = guess("127.0.0.2")?;
    let answers: Vec<u16> = answers.lines().filter_map(|line| line.parse().ok()).collect();
    let count = |code| answers.iter().filter(|answer| **answer == code).count();
    let (refused, put_off) = (count(403), count(429));
    ensure!(
        refused >= 30 && put_off > 0 && refused + put_off == 40,
        "{answers:?}"
    );
    let (_, token) = scene.operator.enroll("good", None, &[])?;
    Agent::new(scene.folder(), "good").enrol(&token)?;
    scene.end()
}
