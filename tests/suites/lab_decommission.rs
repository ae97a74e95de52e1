//! Hosts leave the fleet: ordered, forgotten, with their reaper killed, with power lost and without an engine in the middle.
//! The end is the same each time: nothing of ours is left but logs, and the master holds the tombstone.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use decnet_tests::fleet::Operator;
use decnet_tests::lab::{Host, LEFTOVERS, Lab};
use decnet_tests::packages::agent_deb;
use decnet_tests::processes::{Master, bin, tail};
use decnet_tests::wait::{Seen, until};
use serde_json::Value;

/// As long as anything here may take on a guest that is busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// A stack's volume.
const VOLUME: &str = "decnet-web-data";
/// The reaper's journal, while it works.
const JOURNAL: &str = "/var/lib/decnet/agent-reaper/journal.json";
/// Holds the lock that package managers wait for, until it is stopped.
const HOLD: &str = r#"
cat >/root/hold.pl <<'END'
use Fcntl;
open(my $file, ">>", "/var/lib/dpkg/lock") or die;
my $lock = pack("s s x4 q q i x4", F_WRLCK, 0, 0, 0, 0);
fcntl($file, F_SETLKW, $lock) or die;
open(my $held, ">", "/run/held") or die;
sleep 1 while 1;
END
rm -f /run/held
systemd-run -q --collect --unit hold perl /root/hold.pl
until test -e /run/held; do sleep 0.1; done"#;

/// A unit with the agent's sandbox, whose program has a child.
const TRIAL: &str = r##"
sed -e 's#^ExecStart=.*#ExecStart=/bin/sh -c "sleep 1000 \& wait"#' -e 's/^Type=.*/Type=exec/' -e 's/^KillMode=.*/KillMode=mixed/' \
    -e '/^StateDirectory/d;/^NotifyAccess/d;/^WatchdogSec/d;/^PartOf/d' \
    /usr/lib/systemd/system/decnet-agent.service >/run/systemd/system/trial.service
systemctl daemon-reload
systemctl start trial
pgrep -P $(systemctl show -P MainPID trial)"##;

struct Scene {
    host: Host,
    operator: Operator,
    master: Master,
    deb: PathBuf,
    start: Instant,
    lab: Lab,
}

#[test]
fn a_host_leaves_nothing_behind_whatever_happens_while_it_leaves() -> Result<()> {
    let start = Instant::now();
    let lab = Lab::new("decommission")?;
    let deb = agent_deb("1.0.0", None, &lab.folder().join("packages"))?;
    let host = lab.host("w1").memory(1200).boot()?;
    let mut master = Master::init_at(lab.folder(), &lab.gateway(), lab.namespace())?.without_worker();
    master.start()?;
    let operator = Operator::on(&master.socket);
    let mut scene = Scene {
        host,
        operator,
        master,
        deb,
        start,
        lab,
    };
    scene.at("a host and a master");
    let told = scene.story();
    told.with_context(|| {
        let said = scene.host.run(&format!(
            "cat {JOURNAL}; systemctl status --no-pager -l 'decnet*'; journalctl -t decnet-agent -n 60 -o cat --no-pager"
        ));
        format!(
            "the master's log ends with:\n{}\nthe host says: {}",
            tail(&scene.master.log),
            said.map_or_else(|error| format!("{error:#}"), |said| said.said())
        )
    })
}

impl Scene {
    fn story(&mut self) -> Result<()> {
        self.host.put(&self.deb, "/root/decnet-agent.deb")?;
        self.host.ok("echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/lab")?;
        let before = self.leftovers()?;
        ensure!(before.is_empty(), "before anything was installed: {before}");
        self.ordered_with_its_reaper_killed_and_its_engine_stopped()?;
        self.ordered_without_an_engine_and_its_power_cut()?;
        self.forgotten_and_back_again()?;
        self.installed_by_hand_without_systemd_and_the_master_away()
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

    fn leftovers(&self) -> Result<String> {
        self.ok(LEFTOVERS)
    }

    /// Installs the package, enrols and deploys; gives the host's id.
    fn join(&self, name: &str) -> Result<String> {
        let (uuid, token) = self.operator.enroll(name, None, &[])?;
        self.ok(&format!(
            "dpkg -i --force-depends /root/decnet-agent.deb >/dev/null 2>&1
             decnet-agent enroll '{token}' && systemctl start decnet-agent"
        ))?;
        self.deploy(name)?;
        // No service of the catalogue has a volume: one with an agent's labels.
        self.ok(&format!(
            "docker volume create --label io.decnet.host={uuid} --label io.decnet.hash=0 {VOLUME}"
        ))?;
        let there = self.leftovers()?;
        for ours in [
            VOLUME,
            "decnet-agent.service",
            "/usr/bin/decnet-agent",
            "/var/lib/decnet",
            "install ok installed",
        ] {
            ensure!(there.contains(ours), "it would not notice {ours}: {there}");
        }
        self.at(&format!("{name} runs a decky"));
        Ok(uuid)
    }

    fn deploy(&self, name: &str) -> Result<()> {
        self.operator.active(name)?;
        let file = self.lab.folder().join("fleet.ini");
        let text = format!("{}\n[web]\nservices = redis\n", self.lab.general());
        std::fs::write(&file, text)?;
        let ids = self.operator.deploy(&file, false)?;
        self.operator.succeeded(&ids)?;
        Ok(())
    }

    fn order(&self, name: &str, more: &[&str]) -> Result<Value> {
        let state_dir = self.master.state_dir.display().to_string();
        let arguments = ["host", "decommission", name, "--yes", "--state-dir", &state_dir];
        self.operator.json(&[&arguments, more].concat())
    }

    fn departure(&self, uuid: &str) -> Result<Value> {
        self.operator.json(&["host", "departures", uuid])
    }

    /// Nothing is left of a package, and the master knows.
    fn has_left(&self, uuid: &str) -> Result<()> {
        let package = [
            "package decnet-agent",
            "unit decnet-agent.service",
            "path /usr/bin/decnet-agent",
            &format!("volume {VOLUME}"),
        ];
        self.has_left_with(uuid, &package)
    }

    fn has_left_with(&self, uuid: &str, more: &[&str]) -> Result<()> {
        self.host.has_left(&self.operator, uuid, more)?;
        self.at("it has left");
        Ok(())
    }

    /// Waits until the reaper stands before what the test holds, with the agent's unit stopped; gives its process.
    fn until_held(&self) -> Result<String> {
        self.until(
            "the reaper waits for the package manager",
            &format!("cat {JOURNAL}"),
            |text| {
                let journal: Value = serde_json::from_str(text).unwrap_or_default();
                journal["phase"] == "package"
            },
        )?;
        let agent = self.host.run("systemctl is-active decnet-agent.service")?.stdout;
        ensure!(agent.trim() == "inactive", "the agent is {agent}");
        let unit = self
            .ok("systemctl list-units --plain --no-legend 'decnet-reaper*.service' | awk '{ print $1 }'")?;
        ensure!(unit.lines().count() == 1, "the reapers: {unit}");
        let pid = self.ok(&format!("systemctl show -P MainPID {unit}"))?;
        let group = self.ok(&format!("cat /proc/{pid}/cgroup"))?;
        ensure!(group.ends_with(&format!("/{unit}")), "it is in {group}");
        Ok(pid)
    }

    /// Whether a process could remove programs.
    fn may_write_programs(&self, pid: &str) -> Result<bool> {
        let script = format!("nsenter -t {pid} -m sh -c 'touch /usr/trial && rm /usr/trial'");
        Ok(self.host.run(&script)?.status.success())
    }

    /// What the reaper is not, and why.
    fn neither_a_child_nor_a_scope_would_do(&self) -> Result<()> {
        let child = self.ok(TRIAL)?;
        self.ok("systemctl stop trial")?;
        let gone = self.host.run(&format!("kill -0 {child}"))?;
        ensure!(!gone.status.success(), "the child {child} outlived its unit");

        let child = self.ok(TRIAL)?;
        self.ok(&format!(
            "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager \
             StartTransientUnit 'ssa(sv)a(sa(sv))' trial.scope fail 1 PIDs au 1 {child} 0
             systemctl stop trial && kill -0 {child}"
        ))?;
        ensure!(
            !self.may_write_programs(&child)?,
            "the scope's process has left the agent's sandbox"
        );
        self.ok("systemctl stop trial.scope; rm /run/systemd/system/trial.service; systemctl daemon-reload")?;
        self.at("a child ends with its unit, a scope's process cannot remove a program");
        Ok(())
    }

    fn ordered_with_its_reaper_killed_and_its_engine_stopped(&self) -> Result<()> {
        let uuid = self.join("first")?;
        self.neither_a_child_nor_a_scope_would_do()?;
        self.ok(HOLD)?;
        self.order("first", &[])?;
        let pid = self.until_held()?;
        ensure!(
            self.ok("docker ps -aq; docker image ls -q")?.is_empty(),
            "not everything is gone from the engine"
        );
        ensure!(self.may_write_programs(&pid)?, "the reaper could remove nothing");
        self.at("the agent is stopped, the reaper works");
        self.ok(&format!("kill -KILL {pid}"))?;
        let again = self.until(
            "the reaper is there again",
            "pgrep -f 'decnet-agent reap'",
            |text| !text.is_empty() && text != pid,
        )?;
        self.ok("systemctl stop docker.service docker.socket")?;
        self.at(&format!(
            "reaper {pid} was killed, {again} goes on without an engine"
        ));
        self.ok("systemctl stop hold; rm /run/held")?;
        until("the tombstone is here", PATIENCE, || {
            let departure = self.departure(&uuid)?;
            Ok(Seen::when(
                departure["status"] == "decommissioned",
                departure.to_string(),
            ))
        })?;
        self.ok("systemctl start docker.socket docker.service")?;
        self.has_left(&uuid)
    }

    fn ordered_without_an_engine_and_its_power_cut(&self) -> Result<()> {
        let uuid = self.join("second")?;
        self.ok("systemctl stop docker.service docker.socket")?;
        self.order("second", &[])?;
        self.until(
            "the agent says what it waits for",
            "systemctl show -P StatusText decnet-agent",
            |text| text.contains("ordered to leave the fleet, and cannot yet"),
        )?;
        self.at("it cannot leave without an engine");
        self.ok(HOLD)?;
        self.ok("systemctl start docker.socket docker.service")?;
        self.until_held()?;
        self.ok("sync")?;
        self.host.power_cut()?;
        // Who held the lock is gone as well.
        self.host.boot_again()?;
        self.at("back after a power cut");
        self.has_left(&uuid)
    }

    /// A teardown is no decommission: the deckies go, and come again.
    fn emptied_and_kept(&self, name: &str) -> Result<()> {
        let refused = self.operator.command(&["host", "teardown", name])?;
        ensure!(
            !refused.status.success() && refused.said().contains("--yes"),
            "nobody was asked: {}",
            refused.said()
        );
        self.operator
            .command(&["host", "teardown", name, "--yes", "--wait"])?
            .ok()?;
        let running = self.ok("docker ps -aq")?;
        ensure!(running.is_empty(), "torn down, and there are {running}");
        ensure!(
            self.operator.deckies()?.is_empty(),
            "its decky is still in the fleet"
        );
        self.deploy(name)
    }

    fn forgotten_and_back_again(&self) -> Result<()> {
        let uuid = self.join("third")?;
        self.emptied_and_kept("third")?;
        self.ok("systemctl stop decnet-agent")?;
        let begun = self.order("third", &["--force"])?;
        ensure!(begun["departure"]["status"] == "forgotten", "{begun}");
        ensure!(
            !self.operator.hosts()?.contains_key("third"),
            "it is still in the fleet"
        );
        let running = self.ok("docker ps -q | wc -l")?;
        ensure!(
            running == "2",
            "{running} containers of a host that knows of nothing"
        );
        self.ok("systemctl start decnet-agent")?;
        self.has_left(&uuid)
    }

    /// No package, no systemd that the agent could see, and nobody to take the tombstone: a process of its own does it.
    fn installed_by_hand_without_systemd_and_the_master_away(&mut self) -> Result<()> {
        let (uuid, token) = self.operator.enroll("fourth", None, &[])?;
        self.host
            .put(&bin("decnet-agent")?, "/usr/local/bin/decnet-agent")?;
        self.ok(&format!(
            "mkdir -p /opt/decnet /etc/decnet /var/log/decnet /sys/fs/cgroup/agent
             echo ours >/opt/decnet/readme; mkdir /srv/kept; echo foreign >/srv/kept/file; ln -s /srv/kept /opt/decnet/link
             printf '/opt/decnet\\n/srv/kept\\n' >/etc/decnet/manifest
             decnet-agent enroll '{token}'
             setsid unshare -m --propagation slave sh -c 'echo $$ >/sys/fs/cgroup/agent/cgroup.procs; mount -t tmpfs none /run/systemd; \
                 exec /usr/local/bin/decnet-agent run' </dev/null >/var/log/agent.log 2>&1 &"
        ))?;
        self.deploy("fourth")?;
        self.at("fourth runs a decky, without systemd");
        self.ok("systemctl stop docker.service docker.socket")?;
        self.order("fourth", &[])?;
        self.until("the agent has the order", "cat /var/log/agent.log", |text| {
            text.contains("this host has not left yet")
        })?;
        self.master.stop()?;
        self.ok("systemctl start docker.socket docker.service")?;
        self.until("nobody takes the tombstone", &format!("cat {JOURNAL}"), |text| {
            text.contains("\"phase\": \"tombstone\"")
        })?;
        let reaper = self.ok("pgrep -f 'decnet-agent reap'")?;
        let group = self.ok(&format!("cat /proc/{reaper}/cgroup"))?;
        ensure!(group == "0::/", "the reaper is in {group}");
        self.ok(&format!(
            "set -e; echo 1 >/sys/fs/cgroup/agent/cgroup.kill
             until rmdir /sys/fs/cgroup/agent; do sleep 0.1; done
             kill -0 {reaper}; test ! -e /usr/local/bin/decnet-agent; test -s /srv/kept/file"
        ))?;
        self.at("the reaper is alone, and waits for the master");
        self.master.start()?;
        let paths = [
            "path /usr/local/bin/decnet-agent",
            "path /opt/decnet",
            "path /etc/decnet/manifest",
        ];
        self.has_left_with(&uuid, &paths)?;
        self.ok("set -e; test -s /var/log/decnet/reaper.log; test -s /srv/kept/file")
            .map(drop)
    }
}
