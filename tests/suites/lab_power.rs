//! A host loses power at random moments of its work, again and again, on one disk: each time it comes back with exactly
//! what the master says, and rows, ledger and engine agree.
//!
//! `make power-cuts CUTS=50` cuts more often.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use decnet_tests::agreement::{self, Worker};
use decnet_tests::asked::asked;
use decnet_tests::engine::Container;
use decnet_tests::fleet::Operator;
use decnet_tests::lab::{Host, Lab};
use decnet_tests::processes::{Master, tail};
use decnet_tests::seed::Seed;
use decnet_tests::wait::until;
use serde_json::Value;

/// A guest starts slowly what its disk has lost.
const BACK: Duration = Duration::from_secs(300);
/// Deckies that there are at most at one time: the guest has one slow processor.
const DECKIES: usize = 5;
/// Deckies that come at once, at most.
const BATCH: u32 = 3;
/// The latest moment of a cut, in milliseconds after the order or the boot. A deploy of three takes about as long.
const LATEST_MS: u32 = 8000;
const SERVICES: [&str; 4] = ["redis", "telnet", "http", "ftp"];

struct Ordeal {
    host: Host,
    uuid: String,
    operator: Operator,
    master: Master,
    seed: Seed,
    start: Instant,
    lab: Lab,
}

impl Ordeal {
    fn begin() -> Result<Self> {
        let (seed, start) = (Seed::announced("lab_power"), Instant::now());
        let lab = Lab::new("power-cuts")?;
        let host = lab.host("w1").boot()?;
        let mut master = Master::init_at(lab.folder(), &lab.gateway(), lab.namespace())?.without_worker();
        master.start()?;
        let operator = Operator::on(&master.socket);
        let uuid = host.enrol(&operator, &[])?;
        operator.active(host.name())?;
        Ok(Self {
            host,
            uuid,
            operator,
            master,
            seed,
            start,
            lab,
        })
    }

    fn at(&self, what: &str) {
        println!("{:7.1} s: {what}", self.start.elapsed().as_secs_f32());
    }

    /// Orders something; gives what.
    fn order(&self) -> Result<&'static str> {
        let names: Vec<String> = self.operator.deckies()?.into_keys().collect();
        let room = DECKIES.saturating_sub(names.len());
        let drawn = names.get(self.seed.below(DECKIES as u32) as usize % names.len().max(1));
        let Some(name) = drawn.filter(|_| room == 0 || self.seed.below(2) == 0) else {
            let amount = room.min(1 + self.seed.below(BATCH) as usize);
            self.deploy(&self.lab.folder().join("fleet.ini"), amount)?;
            return Ok("a deploy");
        };
        let (what, arguments) = match self.seed.below(2) {
            0 => ("a mutation", ["decky", "mutate", name]),
            _ => ("a removal", ["decky", "rm", name]),
        };
        self.operator.command(&arguments)?.ok()?;
        Ok(what)
    }

    fn deploy(&self, file: &Path, amount: usize) -> Result<()> {
        let services = [0, 1].map(|_| SERVICES[self.seed.below(SERVICES.len() as u32) as usize]);
        let text = format!(
            "{}\n[{}]\nservices = {}\namount = {amount}\n",
            self.lab.general(),
            self.seed.word(),
            if services[0] == services[1] {
                services[0].to_owned()
            } else {
                services.join(", ")
            },
        );
        std::fs::write(file, text)?;
        self.operator.deploy(file, false).map(drop)
    }

    /// Cuts the power at a moment that is drawn, and switches it on again.
    fn cut(&self) -> Result<Duration> {
        let moment = Duration::from_millis(u64::from(self.seed.below(LATEST_MS)));
        thread::sleep(moment);
        self.host.power_cut()?;
        let boot = self.host.boot_again()?;
        ensure!(
            boot.state == "running",
            "after the cut the host is {}",
            boot.state
        );
        Ok(moment)
    }

    fn agree(&self) -> Result<()> {
        until("everybody agrees after the cut", BACK, || {
            Ok(agreement::look(&self.operator, &[self]))
        })
    }

    /// The outcome, explained by what master and agent said when it is none.
    fn explained<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.with_context(|| {
            let master = tail(&self.master.log);
            format!(
                "the master's log ends with:\n{master}\n{}",
                self.host.agent_says()
            )
        })
    }
}

impl Worker for Ordeal {
    fn name(&self) -> &str {
        self.host.name()
    }

    fn host(&self) -> &str {
        &self.uuid
    }

    fn containers(&self) -> Result<BTreeMap<String, Container>> {
        self.host.containers(&self.uuid)
    }

    fn status(&self) -> Result<Value> {
        self.host.agent_status()
    }

    fn mac_of(&self, address: &str) -> Result<String> {
        self.lab.mac_of(address)
    }
}

#[test]
fn a_host_that_loses_power_again_and_again_loses_nothing() -> Result<()> {
    let cuts: u32 = asked("DECNET_POWER_CUTS", 2)?;
    let ordeal = Ordeal::begin()?;
    ordeal.at("the host is there");
    let mut tally: BTreeMap<&str, u32> = BTreeMap::new();
    // So that the first cut has something to lose.
    ordeal.deploy(&ordeal.lab.folder().join("fleet.ini"), 2)?;
    ordeal.explained(ordeal.agree())?;
    for number in 1..=cuts {
        // One in four comes while the host still recovers from the one before.
        let what = if number == 1 || ordeal.seed.below(4) > 0 {
            ordeal.order()?
        } else {
            "a recovery"
        };
        *tally.entry(what).or_default() += 1;
        let moment = ordeal.explained(ordeal.cut())?;
        ordeal.at(&format!(
            "cut {number}, {} ms into {what}: back",
            moment.as_millis()
        ));
        if ordeal.seed.below(4) > 0 || number == cuts {
            ordeal.explained(ordeal.agree())?;
            ordeal.at("all agree");
        }
    }
    println!("{cuts} power cuts on one disk: {tally:?}");
    let names: Vec<String> = ordeal.operator.deckies()?.into_keys().collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    ordeal.explained(ordeal.operator.remove(&names))?;
    let left = ordeal
        .host
        .ok("docker network ls -q --filter label=io.decnet.host; docker ps -aq")?;
    ensure!(left.is_empty(), "containers or networks stay behind: {left}");
    Ok(())
}
