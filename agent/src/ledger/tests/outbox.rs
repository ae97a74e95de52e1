//! Months without a master, in random histories.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::ledger::outbox::{DROPPED, NOTE_BYTES, NOTES, SLACK};
use crate::ledger::records::RefusalRecord;

/// The longest event, in bytes: a detail of 2,000 characters of up to four bytes, and what is around it.
const LONGEST: usize = 4 * 2000 + 512;

/// What a master has, and what it should have.
#[derive(Default)]
struct Told {
    acked: u64,
    events: Vec<Event>,
    ends: BTreeMap<OperationId, Vec<String>>,
}

impl Told {
    /// Takes a batch as the master does.
    fn take(&mut self, events: &[Event]) {
        for event in events {
            if event.seq > self.acked {
                self.acked = event.seq;
                self.events.push(event.clone());
            }
        }
    }
}

fn check_bounds(ledger: &Ledger, operations: usize, case: &str) {
    let waiting = ledger.waiting_events().unwrap();
    let notes = waiting
        .iter()
        .filter(|event| !matches!(event.body, EventBody::Operation { .. }));
    let (mut count, mut bytes) = (0, 0);
    for note in notes {
        count += 1;
        bytes += serde_json::to_vec(note).unwrap().len();
    }
    let slack = usize::try_from(SLACK).unwrap() + 2;
    assert!(count <= NOTES + slack, "{case}: {count} notes");
    assert!(
        bytes <= NOTE_BYTES + slack * LONGEST,
        "{case}: {bytes} bytes of notes"
    );
    assert!(
        waiting.len() - count <= operations * 2 + slack,
        "{case}: {} events of {operations} operations",
        waiting.len() - count
    );
}

/// True when notes had to be dropped.
async fn history(seed: u64) -> bool {
    let case = format!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let file = File::new();
    let mut ledger = file.open();
    let (mut told, mut at) = (Told::default(), now());
    let mut next_operation = 1;
    let mut notes: u64 = 0;
    // Some hosts have few deckies, some as many as there can be; some say little, some as much as they can.
    let deckies = [3, 50, 6000][usize::try_from(seed % 3).unwrap()];
    let length = [20, 400, 2000][random.random_range(0..3)];
    for _ in 0..25 {
        at = hours(at, random.random_range(0..48));
        match random.random_range(0..10) {
            0 => {
                let count = random.random_range(1..20);
                let ids: Vec<_> = (next_operation..next_operation + count)
                    .map(|number| operation(number, OperationKind::Deploy))
                    .collect();
                next_operation += count;
                let stacks = ids.iter().enumerate().map(|(index, operation)| {
                    stack(&format!("s{index}"), document(5, &[]), Some(*operation))
                });
                accept(&ledger, 1, stacks.collect()).await;
                for operation in ids {
                    let (id, fails, again) = (operation.id, random.random::<bool>(), random.random::<bool>());
                    ledger.write(move |tx| tx.begin(at, &[id])).await.unwrap();
                    let ends = told.ends.entry(id).or_default();
                    if fails {
                        let end = move |tx: &Tx| {
                            tx.transition(id, at, |_| {
                                let error = "it broke".to_owned();
                                Some((OperationState::Failed, Outcome::Failed { error }))
                            })
                        };
                        ledger.write(end).await.unwrap();
                        ends.push("failed".to_owned());
                    }
                    if !fails || again {
                        let settled = Settled {
                            stack: "s0".parse().unwrap(),
                            operation: Some(id),
                            good: None,
                            close_incident: true,
                            close_trouble: true,
                        };
                        let settle = move |tx: &Tx| tx.settle(at, std::slice::from_ref(&settled));
                        ledger.write(settle).await.unwrap();
                        ends.push("succeeded".to_owned());
                    }
                }
            }
            1 => {
                drop(ledger);
                ledger = file.open();
            }
            2 if random.random_ratio(1, 2) => {
                // A part gets through, and the answer may get lost.
                let most = random.random_range(1..300);
                let batch = ledger.outbox(most, usize::MAX).unwrap();
                told.take(&batch.events);
                if let Some(last) = batch.events.last().map(|event| event.seq)
                    && random.random::<bool>()
                {
                    let acked = told.acked;
                    ledger.write(move |tx| tx.acknowledge(acked, last)).await.unwrap();
                }
            }
            3 => {
                for _ in 0..random.random_range(1..5) {
                    let code = ["expired", "policy", "audience"][random.random_range(0..3)].to_owned();
                    let refusal = RefusalRecord {
                        digest: Digest::from_sha256(random.random()),
                        code,
                        stands: true,
                    };
                    notes += 1;
                    let refuse = move |tx: &Tx| tx.refuse(at, &refusal, "because", None);
                    ledger.write(refuse).await.unwrap();
                }
            }
            _ => {
                let count = random.random_range(1..700);
                notes += count;
                let names: Vec<u32> = (0..count).map(|_| random.random_range(0..deckies)).collect();
                let drift = move |tx: &Tx| {
                    names.iter().try_for_each(|name| {
                        let body = EventBody::Drift {
                            decky: format!("d{name}").parse().unwrap(),
                            detail: "é".repeat(length),
                        };
                        tx.push_event(at, body)
                    })
                };
                ledger.write(drift).await.unwrap();
            }
        }
        check_bounds(&ledger, usize::try_from(next_operation).unwrap(), &case);
    }

    // The master is back.
    loop {
        let batch = ledger.outbox(100, usize::MAX).unwrap();
        let Some(last) = batch.events.last().map(|event| event.seq) else {
            break;
        };
        told.take(&batch.events);
        let acked = told.acked;
        ledger.write(move |tx| tx.acknowledge(acked, last)).await.unwrap();
    }
    assert!(
        told.events.is_sorted_by(|a, b| a.seq < b.seq),
        "{case}: events passed each other"
    );
    let mut ends: BTreeMap<OperationId, Vec<String>> = BTreeMap::new();
    let (mut stand_for, mut dropped_some) = (0, false);
    for event in &told.events {
        match &event.body {
            EventBody::Operation { id, outcome, .. } => {
                let known = ends.entry(*id).or_default();
                match outcome {
                    Outcome::Running => assert!(known.is_empty(), "{case}: {id} began after it ended"),
                    Outcome::Succeeded => known.push("succeeded".to_owned()),
                    Outcome::Failed { .. } => known.push("failed".to_owned()),
                }
            }
            EventBody::Refused { code, detail, .. } if code == DROPPED => {
                let dropped: u64 = detail.split(' ').next().unwrap().parse().unwrap();
                stand_for += dropped;
                dropped_some = true;
            }
            EventBody::Drift { detail, .. } | EventBody::Refused { detail, .. } => {
                let more = detail.split(" … and ").nth(1);
                let more = more.map_or(0, |more| more.split(' ').next().unwrap().parse::<u64>().unwrap());
                stand_for += 1 + more;
            }
        }
    }
    ends.retain(|_, ends| !ends.is_empty());
    assert_eq!(ends, told.ends, "{case}");
    // What was sent and not acknowledged may be counted once more.
    assert!(
        stand_for >= notes,
        "{case}: {stand_for} of {notes} notes are spoken of"
    );
    println!(
        "{case}: {notes} notes of {deckies} deckies, {} events told",
        told.events.len()
    );
    dropped_some
}

#[tokio::test]
async fn whatever_happens_without_a_master_every_end_is_told_and_the_outbox_stays_bounded() {
    let seed = crate::faults::seed();
    let mut dropped = 0;
    for number in 0..6 {
        dropped += u32::from(history(seed.wrapping_add(number)).await);
    }
    assert!(dropped > 0, "no history was too long: it tests too little");
}

async fn drift(ledger: &Ledger, times: u32) {
    let drift = move |tx: &Tx| {
        (0..times).try_for_each(|number| {
            let body = EventBody::Drift {
                decky: "web".parse().unwrap(),
                detail: format!("for the {number}th time"),
            };
            tx.push_event(now(), body)
        })
    };
    ledger.write(drift).await.unwrap();
}

#[tokio::test]
async fn the_newest_note_says_how_many_it_stands_for() {
    let file = File::new();
    let ledger = file.open();
    drift(&ledger, 513).await;
    let waiting = ledger.waiting_events().unwrap();
    let [
        Event {
            body: EventBody::Drift { detail, .. },
            ..
        },
    ] = waiting.as_slice()
    else {
        panic!("{waiting:?}");
    };
    assert_eq!(
        detail,
        &format!("for the 512th time … and 512 more since {}", now())
    );
    // Once more: they add up.
    drop(ledger);
    let ledger = file.open();
    drift(&ledger, 600).await;
    let waiting = ledger.waiting_events().unwrap();
    let all: u64 = waiting
        .iter()
        .map(|event| match &event.body {
            EventBody::Drift { detail, .. } => {
                let more = detail.split(" … and ").nth(1);
                1 + more.map_or(0, |more| more.split(' ').next().unwrap().parse::<u64>().unwrap())
            }
            _ => 0,
        })
        .sum();
    assert_eq!(all, 1113);
}

#[tokio::test]
async fn a_master_that_is_there_is_told_everything_as_it_was() {
    let file = File::new();
    let ledger = file.open();
    for _ in 0..5 {
        drift(&ledger, 400).await;
        let batch = ledger.outbox(usize::MAX, usize::MAX).unwrap();
        assert_eq!(batch.events.len(), 400, "nothing is merged");
        let last = batch.events.last().unwrap().seq;
        ledger.write(move |tx| tx.acknowledge(last, last)).await.unwrap();
    }
}
