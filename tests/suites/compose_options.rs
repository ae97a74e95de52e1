//! The options of `decnet-agent compose` against those of Docker Compose: the same command lines, one after the other,
//! leave the same containers, in the same states, made anew or not, and the same images and volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use decnet_tests::command::{SHORT, run};
use decnet_tests::engine::{self, docker};
use decnet_tests::oracle::contender::{Contender, LIMIT};
use decnet_tests::oracle::fixture::PREFIX;
use decnet_tests::oracle::{none_differ, stage::Stage};
use decnet_tests::wait::{Seen, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LESS: &str = r#"
volumes:
  data:
services:
  web:
    image: decnet-oracle/box:1
    command: ["sh", "-c", "echo one; echo two; exec sleep 100000"]
    depends_on: [db]
  db:
    image: decnet-oracle/box:1
    volumes: ["data:/data"]
    healthcheck: {test: ["CMD", "true"], interval: 100ms, retries: 1}
  stubborn:
    image: decnet-oracle/box:1
    command: ["sh", "-c", "trap '' TERM; while true; do sleep 1; done"]
    stop_signal: SIGTERM
    stop_grace_period: 1h
"#;

/// One more service of the same project.
const BUILT: &str = r#"
  built:
    build: {context: ., dockerfile_inline: "FROM decnet-oracle/box:1\nENV BUILT=1\n"}
"#;

/// What does not come up.
const SICK: &str = r#"
services:
  sick:
    image: decnet-oracle/box:1
    healthcheck: {test: ["CMD", "false"], interval: 100ms, retries: 1}
"#;

const ABSENT: &str = r#"
services:
  absent: {image: "decnet-oracle/absent:1"}
"#;

/// Command lines that follow each other on one project, and whether they are done.
const STEPS: [(&str, bool); 18] = [
    ("-f compose.yaml up -d --no-start", true),
    ("-f compose.yaml up -d web", true),
    ("-f compose.yaml up -d", true),
    ("-f compose.yaml up -d --scale web=3", true),
    ("-f compose.yaml up -d --scale web=1", true),
    ("-f compose.yaml up -d --scale web=0", true),
    ("-f compose.yaml up -d", true),
    ("-f compose.yaml up -d --force-recreate built", true),
    ("-f compose.yaml up -d --force-recreate -t 0", true),
    ("-f compose.yaml up -d --wait --wait-timeout 60", true),
    ("-f less.yaml up -d", true),
    ("-f less.yaml up -d --remove-orphans", true),
    ("-f less.yaml down -t 0", true),
    ("-f compose.yaml up -d --pull never", true),
    ("-f compose.yaml down -v --rmi local -t 0", true),
    ("-f sick.yaml up -d --wait --wait-timeout 60", false),
    ("-f sick.yaml down", true),
    ("-f absent.yaml up -d --pull never", false),
];

/// A container: its state and whether it was there before, under the same id.
type State = (String, bool);

/// What a command line leaves behind.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    done: bool,
    containers: BTreeMap<String, State>,
    volumes: BTreeSet<String>,
    images: BTreeSet<String>,
}

#[test]
fn the_same_options_do_the_same_under_docker_compose() -> Result<()> {
    let _turn = engine::turn()?;
    let _stage = Stage::set()?;
    let folder = tempfile::tempdir()?;
    write(folder.path())?;
    let project = format!("{PREFIX}options");
    let compose = walk(Contender::Compose, folder.path(), &project)?;
    let ours = walk(Contender::Ours, folder.path(), &project)?;
    let mut differ = Vec::new();
    for (((line, done), compose), ours) in STEPS.iter().zip(&compose).zip(&ours) {
        println!("{line}: {ours:?}");
        if compose != ours || ours.done != *done {
            differ.push(format!("{line}:\n    compose {compose:?}\n    ours    {ours:?}"));
        }
    }
    none_differ(&differ)
}

#[test]
fn logs_say_what_was_written_and_follow_until_they_are_interrupted() -> Result<()> {
    let _turn = engine::turn()?;
    let _stage = Stage::set()?;
    let folder = tempfile::tempdir()?;
    write(folder.path())?;
    let project = format!("{PREFIX}logs");
    let run_ours = |line: &str| told(Contender::Ours, folder.path(), &project, line);
    run_ours("-f compose.yaml up -d --wait web")?;
    until("both lines are there", SHORT, || {
        let said = run_ours("-f compose.yaml logs --no-log-prefix web")?;
        Ok(Seen::when(said == "one\ntwo\n", said))
    })?;
    ensure!(run_ours("-f compose.yaml logs --no-log-prefix -n 1 web")? == "two\n");
    ensure!(run_ours("-f compose.yaml logs db")?.is_empty());
    let prefixed = run_ours("-f compose.yaml logs -n 1 web")?;
    ensure!(
        prefixed.contains("web-1") && prefixed.ends_with("two\n"),
        "{prefixed:?}"
    );

    let line = "-f compose.yaml logs -f --no-log-prefix web";
    let mut follow = asked(Contender::Ours, folder.path(), &project, line)?;
    let mut follow = follow.stdout(Stdio::piped()).spawn()?;
    let outcome = follow.stdout.take().context("no output").and_then(|output| {
        let mut lines = BufReader::new(output).lines();
        let mut next = || lines.next().context("it has ended").and_then(|line| Ok(line?));
        let (one, two): (String, String) = (next()?, next()?);
        ensure!((one.as_str(), two.as_str()) == ("one", "two"), "{one:?}, {two:?}");
        let id = docker(&["inspect", "-f", "{{.State.Pid}}", &format!("{project}-web-1")])?;
        ensure!(id.trim() != "0", "web does not run");
        docker(&[
            "exec",
            &format!("{project}-web-1"),
            "sh",
            "-c",
            "echo three >/proc/1/fd/1",
        ])?;
        let three = next()?;
        ensure!(three == "three", "{three:?}");
        ensure!(follow.try_wait()?.is_none(), "it did not go on");
        kill(Pid::from_raw(i32::try_from(follow.id())?), Signal::SIGINT)?;
        Ok(())
    });
    if outcome.is_err() {
        follow.kill()?;
    }
    let ended = follow.wait()?;
    outcome?;
    println!("logs -f ended with {ended}");
    run_ours("-f compose.yaml down -v -t 0")?;
    Ok(())
}

fn write(folder: &Path) -> Result<()> {
    for (name, text) in [
        ("compose.yaml", format!("{LESS}{BUILT}").as_str()),
        ("less.yaml", LESS),
        ("sick.yaml", SICK),
        ("absent.yaml", ABSENT),
    ] {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}

/// The program, to be run with a command line.
fn asked(contender: Contender, folder: &Path, project: &str, line: &str) -> Result<Command> {
    let mut command = contender.command(folder)?;
    command.args(["-p", project]).args(line.split(' '));
    Ok(command)
}

/// What a command line says that is done.
fn told(contender: Contender, folder: &Path, project: &str, line: &str) -> Result<String> {
    run(&mut asked(contender, folder, project, line)?, LIMIT)?.ok()
}

fn walk(contender: Contender, folder: &Path, project: &str) -> Result<Vec<Left>> {
    let mut before = BTreeMap::new();
    let mut all = Vec::new();
    for (line, done) in STEPS {
        let mut command = asked(contender, folder, project, line)?;
        let said = run(&mut command, LIMIT).with_context(|| format!("{contender:?} {line}"))?;
        let ids = contender.ids(project)?;
        let mut containers = BTreeMap::new();
        for (name, id) in &ids {
            let state = docker(&["inspect", "--type", "container", "-f", "{{.State.Status}}", id])?;
            let known = before.get(name) == Some(id);
            containers.insert(name.clone(), (state.trim().to_owned(), known));
        }
        before = ids;
        let own = |list: &[&str]| -> Result<BTreeSet<String>> {
            let names = docker(list)?;
            let own = names.lines().filter(|name| name.starts_with(project));
            Ok(own.map(str::to_owned).collect())
        };
        all.push(Left {
            done: said.status.success(),
            containers,
            volumes: own(&["volume", "ls", "--format", "{{.Name}}"])?,
            images: own(&["image", "ls", "--format", "{{.Repository}}"])?,
        });
        if said.status.success() != done {
            println!("{contender:?} {line}: {}", said.said());
        }
    }
    // Leaves nothing to the one that comes next.
    told(
        contender,
        folder,
        project,
        "-f compose.yaml down -v --rmi local --remove-orphans -t 0",
    )?;
    let left = contender.inspect(project)?;
    if !left.is_empty() {
        bail!("{contender:?} leaves {left:?}");
    }
    Ok(all)
}
