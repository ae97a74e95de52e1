use decnet_wire::ids::DeckyName;
use proptest::prelude::{Strategy, prop, prop_oneof, proptest};
use time::macros::datetime;
use uuid::Uuid;

use super::*;
use crate::records::RowStatus as S;
use crate::store::{Db, RedbStore};

fn at(second: i64) -> Timestamp {
    Timestamp::new(datetime!(2026-01-01 00:00 UTC) + time::Duration::seconds(second))
}

fn host() -> Who {
    Who::Host {
        name: "east".parse().unwrap(),
        id: HostId::new(Uuid::from_u128(1)),
    }
}

fn pending() -> Row {
    Row::begin(
        OperationId::new(Uuid::from_u128(7)),
        OperationKind::Deploy,
        "web".parse().unwrap(),
        HostId::new(Uuid::from_u128(1)),
        &Who::Master {},
        at(0),
    )
}

fn failed() -> Outcome {
    Outcome::Failed {
        error: "no".to_owned(),
    }
}

fn statuses(row: &Row) -> Vec<S> {
    row.transitions
        .iter()
        .map(|transition| transition.status)
        .collect()
}

#[test]
fn a_row_says_who_moved_it_and_when() {
    let mut row = pending();
    assert_eq!(apply(&mut row, &Outcome::Running, &host(), at(1)), Applied::Moved);
    assert_eq!(apply(&mut row, &failed(), &host(), at(2)), Applied::Moved);
    assert_eq!(statuses(&row), [S::Pending, S::Running, S::Failed]);
    let told: Vec<(String, Timestamp)> = row
        .transitions
        .iter()
        .map(|transition| (transition.by.to_string(), transition.at))
        .collect();
    let expected = [("master", 0), ("host east", 1), ("host east", 2)];
    assert_eq!(told, expected.map(|(by, second)| (by.to_owned(), at(second))));
    assert_eq!(row.cause, Some(Cause::ReportedByHost));
}

#[test]
fn a_late_outcome_is_kept_beside_the_row_with_its_time() {
    let mut ended = pending();
    ended.end(
        End::Failed(Cause::Deadline, "too long".to_owned()),
        &Who::Master {},
        at(1),
    );
    assert_eq!(
        apply(&mut ended, &Outcome::Succeeded, &host(), at(9)),
        Applied::Late
    );
    assert_eq!(
        (ended.late.clone(), ended.late_at),
        (Some(Outcome::Succeeded), Some(at(9)))
    );
    assert_eq!(
        apply(&mut ended, &Outcome::Succeeded, &host(), at(10)),
        Applied::Unchanged
    );
}

#[test]
fn an_outcome_that_comes_twice_moves_the_row_once() {
    let mut open = pending();
    for (outcome, expected) in [
        (Outcome::Running, Applied::Moved),
        (Outcome::Running, Applied::Unchanged),
        (Outcome::Succeeded, Applied::Moved),
        (Outcome::Succeeded, Applied::Unchanged),
        (Outcome::Running, Applied::Unchanged),
    ] {
        assert_eq!(apply(&mut open, &outcome, &host(), at(1)), expected);
    }
    assert_eq!(open.transitions.len(), 3);
}

#[test]
fn a_row_of_an_older_master_reads() {
    let json = r#"{"id":"00000000-0000-0000-0000-000000000007","decky":"web","host":null,"operation":"deploy",
        "status":"failed","error":"no","started_at":"2026-01-01T00:00:00.000Z",
        "updated_at":"2026-01-01T00:00:00.000Z","completed_at":"2026-01-01T00:00:00.000Z","late":null}"#;
    let mut row: Row = crate::store::Record::migrate(1, json.as_bytes()).unwrap();
    assert!(row.transitions.is_empty() && row.cause.is_none());
    // What it says of the past stays; what comes is kept.
    assert_eq!(apply(&mut row, &failed(), &host(), at(5)), Applied::Unchanged);
    assert_eq!(
        apply(&mut row, &Outcome::Succeeded, &host(), at(5)),
        Applied::Late
    );
}

/// What may befall rows of one decky.
#[derive(Debug, Clone)]
enum Step {
    Begin,
    /// What a host says of the n-th operation, however old.
    Say(usize, Outcome),
    /// The sweep ends the n-th operation.
    Sweep(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        prop::strategy::Just(Outcome::Running),
        prop::strategy::Just(Outcome::Succeeded),
        prop::strategy::Just(failed()),
    ];
    let step = prop_oneof![
        prop::strategy::Just(Step::Begin),
        (0..6_usize, outcome).prop_map(|(n, outcome)| Step::Say(n, outcome)),
        (0..6_usize).prop_map(Step::Sweep),
    ];
    prop::collection::vec(step, 1..40)
}

fn record(name: &DeckyName) -> DeckyRecord {
    let decky = serde_json::json!({
        "decky": {
            "name": name, "address": "10.9.0.2", "mac": "02:00:00:00:00:01", "hostname": "web", "distro": "debian",
            "os_family": "linux", "services": ["ssh"], "last_mutated": at(0), "seed": "07".repeat(32),
            "host": Uuid::from_u128(1),
        },
        "removing": false, "operation": null, "previous": null, "leaving": null,
    });
    serde_json::from_value(decky).unwrap()
}

/// Takes every step as the master does, and also tries to write what must not be written.
fn play(steps: &[Step]) {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::new(RedbStore::create(&folder.path().join("store.redb")).unwrap());
    let mut decky = record(&"web".parse().unwrap());
    let mut ids: Vec<OperationId> = Vec::new();
    let mut known: Vec<Row> = Vec::new();
    for (second, step) in (1..).zip(steps) {
        let now = at(second);
        let at_n = |n: &usize| (!ids.is_empty()).then(|| ids[n % ids.len()]);
        match step {
            Step::Begin => {
                let (by, tracer) = (Actor::master(), Tracer::off());
                db.bookkeep(|w| begin(w, &mut decky, OperationKind::Mutate, &by, now, &tracer))
                    .unwrap();
                ids.extend(decky.operation.map(|operation| operation.id));
            }
            Step::Say(n, outcome) => {
                let Some(id) = at_n(n) else { continue };
                db.bookkeep(|w| {
                    let mut row = w.get::<Row>(&id)?.unwrap();
                    apply(&mut row, outcome, &host(), now);
                    w.put(&id, &row)
                })
                .unwrap();
            }
            Step::Sweep(n) => {
                let Some(id) = at_n(n) else { continue };
                db.bookkeep(|w| {
                    let mut row = w.get::<Row>(&id)?.unwrap();
                    row.end(
                        End::Failed(Cause::Deadline, "too long".to_owned()),
                        &Who::Master {},
                        now,
                    );
                    w.put(&id, &row)
                })
                .unwrap();
            }
        }
        let rows: Vec<Row> = ids
            .iter()
            .map(|id| db.read(|r| r.get::<Row>(id)).unwrap().unwrap())
            .collect();
        for (before, after) in known.iter().zip(&rows) {
            if before.status.is_terminal() {
                let without = |row: &Row| Row {
                    late: None,
                    late_at: None,
                    ..row.clone()
                };
                assert_eq!(without(before), without(after));
            }
            assert!(after.transitions.starts_with(&before.transitions));
        }
        let open = rows.iter().filter(|row| !row.status.is_terminal()).count();
        assert!(open <= 1, "a newer operation supersedes the one before");
        for row in &rows {
            assert!(row.transitions.len() <= 3);
            assert!(statuses(row).is_sorted_by(|a, b| a < b));
            assert_eq!(row.transitions.last().unwrap().status, row.status);
            assert_eq!(row.completed_at.is_some(), row.status.is_terminal());
            assert_eq!(row.cause.is_some(), row.status == S::Failed);
            // Somebody who does not ask how it stands cannot write over it, or away.
            let forced = Row {
                status: S::Pending,
                updated_at: now,
                ..row.clone()
            };
            if row.status != S::Pending {
                let refused = db.bookkeep(|w| w.put(&row.id, &forced));
                assert!(
                    matches!(refused, Err(StoreError::Immutable { .. })),
                    "{refused:?}"
                );
            }
            if row.status.is_terminal() {
                let other = Row {
                    updated_at: at(1_000),
                    ..row.clone()
                };
                let refused = db.bookkeep(|w| w.put(&row.id, &other));
                assert!(
                    matches!(refused, Err(StoreError::Immutable { .. })),
                    "{refused:?}"
                );
            }
            if !row.status.is_terminal() {
                let refused = db.bookkeep(|w| w.remove::<Row>(&row.id));
                assert!(
                    matches!(refused, Err(StoreError::Immutable { .. })),
                    "{refused:?}"
                );
            }
        }
        known = rows;
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    #[test]
    fn no_interleaving_changes_what_has_ended(steps in steps()) {
        play(&steps);
    }
}
