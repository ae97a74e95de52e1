//! Clocks that jump: by a year in either direction, and to 1970, as on a machine whose battery is empty.

use std::time::Duration;

use decnet_wire::ids::Timestamp;
use decnet_wire::report::EventBody;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use time::OffsetDateTime;

use super::host::Host;
use super::offline::pass;
use super::scripts;
use super::seed;
use crate::admit::Verdict;
use crate::clock::Clock as _;
use crate::testing::{digest_of, hours};

const YEAR_H: i64 = 365 * 24;

fn nineteen_seventy() -> Timestamp {
    Timestamp::new(OffsetDateTime::UNIX_EPOCH)
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_changes_nothing_that_was_decided_and_stops_no_timer() {
    let script = scripts::deploy();
    let host = script.host().await;
    script.change(&host).await;
    let end = host.picture();
    let mut random = SmallRng::seed_from_u64(seed());
    let mut life = host.boot().unwrap();
    // What a right clock shows.
    let mut right = host.clock.now();
    let mut generation = script.change.generation;
    let mut refused: Vec<Vec<u8>> = Vec::new();
    let (mut jumps, mut boots, mut accepted, mut replays) = (0, 0, 0, 0);
    for round in 0..250 {
        let case = format!("round {round}, seed {}", seed());
        let before = life.ledger.accepted().unwrap().unwrap();
        match random.random_range(0..6) {
            0 | 1 => {
                jumps += 1;
                host.clock.set(match random.random_range(0..8) {
                    0 => nineteen_seventy(),
                    1 => right,
                    _ => hours(right, random.random_range(-YEAR_H..=YEAR_H)),
                });
            }
            2 => {
                boots += 1;
                life.end().await;
                life = host.boot().unwrap();
            }
            3 => {
                let mut engine = host.machine.engine.lock().unwrap();
                let name = engine.containers.keys().next().unwrap().clone();
                engine.containers.remove(&name);
                // Nobody says so: a timer finds it.
            }
            4 => {
                generation += 1;
                let mut bundle = script.change.clone();
                bundle.generation = generation;
                bundle.issued_at = right;
                bundle.expires_at = hours(right, 24);
                let envelope = host.signer.sign(&bundle);
                match life.admission.admit(envelope.clone()).await.unwrap() {
                    Verdict::Accepted => accepted += 1,
                    Verdict::NoNews => {}
                    Verdict::Refused => {
                        let known = life.ledger.refusals().unwrap();
                        let known = known.iter().find(|known| known.digest == digest_of(&envelope));
                        if known.is_some_and(|known| known.stands) {
                            refused.push(envelope);
                        }
                    }
                }
            }
            _ => {
                if let Some(envelope) = refused.get(random.random_range(0..refused.len().max(1))) {
                    replays += 1;
                    let verdict = life.admission.admit(envelope.clone()).await.unwrap();
                    assert!(matches!(verdict, Verdict::Refused), "{case}: {verdict:?}");
                }
            }
        }
        let knocks = host.master.lock().unwrap().knocks;
        let window = Duration::from_secs(600);
        right = Timestamp::new(right.get() + window);
        pass(&host, window).await;
        let knocks = host.master.lock().unwrap().knocks - knocks;
        // A heartbeat every 30 s, and a few reports more about what happened.
        assert!(
            (19..80).contains(&knocks),
            "{case}: {knocks} reports in ten minutes"
        );
        assert_eq!(host.picture(), end, "{case}");
        let after = life.ledger.accepted().unwrap().unwrap();
        assert!(after.generation >= before.generation, "{case}");
        assert!(after.signed_at >= before.signed_at, "{case}");
    }
    // The clock is right again: what is current is accepted.
    host.clock.set(right);
    let mut bundle = script.change.clone();
    bundle.generation = generation + 1;
    bundle.issued_at = right;
    bundle.expires_at = hours(right, 24);
    let verdict = life.admission.admit(host.signer.sign(&bundle)).await.unwrap();
    assert!(
        matches!(verdict, Verdict::Accepted),
        "{verdict:?} {:?}",
        life.ledger.refusals()
    );
    life.rests().await.unwrap();
    life.end().await;
    let mut master = host.master.lock().unwrap();
    assert_eq!(master.ends(), script.ends);
    assert_eq!(master.broken, Vec::<String>::new());
    assert!(
        accepted > 5 && refused.len() > 5 && replays > 5,
        "it tests too little"
    );
    println!(
        "{jumps} jumps, {boots} boots, {accepted} bundles accepted, {} refused for good and shown again {replays} times, \
         seed {}",
        refused.len(),
        seed()
    );
}

/// A ledger that was lost while the clock is at 1970 begins to number far below what the master has seen.
#[tokio::test(start_paused = true)]
async fn a_host_that_lost_ledger_and_clock_is_heard_all_the_same() {
    let script = scripts::mutate();
    let host = script.host().await;
    let mut bytes = host.disk.image().bytes();
    bytes[..4096].fill(0);
    let found: Host = host.found(
        bytes,
        host.machine.engine.lock().unwrap().clone(),
        host.master.lock().unwrap().clone(),
    );
    found.clock.set(nineteen_seventy());
    let mut life = found.boot().unwrap();
    assert_eq!(found.disk.aside(), 1);
    pass(&found, Duration::from_secs(60)).await;
    // Nothing is accepted by such a clock, and nothing touched: what is known runs on.
    assert_eq!(found.picture(), host.picture());
    found.clock.set(crate::testing::now());
    life.poll(&found, &script.change).await.unwrap();
    life.rests().await.unwrap();
    life.end().await;
    let master = found.master.lock().unwrap();
    let damaged =
        |body: &EventBody| matches!(body, EventBody::Refused { code, .. } if code == "ledger-damaged");
    assert!(master.events.iter().any(|event| damaged(&event.body)));
    assert_eq!(master.told_last(), script.ends);
    assert_eq!(master.broken, Vec::<String>::new());
}
