//! `decnet-agent doctor` on a whole host, before it is enrolled and afterwards: what it finds, and what it says to do about it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::command::{SHORT, run, run_with};
use decnet_tests::fleet::Operator;
use decnet_tests::lab::{Host, Lab};
use decnet_tests::processes::{Master, bin};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Finding {
    check: String,
    level: String,
    says: String,
    advice: Option<String>,
}

/// What it says by check, and its exit code. One that is not well has to say what to do.
fn doctor(host: &Host, more: &str) -> Result<(BTreeMap<String, Finding>, Option<i32>)> {
    let said = host.run(&format!("decnet-agent doctor --json {more}"))?;
    let found: Vec<Finding> = serde_json::from_str(&said.stdout).with_context(|| said.said())?;
    for finding in &found {
        let advises = finding.advice.as_ref().is_some_and(|advice| !advice.is_empty());
        ensure!(advises != (finding.level == "ok"), "{finding:?}");
    }
    let code = said.status.code();
    let found = found.into_iter().map(|finding| (finding.check.clone(), finding));
    Ok((found.collect(), code))
}

/// These are not well, and all others are.
fn only(host: &Host, more: &str, expected: &[(&str, &str, &str)]) -> Result<BTreeMap<String, Finding>> {
    let (found, code) = doctor(host, more)?;
    let ill: Vec<&Finding> = found.values().filter(|finding| finding.level != "ok").collect();
    let named: Vec<&str> = ill.iter().map(|finding| finding.check.as_str()).collect();
    let mut wanted: Vec<&str> = expected.iter().map(|(check, _, _)| *check).collect();
    wanted.sort_unstable();
    ensure!(named == wanted, "{wanted:?} were to be ill: {found:#?}");
    for (check, level, says) in expected {
        let finding = found.get(*check).context("no such finding")?;
        ensure!(
            finding.level == *level && finding.says.contains(says),
            "{level}, {says:?}: {finding:?}"
        );
    }
    let fails = ill.iter().any(|finding| finding.level == "fail");
    ensure!(
        code == Some(if fails { 5 } else { 0 }),
        "exit code {code:?}: {ill:?}"
    );
    Ok(found)
}

#[test]
fn a_host_is_told_what_it_lacks_before_it_is_enrolled_and_afterwards() -> Result<()> {
    let lab = Lab::new("doctor")?;
    let [host] = lab.boot([lab.host("ward")])?;
    let mut master = Master::init_at(lab.folder(), &lab.gateway(), lab.namespace())?.without_worker();
    master.start()?;
    let operator = Operator::on(&master.socket);
    host.put(&bin("decnet-agent")?, "/usr/bin/decnet-agent")?;
    host.ok(&format!(
        "ip route replace default via {} && mkdir -p -m 700 /var/lib/decnet/agent",
        lab.gateway()
    ))?;
    let to = format!("--master {}:{}", lab.gateway(), master.enrol_port);

    // Nothing is missing but that it is enrolled, and that nothing sets the clock of such a guest.
    let stranger = [
        ("identity", "fail", "not enrolled"),
        ("clock", "warn", "no time server is followed"),
    ];
    let found = only(&host, &to, &stranger)?;
    println!("{found:#?}");
    for (check, says) in [
        ("engine", "API 1."),
        ("cgroup", "version 2"),
        ("kernel", "Linux 6."),
        ("interface", "vec0, which has the default route, is up"),
        ("promiscuity", "answers other MAC addresses"),
        ("master", "takes connections"),
        ("permissions", "every right"),
    ] {
        let finding = found.get(check).with_context(|| format!("nothing of {check}"))?;
        ensure!(finding.says.contains(says), "{says:?}: {finding:?}");
    }

    // A port that takes the host's own MAC only, an engine that is away, a master that is not there, no rights.
    let rules = format!(
        "add table arp port\nadd chain arp port input {{ type filter hook input priority 0; }}\n\
         add rule arp port input arp saddr ether != {} drop\n",
        host.mac()
    );
    run_with(&mut lab.inside(&["nft", "-f", "-"]), rules.as_bytes(), SHORT)?.ok()?;
    host.ok("systemctl stop docker.socket docker.service")?;
    let mut ill = stranger.to_vec();
    ill.push(("promiscuity", "fail", "no other MAC address behind it"));
    ill.push(("engine", "fail", "/var/run/docker.sock"));
    ill.push(("master", "fail", "cannot connect"));
    only(&host, &format!("--master {}:9", lab.gateway()), &ill)?;
    run(&mut lab.inside(&["nft", "delete", "table", "arp", "port"]), SHORT)?.ok()?;
    host.ok("systemctl start docker")?;
    let said = host.run("setpriv --bounding-set=-net_admin,-sys_admin decnet-agent doctor --json")?;
    ensure!(
        said.stdout.contains("lacks CAP_NET_ADMIN, CAP_SYS_ADMIN"),
        "{}",
        said.stdout
    );

    // Enrolled, it is well; a day ahead, it is not; without its master neither.
    let (_, token) = operator.enroll(host.name(), None, &[])?;
    host.ok(&format!("decnet-agent enroll '{token}'"))?;
    only(&host, "", &[])?;
    host.ok("date --set '+1 day' >/dev/null")?;
    only(&host, "", &[("clock", "fail", "away from the master's")])?;
    host.ok("date --set '-1 day' >/dev/null")?;
    master.stop()?;
    only(&host, "", &[("master", "fail", "cannot connect")])?;
    Ok(())
}
