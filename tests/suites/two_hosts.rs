//! Two agents on one engine, each with a LAN of its own: each does its own part, whatever happens to the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::engine::{self, Container};
use decnet_tests::engine_proxy::{EngineProxy, Mode};
use decnet_tests::fleet::{Decky, SETTLED};
use decnet_tests::lan::Lan;
use decnet_tests::processes::Agent;
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};

/// A master and two enrolled hosts, `east` and `west`. The agents end before the scene does.
struct Hosts {
    east: (Agent, String),
    west: (Agent, String),
    /// Between `west` and the engine.
    proxy: EngineProxy,
    lans: (Lan, Lan),
    scene: Scene,
}

fn hosts(suite: &str) -> Result<Hosts> {
    let mut scene = Scene::swarm(suite)?;
    let lans = (Lan::create(&scene.seed)?, Lan::create(&scene.seed)?);
    let proxy = EngineProxy::listen(&scene.folder().join("engine.sock"), Mode::Pass)?;
    let east = scene.agent("east", &lans.0, None)?;
    let west = scene.agent("west", &lans.1, Some(proxy.socket()))?;
    for host in ["east", "west"] {
        scene.explained(scene.operator.active(host))?;
    }
    Ok(Hosts {
        east,
        west,
        proxy,
        lans,
        scene,
    })
}

impl Hosts {
    fn fleet(&self, file: &str, sections: &str) -> Result<PathBuf> {
        self.scene
            .describe(file, &format!("{}\n{sections}", self.scene.lan.general()))
    }

    /// Checks that the engine holds exactly what the master says, host by host.
    fn engine_is_the_fleet(&self) -> Result<BTreeMap<String, Decky>> {
        let deckies = self.scene.operator.deckies()?;
        for (host, lan) in [(&self.east.1, &self.lans.0), (&self.west.1, &self.lans.1)] {
            let own: Vec<&Decky> = deckies
                .values()
                .filter(|decky| decky.host_uuid == *host)
                .collect();
            let services: Vec<Vec<&str>> = own
                .iter()
                .map(|decky| decky.services.iter().map(String::as_str).collect())
                .collect();
            let expected: Vec<(&str, &[&str])> = own
                .iter()
                .zip(&services)
                .map(|(decky, services)| (decky.name.as_str(), services.as_slice()))
                .collect();
            self.scene.exactly(host, &expected)?;
            for decky in own {
                ensure!(
                    lan.holds(decky.ip.parse()?),
                    "{} has {}, its host's LAN is {}",
                    decky.name,
                    decky.ip,
                    lan.subnet()
                );
                let mac = lan.mac_of(&decky.ip)?;
                ensure!(
                    mac == decky.mac,
                    "{}: {mac} on the LAN, {} at the master",
                    decky.name,
                    decky.mac
                );
            }
        }
        let all: BTreeSet<&str> = deckies.values().map(|decky| decky.host_uuid.as_str()).collect();
        ensure!(
            all.iter()
                .all(|host| *host == self.east.1 || *host == self.west.1),
            "hosts nobody enrolled: {all:?}"
        );
        Ok(deckies)
    }

    fn end(self) -> Result<()> {
        let Self {
            east,
            west,
            proxy,
            lans,
            scene,
        } = self;
        let ended = scene.end();
        drop((east, west, proxy, lans));
        ended
    }
}

fn identities(host: &str) -> Result<BTreeMap<String, (String, String)>> {
    let identity = |container: Container| (container.name.clone(), (container.id, container.started_at));
    Ok(engine::containers(host)?.into_values().map(identity).collect())
}

#[test]
fn a_fleet_is_spread_and_each_agent_touches_only_its_own() -> Result<()> {
    let hosts = hosts("two hosts, sharding")?;
    let prefix = hosts.scene.prefix.clone();
    let file = hosts.fleet(
        "a.ini",
        &format!("[{prefix}-n]\nservices = redis, telnet\namount = 4\n"),
    )?;
    let rows = hosts.scene.operator.deploy(&file, false)?;
    ensure!(rows.len() == 4, "four deckies, {} rows", rows.len());
    let rows = hosts.scene.explained(hosts.scene.operator.succeeded(&rows))?;
    let deckies = hosts.engine_is_the_fleet()?;
    for host in [&hosts.east.1, &hosts.west.1] {
        let count = deckies.values().filter(|decky| decky.host_uuid == *host).count();
        ensure!(count == 2, "{host} has {count} deckies of 4");
        let of_host = rows
            .iter()
            .filter(|row| row.host_uuid.as_ref() == Some(host))
            .count();
        ensure!(of_host == 2, "{host} has {of_host} rows of 4");
    }

    // A second description adds; nobody who was there notices.
    let before = (identities(&hosts.east.1)?, identities(&hosts.west.1)?);
    let second = hosts
        .scene
        .describe("b.ini", &format!("[{prefix}-m]\nservices = mqtt\namount = 2\n"))?;
    let rows = hosts.scene.operator.deploy(&second, false)?;
    hosts.scene.explained(hosts.scene.operator.succeeded(&rows))?;
    hosts.engine_is_the_fleet()?;
    for (before, host) in [(before.0, &hosts.east.1), (before.1, &hosts.west.1)] {
        let after = identities(host)?;
        for (name, identity) in before {
            ensure!(
                after.get(&name) == Some(&identity),
                "{name} was touched by a description that does not name it"
            );
        }
    }
    hosts.end()
}

#[test]
fn an_agent_killed_in_mid_deploy_finishes_after_its_restart() -> Result<()> {
    let mut hosts = hosts("two hosts, kill -9")?;
    let prefix = hosts.scene.prefix.clone();
    let file = hosts.fleet(
        "a.ini",
        &format!("[{prefix}-n]\nservices = redis, telnet, http\namount = 6\n"),
    )?;
    let changes = hosts.proxy.changes();
    // Loading, a network and 12 containers are about 30 changing calls; the end comes somewhere among them.
    let after = changes + 2 + u64::from(hosts.scene.seed.below(20));
    let rows = hosts.scene.operator.deploy(&file, false)?;
    let proxy = &hosts.proxy;
    until("west is in the middle of its deploy", SETTLED, || {
        Ok(Seen::when(
            proxy.changes() >= after,
            format!("{} of {after} calls", proxy.changes()),
        ))
    })?;
    hosts.west.0.kill()?;
    println!(
        "killed after {} calls that change something",
        hosts.proxy.changes() - changes
    );
    let open = hosts.scene.operator.rows_of(&rows)?;
    let unfinished = open
        .iter()
        .filter(|row| row.host_uuid.as_ref() == Some(&hosts.west.1) && !row.is_terminal())
        .count();
    println!("{unfinished} of west's rows were open then");

    hosts.west.0.start()?;
    hosts.scene.explained(hosts.scene.operator.succeeded(&rows))?;
    hosts.engine_is_the_fleet()?;
    hosts.end()
}

#[test]
fn without_its_master_a_host_runs_on_and_repairs_and_reports_later() -> Result<()> {
    let mut hosts = hosts("two hosts, master away")?;
    let prefix = hosts.scene.prefix.clone();
    let file = hosts.fleet("a.ini", &format!("[{prefix}-n]\nservices = redis\namount = 4\n"))?;
    let rows = hosts.scene.operator.deploy(&file, false)?;
    hosts.scene.explained(hosts.scene.operator.succeeded(&rows))?;
    let deckies = hosts.engine_is_the_fleet()?;
    let victim = deckies
        .values()
        .find(|decky| decky.host_uuid == hosts.west.1)
        .context("west has no decky")?;
    let service = format!("decnet-{}-redis-1", victim.name);
    let others = identities(&hosts.west.1)?;

    hosts.scene.master.stop()?;
    // Drift: somebody removes a container by hand.
    engine::docker(&["rm", "-f", &service])?;
    let repaired = until("the agent brings it back by itself", SETTLED, || {
        Ok(match engine::container(&service)? {
            Some(container) if container.running => Seen::Done(container),
            other => Seen::not_yet(format!(
                "{:?}",
                other.map(|container| container.raw["State"].clone())
            )),
        })
    })?;
    ensure!(
        others.get(&service).is_some_and(|(id, _)| *id != repaired.id),
        "it is the removed container"
    );
    let after = identities(&hosts.west.1)?;
    for (name, identity) in others.iter().filter(|(name, _)| **name != service) {
        ensure!(
            after.get(name) == Some(identity),
            "{name} was touched by the repair of {service}"
        );
    }
    let base = format!("decnet-{}-base-1", victim.name);
    let joined = engine::container(&base)?
        .context("the base container is gone")?
        .id;
    let mode = repaired
        .raw
        .pointer("/HostConfig/NetworkMode")
        .and_then(|mode| mode.as_str())
        .unwrap_or_default();
    ensure!(
        mode == format!("container:{joined}"),
        "the repaired service joined {mode}"
    );

    hosts.scene.master.start()?;
    for host in ["east", "west"] {
        hosts.scene.explained(hosts.scene.operator.active(host))?;
        hosts.scene.operator.settled(host)?;
    }
    let rows = hosts.scene.operator.rows_of(&rows)?;
    ensure!(
        rows.iter().all(|row| row.status == "succeeded"),
        "a row changed after its end: {rows:?}"
    );
    hosts.engine_is_the_fleet()?;
    // It still takes orders.
    let more = hosts
        .scene
        .describe("b.ini", &format!("[{prefix}-m]\nservices = mqtt\namount = 2\n"))?;
    let rows = hosts.scene.operator.deploy(&more, false)?;
    hosts.scene.explained(hosts.scene.operator.succeeded(&rows))?;
    hosts.engine_is_the_fleet()?;
    hosts.end()
}

#[test]
fn a_deploy_that_the_master_does_not_see_the_end_of_is_reported_when_it_is_back() -> Result<()> {
    let mut hosts = hosts("two hosts, late reports")?;
    let prefix = hosts.scene.prefix.clone();
    let file = hosts.fleet(
        "a.ini",
        &format!("[{prefix}-n]\nservices = redis, telnet\namount = 2\n"),
    )?;
    // West's engine is away, so west cannot finish while the master is there.
    hosts.proxy.set(Mode::Refuse);
    let rows = hosts.scene.operator.deploy(&file, false)?;
    until("east is done and west has its bundle", SETTLED, || {
        let known = hosts.scene.operator.hosts()?;
        let west = known.get("west").context("west is not known")?;
        let rows = hosts.scene.operator.rows_of(&rows)?;
        let east_done = rows
            .iter()
            .filter(|row| row.host_uuid.as_ref() == Some(&hosts.east.1))
            .all(|row| row.status == "succeeded");
        let has_it = west.accepted_generation == Some(west.generation);
        Ok(Seen::when(east_done && has_it, format!("{rows:?} {west:?}")))
    })?;
    let open = hosts.scene.operator.rows_of(&rows)?;
    ensure!(
        open.iter()
            .filter(|row| row.host_uuid.as_ref() == Some(&hosts.west.1))
            .all(|row| !row.is_terminal()),
        "west cannot have ended anything: {open:?}"
    );
    hosts.scene.master.stop()?;
    hosts.proxy.set(Mode::Pass);
    until("west does its work without the master", SETTLED, || {
        let containers = engine::containers(&hosts.west.1)?;
        let running = containers.values().filter(|container| container.running).count();
        Ok(Seen::when(running == 3, format!("{running} of 3 containers run")))
    })?;
    hosts.scene.master.start()?;
    hosts.scene.explained(hosts.scene.operator.succeeded(&rows))?;
    hosts.engine_is_the_fleet()?;
    hosts.end()
}
