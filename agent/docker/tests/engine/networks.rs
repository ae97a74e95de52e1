//! Every kind of network that this kernel has, as machines on the LAN see it; and what is said of those that it lacks.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::Command;

use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::RemoveContainerOptions;
use decnet_docker::EngineError;
use decnet_plan::desired::{Desired, Leases};
use decnet_wire::bundle::{Network, NetworkDriver, NetworkMode};
use decnet_wire::observed::{ContainerState, Feature};
use ipnet::Ipv6Net;
use serde_json::{Value, json};

use crate::egress::{DECKY, PEER, Peer, connects, namespace_of, pings, web, within};
use crate::lab::{Lab, address, ip, lines, mac};

/// The decky at the `n`th address, which may call the LAN.
fn open(lab: &Lab, network: &Network, n: u8) -> Value {
    let more = json!({"x-decnet": {"egress": [format!("icmp/{}", network.subnet)]}});
    lab.decky(network, n, &[("http", more)])
}

/// Only the mode tells whether two deckies of a host reach each other; a visitor reaches both in every mode.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn macvlan_passes_frames_on_as_its_mode_says() {
    let all = [
        passes_on(NetworkMode::Bridge, 2, true),
        passes_on(NetworkMode::Private, 2, false),
        // The LAN's other end is no switch that sends back what came from there.
        passes_on(NetworkMode::Vepa, 2, false),
        passes_on(NetworkMode::Passthru, 1, false),
    ];
    let mut tasks = tokio::task::JoinSet::new();
    for one in all {
        tasks.spawn(one);
    }
    tasks.join_all().await;
}

async fn passes_on(mode: NetworkMode, deckies: usize, meet: bool) {
    let mut lab = Lab::new().await;
    let mut peer = Peer::new(&mut lab);
    peer.network.mode = Some(mode);
    let all = [
        ("a", open(&lab, &peer.network, DECKY)),
        ("b", open(&lab, &peer.network, DECKY + 1)),
    ];
    lab.converge(&lab.desire(&[&peer.network], &all[..deckies])).await;
    for n in (DECKY..).take(deckies) {
        let to = address(&peer.network, n);
        let reached = within(peer.namespace(), move || pings(to));
        assert!(reached, "{}: no visitor reaches {to}", mode.as_str());
    }
    let from = namespace_of(&lab, &lab.name("a", "base")).await;
    let (out, to) = (address(&peer.network, PEER), address(&peer.network, DECKY + 1));
    let reaches = |to| within(from.clone(), move || pings(to));
    assert!(reaches(out), "{}: it is mute", mode.as_str());
    if deckies > 1 {
        assert_eq!(reaches(to), meet, "{}", mode.as_str());
    }
    lab.converge(&lab.desire(&[], &[])).await;
    assert!(lab.observe().await.networks.is_empty());
}

/// What the preflight says about two containers on one interface in passthru is what the kernel would do.
#[tokio::test]
async fn a_second_container_in_passthru_is_refused_before_the_first_is_touched() {
    let mut lab = Lab::new().await;
    let mut lan = lab.macvlan();
    lan.mode = Some(NetworkMode::Passthru);
    let a = ("a", lab.decky(&lan, 5, &[]));
    lab.converge(&lab.desire(&[&lan], std::slice::from_ref(&a))).await;
    let before = lab.container("a", "base").await;
    let plan = lab
        .plan(&lab.desire(&[&lan], &[a, ("b", lab.decky(&lan, 6, &[]))]))
        .await;
    assert!(plan.steps.is_empty(), "{}", lines(&plan));
    assert!(lines(&plan).contains("passthru"), "{}", lines(&plan));
    assert_eq!(lab.container("a", "base").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_is_the_hosts_own_and_goes_with_its_deckies() {
    let lab = Lab::new().await;
    let lan = lab.bridge();
    let both = [("a", open(&lab, &lan, DECKY)), ("b", open(&lab, &lan, DECKY + 1))];
    lab.converge(&lab.desire(&[&lan], &both)).await;
    let to = address(&lan, DECKY + 1);
    assert!(pings(to), "the host does not reach its decky");
    let from = namespace_of(&lab, &lab.name("a", "base")).await;
    assert!(within(from, move || pings(to)), "deckies do not reach each other");
    lab.converge(&lab.desire(&[], &[])).await;
    assert!(lab.observe().await.networks.is_empty());
}

/// On this host, in this kernel: the network is made where VLANs are, and refused by name where they are not.
#[tokio::test]
async fn the_engine_makes_and_removes_the_vlan_of_a_parent_that_is_not_there() {
    let mut lab = Lab::new().await;
    let mut lan = lab.macvlan();
    let trunk = lan.parent.clone().unwrap();
    let short = format!("nv{:x}", std::process::id());
    ip(&["link", "set", trunk.as_str(), "down"]);
    ip(&["link", "set", trunk.as_str(), "name", &short]);
    ip(&["link", "set", &short, "up"]);
    lab.renamed(trunk.as_str(), &short);
    let vlan = format!("{short}.30");
    lan.parent = Some(vlan.parse().unwrap());
    let desired = lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[]))]);
    let is_there = || {
        let all = decnet_docker::host::interfaces().unwrap();
        all.into_iter().find(|interface| interface.name.as_str() == vlan)
    };
    if lab.observe().await.lacks.contains(&Feature::Vlan) {
        let plan = lab.plan(&desired).await;
        assert!(plan.steps.is_empty(), "{}", lines(&plan));
        let reason = &plan.blocked[0].reason;
        assert!(reason.contains(&vlan) && reason.contains("8021q"), "{reason}");
        return;
    }
    lab.converge(&desired).await;
    let made = is_there().expect("the engine has made no VLAN");
    assert_eq!(made.kind.as_deref(), Some("vlan"));
    assert_eq!(made.parent.map(|parent| parent.as_str().to_owned()), Some(short));
    lab.converge(&lab.desire(&[], &[])).await;
    assert!(is_there().is_none(), "the VLAN stays");
}

/// Gives the LAN IPv6, under a prefix that is as much its own as its subnet; the gateway's address and the decky's.
fn dual(peer: &mut Peer) -> [Ipv6Addr; 2] {
    let [a, b, c, d] = peer.network.subnet.network().octets().map(u16::from);
    let at = |last| Ipv6Addr::new(0xfdde, a << 8 | b, c << 8 | d, 0, 0, 0, 0, last);
    let gateway = at(1);
    peer.network.subnet6 = Some(Ipv6Net::new(at(0), 64).unwrap());
    peer.network.gateway6 = Some(gateway);
    peer.network.gateway = Some(address(&peer.network, PEER));
    peer.ip(&[
        "-6",
        "addr",
        "add",
        &format!("{gateway}/64"),
        "dev",
        "lan0",
        "nodad",
    ]);
    [gateway, at(5)]
}

fn with_ipv6(lab: &Lab, peer: &Peer, six: Ipv6Addr) -> Value {
    let mut document = web(lab, &peer.network, &json!({}));
    document["services"]["base"]["networks"]["lan"]["ipv6_address"] = json!(six.to_string());
    document
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decky_of_both_families_answers_in_both_and_calls_in_none() {
    let mut lab = Lab::new().await;
    let mut peer = Peer::new(&mut lab);
    let [gateway, six] = dual(&mut peer);
    let desired = lab.desire(&[&peer.network], &[("web", with_ipv6(&lab, &peer, six))]);
    lab.converge(&desired).await;
    let seen = lab.container("web", "base").await.attachments[0].clone();
    assert_eq!(
        (seen.address, seen.address6),
        (Some(address(&peer.network, DECKY)), Some(six))
    );
    let decky = namespace_of(&lab, &lab.name("web", "base")).await;
    let routes = within(decky.clone(), || {
        let said = Command::new("ip")
            .args(["-6", "route", "show", "default"])
            .output();
        String::from_utf8(said.unwrap().stdout).unwrap()
    });
    assert!(routes.contains(&format!("via {gateway}")), "{routes}");
    let _listener = within(decky.clone(), || {
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)).unwrap()
    });
    let to = [IpAddr::V6(six), IpAddr::V4(address(&peer.network, DECKY))];
    within(peer.namespace(), move || {
        for to in to {
            assert!(connects(SocketAddr::from((to, 80))), "{to} does not answer");
        }
    });
    let _other = within(peer.namespace(), || {
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, 7001)).unwrap()
    });
    within(decky, move || {
        assert!(!connects((gateway, 7001).into()), "a call over IPv6 got out");
    });
}

/// The neighbour's address is told by the answer to a solicitation, with its MAC address.
#[tokio::test]
async fn an_ipv6_address_that_somebody_on_the_lan_has_is_not_taken() {
    let mut lab = Lab::new().await;
    let mut peer = Peer::new(&mut lab);
    let [_, six] = dual(&mut peer);
    let taken = format!("{six}/64");
    peer.ip(&["-6", "addr", "add", &taken, "dev", "lan0", "nodad"]);
    let desired = lab.desire(&[&peer.network], &[("web", with_ipv6(&lab, &peer, six))]);
    let plan = lab.plan(&desired).await;
    let failures = lab.run(&plan).await;
    let [EngineError::AddressTaken { address, mac, .. }] = failures.as_slice() else {
        panic!("{failures:?}");
    };
    assert_eq!((*address, mac.to_string()), (IpAddr::V6(six), peer.mac()));
    assert_eq!(lab.container("web", "base").await.state, ContainerState::Created);
    peer.ip(&["-6", "addr", "del", &taken, "dev", "lan0"]);
    lab.converge(&desired).await;
}

/// Whatever the engine has given stays the container's own, in both families and with its MAC, when it is made anew and
/// when its network is.
#[tokio::test]
async fn addresses_and_mac_outlive_the_container_and_the_network() {
    let mut lab = Lab::new().await;
    let mut peer = Peer::new(&mut lab);
    dual(&mut peer);
    let free = |n: u8| {
        let mut document = lab.decky(&peer.network, n, &[]);
        document["services"]["base"]["networks"] = json!({"lan": {}});
        document
    };
    let documents = [("a", free(5)), ("b", free(6)), ("c", free(7))];
    let desired = lab.desire(&[&peer.network], &documents);
    lab.converge(&desired).await;
    let leases = desired.leases(&lab.observe().await, &Leases::default());
    assert_eq!(leases.iter().count(), 3);
    let endpoint = async |stack: &str| {
        let seen = lab.container(stack, "base").await.attachments[0].clone();
        (seen.address, seen.address6, seen.mac)
    };
    let before = [endpoint("a").await, endpoint("b").await, endpoint("c").await];
    assert!(
        before
            .iter()
            .all(|(four, six, mac)| four.is_some() && six.is_some() && mac.is_some())
    );

    // Left to itself, the engine gives out the addresses in the order in which it is asked.
    let desired = desired.with_leases(&leases);
    let remove = async |stack: &str| {
        let options = RemoveContainerOptions {
            force: true,
            ..RemoveContainerOptions::default()
        };
        let name = lab.name(stack, "base");
        lab.docker.remove_container(&name, Some(options)).await.unwrap();
    };
    for stack in ["c", "a", "b"] {
        remove(stack).await;
    }
    lab.converge(&desired).await;
    let after = [endpoint("a").await, endpoint("b").await, endpoint("c").await];
    assert_eq!(before, after);

    // Of another mode, so that it is made anew with everything on it.
    let mut other = peer.network.clone();
    other.mode = Some(NetworkMode::Private);
    let desired: Desired = lab.desire(&[&other], &documents).with_leases(&leases);
    lab.converge(&desired).await;
    let after = [endpoint("a").await, endpoint("b").await, endpoint("c").await];
    assert_eq!(before, after);
}

/// From a bridge to macvlan and back: what a change of a host's driver comes to, with what this kernel has.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_driver_rebuilds_the_network_with_the_same_addresses() {
    let mut lab = Lab::new().await;
    let peer = Peer::new(&mut lab);
    let mut bridge = peer.network.clone();
    (bridge.driver, bridge.parent) = (NetworkDriver::Bridge, None);
    for network in [&bridge, &peer.network, &bridge] {
        let document = web(&lab, network, &json!({}));
        lab.converge(&lab.desire(&[network], &[("web", document)])).await;
        let observed = lab.observe().await;
        let seen = &lab.container("web", "base").await.attachments[0];
        assert_eq!(seen.address, Some(address(network, DECKY)));
        assert_eq!(observed.networks.len(), 1);
        let inspected = lab
            .docker
            .inspect_network(network.name.as_str(), None)
            .await
            .unwrap();
        assert_eq!(inspected.driver.as_deref(), Some(network.driver.as_str()));
    }
    lab.converge(&lab.desire(&[&peer.network], &[("web", web(&lab, &peer.network, &json!({})))]))
        .await;
    let to = address(&peer.network, DECKY);
    assert!(
        within(peer.namespace(), move || pings(to)),
        "no visitor reaches it"
    );
    let seen = lab.container("web", "base").await.attachments[0].mac;
    assert_eq!(seen.map(|seen| seen.to_string()), Some(mac(DECKY)));
}

/// Reasons that only a real host gives, each with nothing planned.
#[tokio::test]
async fn what_will_not_work_on_this_host_is_named_and_nothing_is_planned() {
    let mut lab = Lab::new().await;
    let lan = lab.macvlan();
    let parent = lan.parent.clone().unwrap();
    let desired = lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[]))]);
    let refused = async |desired: &Desired, says: &[&str]| {
        let plan = lab.plan(desired).await;
        assert!(plan.steps.is_empty(), "{}", lines(&plan));
        let reason = &plan.blocked[0].reason;
        println!("{reason}");
        assert!(
            says.iter().all(|text| reason.contains(text)),
            "{says:?} in {reason:?}"
        );
    };

    ip(&["link", "set", parent.as_str(), "down"]);
    refused(&desired, &[parent.as_str(), "is down"]).await;
    ip(&["link", "set", parent.as_str(), "up"]);

    ip(&["addr", "add", "192.0.2.7/24", "dev", parent.as_str()]);
    let subnet = lan.subnet.to_string();
    refused(&desired, &["192.0.2.7/24", &subnet]).await;
    ip(&["addr", "del", "192.0.2.7/24", "dev", parent.as_str()]);

    let own = format!("{}/26", address(&lan, 5));
    ip(&["addr", "add", &own, "dev", parent.as_str()]);
    let plan = lab.plan(&desired).await;
    assert!(
        plan.blocked[0].reason.contains("this host's own"),
        "{}",
        lines(&plan)
    );
    assert!(
        plan.steps.iter().all(|planned| planned.stack.is_none()),
        "{}",
        lines(&plan)
    );
    ip(&["addr", "del", &own, "dev", parent.as_str()]);

    // The engine makes a network of the other driver on it also where the kernel has none.
    let theirs = format!("{}-theirs", lab.tag);
    let request = NetworkCreateRequest {
        name: theirs.clone(),
        driver: Some("ipvlan".to_owned()),
        options: Some([("parent".to_owned(), parent.as_str().to_owned())].into()),
        ..NetworkCreateRequest::default()
    };
    lab.docker.create_network(request).await.unwrap();
    refused(&desired, &["ipvlan network", &theirs, parent.as_str()]).await;
    lab.docker.remove_network(&theirs).await.unwrap();

    let mut other = lan.clone();
    other.driver = NetworkDriver::Ipvlan;
    let ipvlan = lab.desire(&[&other], &[("web", lab.decky(&other, 5, &[]))]);
    if lab.observe().await.lacks.contains(&Feature::Ipvlan) {
        refused(&ipvlan, &["ipvlan does not exist", "give this host macvlan"]).await;
    } else {
        let link = format!("nm{:x}", std::process::id());
        ip(&["link", "add", &link, "link", parent.as_str(), "type", "macvlan"]);
        refused(&ipvlan, &[&link, "kind macvlan"]).await;
        ip(&["link", "del", &link]);
    }
    lab.converge(&desired).await;
}
