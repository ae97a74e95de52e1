//! A thousand agents that lost one master at one moment, and find it again.

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::seed;
use crate::backoff::Backoff;

const AGENTS: u64 = 1000;
/// The ceiling of [`Backoff::for_the_master`]: everybody is back within it.
const WINDOW: Duration = Duration::from_secs(60);
/// No second may see more than so many times the mean of the window. A wait is drawn up to three times the one before
/// it, so that short ones are more frequent than long ones, and what is left of a wait is shorter still.
const CROWD: f64 = 4.0;

/// How many come in each second after the master's return, when it was away for so long.
async fn arrivals(away: Duration) -> Vec<u64> {
    let back = Instant::now() + away;
    let agents: Vec<_> = (0..AGENTS)
        .map(|agent| {
            let random = SmallRng::seed_from_u64(seed().wrapping_add(agent));
            tokio::spawn(async move {
                let mut backoff = Backoff::for_the_master(random);
                while Instant::now() < back {
                    tokio::time::sleep(backoff.next()).await;
                }
                back.elapsed()
            })
        })
        .collect();
    let mut seconds = Vec::new();
    for agent in agents {
        let second = usize::try_from(agent.await.unwrap().as_secs()).unwrap();
        seconds.resize(seconds.len().max(second + 1), 0);
        seconds[second] += 1;
    }
    seconds
}

#[tokio::test(start_paused = true)]
async fn a_thousand_agents_do_not_come_back_as_a_herd() {
    for minutes in [2, 10, 60] {
        let seconds = arrivals(Duration::from_secs(minutes * 60)).await;
        let most = seconds.iter().copied().max().unwrap();
        let mean = AGENTS as f64 / WINDOW.as_secs_f64();
        println!(
            "away for {minutes} min: all back within {} s, {most} in the fullest second, {:.1} times the mean, seed {}",
            seconds.len(),
            most as f64 / mean,
            seed()
        );
        assert!(seconds.len() as u64 <= WINDOW.as_secs(), "{} s", seconds.len());
        assert!(most as f64 <= CROWD * mean, "{most} in one second: {seconds:?}");
    }
}
