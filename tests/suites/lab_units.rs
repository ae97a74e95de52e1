//! The units, on a whole host, as the packages for rpm install them: a master and an agent on one machine, enrolled by one
//! command, with what each unit promises about its start, its end, its restarts, its sandbox and its log, and what the
//! packages' scripts do with it when they are installed, upgraded and removed.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use decnet_tests::lab::{Host, Lab};
use decnet_tests::packages::{project, rpm};
use decnet_tests::wait::{Seen, until};
use serde_json::Value;

/// As long as anything here may take on a guest that is busy.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);
const UNITS: &str = "/usr/lib/systemd/system";
/// Prints the first process of each container, without asking the engine.
const CONTAINERS: &str = "pgrep -x decnet-decoy";
/// What `systemd-analyze security` may say at most: `systemd/README.md` says what stays open and why.
const EXPOSURES: [(&str, f32); 2] = [("decnet-agent.service", 2.5), ("decnet-master.service", 1.5)];

/// Has systemd start a unit of its own that writes where the agent may not, by the system bus.
const START_A_UNIT: &str = "/usr/bin/busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 \
    org.freedesktop.systemd1.Manager StartTransientUnit ssa(sv)a(sa(sv)) asked-for.service replace \
    1 ExecStart a(sasb) 1 /usr/bin/touch 2 /usr/bin/touch /run/asked-for false 0";

/// What a host without packages of its own distribution needs, and this one has none of.
const RPM: &str = "rpm --force-debian --nodeps";

struct Machine {
    host: Host,
    /// Of the agent's next version.
    next: PathBuf,
    start: Instant,
    lab: Lab,
}

#[test]
fn the_units_of_a_master_and_an_agent_keep_their_promises() -> Result<()> {
    let lab = Lab::new("units")?;
    let folder = lab.folder().to_owned();
    let packages = [
        rpm("decnet-agent", "1.0.0", &project(), &folder)?,
        rpm("decnet", "1.0.0", &project(), &folder)?,
    ];
    let next = rpm("decnet-agent", "1.1.0", &project(), &folder)?;
    let start = Instant::now();
    let host = lab.host("w1").memory(1200).boot()?;
    let machine = Machine {
        host,
        next,
        start,
        lab,
    };
    machine.at("booted");
    let told = machine.story(&packages);
    told.with_context(|| {
        let said = machine
            .host
            .run("systemctl status --no-pager -l 'decnet*'; journalctl -u 'decnet*' -n 60 -o cat --no-pager");
        said.map_or_else(|error| format!("{error:#}"), |said| said.said())
    })
}

impl Machine {
    fn story(&self, packages: &[PathBuf]) -> Result<()> {
        self.packages_are_installed(packages)?;
        self.units_are_sound_and_closed()?;
        self.agent_that_is_not_enrolled_says_how_and_rests()?;
        self.master_serves_as_its_own_user()?;
        self.agent_starts_without_an_engine()?;
        self.decky_comes_once_the_engine_does()?;
        self.journal_has_fields()?;
        self.engine_restarts_under_the_agent()?;
        self.stops_touch_no_decky()?;
        self.a_loop_that_stands_still_is_ended_and_begun_again()?;
        self.packages_are_upgraded_and_removed()
    }

    fn at(&self, what: &str) {
        println!("{:6.1} s: {what}", self.start.elapsed().as_secs_f32());
    }

    fn ok(&self, script: &str) -> Result<String> {
        Ok(self.host.ok(script)?.trim().to_owned())
    }

    /// Waits until a script prints what is wanted.
    fn until(&self, what: &str, script: &str, holds: impl Fn(&str) -> bool) -> Result<String> {
        // Looking keeps the guest's only processor from what is waited for.
        let script = format!("sleep 0.3\n{script}");
        until(what, PATIENCE, || {
            let said = self.host.run(&script)?;
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

    /// Properties of a unit, each as `Name=value`.
    fn expect(&self, unit: &str, wanted: &[&str]) -> Result<()> {
        let said = self.ok(&format!("systemctl show {unit}"))?;
        for line in wanted {
            let name = line.split_once('=').context("Name=value")?.0;
            let found = said.lines().find(|found| found.starts_with(&format!("{name}=")));
            ensure!(found == Some(*line), "{unit}: {found:?}, not {line}");
        }
        Ok(())
    }

    fn until_status(&self, unit: &str, begins: &str) -> Result<String> {
        let script = format!("systemctl show -P StatusText {unit}");
        self.until(&format!("{unit} says {begins:?}"), &script, |text| {
            text.starts_with(begins)
        })
    }

    fn packages_are_installed(&self, packages: &[PathBuf]) -> Result<()> {
        let shown = packages.iter().map(|package| self.host.show(package));
        let shown: Vec<_> = shown.collect::<Result<_>>()?;
        self.ok(&format!(
            "{RPM} -i {} && {RPM} -V decnet-agent decnet",
            shown.join(" ")
        ))?;
        let said = self.ok(
            "getent passwd decnet; stat -c '%a %U %n' /var/lib/decnet/agent /var/log/decnet; id -u decnet",
        )?;
        ensure!(
            said.contains("700 root /var/lib/decnet/agent") && said.contains("/usr/sbin/nologin"),
            "what the scripts made: {said}"
        );
        // Known without a hand, and not started: there is nothing yet that they could run with.
        for unit in ["decnet-agent", "decnet-master"] {
            let wanted = ["LoadState=loaded", "NeedDaemonReload=no", "ActiveState=inactive"];
            self.expect(unit, &wanted)?;
        }
        // Deckies on a LAN use neither of both, which takes an engine in a guest seconds at each start.
        self.ok(r#"mkdir -p /etc/docker; echo '{"bridge":"none","iptables":false,"ip6tables":false}' >/etc/docker/daemon.json"#)?;
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
        let wanted = [
            "ActiveState=failed",
            "SubState=failed",
            "ExecMainStatus=3",
            "NRestarts=0",
        ];
        self.expect("decnet-agent", &wanted)?;
        self.at("not enrolled: told so");
        Ok(())
    }

    fn master_serves_as_its_own_user(&self) -> Result<()> {
        let said = self
            .host
            .run("systemctl start decnet-master; systemctl is-active decnet-master")?;
        ensure!(
            said.stdout.trim() == "inactive",
            "without `decnet init`: {}",
            said.said()
        );
        self.ok(&format!("decnet init --advertise {}", self.host.address()))?;
        // Returns once the master is ready: at that very moment all listeners have to be there.
        let said = self.ok(
            "systemctl enable -q --now decnet-master && decnet status && \
             for port in 8770 8771 8772; do ss -Hltn \"sport = :$port\" | grep -q . || echo \"nobody at $port\"; done",
        )?;
        ensure!(!said.contains("nobody at"), "{said}");
        let said = self.ok(
            "ps -o user= -p $(systemctl show -P MainPID decnet-master); find /var/lib/decnet/master /run/decnet ! -user decnet",
        )?;
        ensure!(
            said == "decnet",
            "the master runs as, and these are not its own: {said}"
        );
        self.until_status("decnet-master", "agents at")?;
        self.at("the master serves");
        Ok(())
    }

    fn agent_starts_without_an_engine(&self) -> Result<()> {
        let said =
            self.ok("systemctl stop docker.service docker.socket && decnet host enroll here --here")?;
        ensure!(said.contains("enrolled as here"), "{said}");
        self.expect("decnet-agent", &["ActiveState=active", "UnitFileState=enabled"])?;
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

    /// The containers that run, as their first processes.
    fn containers(&self) -> Result<String> {
        self.ok(CONTAINERS)
    }

    fn until_converged(&self) -> Result<()> {
        self.until_status("decnet-agent", "converged; 2 containers")?;
        self.until("its containers run", "docker ps -q | wc -l", |text| text == "2")?;
        self.until("the decky runs", "decnet decky ls --json", |text| {
            let deckies: Value = serde_json::from_str(text).unwrap_or_default();
            deckies[0]["state"] == "running"
        })
        .map(drop)
    }

    fn decky_comes_once_the_engine_does(&self) -> Result<()> {
        self.ok("systemctl start docker.socket docker.service")?;
        self.until_converged()?;
        self.expect("decnet-agent", &["NRestarts=0"])?;
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
        let said =
            self.ok("printf '[%s,%s]' \"$(decnet lifecycle ls --json)\" \"$(decnet host ls --json)\"")?;
        let said: Value = serde_json::from_str(&said)?;
        let operation = said[0]["rows"][0]["id"].as_str().context("no operation")?;
        let host = said[1][0]["uuid"].as_str().context("no host")?;
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
            text.lines().count() == 2 && text.lines().all(|id| before.lines().all(|earlier| id != earlier))
        })?;
        self.until_converged()?;
        let now = self.property("decnet-agent", "MainPID")?;
        ensure!(pid == now, "the agent was {pid} and is {now}");
        self.at("the engine was restarted");
        Ok(())
    }

    fn stops_touch_no_decky(&self) -> Result<()> {
        let before = self.containers()?;
        ensure!(before.lines().count() == 2, "{before}");
        // The target itself has stopped before what is part of it.
        self.ok("systemctl stop decnet.target")?;
        self.until(
            "the target has stopped both",
            "systemctl is-active decnet-agent decnet-master",
            |text| text == "inactive\ninactive",
        )?;
        self.expect("decnet-agent", &["Result=success"])?;
        ensure!(self.containers()? == before, "the agent's end touched a decky");
        // Whatever else is started in the unit has the agent's sandbox: out of it the system bus has to be reached, and
        // processes of others seen.
        let active = self.ok(&format!(
            "mkdir -p /etc/systemd/system/decnet-agent.service.d && \
             printf '[Service]\\nWatchdogSec=4s\\nTimeoutAbortSec=2s\\nRestartSec=100ms\\nExecStartPre={START_A_UNIT}\\nExecStartPre=/usr/bin/test -e /proc/1/stat\\n' \
                 >/etc/systemd/system/decnet-agent.service.d/test.conf && \
             systemctl daemon-reload && systemctl start decnet.target && systemctl is-active decnet-agent decnet-master"
        ))?;
        ensure!(active == "active\nactive", "the target started: {active}");
        self.until(
            "the bus started what the agent's sandbox asked for",
            "ls /run/asked-for",
            |text| text == "/run/asked-for",
        )?;
        self.until_status("decnet-agent", "converged")?;
        ensure!(self.containers()? == before, "the agent's start touched a decky");
        self.at("stopped and started");
        Ok(())
    }

    fn a_loop_that_stands_still_is_ended_and_begun_again(&self) -> Result<()> {
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

    fn packages_are_upgraded_and_removed(&self) -> Result<()> {
        let before = self.containers()?;
        let pid = self.property("decnet-agent", "MainPID")?;
        let next = self.host.show(&self.next)?;
        let said = self.ok(&format!(
            "{RPM} -U {next} && {RPM} -V --noconfig decnet-agent && rpm -q decnet-agent && systemctl is-active decnet-agent && \
             systemctl show -P MainPID decnet-agent"
        ))?;
        ensure!(
            said.starts_with("decnet-agent-1.1.0-1.x86_64\nactive\n") && !said.ends_with(&pid),
            "an upgrade while it ran as {pid}: {said}"
        );
        self.at("upgraded");
        self.ok(&format!("{RPM} -e decnet-agent decnet"))?;
        let left = self.ok(
            "find /usr /etc/systemd -name '*decnet*' ! -path '*decnet-agent.service.d*'; rpm -qa | grep decnet; \
             pgrep -lx 'decnet|decnet-agent'; systemctl is-active decnet-agent decnet-master | grep -v inactive; \
             test -s /var/lib/decnet/agent/ledger.redb && test -s /var/lib/decnet/master/store.redb",
        )?;
        ensure!(left.is_empty(), "left behind: {left}");
        ensure!(
            self.containers()? == before,
            "an upgrade or the removal touched a decky"
        );
        self.at("removed");
        Ok(())
    }
}
