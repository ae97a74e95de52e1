//! One machine that runs master and deckies: from a description to containers, and back to nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::clients::{self, Visitor};
use decnet_tests::engine::{self, Container};
use decnet_tests::processes::Agent;
use decnet_tests::scene::{Scene, journal};
use serde_json::Value;

/// The containers of one decky, by service.
fn of_decky(host: &str, decky: &str) -> Result<BTreeMap<String, Container>> {
    let containers = engine::containers(host)?
        .into_values()
        .filter(|container| container.decky() == decky);
    Ok(containers
        .map(|container| (container.service().to_owned(), container))
        .collect())
}

fn sorted(steps: &[Value]) -> Vec<String> {
    let mut steps: Vec<String> = steps.iter().map(Value::to_string).collect();
    steps.sort();
    steps
}

#[test]
fn what_the_plan_says_is_what_the_journal_says() -> Result<()> {
    let mut scene = Scene::unihost("deploy, plan and journal")?;
    let host = scene.local()?;
    let (web, db) = (format!("{}-web", scene.prefix), format!("{}-db", scene.prefix));
    let file = scene.describe(
        "fleet.ini",
        &format!(
            "{}\n[{web}]\nservices = http, ftp\n[{db}]\narchetype = database-server\n",
            scene.lan.general()
        ),
    )?;
    let worker = Agent::at(&scene.master.worker_dir());
    scene.operator.settled("local")?;
    let before = journal(&worker)?.len();

    let planned = scene.operator.plan(&file)?;
    ensure!(scene.operator.deckies()?.is_empty(), "a plan changed the fleet");
    ensure!(engine::containers(&host)?.is_empty(), "a plan changed the engine");
    let planned = planned.get(&host).context("the plan does not name this host")?;

    let rows = scene.operator.deploy(&file, false)?;
    scene.explained(scene.operator.succeeded(&rows))?;
    scene.exactly(
        &host,
        &[(&web, &["http", "ftp"]), (&db, &["mysql", "postgres", "redis"])],
    )?;
    scene.operator.settled("local")?;

    let done = journal(&worker)?.split_off(before);
    let (planned, done) = (sorted(planned), sorted(&done));
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these
            .iter()
            .filter(|step| !those.contains(step))
            .map(|step| step.chars().take(400).collect())
            .collect()
    };
    ensure!(
        planned == done,
        "{} steps planned, {} done; planned and not done: {:#?}; done and not planned: {:#?}",
        planned.len(),
        done.len(),
        only(&planned, &done),
        only(&done, &planned)
    );

    // What is settled is left alone.
    let again = scene
        .operator
        .command(&["deploy", file.to_str().context("path")?])?;
    ensure!(
        again.code() == Some(4),
        "the same fleet again is refused with 4: {} {}",
        again.status,
        again.said()
    );
    ensure!(
        journal(&worker)?.len() == before + done.len(),
        "something was done without need"
    );
    scene.end()
}

#[test]
fn a_mutation_keeps_address_mac_and_base_container() -> Result<()> {
    let mut scene = Scene::unihost("deploy, mutation")?;
    let host = scene.local()?;
    let name = format!("{}-srv", scene.prefix);
    let other = format!("{}-mail", scene.prefix);
    let file = scene.describe(
        "fleet.ini",
        &format!(
            "{}\n[{name}]\narchetype = linux-server\nservices = ssh\n[{other}]\narchetype = mail-server\n",
            scene.lan.general()
        ),
    )?;
    let rows = scene.operator.deploy(&file, false)?;
    scene.explained(scene.operator.succeeded(&rows))?;
    let decky = scene.operator.decky(&name)?;
    let before = of_decky(&host, &name)?;
    let untouched = of_decky(&host, &other)?;
    let base = before.get("base").context("no base container")?;
    let endpoint = base.endpoint().context("the base container has no address")?;
    ensure!(
        endpoint == (decky.ip.clone(), decky.mac.clone()),
        "the engine says {endpoint:?}, the master {decky:?}"
    );
    let on_the_wire = scene.lan.mac_of(&decky.ip)?;
    ensure!(
        on_the_wire == decky.mac,
        "on the LAN it is {on_the_wire}, the master says {}",
        decky.mac
    );

    let row = scene.operator.mutate(&name)?;
    scene.explained(scene.operator.succeeded(&[row]))?;

    let mutated = scene.operator.decky(&name)?;
    ensure!(
        mutated.services != decky.services,
        "the services are as they were: {:?}",
        mutated.services
    );
    let services: Vec<&str> = mutated.services.iter().map(String::as_str).collect();
    scene.exactly(&host, &[(&name, &services), (&other, &["smtp", "pop3", "imap"])])?;
    let after = of_decky(&host, &name)?;
    let base_after = after.get("base").context("no base container any more")?;
    ensure!(base_after.id == base.id, "the base container was replaced");
    ensure!(
        base_after.started_at == base.started_at,
        "the base container was restarted"
    );
    ensure!(
        base_after.endpoint() == Some(endpoint),
        "the address or MAC changed"
    );
    ensure!(
        scene.lan.mac_of(&decky.ip)? == decky.mac,
        "the MAC on the LAN changed"
    );
    let still = of_decky(&host, &other)?;
    for (service, container) in &untouched {
        let same = still
            .get(service)
            .is_some_and(|now| now.id == container.id && now.started_at == container.started_at);
        ensure!(same, "{other}'s {service} was touched by {name}'s mutation");
    }
    // The new services are reached at the old address.
    for service in services {
        let visit = clients::visit(
            &scene.lan,
            service,
            &decky.ip,
            &Visitor::stranger(scene.seed.word()),
        )?;
        clients::captured(&format!("decnet-{name}-{service}-1"), &visit, &scene.lan)?;
    }
    scene.end()
}

#[test]
fn a_second_description_adds_and_a_replacement_removes_what_it_leaves_out() -> Result<()> {
    let mut scene = Scene::unihost("deploy, add and replace")?;
    let host = scene.local()?;
    let (a, b, c) = (
        format!("{}-a", scene.prefix),
        format!("{}-b", scene.prefix),
        format!("{}-c", scene.prefix),
    );
    let first = scene.describe(
        "a.ini",
        &format!("{}\n[{a}]\nservices = redis\n", scene.lan.general()),
    )?;
    let second = scene.describe("b.ini", &format!("[{b}]\nservices = telnet, vnc\n"))?;
    let rows = scene.operator.deploy(&first, false)?;
    scene.explained(scene.operator.succeeded(&rows))?;
    let before = of_decky(&host, &a)?;

    let rows = scene.operator.deploy(&second, false)?;
    ensure!(rows.len() == 1, "one decky is new, there are {} rows", rows.len());
    scene.explained(scene.operator.succeeded(&rows))?;
    scene.exactly(&host, &[(&a, &["redis"]), (&b, &["telnet", "vnc"])])?;
    let ids = |containers: &BTreeMap<String, Container>| -> Vec<(String, String)> {
        containers
            .values()
            .map(|container| (container.id.clone(), container.started_at.clone()))
            .collect()
    };
    ensure!(
        ids(&before) == ids(&of_decky(&host, &a)?),
        "the deckies that were there were touched"
    );
    let address = scene.operator.decky(&a)?.ip;

    // The replacement keeps `a` as it is, drops `b`, and brings `c`.
    let third = scene.describe(
        "c.ini",
        &format!(
            "{}\n[{a}]\nservices = redis\nip = {address}\n[{c}]\nservices = mqtt\n",
            scene.lan.general()
        ),
    )?;
    let rows = scene.operator.deploy(&third, true)?;
    scene.explained(scene.operator.succeeded(&rows))?;
    scene.exactly(&host, &[(&a, &["redis"]), (&c, &["mqtt"])])?;
    let names: Vec<String> = scene.operator.deckies()?.into_keys().collect();
    ensure!(names == [a.clone(), c.clone()], "the fleet is {names:?}");

    scene.operator.remove(&[a.as_str()])?;
    scene.exactly(&host, &[(&c, &["mqtt"])])?;
    scene.end()
}
