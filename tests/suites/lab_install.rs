//! From nothing to a decky, as an operator does it: the printed line is pasted on a host that has never heard of DECNET, and a
//! file is carried to one that does not reach its master yet. Real packages, whole hosts.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use decnet_tests::command::{Finished, SHORT, run};
use decnet_tests::fleet::Operator;
use decnet_tests::lab::{Host, Lab};
use decnet_tests::packages::agent_deb;
use decnet_tests::processes::{Master, tail};
use decnet_tests::wait::{Seen, until};

/// As long as anything here may take on a guest that is busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// The first host's decky.
const DECKY: u8 = 11;
/// What is to be left of a try that was refused.
const NOTHING: &str = "dpkg-query -W decnet-agent 2>/dev/null; ls -d /tmp/tmp.* /usr/bin/decnet-agent /var/lib/decnet 2>/dev/null; true";

struct Machines {
    near: Host,
    far: Host,
    operator: Operator,
    master: Master,
    packages: PathBuf,
    start: Instant,
    lab: Lab,
}

#[test]
fn a_host_is_installed_and_enrolled_by_the_printed_line_and_by_a_file() -> Result<()> {
    let start = Instant::now();
    let lab = Lab::new("install")?;
    let packages = lab.folder().join("packages");
    agent_deb("1.0.0", None, &packages)?;
    // Nobody here takes it, and nothing of it is looked at but the name.
    std::fs::write(packages.join("decnet-agent-1.0.0-1.x86_64.rpm"), "rpm")?;
    let [near, far] = lab.boot([lab.host("near"), lab.host("far")])?;
    let mut master = Master::init_at(lab.folder(), &lab.gateway(), lab.namespace())?
        .without_worker()
        .with_packages(&packages);
    master.start()?;
    let operator = Operator::on(&master.socket);
    let mut machines = Machines {
        near,
        far,
        operator,
        master,
        packages,
        start,
        lab,
    };
    machines.at("two hosts and a master");
    let told = machines.story();
    told.with_context(|| {
        format!(
            "the master's log ends with:\n{}\n{}\n{}",
            tail(&machines.master.log),
            machines.near.agent_says(),
            machines.far.agent_says()
        )
    })
}

impl Machines {
    fn story(&mut self) -> Result<()> {
        for host in [&self.near, &self.far] {
            // The guests are root's alone, and thrown away: nothing has to be safe on their disks.
            host.ok(
                "printf '#!/bin/sh\\nexec \"$@\"\\n' >/usr/local/bin/sudo && chmod 755 /usr/local/bin/sudo && \
                 echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/lab",
            )?;
        }
        let line = self.printed(&["near"])?;
        self.what_was_changed_on_the_way_is_refused(&line)?;
        self.the_line_brings_a_host_and_twice_does_no_harm(&line)?;
        let decky = self.decky_answers()?;
        self.without_a_master_a_file_waits_and_a_reboot_brings_deckies_back(&decky)?;
        self.a_host_comes_as_another_one_once_it_was_approved()
    }

    fn at(&self, what: &str) {
        println!("{:6.1} s: {what}", self.start.elapsed().as_secs_f32());
    }

    /// The line that `host enroll` prints.
    fn printed(&self, arguments: &[&str]) -> Result<String> {
        let said = self
            .operator
            .command(&[&["host", "enroll"], arguments].concat())?
            .ok()?;
        let line = said.trim().to_owned();
        ensure!(
            line.starts_with("curl ") && line.ends_with("| sudo sh") && !line.contains('\n'),
            "it prints {line:?}"
        );
        Ok(line)
    }

    /// Runs a line as Debian's sh does.
    fn paste(&self, host: &Host, line: &str) -> Result<Finished> {
        let file = self.lab.folder().join("line");
        std::fs::write(&file, format!("{line}\n"))?;
        host.put(&file, "/root/line")?;
        host.run_for("dash /root/line", PATIENCE)
    }

    fn refused(&self, line: &str, says: &str) -> Result<()> {
        let said = self.paste(&self.near, line)?;
        ensure!(
            said.code() == Some(1) && said.said().contains(says),
            "it should have said {says:?}: {}",
            said.said()
        );
        let left = self.near.ok(NOTHING)?;
        ensure!(left.is_empty(), "refused, and there is {left}");
        Ok(())
    }

    fn what_was_changed_on_the_way_is_refused(&self, line: &str) -> Result<()> {
        let (_, rest) = line.split_once("sha256/").context("no digest in the line")?;
        let hex = rest.get(..64).context("a short digest")?;
        let other = if hex.starts_with('0') { "1" } else { "0" };
        // Another script than the line means.
        let elsewhere = line.replace(&format!("'{hex}"), &format!("'{other}{}", &hex[1..]));
        ensure!(elsewhere != line, "the line does not check a digest");
        self.refused(&elsewhere, "the script is not what the master meant")?;
        // A package of which the master has another byte than it says.
        let package = self.packages.join("decnet-agent_1.0.0-1_amd64.deb");
        let whole = std::fs::read(&package)?;
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        std::fs::write(&package, changed)?;
        let refused = self.refused(line, "the package is not the one that was meant");
        std::fs::write(&package, whole)?;
        refused?;
        self.at("refused: another script, another package");
        Ok(())
    }

    fn the_line_brings_a_host_and_twice_does_no_harm(&self, line: &str) -> Result<()> {
        let said = self.paste(&self.near, line)?.ok()?;
        self.at("the line is through");
        ensure!(
            said.contains("enrolled as near") && said.contains("the master has heard from it"),
            "{said}"
        );
        // Not after a while: that is what it waited for.
        self.state_is("near", "active")?;
        self.runs(&self.near)?;
        self.settings(&self.near, "ipvlan = false\nupdater = false")?;
        let pid = "systemctl show -P MainPID decnet-agent";
        let before = self.near.ok(pid)?;
        let said = self.paste(&self.near, line)?.ok()?;
        ensure!(said.contains("enrolled already as near"), "{said}");
        ensure!(self.near.ok(pid)? == before, "the second run restarted the agent");
        let left = self.near.ok("ls -d /tmp/tmp.* 2>/dev/null; true")?;
        ensure!(left.is_empty(), "it leaves {left}");
        self.at("the line, again");
        Ok(())
    }

    fn decky_answers(&self) -> Result<String> {
        let address = self.lab.address(DECKY);
        let description = self.lab.folder().join("fleet.ini");
        std::fs::write(
            &description,
            format!("{}\n[web]\nservices = http\nip = {address}\n", self.lab.general()),
        )?;
        let rows = self.operator.deploy(&description, false)?;
        self.operator.succeeded(&rows)?;
        self.answers(&address)?;
        self.at("the decky answers");
        Ok(address)
    }

    fn without_a_master_a_file_waits_and_a_reboot_brings_deckies_back(&mut self, decky: &str) -> Result<()> {
        let file = self.lab.folder().join("far.sh");
        let path = file.to_str().context("UTF-8")?;
        self.operator
            .command(&["host", "enroll", "far", "--ipvlan", "--updater", "--out", path])?
            .ok()?;
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file)?);
        ensure!(mode & 0o777 == 0o600, "others may read it: {mode:o}");
        self.master.stop()?;
        self.near.begin_reboot()?;
        self.far.put(&file, "/root/far.sh")?;
        let said = self.far.run_for("cd /root && sudo sh far.sh", PATIENCE)?.ok()?;
        ensure!(said.contains("the token is kept"), "{said}");
        self.runs(&self.far)?;
        let status = self.far.run("decnet-agent status")?;
        ensure!(
            status.code() == Some(3) && status.said().contains("not enrolled yet"),
            "{}",
            status.said()
        );
        self.settings(&self.far, "ipvlan = true\nupdater = true")?;
        let private = self.far.ok("stat -c %a /var/lib/decnet/agent/enrolling.token")?;
        ensure!(private.trim() == "600", "the token has mode {private}");
        self.at("the file was run, without a master");
        self.near.wait_for_boot()?;
        self.at("the first host is there again");
        self.answers(decky)?;
        self.at("its decky answers, without a master");
        self.master.start()?;
        self.operator.active("far")?;
        self.at("with the master the second host is there");
        self.far
            .ok("decnet-agent status --wait 60 && ! ls /var/lib/decnet/agent/enrolling.*")?;
        let hosts = self.operator.json(&["host", "show", "far"])?;
        ensure!(hosts["use_ipvlan"] == true, "{hosts}");
        let said = self.far.run("sh /root/far.sh")?.ok()?;
        ensure!(said.contains("enrolled already as far"), "{said}");
        Ok(())
    }

    fn a_host_comes_as_another_one_once_it_was_approved(&self) -> Result<()> {
        self.far
            .ok("systemctl stop decnet-agent && rm -r /var/lib/decnet/agent")?;
        let line = self.printed(&["again", "--ipvlan", "--approve"])?;
        // As somebody's own shell does it.
        let said = std::thread::scope(|scope| {
            let pasted = scope.spawn(|| self.far.run_for(&line, PATIENCE));
            let approved = self.approve("again");
            let said = pasted.join().map_err(|_| anyhow::anyhow!("the paste panicked"))?;
            approved.and(said)
        })?
        .ok()?;
        ensure!(said.contains("enrolled as again"), "{said}");
        self.state_is("again", "active")?;
        self.settings(&self.far, "ipvlan = true\nupdater = false")?;
        self.at("approved");
        Ok(())
    }

    /// Approves of whoever waits to be the host.
    fn approve(&self, name: &str) -> Result<()> {
        let key = until("the host waits for approval", PATIENCE, || {
            let host = self.operator.json(&["host", "show", name])?;
            Ok(match host["waiting_key"].as_str() {
                Some(key) => Seen::Done(key.to_owned()),
                None => Seen::not_yet(host.to_string()),
            })
        })?;
        self.operator
            .command(&["host", "approve", name, &key])?
            .ok()
            .map(drop)
    }

    fn state_is(&self, name: &str, wanted: &str) -> Result<()> {
        let host = self.operator.json(&["host", "show", name])?;
        ensure!(host["status"] == wanted, "{name} is not {wanted}: {host}");
        Ok(())
    }

    fn runs(&self, host: &Host) -> Result<()> {
        let said = host.ok("systemctl is-active decnet-agent; systemctl is-enabled decnet-agent")?;
        ensure!(said.trim() == "active\nenabled", "the service is {said}");
        Ok(())
    }

    /// What the agent's settings say, but for comments.
    fn settings(&self, host: &Host, wanted: &str) -> Result<()> {
        let said = host.ok("grep -v -e '^;' -e '^$' /etc/decnet/decnet.ini")?;
        ensure!(
            said.trim() == format!("[agent]\n{wanted}"),
            "decnet.ini says {said}"
        );
        Ok(())
    }

    fn answers(&self, address: &str) -> Result<()> {
        let url = format!("http://{address}/");
        until("the decky answers", PATIENCE, || {
            let said = run(&mut self.lab.inside(&["curl", "-sSI", "-m", "5", &url]), SHORT)?;
            Ok(if said.stdout.starts_with("HTTP/1.1") {
                Seen::Done(())
            } else {
                Seen::not_yet(said.said())
            })
        })
    }
}
