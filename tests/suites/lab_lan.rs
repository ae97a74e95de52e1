//! Two whole hosts on one LAN, one with macvlan and one with ipvlan: deckies answer visitors, call each other where that
//! is declared and nobody else, and come back as who they were after whatever happens to the hosts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use decnet_tests::command::{SHORT, run};
use decnet_tests::ear::Ear;
use decnet_tests::engine::Container;
use decnet_tests::fleet::{Decky, Operator, SETTLED};
use decnet_tests::lab::{Host, Lab};
use decnet_tests::processes::{Master, tail};
use decnet_tests::seed::Seed;
use decnet_tests::wait::{Seen, until};
use serde::Deserialize;
use serde_json::Value;

/// The addresses of the deckies end in these.
const DECKIES: [u8; 4] = [11, 12, 13, 14];
/// Decky `n` may call the web server of decky `n ^ PARTNER` and nobody else; not that of decky `n ^ STRANGER`, which is
/// on the other host as well.
const PARTNER: usize = 1;
const STRANGER: usize = 3;
/// What every decky of these runs: its base and http.
const CONTAINERS: usize = 2;
/// The gateway over IPv6, for who finds a way to speak it.
const GATEWAY_V6: &str = "fd66::1";

/// What somebody does who has broken into a decky: everything that may reach anybody. Its arguments are the decky's
/// name, a number of its own, the gateway, a port there, and another decky. It says what it reaches.
const INTRUDER: &str = r#"
name=$1 gateway=$3 port=$4 other=$5
# IPv6 is off where the network has none; an intruder may find it on.
sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0
ip -6 addr add fd66::$2/64 dev eth0 nodad
tcp() { exec 2>/dev/null; exec 3<>/dev/tcp/$1/$2 && echo "$name reaches $1 port $2"; }
tcp $gateway $port &
tcp fd66::1 $port &
tcp $other 80 &
calls=$(jobs -p)
ping -c1 -W2 $gateway >/dev/null && echo "$name pings $gateway"
for to in $gateway/$port fd66::1/$port 127.0.0.11/53; do echo $name >/dev/udp/$to; done 2>/dev/null
# On a busy machine a call takes its time to be made.
sleep 2
kill $calls 2>/dev/null
wait 2>/dev/null
ip -6 addr del fd66::$2/64 dev eth0
sysctl -qw net.ipv6.conf.all.disable_ipv6=1
"#;

/// What a closed namespace has counted.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct Counters {
    dropped_tcp: u64,
    dropped_udp: u64,
    dropped_icmp: u64,
    dropped_dns: u64,
    allowed: u64,
}

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
    /// Whom no decky may reach.
    ear: Ear,
    seed: Seed,
    start: Instant,
    lab: Lab,
}

impl Swarm {
    fn begin(name: &str) -> Result<Self> {
        let (seed, start) = (Seed::announced(name), Instant::now());
        let lab = Lab::new(name)?;
        let hosts = lab.boot([lab.host("mac"), lab.host("ipv")])?;
        let v6 = format!("{GATEWAY_V6}/64");
        let mut has_v6 = lab.inside(&["ip", "-6", "addr", "add", &v6, "dev", "lan0", "nodad"]);
        run(&mut has_v6, SHORT)?.ok()?;
        println!("{:6.1} s: two hosts are there", start.elapsed().as_secs_f32());
        let ear = Ear::in_namespace(lab.namespace())?;
        let mut master = Master::init_at(lab.folder(), &lab.gateway(), lab.namespace())?.without_worker();
        master.start()?;
        let operator = Operator::on(&master.socket);
        let [mac, ipv] = hosts;
        let enrolled = std::thread::scope(|scope| {
            let mac = scope.spawn(|| Worker::enrol(mac, &operator, false));
            [Worker::enrol(ipv, &operator, true), joined(mac)]
        });
        let [ipv, mac] = enrolled;
        let swarm = Self {
            workers: [mac?, ipv?],
            operator,
            master,
            ear,
            seed,
            start,
            lab,
        };
        for worker in &swarm.workers {
            swarm.explained(swarm.operator.active(worker.host.name()))?;
        }
        swarm.at("two hosts have joined");
        Ok(swarm)
    }

    /// Deckies that may call one other's web server, and nobody else.
    fn deploy(&self) -> Result<(BTreeMap<String, Decky>, Vec<String>)> {
        let mut text = format!("{}\n[DEFAULT]\nservices = http\n", self.lab.general());
        let addresses = DECKIES.map(|last| self.lab.address(last));
        for (number, address) in addresses.iter().enumerate() {
            let partner = &addresses[number ^ PARTNER];
            writeln!(text, "[web-{number}]\nip = {address}\negress = tcp/{partner}:80")?;
        }
        let description = self.lab.folder().join("fleet.ini");
        std::fs::write(&description, text)?;
        let rows = self.operator.deploy(&description, false)?;
        self.explained(self.operator.succeeded(&rows))?;
        let deckies = self.operator.deckies()?;
        for decky in deckies.values() {
            for relation in [PARTNER, STRANGER] {
                let other = related(&deckies, &decky.name, relation)?;
                let told = format!("{} and {} are on one host", decky.name, other.name);
                ensure!(other.host_uuid != decky.host_uuid, "{told}");
            }
        }
        Ok((deckies, rows))
    }

    /// The outcome, explained by what master and agents said when it is none.
    fn explained<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.with_context(|| {
            let agents: Vec<String> = self
                .workers
                .iter()
                .map(|worker| worker.host.agent_says())
                .collect();
            format!(
                "the master's log ends with:\n{}\n{}",
                tail(&self.master.log),
                agents.join("\n")
            )
        })
    }

    fn at(&self, what: &str) {
        println!("{:6.1} s: {what}", self.start.elapsed().as_secs_f32());
    }

    /// Does the same for both hosts at once.
    fn on_both<T: Send>(&self, work: impl Fn(&Worker) -> Result<T> + Sync) -> Result<[T; 2]> {
        let ([one, two], work) = (&self.workers, &work);
        let done = std::thread::scope(|scope| {
            let one = scope.spawn(move || work(one));
            [work(two), joined(one)]
        });
        let [two, one] = done;
        self.explained(one.and_then(|one| Ok([one, two?])))
    }

    /// Waits until every decky runs where it belongs, and was closed in time; their base containers.
    fn run(&self, deckies: &BTreeMap<String, Decky>) -> Result<Vec<Container>> {
        let bases = self.on_both(|worker| {
            let containers = worker.runs(deckies)?;
            worker.closed_in_time(&containers)?;
            Ok(containers.into_values().filter(is_base).collect::<Vec<_>>())
        })?;
        Ok(bases.concat())
    }

    /// Looks at every decky from everywhere.
    fn check(&self, deckies: &BTreeMap<String, Decky>, bases: &[Container]) -> Result<()> {
        self.on_both(|worker| {
            let bases: Vec<&Container> = bases
                .iter()
                .filter(|base| worker.own(deckies).any(|decky| decky.name == base.decky()))
                .collect();
            self.visit(worker, deckies)?;
            let before = worker.counters()?;
            self.call(worker, &bases, deckies)?;
            self.intrude(worker, &bases, deckies)?;
            let after = worker.counters()?;
            for base in &bases {
                let of = |counters: &BTreeMap<String, Counters>| counters.get(&base.name).copied();
                let (before, after) = (of(&before).unwrap_or_default(), of(&after).unwrap_or_default());
                let told = format!("{} counted {before:?}, then {after:?}", base.name);
                ensure!(after.dropped_tcp >= before.dropped_tcp + 3, "{told}");
                ensure!(after.dropped_udp >= before.dropped_udp + 2, "{told}");
                ensure!(after.dropped_icmp > before.dropped_icmp, "{told}");
                ensure!(after.dropped_dns > before.dropped_dns, "{told}");
                // Only the first packet of a call has to be allowed.
                ensure!(after.allowed > before.allowed, "{told}");
            }
            Ok(())
        })?;
        self.hears_hosts_only()
    }

    /// From the LAN: every decky of a host answers, as itself.
    fn visit(&self, worker: &Worker, deckies: &BTreeMap<String, Decky>) -> Result<()> {
        for decky in worker.own(deckies) {
            let mac = self.lab.mac_of(&decky.ip)?;
            let expected = if worker.ipvlan {
                worker.host.mac()
            } else {
                &decky.mac
            };
            ensure!(
                mac == *expected,
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
            worker.captured(&[(decky, self.lab.gateway(), mark)])?;
        }
        Ok(())
    }

    /// From every decky of a host: its partner's web server, which is declared, answers, and knows who calls.
    fn call(&self, worker: &Worker, bases: &[&Container], deckies: &BTreeMap<String, Decky>) -> Result<()> {
        let (mut script, mut marks) = (String::new(), Vec::new());
        for base in bases {
            let (address, _) = base.endpoint().context("a base without an address")?;
            let partner = related(deckies, base.decky(), PARTNER)?;
            let mark = self.seed.word();
            writeln!(
                script,
                "nsenter -t {} -n curl -sS -o /dev/null -m 20 http://{}/{mark} ||
                     echo '{} does not reach {}'",
                base.pid, partner.ip, base.name, partner.name
            )?;
            marks.push((partner, address, mark));
        }
        let said = worker.host.run(&script)?;
        ensure!(said.stdout.is_empty(), "{}", said.said());
        let other = self.workers.iter().find(|other| other.uuid != worker.uuid);
        other.context("no other host")?.captured(&marks)
    }

    /// From inside every decky of a host, as somebody who has broken in: nothing that is not declared answers. The host
    /// itself calls as well.
    fn intrude(
        &self,
        worker: &Worker,
        bases: &[&Container],
        deckies: &BTreeMap<String, Decky>,
    ) -> Result<()> {
        let (gateway, port) = (self.lab.gateway(), self.ear.port());
        let mut script = format!("cat >/run/intruder <<'END'{INTRUDER}END\n");
        for (number, base) in bases.iter().enumerate() {
            writeln!(
                script,
                "nsenter -t {} -n bash /run/intruder {} {} {gateway} {port} {} &",
                base.pid,
                base.name,
                number + 2,
                related(deckies, base.decky(), STRANGER)?.ip
            )?;
        }
        writeln!(
            script,
            "echo >/dev/tcp/{gateway}/{port}; echo >/dev/udp/{gateway}/{port}; wait"
        )?;
        let said = worker.host.ok(&script)?;
        ensure!(said.is_empty(), "{said}");
        Ok(())
    }

    /// The LAN has heard both hosts, so that it would have heard others; and it has heard no decky.
    fn hears_hosts_only(&self) -> Result<()> {
        let hosts = self.workers.each_ref().map(|worker| worker.host.address());
        let mut heard: Vec<(&str, String)> = Vec::new();
        until("the LAN hears both hosts", SHORT, || {
            let new = self.ear.heard()?;
            heard.extend(new.into_iter().map(|(how, from)| (how, from.to_string())));
            let by = |how: &str, host: &str| heard.iter().any(|(way, from)| *way == how && from == host);
            let all = hosts.iter().all(|host| by("tcp", host) && by("udp", host));
            Ok(Seen::when(all, format!("{heard:?}")))
        })?;
        heard.retain(|(_, from)| !hosts.contains(&from.as_str()));
        ensure!(heard.is_empty(), "calls got out: {heard:?}");
        Ok(())
    }

    /// Without its agent: a host's engine has started nothing of a decky, and no decky answers.
    fn is_dark(&self, worker: &Worker, deckies: &BTreeMap<String, Decky>) -> Result<()> {
        let containers = worker.host.containers(&worker.uuid)?;
        let own: Vec<&Decky> = worker.own(deckies).collect();
        let running: Vec<&String> = containers
            .values()
            .filter(|container| container.running)
            .map(|container| &container.name)
            .collect();
        ensure!(
            containers.len() == own.len() * CONTAINERS && running.is_empty(),
            "of {:?} the engine has started {running:?} by itself",
            containers.keys()
        );
        for decky in own {
            let url = format!("http://{}/", decky.ip);
            let from_lan = &mut self.lab.inside(&["curl", "-s", "-m", "1", &url]);
            let answers = run(from_lan, SHORT)?.code() == Some(0);
            ensure!(!answers, "{} answers before it is closed", decky.name);
        }
        Ok(())
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let ended = thread.join();
    ended.unwrap_or_else(|_| bail!("a thread of this test panicked"))
}

/// The decky that stands in a relation to the one of that name.
fn related<'a>(deckies: &'a BTreeMap<String, Decky>, name: &str, relation: usize) -> Result<&'a Decky> {
    let number: usize = name.trim_start_matches("web-").parse()?;
    let name = format!("web-{}", number ^ relation);
    deckies.get(&name).with_context(|| format!("no decky {name}"))
}

fn is_base(container: &Container) -> bool {
    container.service() == "base"
}

impl Worker {
    /// Installs an agent that is to be there after every boot.
    fn enrol(host: Host, operator: &Operator, ipvlan: bool) -> Result<Self> {
        let more: &[&str] = if ipvlan { &["--ipvlan"] } else { &[] };
        let uuid = host.enrol(operator, more)?;
        Ok(Self { host, uuid, ipvlan })
    }

    fn own<'a>(&self, deckies: &'a BTreeMap<String, Decky>) -> impl Iterator<Item = &'a Decky> {
        deckies.values().filter(|decky| decky.host_uuid == self.uuid)
    }

    /// Waits until exactly its deckies' containers run, with the addresses that the master gave.
    fn runs(&self, deckies: &BTreeMap<String, Decky>) -> Result<BTreeMap<String, Container>> {
        let mut expected: Vec<String> = Vec::new();
        for decky in self.own(deckies) {
            for service in ["base"]
                .into_iter()
                .chain(decky.services.iter().map(String::as_str))
            {
                expected.push(format!("decnet-{}-{service}-1", decky.name));
            }
        }
        expected.sort();
        let what = format!("{} runs {expected:?} and nothing else", self.host.name());
        let containers = until(&what, SETTLED, || {
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
        for decky in self.own(deckies) {
            let name = format!("decnet-{}-base-1", decky.name);
            let address = containers.get(&name).and_then(Container::endpoint);
            let address = address.map(|(address, _)| address);
            ensure!(
                address.as_ref() == Some(&decky.ip),
                "{name} has {address:?}, not {}",
                decky.ip
            );
        }
        Ok(containers)
    }

    /// Every namespace was closed after it was made and before a service was started in it.
    fn closed_in_time(&self, containers: &BTreeMap<String, Container>) -> Result<()> {
        let journal: Vec<Value> =
            serde_json::from_str(&self.host.ok("decnet-agent journal --json --limit 1000")?)?;
        for base in containers.values().filter(|container| is_base(container)) {
            let closes = |step: &str| {
                let name = step.strip_prefix("close the network namespace of container ");
                // What takes another's place has this behind its name until it does.
                name.is_some_and(|name| name.trim_end_matches(".next") == base.name)
            };
            let text = |entry: &Value, pointer: &str| {
                let text = entry.pointer(pointer).and_then(Value::as_str);
                text.unwrap_or_default().to_owned()
            };
            let closed = journal
                .iter()
                .filter(|entry| closes(&text(entry, "/text")) && entry.pointer("/outcome/error").is_none())
                .map(|entry| moment(&text(entry, "/outcome/at")))
                .max()
                .with_context(|| format!("{} was never closed", base.name))?;
            ensure!(
                moment(&base.started_at) <= closed,
                "{} was started at {}, and closed before that, at {closed}:\n{}",
                base.name,
                base.started_at,
                self.host.ok("decnet-agent journal --limit 60")?
            );
            for service in containers
                .values()
                .filter(|other| other.decky() == base.decky() && !is_base(other))
            {
                ensure!(
                    closed <= moment(&service.started_at),
                    "{} was started at {}, and closed only at {closed}",
                    service.name,
                    service.started_at
                );
            }
        }
        Ok(())
    }

    fn counters(&self) -> Result<BTreeMap<String, Counters>> {
        let mut status = self.host.agent_status()?;
        let egress = status.pointer_mut("/running/egress").map(Value::take);
        Ok(serde_json::from_value(egress.with_context(|| {
            format!("the status of {} counts nothing", self.host.name())
        })?)?)
    }

    /// Waits until HTTP services of its deckies noted visits: to whom, from which address, for what.
    fn captured(&self, visits: &[(&Decky, String, String)]) -> Result<()> {
        let mut look = String::new();
        for (decky, _, mark) in visits {
            // Not `docker logs`: a power cut leaves zero bytes in the engine's log file, which Engine 20.10 does not get
            // past.
            writeln!(
                look,
                "grep -ahF {mark} \"$(docker inspect --format '{{{{.LogPath}}}}' decnet-{}-http-1)\" || true",
                decky.name
            )?;
        }
        let what = format!("{} notes {visits:?}", self.host.name());
        until(&what, SHORT, || {
            let log = self.host.ok(&look)?;
            let noted = |source: &str, mark: &str| {
                log.lines()
                    .filter(|line| line.contains(mark))
                    .filter_map(|line| serde_json::from_str::<Value>(line.trim_matches('\0')).ok())
                    .filter_map(|entry| serde_json::from_str::<Value>(entry.get("log")?.as_str()?).ok())
                    .any(|event| event.pointer("/source/ip").and_then(Value::as_str) == Some(source))
            };
            let all = visits.iter().all(|(_, source, mark)| noted(source, mark));
            Ok(Seen::when(all, &log))
        })
    }
}

/// A time as RFC 3339 has it, of UTC, in a form whose texts compare as times, cut to milliseconds.
fn moment(text: &str) -> String {
    let text = text.trim_end_matches('Z');
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let mut part = format!("{part:0<3}");
    part.truncate(3);
    format!("{whole}.{part}")
}

#[test]
fn deckies_of_two_hosts_meet_call_nobody_else_and_come_back_as_themselves() -> Result<()> {
    let mut swarm = Swarm::begin("lan")?;
    let (deckies, rows) = swarm.deploy()?;
    let bases = swarm.run(&deckies)?;
    swarm.at("deployed");
    swarm.check(&deckies, &bases)?;
    swarm.at("checked");

    // One reboots in order; the other loses power, and its agent comes late. Nothing of it needs the master.
    swarm.master.stop()?;
    let [mac, ipv] = &swarm.workers;
    mac.host.begin_reboot()?;
    ipv.host.ok("systemctl disable decnet-agent && sync")?;
    ipv.host.power_cut()?;
    ipv.host.switch_on()?;
    for worker in [mac, ipv] {
        let boot = worker.host.wait_for_boot()?;
        let name = worker.host.name();
        ensure!(boot.state == "running", "{name} is {}", boot.state);
    }
    swarm.at("both hosts are back");
    swarm.is_dark(ipv, &deckies)?;
    ipv.host.ok("systemctl enable --now decnet-agent && sync")?;
    let bases = swarm.run(&deckies)?;
    swarm.at("all deckies are back");
    swarm.master.start()?;
    swarm.check(&deckies, &bases)?;
    swarm.at("checked after reboot and power cut");
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

    // Another driver: the same addresses, and now MACs of their own.
    let change = ["host", "network", "ipv", "--driver", "macvlan"];
    swarm.operator.command(&change)?.ok()?;
    swarm.workers[1].ipvlan = false;
    swarm.explained(swarm.operator.settled("ipv"))?;
    let bases = swarm.run(&deckies)?;
    swarm.at("the other driver is there");
    ensure!(
        swarm.operator.deckies()? == deckies,
        "another driver changed more than the network"
    );
    swarm.check(&deckies, &bases)?;
    swarm.at("checked with another driver");

    let names: Vec<&str> = deckies.keys().map(String::as_str).collect();
    swarm.explained(swarm.operator.remove(&names))?;
    for worker in &swarm.workers {
        worker.runs(&BTreeMap::new())?;
        let networks = "docker network ls -q --filter label=io.decnet.host";
        let left = worker.host.ok(networks)?;
        ensure!(left.is_empty(), "networks stay behind: {left}");
    }
    swarm.at("nothing is left");
    Ok(())
}
