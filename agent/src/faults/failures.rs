//! Disks that fail: every write, sync and read of a script in turn, and the agent goes on as `run` has it, which opens
//! the ledger anew once the disk lets it.

use super::disk::{Call, Disk, Failure};
use super::host::{Host, Life, Picture};
use super::scripts::{self, Script};
use super::seed;
use crate::ledger::{Ledger, LedgerError};
use crate::testing::now;

/// Boots until the script is done. How often the ledger failed.
async fn in_spite_of_it(script: &Script, host: &Host, case: &str) -> u32 {
    for failures in 0..5 {
        let error = match one_life(script, host).await {
            Ok(life) => {
                life.end().await;
                return failures;
            }
            Err(error) => error,
        };
        assert!(error.may_pass(), "{case}: the agent gives up over {error:?}");
        if failures == 1 {
            // It was full when the agent first came back.
            host.disk.make_room();
        }
    }
    panic!("{case}: it fails again and again");
}

async fn one_life(script: &Script, host: &Host) -> Result<Life, LedgerError> {
    let mut life = host.boot()?;
    let outcome = async {
        life.poll(host, &script.change).await?;
        life.rests().await
    };
    match outcome.await {
        Ok(()) => Ok(life),
        Err(error) => {
            life.end().await;
            Err(error)
        }
    }
}

fn check(script: &Script, host: &Host, end: &Picture, case: &str) {
    assert_eq!(host.picture(), *end, "{case}");
    let mut master = host.master.lock().unwrap();
    assert_eq!(master.ends(), script.ends, "{case}");
    assert_eq!(master.broken, Vec::<String>::new(), "{case}");
    assert_eq!(host.disk.aside(), 0, "{case}: an error of the disk is no damage");
}

/// Of the scripts that are much like another one, every so manyth call fails, another one with each seed; with
/// `DECNET_FAULTS=all`, and of the others, every call.
const STRIDE: u64 = 4;

fn stride(sample: bool) -> (u64, u64) {
    let all = std::env::var("DECNET_FAULTS").is_ok_and(|asked| asked == "all");
    if sample && !all {
        (seed() % STRIDE, STRIDE)
    } else {
        (0, 1)
    }
}

async fn every_call_fails(name: &str, script: Script, sample: bool) {
    let whole = script.host().await;
    let start = (
        whole.disk.image(),
        whole.machine.engine.lock().unwrap().clone(),
        whole.master.lock().unwrap().clone(),
    );
    script.change(&whole).await;
    let end = whole.picture();
    let (first, step) = stride(sample);
    for failure in &ALL {
        let mut injected = 0;
        for call in (first..).step_by(usize::try_from(step).unwrap()) {
            let case = format!("{name}: {failure:?} at call {call}");
            let (image, engine, master) = start.clone();
            let host = whole.found(image.bytes(), engine, master);
            host.disk.fail_at(call, *failure);
            in_spite_of_it(&script, &host, &case).await;
            if !host.disk.has_failed() {
                break;
            }
            injected += 1;
            check(&script, &host, &end, &case);
            if injected % 4 == 0 {
                // And the power went as well.
                let found = host.found(
                    host.disk.image().bytes(),
                    host.machine.engine.lock().unwrap().clone(),
                    host.master.lock().unwrap().clone(),
                );
                in_spite_of_it(&script, &found, &case).await;
                check(&script, &found, &end, &case);
            }
        }
        println!("{name}: {injected} times {failure:?}, from call {first} every {step}");
        assert!(
            injected > 2,
            "{name} has {injected} calls of the kind: it tests too little"
        );
    }
}

const ALL: [Failure; 5] = [
    Failure::Error,
    Failure::Short,
    Failure::Full,
    Failure::Sync,
    Failure::Read,
];

#[tokio::test(start_paused = true)]
async fn a_deploy_survives_a_disk_that_fails_at_any_call() {
    every_call_fails("deploy", scripts::deploy(), false).await;
}

#[tokio::test(start_paused = true)]
async fn a_mutate_survives_a_disk_that_fails_at_any_call() {
    every_call_fails("mutate", scripts::mutate(), true).await;
}

#[tokio::test(start_paused = true)]
async fn a_mutate_in_vain_survives_a_disk_that_fails_at_any_call() {
    every_call_fails("mutate in vain", scripts::mutate_in_vain(), false).await;
}

#[tokio::test(start_paused = true)]
async fn an_update_survives_a_disk_that_fails_at_any_call() {
    every_call_fails("update", scripts::update(), true).await;
}

#[tokio::test(start_paused = true)]
async fn a_teardown_survives_a_disk_that_fails_at_any_call() {
    every_call_fails("teardown", scripts::teardown(), true).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_driver_survives_a_disk_that_fails_at_any_call() {
    every_call_fails("driver", scripts::driver(), true).await;
}

/// The agent waits for room and does not forget meanwhile.
#[tokio::test(start_paused = true)]
async fn a_disk_that_stays_full_is_waited_for() {
    let script = scripts::mutate();
    let host = script.host().await;
    host.disk.fail_at(0, Failure::Full);
    for _ in 0..100 {
        let error = one_life(&script, &host).await.map(drop).unwrap_err();
        assert!(error.may_pass(), "{error:?}");
    }
    host.disk.make_room();
    one_life(&script, &host).await.unwrap().end().await;
    let end = {
        let whole = script.host().await;
        script.change(&whole).await;
        whole.picture()
    };
    check(&script, &host, &end, "full");
}

/// Only then does no order in which the disk writes make half a commit look like a whole one.
#[tokio::test]
async fn a_commit_is_synced_before_it_is_made_the_current_one_and_after_it() {
    let disk = Disk::default();
    let ledger = Ledger::open_at(&disk, now()).unwrap().ledger;
    let before = disk.calls(Call::Sync);
    ledger
        .write(move |tx| tx.fetched("decoy:1", decnet_plan::unused::Fetched { needed_at: 1 }))
        .await
        .unwrap();
    assert_eq!(disk.calls(Call::Sync) - before, 2);
}
