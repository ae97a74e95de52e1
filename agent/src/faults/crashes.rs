//! Power cuts: at every instruction that leaves a trace on the disk, the engine or the master.
//!
//! A script runs once, and what would be there if the power went is kept at every such point: before and after every
//! sync of every commit, every engine call, every report. Then a host is found in each of these states, and has to end
//! where the script ends without any of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use decnet_plan::planner::describe;
use decnet_plan::sim;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::disk::Image;
use super::host::{Host, Master, Picture};
use super::scripts::{self, Script};
use super::seed;
use crate::testing::Watched;

/// A host without power.
#[derive(Clone)]
struct Moment {
    what: String,
    image: Image,
    engine: Arc<sim::Engine>,
    /// The steps that the engine was asked for in this life.
    asked: Arc<Vec<String>>,
    master: Arc<Master>,
    /// Whether anything is other than at the point before.
    news: bool,
}

/// Keeps every moment of a run.
#[derive(Clone)]
struct Recorder(Arc<Mutex<Vec<Moment>>>);

impl Recorder {
    /// From here on.
    fn of(host: &mut Host) -> Self {
        let start = Moment {
            what: "the start".to_owned(),
            image: host.disk.image(),
            engine: Arc::new(host.machine.engine.lock().unwrap().clone()),
            asked: Arc::default(),
            master: Arc::new(host.master.lock().unwrap().clone()),
            news: true,
        };
        let recorder = Self(Arc::new(Mutex::new(vec![start])));
        let of = recorder.clone();
        host.disk.on_sync(move |when, image| {
            of.add(|moment| {
                let news = !moment.image.same_as(&image);
                Moment {
                    what: when.to_owned(),
                    image,
                    news,
                    ..moment
                }
            });
        });
        let of = recorder.clone();
        *host.machine.watcher.lock().unwrap() = Some(Box::new(move |what, engine| {
            of.add(|moment| match what {
                Watched::Before(step) => {
                    let mut asked = Arc::clone(&moment.asked);
                    Arc::make_mut(&mut asked).push(describe(step));
                    Moment {
                        what: format!("before: {}", describe(step)),
                        asked,
                        news: true,
                        ..moment
                    }
                }
                Watched::After(step) => Moment {
                    what: format!("after: {}", describe(step)),
                    engine: Arc::new(engine.clone()),
                    news: true,
                    ..moment
                },
            });
        }));
        let of = recorder.clone();
        host.on_report = Some(Arc::new(move |master| {
            of.add(|moment| Moment {
                what: "a report was taken".to_owned(),
                master: Arc::new(master.clone()),
                news: true,
                ..moment
            });
        }));
        recorder
    }

    fn add(&self, next: impl FnOnce(Moment) -> Moment) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = all.last().cloned().expect("there is a start");
        all.push(next(last));
    }

    fn moments(&self) -> Vec<Moment> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs the script on a host that nothing happens to: what it goes through, and where it ends.
async fn played(script: &Script) -> (Host, Vec<Moment>, Picture) {
    let mut host = script.host().await;
    let recorder = Recorder::of(&mut host);
    let mut life = host.boot().unwrap();
    life.poll(&host, &script.change).await.unwrap();
    life.rests().await.unwrap();
    life.end().await;
    let picture = host.picture();
    assert!(picture.is_without_doubles(), "{picture:?}");
    let master = &mut host.master.lock().unwrap().clone();
    assert_eq!(master.ends(), script.ends);
    (host, recorder.moments(), picture)
}

/// A host is found as it was in a moment, and has to come to the script's end. Gives what it goes through.
async fn survives(
    script: &Script,
    host: &Host,
    moment: &Moment,
    bytes: Vec<u8>,
    end: &Picture,
    case: &str,
) -> Vec<Moment> {
    let mut found = host.found(
        bytes,
        sim::Engine::clone(&moment.engine),
        Master::clone(&moment.master),
    );
    let recorder = Recorder::of(&mut found);
    let mut life = found.boot().unwrap();
    assert_eq!(found.disk.aside(), 0, "{case}: its ledger was set aside");
    let mut journal: BTreeMap<String, usize> = BTreeMap::new();
    for entry in life.ledger.journal(usize::MAX).unwrap() {
        *journal.entry(entry.text).or_default() += 1;
    }
    for step in &*moment.asked {
        let left = journal.get_mut(step).filter(|left| **left > 0);
        *left.unwrap_or_else(|| panic!("{case}: {step:?} is not in the journal")) -= 1;
    }
    life.poll(&found, &script.change).await.unwrap();
    life.rests().await.unwrap();
    let operations = life.ledger.operations().unwrap();
    life.end().await;

    let picture = found.picture();
    assert_eq!(picture, *end, "{case}");
    assert!(picture.is_without_doubles(), "{case}: {picture:?}");
    let mut master = found.master.lock().unwrap().clone();
    assert_eq!(master.ends(), script.ends, "{case}");
    assert_eq!(master.broken, Vec::<String>::new(), "{case}");
    for (id, known) in operations {
        assert!(known.state.is_terminal(), "{case}: {id} {known:?}");
    }
    recorder.moments()
}

/// One cut at every point; and of the states that those lead through, a second cut in some, and a disk that had
/// written some of what was not synced in all.
async fn every_cut(name: &str, script: Script) {
    let (host, moments, end) = played(&script).await;
    let mut random = SmallRng::seed_from_u64(seed());
    let (mut states, mut torn, mut twice) = (0, 0, 0);
    for (number, moment) in moments.iter().enumerate() {
        let case = format!("{name}, cut at point {number}, {}", moment.what);
        if moment.image.has_pending() {
            torn += 1;
            let drawn = random.random();
            let case = format!("{case}, torn with {drawn}");
            survives(&script, &host, moment, moment.image.torn(drawn), &end, &case).await;
        }
        if !moment.news {
            // Nothing was lost or won since the last point: it was tried there.
            continue;
        }
        states += 1;
        let later = survives(&script, &host, moment, moment.image.bytes(), &end, &case).await;
        if random.random_ratio(1, 4) {
            twice += 1;
            let second = random.random_range(0..later.len());
            let moment = &later[second];
            let case = format!("{case}, then at point {second}, {}", moment.what);
            survives(&script, &host, moment, moment.image.bytes(), &end, &case).await;
        }
    }
    println!(
        "{name}: {} points, {states} states, {torn} torn, {twice} cut twice, seed {}",
        moments.len(),
        seed()
    );
    assert!(
        states > 20,
        "{name} has only {states} states: it tests too little"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deploy_survives_a_power_cut_at_every_point() {
    every_cut("deploy", scripts::deploy()).await;
}

#[tokio::test(start_paused = true)]
async fn a_mutate_survives_a_power_cut_at_every_point() {
    every_cut("mutate", scripts::mutate()).await;
}

#[tokio::test(start_paused = true)]
async fn a_mutate_in_vain_survives_a_power_cut_at_every_point() {
    every_cut("mutate in vain", scripts::mutate_in_vain()).await;
}

#[tokio::test(start_paused = true)]
async fn an_update_survives_a_power_cut_at_every_point() {
    every_cut("update", scripts::update()).await;
}

#[tokio::test(start_paused = true)]
async fn a_teardown_survives_a_power_cut_at_every_point() {
    every_cut("teardown", scripts::teardown()).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_driver_survives_a_power_cut_at_every_point() {
    every_cut("driver", scripts::driver()).await;
}
