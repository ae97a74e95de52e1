//! The units that packages install, on a whole host: a master and an agent on one machine, enrolled by one command, with
//! what each unit promises about its start, its end, its restarts, its sandbox and its log.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use decnet_tests::lab::{Host, Lab};
use decnet_tests::processes::{bin, decoy_image};
use decnet_tests::wait::{Seen, until};
use serde_json::Value;

/// As long as anything here may take on a guest that is busy.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);
const UNITS: &str = "/usr/lib/systemd/system";
/// Prints ids and starts of all containers.
const CONTAINERS: &str =
    "docker inspect --format '{{.Id}} {{.State.StartedAt}} {{.State.Running}}' $(docker ps -aq) | sort";
/// What `systemd-analyze security` may say at most: `systemd/README.md` says what stays open and why.
const EXPOSURES: [(&str, f32); 2] = [("decnet-agent.service", 2.8), ("decnet-master.service", 1.5)];

struct Machine {
    host: Host,
    start: Instant,
    lab: Lab,
}

#[test]
fn the_units_of_a_master_and_an_agent_keep_their_promises() -> Result<()> {
    let start = Instant::now();
    let lab = Lab::new("units")?;
    let host = lab.host("w1").memory(1200).boot()?;
    let machine = Machine { host, start, lab };
    machine.at("booted");
    let told = machine.story();
    told.with_context(|| {
        let said = machine
            .host
            .run("systemctl status --no-pager -l 'decnet*'; journalctl -u 'decnet*' -n 60 -o cat --no-pager");
        said.map_or_else(|error| format!("{error:#}"), |said| said.said())
    })
}

impl Machine {
    fn story(&self) -> Result<()> {
        self.install()?;
        self.units_are_sound_and_closed()?;
        self.agent_that_is_not_enrolled_says_how_and_rests()?;
        self.master_serves_as_its_own_user()?;
        self.agent_starts_without_an_engine()?;
        self.decky_comes_once_the_engine_does()?;
        self.journal_has_fields()?;
        self.engine_restarts_under_the_agent()?;
        self.stops_touch_no_decky()?;
        self.a_loop_that_stands_still_is_ended_and_begun_again()
    }

    fn at(&self, what: &str) {
        println!("{:6.1} s: {what}", self.start.elapsed().as_secs_f32());
    }

    fn ok(&self, script: &str) -> Result<String> {
        Ok(self.host.ok(script)?.trim().to_owned())
    }

    /// Waits until a script prints what is wanted.
    fn until(&self, what: &str, script: &str, holds: impl Fn(&str) -> bool) -> Result<String> {
        until(what, PATIENCE, || {
            let said = self.host.run(script)?;
            let text = said.stdout.trim().to_owned();
            Ok(if holds(&text) {
                Seen::Done(text)
            } else {
                Seen::not_yet(said.said())
            })
        })
    }

    /// A property of a unit.
    fn property(&self, unit: &str, name: &str) -> Result<String> {
        self.ok(&format!("systemctl show -P {name} {unit}"))
    }

    fn until_status(&self, unit: &str, begins: &str) -> Result<String> {
        let script = format!("systemctl show -P StatusText {unit}");
        self.until(&format!("{unit} says {begins:?}"), &script, |text| {
            text.starts_with(begins)
        })
    }

    /// What packages do.
    fn install(&self) -> Result<()> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
        for unit in [
            "decnet-agent.service",
            "decnet-updater.path",
            "decnet-updater.service",
            "decnet-master.service",
            "decnet.target",
        ] {
            self.host.put(&source.join(unit), &format!("{UNITS}/{unit}"))?;
        }
        for program in ["decnet", "decnet-agent"] {
            self.host.put(&bin(program)?, &format!("/usr/bin/{program}"))?;
        }
        let image = decoy_image()?;
        self.host.put(&image, "/usr/share/decnet/decoy-image.tar")?;
        self.host.put(
            &image.with_extension("json"),
            "/usr/share/decnet/decoy-image.json",
        )?;
        self.ok(
            "useradd --system --no-create-home --shell /usr/sbin/nologin decnet && systemctl daemon-reload",
        )?;
        self.at("installed");
        Ok(())
    }

    fn units_are_sound_and_closed(&self) -> Result<()> {
        let verified = self.host.run(&format!(
            "systemd-analyze verify --man=no {UNITS}/decnet-agent.service {UNITS}/decnet-master.service {UNITS}/decnet.target 2>&1"
        ))?;
        ensure!(
            verified.status.success() && verified.stdout.trim().is_empty(),
            "systemd-analyze verify: {}",
            verified.said()
        );
        for (unit, most) in EXPOSURES {
            let said = self.ok(&format!("systemd-analyze security --no-pager {unit} | tail -n 1"))?;
            let exposure: f32 = said
                .rsplit_once(&format!("{unit}: "))
                .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
                .with_context(|| format!("no exposure in {said:?}"))?;
            println!("{unit}: exposure {exposure}");
            ensure!(exposure <= most, "{unit}: {exposure}, more than {most}");
        }
        self.at("verified");
        Ok(())
    }

    fn agent_that_is_not_enrolled_says_how_and_rests(&self) -> Result<()> {
        let started = self.host.run("systemctl start decnet-agent")?;
        ensure!(!started.status.success(), "it started: {}", started.said());
        let status = self
            .host
            .run("systemctl status --no-pager -l decnet-agent")?
            .stdout;
        ensure!(
            status.contains("this host is not enrolled") && status.contains("decnet host enroll"),
            "its status does not say what to do: {status}"
        );
        for (name, expected) in [
            ("ActiveState", "failed"),
            ("SubState", "failed"),
            ("ExecMainStatus", "3"),
            ("NRestarts", "0"),
        ] {
            let found = self.property("decnet-agent", name)?;
            ensure!(found == expected, "{name} is {found}, not {expected}");
        }
        self.at("not enrolled: told so");
        Ok(())
    }

    fn master_serves_as_its_own_user(&self) -> Result<()> {
        self.ok("systemctl start decnet-master")?;
        let state = self.property("decnet-master", "ActiveState")?;
        ensure!(state == "inactive", "without `decnet init` the master is {state}");
        self.ok(&format!("decnet init --advertise {}", self.host.address()))?;
        // Returns once the master is ready: at that very moment all listeners have to be there.
        let said = self.ok(
            "systemctl enable -q --now decnet-master && decnet status && \
             for port in 8770 8771 8772; do ss -Hltn \"sport = :$port\" | grep -q . || echo \"nobody at $port\"; done",
        )?;
        ensure!(!said.contains("nobody at"), "{said}");
        let user = self.ok("ps -o user= -p $(systemctl show -P MainPID decnet-master)")?;
        ensure!(user == "decnet", "the master runs as {user}");
        let owners = self.ok("find /var/lib/decnet/master /run/decnet ! -user decnet")?;
        ensure!(owners.is_empty(), "not the master's own: {owners}");
        self.until_status("decnet-master", "agents at")?;
        self.at("the master serves");
        Ok(())
    }

    fn agent_starts_without_an_engine(&self) -> Result<()> {
        self.ok("systemctl stop docker.service docker.socket")?;
        let said = self.ok("decnet host enroll here --here")?;
        ensure!(said.contains("enrolled as here"), "{said}");
        let state = self.ok("systemctl is-active decnet-agent; systemctl is-enabled decnet-agent")?;
        ensure!(
            state == "active\nenabled",
            "after the one command the agent is {state}"
        );
        let fleet = self.lab.folder().join("fleet.ini");
        std::fs::write(
            &fleet,
            format!("{}\n[web]\nservices = redis\n", self.lab.general()),
        )?;
        self.host.put(&fleet, "/root/fleet.ini")?;
        self.ok("decnet deploy /root/fleet.ini")?;
        self.until_status("decnet-agent", "waiting for the Docker Engine")?;
        self.at("the agent waits for the engine");
        Ok(())
    }

    /// Ids and starts of all containers.
    fn containers(&self) -> Result<String> {
        self.ok(CONTAINERS)
    }

    fn until_converged(&self) -> Result<()> {
        self.until("the decky runs", "decnet decky ls --json", |text| {
            let deckies: Value = serde_json::from_str(text).unwrap_or_default();
            deckies[0]["state"] == "running"
        })?;
        self.until("its containers run", "docker ps -q | wc -l", |text| text == "2")?;
        self.until_status("decnet-agent", "converged").map(drop)
    }

    fn decky_comes_once_the_engine_does(&self) -> Result<()> {
        self.ok("systemctl start docker.socket docker.service")?;
        self.until_converged()?;
        let restarts = self.property("decnet-agent", "NRestarts")?;
        ensure!(restarts == "0", "the agent was restarted {restarts} times");
        // What the sandbox keeps from the agent, it would say.
        let denied = self.host.run(
            "journalctl -u decnet-agent -u decnet-master -o cat --no-pager | grep -iE 'denied|not permitted|read-only|EPERM|EACCES'",
        )?;
        ensure!(
            denied.stdout.is_empty(),
            "the sandbox is in the way: {}",
            denied.stdout
        );
        let pid = "$(docker inspect --format '{{.State.Pid}}' $(docker ps -q --filter name=base))";
        let rules = self.ok(&format!("nsenter -t {pid} -n iptables -S OUTPUT"))?;
        ensure!(rules.contains("DROP"), "the decky's namespace is open: {rules}");
        self.at("the decky runs");
        Ok(())
    }

    fn journal_has_fields(&self) -> Result<()> {
        let row: Value = serde_json::from_str(&self.ok("decnet lifecycle ls --json")?)?;
        let operation = row["rows"][0]["id"].as_str().context("no operation")?.to_owned();
        let hosts: Value = serde_json::from_str(&self.ok("decnet host ls --json")?)?;
        let host = hosts[0]["uuid"].as_str().context("no host")?.to_owned();
        let found = self.until(
            "the journal has the operation",
            &format!(
                "journalctl -o json --no-pager _SYSTEMD_UNIT=decnet-agent.service DECNET_DECKY=web DECNET_OPERATION={operation} DECNET_HOST={host}"
            ),
            |text| !text.is_empty(),
        )?;
        let entry: Value = serde_json::from_str(found.lines().next_back().unwrap_or_default())?;
        ensure!(
            entry["PRIORITY"] == "6"
                && entry["SYSLOG_IDENTIFIER"] == "decnet-agent"
                && entry["MESSAGE"]
                    .as_str()
                    .is_some_and(|text| text.starts_with("operation succeeded")),
            "{entry}"
        );
        let master = self.ok("journalctl -o json --no-pager _SYSTEMD_UNIT=decnet-master.service SYSLOG_IDENTIFIER=decnet | head -n 1")?;
        ensure!(!master.is_empty(), "the master's lines have no fields");
        self.at("the journal has fields");
        Ok(())
    }

    fn engine_restarts_under_the_agent(&self) -> Result<()> {
        let pid = self.property("decnet-agent", "MainPID")?;
        let before = self.containers()?;
        self.ok("systemctl restart docker.service")?;
        // The engine ended them all: what the agent says before they were started anew is no answer.
        self.until("all containers were started anew", CONTAINERS, |text| {
            text.lines().count() == before.lines().count()
                && !text.contains("false")
                && before.lines().all(|line| !text.contains(line))
        })?;
        self.until_converged()?;
        let now = self.property("decnet-agent", "MainPID")?;
        ensure!(pid == now, "the agent was {pid} and is {now}");
        self.at("the engine was restarted");
        Ok(())
    }

    fn stops_touch_no_decky(&self) -> Result<()> {
        let before = self.containers()?;
        ensure!(before.contains("true") && !before.contains("false"), "{before}");
        self.ok("systemctl stop decnet-agent")?;
        let result = self.property("decnet-agent", "Result")?;
        ensure!(result == "success", "the agent ended with {result}");
        ensure!(self.containers()? == before, "the agent's end touched a decky");
        self.ok("systemctl start decnet.target")?;
        let active = self.ok("systemctl is-active decnet-agent decnet-master")?;
        ensure!(active == "active\nactive", "the target started: {active}");
        self.ok("systemctl stop decnet.target")?;
        let ended = self.host.run("systemctl is-active decnet-agent decnet-master")?;
        ensure!(ended.stdout.trim() == "inactive\ninactive", "{}", ended.said());
        ensure!(self.containers()? == before, "the target's end touched a decky");
        self.at("stopped and started");
        Ok(())
    }

    fn a_loop_that_stands_still_is_ended_and_begun_again(&self) -> Result<()> {
        self.ok("mkdir -p /etc/systemd/system/decnet-agent.service.d && \
             printf '[Service]\\nWatchdogSec=4s\\nTimeoutAbortSec=2s\\nRestartSec=100ms\\n' \
                 >/etc/systemd/system/decnet-agent.service.d/test.conf && \
             systemctl daemon-reload && systemctl start decnet-master decnet-agent")?;
        self.until_status("decnet-agent", "converged")?;
        let before = self.containers()?;
        let pid = self.property("decnet-agent", "MainPID")?;
        self.ok(&format!("kill -STOP {pid}"))?;
        self.until(
            "the agent was begun again",
            "systemctl show -P NRestarts decnet-agent; systemctl is-active decnet-agent",
            |text| text == "1\nactive",
        )?;
        let log = self.ok("journalctl -u decnet-agent -o cat --no-pager | grep -i watchdog")?;
        ensure!(log.contains("Watchdog timeout"), "{log}");
        self.until_status("decnet-agent", "converged")?;
        ensure!(self.containers()? == before, "the watchdog touched a decky");
        if self.property("decnet-agent", "MainPID")? == pid {
            bail!("it is the same process");
        }
        self.at("the watchdog ended it");
        Ok(())
    }
}
