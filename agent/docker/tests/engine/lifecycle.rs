//! What goes well.

use std::time::{Duration, Instant};

use bollard::query_parameters::{KillContainerOptions, RemoveContainerOptions};
use decnet_plan::planner::{StackState, describe, stack_state};
use decnet_plan::step::Step;
use decnet_wire::ids::HostId;
use decnet_wire::observed::ContainerState;
use serde_json::json;
use uuid::Uuid;

use crate::lab::{Lab, address, lines, mac};

#[tokio::test]
async fn a_mutate_on_macvlan_keeps_the_base_its_address_and_its_mac() {
    let mut lab = Lab::new().await;
    let lan = lab.macvlan();
    let ssh = lab.decky(&lan, 5, &[("ssh", json!({"expose": [22]}))]);
    lab.converge(&lab.desire(&[&lan], &[("web", ssh)])).await;
    let before = lab.container("web", "base").await;
    assert_eq!(before.attachments[0].address, Some(address(&lan, 5)));
    assert_eq!(before.attachments[0].mac.map(|mac| mac.to_string()), Some(mac(5)));
    let service = lab.container("web", "ssh").await;
    assert_eq!(service.joined.as_ref(), Some(&before.id));
    assert_eq!(service.expose, ["22/tcp"]);

    let http = lab.decky(&lan, 5, &[("http", json!({"expose": [80]}))]);
    lab.converge(&lab.desire(&[&lan], &[("web", http)])).await;
    assert_eq!(lab.container("web", "base").await, before);
    assert_eq!(lab.observe().await.containers.len(), 2);

    lab.converge(&lab.desire(&[], &[])).await;
    let after = lab.observe().await;
    assert!(
        after.containers.is_empty() && after.networks.is_empty(),
        "{after:?}"
    );
}

#[tokio::test]
async fn the_specification_reaches_the_engine_as_it_is_written() {
    let lab = Lab::new().await;
    let (lan, back) = (lab.bridge(), lab.bridge());
    let mut document = lab.decky(&lan, 5, &[]);
    document["networks"]["back"] = json!({"external": true, "name": back.name.as_str()});
    let base = &mut document["services"]["base"];
    base["networks"]["back"] = json!({"ipv4_address": address(&back, 9).to_string(), "aliases": ["db"]});
    for (key, value) in [
        ("environment", json!({"A": "1", "B": "x y", "PATH": null})),
        ("user", json!("1000:1000")),
        ("working_dir", json!("/")),
        ("read_only", json!(true)),
        ("init", json!(false)),
        ("tmpfs", json!(["/run:size=1m"])),
        ("mem_limit", json!("32m")),
        ("pids_limit", json!(16)),
        ("cpus", json!(0.5)),
        ("sysctls", json!({"net.ipv4.ip_default_ttl": 128})),
        (
            "logging",
            json!({"driver": "json-file", "options": {"max-size": "1m"}}),
        ),
        ("stop_signal", json!("SIGTERM")),
        ("stop_grace_period", json!("3s")),
        ("command", json!("idle now")),
        ("labels", json!({"note": "a=b"})),
        ("expose", json!(["25", "53/udp"])),
    ] {
        base[key] = value;
    }
    lab.converge(&lab.desire(&[&lan, &back], &[("m", document)]))
        .await;
    let seen = lab
        .docker
        .inspect_container(&lab.name("m", "base"), None)
        .await
        .unwrap();
    let (config, host) = (seen.config.unwrap(), seen.host_config.unwrap());
    let mut env = config.env.unwrap();
    env.sort();
    assert_eq!(env, ["A=1", "B=x y", "PATH"]);
    assert_eq!(config.user.as_deref(), Some("1000:1000"));
    assert_eq!(config.hostname.as_deref(), Some("decoy"));
    assert_eq!(config.cmd.unwrap(), ["idle", "now"]);
    assert_eq!(config.stop_signal.as_deref(), Some("SIGTERM"));
    assert_eq!(config.stop_timeout, Some(3));
    assert_eq!(config.labels.unwrap()["note"], "a=b");
    assert_eq!(host.readonly_rootfs, Some(true));
    assert_eq!(host.memory, Some(32 << 20));
    assert_eq!(host.pids_limit, Some(16));
    assert_eq!(host.nano_cpus, Some(500_000_000));
    assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
    assert_eq!(host.security_opt.unwrap(), ["no-new-privileges:true"]);
    assert_eq!(host.sysctls.unwrap()["net.ipv4.ip_default_ttl"], "128");
    assert_eq!(host.tmpfs.unwrap()["/run"], "size=1m");
    assert_eq!(host.log_config.unwrap().config.unwrap()["max-size"], "1m");
    let addresses: Vec<_> = lab
        .container("m", "base")
        .await
        .attachments
        .into_iter()
        .map(|attached| attached.address)
        .collect();
    assert_eq!(addresses.len(), 2);
    assert!(addresses.contains(&Some(address(&back, 9))), "{addresses:?}");
}

#[tokio::test]
async fn what_is_killed_removed_or_paused_comes_back() {
    let lab = Lab::new().await;
    let lan = lab.bridge();
    let desired = lab.desire(
        &[&lan],
        &[(
            "web",
            lab.decky(&lan, 5, &[("ssh", json!({})), ("http", json!({}))]),
        )],
    );
    lab.converge(&desired).await;
    let base = lab.container("web", "base").await.id;

    lab.docker
        .kill_container(&lab.name("web", "ssh"), None::<KillContainerOptions>)
        .await
        .unwrap();
    let options = RemoveContainerOptions {
        force: true,
        ..Default::default()
    };
    lab.docker
        .remove_container(&lab.name("web", "http"), Some(options))
        .await
        .unwrap();
    lab.docker.pause_container(&base).await.unwrap();
    let state = stack_state(&desired, &lab.observe().await, &lab.stack("web"));
    let StackState::Pending { reason } = state else {
        panic!("{state:?}")
    };
    assert!(
        reason.contains(&format!("{} has ended: exit code 137", lab.name("web", "ssh"))),
        "{reason}"
    );
    lab.converge(&desired).await;
    assert_eq!(lab.container("web", "base").await.id, base);

    lab.docker
        .kill_container(&base, None::<KillContainerOptions>)
        .await
        .unwrap();
    lab.converge(&desired).await;
    assert_eq!(lab.container("web", "base").await.id, base);
}

/// A base whose process died has a new network namespace when it runs again. Its services keep running in the old
/// one, and nothing but the namespace itself tells.
#[tokio::test]
async fn services_follow_a_base_whose_process_died() {
    let lab = Lab::new().await;
    let lan = lab.bridge();
    let desired = lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[("ssh", json!({}))]))]);
    lab.converge(&desired).await;
    let ssh = lab.container("web", "ssh").await.id;
    let base = lab.name("web", "base");
    let seen = lab
        .docker
        .inspect_container(&base, None)
        .await
        .unwrap()
        .state
        .unwrap();
    let pid = i32::try_from(seen.pid.unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    until("the engine has noticed", || async {
        matches!(
            lab.container("web", "base").await.state,
            ContainerState::Exited { .. }
        )
    })
    .await;
    assert_eq!(lab.container("web", "ssh").await.joined, None);
    let plan = lab.converge(&desired).await;
    for step in [
        format!("create container {}", lab.name("web", "ssh")),
        format!("start container {base}"),
    ] {
        assert!(lines(&plan).contains(&step), "{}", lines(&plan));
    }
    assert!(
        !lines(&plan).contains(&format!("create container {base}")),
        "{}",
        lines(&plan)
    );
    assert_ne!(lab.container("web", "ssh").await.id, ssh);
}

#[tokio::test]
async fn a_paused_or_running_orphan_goes() {
    let lab = Lab::new().await;
    let lan = lab.bridge();
    lab.converge(&lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[("ssh", json!({}))]))]))
        .await;
    lab.docker.pause_container(&lab.name("web", "ssh")).await.unwrap();
    lab.converge(&lab.desire(&[&lan], &[("web", json!({"services": {}}))]))
        .await;
    assert!(lab.observe().await.containers.is_empty());
}

#[tokio::test]
async fn every_step_can_be_repeated() {
    let mut lab = Lab::new().await;
    let (lan, back) = (lab.macvlan(), lab.bridge());
    let mut document = lab.decky(&lan, 5, &[("ssh", json!({}))]);
    document["networks"]["back"] = json!({"external": true, "name": back.name.as_str()});
    document["services"]["base"]["networks"]["back"] = json!({});
    let up = lab.desire(&[&lan, &back], &[("web", document)]);
    let down = lab.desire(&[], &[]);
    for desired in [&up, &down] {
        let plan = lab.plan(desired).await;
        for planned in &plan.steps {
            for attempt in 1..=2 {
                let result = lab.engine.apply(&planned.step, &lab).await;
                assert!(
                    result.is_ok(),
                    "{} ({attempt}): {result:?}",
                    describe(&planned.step)
                );
            }
        }
        let next = lab.plan(desired).await;
        assert!(next.is_settled(), "{}", lines(&next));
    }
}

#[tokio::test]
async fn a_network_that_changes_is_made_anew_with_its_deckies() {
    let lab = Lab::new().await;
    let lan = lab.bridge();
    lab.converge(&lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[("ssh", json!({}))]))]))
        .await;
    let mut moved = lab.bridge();
    moved.name = lan.name.clone();
    let document = lab.decky(&moved, 5, &[("ssh", json!({}))]);
    lab.converge(&lab.desire(&[&moved], &[("web", document)])).await;
    assert_eq!(
        lab.container("web", "base").await.attachments[0].address,
        Some(address(&moved, 5))
    );
}

/// `docker network prune` takes a network whose containers have all ended. They keep its id, and the engine starts none
/// of them on a new network of that name.
#[tokio::test]
async fn deckies_come_back_after_their_network_was_pruned() {
    let lab = Lab::new().await;
    let lan = lab.bridge();
    let desired = lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[("ssh", json!({}))]))]);
    lab.converge(&desired).await;
    for service in ["ssh", "base"] {
        lab.docker
            .kill_container(&lab.name("web", service), None::<KillContainerOptions>)
            .await
            .unwrap();
    }
    lab.docker.remove_network(lan.name.as_str()).await.unwrap();
    // As after a crash between the first step and the next: the network is back, the containers are the old ones.
    let plan = lab.plan(&desired).await;
    let network = plan
        .steps
        .iter()
        .find(|planned| matches!(planned.step, Step::CreateNetwork { .. }))
        .unwrap();
    lab.engine.apply(&network.step, &lab).await.unwrap();
    lab.converge(&desired).await;
}

#[tokio::test]
async fn two_hosts_on_one_engine_never_touch_each_other() {
    let (lab, mut other) = (Lab::new().await, Lab::new().await);
    let lan = lab.bridge();
    lab.converge(&lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[("ssh", json!({}))]))]))
        .await;
    let before = lab.observe().await;
    let theirs = other.bridge();
    other
        .converge(&other.desire(&[&theirs], &[("web", other.decky(&theirs, 5, &[]))]))
        .await;
    other.converge(&other.desire(&[], &[])).await;
    // A third host that has nothing here and wants nothing plans nothing.
    other.host = HostId::new(Uuid::new_v4());
    assert!(other.plan(&other.desire(&[], &[])).await.is_settled());
    let after = lab.observe().await;
    assert_eq!(
        (before.containers, before.networks),
        (after.containers, after.networks)
    );
}

#[tokio::test]
async fn an_image_that_is_loaded_is_observed_under_its_id_and_reference() {
    let lab = Lab::new().await;
    let lan = lab.bridge();
    let desired = lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[]))]);
    let plan = lab.converge(&desired).await;
    assert!(
        matches!(plan.steps[0].step, Step::LoadImage { .. }),
        "{}",
        lines(&plan)
    );
    let image = &lab.images[0];
    let seen = lab
        .observe()
        .await
        .images
        .into_iter()
        .find(|seen| seen.id == image.id)
        .unwrap();
    assert_eq!(seen.references, [lab.reference()]);
    assert_eq!(lab.container("web", "base").await.image, image.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_deckies_come_up_at_once_and_go_without_a_trace() {
    let mut lab = Lab::new().await;
    let lan = lab.macvlan();
    let services = [
        ("ssh", json!({"expose": [22]})),
        ("http", json!({"expose": [80]})),
        ("ftp", json!({})),
    ];
    let names: Vec<_> = (0..20).map(|n| format!("d{n}")).collect();
    let fleet: Vec<_> = names
        .iter()
        .zip(5..)
        .map(|(name, n)| (name.as_str(), lab.decky(&lan, n, &services)))
        .collect();
    lab.converge(&lab.desire(&[&lan], &fleet)).await;
    assert_eq!(lab.observe().await.containers.len(), 80);
    lab.converge(&lab.desire(&[], &[])).await;
    let left = lab.observe().await;
    assert!(left.containers.is_empty() && left.networks.is_empty(), "{left:?}");
}

pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begin = Instant::now();
    while !holds().await {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "not within 30 s: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
