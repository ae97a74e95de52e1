//! How a host comes into the fleet: with a token that somebody pasted, carried in a file, or approved by an operator who
//! compares what the host says; and how one does not.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use decnet_pki::digest::Sha256Digest;
use decnet_tests::fleet::Operator;
use decnet_tests::processes::{Agent, Master, Process, bin};
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};
use decnet_wire::ids::Digest;

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

/// A master that hands out packages, which hold whatever a test likes, under names that it recognises.
fn handing_out(folder: &Path, size: usize) -> Result<Master> {
    let packages = folder.join("packages");
    std::fs::create_dir(&packages)?;
    std::fs::write(packages.join("decnet-agent_1.0-1_amd64.deb"), vec![7; size])?;
    std::fs::write(packages.join("decnet-agent-1.0-1.x86_64.rpm"), "rpm")?;
    std::fs::write(packages.join("secret"), "of nobody's business")?;
    let mut master = Master::init(folder)?.without_worker().with_packages(&packages);
    master.start()?;
    Ok(master)
}

/// What a stranger gets: the status, and what came.
fn fetched(master: &Master, path: &str) -> Result<(u16, Vec<u8>)> {
    let url = format!("https://127.0.0.1:{}{path}", master.enrol_port);
    let output = Command::new("curl")
        .args(["-sk", "--path-as-is", "-w", "%{stderr}%{http_code}", &url])
        .output()?;
    Ok((String::from_utf8_lossy(&output.stderr).parse()?, output.stdout))
}

#[test]
fn the_script_and_the_packages_are_there_for_who_knows_their_digests_and_nothing_else_is() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("decnet-").tempdir_in("/tmp")?;
    let master = handing_out(folder.path(), 100_000)?;
    let operator = Operator::on(&master.socket);
    let invited = operator.json(&["host", "enroll", "edge"])?;
    let line = invited["line"].as_str().context("no line")?;
    let path = line
        .split_once(&format!(":{}", master.enrol_port))
        .and_then(|(_, rest)| rest.split(' ').next())
        .context("no address in the line")?;
    let (status, script) = fetched(&master, path)?;
    let digest = Digest::from_sha256(*Sha256Digest::of(&script).as_bytes());
    ensure!(
        status == 200 && line.contains(&format!("'{}  -'", digest.hex())),
        "{status}: the script is {digest}"
    );
    let script = String::from_utf8(script)?;
    let token = invited["token"].as_str().context("no token")?;
    ensure!(!script.contains("decnet1.") && line.contains(token), "{script}");
    for name in ["decnet-agent_1.0-1_amd64.deb", "decnet-agent-1.0-1.x86_64.rpm"] {
        let package = std::fs::read(folder.path().join("packages").join(name))?;
        let digest = Digest::from_sha256(*Sha256Digest::of(&package).as_bytes());
        ensure!(script.contains(digest.hex()), "{name} is not in the script");
        let (status, found) = fetched(&master, &format!("/enroll/v1/packages/sha256/{}", digest.hex()))?;
        ensure!(status == 200 && found == package, "{name}: {status}");
    }
    let secret = Digest::from_sha256(*Sha256Digest::of(b"of nobody's business").as_bytes());
    for path in [
        "/enroll/v1/install",
        "/enroll/v1/install/sha256/",
        "/enroll/v1/packages/",
        "/enroll/v1/packages/sha256/",
        "/enroll/v1/packages/sha256/decnet-agent_1.0-1_amd64.deb",
        "/enroll/v1/packages/sha256/../secret",
        &format!("/enroll/v1/packages/sha256/{}", secret.hex()),
        &format!("/enroll/v1/install/sha256/{}", secret.hex()),
    ] {
        let (status, _) = fetched(&master, path)?;
        ensure!(status == 404, "{path}: {status}");
    }
    Ok(())
}

#[test]
fn who_fetches_packages_and_does_not_read_them_keeps_nobody_from_enrolling() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("decnet-").tempdir_in("/tmp")?;
    let size = 16 << 20;
    let master = handing_out(folder.path(), size)?;
    let digest = Digest::from_sha256(*Sha256Digest::of(&vec![7; size]).as_bytes());
    let path = format!("/enroll/v1/packages/sha256/{}", digest.hex());
    let url = format!("https://127.0.0.1:{}{path}", master.enrol_port);
    let mut slow = Vec::new();
    let mut fetch_slowly = || -> Result<()> {
        let mut curl = Command::new("curl");
        curl.args(["-sk", "--limit-rate", "4k", "-o", "/dev/null", &url]);
        slow.push(Process::start(&mut curl, &folder.path().join("slow.log"))?);
        Ok(())
    };
    for _ in 0..40 {
        fetch_slowly()?;
    }
    until("all turns are taken", SOON, || {
        let (status, _) = fetched(&master, &path)?;
        if status == 503 {
            return Ok(Seen::Done(()));
        }
        // This look had the turn of one of them, who was sent away.
        fetch_slowly()?;
        Ok(Seen::not_yet(status))
    })?;
    // Everything else is as it was.
    let (_, token) = Operator::on(&master.socket).enroll("good", None, &[])?;
    Agent::new(folder.path(), "good").enrol(&token)?;
    drop(slow);
    until("their turns are over", SOON, || {
        let (status, found) = fetched(&master, &path)?;
        let whole = status == 200 && found.len() == size;
        Ok(if whole {
            Seen::Done(())
        } else {
            Seen::not_yet(status)
        })
    })
}
