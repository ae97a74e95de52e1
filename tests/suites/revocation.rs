//! A host that is revoked is out at once, and nobody else notices.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use decnet_tests::engine;
use decnet_tests::lan::Lan;
use decnet_tests::processes::Agent;
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};
use serde_json::Value;

/// How soon an agent knows that it is out. Its poll would wait for half a minute.
const AT_ONCE: Duration = Duration::from_secs(10);

/// What the agent says of its contact with the master.
fn contact(agent: &Agent) -> Result<Value> {
    let said = agent.command(&["status", "--json"])?.ok()?;
    let status: Value = serde_json::from_str(&said)?;
    Ok(status["running"]["contact"].clone())
}

#[test]
fn a_revoked_host_is_cut_off_in_the_middle_of_its_poll_and_its_deckies_run_on() -> Result<()> {
    let mut scene = Scene::swarm("revocation")?;
    let lans = (Lan::create(&scene.seed)?, Lan::create(&scene.seed)?);
    let (good, good_id) = scene.agent("good", &lans.0, None)?;
    let (mut stolen, stolen_id) = scene.agent("stolen", &lans.1, None)?;
    for host in ["good", "stolen"] {
        scene.explained(scene.operator.active(host))?;
    }
    let prefix = scene.prefix.clone();
    let text = format!(
        "{}\n[{prefix}-a]\nservices = redis\namount = 2\n",
        scene.lan.general()
    );
    let rows = scene.operator.deploy(&scene.describe("a.ini", &text)?, false)?;
    scene.explained(scene.operator.succeeded(&rows))?;
    ensure!(contact(&stolen)?["error"].is_null(), "{}", contact(&stolen)?);
    let before = engine::containers(&stolen_id)?;

    scene.expects_alarms()?;
    let revoked = Instant::now();
    scene.operator.json(&["host", "revoke", "stolen"])?;
    until("the revoked agent is refused", AT_ONCE, || {
        let contact = contact(&stolen)?;
        let error = contact["error"].as_str().unwrap_or_default();
        Ok(if error.contains("403") {
            Seen::Done(())
        } else {
            Seen::not_yet(format!("it says {contact}"))
        })
    })?;
    println!("refused after {:?}", revoked.elapsed());
    ensure!(
        scene.operator.hosts()?["stolen"].status == "revoked",
        "{:?}",
        scene.operator.hosts()?["stolen"]
    );

    // Another start changes nothing, and what runs there runs on.
    stolen.stop()?;
    stolen.start()?;
    until("the revoked agent is refused again", AT_ONCE, || {
        let contact = contact(&stolen)?;
        Ok(if contact["error"].is_string() && contact["last"].is_null() {
            Seen::Done(())
        } else {
            Seen::not_yet(format!("it says {contact}"))
        })
    })?;
    ensure!(
        engine::containers(&stolen_id)?.len() == before.len(),
        "a revoked host has lost its deckies"
    );
    // Nor does it fill the log of whoever refuses it.
    let log = std::fs::read_to_string(&scene.master.log)?;
    let longest = log.lines().map(str::len).max().unwrap_or(0);
    ensure!(
        longest < 500,
        "a line of {longest} characters in the master's log"
    );

    // Everybody else is as before; what is new goes there. A revoked host is not waited for.
    let deckies = scene.operator.deckies()?;
    let theirs = deckies.values().find(|decky| decky.host_uuid == stolen_id);
    let theirs = theirs.context("the revoked host has no decky")?.name.clone();
    scene.operator.command(&["decky", "rm", &theirs])?.ok()?;
    ensure!(
        !scene.operator.deckies()?.contains_key(&theirs),
        "{theirs} is listed"
    );
    let text = format!("[{prefix}-b]\nservices = redis\namount = 2\n");
    let rows = scene.operator.deploy(&scene.describe("b.ini", &text)?, false)?;
    let rows = scene.explained(scene.operator.succeeded(&rows))?;
    ensure!(
        rows.iter().all(|row| row.host_uuid.as_ref() == Some(&good_id)),
        "{rows:?}"
    );
    let again = scene.operator.command(&["host", "enroll", "stolen"])?;
    ensure!(again.status.code() == Some(4), "{}", again.said());

    // Nobody but a person takes away what a revoked host runs.
    stolen.stop()?;
    engine::purge(&stolen_id)?;
    let ended = scene.end();
    drop((good, stolen, lans));
    ended
}
