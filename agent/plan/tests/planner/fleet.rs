//! A small fleet to plan: stacks as the fleet compiler makes them, and an engine to run them on.

use std::collections::BTreeMap;

use decnet_plan::desired::Desired;
use decnet_plan::planner::plan;
use decnet_plan::policy::Policy;
use decnet_plan::sim::Engine;
use decnet_plan::step::{Plan, PlannedStep};
use decnet_wire::bundle::{Blob, BlobKind, Network, NetworkDriver};
use decnet_wire::ids::{Digest, HostId, StackName};
use decnet_wire::observed::Interface;
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) fn host() -> HostId {
    HostId::new(Uuid::from_u128(0x0190_b6f2_7a4e_7c1a_9f57_3b1f_6f2f_8a11))
}

pub(crate) fn other_host() -> HostId {
    HostId::new(Uuid::from_u128(0x0190_b6f2_7a4e_7c1a_9f57_3b1f_6f2f_8a12))
}

pub(crate) fn stack(name: &str) -> StackName {
    name.parse().unwrap()
}

pub(crate) fn engine() -> Engine {
    let interface = |name: &str| Interface::new(name.parse().unwrap());
    let mut engine = Engine::default();
    engine.strict_about_egress = true;
    engine.interfaces = vec![interface("eth0"), interface("eth1")];
    engine
}

pub(crate) fn network(name: &str, parent: &str, subnet: &str) -> Network {
    Network {
        name: name.parse().unwrap(),
        driver: NetworkDriver::Macvlan,
        parent: Some(parent.parse().unwrap()),
        subnet: subnet.parse().unwrap(),
        gateway: None,
        subnet6: None,
        gateway6: None,
        host_address: None,
        mode: None,
    }
}

pub(crate) fn lan() -> Network {
    network("decnet-lan", "eth0", "10.9.0.0/24")
}

pub(crate) fn blob(n: u8) -> Blob {
    let kind = BlobKind::ImageArchive {
        reference: format!("decoy:{n}"),
        image_ids: vec![Digest::from_sha256([n; 32]), Digest::from_sha256([n + 100; 32])],
    };
    Blob {
        digest: Digest::from_sha256([n + 200; 32]),
        size: 1000,
        kind,
    }
}

pub(crate) fn blobs() -> Vec<Blob> {
    vec![blob(1), blob(2)]
}

/// One decky: a base container and one container for each service, on the port and image that it names.
pub(crate) fn decky(network: &str, address: u8, services: &[(&str, u16, u8)]) -> Value {
    decky_with_base(network, address, 1, services)
}

pub(crate) fn decky_with_base(network: &str, address: u8, image: u8, services: &[(&str, u16, u8)]) -> Value {
    let hardened = |mut service: Value| {
        service["cap_drop"] = json!(["ALL"]);
        service["security_opt"] = json!(["no-new-privileges:true"]);
        service["restart"] = json!("unless-stopped");
        service
    };
    let mut all = BTreeMap::from([(
        "base".to_owned(),
        hardened(json!({
            "image": format!("decoy:{image}"),
            "networks": {"lan": {
                "ipv4_address": format!("10.9.0.{address}"),
                "mac_address": format!("02:00:0a:09:00:{address:02x}"),
            }},
        })),
    )]);
    for (name, port, image) in services {
        let service = json!({
            "image": format!("decoy:{image}"),
            "network_mode": "service:base",
            "depends_on": ["base"],
            "expose": [port],
        });
        all.insert((*name).to_owned(), hardened(service));
    }
    json!({"networks": {"lan": {"external": true, "name": network}}, "services": all})
}

pub(crate) fn desire(networks: &[Network], stacks: &[(&str, Value)]) -> Desired {
    let stacks: Vec<_> = stacks
        .iter()
        .map(|(name, value)| (stack(name), value.clone()))
        .collect();
    Desired::new(
        host(),
        networks,
        &blobs(),
        stacks.iter().map(|(name, value)| (name, value)),
    )
    .unwrap_or_else(|errors| panic!("the test's own fleet is wrong: {errors:?}"))
}

pub(crate) fn plan_now(desired: &Desired, engine: &Engine) -> Plan {
    plan(desired, &engine.observe(desired.host()), &Policy::built_in())
}

/// Runs a plan as the reconcile loop does: a step whose predecessors did not all succeed is left out. `limit` cuts it
/// off after that many steps, like a crash. Returns what failed.
pub(crate) fn run(engine: &mut Engine, plan: &Plan, limit: usize) -> Vec<String> {
    let mut done = vec![false; plan.steps.len()];
    let mut failures = Vec::new();
    for (index, PlannedStep { step, after, .. }) in plan.steps.iter().enumerate().take(limit) {
        if after.iter().all(|other| done[*other]) {
            match engine.apply(step) {
                Ok(()) => done[index] = true,
                Err(error) => failures.push(error),
            }
        }
    }
    failures
}

/// Plans and applies once, and insists that nothing fails and nothing is left.
pub(crate) fn converge_at_once(engine: &mut Engine, desired: &Desired) -> Plan {
    let plan = plan_now(desired, engine);
    let failures = run(engine, &plan, usize::MAX);
    assert!(failures.is_empty(), "{failures:?}\n{}", lines(&plan));
    let next = plan_now(desired, engine);
    assert!(
        next.is_settled(),
        "left over:\n{}\nafter:\n{}",
        lines(&next),
        lines(&plan)
    );
    plan
}

pub(crate) fn lines(plan: &Plan) -> String {
    let steps = plan.steps.iter().enumerate().map(|(index, planned)| {
        format!(
            "{index:3} {} after {:?}",
            decnet_plan::planner::describe(&planned.step),
            planned.after
        )
    });
    let blocked = plan
        .blocked
        .iter()
        .map(|blocked| format!("blocked {:?}: {}", blocked.stack, blocked.reason));
    steps.chain(blocked).collect::<Vec<_>>().join("\n")
}

/// Plans and applies once; returns what failed.
pub(crate) fn round(engine: &mut Engine, desired: &Desired) -> Vec<String> {
    let plan = plan_now(desired, engine);
    run(engine, &plan, usize::MAX)
}

/// Runs a plan's steps in another order that keeps what they wait for: `choices` picks among those that could be next.
pub(crate) fn run_in_any_order(engine: &mut Engine, plan: &Plan, choices: &[usize]) -> Vec<String> {
    let mut done = vec![false; plan.steps.len()];
    let mut failures = Vec::new();
    for turn in 0..plan.steps.len() {
        let ready: Vec<usize> = (0..plan.steps.len())
            .filter(|index| !done[*index] && plan.steps[*index].after.iter().all(|other| done[*other]))
            .collect();
        let index = ready[choices[turn % choices.len()] % ready.len()];
        failures.extend(engine.apply(&plan.steps[index].step).err());
        done[index] = true;
    }
    failures
}
