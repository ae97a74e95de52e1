//! Ninety days without a master: an agent that starts from its ledger alone, again and again, and keeps what it was
//! given.

use std::time::Duration;

use decnet_wire::ids::Timestamp;
use decnet_wire::observed::ContainerState;
use decnet_wire::report::EventBody;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::host::{Host, Life, Picture};
use super::scripts;
use super::seed;
use crate::clock::Clock as _;
use crate::testing::hours;

const DAYS: u32 = 90;
/// The ledger file's bound after all of it. Most of it is the journal's newest 10,000 steps.
const FILE: usize = 16 * 1024 * 1024;

/// Lets time pass, for the clock as well as for timers.
pub(super) async fn pass(host: &Host, time: Duration) {
    host.clock.set(Timestamp::new(host.clock.now().get() + time));
    tokio::time::sleep(time).await;
}

/// Something happens to a container or a network. Nothing of it was asked for.
fn disturb(host: &Host, random: &mut SmallRng) -> bool {
    let mut engine = host.machine.engine.lock().unwrap();
    let names: Vec<String> = engine.containers.keys().cloned().collect();
    let Some(name) = names.get(random.random_range(0..names.len().max(1))) else {
        return false;
    };
    match random.random_range(0..3) {
        0 => {
            engine.containers.remove(name);
        }
        1 => engine.containers.clear(),
        _ => {
            if let Some(container) = engine.containers.get_mut(name) {
                container.state = ContainerState::Exited { code: 137 };
            }
        }
    }
    true
}

async fn is_as_it_was(host: &Host, life: &Life, end: &Picture, case: &str) {
    for _ in 0..120 {
        if host.picture() == *end {
            return;
        }
        pass(host, Duration::from_secs(10)).await;
    }
    panic!(
        "{case}: {:?}\n{:?}",
        host.picture(),
        life.condition.borrow().reason
    );
}

#[tokio::test(start_paused = true)]
async fn deckies_are_kept_for_ninety_days_without_a_master() {
    let script = scripts::deploy();
    let host = script.host().await;
    // It has them, and from then on it is alone: nobody hears even that they run.
    {
        let mut life = host.boot_with(false).unwrap();
        let mut policy = host.signer.policy(1, &serde_json::json!({}));
        policy.expires_at = hours(host.clock.now(), 30 * 24);
        let policy = host.signer.sign_policy(&policy);
        life.admission.admit_policy(&policy).await.unwrap();
        life.poll(&host, &script.change).await.unwrap();
        let digest = life.ledger.accepted().unwrap().map(|accepted| accepted.digest);
        let converged = life
            .condition
            .wait_for(|condition| condition.converged && condition.digest == digest);
        converged.await.unwrap();
        life.end().await;
    }
    let end = host.picture();
    let begin = host.clock.now();
    let mut random = SmallRng::seed_from_u64(seed());
    let (mut reboots, mut disturbed, mut largest, mut least) = (0, 0, 0, usize::MAX);
    let mut passed = 0;
    while passed < DAYS * 24 {
        reboots += 1;
        // The host was off for a while, and Docker starts what it has.
        pass(&host, Duration::from_secs(random.random_range(60..7200))).await;
        let life = host.boot_with(false).unwrap();
        for _ in 0..random.random_range(24..120) {
            passed += 1;
            if random.random_ratio(1, 4) {
                disturbed += u32::from(disturb(&host, &mut random));
                life.wake.notify_one();
            }
            // The bundle ends after a day, its policy after thirty.
            pass(&host, Duration::from_secs(3600)).await;
            least = least.min(host.machine.running().len());
            largest = largest.max(host.disk.length());
        }
        is_as_it_was(&host, &life, &end, &format!("hour {passed}, seed {}", seed())).await;
        life.end().await;
    }
    let passed = (host.clock.now().get() - begin.get()).whole_days();
    assert!(passed >= DAYS.into(), "{passed} days");
    assert!(
        disturbed > 100 && reboots > 15,
        "{disturbed} times disturbed, {reboots} reboots"
    );
    assert!(largest <= FILE, "the ledger has grown to {largest} bytes");

    // The master is back.
    let mut life = host.boot().unwrap();
    assert!(life.ledger.bundle_policy().unwrap().is_some());
    life.rests().await.unwrap();
    let journal = life.ledger.journal(usize::MAX).unwrap().len();
    life.end().await;
    let mut master = host.master.lock().unwrap();
    assert_eq!(master.ends(), script.ends);
    assert_eq!(master.broken, Vec::<String>::new());
    let drifts = master
        .events
        .iter()
        .filter(|event| matches!(event.body, EventBody::Drift { .. }))
        .count();
    assert!(drifts > 100, "{drifts} incidents were told of");
    assert_eq!(host.picture(), end);
    println!(
        "{passed} days, {reboots} reboots, {disturbed} times disturbed, never under {least} of {} containers after an \
         hour, {drifts} incidents told, {journal} steps in the journal, the ledger at most {} KiB, seed {}",
        end.containers.len(),
        largest / 1024,
        seed()
    );
}

/// Nothing is asked more often, and nothing is forgotten, while a master is away for a day.
#[tokio::test(start_paused = true)]
async fn reports_wait_for_a_master_that_is_away_and_all_arrive() {
    let script = scripts::mutate();
    let host = script.host().await;
    host.master.lock().unwrap().away = true;
    let mut life = host.boot().unwrap();
    life.poll(&host, &script.change).await.unwrap();
    pass(&host, Duration::from_secs(24 * 3600)).await;
    let tries = host.master.lock().unwrap().knocks;
    // At most once a second, at least once a minute: what backs off neither spins nor stands still.
    assert!((1440..86_400).contains(&tries), "{tries} tries in a day");
    host.master.lock().unwrap().away = false;
    life.rests().await.unwrap();
    life.end().await;
    let mut master = host.master.lock().unwrap();
    assert_eq!(master.ends(), script.ends);
    assert_eq!(master.broken, Vec::<String>::new());
}
