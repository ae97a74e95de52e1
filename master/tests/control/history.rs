//! What is kept of operations that have ended, and what goes.

use decnet::control::history::Keep;
use decnet::control::rows::RowFilter;
use decnet::control::{Limits, Parts};
use decnet::records::{Row, RowStatus};
use decnet_wire::ids::DeckyName;

use crate::scene::{Host, Master, TWO, operator, parts};

/// A fleet of two, whose decky `a` was mutated so often, a day apart. Its last mutation is open.
fn mutated(times: usize) -> (Master, Host) {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    let a: DeckyName = "a".parse().unwrap();
    for _ in 0..times {
        master.pass(time::Duration::days(1));
        master.control.mutate(&operator(), &a).unwrap();
    }
    (master, host)
}

fn rows(master: &Master) -> Vec<Row> {
    let filter = RowFilter {
        limit: 1000,
        ..RowFilter::default()
    };
    master.control.list_rows(filter).unwrap()
}

const NOTHING: Keep = Keep {
    age: None,
    rows: Some(0),
};

#[test]
fn open_rows_and_the_newest_of_each_decky_stay_whatever_is_asked() {
    let (master, _host) = mutated(20);
    assert_eq!(rows(&master).len(), 22);
    let would = master.control.purge(&operator(), NOTHING, true).unwrap();
    assert_eq!(rows(&master).len(), 22, "nobody asked for more than the numbers");
    let purged = master.control.purge(&operator(), NOTHING, false).unwrap();
    assert_eq!(would, purged);
    assert_eq!((purged.rows(), purged.left), (20, 2));
    assert_eq!(purged.by_status[&RowStatus::Superseded], 19);
    assert_eq!(purged.by_status[&RowStatus::Succeeded], 1);
    let left = rows(&master);
    assert_eq!(left.len(), 2);
    assert!(left.iter().any(|row| row.decky.as_str() == "b"));
    assert!(left.iter().any(|row| !row.status.is_terminal()));
    let again = master.control.purge(&operator(), NOTHING, false).unwrap();
    assert_eq!(again.rows(), 0);
}

#[test]
fn the_oldest_go_first_and_no_more_than_needed() {
    let (master, _host) = mutated(20);
    let keep = Keep {
        age: None,
        rows: Some(10),
    };
    let purged = master.control.purge(&operator(), keep, false).unwrap();
    assert_eq!((purged.rows(), purged.left), (12, 10));
    let keep = Keep {
        age: Some(time::Duration::days(3)),
        rows: None,
    };
    let before = rows(&master);
    master.control.purge(&operator(), keep, false).unwrap();
    let now = *master.now.lock().unwrap();
    let old = |row: &&Row| {
        row.completed_at
            .is_some_and(|at| now.get() - at.get() > time::Duration::days(3))
    };
    assert!(before.iter().any(|row| old(&row)));
    let b_alone: Vec<Row> = rows(&master).into_iter().filter(|row| old(&row)).collect();
    assert!(b_alone.iter().all(|row| row.decky.as_str() == "b"), "{b_alone:?}");
}

#[test]
fn the_sweep_keeps_what_the_operator_said() {
    let (master, _host) = mutated(20);
    let master = master.restart_from(|folder| {
        let mut limits = Limits::default();
        limits.keep.rows = Some(5);
        Parts {
            limits,
            ..parts(folder)
        }
    });
    assert_eq!(master.control.prune().unwrap(), 17);
    assert_eq!(rows(&master).len(), 5);
    assert_eq!(master.control.prune().unwrap(), 0);
}

/// Whoever sets the clock a year ahead loses nothing of the history.
#[test]
fn age_is_not_judged_by_a_clock_that_was_set() {
    let (master, _host) = mutated(5);
    master.set_clock(time::Duration::days(365));
    assert_eq!(master.control.prune().unwrap(), 0);
    master.set_clock(time::Duration::days(-365));
    master.pass(time::Duration::days(365));
    assert_eq!(master.control.prune().unwrap(), 5);
}
