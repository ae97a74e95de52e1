//! Waiting for conditions, never for time to pass.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(50);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What a look at a condition found.
#[derive(Debug)]
pub enum Seen<T> {
    /// It holds.
    Done(T),
    /// Not yet; the text says what is there instead.
    NotYet(String),
}

impl<T> Seen<T> {
    /// Not yet, because of what `seen` shows.
    pub fn not_yet(seen: impl Display) -> Self {
        Self::NotYet(seen.to_string())
    }
}

impl Seen<()> {
    /// Done when `holds`.
    pub fn when(holds: bool, seen: impl Display) -> Self {
        if holds {
            Self::Done(())
        } else {
            Self::not_yet(seen)
        }
    }
}

/// Looks until `what` holds. A look that fails ends the wait at once.
///
/// # Errors
///
/// When `limit` passes, with what was seen last; when a look fails; when the run was interrupted.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Seen<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let seen = match look()? {
            Seen::Done(value) => return Ok(value),
            Seen::NotYet(seen) => seen,
        };
        if is_interrupted() {
            bail!("interrupted while waiting for {what}");
        }
        if start.elapsed() > limit {
            bail!("{what}: not so after {} s; seen last: {seen}", limit.as_secs());
        }
        thread::sleep(PERIOD);
    }
}

/// Makes every wait of this process end early.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Lets waits run again: cleaning up after an interruption waits too.
pub fn resume() {
    INTERRUPTED.store(false, Ordering::SeqCst);
}

/// Whether somebody asked to stop.
#[must_use]
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_fails_tells_what_it_saw_last() {
        let mut looks = 0;
        let error = until::<()>("three apples", Duration::ZERO, || {
            looks += 1;
            Ok(Seen::not_yet(format!("{looks} apples")))
        })
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("three apples") && error.contains("1 apples"),
            "{error}"
        );
    }
}
