//! Keys change, and no host needs a hand: those that are there follow at once, those that were off follow when they
//! are back, version by version.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::command::{Finished, run};
use decnet_tests::lan::Lan;
use decnet_tests::processes::{Agent, bin};
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

/// A master and two hosts. The agents end before the scene does.
struct Fleet {
    there: Agent,
    away: Agent,
    lans: (Lan, Lan),
    scene: Scene,
}

impl Fleet {
    fn new(suite: &str) -> Result<Self> {
        let mut scene = Scene::swarm(suite)?;
        let lans = (Lan::create(&scene.seed)?, Lan::create(&scene.seed)?);
        let (there, _) = scene.agent("there", &lans.0, None)?;
        let (away, _) = scene.agent("away", &lans.1, None)?;
        for host in ["there", "away"] {
            scene.explained(scene.operator.active(host))?;
        }
        Ok(Self {
            there,
            away,
            lans,
            scene,
        })
    }

    fn state_dir(&self) -> &Path {
        &self.scene.master.state_dir
    }

    /// `decnet key …`, which knows where the master's keys are.
    fn key(&self, arguments: &[&str]) -> Result<Value> {
        let state_dir = self.state_dir().to_str().context("not UTF-8")?;
        let mut all = vec!["key"];
        all.extend(arguments);
        if matches!(arguments.first(), Some(&("rotate" | "offline"))) {
            all.extend(["--state-dir", state_dir]);
        }
        self.scene.operator.json(&all)
    }

    fn operator_key(&self) -> PathBuf {
        self.state_dir().join("keys/operator.pem")
    }

    /// Waits until the host believes this version of the trust root.
    fn believes(&self, agent: &Agent, version: u64) -> Result<()> {
        until("the agent follows the trust root", SOON, || {
            let said = agent.command(&["status", "--json"])?.ok()?;
            let status: Value = serde_json::from_str(&said)?;
            let known = status["trust_root_version"].as_u64();
            Ok(if known == Some(version) {
                Seen::Done(())
            } else {
                Seen::not_yet(format!("it believes version {known:?}, not {version}"))
            })
        })
    }

    /// A deploy reaches both hosts, so that bundles of the present keys are accepted by both.
    fn deploys(&self, name: &str) -> Result<()> {
        let general = self.scene.lan.general();
        let prefix = &self.scene.prefix;
        let text = format!("{general}\n[{prefix}-{name}]\nservices = redis\namount = 2\n");
        let file = self.scene.describe(&format!("{name}.ini"), &text)?;
        let rows = self.scene.operator.deploy(&file, true)?;
        self.scene.explained(self.scene.operator.succeeded(&rows))?;
        Ok(())
    }

    fn end(self) -> Result<()> {
        let Self {
            there,
            away,
            lans,
            scene,
        } = self;
        let ended = scene.end();
        drop((there, away, lans));
        ended
    }
}

#[test]
fn keys_are_rotated_and_every_host_follows_also_one_that_was_off() -> Result<()> {
    let mut fleet = Fleet::new("rotation")?;
    fleet.deploys("a")?;

    // The online key. Both are there.
    let before = fleet.key(&["ls"])?;
    let after = fleet.key(&["rotate", "online"])?;
    ensure!(before["online_key"] != after["online_key"], "the same online key");
    fleet.believes(&fleet.there, 2)?;
    fleet.believes(&fleet.away, 2)?;
    fleet.deploys("b")?;

    // The operator's key, the epoch and the online key again, while one host is off.
    fleet.away.stop()?;
    let first_operator = std::fs::read(fleet.operator_key())?;
    fleet.key(&["rotate", "operator"])?;
    ensure!(
        std::fs::read(fleet.operator_key())? != first_operator,
        "the operator's key is the one of before"
    );
    fleet.key(&["rotate", "epoch"])?;
    let last = fleet.key(&["rotate", "online"])?;
    ensure!(last["version"] == 5 && last["epoch"] == 2, "{last}");
    fleet.believes(&fleet.there, 5)?;
    fleet.away.start()?;
    fleet.believes(&fleet.away, 5)?;
    fleet.deploys("c")?;

    // Who held the first operator's key has nothing to say any more.
    let stolen = fleet.scene.folder().join("stolen.pem");
    std::fs::write(&stolen, &first_operator)?;
    std::fs::set_permissions(&stolen, std::fs::Permissions::from_mode(0o600))?;
    let stolen = stolen.to_str().context("not UTF-8")?;
    let said = fleet.scene.operator.command(&[
        "key",
        "rotate",
        "online",
        "--key",
        stolen,
        "--state-dir",
        fleet.state_dir().to_str().context("not UTF-8")?,
    ])?;
    ensure!(said.status.code() == Some(4), "{}", said.said());
    ensure!(
        said.said().contains("0 of 1 operators have signed"),
        "{}",
        said.said()
    );

    // Nothing of it is lost by a restart of the master, nor by one of an agent.
    fleet.scene.master.stop()?;
    fleet.scene.master.start()?;
    fleet.there.stop()?;
    fleet.there.start()?;
    fleet.believes(&fleet.there, 5)?;
    fleet.deploys("d")?;
    fleet.end()
}

#[test]
fn the_operators_key_is_moved_away_and_signs_where_it_is() -> Result<()> {
    let fleet = Fleet::new("rotation, offline")?;
    let folder = fleet.scene.folder().to_owned();
    let path =
        |name: &str| -> Result<String> { Ok(folder.join(name).to_str().context("not UTF-8")?.to_owned()) };
    let (key, draft) = (path("operator.pem")?, path("root.json")?);
    let state_dir = fleet.state_dir().to_str().context("not UTF-8")?.to_owned();
    let operator = &fleet.scene.operator;
    operator
        .command(&["key", "offline", &key, "--state-dir", &state_dir])?
        .ok()?;
    ensure!(!fleet.operator_key().exists(), "the key is still on the master");
    ensure!(
        fleet.key(&["ls"])?["operator_key_here"] == false,
        "{:?}",
        fleet.key(&["ls"])
    );

    // What needs it says so, and changes nothing.
    let said = operator.command(&["key", "rotate", "online", "--state-dir", &state_dir])?;
    ensure!(said.status.code() == Some(2), "{}", said.said());
    ensure!(said.said().contains("--key FILE"), "{}", said.said());
    ensure!(fleet.key(&["ls"])?["version"] == 1, "something was changed");

    // A draft goes to where the key is, and comes back.
    operator
        .command(&[
            "key",
            "rotate",
            "online",
            "--out",
            &draft,
            "--state-dir",
            &state_dir,
        ])?
        .ok()?;
    let unsigned = operator.command(&["key", "import", &draft])?;
    ensure!(unsigned.status.code() == Some(4), "{}", unsigned.said());
    // Signed without a master: another machine has none.
    let sign = |key: &str| -> Result<Finished> {
        let mut command = Command::new(bin("decnet")?);
        command.args(["sign", &draft, "--key", key]);
        run(&mut command, SOON)
    };
    sign(&key)?.ok()?;
    let after = fleet.key(&["import", &draft])?;
    ensure!(after["version"] == 2, "{after}");
    fleet.believes(&fleet.there, 2)?;
    fleet.believes(&fleet.away, 2)?;
    fleet.deploys("a")?;

    // The same document is no news, and neither is one for another moment.
    let again = operator.command(&["key", "import", &draft])?;
    ensure!(again.status.code() == Some(4), "{}", again.said());
    ensure!(again.said().contains("version"), "{}", again.said());

    // Nor does the next operator's key come back to the master by itself.
    let rotate = |more: &[&str]| {
        let mut all = vec![
            "key",
            "rotate",
            "operator",
            "--key",
            &key,
            "--state-dir",
            &state_dir,
        ];
        all.extend(more);
        operator.command(&all)
    };
    let said = rotate(&[])?;
    ensure!(said.status.code() == Some(2), "{}", said.said());
    ensure!(said.said().contains("--new FILE"), "{}", said.said());
    let next = path("operator-2.pem")?;
    rotate(&["--new", &next])?.ok()?;
    ensure!(!fleet.operator_key().exists(), "the new key is on the master");
    fleet.believes(&fleet.there, 3)?;
    operator
        .command(&[
            "key",
            "rotate",
            "online",
            "--key",
            &next,
            "--state-dir",
            &state_dir,
        ])?
        .ok()?;
    fleet.believes(&fleet.there, 4)?;
    fleet.end()
}

impl Fleet {
    fn status(&self, agent: &Agent) -> Result<Value> {
        Ok(serde_json::from_str(
            &agent.command(&["status", "--json"])?.ok()?,
        )?)
    }

    /// Waits until the newest certificates of so many hosts are of each CA, the newest CA first.
    fn certified(&self, expected: &[u64]) -> Result<()> {
        until("the hosts have their certificates", SOON, || {
            let trust = self.key(&["ls"])?;
            let authorities = trust["authorities"].as_array().context("no CAs")?;
            let hosts: Vec<_> = authorities.iter().filter_map(|ca| ca["hosts"].as_u64()).collect();
            Ok(if hosts == expected {
                Seen::Done(())
            } else {
                Seen::not_yet(format!("{hosts:?}, not {expected:?}"))
            })
        })
    }
}

#[test]
fn the_ca_is_changed_and_no_host_is_lost_not_even_one_that_was_off_all_the_time() -> Result<()> {
    let mut fleet = Fleet::new("rotation, CA")?;
    fleet.deploys("a")?;
    let keys = |fleet: &Fleet| -> Result<[Value; 2]> {
        Ok([
            fleet.status(&fleet.there)?["host_key"].clone(),
            fleet.status(&fleet.away)?["host_key"].clone(),
        ])
    };
    let before = keys(&fleet)?;

    // Both are there: each fetches a certificate of the new CA, for a new key, by itself.
    fleet.key(&["rotate", "ca"])?;
    fleet.certified(&[2, 0])?;
    fleet.deploys("b")?;
    let after = keys(&fleet)?;
    for (before, after) in before.iter().zip(&after) {
        ensure!(before != after, "a host has the key of before: {after}");
    }
    fleet.key(&["rotate", "ca", "--retire"])?;
    fleet.certified(&[2])?;
    fleet.deploys("c")?;

    // One is off while the next CA comes and the one that it knows goes: it knows nobody, and nobody knows it.
    fleet.away.stop()?;
    fleet.key(&["rotate", "ca"])?;
    fleet.certified(&[1, 1])?;
    fleet.key(&["rotate", "ca", "--retire"])?;
    fleet.key(&["rotate", "online"])?;
    fleet.scene.master.stop()?;
    fleet.scene.master.start()?;
    fleet.away.start()?;
    fleet.believes(&fleet.away, 6)?;
    fleet.certified(&[2])?;
    fleet.deploys("d")?;
    fleet.end()
}

#[test]
fn a_host_has_a_new_key_whenever_it_is_asked_for_and_loses_nothing_by_a_kill() -> Result<()> {
    let mut fleet = Fleet::new("rotation, host key")?;
    fleet.deploys("a")?;
    let first = fleet.status(&fleet.there)?["host_key"].clone();
    let mut before = first.clone();
    for round in 0..6 {
        fleet.there.command(&["renew"])?.ok()?;
        if round > 0 {
            // Somewhere between the request and the first use of the new key.
            std::thread::sleep(Duration::from_millis(20 * (round - 1)));
            fleet.there.kill()?;
            fleet.there.start()?;
            fleet.there.command(&["renew"])?.ok()?;
        }
        before = until("another key", SOON, || {
            let now = fleet.status(&fleet.there)?["host_key"].clone();
            Ok(if now == before {
                Seen::not_yet("it is the one of before")
            } else {
                Seen::Done(now)
            })
        })?;
        fleet.deploys(&format!("r{round}"))?;
    }
    // What the first key was certified for is worth nothing.
    let crl = fleet.scene.operator.command(&["key", "crl"])?.ok()?;
    ensure!(crl.contains("BEGIN X509 CRL"), "{crl}");
    fleet.end()
}

impl Fleet {
    /// Goes to another day: everybody ends and is there again then, the master first.
    fn go_to(&mut self, day: u32) -> Result<()> {
        self.there.stop()?;
        self.away.stop()?;
        self.scene.master.stop()?;
        self.scene.master.days_ahead = day;
        self.there.days_ahead = day;
        self.away.days_ahead = day;
        self.scene.master.start()?;
        self.there.start()?;
        self.away.start()
    }

    fn ends_at(&self, agent: &Agent) -> Result<String> {
        let status = self.status(agent)?;
        Ok(status["certificate_ends_at"]
            .as_str()
            .context("no end")?
            .to_owned())
    }
}

#[test]
fn certificates_are_renewed_at_half_their_time_and_after_their_end() -> Result<()> {
    let mut fleet = Fleet::new("rotation, time")?;
    fleet.deploys("a")?;
    let key = |fleet: &Fleet| -> Result<Value> { Ok(fleet.status(&fleet.there)?["host_key"].clone()) };
    let (first, until_first) = (key(&fleet)?, fleet.ends_at(&fleet.there)?);

    // Half of thirty days, and a tenth: both hosts have another key, which nobody asked them for.
    fleet.go_to(19)?;
    until("another key and certificate", SOON, || {
        Ok(if key(&fleet)? == first {
            Seen::not_yet("the key is the one of before")
        } else {
            Seen::Done(())
        })
    })?;
    let (second, until_second) = (key(&fleet)?, fleet.ends_at(&fleet.there)?);
    ensure!(until_second > until_first, "{until_first} {until_second}");
    fleet.deploys("b")?;

    // Off until long after the end: the known key is enough to be let in again.
    fleet.go_to(100)?;
    until("another certificate", SOON, || {
        let now = fleet.ends_at(&fleet.there)?;
        Ok(if now > until_second {
            Seen::Done(())
        } else {
            Seen::not_yet(now)
        })
    })?;
    ensure!(key(&fleet)? == second, "a new key, with nobody to ask for it");
    fleet.deploys("c")?;

    // A host that was revoked is not let in by that way either.
    let names = fleet.scene.operator.deckies()?;
    let names: Vec<&str> = names.keys().map(String::as_str).collect();
    fleet.scene.operator.remove(&names)?;
    fleet.scene.expects_alarms()?;
    fleet.scene.operator.command(&["host", "revoke", "away"])?.ok()?;
    let before = fleet.ends_at(&fleet.away)?;
    fleet.go_to(200)?;
    until("the revoked host is refused", SOON, || {
        let log = std::fs::read_to_string(&fleet.away.log)?;
        Ok(Seen::when(
            log.contains("no way back to the master yet") && log.contains("is not enrolled with this key"),
            "nothing about it in its log",
        ))
    })?;
    ensure!(
        fleet.ends_at(&fleet.away)? == before,
        "a revoked host has a new certificate"
    );
    fleet.end()
}
