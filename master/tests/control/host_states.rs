//! What hosts are said to be: active, unreachable and the rest.

use decnet::control::hosts::HostState;

use crate::scene::{Host, Master, operator};

fn state(master: &Master, host: &Host) -> HostState {
    master.control.host(host.id).unwrap().state
}

fn pass(master: &Master, seconds: i64) {
    master.pass(time::Duration::seconds(seconds));
}

#[test]
fn a_host_is_enrolled_active_unreachable_and_revoked_in_turn() {
    let master = Master::new();
    let host = Host::enrol(&master, "edge-01");
    pass(&master, 1000);
    assert_eq!(state(&master, &host), HostState::Enrolled);
    host.report(&master, None, vec![]);
    assert_eq!(state(&master, &host), HostState::Active);
    pass(&master, 105);
    assert_eq!(state(&master, &host), HostState::Active);
    pass(&master, 1);
    assert_eq!(state(&master, &host), HostState::Unreachable);
    host.report(&master, None, vec![]);
    assert_eq!(state(&master, &host), HostState::Active);
    master.control.revoke(&operator(), host.id).unwrap();
    assert_eq!(state(&master, &host), HostState::Revoked);
}

/// The silence was told by the clock: a step of it made every host unreachable, or active, at once.
#[test]
fn a_step_of_the_clock_changes_no_state() {
    let master = Master::new();
    let (here, gone) = (Host::enrol(&master, "here"), Host::enrol(&master, "gone"));
    gone.report(&master, None, vec![]);
    pass(&master, 200);
    here.report(&master, None, vec![]);
    for days in [365, -730, 3, 365] {
        master.set_clock(time::Duration::days(days));
        assert_eq!(state(&master, &here), HostState::Active, "{days}");
        assert_eq!(state(&master, &gone), HostState::Unreachable, "{days}");
    }
}

#[test]
fn a_master_that_was_away_gives_every_host_a_whole_period() {
    let master = Master::new();
    let host = Host::enrol(&master, "edge-01");
    host.report(&master, None, vec![]);
    master.control.flush_status().unwrap();
    // It is away for a day.
    pass(&master, 86_400);
    let master = master.restart();
    for _ in 0..=105 {
        assert_eq!(state(&master, &host), HostState::Active);
        pass(&master, 1);
    }
    assert_eq!(state(&master, &host), HostState::Unreachable);
}
