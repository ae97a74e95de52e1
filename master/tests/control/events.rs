//! What is announced, and how often.

use decnet::control::events::topic::Filter;
use decnet::control::events::{Gap, GapReason, Heard, Reader};
use decnet::fleet::compile::stack_name;
use decnet::fleet::model::{Interval, Minutes};
use decnet_wire::observed::{ContainerState, Observed};
use decnet_wire::report::Outcome;
use serde_json::{Value, json};

use crate::scene::{Host, Master, TWO, container, operator};

/// What was announced since it was asked last.
fn heard(reader: &mut Reader) -> Vec<Value> {
    let mut events = Vec::new();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        match std::pin::pin!(reader.next()).poll(&mut context) {
            std::task::Poll::Ready(Heard::Event(event)) => {
                let frame = event.frame();
                let text = std::str::from_utf8(&frame).unwrap();
                let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
                events.push(serde_json::from_str(data).unwrap());
            }
            std::task::Poll::Ready(Heard::Gap(gap)) => panic!("{gap:?}"),
            std::task::Poll::Pending => return events,
        }
    }
}

fn reader(master: &Master, topic: &str) -> Reader {
    master.control.events().subscribe(Filter::new([topic]).unwrap())
}

/// Topic, from and to.
fn steps(reader: &mut Reader) -> Vec<Value> {
    let events = heard(reader);
    events
        .into_iter()
        .map(|event| json!([event["topic"], event["from"], event["to"]]))
        .collect()
}

#[test]
fn every_change_of_a_hosts_state_is_announced_once() {
    let master = Master::new();
    let mut said = reader(&master, "host.>");
    let host = Host::enrol(&master, "edge-01");
    let topic = "host.edge-01.state";
    assert_eq!(
        steps(&mut said),
        [
            json!([topic, null, "invited"]),
            json!([topic, "invited", "enrolled"])
        ]
    );
    for _ in 0..3 {
        host.report(&master, None, vec![]);
        master.control.note_hosts().unwrap();
    }
    assert_eq!(steps(&mut said), [json!([topic, "enrolled", "active"])]);
    master.pass(time::Duration::seconds(106));
    for _ in 0..3 {
        master.control.note_hosts().unwrap();
    }
    let lost = heard(&mut said);
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(
        (&lost[0]["from"], &lost[0]["to"]),
        (&json!("active"), &json!("unreachable"))
    );
    assert!(lost[0]["reason"].as_str().unwrap().contains("106 s"), "{lost:?}");
    host.report(&master, None, vec![]);
    assert_eq!(steps(&mut said), [json!([topic, "unreachable", "active"])]);
    master.control.revoke(&operator(), host.id).unwrap();
    master.control.note_hosts().unwrap();
    assert_eq!(steps(&mut said), [json!([topic, "active", "revoked"])]);
}

#[test]
fn a_master_that_starts_announces_nothing_that_is_old() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "edge-01");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    master.control.flush_status().unwrap();
    let master = master.restart();
    let mut said = reader(&master, ">");
    master.control.note_hosts().unwrap();
    host.report(&master, Some(running(&["a", "b"])), vec![]);
    assert_eq!(heard(&mut said), Vec::<Value>::new());
    host.report(&master, Some(running(&["a"])), vec![]);
    assert_eq!(
        steps(&mut said),
        [json!(["decky.b.state", "running", "torn_down"])]
    );
}

/// The deckies of [`TWO`], as far as they are named.
fn running(names: &[&str]) -> Observed {
    let service = |name: &str| if name == "a" { "ssh" } else { "http" };
    let containers = names
        .iter()
        .flat_map(|name| {
            let stack = stack_name(&name.parse().unwrap());
            [
                container(stack.as_str(), "base"),
                container(stack.as_str(), service(name)),
            ]
        })
        .collect();
    Observed {
        containers,
        ..Observed::default()
    }
}

#[test]
fn a_deckys_state_is_announced_when_it_changes_and_not_with_every_report() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "edge-01");
    master.deploy(TWO, false).unwrap();
    let mut said = reader(&master, "decky.*.state");
    host.report(&master, Some(running(&[])), vec![]);
    assert_eq!(steps(&mut said), Vec::<Value>::new());
    for _ in 0..3 {
        host.report(&master, Some(running(&["a", "b"])), vec![]);
    }
    assert_eq!(
        steps(&mut said),
        [
            json!(["decky.a.state", "torn_down", "running"]),
            json!(["decky.b.state", "torn_down", "running"])
        ]
    );
    let mut half = running(&["a", "b"]);
    half.containers[1].state = ContainerState::Exited { code: 1 };
    host.report(&master, Some(half.clone()), vec![]);
    assert_eq!(
        steps(&mut said),
        [json!(["decky.a.state", "running", "degraded"])]
    );
    half.containers[0].state = ContainerState::Exited { code: 1 };
    host.report(&master, Some(half), vec![]);
    assert_eq!(steps(&mut said), [json!(["decky.a.state", "degraded", "failed"])]);
    // It is removed: its record goes with the report that says so, and what was seen of it with the next one.
    let id = master.control.remove(&operator(), &"b".parse().unwrap()).unwrap();
    master.control.publish_due().unwrap();
    host.say(&master, id, Outcome::Succeeded);
    host.report(&master, Some(running(&["a"])), vec![]);
    assert_eq!(
        steps(&mut said),
        [
            json!(["decky.a.state", "failed", "running"]),
            json!(["decky.b.state", "running", "torn_down"])
        ]
    );
}

#[test]
fn every_change_of_services_tells_why_and_who() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "edge-01");
    let mut said = reader(&master, "decky.a.mutation");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    let created = heard(&mut said);
    assert_eq!(created.len(), 1);
    assert_eq!(
        (&created[0]["trigger"], &created[0]["actor"]),
        (&json!("creation"), &json!("root"))
    );
    assert_eq!(created[0]["old_services"], json!([]));
    let mut services = created[0]["new_services"].clone();
    let name = "a".parse().unwrap();
    let other = "b".parse().unwrap();
    let ten = Interval::Minutes(Minutes::try_from(10).unwrap());
    master.control.set_interval(&operator(), &name, ten).unwrap();
    master
        .control
        .set_interval(&operator(), &other, Interval::Disabled)
        .unwrap();

    master.control.mutate(&operator(), &name).unwrap();
    master.control.publish_due().unwrap();
    host.obey(&master);
    master.pass(time::Duration::minutes(11));
    host.report(&master, None, vec![]);
    assert_eq!(master.control.mutate_due().unwrap(), 1);
    master.control.publish_due().unwrap();
    host.obey(&master);
    for (event, (trigger, actor)) in heard(&mut said)
        .iter()
        .zip([("operator", json!("root")), ("scheduled", Value::Null)])
    {
        assert_eq!((&event["trigger"], &event["actor"]), (&json!(trigger), &actor));
        assert_eq!(event["old_services"], services);
        services = event["new_services"].clone();
        assert_ne!(event["old_services"], services);
    }

    // The same again changes no services; leaving it out retires it.
    master.control.remove(&operator(), &name).unwrap();
    master.control.remove(&operator(), &name).unwrap();
    let retired = heard(&mut said);
    assert_eq!(retired.len(), 1);
    assert_eq!(retired[0]["trigger"], "retirement");
    assert_eq!(
        (&retired[0]["old_services"], &retired[0]["new_services"]),
        (&services, &json!([]))
    );
}

/// Whoever takes a whole host's deckies down retires each of them, once.
#[test]
fn deckies_that_go_with_their_hosts_teardown_are_retired() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "edge-01");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    let mut said = reader(&master, "decky.*.mutation");
    let control = &master.control;
    control.remove(&operator(), &"a".parse().unwrap()).unwrap();
    for _ in 0..2 {
        control.tear_down_host(&operator(), host.id, None).unwrap();
    }
    let retired: Vec<_> = heard(&mut said)
        .iter()
        .map(|event| json!([event["decky_name"], event["trigger"], event["new_services"]]))
        .collect();
    assert_eq!(
        retired,
        [json!(["a", "retirement", []]), json!(["b", "retirement", []])]
    );
}

/// A decky of a host that says nothing more counted as running for ever, also when another host had it and brought it up.
#[test]
fn a_decky_that_comes_up_elsewhere_is_announced_whatever_its_old_host_said() {
    let master = Master::new();
    let mut old = Host::enrol(&master, "old");
    master.deploy(TWO, false).unwrap();
    old.obey(&master);
    old.report(&master, Some(running(&["a", "b"])), vec![]);
    master.control.revoke(&operator(), old.id).unwrap();
    let mut said = reader(&master, "decky.*.state");
    let new = Host::enrol(&master, "new");
    master.deploy(TWO, true).unwrap();
    new.report(&master, Some(running(&["a"])), vec![]);
    assert_eq!(
        steps(&mut said),
        [json!(["decky.a.state", "torn_down", "running"])]
    );
}

/// Whoever moves a row: who asks, its host, a newer operation, the sweep.
#[test]
fn every_transition_of_a_row_is_announced_once() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "edge-01");
    let mut said = reader(&master, "decky.a.lifecycle");
    let mut announced = || -> Vec<Value> {
        let events = heard(&mut said).into_iter();
        events
            .map(|event| json!([event["lifecycle_id"], event["status"]]))
            .collect()
    };
    let first = master.deploy(TWO, false).unwrap()[0];
    host.say(&master, first, Outcome::Running);
    host.say(&master, first, Outcome::Succeeded);
    host.say(&master, first, Outcome::Succeeded);
    let expected = ["pending", "running", "succeeded"].map(|status| json!([first, status]));
    assert_eq!(announced(), expected);
    let name = "a".parse().unwrap();
    let second = master.control.mutate(&operator(), &name).unwrap();
    let third = master.control.mutate(&operator(), &name).unwrap();
    master.pass(time::Duration::minutes(16));
    master.control.fail_overdue().unwrap();
    master.control.fail_overdue().unwrap();
    let expected = [
        json!([second, "pending"]),
        json!([second, "superseded"]),
        json!([third, "pending"]),
        json!([third, "failed"]),
    ];
    assert_eq!(announced(), expected);
}

/// Numbers begin anew with each start: an id of before would name another event.
#[test]
fn an_id_of_before_a_restart_is_told_from_one_of_now() {
    let master = Master::new();
    Host::enrol(&master, "edge-01");
    let mut reader = master.control.events().subscribe(Filter::all());
    master.deploy(TWO, false).unwrap();
    assert!(!heard(&mut reader).is_empty());
    let last = reader.position().unwrap();
    drop(reader);
    let master = master.restart();
    master.control.mutate(&operator(), &"a".parse().unwrap()).unwrap();
    let mut resumed = master.control.events().resume(Filter::all(), &last);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let first = std::pin::pin!(resumed.next()).poll(&mut context);
    let restarted = |gap: &Gap| gap.reason == GapReason::Restarted;
    assert!(
        matches!(&first, std::task::Poll::Ready(Heard::Gap(gap)) if restarted(gap)),
        "{first:?}"
    );
}
