//! Rows: who moved them, what ends them, and that nothing ends twice.

use decnet::control::enrol::HostNetworking;
use decnet::control::{Limits, Parts};
use decnet::records::{Cause, Row, RowStatus};
use decnet_wire::ids::{DeckyName, OperationId};
use decnet_wire::observed::Observed;
use decnet_wire::report::{Event, EventBody, Outcome};

use crate::scene::{Host, Master, TWO, operator, parts};

fn name(text: &str) -> DeckyName {
    text.parse().unwrap()
}

/// A fleet of two that runs.
fn running() -> (Master, Host) {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    (master, host)
}

fn told(row: &Row) -> Vec<(RowStatus, String)> {
    row.transitions
        .iter()
        .map(|transition| (transition.status, transition.by.to_string()))
        .collect()
}

fn refuse(master: &Master, host: &mut Host, code: &str, generation: u64) {
    host.seq += 1;
    let refused = Event {
        seq: host.seq,
        at: *master.now.lock().unwrap(),
        body: EventBody::Refused {
            code: code.to_owned(),
            detail: "not here".to_owned(),
            generation: Some(generation),
        },
    };
    // What it runs is what it accepted before.
    let accepted = generation - 1;
    host.report_under(master, accepted, vec![refused]);
}

#[test]
fn every_way_to_a_newer_operation_ends_the_open_one() {
    let (master, host) = running();
    let mutate = |master: &Master| master.control.mutate(&operator(), &name("a")).unwrap();
    let deploy = |master: &Master| {
        let ids = master
            .deploy(&TWO.replace("services=ssh", "services=redis"), true)
            .unwrap();
        let of_a = |id: &OperationId| master.row(*id).decky == name("a");
        ids.into_iter().find(of_a).unwrap()
    };
    let remove = |master: &Master| master.control.remove(&operator(), &name("a")).unwrap();
    let mut open = mutate(&master);
    let steps: [&dyn Fn(&Master) -> OperationId; 4] = [&mutate, &deploy, &mutate, &remove];
    for step in steps {
        let next = step(&master);
        let row = master.row(open);
        assert_eq!(row.status, RowStatus::Superseded);
        let last = row.transitions.last().unwrap();
        assert_eq!(
            (last.superseded_by, last.by.to_string()),
            (Some(next), "root".to_owned())
        );
        assert!(row.error.unwrap().contains(&next.to_string()));
        open = next;
    }
    // Another network of its host is no operation of its deckies: they go on.
    let network = HostNetworking::new(true, None, None).unwrap();
    master
        .control
        .set_networking(&operator(), host.id, &network)
        .unwrap();
    assert_eq!(master.row(open).status, RowStatus::Pending);
    master.control.revoke(&operator(), host.id).unwrap();
    let row = master.row(open);
    assert_eq!(
        (row.status, row.cause),
        (RowStatus::Failed, Some(Cause::HostGone))
    );
    assert_eq!(row.transitions.last().unwrap().by.to_string(), "root");
}

#[test]
fn a_row_tells_who_moved_it() {
    let (master, mut host) = running();
    let id = master.control.mutate(&operator(), &name("a")).unwrap();
    master.control.publish_due().unwrap();
    host.say(&master, id, Outcome::Running);
    master.pass(time::Duration::seconds(7));
    host.say(&master, id, Outcome::Succeeded);
    let row = master.row(id);
    let by = |by: &str| by.to_owned();
    assert_eq!(
        told(&row),
        [
            (RowStatus::Pending, by("root")),
            (RowStatus::Running, by("host h")),
            (RowStatus::Succeeded, by("host h")),
        ]
    );
    let moments = [row.transitions[0].at, row.transitions[1].at];
    assert_eq!(
        row.transitions[2].at.get() - moments[1].get(),
        time::Duration::seconds(7)
    );
    assert_eq!(row.completed_at, Some(row.transitions[2].at));
}

/// A row whose bundle the policy forbids was open for a quarter of an hour.
#[test]
fn what_a_host_refuses_fails_with_the_refusal_and_not_before() {
    let (master, mut host) = running();
    let id = master.control.mutate(&operator(), &name("a")).unwrap();
    master.control.publish_due().unwrap();
    let generation = host.bundle(&master).generation;
    assert_eq!(master.row(id).generation, Some(generation));
    refuse(&master, &mut host, "policy", generation - 1);
    assert_eq!(master.control.fail_overdue().unwrap(), 0, "that was another one");
    refuse(&master, &mut host, "policy", generation);
    assert_eq!(master.control.fail_overdue().unwrap(), 1);
    let row = master.row(id);
    assert_eq!(row.cause, Some(Cause::RefusedByPolicy));
    assert_eq!(row.transitions.last().unwrap().by.to_string(), "master");
}

/// The master was off over the weekend: every open row failed before its host could say a word.
#[test]
fn the_time_in_which_the_master_was_away_counts_against_nobody() {
    let (master, mut host) = running();
    let id = master.control.mutate(&operator(), &name("a")).unwrap();
    master.control.publish_due().unwrap();
    master.set_clock(time::Duration::days(3));
    let master = master.restart();
    assert_eq!(master.control.fail_overdue().unwrap(), 0);
    master.pass(time::Duration::minutes(14));
    assert_eq!(master.control.fail_overdue().unwrap(), 0);
    master.pass(time::Duration::minutes(2));
    assert_eq!(master.control.fail_overdue().unwrap(), 1);
    assert_eq!(master.row(id).cause, Some(Cause::HostUnreachable));
    host.say(&master, id, Outcome::Succeeded);
    assert_eq!(master.row(id).late, Some(Outcome::Succeeded));
    assert!(master.row(id).late_at.is_some());
}

#[test]
fn a_step_of_the_clock_neither_fails_a_row_nor_keeps_it() {
    for days in [365, -365] {
        let (master, host) = running();
        let id = master.control.mutate(&operator(), &name("a")).unwrap();
        master.control.publish_due().unwrap();
        assert_eq!(master.control.fail_overdue().unwrap(), 0);
        master.set_clock(time::Duration::days(days));
        assert_eq!(master.control.fail_overdue().unwrap(), 0, "{days}");
        master.pass(time::Duration::minutes(14));
        assert_eq!(master.control.fail_overdue().unwrap(), 0, "{days}");
        master.pass(time::Duration::minutes(2));
        host.report_under(&master, 1, vec![]);
        assert_eq!(master.control.fail_overdue().unwrap(), 1, "{days}");
        assert_eq!(master.row(id).cause, Some(Cause::Deadline), "{days}");
    }
}

/// An older copy of the store has rows open of which the host has said everything that there is to say.
#[test]
fn a_row_whose_end_was_told_to_nobody_ends_as_the_host_is() {
    let (master, host) = running();
    let id = master.control.mutate(&operator(), &name("a")).unwrap();
    let gone = master.control.remove(&operator(), &name("b")).unwrap();
    master.control.publish_due().unwrap();
    master.pass(time::Duration::minutes(16));
    host.report(&master, Some(Observed::default()), vec![]);
    assert_eq!(master.control.fail_overdue().unwrap(), 2);
    for id in [id, gone] {
        assert_eq!(master.row(id).status, RowStatus::Succeeded);
    }
    assert_eq!(master.state("b"), None, "and what was to go is gone");
}

#[test]
fn deadlines_are_the_operators() {
    let (master, host) = running();
    let master = master.restart_from(|folder| {
        let mut limits = Limits::default();
        limits.deadlines.mutate = std::time::Duration::from_secs(60);
        Parts {
            limits,
            ..parts(folder)
        }
    });
    let id = master.control.mutate(&operator(), &name("a")).unwrap();
    master.pass(time::Duration::seconds(61));
    host.report_under(&master, 1, vec![]);
    assert_eq!(master.control.fail_overdue().unwrap(), 1);
    assert!(master.row(id).error.unwrap().ends_with("given up after a minute"));
}
