//! That the loop is alive, told to whoever ends an agent whose loop stands still.
//!
//! Nothing here runs beside the loop: it is the loop's own task that tells, when a round begins and while it waits. So a
//! task that blocks tells nothing. Nor does one that waits for longer than what it waits for can take: every wait has a
//! bound, after which it is told no more, and the watchdog's time runs.
//!
//! | the loop | is alive |
//! | --- | --- |
//! | rests, or waits for the engine to come back | until that pause is over |
//! | looks at the engine | for [`LOOKING`] |
//! | has steps under way | as long as one of them may still be at it, since something was last heard of any |
//! | does anything else: plans, writes to the ledger | for the watchdog's time itself |

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use decnet_docker::longest_silence;
use decnet_plan::step::Step;
use tokio::time::{Instant, sleep};

use crate::supervisor::Supervisor;

/// How long a look at the engine may take. Each of its calls ends within half a minute, and it makes a few for every
/// container that has changed.
pub(super) const LOOKING: Duration = Duration::from_secs(600);
/// How long it may take from the end of one step to the beginning of the next, with the ledger's commits in between.
const BETWEEN_STEPS: Duration = Duration::from_secs(60);
/// It is told so many times within the watchdog's time.
const TIMES: u32 = 4;

/// The way to whoever watches the loop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulse {
    supervisor: Supervisor,
    /// None: nobody watches.
    period: Option<Duration>,
}

impl Pulse {
    pub(crate) fn new(supervisor: Supervisor) -> Self {
        let period = supervisor.watchdog().map(|limit| limit / TIMES);
        Self { supervisor, period }
    }

    /// The loop is alive.
    pub(crate) fn beat(&self) {
        self.supervisor.alive();
    }

    /// Waits for `work`, which may take as long as `patience`.
    pub(super) async fn during<T>(&self, patience: Duration, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        self.while_so(|| begun.elapsed() <= patience, work).await
    }

    /// Waits for `work`, which runs the steps that `progress` is told of. `told` counts what transfers tell.
    pub(super) async fn during_steps<T>(
        &self,
        progress: &Progress,
        told: impl Fn() -> u64,
        work: impl Future<Output = T>,
    ) -> T {
        let goes_on = || {
            progress.transfers_told(told());
            !progress.is_stuck()
        };
        self.while_so(goes_on, work).await
    }

    async fn while_so<T>(&self, is_so: impl Fn() -> bool, work: impl Future<Output = T>) -> T {
        let Some(period) = self.period else {
            return work.await;
        };
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = sleep(period) => if is_so() {
                    self.beat();
                }
            }
        }
    }
}

/// What is heard of the steps of one round.
#[derive(Debug)]
pub(super) struct Progress(Mutex<Heard>);

#[derive(Debug)]
struct Heard {
    /// Of any step.
    last: Instant,
    /// How far transfers were then, by a count of what they told.
    told: u64,
    /// For how long each step under way may be silent; none: for as long as it takes.
    under_way: BTreeMap<usize, Option<Duration>>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Heard {
            last: Instant::now(),
            told: 0,
            under_way: BTreeMap::new(),
        }))
    }

    /// The step of that number has begun.
    pub(super) fn begun(&self, index: usize, step: &Step) {
        let mut heard = self.lock();
        heard.last = Instant::now();
        heard.under_way.insert(index, longest_silence(step));
    }

    /// It has ended.
    pub(super) fn ended(&self, index: usize) {
        let mut heard = self.lock();
        heard.last = Instant::now();
        heard.under_way.remove(&index);
    }

    /// Transfers have told so often how far they are.
    fn transfers_told(&self, times: u64) {
        let mut heard = self.lock();
        if heard.told != times {
            heard.told = times;
            heard.last = Instant::now();
        }
    }

    /// Whether the silence is longer than that of any step under way can be.
    fn is_stuck(&self) -> bool {
        let heard = self.lock();
        let mut longest = BETWEEN_STEPS;
        for silence in heard.under_way.values() {
            match silence {
                Some(silence) => longest = longest.max(*silence),
                None => return false,
            }
        }
        heard.last.elapsed() > longest
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
