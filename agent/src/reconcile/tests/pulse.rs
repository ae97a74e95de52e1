//! What the watchdog hears of the loop, by tokio's paused time: an hour of waiting takes no time at all.

use tokio::sync::oneshot;

use super::*;
use crate::supervisor::tests::Manager;

/// What systemd is told in the unit.
const WATCHDOG: Duration = Duration::from_secs(180);

/// Lets `time` pass in small pieces, so that whoever sleeps wakes in between; gives the longest silence of the loop.
async fn longest_silence_in(manager: &Manager, time: Duration) -> Duration {
    const PIECE: Duration = Duration::from_secs(5);
    let (begun, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
    while begun.elapsed() < time {
        tokio::time::sleep(PIECE).await;
        if manager.heard().iter().any(|word| word == "WATCHDOG=1") {
            last = Instant::now();
        }
        longest = longest.max(last.elapsed());
    }
    longest
}

fn watched(lab: &Lab) -> (Manager, Loop) {
    let manager = Manager::new();
    let pulse = Pulse::new(manager.supervisor(Some(WATCHDOG)));
    let running = lab.start_watched(pulse);
    (manager, running)
}

/// Steps hang from now on, once the first of them has begun.
async fn hang(lab: &Lab, running: &Loop, bundle: &Bundle) {
    lab.machine.hang_at.store(0, Ordering::SeqCst);
    running.admit(lab, bundle).await;
    lab.machine.hung.notified().await;
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_has_nothing_to_do_feeds_the_watchdog_in_time() {
    let lab = Lab::new();
    let (manager, mut running) = watched(&lab);
    running.admit(&lab, &lab.web_and_mail()).await;
    running.converged().await;
    let longest = longest_silence_in(&manager, Duration::from_secs(3600)).await;
    assert!(longest < WATCHDOG / 2, "{longest:?}");
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_away_for_an_hour_does_not_starve_the_watchdog() {
    let lab = Lab::new();
    let (manager, running) = watched(&lab);
    lab.machine.away.store(true, Ordering::SeqCst);
    running.admit(&lab, &lab.web_and_mail()).await;
    let longest = longest_silence_in(&manager, Duration::from_secs(3600)).await;
    assert!(longest < WATCHDOG / 2, "{longest:?}");
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_look_at_the_engine_that_never_ends_starves_the_watchdog_and_a_slow_one_does_not() {
    let lab = Lab::new();
    let (manager, running) = watched(&lab);
    let (release, released) = oneshot::channel::<()>();
    *lab.machine.meanwhile.lock().unwrap() = Some(Box::pin(async move {
        let _ = released.await;
    }));
    running.admit(&lab, &lab.web_and_mail()).await;
    let slow = longest_silence_in(&manager, super::super::pulse::LOOKING).await;
    assert!(slow < WATCHDOG / 2, "{slow:?}");
    let stuck = longest_silence_in(&manager, 2 * WATCHDOG).await;
    assert!(stuck > WATCHDOG, "{stuck:?}");
    drop(release);
    let again = longest_silence_in(&manager, 2 * WATCHDOG).await;
    assert!(again < WATCHDOG / 2, "{again:?}");
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn steps_that_hang_starve_the_watchdog_once_they_are_beyond_their_limits() {
    let lab = Lab::new();
    let (manager, running) = watched(&lab);
    hang(&lab, &running, &lab.web_and_mail()).await;
    // Longer than any step may take, an image's transfer included.
    let longest = longest_silence_in(&manager, Duration::from_secs(2 * 3600)).await;
    assert!(longest > WATCHDOG, "{longest:?}");
    assert_eq!(
        longest_silence_in(&manager, Duration::from_secs(600)).await,
        Duration::from_secs(600),
        "nothing feeds it beside the loop"
    );
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_transfer_of_hours_that_goes_on_does_not_starve_the_watchdog() {
    let lab = Lab::new();
    let (manager, running) = watched(&lab);
    hang(&lab, &running, &lab.web_and_mail()).await;
    for _ in 0..30 {
        lab.machine.told.fetch_add(1, Ordering::SeqCst);
        let longest = longest_silence_in(&manager, Duration::from_secs(600)).await;
        assert!(longest < WATCHDOG / 2, "{longest:?}");
    }
    running.kill().await;
}
