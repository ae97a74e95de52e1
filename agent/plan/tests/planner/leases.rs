//! What a container has had on a LAN stays its own.

use decnet_plan::desired::{Desired, Leases};
use decnet_plan::sim::Engine;
use decnet_plan::step::NetworkMode;
use serde_json::{Value, json};

use crate::fleet::{converge_at_once, decky, desire, engine, lan, plan_now};

const WEB: [(&str, u16, u8); 1] = [("ssh", 22, 1)];

/// A decky whose document fixes neither address nor MAC.
fn free(name: &str) -> (&str, Value) {
    let mut document = decky("decnet-lan", 5, &WEB);
    document["services"]["base"]["networks"] = json!({"lan": {}});
    (name, document)
}

/// The engine has given this address to the stack's base.
fn given(engine: &mut Engine, name: &str, address: &str, mac: &str) {
    let base = engine.containers.get_mut(name).unwrap();
    let NetworkMode::Networks { endpoints } = &mut base.spec.network else {
        panic!("no network");
    };
    endpoints[0].address = Some(address.parse().unwrap());
    endpoints[0].mac = Some(mac.parse().unwrap());
}

fn asked(desired: &Desired) -> Vec<(Option<String>, Option<String>)> {
    let endpoint = |spec: &decnet_plan::step::ContainerSpec| match &spec.network {
        NetworkMode::Networks { endpoints } => Some((
            endpoints[0].address.map(|address| address.to_string()),
            endpoints[0].mac.map(|mac| mac.to_string()),
        )),
        _ => None,
    };
    desired
        .containers()
        .filter_map(|(_, _, spec)| endpoint(spec))
        .collect()
}

fn some(address: &str, mac: &str) -> (Option<String>, Option<String>) {
    (Some(address.to_owned()), Some(mac.to_owned()))
}

#[test]
fn an_address_that_the_engine_gave_is_asked_for_again_and_recreates_nothing() {
    let mut engine = engine();
    let documents = [free("web")];
    let desired = desire(&[lan()], &documents);
    converge_at_once(&mut engine, &desired);
    given(&mut engine, "web-base-1", "10.9.0.77", "02:42:0a:09:00:4d");
    let leases = desired.leases(&engine.observe(desired.host()), &Leases::default());
    assert_eq!(leases.iter().count(), 1);

    let desired = desired.with_leases(&leases);
    assert_eq!(asked(&desired), [some("10.9.0.77", "02:42:0a:09:00:4d")]);
    assert!(plan_now(&desired, &engine).is_settled());
    engine.containers.clear();
    converge_at_once(&mut engine, &desired);
    // While nothing runs, what was is kept.
    engine.containers.clear();
    assert_eq!(desired.leases(&engine.observe(desired.host()), &leases), leases);
}

#[test]
fn a_lease_goes_with_its_container_and_gives_way_to_a_document() {
    let mut engine = engine();
    let desired = desire(&[lan()], &[free("web")]);
    converge_at_once(&mut engine, &desired);
    given(&mut engine, "web-base-1", "10.9.0.77", "02:42:0a:09:00:4d");
    let leases = desired.leases(&engine.observe(desired.host()), &Leases::default());

    let gone = desire(&[lan()], &[("web", json!({}))]);
    assert_eq!(
        gone.leases(&engine.observe(gone.host()), &leases),
        Leases::default()
    );
    let other =
        desire(&[lan()], &[free("web"), ("fixed", decky("decnet-lan", 77, &WEB))]).with_leases(&leases);
    assert_eq!(
        asked(&other),
        [
            some("10.9.0.77", "02:00:0a:09:00:4d"),
            (None, Some("02:42:0a:09:00:4d".to_owned()))
        ]
    );
    let mut moved = lan();
    moved.subnet = "10.8.0.0/24".parse().unwrap();
    let moved = desire(&[moved], &[free("web")]).with_leases(&leases);
    assert_eq!(asked(&moved)[0].0, None);
}
