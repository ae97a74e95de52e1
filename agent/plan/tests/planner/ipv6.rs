//! Deckies with addresses of both families.

use decnet_plan::desired::{Desired, Leases};
use decnet_plan::planner::describe;
use decnet_plan::sim::Engine;
use decnet_plan::step::{NetworkMode, Step};
use decnet_wire::bundle::Network;
use serde_json::{Value, json};

use crate::fleet::{
    blobs, converge_at_once, decky, desire, engine, host, lan, lines, plan_now, round, stack,
};

const WEB: [(&str, u16, u8); 1] = [("ssh", 22, 1)];
const SIX: &str = "2001:db8:9::5";

fn both() -> Network {
    Network {
        subnet6: Some("2001:db8:9::/64".parse().unwrap()),
        gateway6: Some("2001:db8:9::1".parse().unwrap()),
        ..lan()
    }
}

fn web(address: &str) -> Value {
    let mut document = decky("decnet-lan", 5, &WEB);
    document["services"]["base"]["networks"]["lan"]["ipv6_address"] = json!(address);
    document
}

fn errors(networks: &[Network], stacks: &[(&str, Value)]) -> Vec<String> {
    let stacks: Vec<_> = stacks.iter().map(|(name, value)| (stack(name), value)).collect();
    let stacks = stacks.iter().map(|(name, value)| (name, *value));
    let errors = Desired::new(host(), networks, &blobs(), stacks).expect_err("there is something wrong");
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn the_network_has_a_pool_and_the_base_an_address_of_each_family() {
    let desired = desire(&[both()], &[("web", web(SIX))]);
    let network = &desired.networks()["decnet-lan"];
    assert!(network.enable_ipv6);
    assert_eq!(network.subnets().count(), 2);
    let mut engine = engine();
    let plan = converge_at_once(&mut engine, &desired);
    for address in ["10.9.0.5", SIX] {
        let probe = format!("ask on eth0 whether somebody has {address}");
        assert!(lines(&plan).contains(&probe), "{}", lines(&plan));
    }
    // Nothing was said about IPv6: the network is the one that it always was.
    let four = desire(&[lan()], &[("web", decky("decnet-lan", 5, &WEB))]);
    assert!(!four.networks()["decnet-lan"].enable_ipv6);
}

#[test]
fn an_address_that_is_elsewhere_reserved_or_given_twice_is_refused() {
    let wrong = |address: &str| errors(&[both()], &[("web", web(address))]).join("; ");
    assert!(
        wrong("2001:db8:8::5").contains("outside"),
        "{}",
        wrong("2001:db8:8::5")
    );
    assert!(wrong("2001:db8:9::1").contains("reserved"));
    assert!(wrong("2001:db8:9::").contains("reserved"));
    let mut other = web(SIX);
    other["services"]["base"]["networks"]["lan"]["ipv4_address"] = json!("10.9.0.6");
    other["services"]["base"]["networks"]["lan"]["mac_address"] = json!("02:00:0a:09:00:06");
    let twice = errors(&[both()], &[("web", web(SIX)), ("db", other)]).join("; ");
    assert!(twice.contains(SIX) && twice.contains("as well"), "{twice}");
    let without = Network {
        subnet6: None,
        ..both()
    };
    assert!(errors(&[without], &[]).join("; ").contains("no subnet"));
    let outside = Network {
        gateway6: Some("2001:db8:8::1".parse().unwrap()),
        ..both()
    };
    assert!(errors(&[outside], &[]).join("; ").contains("outside"));
}

#[test]
fn what_the_host_or_somebody_on_the_lan_has_is_not_taken() {
    let desired = desire(&[both()], &[("web", web(SIX))]);
    let mut own = engine();
    own.interfaces[0].addresses6 = vec![format!("{SIX}/64").parse().unwrap()];
    let reason = &plan_now(&desired, &own).blocked[0].reason;
    assert!(
        reason.contains(SIX) && reason.contains("this host's own"),
        "{reason}"
    );

    let mut elsewhere = engine();
    elsewhere.interfaces[0].addresses6 = vec!["2001:db8:1::5/64".parse().unwrap()];
    let reason = &plan_now(&desired, &elsewhere).blocked[0].reason;
    assert!(
        reason.contains("2001:db8:9::/64") && reason.contains("2001:db8:1::5/64"),
        "{reason}"
    );
    // Of one family nothing follows for the other.
    elsewhere.interfaces[0].addresses6.clear();
    elsewhere.interfaces[0].addresses = vec!["10.9.0.3/24".parse().unwrap()];
    assert!(plan_now(&desired, &elsewhere).blocked.is_empty());

    let mut taken = engine();
    let stranger = "02:00:00:00:00:99".parse().unwrap();
    taken.strangers.insert(SIX.parse().unwrap(), stranger);
    let failures = round(&mut taken, &desired);
    assert!(failures[0].contains(SIX), "{failures:?}");
    let started = |engine: &Engine| engine.containers.values().any(|base| base.state.is_running());
    assert!(!started(&taken));
}

#[test]
fn an_address_of_before_is_asked_for_again() {
    let mut free = decky("decnet-lan", 5, &WEB);
    free["services"]["base"]["networks"] = json!({"lan": {}});
    let desired = desire(&[both()], &[("web", free)]);
    let mut engine = engine();
    converge_at_once(&mut engine, &desired);
    let base = engine.containers.get_mut("web-base-1").unwrap();
    let NetworkMode::Networks { endpoints } = &mut base.spec.network else {
        panic!("no network");
    };
    endpoints[0].address = Some("10.9.0.77".parse().unwrap());
    endpoints[0].address6 = Some("2001:db8:9::77".parse().unwrap());
    let leases = desired.leases(&engine.observe(desired.host()), &Leases::default());
    let desired = desired.with_leases(&leases);
    assert!(plan_now(&desired, &engine).is_settled());
    engine.containers.clear();
    let plan = converge_at_once(&mut engine, &desired);
    let asked = plan.steps.iter().find_map(|planned| match &planned.step {
        Step::CreateContainer { container, .. } => container.endpoints().first().cloned(),
        _ => None,
    });
    let six = asked.and_then(|endpoint| endpoint.address6);
    assert_eq!(six, Some("2001:db8:9::77".parse().unwrap()));
    assert!(
        plan.steps
            .iter()
            .any(|planned| describe(&planned.step).contains("2001:db8:9::77"))
    );
}

/// Somebody has taken the one address away and left the other.
#[test]
fn a_base_that_has_lost_its_address_of_one_family_is_made_anew() {
    let mut engine = engine();
    let desired = desire(&[both()], &[("web", web(SIX))]);
    converge_at_once(&mut engine, &desired);
    let base = engine.containers.get_mut("web-base-1").unwrap();
    let NetworkMode::Networks { endpoints } = &mut base.spec.network else {
        panic!("no network");
    };
    endpoints[0].address6 = Some("2001:db8:9::6".parse().unwrap());
    let plan = converge_at_once(&mut engine, &desired);
    assert!(
        lines(&plan).contains("create container web-base-1"),
        "{}",
        lines(&plan)
    );
}
