//! Updates of an agent on a whole host, while its decky answers: a release that works is kept, one that does not is gone again
//! within a minute, and neither a master that is away, nor an updater that is killed, nor a power cut leaves anything between.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use decnet_tests::command::{program, run};
use decnet_tests::fleet::Operator;
use decnet_tests::lab::{Host, Lab};
use decnet_tests::packages::agent_deb;
use decnet_tests::processes::{Master, Process, tail};
use decnet_tests::seed::Seed;
use decnet_tests::wait::{Seen, until};
use serde_json::Value;

/// As long as anything here may take on a guest that is busy.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long a host may be without the version that works.
const BACK: Duration = Duration::from_secs(60);
/// The latest moment of the power cut after the update has begun, in milliseconds.
const LATEST_MS: u32 = 8000;
const UPDATER: &str = "/var/lib/decnet/updater";
/// Calls an address's redis again and again, and writes down how each call went.
const CALLS: &str = r#"while :; do
    if timeout 10 bash -c "exec 3<>/dev/tcp/$1/6379; printf 'PING\r\n' >&3; read -r line <&3; [[ \$line == [+-]* ]]" 2>/dev/null; then
        echo answered
    else
        echo failed
    fi
    sleep 0.2
done"#;

struct Scene {
    host: Host,
    packages: PathBuf,
    operator: Operator,
    master: Master,
    seed: Seed,
    start: Instant,
    lab: Lab,
}

/// Versions, and what is wrong with their units: what is there, and what is in its place.
const VERSIONS: [(&str, &[(&str, &str)]); 5] = [
    ("1.0.0", &[]),
    ("1.1.0", &[]),
    // It begins, and its sandbox keeps it from calling anybody.
    ("1.2.0", &[("AF_UNIX AF_INET AF_INET6", "AF_UNIX")]),
    ("1.3.0", &[]),
    // It ends at once, again and again.
    (
        "1.4.0",
        &[
            ("/usr/bin/decnet-agent run", "/bin/false"),
            ("RestartSec=5s", "RestartSec=1s"),
        ],
    ),
];

/// Makes packages of the agent; gives their folder.
fn packages(folder: &Path) -> Result<PathBuf> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let packages = folder.join("packages");
    for (version, changes) in VERSIONS {
        let units = folder.join(format!("units-{version}"));
        let mut copy = program("cp", &["-r"]);
        run(copy.arg(project.join("systemd")).arg(&units), PATIENCE)?.ok()?;
        let unit = units.join("decnet-agent.service");
        let mut text = std::fs::read_to_string(&unit)?;
        for (there, instead) in changes {
            ensure!(text.contains(there), "{there:?} is not in the unit");
            text = text.replace(there, instead);
        }
        std::fs::write(&unit, text)?;
        agent_deb(version, Some(&units), &packages)?;
    }
    Ok(packages)
}

#[test]
fn a_release_is_kept_where_it_works_and_gone_again_where_it_does_not() -> Result<()> {
    let (start, seed) = (Instant::now(), Seed::announced("lab_update"));
    let lab = Lab::new("update")?;
    let folder = lab.folder();
    let (host, packages) = std::thread::scope(|scope| {
        let packing = scope.spawn(|| packages(folder));
        // A guest ends with the thread that has booted it.
        let host = lab.host("w1").memory(1200).boot();
        let packed = packing.join().map_err(|_| anyhow!("the packages were not made"));
        anyhow::Ok((host?, packed??))
    })?;
    let mut master = Master::init_at(lab.folder(), &lab.gateway(), lab.namespace())?.without_worker();
    master.start()?;
    let operator = Operator::on(&master.socket);
    let mut scene = Scene {
        host,
        packages,
        operator,
        master,
        seed,
        start,
        lab,
    };
    scene.at("booted");
    let told = scene.story();
    told.with_context(|| {
        let said = scene.host.run(
            "journalctl -u decnet-updater -u decnet-agent -n 60 -o short-monotonic --no-pager; decnet-agent status; ls -l /var/lib/decnet/*",
        );
        let said = said.map_or_else(|error| format!("{error:#}"), |said| said.said());
        format!("{said}\nthe master: {}", tail(&scene.master.log))
    })
}

impl Scene {
    fn story(&mut self) -> Result<()> {
        self.install()?;
        let (decky, containers) = self.deploy()?;
        let calls = self.lab.folder().join("calls");
        let mut command = self.lab.inside(&["bash", "-c", CALLS, "calls", &decky]);
        let caller = Process::start(&mut command, &calls)?;

        self.a_release_that_works_is_kept()?;
        self.a_release_that_does_not_work_is_gone_again()?;
        self.neither_an_absent_master_nor_a_killed_updater_changes_the_end()?;
        self.going_back_needs_a_signature()?;

        caller.kill()?;
        let said = std::fs::read_to_string(&calls)?;
        let answered = said.lines().filter(|line| *line == "answered").count();
        ensure!(
            answered > 0 && answered == said.lines().count(),
            "{answered} of {} calls were answered",
            said.lines().count()
        );
        println!("{answered} calls, all of them answered");
        let now = self.host.ok("docker ps -q --no-trunc | sort")?;
        ensure!(
            now == containers,
            "the containers were {containers} and are {now}"
        );

        self.a_power_cut_leaves_the_one_that_works()
    }

    fn at(&self, what: &str) {
        println!("{:6.1} s: {what}", self.start.elapsed().as_secs_f32());
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

    fn package(&self, version: &str) -> PathBuf {
        self.packages.join(format!("decnet-agent_{version}-1_amd64.deb"))
    }

    fn install(&self) -> Result<()> {
        let (_, token) = self.operator.enroll(self.host.name(), None, &[])?;
        self.host.put(&self.package("1.0.0"), "/root/decnet-agent.deb")?;
        self.host.ok(&format!(
            "dpkg -i /root/decnet-agent.deb >/dev/null 2>&1 || dpkg -i --force-depends /root/decnet-agent.deb
             printf '[agent]\\nupdater = true\\n' >/etc/decnet/decnet.ini
             decnet-agent enroll '{token}' && systemctl start decnet-agent"
        ))?;
        self.operator.active(self.host.name())?;
        let units = "/usr/lib/systemd/system/decnet-updater";
        let verified = self.host.run(&format!(
            "systemd-analyze verify --man=no {units}.path {units}.service 2>&1; systemctl is-active decnet-updater.path"
        ))?;
        ensure!(
            verified.stdout == "active\n",
            "the updater's units: {}",
            verified.said()
        );
        print!(
            "{}",
            self.host
                .ok("systemd-analyze security --no-pager decnet-updater.service | tail -n 1")?
        );
        self.at("installed and enrolled");
        Ok(())
    }

    /// Gives the decky's address and the containers' ids.
    fn deploy(&self) -> Result<(String, String)> {
        let file = self.lab.folder().join("fleet.ini");
        std::fs::write(
            &file,
            format!("{}\n[web]\nservices = redis\n", self.lab.general()),
        )?;
        let rows = self.operator.deploy(&file, false)?;
        self.operator.succeeded(&rows)?;
        self.at("the decky runs");
        let decky = self.operator.decky("web")?;
        Ok((decky.ip, self.host.ok("docker ps -q --no-trunc | sort")?))
    }

    /// Hands a package in as a release, and has the host install it.
    fn roll_out(&self, version: &str) -> Result<()> {
        self.operator
            .roll_out(&self.package(version), &self.master.state_dir)
    }

    /// Waits until the host says what became of a version.
    fn becomes(&self, version: &str, state: &str) -> Result<Value> {
        self.operator.update_is(self.host.name(), version, state)
    }

    fn runs(&self, version: &str) -> Result<()> {
        let said = self.host.ok(
            "dpkg-query -W -f '${db:Status-Abbrev} ${Version}\\n' decnet-agent; systemctl is-active decnet-agent; dpkg -V decnet-agent | grep -v /etc/ || true",
        )?;
        let wanted = format!("ii  {version}-1\nactive\n");
        ensure!(said == wanted, "{said:?}, not {wanted:?}");
        let left = self.host.ok(&format!(
            "ls {UPDATER} /var/lib/decnet/agent/update/*.json 2>/dev/null || true"
        ))?;
        ensure!(
            left.split_whitespace()
                .all(|name| ["lock", "state.json"].contains(&name) || name.ends_with(':')),
            "{left}"
        );
        Ok(())
    }

    fn a_release_that_works_is_kept(&self) -> Result<()> {
        self.roll_out("1.1.0")?;
        self.becomes("1.1.0", "kept")?;
        self.runs("1.1.0")?;
        self.at("1.1.0 is kept");
        Ok(())
    }

    fn a_release_that_does_not_work_is_gone_again(&self) -> Result<()> {
        let version = "1.2.0";
        self.roll_out(version)?;
        let update = self.becomes(version, "restored")?;
        let detail = update["detail"].as_str().unwrap_or_default();
        ensure!(
            detail.contains("cannot speak with the master"),
            "{version} was not good because {detail:?}"
        );
        self.runs("1.1.0")?;
        let took = self.host.was_without_its_agent()?;
        println!("{version}: the previous version was back after {took:.1} s");
        ensure!(took < BACK.as_secs_f64(), "it took {took:.1} s");
        until("the master pauses the rollout", PATIENCE, || {
            let view = self.operator.json(&["host", "releases"])?;
            Ok(Seen::when(view["rollout"]["state"] == "paused", view))
        })?;
        self.at(&format!("{version} is gone again: {detail}"));
        Ok(())
    }

    fn neither_an_absent_master_nor_a_killed_updater_changes_the_end(&mut self) -> Result<()> {
        self.roll_out("1.3.0")?;
        self.until("an update has begun", &format!("ls {UPDATER}"), |text| {
            text.contains("journal.json")
        })?;
        self.master.stop()?;
        self.host.ok("systemctl kill --signal=SIGKILL decnet-updater")?;
        self.until(
            "1.3.0 is kept without the master",
            &format!("cat {UPDATER}/state.json; ls {UPDATER}"),
            |text| text.contains("\"kept\"") && text.contains("1.3.0") && !text.contains("journal.json"),
        )?;
        self.runs("1.3.0")?;
        self.master.start()?;
        self.becomes("1.3.0", "kept")?;
        self.at("1.3.0 is kept, though the master was away and the updater was killed");
        Ok(())
    }

    fn going_back_needs_a_signature(&self) -> Result<()> {
        let keys = self.master.state_dir.display().to_string();
        let file = self.package("1.0.0").display().to_string();
        let refused = self
            .operator
            .command(&["host", "releases", "add", &file, "--state-dir", &keys])?;
        ensure!(
            !refused.status.success() && refused.stderr.contains("not signed as a downgrade"),
            "{}",
            refused.said()
        );
        self.operator
            .command(&["host", "rollback", "--all", "--state-dir", &keys])?
            .ok()?;
        self.becomes("1.1.0", "kept")?;
        self.runs("1.1.0")?;
        self.at("went back to 1.1.0 by an order of the operators");
        Ok(())
    }

    /// The host goes off while it has a version that ends at once.
    fn a_power_cut_leaves_the_one_that_works(&self) -> Result<()> {
        self.roll_out("1.4.0")?;
        self.until("an update has begun", &format!("ls {UPDATER}"), |text| {
            text.contains("journal.json")
        })?;
        let moment = Duration::from_millis(u64::from(self.seed.below(LATEST_MS)));
        std::thread::sleep(moment);
        self.host.power_cut()?;
        self.host.boot_again()?;
        self.at(&format!(
            "cut {} ms after the update was seen to have begun, and booted",
            moment.as_millis()
        ));
        let update = self.becomes("1.4.0", "restored")?;
        println!("because {}", update["detail"]);
        self.until("the updater is through", &format!("ls {UPDATER}"), |text| {
            !text.contains("journal.json")
        })?;
        self.runs("1.1.0")?;
        self.operator.settled(self.host.name())?;
        self.at("1.1.0 runs after the power cut");
        Ok(())
    }
}
