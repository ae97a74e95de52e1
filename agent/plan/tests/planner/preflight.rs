//! What will not work on a host is said before anything is touched.

use decnet_plan::desired::Desired;
use decnet_plan::planner::{StackState, stack_state};
use decnet_plan::sim::Engine;
use decnet_wire::bundle::{Network, NetworkDriver, NetworkMode};
use decnet_wire::observed::{Feature, ForeignNetwork, Interface};

use crate::fleet::{converge_at_once, decky, desire, engine, lan, lines, plan_now, stack};
use serde_json::{Value, json};

const WEB: [(&str, u16, u8); 1] = [("ssh", 22, 1)];

fn ipvlan() -> Network {
    Network {
        driver: NetworkDriver::Ipvlan,
        ..lan()
    }
}

/// A decky without a MAC of its own, as ipvlan has it.
fn plain() -> Value {
    let mut document = decky("decnet-lan", 5, &WEB);
    if let Some(endpoint) = document["services"]["base"]["networks"]["lan"].as_object_mut() {
        endpoint.remove("mac_address");
    }
    document
}

/// Nothing is planned, and both the plan and the stack's state give the reason.
fn refused(desired: &Desired, engine: &Engine, says: &[&str]) {
    let plan = plan_now(desired, engine);
    assert!(plan.steps.is_empty(), "{}", lines(&plan));
    let StackState::Pending { reason } = stack_state(desired, &engine.observe(desired.host()), &stack("web"))
    else {
        panic!("the stack is settled");
    };
    assert_eq!(plan.blocked.len(), 1, "{:?}", plan.blocked);
    assert_eq!(plan.blocked[0].reason, reason);
    for text in says {
        assert!(reason.contains(text), "{text:?} is not in {reason:?}");
    }
}

fn eth0(engine: &mut Engine) -> &mut Interface {
    &mut engine.interfaces[0]
}

#[test]
fn a_driver_that_the_kernel_lacks_is_named_with_the_one_that_it_has() {
    let mut engine = engine();
    engine.lacks = vec![Feature::Ipvlan];
    let desired = desire(&[ipvlan()], &[("web", plain())]);
    refused(
        &desired,
        &engine,
        &[
            "ipvlan does not exist in this host's kernel",
            "give this host macvlan",
        ],
    );
    // What the host does not ask for may be missing.
    converge_at_once(&mut engine, &desire(&[lan()], &[("web", plain())]));
}

#[test]
fn a_mode_that_the_engine_is_too_old_for_is_refused_before_anything_is_made() {
    let mode = |mode| Network {
        mode: Some(mode),
        ..ipvlan()
    };
    let mut engine = engine();
    engine.lacks = vec![Feature::IpvlanL3s];
    let desired = desire(&[mode(NetworkMode::L3s)], &[("web", plain())]);
    refused(&desired, &engine, &["l3s needs Docker 23.0"]);
    converge_at_once(
        &mut engine,
        &desire(&[mode(NetworkMode::L3)], &[("web", plain())]),
    );
    // What runs in another mode is left as it is.
    refused(&desired, &engine, &["l3s needs Docker 23.0"]);
    engine.lacks.clear();
    converge_at_once(&mut engine, &desired);
}

#[test]
fn macvlan_on_a_wireless_parent_is_refused_and_ipvlan_is_not() {
    let mut engine = engine();
    eth0(&mut engine).wireless = true;
    refused(
        &desire(&[lan()], &[("web", plain())]),
        &engine,
        &["eth0 is wireless", "ipvlan"],
    );
    converge_at_once(&mut engine, &desire(&[ipvlan()], &[("web", plain())]));
}

#[test]
fn macvlan_and_ipvlan_do_not_meet_on_one_parent() {
    let desired = desire(&[ipvlan()], &[("web", plain())]);
    let foreign = |driver| ForeignNetwork {
        name: "theirs".to_owned(),
        driver,
        parent: "eth0".parse().unwrap(),
    };
    let mut networks = engine();
    networks.foreign_networks = vec![foreign(NetworkDriver::Macvlan)];
    refused(&desired, &networks, &["eth0", "macvlan network theirs", "ipvlan"]);
    networks.foreign_networks = vec![foreign(NetworkDriver::Ipvlan)];
    assert!(!plan_now(&desired, &networks).steps.is_empty());

    let mut links = engine();
    links.interfaces.push(Interface {
        kind: Some("macvlan".to_owned()),
        parent: Some("eth0".parse().unwrap()),
        ..Interface::new("shim0".parse().unwrap())
    });
    refused(&desired, &links, &["shim0", "kind macvlan"]);

    let other = Network {
        name: "other".parse().unwrap(),
        subnet: "10.8.0.0/24".parse().unwrap(),
        ..lan()
    };
    let both = desire(&[ipvlan(), other], &[("web", plain())]);
    let plan = plan_now(&both, &engine());
    assert!(plan.steps.is_empty(), "{}", lines(&plan));
}

#[test]
fn a_subnet_that_is_not_the_parents_is_refused_with_both() {
    let mut engine = engine();
    let desired = desire(&[lan()], &[("web", plain())]);
    eth0(&mut engine).addresses = vec!["192.0.2.7/24".parse().unwrap()];
    refused(&desired, &engine, &["10.9.0.0/24", "192.0.2.7/24"]);
    // One of several is enough, and link-local ones say nothing.
    eth0(&mut engine).addresses.push("10.9.0.3/24".parse().unwrap());
    assert!(plan_now(&desired, &engine).blocked.is_empty());
    eth0(&mut engine).addresses = vec!["169.254.9.9/16".parse().unwrap()];
    assert!(plan_now(&desired, &engine).blocked.is_empty());
    // In layer 3 the LAN has a route to another subnet, which is the point of it.
    eth0(&mut engine).addresses = vec!["192.0.2.7/24".parse().unwrap()];
    let routed = Network {
        mode: Some(NetworkMode::L3),
        ..ipvlan()
    };
    let plan = plan_now(&desire(&[routed], &[("web", plain())]), &engine);
    assert!(
        plan.blocked.is_empty() && !lines(&plan).contains("ask on"),
        "{}",
        lines(&plan)
    );
}

/// The mode used to be known for bundles only, so that a project's routed network was held against its parent's subnet.
#[test]
fn a_routed_network_of_a_project_needs_not_be_its_parents_subnet() {
    let mut engine = engine();
    eth0(&mut engine).addresses = vec!["192.0.2.7/24".parse().unwrap()];
    let reasons = |options: Value| {
        let document = json!({
            "services": {"a": {
                "image": "decoy:1",
                "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges:true"],
                "networks": {"lan": {"ipv4_address": "10.9.0.5"}},
            }},
            "networks": {"lan": {
                "driver": "ipvlan",
                "driver_opts": options,
                "ipam": {"config": [{"subnet": "10.9.0.0/24"}]},
            }},
        });
        let desired = Desired::project(crate::fleet::host(), &stack("web"), &document).unwrap();
        let plan = plan_now(&desired, &engine);
        (plan.blocked.len(), lines(&plan))
    };
    for mode in ["l3", "l3s"] {
        let (blocked, lines) = reasons(json!({"parent": "eth0", "ipvlan_mode": mode}));
        assert!(blocked == 0 && !lines.contains("ask on"), "{mode}: {lines}");
    }
    for options in [
        json!({"parent": "eth0", "ipvlan_mode": "l2"}),
        json!({"parent": "eth0"}),
    ] {
        let (blocked, lines) = reasons(options);
        assert!(blocked == 1 && lines.contains("192.0.2.7/24"), "{lines}");
    }
}

#[test]
fn a_network_that_is_there_is_repaired_whatever_else_came_to_its_parent() {
    let mut engine = engine();
    let desired = desire(&[lan()], &[("web", plain())]);
    converge_at_once(&mut engine, &desired);
    eth0(&mut engine).addresses = vec!["192.0.2.7/24".parse().unwrap()];
    engine.foreign_networks = vec![ForeignNetwork {
        name: "theirs".to_owned(),
        driver: NetworkDriver::Ipvlan,
        parent: "eth0".parse().unwrap(),
    }];
    engine.containers.clear();
    converge_at_once(&mut engine, &desired);
}

#[test]
fn an_address_of_the_host_itself_is_no_deckys() {
    let mut engine = engine();
    eth0(&mut engine).addresses = vec!["10.9.0.5/24".parse().unwrap()];
    let plan = plan_now(&desire(&[lan()], &[("web", plain())]), &engine);
    assert!(
        plan.steps.iter().all(|planned| planned.stack.is_none()),
        "{}",
        lines(&plan)
    );
    let reason = &plan.blocked[0].reason;
    assert!(
        reason.contains("10.9.0.5") && reason.contains("this host's own"),
        "{reason}"
    );
}

#[test]
fn a_vlan_that_the_engine_is_to_make_needs_its_trunk() {
    let vlan = |parent: &str| Network {
        parent: Some(parent.parse().unwrap()),
        ..lan()
    };
    let mut up = engine();
    refused(
        &desire(&[vlan("eth7.30")], &[("web", plain())]),
        &up,
        &["eth7.30", "no eth7 to make VLAN 30 on"],
    );
    refused(
        &desire(&[vlan("eth0.4095")], &[("web", plain())]),
        &up,
        &["no interface eth0.4095"],
    );
    let mut down = engine();
    eth0(&mut down).up = false;
    refused(
        &desire(&[vlan("eth0.30")], &[("web", plain())]),
        &down,
        &["eth0, which its parent interface eth0.30 sits on, is down"],
    );
    // The trunk's own subnet is another LAN's.
    eth0(&mut up).addresses = vec!["192.0.2.7/24".parse().unwrap()];
    converge_at_once(&mut up, &desire(&[vlan("eth0.30")], &[("web", plain())]));
}

#[test]
fn a_vlan_is_refused_on_a_kernel_that_makes_none_unless_somebody_else_has_made_it() {
    let parent = Network {
        parent: Some("eth0.30".parse().unwrap()),
        ..lan()
    };
    let desired = desire(&[parent], &[("web", plain())]);
    let mut engine = engine();
    engine.lacks = vec![Feature::Vlan];
    refused(&desired, &engine, &["VLAN 30 of eth0", "8021q"]);
    engine.interfaces.push(Interface::new("eth0.30".parse().unwrap()));
    converge_at_once(&mut engine, &desired);
}

/// The kernel lets one container have the interface, and tells the next one EINVAL.
#[test]
fn passthru_is_refused_for_more_than_one_container() {
    let passthru = || Network {
        mode: Some(NetworkMode::Passthru),
        ..lan()
    };
    let other = decky("decnet-lan", 6, &WEB);
    let plan = plan_now(
        &desire(&[passthru()], &[("web", plain()), ("db", other)]),
        &engine(),
    );
    assert!(plan.steps.is_empty(), "{}", lines(&plan));
    let reason = &plan.blocked[0].reason;
    assert!(
        ["passthru", "web-base-1", "db-base-1"]
            .iter()
            .all(|text| reason.contains(text)),
        "{reason}"
    );
    converge_at_once(&mut engine(), &desire(&[passthru()], &[("web", plain())]));
}
