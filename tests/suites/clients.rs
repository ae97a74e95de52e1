//! Every decoy answers its ordinary client, what the client tried is in the log, and the containers are as hard as
//! they are meant to be.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::clients::{self, SERVICES, Visitor};
use decnet_tests::engine::{self, Container};
use decnet_tests::scene::Scene;
use serde_json::{Value, json};

/// Deckies that show every service between them.
const GROUPS: &[(&str, &[&str])] = &[
    ("shell", &["ssh", "telnet", "ftp"]),
    ("web", &["http", "https", "smtp"]),
    ("mail", &["pop3", "imap", "snmp"]),
    ("data", &["mysql", "postgres", "redis"]),
    ("thing", &["mqtt", "vnc", "smtp_relay"]),
];

fn deploy(scene: &Scene, sections: &str) -> Result<()> {
    let file = scene.describe("fleet.ini", &format!("{}\n{sections}", scene.lan.general()))?;
    let rows = scene.operator.deploy(&file, false)?;
    scene.explained(scene.operator.succeeded(&rows)).map(drop)
}

#[test]
fn every_service_answers_its_client_and_logs_the_attempt() -> Result<()> {
    let mut scene = Scene::unihost("clients, visits")?;
    scene.local()?;
    let shown: Vec<&str> = GROUPS
        .iter()
        .flat_map(|(_, services)| services.iter().copied())
        .collect();
    ensure!(
        SERVICES.iter().all(|service| shown.contains(service)),
        "a service with a client is not visited"
    );
    let mut sections = String::new();
    for (group, services) in GROUPS {
        sections.push_str(&format!(
            "[{}-{group}]\nservices = {}\n",
            scene.prefix,
            services.join(", ")
        ));
    }
    deploy(&scene, &sections)?;

    let mut failures = Vec::new();
    for (group, services) in GROUPS {
        let name = format!("{}-{group}", scene.prefix);
        let decky = scene.operator.decky(&name)?;
        for service in *services {
            let visitor = Visitor::stranger(scene.seed.word());
            let outcome = clients::visit(&scene.lan, service, &decky.ip, &visitor).and_then(|visit| {
                println!("{service:10} {:14} {}", visit.client, visit.answer);
                let event = clients::captured(&format!("decnet-{name}-{service}-1"), &visit, &scene.lan)?;
                of_the_decky(&event, &name, service)
            });
            if let Err(error) = outcome {
                failures.push(format!("{service}: {error:#}"));
            }
        }
    }
    ensure!(
        failures.is_empty(),
        "{} of {} services fail:\n{}",
        failures.len(),
        SERVICES.len(),
        failures.join("\n")
    );
    scene.end()
}

/// The fields that whoever collects the logs relies on.
fn of_the_decky(event: &Value, decky: &str, service: &str) -> Result<()> {
    for (pointer, expected) in [
        ("/observer/name", json!(decky)),
        ("/event/dataset", json!(format!("decnet.{service}"))),
    ] {
        let found = event.pointer(pointer);
        ensure!(
            found == Some(&expected),
            "{pointer} is {found:?}, not {expected}: {event}"
        );
    }
    for pointer in [
        "/@timestamp",
        "/ecs/version",
        "/event/action",
        "/source/port",
        "/destination/port",
    ] {
        ensure!(event.pointer(pointer).is_some(), "{pointer} is missing: {event}");
    }
    Ok(())
}

#[test]
fn the_login_that_the_operator_set_gets_a_shell() -> Result<()> {
    let mut scene = Scene::unihost("clients, shells")?;
    scene.local()?;
    let name = format!("{}-shell", scene.prefix);
    let password = scene.seed.word();
    let sections = format!(
        "[{name}]\nservices = ssh, telnet\n[{name}.ssh]\npassword = {password}\n[{name}.telnet]\npassword = {password}\n"
    );
    deploy(&scene, &sections)?;
    let decky = scene.operator.decky(&name)?;
    for service in ["ssh", "telnet"] {
        let visitor = Visitor {
            mark: scene.seed.word(),
            login: Some(("root".to_owned(), password.clone())),
        };
        let visit = clients::visit(&scene.lan, service, &decky.ip, &visitor)?;
        println!("{service}: {}", visit.answer);
        clients::captured(&format!("decnet-{name}-{service}-1"), &visit, &scene.lan)?;
    }
    // The operator's secret is masked wherever the operator looks.
    let shown = scene.operator.json(&["decky", "show", &name])?.to_string();
    ensure!(!shown.contains(&password), "the password is shown: {shown}");
    scene.end()
}

#[test]
fn containers_are_hardened_and_look_like_their_os_family() -> Result<()> {
    // TTL, timestamps, window scaling, ECN, FIN timeout.
    let families: BTreeMap<&str, [&str; 5]> = [
        ("linux", ["64", "1", "1", "2", "60"]),
        ("windows", ["128", "1", "1", "0", "30"]),
        ("embedded", ["255", "0", "0", "0", "15"]),
    ]
    .into();
    let keys = [
        "net.ipv4.ip_default_ttl",
        "net.ipv4.tcp_timestamps",
        "net.ipv4.tcp_window_scaling",
        "net.ipv4.tcp_ecn",
        "net.ipv4.tcp_fin_timeout",
    ];
    let mut scene = Scene::unihost("clients, hardening")?;
    let host = scene.local()?;
    let sections: String = families
        .keys()
        .map(|family| {
            format!(
                "[{}-{family}]\nservices = telnet, redis\nnmap_os = {family}\n",
                scene.prefix
            )
        })
        .collect();
    deploy(&scene, &sections)?;
    let containers = engine::containers(&host)?;
    ensure!(containers.len() == 3 * families.len(), "{:?}", containers.keys());
    let mut faults = Vec::new();
    for container in containers.values() {
        faults.extend(soft_spots(container));
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    for (family, values) in &families {
        let base = format!("decnet-{}-{family}-base-1", scene.prefix);
        let base = containers.get(&base).with_context(|| format!("no {base}"))?;
        for (key, value) in keys.iter().zip(values) {
            let found = engine::sysctl(base, key)?;
            ensure!(found == *value, "{family}: {key} is {found}, not {value}");
        }
        // What a scanner sees: the TTL of an answer, one hop away.
        let decky = scene.operator.decky(&format!("{}-{family}", scene.prefix))?;
        let seen = ttl(&scene, &decky.ip)?;
        ensure!(
            seen == values[0],
            "{family}: answers come with a TTL of {seen}, not {}",
            values[0]
        );
    }
    scene.end()
}

/// What of the container's settings an intruder could use.
fn soft_spots(container: &Container) -> Vec<String> {
    let at = |pointer: &str| container.raw.pointer(pointer).cloned().unwrap_or(Value::Null);
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let positive = |pointer: &str| at(pointer).as_i64().is_some_and(|value| value > 0);
    let mut faults = Vec::new();
    let mut check = |holds: bool, what: &str, found: Value| {
        if !holds {
            faults.push(format!("{}: {what}; it is {found}", container.name));
        }
    };
    check(
        at("/HostConfig/CapDrop") == json!(["ALL"]),
        "every capability is dropped",
        at("/HostConfig/CapDrop"),
    );
    check(
        is_empty(&at("/HostConfig/CapAdd")),
        "no capability is added",
        at("/HostConfig/CapAdd"),
    );
    check(
        at("/HostConfig/Privileged") == json!(false),
        "not privileged",
        at("/HostConfig/Privileged"),
    );
    check(
        at("/HostConfig/ReadonlyRootfs") == json!(true),
        "the root file system is read-only",
        at("/HostConfig/ReadonlyRootfs"),
    );
    let options = at("/HostConfig/SecurityOpt");
    let no_new = options
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(|option| option.starts_with("no-new-privileges"));
    check(no_new, "no new privileges", options);
    check(
        at("/Config/User")
            .as_str()
            .is_some_and(|user| user.starts_with("65534")),
        "runs as nobody",
        at("/Config/User"),
    );
    check(
        positive("/HostConfig/Memory"),
        "memory is limited",
        at("/HostConfig/Memory"),
    );
    check(
        positive("/HostConfig/PidsLimit"),
        "processes are limited",
        at("/HostConfig/PidsLimit"),
    );
    check(
        is_empty(&at("/HostConfig/Binds")),
        "nothing of the host is mounted",
        at("/HostConfig/Binds"),
    );
    check(is_empty(&at("/Mounts")), "nothing is mounted", at("/Mounts"));
    check(
        at("/HostConfig/PortBindings")
            .as_object()
            .is_none_or(serde_json::Map::is_empty),
        "no port is published",
        at("/HostConfig/PortBindings"),
    );
    check(positive("/State/Pid"), "it runs", at("/State"));
    // What the kernel says, not what was asked for.
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid)).unwrap_or_default();
    for (key, value) in [
        ("CapEff:", "0000000000000000"),
        ("CapBnd:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("Uid:", "65534"),
    ] {
        let line = status
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_default();
        check(
            line.split_whitespace().nth(1) == Some(value),
            &format!("{key} {value} in the kernel"),
            json!(line),
        );
    }
    faults
}

/// The TTL of an echo's answer.
fn ttl(scene: &Scene, address: &str) -> Result<String> {
    let script = "import socket,struct,sys,select\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_ICMP)\n\
        def sum16(b):\n\
        \x20t=sum(struct.unpack('!%dH'%(len(b)//2),b))\n\
        \x20t=(t>>16)+(t&0xffff)\n\
        \x20return ~(t+(t>>16))&0xffff\n\
        head=struct.pack('!BBHHH',8,0,0,7,1)\n\
        packet=struct.pack('!BBHHH',8,0,sum16(head),7,1)\n\
        for _ in range(20):\n\
        \x20s.sendto(packet,(sys.argv[1],0))\n\
        \x20while select.select([s],[],[],0.5)[0]:\n\
        \x20\x20data,peer=s.recvfrom(1500)\n\
        \x20\x20if peer[0]==sys.argv[1] and data[20]==0:\n\
        \x20\x20\x20print(data[8]); sys.exit(0)\n\
        sys.exit('no answer to an echo')\n";
    let mut command = scene
        .lan
        .inside(&["/usr/bin/env", "python3", "-c", script, address]);
    let said = decnet_tests::command::run(&mut command, decnet_tests::command::SHORT)?.ok()?;
    Ok(said.trim().to_owned())
}
