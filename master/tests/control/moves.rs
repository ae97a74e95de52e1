//! Deckies that go from one host to another: never on two at once, never on none for ever.

use decnet::control::hosts::DeckyState;
use decnet_wire::ids::HostId;
use decnet_wire::observed::Observed;
use decnet_wire::report::PendingStack;

use crate::scene::{Host, Master, lan0, names, operator};

/// One LAN for each host; an `ip` says where the decky goes.
fn fleet(master: &Master, count: u8) -> Vec<Host> {
    (1..=count)
        .map(|n| Host::enrol_on(master, &format!("h{n}"), n))
        .collect()
}

fn on(host: u8) -> String {
    format!("[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[a]\nservices=ssh\nip=10.9.{host}.20\n")
}

fn where_is(master: &Master) -> HostId {
    master.control.deckies().unwrap()[0].record.decky.host
}

fn nothing() -> Option<Observed> {
    Some(Observed {
        interfaces: vec![lan0()],
        ..Observed::default()
    })
}

#[test]
fn the_new_host_waits_until_the_old_one_has_let_go() {
    let master = Master::new();
    let mut hosts = fleet(&master, 2);
    master.deploy(&on(1), false).unwrap();
    hosts[0].obey(&master);
    master.deploy(&on(2), true).unwrap();
    assert_eq!(where_is(&master), hosts[1].id);
    assert!(names(&hosts[0].bundle(&master)).is_empty());
    assert!(names(&hosts[1].bundle(&master)).is_empty());
    hosts[0].obey(&master);
    assert_eq!(names(&hosts[1].bundle(&master)), ["a"]);
    hosts[1].obey(&master);
    assert_eq!(master.state("a"), Some(DeckyState::Running));
}

/// A second move made the third host wait for the second one, which had never had the decky, and not for the first
/// one, which still ran it.
#[test]
fn a_decky_that_moves_twice_is_let_go_by_the_host_that_has_it() {
    let master = Master::new();
    let mut hosts = fleet(&master, 3);
    master.deploy(&on(1), false).unwrap();
    hosts[0].obey(&master);
    master.deploy(&on(2), true).unwrap();
    master.deploy(&on(3), true).unwrap();
    hosts[1].report(&master, nothing(), vec![]);
    assert!(
        names(&hosts[2].bundle(&master)).is_empty(),
        "the first host still runs it"
    );
    hosts[0].obey(&master);
    assert_eq!(names(&hosts[2].bundle(&master)), ["a"]);
}

#[test]
fn a_decky_that_comes_back_before_it_left_waits_for_nobody() {
    let master = Master::new();
    let mut hosts = fleet(&master, 2);
    master.deploy(&on(1), false).unwrap();
    hosts[0].obey(&master);
    master.deploy(&on(2), true).unwrap();
    master.deploy(&on(1), true).unwrap();
    assert_eq!(names(&hosts[0].bundle(&master)), ["a"]);
    assert!(names(&hosts[1].bundle(&master)).is_empty());
}

/// A host where the decky had never come up saw no change when it let go of it, so it reported none, and the new
/// host waited for ever.
#[test]
fn a_host_that_never_had_it_lets_go_of_it_as_well() {
    let master = Master::new();
    let hosts = fleet(&master, 2);
    hosts[0].report(&master, nothing(), vec![]);
    master.deploy(&on(1), false).unwrap();
    hosts[0].report(&master, None, vec![]);
    master.deploy(&on(2), true).unwrap();
    assert!(names(&hosts[1].bundle(&master)).is_empty());
    hosts[0].report(&master, None, vec![]);
    assert_eq!(names(&hosts[1].bundle(&master)), ["a"]);
}

/// One decky that did not come to rest kept all others from leaving its host.
#[test]
fn a_host_with_a_decky_that_cannot_run_lets_go_of_others_all_the_same() {
    let master = Master::new();
    let mut hosts = fleet(&master, 2);
    hosts[0].report(&master, nothing(), vec![]);
    master.deploy(&on(1), false).unwrap();
    hosts[0].converged = false;
    hosts[0].report(&master, None, vec![]);
    master.deploy(&on(2), true).unwrap();
    hosts[0].report(&master, None, vec![]);
    assert!(
        names(&hosts[1].bundle(&master)).is_empty(),
        "it has not looked since"
    );
    hosts[0].pending = vec![PendingStack {
        stack: "decnet-other".parse().unwrap(),
        decky: "other".parse().unwrap(),
        reason: "eth1 is down".to_owned(),
        tries: 4,
        next_try_at: None,
        quarantined: false,
    }];
    hosts[0].report(&master, None, vec![]);
    assert_eq!(names(&hosts[1].bundle(&master)), ["a"]);
}

#[test]
fn a_decky_removed_while_it_moves_goes_from_the_host_that_has_it() {
    let master = Master::new();
    let mut hosts = fleet(&master, 2);
    master.deploy(&on(1), false).unwrap();
    hosts[0].obey(&master);
    master.deploy(&on(2), true).unwrap();
    let id = master.control.remove(&operator(), &"a".parse().unwrap()).unwrap();
    master.control.publish_due().unwrap();
    assert!(names(&hosts[0].bundle(&master)).is_empty());
    hosts[1].report(&master, nothing(), vec![]);
    assert_eq!(master.state("a"), Some(DeckyState::TearingDown));
    hosts[0].obey(&master);
    hosts[1].obey(&master);
    assert_eq!(master.state("a"), None);
    assert!(master.row(id).status.is_terminal());
}

#[test]
fn a_row_that_waits_for_another_host_says_for_which() {
    let master = Master::new();
    let mut hosts = fleet(&master, 2);
    master.deploy(&on(1), false).unwrap();
    hosts[0].obey(&master);
    let ids = master.deploy(&on(2), true).unwrap();
    master.pass(time::Duration::minutes(16));
    master.control.fail_overdue().unwrap();
    let error = master.row(ids[0]).error.unwrap();
    assert!(error.contains("h1"), "{error}");
}
