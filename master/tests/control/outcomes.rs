//! What hosts say late, twice, too much or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use decnet::control::hosts::{DeckyState, HostState};
use decnet::fleet::model::{Decky, Interval, Minutes};
use decnet::init;
use decnet::records::RowStatus;
use decnet::store::{Db, Decision, RedbStore, Store, StoreError, Transaction, View};
use decnet_wire::ids::{DeckyName, OperationId};
use decnet_wire::observed::Observed;
use decnet_wire::report::{Event, EventBody, Outcome, PendingStack};

use crate::scene::{Host, Master, TWO, operator, parts_over};

fn failed() -> Outcome {
    Outcome::Failed {
        error: "ssh exited".to_owned(),
    }
}

fn name(text: &str) -> DeckyName {
    text.parse().unwrap()
}

fn decky(master: &Master, name: &str) -> Decky {
    let deckies = master.control.deckies().unwrap();
    let found = deckies
        .into_iter()
        .find(|view| view.record.decky.name.as_str() == name);
    found.unwrap().record.decky
}

fn mutate(master: &Master, decky: &str) -> OperationId {
    let id = master.control.mutate(&operator(), &name(decky)).unwrap();
    master.control.publish_due().unwrap();
    id
}

/// A fleet of two that runs, whose decky `a` alone changes by itself, every ten minutes.
fn rotating() -> (Master, Host) {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    let ten = Interval::Minutes(Minutes::try_from(10).unwrap());
    master.control.set_interval(&operator(), &name("a"), ten).unwrap();
    master
        .control
        .set_interval(&operator(), &name("b"), Interval::Disabled)
        .unwrap();
    (master, host)
}

/// A mutation was given up at its deadline. When the host then said that it had failed, that was what the row said
/// already, and the fleet kept the services that never ran.
#[test]
fn a_failure_after_the_deadline_still_brings_the_old_services_back() {
    let (master, mut host) = rotating();
    let before = decky(&master, "a").services;
    let id = mutate(&master, "a");
    master.pass(time::Duration::minutes(16));
    assert_eq!(master.control.fail_overdue().unwrap(), 1);
    assert_ne!(decky(&master, "a").services, before, "nobody knows yet what runs");
    host.say(&master, id, failed());
    assert_eq!(decky(&master, "a").services, before);
    assert_eq!(host.bundle(&master).stacks[0].operation, None);
}

/// The other way round: the row stays failed, the fleet says what runs.
#[test]
fn a_success_after_the_deadline_keeps_the_new_services() {
    let (master, mut host) = rotating();
    let id = mutate(&master, "a");
    let after = decky(&master, "a").services;
    master.pass(time::Duration::minutes(16));
    master.control.fail_overdue().unwrap();
    host.say(&master, id, Outcome::Succeeded);
    assert_eq!(master.row(id).status, RowStatus::Failed);
    assert_eq!(master.row(id).late, Some(Outcome::Succeeded));
    assert_eq!(decky(&master, "a").services, after);
    host.say(&master, id, failed());
    assert_eq!(decky(&master, "a").services, after, "the first word counts");
}

/// The state that came back with a failed mutation said when it had last changed: it was due again, and mutated
/// again every ten seconds for as long as it failed.
#[test]
fn a_failed_mutation_waits_for_a_whole_interval() {
    let (master, mut host) = rotating();
    master.pass(time::Duration::minutes(11));
    host.report(&master, None, vec![]);
    assert_eq!(master.control.mutate_due().unwrap(), 1);
    master.control.publish_due().unwrap();
    let open = master.control.deckies().unwrap()[0].row.clone().unwrap();
    host.say(&master, open.id, failed());
    assert_eq!(master.control.mutate_due().unwrap(), 0);
    master.pass(time::Duration::minutes(9));
    host.report(&master, None, vec![]);
    assert_eq!(master.control.mutate_due().unwrap(), 0);
    master.pass(time::Duration::minutes(2));
    host.report(&master, None, vec![]);
    assert_eq!(master.control.mutate_due().unwrap(), 1);
}

/// A host that was away for a day had a failed mutation for each interval of each of its deckies.
#[test]
fn mutations_do_not_pile_up_while_a_host_is_away() {
    let (master, host) = rotating();
    master.pass(time::Duration::minutes(11));
    assert_eq!(
        master.control.host(host.id).unwrap().state,
        HostState::Unreachable
    );
    assert_eq!(master.control.mutate_due().unwrap(), 0);
    // It goes away with a mutation on its hands: that one is enough.
    host.report(&master, None, vec![]);
    assert_eq!(master.control.mutate_due().unwrap(), 1);
    for _ in 0..10 {
        master.pass(time::Duration::minutes(20));
        master.control.fail_overdue().unwrap();
        host.report(&master, None, vec![]);
        assert_eq!(master.control.mutate_due().unwrap(), 0);
    }
}

/// An interval that is set while a mutation is open stays set when the mutation fails.
#[test]
fn an_interval_outlives_a_failed_mutation() {
    let (master, mut host) = rotating();
    let id = mutate(&master, "a");
    master
        .control
        .set_interval(&operator(), &name("a"), Interval::Disabled)
        .unwrap();
    host.say(&master, id, failed());
    assert_eq!(decky(&master, "a").interval, Interval::Disabled);
}

/// A replacing deploy over an open mutation took the mutated services, which had never run, for the state to come
/// back to.
#[test]
fn what_comes_back_is_what_ran_and_not_what_was_asked_for_last() {
    let (master, mut host) = rotating();
    let ran = decky(&master, "a").services;
    mutate(&master, "a");
    let redis = TWO.replace("services=ssh", "services=redis");
    let ids = master.deploy(&redis, true).unwrap();
    host.say(&master, ids[0], failed());
    assert_eq!(decky(&master, "a").services, ran);
}

/// What a host says late of an operation that was superseded is about services that nobody asks for any more.
#[test]
fn the_end_of_a_superseded_operation_does_not_move_its_decky() {
    let (master, mut host) = rotating();
    let first = mutate(&master, "a");
    let second = mutate(&master, "a");
    let asked = decky(&master, "a").services;
    host.say(&master, first, failed());
    assert_eq!(master.row(first).status, RowStatus::Superseded);
    assert_eq!(decky(&master, "a").services, asked);
    assert_eq!(master.row(second).status, RowStatus::Pending);
}

/// A decky went back to an address that the same description had given to another one.
#[test]
fn a_failed_deploy_does_not_bring_back_an_address_that_is_taken() {
    let (master, mut host) = rotating();
    let at = |a: &str, b: &str| {
        TWO.replace("services=ssh", &format!("services=ssh\nip={a}"))
            .replace("services=http", &format!("services=http\nip={b}"))
    };
    master.deploy(&at("10.9.0.20", "10.9.0.21"), true).unwrap();
    host.obey(&master);
    let ids = master.deploy(&at("10.9.0.21", "10.9.0.20"), true).unwrap();
    let of_a = ids
        .into_iter()
        .find(|id| master.row(*id).decky == name("a"))
        .unwrap();
    host.say(&master, of_a, failed());
    assert_ne!(decky(&master, "a").address, decky(&master, "b").address);
}

/// A decky went back to a service whose definition had gone with the description: from then on nothing could be
/// compiled for its host.
#[test]
fn a_failed_deploy_finds_the_services_that_it_goes_back_to() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    let image = format!("registry.example/probe@sha256:{}", "1".repeat(64));
    let custom = format!(
        "{}[custom-probe]\nbinary={image}\nexec=/probe\nports=7000\n",
        TWO.replace("services=ssh", "services=probe")
    );
    master.deploy(&custom, false).unwrap();
    host.obey(&master);
    let ids = master.deploy(TWO, true).unwrap();
    let of_a = ids
        .into_iter()
        .find(|id| master.row(*id).decky == name("a"))
        .unwrap();
    host.say(&master, of_a, failed());
    assert_eq!(decky(&master, "a").services[0].as_str(), "probe");
    assert_eq!(master.control.unpublished().unwrap(), Vec::<String>::new());
}

#[test]
fn a_failed_removal_is_asked_for_again_and_a_late_one_is_done() {
    let (master, mut host) = rotating();
    let first = master.control.remove(&operator(), &name("a")).unwrap();
    master.control.publish_due().unwrap();
    host.say(&master, first, failed());
    assert_eq!(master.state("a"), Some(DeckyState::TearingDown));
    let second = master.control.remove(&operator(), &name("a")).unwrap();
    assert_ne!(first, second);
    master.control.publish_due().unwrap();
    master.pass(time::Duration::minutes(16));
    master.control.fail_overdue().unwrap();
    host.say(&master, second, Outcome::Succeeded);
    assert_eq!(master.state("a"), None);
    assert_eq!(master.row(second).status, RowStatus::Failed);
}

/// A host's words were stored at any length, and printed with their control characters.
#[test]
fn a_host_cannot_fill_the_store_or_move_the_cursor_with_words() {
    let (master, mut host) = rotating();
    let id = mutate(&master, "a");
    let words = format!("\u{1b}[2J{}", "x".repeat(1_000_000));
    host.say(&master, id, Outcome::Failed { error: words.clone() });
    let error = master.row(id).error.unwrap();
    assert!(error.len() <= 2000 && !error.contains('\u{1b}'));
    host.seq += 1;
    let body = EventBody::Refused {
        code: "policy".to_owned(),
        detail: words,
        generation: None,
    };
    let at = *master.now.lock().unwrap();
    let refused = Event {
        seq: host.seq,
        at,
        body,
    };
    host.report(&master, None, vec![refused]);
    let refusal = |master: &Master| master.control.host(host.id).unwrap().status.refusal;
    assert!(refusal(&master).unwrap().len() <= 2000);
    // A refusal was shown for ever, also when the next bundle had been accepted.
    mutate(&master, "a");
    host.report(&master, None, vec![]);
    assert_eq!(refusal(&master), None);
}

/// Numbers as large as they get, unknown operations and repeated numbers concern their host alone.
#[test]
fn absurd_events_hurt_their_host_alone() {
    let (master, mut host) = rotating();
    let other = Host::enrol(&master, "other");
    let at = *master.now.lock().unwrap();
    let body = EventBody::Operation {
        id: OperationId::new(uuid::Uuid::nil()),
        decky: name("a"),
        kind: decnet_wire::bundle::OperationKind::Deploy,
        outcome: failed(),
    };
    let last = Event {
        seq: 1 << 41,
        at,
        body,
    };
    assert_eq!(other.report(&master, None, vec![last.clone(), last]), 1 << 41);
    let id = mutate(&master, "a");
    host.say(&master, id, Outcome::Succeeded);
    assert_eq!(master.row(id).status, RowStatus::Succeeded);
}

#[test]
fn what_a_host_has_quarantined_stands_with_its_decky() {
    let (master, mut host) = rotating();
    let id = mutate(&master, "a");
    host.say(&master, id, failed());
    host.pending = vec![PendingStack {
        stack: "decnet-a".parse().unwrap(),
        decky: name("a"),
        reason: "line\nfeed".to_owned(),
        tries: 3,
        next_try_at: None,
        quarantined: true,
    }];
    host.report(&master, Some(Observed::default()), vec![]);
    let deckies = master.control.deckies().unwrap();
    let pending = deckies[0].pending.as_ref().unwrap();
    assert!(pending.quarantined);
    assert_eq!(pending.reason, "line feed", "no control characters from a host");
    assert_eq!(deckies[0].state, DeckyState::Failed, "and nothing of it runs");
    let hosts = master.control.hosts().unwrap();
    let status = &hosts.iter().find(|view| view.host.id == host.id).unwrap().status;
    assert_eq!(status.pending.len(), 1);
    // It stands until the host says otherwise, also for a master that was restarted.
    master.control.flush_status().unwrap();
    host.pending.clear();
    host.report(&master, None, vec![]);
    assert_eq!(master.control.deckies().unwrap()[0].pending, None);
}

#[test]
fn drift_is_counted_once_each_and_over_restarts_of_the_master() {
    let (master, mut host) = rotating();
    let first = host.drift(&master, "a", "it ended");
    host.report(&master, None, vec![first.clone()]);
    // Its answer was lost.
    host.report(&master, None, vec![first]);
    let master = master.restart();
    let second = host.drift(&master, "a", "it was removed");
    host.report(&master, None, vec![second]);
    let hosts = master.control.hosts().unwrap();
    let status = &hosts.iter().find(|view| view.host.id == host.id).unwrap().status;
    assert_eq!(status.drifts, 2);
    assert!(
        status
            .last_drift
            .as_ref()
            .unwrap()
            .1
            .contains("a: it was removed")
    );
}

/// The flush writes what hosts last said of themselves. How far their events were taken stands in the same record.
#[test]
fn a_flush_takes_no_acknowledgement_back() {
    let (master, mut host) = rotating();
    let drift = host.drift(&master, "a", "ssh stopped");
    host.report(&master, None, vec![drift.clone()]);
    master.pass(time::Duration::seconds(30));
    host.report(&master, None, vec![]);
    master.control.flush_status().unwrap();
    let master = master.restart();
    assert_eq!(host.report(&master, None, vec![drift.clone()]), host.seq);
    assert_eq!(master.control.host(host.id).unwrap().status.drifts, 1);
}

/// An agent that got no answer sends what it has said together with what is new.
#[test]
fn an_event_that_comes_again_with_a_newer_one_counts_once() {
    let (master, mut host) = rotating();
    let first = host.drift(&master, "a", "ssh stopped");
    let second = host.drift(&master, "a", "ssh stopped");
    host.report(&master, None, vec![first.clone()]);
    assert_eq!(host.report(&master, None, vec![first, second]), host.seq);
    assert_eq!(master.control.host(host.id).unwrap().status.drifts, 2);
}

/// A store whose disk takes nothing while it is full. What fits nowhere is found out at the commit.
#[derive(Debug)]
struct Filling {
    store: RedbStore,
    full: Arc<AtomicBool>,
}

impl Store for Filling {
    fn view(&self) -> Result<Box<dyn View + '_>, StoreError> {
        self.store.view()
    }

    fn transact(&self, work: &mut dyn FnMut(&mut dyn Transaction) -> Decision) -> Result<(), StoreError> {
        if !self.full.load(Ordering::SeqCst) {
            return self.store.transact(work);
        }
        self.store.transact(&mut |transaction| {
            work(transaction);
            Decision::Abort
        })?;
        Err(StoreError::Access {
            action: "commit to",
            source: redb::Error::Io(std::io::ErrorKind::StorageFull.into()),
        })
    }
}

/// The master lives on after a commit that failed, and takes what was not kept when it comes again.
#[test]
fn what_could_not_be_kept_is_not_acknowledged_and_counts_when_it_comes_again() {
    let full = Arc::<AtomicBool>::default();
    let master = Master::new().restart_from(|folder| {
        let store = RedbStore::open(&init::store_path(folder)).unwrap();
        let full = Arc::clone(&full);
        parts_over(folder, Db::new(Filling { store, full }))
    });
    let mut host = Host::enrol(&master, "h");
    let rows = master.deploy(TWO, false).unwrap();
    let acked = host.report(&master, None, vec![]);
    let event = host.event(&master, &master.row(rows[0]), Outcome::Running);
    full.store(true, Ordering::SeqCst);
    host.try_report(&master, None, vec![event.clone()]).unwrap_err();
    assert_eq!(master.row(rows[0]).status, RowStatus::Pending);
    // A heartbeat is answered from memory.
    assert_eq!(
        host.report(&master, None, vec![]),
        acked,
        "what was not kept is not acknowledged"
    );
    full.store(false, Ordering::SeqCst);
    assert_eq!(host.report(&master, None, vec![event.clone()]), event.seq);
    assert_eq!(master.row(rows[0]).status, RowStatus::Running);
}
