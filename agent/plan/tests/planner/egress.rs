//! A decky answers, it does not call out; and nobody else on the LAN has its address.

use std::net::Ipv4Addr;

use decnet_plan::desired::Desired;
use decnet_plan::planner::{StackState, describe, stack_state};
use decnet_plan::step::{Plan, RestartPolicy, Step};
use decnet_wire::observed::ContainerState;
use serde_json::{Value, json};

use crate::fleet::{
    blobs, converge_at_once, decky, desire, engine, host, lan, lines, plan_now, round, stack,
};
use crate::project;

const WEB: [(&str, u16, u8); 2] = [("ssh", 22, 1), ("http", 80, 1)];
const CLOSE: &str = "close the network namespace of container web-base-1";
const PROBE: &str = "ask on eth0 whether somebody has 10.9.0.5";

fn web() -> Value {
    decky("decnet-lan", 5, &WEB)
}

fn texts(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|planned| describe(&planned.step)).collect()
}

fn index(plan: &Plan, text: &str) -> usize {
    let found = texts(plan).iter().position(|step| step == text);
    found.unwrap_or_else(|| panic!("no {text:?} in\n{}", lines(plan)))
}

#[test]
fn no_service_starts_before_its_namespace_is_closed() {
    let mut engine = engine();
    let plan = converge_at_once(&mut engine, &desire(&[lan()], &[("web", web())]));
    let close = index(&plan, CLOSE);
    assert!(
        plan.steps[close]
            .after
            .contains(&index(&plan, "start container web-base-1"))
    );
    for service in ["start container web-ssh-1", "start container web-http-1"] {
        assert!(
            plan.steps[index(&plan, service)].after.contains(&close),
            "{}",
            lines(&plan)
        );
    }
}

#[test]
fn the_engine_never_starts_a_base_by_itself() {
    let desired = desire(&[lan()], &[("web", web())]);
    for (_, service, spec) in desired.containers() {
        let expected = if service == "base" {
            RestartPolicy::No
        } else {
            RestartPolicy::UnlessStopped
        };
        assert_eq!(spec.restart, expected, "{service}");
    }
}

#[test]
fn a_base_that_was_started_by_somebody_else_is_closed_and_so_told() {
    let desired = desire(&[lan()], &[("web", web())]);
    let mut engine = engine();
    converge_at_once(&mut engine, &desired);
    engine.containers.get_mut("web-base-1").unwrap().lock = None;
    let state = stack_state(&desired, &engine.observe(host()), &stack("web"));
    let StackState::Pending { reason } = state else {
        panic!("settled while open");
    };
    assert!(
        reason.contains("namespace of container web-base-1 is open"),
        "{reason}"
    );
    let plan = converge_at_once(&mut engine, &desired);
    assert_eq!(texts(&plan), [CLOSE]);
}

#[test]
fn after_a_reboot_the_base_is_started_closed_and_joined_in_this_order() {
    let desired = desire(&[lan()], &[("web", web())]);
    let mut engine = engine();
    converge_at_once(&mut engine, &desired);
    for container in engine.containers.values_mut() {
        container.state = ContainerState::Exited { code: 255 };
    }
    let plan = converge_at_once(&mut engine, &desired);
    assert_eq!(
        texts(&plan),
        [
            "start container web-base-1",
            CLOSE,
            "start container web-http-1",
            "start container web-ssh-1",
        ]
    );
}

#[test]
fn who_is_left_in_an_earlier_namespace_is_stopped_before_there_is_a_new_open_one() {
    let desired = desire(&[lan()], &[("web", web())]);
    let mut engine = engine();
    converge_at_once(&mut engine, &desired);
    engine.containers.get_mut("web-base-1").unwrap().state = ContainerState::Exited { code: 137 };
    let plan = converge_at_once(&mut engine, &desired);
    let start = &plan.steps[index(&plan, "start container web-base-1")];
    for stop in ["stop container web-ssh-1", "stop container web-http-1"] {
        assert!(start.after.contains(&index(&plan, stop)), "{}", lines(&plan));
    }
}

#[test]
fn what_any_service_may_call_is_allowed_in_the_namespace_and_a_change_recreates_nothing() {
    let mut engine = engine();
    converge_at_once(&mut engine, &desire(&[lan()], &[("web", web())]));
    let mut document = web();
    document["services"]["base"]["x-decnet"] = json!({"egress": ["udp/192.0.2.1:53"]});
    document["services"]["ssh"]["x-decnet"] = json!({"egress": ["tcp/192.0.2.1:53"]});
    let plan = converge_at_once(&mut engine, &desire(&[lan()], &[("web", document)]));
    assert_eq!(texts(&plan), [CLOSE]);
    let Step::LockNamespace { egress, .. } = &plan.steps[0].step else {
        panic!("another step");
    };
    let allowed: Vec<_> = egress.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["tcp/192.0.2.1:53", "udp/192.0.2.1:53"]);
}

#[test]
fn a_misspelt_extension_is_an_error() {
    for (extension, says) in [
        (json!({"egres": []}), "services.base.x-decnet.egres"),
        (
            json!({"egress": ["192.0.2.1:53"]}),
            "services.base.x-decnet.egress",
        ),
        (json!(["udp/192.0.2.1:53"]), "services.base.x-decnet"),
    ] {
        let mut document = web();
        document["services"]["base"]["x-decnet"] = extension;
        let name = stack("web");
        let errors = Desired::new(host(), &[lan()], &blobs(), [(&name, &document)].into_iter()).unwrap_err();
        assert!(errors[0].to_string().contains(says), "{}", errors[0]);
    }
}

#[test]
fn a_kernel_that_can_close_no_namespace_runs_no_decky() {
    let mut engine = engine();
    engine.lacks = vec![decnet_wire::observed::Feature::Nftables];
    let plan = plan_now(&desire(&[lan()], &[("web", web())]), &engine);
    assert!(
        plan.steps.iter().all(|planned| planned.stack.is_none()),
        "{}",
        lines(&plan)
    );
    assert!(plan.blocked[0].reason.contains("nf_tables"), "{:?}", plan.blocked);
}

#[test]
fn documents_that_are_no_deckies_are_left_as_compose_has_them() {
    let mut document = web();
    if let Some(document) = document.as_object_mut() {
        document.remove("networks");
    }
    document["services"]["base"]["networks"] = json!({"default": {}});
    let desired = Desired::project(host(), &stack("web"), &document).unwrap();
    let mut engine = project::engine();
    let plan = converge_at_once(&mut engine, &desired);
    assert!(!texts(&plan).contains(&CLOSE.to_owned()), "{}", lines(&plan));
    assert!(
        desired
            .containers()
            .all(|(_, _, spec)| spec.restart == RestartPolicy::UnlessStopped)
    );

    document["services"]["ssh"]["x-decnet"] = json!({});
    let desired = Desired::project(host(), &stack("web"), &document).unwrap();
    // Its restart policy changes with it, so that it is made anew.
    assert!(texts(&plan_now(&desired, &engine)).contains(&format!("{CLOSE}.next")));
}

#[test]
fn an_address_is_asked_for_before_its_decky_starts_and_only_once() {
    let mut engine = engine();
    let desired = desire(&[lan()], &[("web", web())]);
    let plan = converge_at_once(&mut engine, &desired);
    let start = &plan.steps[index(&plan, "start container web-base-1")];
    assert!(start.after.contains(&index(&plan, PROBE)));
    engine.containers.get_mut("web-base-1").unwrap().state = ContainerState::Exited { code: 0 };
    assert!(!texts(&plan_now(&desired, &engine)).contains(&PROBE.to_owned()));
    // Made but never started: the answer was not good, or was never waited for.
    engine.containers.get_mut("web-base-1").unwrap().state = ContainerState::Created;
    assert!(texts(&plan_now(&desired, &engine)).contains(&PROBE.to_owned()));
}

#[test]
fn a_decky_that_is_to_move_to_an_address_that_somebody_has_is_not_stopped() {
    let mut engine = engine();
    converge_at_once(
        &mut engine,
        &desire(&[lan()], &[("web", decky("decnet-lan", 4, &WEB))]),
    );
    let address = Ipv4Addr::new(10, 9, 0, 5);
    engine
        .strangers
        .insert(address.into(), "02:00:00:00:00:99".parse().unwrap());
    let desired = desire(&[lan()], &[("web", web())]);
    let failures = round(&mut engine, &desired);
    assert_eq!(failures, ["10.9.0.5 is in use by 02:00:00:00:00:99"]);
    let running = |name: &str| engine.containers[name].state.is_running();
    assert!(running("web-base-1") && running("web-ssh-1") && running("web-http-1"));
    engine.strangers.clear();
    converge_at_once(&mut engine, &desired);
}

#[test]
fn a_decky_whose_address_somebody_has_is_not_started() {
    let mut engine = engine();
    let address = Ipv4Addr::new(10, 9, 0, 5);
    engine
        .strangers
        .insert(address.into(), "02:00:00:00:00:99".parse().unwrap());
    let desired = desire(&[lan()], &[("web", web())]);
    assert_eq!(round(&mut engine, &desired).len(), 1);
    assert_eq!(round(&mut engine, &desired).len(), 1);
    assert!(
        engine
            .containers
            .values()
            .all(|container| container.state == ContainerState::Created)
    );
    engine.strangers.clear();
    converge_at_once(&mut engine, &desired);
}

#[test]
fn on_an_interface_that_the_engine_is_to_make_the_lan_is_asked_once_it_is_there() {
    let mut vlan = lan();
    vlan.parent = Some("eth0.30".parse().unwrap());
    let plan = converge_at_once(&mut engine(), &desire(&[vlan], &[("web", web())]));
    let probe = &plan.steps[index(&plan, "ask on eth0.30 whether somebody has 10.9.0.5")];
    let network = index(
        &plan,
        "create macvlan network decnet-lan (10.9.0.0/24 on eth0.30)",
    );
    assert_eq!(probe.after, [network]);
}
