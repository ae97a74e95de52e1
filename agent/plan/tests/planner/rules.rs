//! The planner's promises, one at a time.

use crate::fleet::{
    converge_at_once, decky, decky_with_base, desire, engine, host, lan, lines, network, plan_now, round,
    run, stack,
};
use decnet_plan::labels;
use decnet_plan::planner::{StackState, describe, plan, stack_state, stack_states};
use decnet_plan::policy::Policy;
use decnet_plan::step::{Plan, Step};
use decnet_wire::observed::ContainerState;
use serde_json::json;

const WEB: [(&str, u16, u8); 2] = [("ssh", 22, 1), ("http", 80, 2)];

fn position(plan: &Plan, line: &str) -> usize {
    let found = plan
        .steps
        .iter()
        .position(|planned| describe(&planned.step) == line);
    found.unwrap_or_else(|| panic!("no step {line:?} in:\n{}", lines(plan)))
}

fn has(plan: &Plan, line: &str) -> bool {
    plan.steps.iter().any(|planned| describe(&planned.step) == line)
}

/// Whether a step waits for another, directly or not.
fn waits(plan: &Plan, step: &str, other: &str) -> bool {
    let (step, other) = (position(plan, step), position(plan, other));
    let mut reached = vec![false; plan.steps.len()];
    reached[step] = true;
    for index in (0..=step).rev() {
        if reached[index] {
            for before in &plan.steps[index].after {
                reached[*before] = true;
            }
        }
    }
    reached[other]
}

#[test]
fn a_decky_comes_up_in_one_round_and_goes_in_one() {
    let mut engine = engine();
    converge_at_once(
        &mut engine,
        &desire(&[lan()], &[("web", decky("decnet-lan", 5, &WEB))]),
    );
    assert_eq!(engine.containers.len(), 3);
    converge_at_once(&mut engine, &desire(&[lan()], &[("web", json!({}))]));
    assert!(engine.containers.is_empty());
    assert_eq!(engine.networks.len(), 1);
    converge_at_once(&mut engine, &desire(&[], &[]));
    assert!(engine.networks.is_empty());
}

#[test]
fn the_plan_of_a_first_deploy_is_the_golden_one() {
    let desired = desire(&[lan()], &[("web", decky("decnet-lan", 5, &WEB))]);
    let text = serde_json::to_string_pretty(&plan_now(&desired, &engine())).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/deploy.json");
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        text == golden,
        "the plan is not that of {path}; it is now:\n{text}"
    );
    let read: Plan = serde_json::from_str(&golden).unwrap();
    assert_eq!(read, plan_now(&desired, &engine()));
}

#[test]
fn images_are_there_before_anything_is_stopped() {
    let mut engine = engine();
    converge_at_once(
        &mut engine,
        &desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("ssh", 22, 1)]))]),
    );
    let next = desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("ssh", 22, 2)]))]);
    let plan = converge_at_once(&mut engine, &next);
    assert!(
        waits(&plan, "stop container web-ssh-1", "load image decoy:2"),
        "{}",
        lines(&plan)
    );
}

#[test]
fn an_image_that_is_there_under_any_of_its_ids_is_not_loaded_again() {
    let desired = desire(&[lan()], &[("web", decky("decnet-lan", 5, &[]))]);
    let mut engine = engine();
    let decnet_wire::bundle::BlobKind::ImageArchive { image_ids, .. } = crate::fleet::blob(1).kind else {
        panic!("an image archive");
    };
    let id = image_ids[1].to_string();
    engine.images.push(decnet_wire::observed::ObservedImage {
        id,
        references: Vec::new(),
    });
    assert!(!has(&plan_now(&desired, &engine), "load image decoy:1"));
}

#[test]
fn a_mutate_keeps_the_base_and_starts_the_new_before_it_stops_the_old() {
    let mut engine = engine();
    converge_at_once(
        &mut engine,
        &desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("ssh", 22, 1)]))]),
    );
    let base = engine.containers["web-base-1"].id.clone();
    let next = desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("http", 80, 1)]))]);
    let plan = converge_at_once(&mut engine, &next);
    assert!(
        waits(&plan, "stop container web-ssh-1", "start container web-http-1"),
        "{}",
        lines(&plan)
    );
    assert_eq!(engine.containers["web-base-1"].id, base);
    assert!(!lines(&plan).contains("web-base-1"), "{}", lines(&plan));
}

#[test]
fn a_new_service_on_the_old_ones_port_starts_after_it_stopped_and_before_it_is_removed() {
    let mut engine = engine();
    converge_at_once(
        &mut engine,
        &desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("ssh", 22, 1)]))]),
    );
    let next = desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("sftp", 22, 1)]))]);
    let plan = converge_at_once(&mut engine, &next);
    assert!(
        waits(&plan, "start container web-sftp-1", "stop container web-ssh-1"),
        "{}",
        lines(&plan)
    );
    assert!(
        waits(&plan, "remove container web-ssh-1", "start container web-sftp-1"),
        "{}",
        lines(&plan)
    );
    assert!(
        waits(&plan, "stop container web-ssh-1", "create container web-sftp-1"),
        "{}",
        lines(&plan)
    );
}

#[test]
fn a_new_service_that_does_not_come_up_leaves_the_old_one_running() {
    let mut engine = engine();
    converge_at_once(
        &mut engine,
        &desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("ssh", 22, 1)]))]),
    );
    let next = desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("http", 80, 1)]))]);
    engine.broken.insert("web-http-1".to_owned(), 3);
    for attempt in 0..3 {
        let failures = round(&mut engine, &next);
        assert_eq!(failures.len(), 1, "attempt {attempt}: {failures:?}");
        assert_eq!(
            engine.containers["web-ssh-1"].state,
            ContainerState::Running,
            "attempt {attempt}"
        );
    }
    let state = stack_state(&next, &engine.observe(host()), &stack("web"));
    let StackState::Pending { reason } = state else {
        panic!("{state:?}")
    };
    assert!(
        reason.starts_with("container web-http-1 has ended: exit code 3"),
        "{reason}"
    );
    engine.broken.clear();
    converge_at_once(&mut engine, &next);
}

/// A container that the engine restarts over and over is "running" for a moment each time. Seen in such a moment it
/// must not count as up, or the service that it replaces would be gone for a process that never worked.
#[test]
fn a_crash_loop_that_is_seen_running_does_not_release_the_old_service() {
    let mut engine = engine();
    converge_at_once(
        &mut engine,
        &desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("ssh", 22, 1)]))]),
    );
    let next = desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("http", 80, 1)]))]);
    engine.broken.insert("web-http-1".to_owned(), 3);
    round(&mut engine, &next);
    let http = engine.containers.get_mut("web-http-1").unwrap();
    (http.state, http.restarts) = (ContainerState::Running, 5);
    round(&mut engine, &next);
    assert_eq!(engine.containers["web-ssh-1"].state, ContainerState::Running);
}

#[test]
fn the_old_document_brings_the_old_service_back_after_a_failed_mutate_on_its_port() {
    let old = desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("ssh", 22, 1)]))]);
    let new = desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("sftp", 22, 1)]))]);
    let mut engine = engine();
    converge_at_once(&mut engine, &old);
    let id = engine.containers["web-ssh-1"].id.clone();
    engine.broken.insert("web-sftp-1".to_owned(), 1);
    round(&mut engine, &new);
    converge_at_once(&mut engine, &old);
    assert_eq!(engine.containers["web-ssh-1"].id, id);
    assert!(!engine.containers.contains_key("web-sftp-1"));
}

#[test]
fn services_are_recreated_with_their_base() {
    let mut engine = engine();
    converge_at_once(
        &mut engine,
        &desire(&[lan()], &[("web", decky("decnet-lan", 5, &WEB))]),
    );
    let next = desire(&[lan()], &[("web", decky_with_base("decnet-lan", 5, 2, &WEB))]);
    let plan = converge_at_once(&mut engine, &next);
    for service in ["ssh", "http"] {
        let (old, new) = (format!("web-{service}-1"), format!("web-{service}-1.next"));
        let create = format!("create container {old} as {new}");
        let (start, remove) = (
            format!("start container {new}"),
            format!("remove container {old}"),
        );
        let base = "create container web-base-1 as web-base-1.next".to_owned();
        let rename = format!("rename container {new} to {old}");
        for (step, other) in [(&create, &base), (&remove, &start), (&rename, &remove)] {
            assert!(waits(&plan, step, other), "{step}\n{}", lines(&plan));
        }
    }
}

/// A base that was killed and started again has a new namespace under its old id; whoever was in the old one is cut
/// off from the LAN although nothing of it looks wrong.
#[test]
fn services_left_in_the_namespace_of_an_earlier_run_are_recreated() {
    let desired = desire(&[lan()], &[("web", decky("decnet-lan", 5, &WEB))]);
    let mut engine = engine();
    converge_at_once(&mut engine, &desired);
    engine.containers.get_mut("web-base-1").unwrap().state = ContainerState::Exited { code: 137 };
    let plan = converge_at_once(&mut engine.clone(), &desired);
    assert!(
        waits(
            &plan,
            "start container web-ssh-1.next",
            "start container web-base-1"
        ),
        "{}",
        lines(&plan)
    );
    assert!(!has(&plan, "create container web-base-1"), "{}", lines(&plan));

    let base = engine.containers.get_mut("web-base-1").unwrap();
    (base.state, base.run) = (ContainerState::Running, base.run + 1);
    let plan = converge_at_once(&mut engine, &desired);
    assert!(
        has(&plan, "create container web-ssh-1 as web-ssh-1.next"),
        "{}",
        lines(&plan)
    );
    // The new namespace of the base is open; the base itself stays.
    assert!(has(&plan, "close the network namespace of container web-base-1"));
    assert!(!has(&plan, "start container web-base-1"), "{}", lines(&plan));
    assert!(!has(&plan, "create container web-base-1"), "{}", lines(&plan));
}

#[test]
fn what_is_exited_is_started_and_what_is_paused_goes_on() {
    let desired = desire(&[lan()], &[("web", decky("decnet-lan", 5, &WEB))]);
    let mut engine = engine();
    converge_at_once(&mut engine, &desired);
    engine.containers.get_mut("web-ssh-1").unwrap().state = ContainerState::Exited { code: 0 };
    engine.containers.get_mut("web-http-1").unwrap().state = ContainerState::Paused;
    let plan = converge_at_once(&mut engine, &desired);
    let steps: Vec<_> = plan.steps.iter().map(|planned| describe(&planned.step)).collect();
    assert_eq!(
        steps,
        ["unpause container web-http-1", "start container web-ssh-1"]
    );
}

#[test]
fn a_network_of_another_hash_is_made_anew_with_everything_on_it() {
    let fleet = || {
        [
            ("web", decky("decnet-lan", 5, &WEB)),
            ("db", decky("decnet-lan", 6, &[("mysql", 3306, 1)])),
        ]
    };
    let mut engine = engine();
    converge_at_once(&mut engine, &desire(&[lan()], &fleet()));
    let moved = network("decnet-lan", "eth1", "10.9.0.0/24");
    let plan = converge_at_once(&mut engine, &desire(&[moved], &fleet()));
    let remove = "remove network decnet-lan";
    for name in ["web-base-1", "db-base-1"] {
        assert!(
            waits(&plan, remove, &format!("stop container {name}")),
            "{}",
            lines(&plan)
        );
    }
    assert!(
        waits(
            &plan,
            "create container web-base-1 as web-base-1.next",
            "create macvlan network decnet-lan (10.9.0.0/24 on eth1)"
        ),
        "{}",
        lines(&plan)
    );
}

#[test]
fn a_missing_or_downed_parent_blocks_its_stacks_alone_and_is_named() {
    let wan = network("decnet-wan", "eth1", "10.10.0.0/24");
    let mut other = decky("decnet-wan", 6, &[]);
    other["services"]["base"]["networks"]["lan"]["ipv4_address"] = json!("10.10.0.6");
    let desired = desire(
        &[lan(), wan],
        &[("web", decky("decnet-lan", 5, &WEB)), ("edge", other)],
    );
    let mut engine = engine();
    engine
        .interfaces
        .retain(|interface| interface.name.as_str() != "eth0");
    let plan = plan_now(&desired, &engine);
    assert_eq!(plan.blocked.len(), 1, "{}", lines(&plan));
    assert_eq!(plan.blocked[0].stack, Some(stack("web")));
    assert!(
        plan.blocked[0].reason.contains("no interface eth0"),
        "{}",
        lines(&plan)
    );
    assert!(!lines(&plan).contains("web-"), "{}", lines(&plan));
    assert!(has(&plan, "start container edge-base-1"), "{}", lines(&plan));
    let states = stack_states(&desired, &engine.observe(host()));
    assert!(
        matches!(&states[&stack("web")], StackState::Pending { reason } if reason.contains("no interface eth0"))
    );

    engine.interfaces[0].up = false;
    let plan = plan_now(&desired, &engine);
    assert!(
        plan.blocked
            .iter()
            .any(|blocked| blocked.reason.contains("eth1 is down")),
        "{}",
        lines(&plan)
    );
}

#[test]
fn a_network_without_its_parent_and_without_stacks_is_reported_once() {
    let mut engine = engine();
    engine.interfaces.clear();
    let plan = plan_now(&desire(&[lan()], &[]), &engine);
    assert!(plan.steps.is_empty());
    assert_eq!(plan.blocked.len(), 1);
    assert_eq!(plan.blocked[0].stack, None);
}

#[test]
fn a_stack_that_breaks_the_policy_gets_no_step_and_keeps_what_it_has() {
    let desired = desire(&[lan()], &[("web", decky("decnet-lan", 5, &WEB))]);
    let mut engine = engine();
    converge_at_once(&mut engine, &desired);
    let mut document = decky("decnet-lan", 5, &[("ssh", 22, 2)]);
    document["services"]["ssh"]["cap_add"] = json!(["NET_ADMIN"]);
    let plan = plan_now(&desire(&[lan()], &[("web", document)]), &engine);
    assert!(plan.steps.is_empty(), "{}", lines(&plan));
    assert!(plan.blocked[0].reason.contains("NET_ADMIN"), "{}", lines(&plan));
}

#[test]
fn an_address_passes_from_one_decky_to_another_in_one_round() {
    let mut engine = engine();
    let before = desire(
        &[lan()],
        &[
            ("a", decky("decnet-lan", 5, &WEB)),
            ("b", decky("decnet-lan", 6, &WEB)),
        ],
    );
    converge_at_once(&mut engine, &before);
    let swapped = desire(
        &[lan()],
        &[
            ("a", decky("decnet-lan", 6, &WEB)),
            ("b", decky("decnet-lan", 5, &WEB)),
        ],
    );
    converge_at_once(&mut engine, &swapped);
    let renamed = desire(
        &[lan()],
        &[
            ("c", decky("decnet-lan", 6, &WEB)),
            ("b", decky("decnet-lan", 5, &WEB)),
        ],
    );
    let plan = converge_at_once(&mut engine, &renamed);
    assert!(
        waits(&plan, "start container c-base-1", "stop container a-base-1"),
        "{}",
        lines(&plan)
    );
    assert!(!lines(&plan).contains(" b-"), "{}", lines(&plan));
}

#[test]
fn the_hash_follows_the_image_and_not_the_order_of_its_ids() {
    let hash = |blobs: &[decnet_wire::bundle::Blob]| {
        let document = decky("decnet-lan", 5, &[]);
        let name = stack("web");
        let desired =
            decnet_plan::desired::Desired::new(host(), &[lan()], blobs, [(&name, &document)].into_iter())
                .unwrap();
        let (_, _, spec) = desired.containers().next().unwrap();
        spec.labels[labels::HASH].clone()
    };
    let mut reversed = crate::fleet::blob(1);
    let decnet_wire::bundle::BlobKind::ImageArchive { image_ids, .. } = &mut reversed.kind else {
        panic!("an image archive");
    };
    image_ids.reverse();
    assert_eq!(hash(&[crate::fleet::blob(1)]), hash(&[reversed]));
    let mut changed = crate::fleet::blob(2);
    let decnet_wire::bundle::BlobKind::ImageArchive { reference, .. } = &mut changed.kind else {
        panic!("an image archive");
    };
    *reference = "decoy:1".to_owned();
    assert_ne!(hash(&[crate::fleet::blob(1)]), hash(&[changed]));
}

#[test]
fn every_step_of_a_plan_tells_its_stack_but_those_for_shared_objects() {
    let desired = desire(&[lan()], &[("web", decky("decnet-lan", 5, &WEB))]);
    let plan = plan(&desired, &engine().observe(host()), &Policy::built_in());
    for planned in &plan.steps {
        let shared = matches!(planned.step, Step::LoadImage { .. } | Step::CreateNetwork { .. });
        assert_eq!(planned.stack.is_none(), shared, "{}", describe(&planned.step));
    }
}

/// The engine would have kept the network, and every decky on it would have been stopped for nothing.
#[test]
fn nobody_is_stopped_for_a_network_that_a_container_of_somebody_else_keeps() {
    let mut engine = engine();
    let before = desire(&[lan()], &[("web", decky("decnet-lan", 5, &[("ssh", 22, 1)]))]);
    converge_at_once(&mut engine, &before);
    engine
        .guests
        .insert("decnet-lan".to_owned(), vec!["theirs".to_owned()]);
    // While nothing has to go, nobody cares.
    engine.containers.remove("web-ssh-1");
    converge_at_once(&mut engine, &before);

    let moved = network("decnet-lan", "eth1", "10.9.0.0/24");
    let after = desire(&[moved], &[("web", decky("decnet-lan", 5, &[("ssh", 22, 1)]))]);
    let plan = plan_now(&after, &engine);
    assert!(plan.steps.is_empty(), "{}", lines(&plan));
    assert!(
        plan.blocked[0].reason.contains("container theirs"),
        "{}",
        lines(&plan)
    );
    // What is torn down goes all the same; the network stays until the other has left.
    let gone = desire(&[], &[("web", json!({"services": {}}))]);
    let plan = plan_now(&gone, &engine);
    assert!(run(&mut engine, &plan, usize::MAX).is_empty());
    assert!(engine.containers.is_empty(), "{}", lines(&plan));
    assert!(
        plan.blocked[0].reason.contains("container theirs"),
        "{}",
        lines(&plan)
    );
    engine.guests.clear();
    converge_at_once(&mut engine, &gone);
    assert!(engine.networks.is_empty());
}
