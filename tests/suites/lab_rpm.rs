//! An agent that rpm owns, on a host whose only package manager is rpm: installed by the printed line, updated, brought back
//! from a release that does not work, and decommissioned.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use decnet_tests::command::{SHORT, run};
use decnet_tests::fleet::Operator;
use decnet_tests::lab::{Host, LEFTOVERS, Lab};
use decnet_tests::packages::{project, rpm, source_in};
use decnet_tests::processes::{Master, tail};
use decnet_tests::wait::{Seen, until};

/// As long as anything here may take on a guest that is busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a host may be without the version that works.
const BACK: Duration = Duration::from_secs(60);
/// The decky.
const DECKY: u8 = 11;
/// A file that only the version that does not work has.
const ONLY_NEW: &str = "/usr/share/doc/decnet-agent/NEWS.md";
/// What no host has.
const NOWHERE: &str = "decnet-nowhere";
const UPDATER: &str = "/var/lib/decnet/updater";

/// Makes rpm the only one that knows of packages here. Its database begins with a record of what the host has that the agent
/// needs: the libraries as rpm itself reads them. Debian's rpm would otherwise keep the database in root's home.
const ONLY_RPM: &str = r#"set -e
rm -rf /usr/bin/dpkg* /usr/bin/apt* /var/lib/dpkg
printf '#!/bin/sh\nexec "$@"\n' >/usr/local/bin/sudo
chmod 755 /usr/local/bin/sudo
mkdir -p /etc/rpm
echo '%_dbpath /var/lib/rpm' >/etc/rpm/macros
cat >/root/base.spec <<'END'
Name: host-base
Version: 1
Release: 1
Summary: What this host has
License: none
Provides: /bin/sh coreutils docker rtld(GNU_HASH)
%(for name in ld-linux-x86-64.so.2 libc.so.6 libm.so.6 libgcc_s.so.1; do echo /lib/x86_64-linux-gnu/$name; done |
    /usr/lib/rpm/elfdeps --provides | sort -u | sed 's/^/Provides: /')
%description
What this host has.
%files
END
rpmbuild -bb --quiet --define '_rpmdir /root' --define '_rpmfilename base.rpm' /root/base.spec
rpm -U /root/base.rpm
rpm -qa"#;

/// What rpm says of a file of settings that was changed.
const CHANGED: &str = "S.5....T.  c /etc/decnet/decnet.ini\n";

struct Scene {
    host: Host,
    packages: Packages,
    operator: Operator,
    master: Master,
    start: Instant,
    lab: Lab,
}

/// The agent's rpms.
struct Packages {
    /// The folder of the master's own: it has a deb as well.
    masters: PathBuf,
    first: PathBuf,
    works: PathBuf,
    does_not_work: PathBuf,
    does_not_install: PathBuf,
}

impl Packages {
    fn make(folder: &Path) -> Result<Self> {
        let masters = folder.join("packages");
        let agent = |version: &str, source: &Path, to: &Path| rpm("decnet-agent", version, source, to);
        let first = agent("1.0.0", &project(), &masters)?;
        // Nobody here takes it, and nothing of it is looked at but the name.
        std::fs::write(masters.join("decnet-agent_1.0.0-1_amd64.deb"), "deb")?;
        let works = agent("1.1.0", &project(), folder)?;
        // It begins, and its sandbox keeps it from calling anybody.
        let source = source_in(&folder.join("source"))?;
        change(&source.join("systemd/decnet-agent.service"), |unit| {
            unit.replace("AF_UNIX AF_INET AF_INET6", "AF_UNIX")
        })?;
        change(&source.join("packaging/decnet-agent/files"), |table| {
            format!("{table}rpm file 0644 {ONLY_NEW} CHANGELOG.md\n")
        })?;
        let does_not_work = agent("1.2.0", &source, folder)?;
        change(&source.join("packaging/decnet-agent/spec"), |spec| {
            spec.replace("\nRecommends:", &format!("\nRequires: {NOWHERE}\nRecommends:"))
        })?;
        Ok(Self {
            does_not_install: agent("1.3.0", &source, folder)?,
            masters,
            first,
            works,
            does_not_work,
        })
    }
}

fn change(file: &Path, how: impl Fn(&str) -> String) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    let changed = how(&text);
    ensure!(text != changed, "{} is not as it was", file.display());
    Ok(std::fs::write(file, changed)?)
}

#[test]
fn an_agent_that_rpm_owns_comes_is_updated_and_leaves_as_any_other() -> Result<()> {
    let start = Instant::now();
    let lab = Lab::new("rpm")?;
    let folder = lab.folder();
    let (host, packages) = std::thread::scope(|scope| {
        let packing = scope.spawn(|| Packages::make(folder));
        // A guest ends with the thread that has booted it.
        let host = lab.host("w1").memory(1200).boot();
        let packed = packing.join().map_err(|_| anyhow!("the packages were not made"));
        anyhow::Ok((host?, packed??))
    })?;
    let mut master = Master::init_at(lab.folder(), &lab.gateway(), lab.namespace())?
        .without_worker()
        .with_packages(&packages.masters);
    master.start()?;
    let operator = Operator::on(&master.socket);
    let scene = Scene {
        host,
        packages,
        operator,
        master,
        start,
        lab,
    };
    scene.at("booted");
    let told = scene.story();
    told.with_context(|| {
        let said = scene.host.run(
            "journalctl -u 'decnet*' -t decnet-agent -n 60 -o short-monotonic --no-pager; decnet-agent status; \
             rpm -q decnet-agent; ls -l /var/lib/decnet/*",
        );
        let said = said.map_or_else(|error| format!("{error:#}"), |said| said.said());
        format!("{said}\nthe master: {}", tail(&scene.master.log))
    })
}

impl Scene {
    fn story(&self) -> Result<()> {
        let base = self.host.ok(ONLY_RPM)?;
        ensure!(base == "host-base-1-1.x86_64\n", "rpm knows of {base:?}");
        let left = self.host.ok(LEFTOVERS)?;
        ensure!(left.is_empty(), "before anything was installed: {left}");
        self.at("rpm is the only package manager");

        self.the_line_installs_the_rpm()?;
        let containers = self.deploy()?;
        self.a_release_that_works_is_kept()?;
        self.a_release_that_does_not_work_is_gone_again()?;
        self.a_release_that_cannot_be_installed_changes_nothing()?;
        self.answers()?;
        let now = self.containers()?;
        ensure!(
            now == containers,
            "the containers were {containers} and are {now}"
        );
        self.the_host_leaves(&base)
    }

    fn at(&self, what: &str) {
        println!("{:6.1} s: {what}", self.start.elapsed().as_secs_f32());
    }

    /// The version that rpm names is installed as it was shipped, but for settings, and runs.
    fn runs(&self, version: &str) -> Result<()> {
        let said = self
            .host
            .ok("rpm -q decnet-agent; rpm -V decnet-agent; systemctl is-active decnet-agent")?;
        let wanted = format!("decnet-agent-{version}-1.x86_64\n{CHANGED}active\n");
        ensure!(said == wanted, "{said:?}, not {wanted:?}");
        let left = self.host.ok(&format!(
            "ls {UPDATER} /etc/decnet /var/lib/decnet/agent/update/*.json 2>/dev/null; true"
        ))?;
        let known = ["lock", "state.json", "decnet.ini"];
        ensure!(
            left.split_whitespace()
                .all(|name| known.contains(&name) || name.ends_with(':')),
            "{left}"
        );
        Ok(())
    }

    fn the_line_installs_the_rpm(&self) -> Result<()> {
        let name = self.host.name();
        let line = self
            .operator
            .command(&["host", "enroll", name, "--updater", "--approve"])?
            .ok()?;
        // As somebody's own shell does it.
        let said = std::thread::scope(|scope| {
            let pasted = scope.spawn(|| self.host.run_for(line.trim(), PATIENCE));
            let approved = self.approve(name, || pasted.is_finished());
            let said = pasted.join().map_err(|_| anyhow!("the paste panicked"))??;
            approved.with_context(|| said.said())?;
            said.ok()
        })?;
        ensure!(said.contains(&format!("enrolled as {name}")), "{said}");
        self.operator.active(name)?;
        self.runs("1.0.0")?;
        let said = self
            .host
            .ok("systemctl is-enabled decnet-agent; systemctl is-active decnet-updater.path; grep ^updater /etc/decnet/decnet.ini")?;
        ensure!(said == "enabled\nactive\nupdater = true\n", "{said}");
        self.at("installed by the printed line");
        Ok(())
    }

    /// Approves of whoever waits to be the host, as long as the line is at work.
    fn approve(&self, name: &str, is_through: impl Fn() -> bool) -> Result<()> {
        let key = until("the host waits for approval", PATIENCE, || {
            ensure!(!is_through(), "the line has ended without waiting for approval");
            let host = self.operator.json(&["host", "show", name])?;
            Ok(match host["waiting_key"].as_str() {
                Some(key) => Seen::Done(key.to_owned()),
                None => Seen::not_yet(host),
            })
        })?;
        self.operator
            .command(&["host", "approve", name, &key])?
            .ok()
            .map(drop)
    }

    fn containers(&self) -> Result<String> {
        self.host.ok("docker ps -q --no-trunc | sort")
    }

    /// Gives the containers' ids.
    fn deploy(&self) -> Result<String> {
        let address = self.lab.address(DECKY);
        let file = self.lab.folder().join("fleet.ini");
        let general = self.lab.general();
        std::fs::write(
            &file,
            format!("{general}\n[web]\nservices = http\nip = {address}\n"),
        )?;
        let rows = self.operator.deploy(&file, false)?;
        self.operator.succeeded(&rows)?;
        self.answers()?;
        self.at("the decky answers");
        self.containers()
    }

    fn answers(&self) -> Result<()> {
        let url = format!("http://{}/", self.lab.address(DECKY));
        until("the decky answers", PATIENCE, || {
            let said = run(&mut self.lab.inside(&["curl", "-sSI", "-m", "5", &url]), SHORT)?;
            Ok(Seen::when(said.stdout.starts_with("HTTP/1.1"), said.said()))
        })
    }

    fn a_release_that_works_is_kept(&self) -> Result<()> {
        self.operator
            .roll_out(&self.packages.works, &self.master.state_dir)?;
        self.operator.update_is(self.host.name(), "1.1.0", "kept")?;
        self.runs("1.1.0")?;
        self.at("1.1.0 is kept");
        Ok(())
    }

    fn a_release_that_does_not_work_is_gone_again(&self) -> Result<()> {
        self.operator
            .roll_out(&self.packages.does_not_work, &self.master.state_dir)?;
        let update = self.operator.update_is(self.host.name(), "1.2.0", "restored")?;
        let detail = update["detail"].as_str().unwrap_or_default();
        ensure!(
            detail.contains("cannot speak with the master"),
            "1.2.0 was not good because {detail:?}"
        );
        let took = self.host.was_without_its_agent()?;
        println!("1.2.0: the previous version was back after {took:.1} s");
        ensure!(took < BACK.as_secs_f64(), "it took {took:.1} s");
        // Of rpm as well, with what only the other one had.
        self.runs("1.1.0")?;
        let left = self.host.run(&format!("ls {ONLY_NEW}"))?;
        ensure!(!left.status.success(), "a file of 1.2.0 is there: {left:?}");
        self.operator.settled(self.host.name())?;
        self.at("1.2.0 is gone again, and rpm knows");
        Ok(())
    }

    fn a_release_that_cannot_be_installed_changes_nothing(&self) -> Result<()> {
        self.operator
            .roll_out(&self.packages.does_not_install, &self.master.state_dir)?;
        let update = self.operator.update_is(self.host.name(), "1.3.0", "restored")?;
        let detail = update["detail"].as_str().unwrap_or_default();
        ensure!(
            detail.contains(&format!("{NOWHERE} is needed by")),
            "1.3.0 was not installed because {detail:?}"
        );
        self.runs("1.1.0")?;
        self.at("1.3.0 could not be installed");
        Ok(())
    }

    fn the_host_leaves(&self, base: &str) -> Result<()> {
        let name = self.host.name();
        let hosts = self.operator.hosts()?;
        let uuid = &hosts.get(name).context("the host is not in the fleet")?.uuid;
        // As an upgrade leaves it that the power was cut in: two versions, of which neither can be removed by name alone.
        let first = self.host.show(&self.packages.first)?;
        let both = self.host.ok(&format!(
            "rpm --dbpath /root/other -i --justdb --nodeps {first} && rpmdb --dbpath /root/other --exportdb | rpmdb --importdb
             rpm -q decnet-agent | wc -l"
        ))?;
        ensure!(both == "2\n", "rpm knows of {both} versions");
        let there = self.host.ok(LEFTOVERS)?;
        for ours in [
            "decnet-agent.service",
            "decnet-updater.path",
            "decnet-agent-1.1.0-1.x86_64",
        ] {
            ensure!(there.contains(ours), "it would not notice {ours}: {there}");
        }
        let keys = self.master.state_dir.display().to_string();
        self.operator
            .json(&["host", "decommission", name, "--yes", "--state-dir", &keys])?;
        let removed = [
            "package decnet-agent",
            "unit decnet-agent.service",
            "unit decnet-updater.path",
            "path /usr/bin/decnet-agent",
            "path /etc/decnet/decnet.ini",
            "path /var/lib/decnet/updater",
        ];
        self.host.has_left(&self.operator, uuid, &removed)?;
        let said = self.host.run("rpm -q decnet-agent; rpm -qa")?.stdout;
        let wanted = format!("package decnet-agent is not installed\n{base}");
        ensure!(said == wanted, "rpm says {said:?}, not {wanted:?}");
        self.at("it has left");
        Ok(())
    }
}
