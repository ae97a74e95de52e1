//! `make bench`: how long a fleet takes to come up, to be left alone, to change and to go, against Docker Compose and
//! against the barest loop through the engine's API.
//!
//! All contenders make the same containers and the same macvlan network on the same engine in the same run, taking
//! turns; what is compared are medians of ratios within a round, so that a machine that is busy with other things
//! slows all of them.
//!
//! | contender | what it is |
//! | --- | --- |
//! | bare | create and start, stop and remove, through the API, as many deckies at once as are fastest; no plan, no state |
//! | compose | `docker compose up -d`, `down` |
//! | command | `decnet-agent compose up`, `down`: the same file |
//! | agent | master and agent: signed bundle, admission, ledger, journal, reports |
//!
//! Then, alone, what an agent takes that knows a fleet of `KNOWN` deckies.

mod agent;
mod bare;
mod command;
mod known;
mod project;
mod report;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::scene::Scene;

use known::Known;
use project::Project;
use report::{Contender, Phase, Report};

/// Containers of one decky: its base and its services.
const SERVICES: &[&str] = &["ssh", "http", "redis"];

fn main() -> Result<()> {
    let sizes = numbers("DECKIES", &[5, 20, 60])?;
    let rounds = *numbers("ROUNDS", &[5])?.first().context("ROUNDS is empty")?;
    ensure!(rounds > 0, "ROUNDS is 0");
    let contenders = Contender::chosen(&std::env::var("CONTENDERS").unwrap_or_default())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut report = Report::default();
    for size in sizes {
        println!("\n{size} deckies, {} containers", size * (1 + SERVICES.len()));
        let mut scene = Scene::unihost("bench")?;
        let outcome = runtime.block_on(measure(&mut scene, size, rounds, &contenders, &mut report));
        scene.explained(outcome)?;
        scene.end()?;
        report.print(size);
    }
    let mut tables = report.to_markdown();
    for deckies in numbers("KNOWN", &[250])?
        .into_iter()
        .filter(|deckies| *deckies > 0)
    {
        println!("\n{deckies} deckies that an agent knows");
        let known = Known::measure(deckies)?.to_markdown();
        print!("{known}");
        tables.push_str(&format!("\n{known}"));
    }
    if let Some(path) = std::env::var_os("BENCH_OUT").filter(|path| !path.is_empty()) {
        std::fs::write(&path, tables).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

async fn measure(
    scene: &mut Scene,
    size: usize,
    rounds: usize,
    contenders: &[Contender],
    report: &mut Report,
) -> Result<()> {
    let docker = bollard::Docker::connect_with_unix_defaults()?
        .negotiate_version()
        .await?;
    let mut fleet = agent::Fleet::new(scene, size)?;
    // The first time also tells what a fleet is made of, from the engine's own words.
    fleet.up(&docker).await?;
    let project = Project::of(&docker, &fleet.host).await?;
    fleet.down(&docker).await?;

    let at_once = bare::fastest(&docker, &project).await?;
    println!("the bare loop is fastest with {at_once} deckies at once");
    let folder = scene.folder().to_owned();
    let compose = command::Command::compose(&project, &folder)?;
    let ours = command::Command::ours(&project, &folder)?;

    for round in 0..rounds {
        // Nobody always comes after the same one.
        let mut order = contenders.to_vec();
        order.rotate_left(round % contenders.len());
        for contender in order {
            let mut note = |phase, took: Duration| report.add(size, round, contender, phase, took);
            match contender {
                Contender::Bare => {
                    note(Phase::Up, bare::up(&docker, &project, at_once).await?);
                    note(Phase::Down, bare::down(&docker, &project, at_once).await?);
                }
                Contender::Compose | Contender::Command => {
                    let command = if contender == Contender::Compose {
                        &compose
                    } else {
                        &ours
                    };
                    note(Phase::Up, command.up()?);
                    note(Phase::Idle, command.idle()?);
                    note(Phase::Change, command.change(round)?);
                    note(Phase::Down, command.down()?);
                }
                Contender::Agent => {
                    let up = fleet.up(&docker).await?;
                    note(Phase::Up, up.running);
                    note(Phase::Told, up.told);
                    note(Phase::Idle, fleet.idle()?);
                    note(Phase::Down, fleet.down(&docker).await?);
                }
            }
            project.expect_nothing(&docker).await?;
        }
        println!("round {} of {rounds}", round + 1);
    }
    Ok(())
}

/// Numbers from the environment, separated by commas.
fn numbers(name: &str, default: &[usize]) -> Result<Vec<usize>> {
    let Ok(text) = std::env::var(name) else {
        return Ok(default.to_vec());
    };
    if text.trim().is_empty() {
        return Ok(default.to_vec());
    }
    text.split(',')
        .map(|part| {
            part.trim()
                .parse()
                .with_context(|| format!("{name}={text}: {part:?} is no number"))
        })
        .collect()
}
