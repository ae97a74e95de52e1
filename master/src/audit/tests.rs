use std::path::{Path, PathBuf};

use time::macros::datetime;

use super::*;
use crate::records::{HostStatus, Role, Settings};
use crate::store::{Db, Decision, Order, Reader, RedbStore, Store as _, StoreError};
use decnet_wire::ids::HostId;
use uuid::Uuid;

fn now() -> Timestamp {
    Timestamp::new(datetime!(2026-01-02 03:04:05.678 UTC))
}

fn somebody() -> Actor {
    Actor::token("ci", Role::Admin, Some("192.0.2.7".parse().unwrap()))
}

fn status(n: u128) -> HostStatus {
    HostStatus::unheard(HostId::new(Uuid::from_u128(n)))
}

/// Stores one record, and its entry.
fn change(db: &Db, n: u128, detail: Value) -> Result<(), StoreError> {
    db.change(&somebody(), now(), |w| {
        w.put(&status(n).host, &status(n))?;
        Ok(Change::new(Action::FleetLimit, "fleet").after(detail).done(()))
    })
}

fn all<R: Record>(db: &Db) -> Vec<R> {
    let read = |r: &Reader<'_>| r.all();
    db.read(read).unwrap()
}

fn entries(db: &Db) -> Vec<Value> {
    all::<StoredEntry>(db)
        .into_iter()
        .map(|StoredEntry(entry)| entry)
        .collect()
}

fn verified(entries: &[Value], head: Option<&str>) -> Result<(u64, String), Break> {
    let mut chain = Chain::new(head);
    entries.iter().try_for_each(|entry| chain.follow(entry))?;
    chain.end()
}

/// A store with a log of so many entries, closed.
struct Log {
    _folder: tempfile::TempDir,
    path: PathBuf,
    head: String,
}

impl Log {
    fn of(count: u128) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let db = Db::new(RedbStore::create(&path).unwrap());
        for n in 1..=count {
            change(&db, n, json!({ "number": n.to_string() })).unwrap();
        }
        let (last, head) = verified(&entries(&db), None).unwrap();
        assert_eq!(u128::from(last), count);
        Self {
            _folder: folder,
            path,
            head,
        }
    }

    /// What somebody with the store's file in hand makes of the table, and what a check finds then.
    fn tampered(&self, with: impl FnOnce(&mut Vec<(u64, Value)>), head: Option<&str>) -> Result<(), Break> {
        rewrite(&self.path, with);
        let db = Db::new(RedbStore::open(&self.path).unwrap());
        verified(&entries(&db), head).map(|_| ())
    }
}

fn rewrite(path: &Path, with: impl FnOnce(&mut Vec<(u64, Value)>)) {
    let mut with = Some(with);
    let store = RedbStore::open(path).unwrap();
    store
        .transact(&mut |t| {
            let mut rows = Vec::new();
            t.scan(Table::Audit, Order::Ascending, &mut |key, value| {
                let seq = u64::from_be_bytes(key.try_into().unwrap());
                rows.push((seq, serde_json::from_slice(&value[1..]).unwrap()));
                true
            })
            .unwrap();
            for (seq, _) in &rows {
                t.remove(Table::Audit, &seq.to_be_bytes()).unwrap();
            }
            (with.take().unwrap())(&mut rows);
            for (seq, entry) in rows {
                let value = [&[1], serde_json::to_vec(&entry).unwrap().as_slice()].concat();
                t.put(Table::Audit, &seq.to_be_bytes(), &value).unwrap();
            }
            Decision::Commit
        })
        .unwrap();
}

/// As a forger would who knows the form: the entry's own digest is right again.
fn sealed(mut entry: Value) -> Value {
    entry["digest"] = json!(digest_of(&entry));
    entry
}

#[test]
fn an_entry_that_was_changed_is_found() {
    let forged = |member: &str, value: Value| {
        let log = Log::of(5);
        log.tampered(|rows| rows[2].1[member] = value, None)
    };
    for (member, value) in [
        ("at", json!("2026-01-02T03:04:05.679Z")),
        ("actor", json!({ "kind": "master" })),
        ("from", Value::Null),
        ("action", json!("fleet.init")),
        ("subject", json!("host/edge")),
        ("before", json!({})),
        ("after", json!({ "number": "4" })),
        ("digest", json!(beginning())),
        ("more", json!(1)),
    ] {
        assert_eq!(forged(member, value), Err(Break::Changed { seq: 3 }), "{member}");
    }
}

#[test]
fn an_entry_that_was_changed_and_sealed_anew_is_found_by_the_next_one() {
    let log = Log::of(5);
    let forge = |rows: &mut Vec<(u64, Value)>| {
        rows[2].1["after"] = json!({ "number": "7" });
        rows[2].1 = sealed(rows[2].1.clone());
    };
    assert_eq!(log.tampered(forge, None), Err(Break::Previous { seq: 4 }));
}

#[test]
fn an_entry_that_was_taken_out_of_the_middle_or_the_beginning_is_found() {
    let log = Log::of(5);
    let missing = log.tampered(|rows| drop(rows.remove(2)), None);
    assert_eq!(missing, Err(Break::Gap { after: 2, found: 4 }));
    let log = Log::of(5);
    let first = log.tampered(|rows| drop(rows.remove(0)), None);
    assert_eq!(first, Err(Break::Gap { after: 0, found: 2 }));
    // Also when those after it are numbered anew.
    let log = Log::of(5);
    let closed = log.tampered(
        |rows| {
            rows.remove(2);
            for (seq, entry) in rows.iter_mut().skip(2) {
                *seq -= 1;
                entry["seq"] = json!(*seq);
                *entry = sealed(entry.clone());
            }
        },
        None,
    );
    assert_eq!(closed, Err(Break::Previous { seq: 3 }));
}

#[test]
fn two_entries_that_changed_places_are_found() {
    let log = Log::of(5);
    let swapped = log.tampered(
        |rows| {
            let third = rows[2].1.clone();
            rows[2].1 = std::mem::replace(&mut rows[3].1, third);
        },
        None,
    );
    assert_eq!(swapped, Err(Break::Gap { after: 2, found: 4 }));
}

#[test]
fn an_end_that_was_cut_off_is_found_with_a_head_that_was_kept() {
    let log = Log::of(5);
    let head = log.head.clone();
    assert_eq!(log.tampered(|_| {}, Some(&head)), Ok(()));
    assert_eq!(
        log.tampered(|rows| rows.truncate(3), None),
        Ok(()),
        "it cannot be seen"
    );
    let cut = log.tampered(|_| {}, Some(&head));
    assert_eq!(cut, Err(Break::Head { head, last: 3 }));
}

#[test]
fn a_head_of_some_time_ago_is_good_as_long_as_nothing_before_it_was_rewritten() {
    let log = Log::of(3);
    let db = Db::new(RedbStore::open(&log.path).unwrap());
    change(&db, 9, json!({})).unwrap();
    assert_eq!(verified(&entries(&db), Some(&log.head)).unwrap().0, 4);
    drop(db);
    // A whole new chain of the same length.
    let rewritten = log.tampered(
        |rows| {
            let mut last = beginning().to_string();
            for (_, entry) in rows.iter_mut() {
                entry["actor"] = json!({ "kind": "master" });
                entry["previous"] = json!(last);
                *entry = sealed(entry.clone());
                last = entry["digest"].as_str().unwrap().to_owned();
            }
        },
        Some(&log.head),
    );
    assert!(
        matches!(rewritten, Err(Break::Head { last: 4, .. })),
        "{rewritten:?}"
    );
}

#[test]
fn a_damaged_last_entry_shows_and_stops_nobody() {
    let log = Log::of(3);
    rewrite(&log.path, |rows| rows[2].1 = json!("gone"));
    let db = Db::new(RedbStore::open(&log.path).unwrap());
    change(&db, 9, json!({})).unwrap();
    assert_eq!(verified(&entries(&db), None), Err(Break::Unnumbered { after: 2 }));
    assert_eq!(entries(&db)[3]["seq"], 4);
}

#[test]
fn a_change_that_failed_leaves_no_entry_and_an_entry_is_never_without_its_change() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::new(RedbStore::create(&folder.path().join("store.redb")).unwrap());
    let failed = db.change(&somebody(), now(), |w| {
        w.put(&status(1).host, &status(1))?;
        Err::<Audited<()>, _>(StoreError::Chain)
    });
    assert!(failed.is_err());
    assert!(entries(&db).is_empty());
    change(&db, 1, json!({})).unwrap();
    let statuses = all::<HostStatus>(&db);
    assert_eq!((statuses.len(), entries(&db).len()), (1, 1));
}

#[test]
fn what_was_written_without_an_entry_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::new(RedbStore::create(&folder.path().join("store.redb")).unwrap());
    let unsaid = db.change(&somebody(), now(), |w| {
        w.put(&status(1).host, &status(1))?;
        Ok(Audited::Unchanged(()))
    });
    assert!(matches!(unsaid, Err(StoreError::Unaudited { .. })), "{unsaid:?}");
    assert!(all::<HostStatus>(&db).is_empty());
    // Nor is there a way around, into the log itself or into what only people decide.
    let entry = StoredEntry(json!({}));
    assert!(db.bookkeep(|w| w.put(&1, &entry)).is_err());
    assert!(db.bookkeep(|w| w.remove::<Settings>(&())).is_err());
    let within = db.change(&somebody(), now(), |w| {
        w.put(&1, &entry)?;
        Ok::<_, StoreError>(Change::new(Action::FleetLimit, "fleet").done(()))
    });
    assert!(matches!(within, Err(StoreError::Unaudited { table: "audit" })));
}

#[test]
fn an_entry_holds_a_bounded_part_of_a_large_change_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::new(RedbStore::create(&folder.path().join("store.redb")).unwrap());
    let large = json!({ "text": "é".repeat(30_000), "part": 0.5 });
    change(&db, 1, large).unwrap();
    let many = names((0..500).map(|n| format!("decky-with-a-long-name-of-sixty-three-letters-{n:017}")));
    change(&db, 2, json!({ "added": many, "removed": many, "changed": many })).unwrap();
    let entries = entries(&db);
    verified(&entries, None).unwrap();
    assert!(entries[0].to_string().len() < 4096);
    assert_eq!(entries[0]["after"]["cut"]["bytes"], 60_024);
    // 500 deckies are one entry, which still names some of them.
    assert_eq!(entries[1]["after"]["added"]["count"], 500);
    assert_eq!(
        entries[1]["after"]["added"]["names"].as_array().unwrap().len(),
        NAMES
    );
    assert!(entries[1].to_string().len() < DETAIL + 1024);
}

/// The bytes that stand in the documentation. Another program reads old logs by them.
#[test]
fn the_canonical_form_is_the_one_that_is_documented() {
    let entry = json!({
        "seq": 1, "schema": 1, "digest": "not counted",
        "after": { "b": [1, null, true], "a": "\u{1}\n\"\\/é\u{7f}" },
    });
    let mut text = String::new();
    write_object(
        entry
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| *name != "digest"),
        &mut text,
    );
    let expected =
        "{\"after\":{\"a\":\"\\u0001\\n\\\"\\\\/é\u{7f}\",\"b\":[1,null,true]},\"schema\":1,\"seq\":1}";
    assert_eq!(text, expected);
    let whole = Entry::following(None, now(), &somebody(), Change::new(Action::FleetInit, "fleet")).unwrap();
    assert_eq!(
        whole.digest.to_string(),
        "sha256:f9ece9b954fa8451d2a142d9c83aa025fc308d38f8a1990b4848c92428515e17"
    );
}
