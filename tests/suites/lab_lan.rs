//! Two whole hosts on one LAN, one with macvlan and one with ipvlan: deckies meet each other and visitors, and come
//! back as who they were after whatever happens to the hosts.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::command::{SHORT, run};
use decnet_tests::engine::Container;
use decnet_tests::fleet::{Decky, Operator, SETTLED};
use decnet_tests::lab::{Host, Lab};
use decnet_tests::processes::{Master, bin, tail};
use decnet_tests::seed::Seed;
use decnet_tests::wait::{Seen, until};
use serde_json::Value;

const UNIT: &str = "[Unit]
Description=DECNET agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/decnet-agent run
Restart=on-failure

[Install]
WantedBy=multi-user.target
";

/// A host that runs an agent.
struct Worker {
    host: Host,
    /// The master's id of it.
    uuid: String,
    /// Deckies share the host's own MAC.
    ipvlan: bool,
}

/// A master on the lab's bridge and its two workers.
struct Swarm {
    workers: [Worker; 2],
    operator: Operator,
    master: Master,
    seed: Seed,
    lab: Lab,
}

impl Swarm {
    fn begin(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let hosts = lab.boot([lab.host("mac"), lab.host("ipv")])?;
        let mut master = Master::init_at(lab.folder(), &lab.gateway(), lab.namespace())?.without_worker();
        master.start()?;
        let operator = Operator::on(&master.socket);
        let [mac, ipv] = hosts;
        let workers = [
            Worker::enrol(mac, &operator, false)?,
            Worker::enrol(ipv, &operator, true)?,
        ];
        for worker in &workers {
            operator
                .active(worker.host.name())
                .with_context(|| worker.says())?;
        }
        Ok(Self {
            workers,
            operator,
            master,
            seed: Seed::announced(name),
            lab,
        })
    }

    /// The outcome, explained by what master and agents said when it is none.
    fn explained<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.with_context(|| {
            let agents: Vec<String> = self.workers.iter().map(Worker::says).collect();
            format!(
                "the master's log ends with:\n{}\n{}",
                tail(&self.master.log),
                agents.join("\n")
            )
        })
    }

    /// Waits until every decky runs where it belongs, then checks it from everywhere.
    fn check(&self, deckies: &BTreeMap<String, Decky>) -> Result<()> {
        let mut bases = BTreeMap::new();
        for worker in &self.workers {
            bases.extend(self.explained(worker.runs(deckies))?);
        }
        for decky in deckies.values() {
            let worker = self.worker_of(decky)?;
            let mac = self.lab.mac_of(&decky.ip)?;
            let expected = if worker.ipvlan {
                worker
                    .host
                    .ok("cat /sys/class/net/vec0/address")?
                    .trim()
                    .to_owned()
            } else {
                decky.mac.clone()
            };
            ensure!(
                mac == expected,
                "{} answers from {mac}, not {expected}",
                decky.name
            );

            let mark = self.seed.word();
            let url = format!("http://{}/{mark}", decky.ip);
            let from_lan = &mut self
                .lab
                .inside(&["curl", "-sS", "-o", "/dev/null", "-m", "20", &url]);
            run(from_lan, SHORT)?
                .ok()
                .with_context(|| format!("a visitor does not reach {}", decky.name))?;
            worker.captured(decky, &self.lab.gateway(), &mark)?;
            for visitor in deckies
                .values()
                .filter(|visitor| visitor.host_uuid != decky.host_uuid)
            {
                let mark = self.seed.word();
                let base = bases.get(&visitor.name).context("no such base container")?;
                let curl = format!(
                    "nsenter -t {} -n curl -sS -o /dev/null -m 20 http://{}/{mark}",
                    base.pid, decky.ip
                );
                let host = &self.worker_of(visitor)?.host;
                host.ok(&curl)
                    .with_context(|| format!("{} does not reach {}", visitor.name, decky.name))?;
                worker.captured(decky, &visitor.ip, &mark)?;
            }
        }
        Ok(())
    }

    fn worker_of(&self, decky: &Decky) -> Result<&Worker> {
        self.workers
            .iter()
            .find(|worker| worker.uuid == decky.host_uuid)
            .with_context(|| format!("{} is on a host that nobody enrolled", decky.name))
    }
}

impl Worker {
    /// Installs an agent that is to be there after every boot.
    fn enrol(host: Host, operator: &Operator, ipvlan: bool) -> Result<Self> {
        let more: &[&str] = if ipvlan { &["--ipvlan"] } else { &[] };
        let (uuid, token) = operator.enroll(host.name(), None, more)?;
        host.put(&bin("decnet-agent")?, "/usr/bin/decnet-agent")?;
        host.ok(&format!(
            "decnet-agent enroll '{token}'
             cat >/etc/systemd/system/decnet-agent.service <<'END'\n{UNIT}END
             systemctl daemon-reload && systemctl enable --now decnet-agent && sync"
        ))?;
        Ok(Self { host, uuid, ipvlan })
    }

    /// Waits until exactly its deckies' containers run, with the addresses that the master gave; the base containers.
    fn runs(&self, deckies: &BTreeMap<String, Decky>) -> Result<BTreeMap<String, Container>> {
        let own: Vec<&Decky> = deckies
            .values()
            .filter(|decky| decky.host_uuid == self.uuid)
            .collect();
        let mut expected: Vec<String> = Vec::new();
        for decky in &own {
            for service in ["base"]
                .into_iter()
                .chain(decky.services.iter().map(String::as_str))
            {
                expected.push(format!("decnet-{}-{service}-1", decky.name));
            }
        }
        expected.sort();
        let what = format!("{} runs {expected:?} and nothing else", self.host.name());
        let mut containers = until(&what, SETTLED, || {
            let containers = self.host.containers(&self.uuid)?;
            let running: Vec<&String> = containers
                .values()
                .filter(|container| container.running)
                .map(|container| &container.name)
                .collect();
            let as_expected = containers.len() == expected.len() && running.iter().copied().eq(&expected);
            let seen = format!("{running:?} run of {:?}", containers.keys());
            Ok(if as_expected {
                Seen::Done(containers)
            } else {
                Seen::not_yet(seen)
            })
        })?;
        let mut bases = BTreeMap::new();
        for decky in own {
            let name = format!("decnet-{}-base-1", decky.name);
            let base = containers.remove(&name).context("it was there a moment ago")?;
            let address = base.endpoint().map(|(address, _)| address);
            ensure!(
                address.as_ref() == Some(&decky.ip),
                "{name} has {address:?}, not {}",
                decky.ip
            );
            bases.insert(decky.name.clone(), base);
        }
        Ok(bases)
    }

    /// Waits until the decky's HTTP service noted the visit for `mark`, and that it came from `source` itself.
    fn captured(&self, decky: &Decky, source: &str, mark: &str) -> Result<()> {
        let container = format!("decnet-{}-http-1", decky.name);
        // Not `docker logs`: a power cut leaves zero bytes in the engine's log file, which Engine 20.10 does not get past.
        let look =
            format!("grep -aF {mark} \"$(docker inspect --format '{{{{.LogPath}}}}' {container})\" || true");
        until(&format!("{container} notes {source} with {mark}"), SHORT, || {
            let log = self.host.ok(&look)?;
            let noted = log
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line.trim_matches('\0')).ok())
                .filter_map(|entry| serde_json::from_str::<Value>(entry.get("log")?.as_str()?).ok())
                .any(|event| event.pointer("/source/ip").and_then(Value::as_str) == Some(source));
            Ok(Seen::when(noted, log))
        })
    }

    fn says(&self) -> String {
        let said = self
            .host
            .run("journalctl -u decnet-agent -n 15 -o cat --no-pager");
        format!(
            "the agent on {} says: {}",
            self.host.name(),
            said.map_or_else(|error| format!("{error:#}"), |said| said.said())
        )
    }
}

#[test]
fn deckies_of_two_hosts_meet_and_come_back_as_themselves_after_reboot_and_power_cut() -> Result<()> {
    let mut swarm = Swarm::begin("lan")?;
    let description = swarm.lab.folder().join("fleet.ini");
    std::fs::write(
        &description,
        format!(
            "{}\n[web]\nservices = http, redis\namount = 4\n",
            swarm.lab.general()
        ),
    )?;
    let rows = swarm.operator.deploy(&description, false)?;
    swarm.explained(swarm.operator.succeeded(&rows))?;
    let deckies = swarm.operator.deckies()?;
    for worker in &swarm.workers {
        let count = deckies
            .values()
            .filter(|decky| decky.host_uuid == worker.uuid)
            .count();
        ensure!(count == 2, "{} has {count} of 4 deckies", worker.host.name());
    }
    swarm.check(&deckies)?;

    // Nothing of what follows needs the master.
    swarm.master.stop()?;
    let [mac, ipv] = &swarm.workers;
    for (rebooted, cut) in [(mac, ipv), (ipv, mac)] {
        rebooted.host.begin_reboot()?;
        cut.host.power_cut()?;
        cut.host.switch_on()?;
        for worker in [rebooted, cut] {
            let boot = worker.host.wait_for_boot()?;
            ensure!(
                boot.state == "running",
                "{} is {}",
                worker.host.name(),
                boot.state
            );
            println!(
                "{} is back after {:.1} s",
                worker.host.name(),
                boot.took.as_secs_f32()
            );
        }
        swarm.check(&deckies)?;
    }

    swarm.master.start()?;
    for worker in &swarm.workers {
        swarm.explained(swarm.operator.settled(worker.host.name()))?;
    }
    ensure!(
        swarm.operator.deckies()? == deckies,
        "the master took over what it should not"
    );
    let rows = swarm.operator.rows_of(&rows)?;
    ensure!(
        rows.iter().all(|row| row.status == "succeeded"),
        "a row changed after its end: {rows:?}"
    );
    let names: Vec<&str> = deckies.keys().map(String::as_str).collect();
    swarm.explained(swarm.operator.remove(&names))?;
    for worker in &swarm.workers {
        worker.runs(&BTreeMap::new())?;
    }
    Ok(())
}
