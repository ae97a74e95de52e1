//! `decnet-agent compose` against Docker Compose: the same files on the same engine make the same containers, networks
//! and volumes, and the same edit recreates the same containers.
//!
//! `DECNET_ORACLE=name,name` runs those fixtures only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::command::{program, run};
use decnet_tests::engine;
use decnet_tests::lan::Lan;
use decnet_tests::oracle::contender::Contender;
use decnet_tests::oracle::fixture::{self, Copy, Fixture};
use decnet_tests::oracle::{none_differ, snapshot, stage::Stage};
use decnet_tests::seed::Seed;
use serde_json::Value;

/// Projects under way at once. The engine gains nothing beyond, and one project waits for the other's stops.
const AT_ONCE: usize = 6;

/// What one program has made of a fixture.
#[derive(Debug)]
struct Made {
    snapshot: Value,
    /// What each edit led to.
    edits: Vec<Effect>,
}

/// Names of containers that are others than before, or new, or gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Effect {
    recreated: BTreeSet<String>,
    created: BTreeSet<String>,
    removed: BTreeSet<String>,
}

#[test]
fn the_same_file_means_the_same_under_docker_compose() -> Result<()> {
    let _turn = engine::turn()?;
    let seed = Seed::announced("compose oracle");
    let stage = Stage::set()?;
    let lan = Lan::create(&seed)?;
    let environment = BTreeMap::from([
        ("PARENT".to_owned(), lan.parent().to_owned()),
        ("LAN".to_owned(), lan.names().prefix.clone()),
    ]);
    let only = std::env::var("DECNET_ORACLE").ok();
    let chosen = |fixture: &Fixture| {
        let only = only.as_deref();
        only.is_none_or(|only| only.split(',').any(|name| name == fixture.name))
    };
    let fixtures: Vec<Fixture> = fixture::all()?.into_iter().filter(chosen).collect();
    let edits: usize = fixtures.iter().map(|fixture| fixture.edits.len()).sum();
    println!("{} fixtures, {edits} edits", fixtures.len());
    if only.is_none() {
        ensure!(fixtures.len() >= 60, "only {} fixtures", fixtures.len());
        ensure!(edits >= 120, "only {edits} edits");
    }

    let queue = Mutex::new(fixtures.iter());
    let failures = Mutex::new(Vec::new());
    let stuck = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(fixture) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                    let mut outcome = examine(fixture, &environment);
                    if let Err(error) = &outcome
                        && is_stuck(error)
                    {
                        println!(
                            "{}: once more, the engine keeps a network: {error:#}",
                            fixture.name
                        );
                        stuck.fetch_add(1, Ordering::SeqCst);
                        outcome = examine(fixture, &environment);
                    }
                    let found = outcome.unwrap_or_else(|error| vec![format!("{error:#}")]);
                    println!(
                        "{}: {}",
                        fixture.name,
                        if found.is_empty() { "equal" } else { "differs" }
                    );
                    for line in &found {
                        println!("    {line}");
                    }
                    if let Ok(mut failures) = failures.lock() {
                        failures.extend(found.into_iter().map(|line| format!("{}: {line}", fixture.name)));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap_or_default();
    let left = stage.left()?;
    if left.len() > stuck.into_inner() {
        failures.push(format!("still on the engine: {left:?}"));
    }
    failures.sort();
    none_differ(&failures)
}

/// Everything in which the two differ without a reason that is written down.
fn examine(fixture: &Fixture, environment: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let copy = fixture.copy()?;
    let project = project(fixture, &copy, environment)?;
    let mut found = Vec::new();
    let compose = make(
        Contender::Compose,
        fixture,
        &copy,
        &project,
        environment,
        &mut found,
    )
    .context("docker compose")?;
    copy.restore(fixture)?;
    let ours = make(Contender::Ours, fixture, &copy, &project, environment, &mut found)?;

    let mut used = BTreeSet::new();
    for difference in snapshot::differences(&compose.snapshot, &ours.snapshot) {
        if let Some(known) = fixture.difference(&difference.at) {
            used.insert(known.to_owned());
        } else {
            let snapshot::Difference { at, one, other } = difference;
            found.push(format!(
                "{at}: compose has {}, ours {}",
                shortly(&one),
                shortly(&other)
            ));
        }
    }
    for (edit, (compose, ours)) in fixture.edits.iter().zip(compose.edits.iter().zip(&ours.edits)) {
        let what = format!("edit {:?} to {:?}", edit.before, edit.after);
        if compose.created != ours.created || compose.removed != ours.removed {
            found.push(format!("{what}: compose made {compose:?}, ours {ours:?}"));
        }
        let (theirs, mine) = (&compose.recreated, &ours.recreated);
        let more = edit.fewer.starts_with("more: ") && theirs.is_subset(mine);
        match (
            theirs == mine,
            mine.is_subset(theirs) || more,
            edit.fewer.is_empty(),
        ) {
            (true, _, true) | (false, true, false) => {}
            (true, _, false) => found.push(format!(
                "{what}: as under compose, so the reason for fewer is stale"
            )),
            _ => found.push(format!("{what}: compose recreates {theirs:?}, ours {mine:?}")),
        }
    }
    Ok(found)
}

/// Engine 20.10 now and then counts an endpoint of a network that nobody has any more, and keeps that network until it
/// is started again, whoever asks for its removal.
fn is_stuck(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("has active endpoints")
}

/// The project's name, as Docker Compose understands the files.
fn project(fixture: &Fixture, copy: &Copy, environment: &BTreeMap<String, String>) -> Result<String> {
    let said = Contender::Compose.run(
        fixture,
        &copy.folder,
        environment,
        &["config", "--format", "json"],
    )?;
    let config: Value = serde_json::from_str(&said.ok()?)?;
    config["name"]
        .as_str()
        .map(str::to_owned)
        .context("a project without a name")
}

/// Up, looked at, up again, edited step by step, and down.
fn make(
    contender: Contender,
    fixture: &Fixture,
    copy: &Copy,
    project: &str,
    environment: &BTreeMap<String, String>,
    found: &mut Vec<String>,
) -> Result<Made> {
    let run = |command: &[&str]| contender.run(fixture, &copy.folder, environment, command);
    let up = || run(&["up", "-d", "-t", "1", "--remove-orphans"])?.ok();
    let outcome = (|| -> Result<Made> {
        up()?;
        ended(contender, project)?;
        let inspected = contender.inspect(project)?;
        let snapshot = snapshot::take(&inspected)?;
        if contender == Contender::Ours {
            let plan: Value = serde_json::from_str(&run(&["plan", "--json"])?.stdout)?;
            let steps = plan["steps"].as_array().context("a plan without steps")?;
            let allowed = match fixture.name.as_str() {
                // A policy that says so makes the image anew each time; the container stays.
                "build-pull-policy" => "build-image",
                // What has failed is started again.
                "ended" => "start-container",
                _ => "",
            };
            if steps.iter().any(|step| step["step"]["do"] != allowed) {
                found.push(format!("a second up plans {}", shortly(&plan)));
            }
        }
        let mut edits = Vec::new();
        let mut before = contender.ids(project)?;
        for edit in &fixture.edits {
            copy.edit(edit)?;
            up().with_context(|| format!("edit {:?} to {:?}", edit.before, edit.after))?;
            let after = contender.ids(project)?;
            edits.push(effect(&before, &after));
            before = after;
        }
        Ok(Made { snapshot, edits })
    })();
    let down = || run(&["--profile", "*", "down", "-v", "-t", "0", "--remove-orphans"])?.ok();
    // A network has its endpoints for a moment longer than the containers are there.
    let down = down().or_else(|_| {
        std::thread::sleep(Duration::from_secs(1));
        down()
    });
    let left = contender.inspect(project)?;
    if contender == Contender::Compose {
        // It leaves networks that no service was on any more.
        for network in left
            .networks
            .iter()
            .filter_map(|network| network["Name"].as_str())
        {
            engine::docker(&["network", "rm", network])?;
        }
    } else if !left.is_empty() {
        found.push(format!("down leaves {:?}", contender.ids(project)?));
    }
    let made = outcome?;
    down.context("down")?;
    Ok(made)
}

fn effect(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Effect {
    let mut effect = Effect::default();
    for (name, id) in after {
        match before.get(name) {
            None => effect.created.insert(name.clone()),
            Some(old) if old != id => effect.recreated.insert(name.clone()),
            Some(_) => false,
        };
    }
    effect.removed = before
        .keys()
        .filter(|name| !after.contains_key(*name))
        .cloned()
        .collect();
    effect
}

/// Waits for what ends by itself.
fn ended(contender: Contender, project: &str) -> Result<()> {
    for container in contender.inspect(project)?.containers {
        let path = container["Path"].as_str().unwrap_or_default();
        if matches!(path, "true" | "false") {
            let id = container["Id"].as_str().unwrap_or_default();
            run(&mut program("docker", &["wait", id]), Duration::from_secs(20))?.ok()?;
        }
    }
    Ok(())
}

fn shortly(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 300 {
        return text;
    }
    let mut text: String = text.chars().take(300).collect();
    text.push('…');
    text
}
