//! Bytes that change on the disk: the ledger opens with what it held, or is set aside and made anew from the engine's
//! labels and a fresh bundle.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::scripts;
use super::seed;
use crate::ledger::Ledger;

/// Bytes of a page of redb's.
const PAGE: usize = 4096;

/// Everything that a ledger knows, in words.
fn contents(ledger: &Ledger) -> String {
    format!(
        "{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}",
        ledger.accepted().unwrap(),
        ledger.envelope().unwrap(),
        ledger.operations().unwrap(),
        ledger.last_good().unwrap(),
        ledger.incidents().unwrap(),
        ledger.leases().unwrap(),
        ledger.fetched().unwrap(),
        ledger.journal(usize::MAX).unwrap(),
        ledger.outbox(usize::MAX, usize::MAX).unwrap(),
    )
}

#[tokio::test(start_paused = true)]
async fn bytes_that_change_on_any_page_are_never_believed() {
    let script = scripts::mutate();
    let host = script.host().await;
    script.change(&host).await;
    let sound = host.disk.image().bytes();
    let end = host.picture();
    let again = |bytes: Vec<u8>| {
        host.found(
            bytes,
            host.machine.engine.lock().unwrap().clone(),
            host.master.lock().unwrap().clone(),
        )
    };
    let known = {
        let found = again(sound.clone());
        contents(
            &Ledger::open_at(&found.disk, crate::testing::now())
                .unwrap()
                .ledger,
        )
    };

    let mut random = SmallRng::seed_from_u64(seed());
    let (mut whole, mut aside, mut back) = (0, 0, 0);
    for page in 0..sound.len() / PAGE {
        for how in 0..3 {
            let mut bytes = sound.clone();
            let range = page * PAGE..(page + 1) * PAGE;
            match how {
                // A bit, as memory does it; a sector, as disks do; the whole page.
                0 => {
                    let at = random.random_range(range);
                    bytes[at] ^= 1 << random.random_range(0..8);
                }
                1 => {
                    let at = page * PAGE + random.random_range(0..8) * 512;
                    random.fill(&mut bytes[at..at + 512]);
                }
                _ => bytes[range].fill(0),
            }
            let case = format!("page {page}, way {how}, seed {}", seed());
            let found = again(bytes);
            let mut life = found.boot().unwrap_or_else(|error| panic!("{case}: {error:?}"));
            if found.disk.aside() > 0 {
                aside += 1;
            } else if contents(&life.ledger) == known {
                whole += 1;
            } else {
                // The root of the last commit was hit: redb has the one before, whole.
                back += 1;
            }
            life.poll(&found, &script.change).await.unwrap();
            life.rests().await.unwrap();
            let journal = life.ledger.journal(usize::MAX).unwrap();
            life.end().await;
            assert_eq!(found.picture(), end, "{case}");
            let ids = |host: &super::host::Host| -> Vec<String> {
                let engine = host.machine.engine.lock().unwrap();
                engine
                    .containers
                    .values()
                    .map(|container| container.id.clone())
                    .collect()
            };
            assert_eq!(ids(&found), ids(&host), "{case}: something was made twice");
            let master = found.master.lock().unwrap();
            assert_eq!(master.broken, Vec::<String>::new(), "{case}");
            assert_eq!(master.told_last(), script.ends, "{case}");
            let told = master
                .events
                .iter()
                .any(|event| format!("{event:?}").contains("ledger-damaged"));
            assert_eq!(told, found.disk.aside() > 0, "{case}: {:?}", master.events);
            assert_eq!(journal.is_empty(), found.disk.aside() > 0, "{case}");
        }
    }
    println!(
        "damage: {whole} opened whole, {back} one commit back, {aside} set aside, seed {}",
        seed()
    );
    assert!(whole > 0 && aside > 0, "{whole} whole, {aside} set aside");
}
