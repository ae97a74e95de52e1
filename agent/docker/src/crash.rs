//! Points at which a test can end the process as a power cut would: nothing after that instruction happens, nothing is
//! dropped, closed or flushed. Only in builds with the feature `fault-injection`; otherwise a point is nothing.
//!
//! | variable | what it does |
//! | --- | --- |
//! | `DECNET_CRASH_AT=<point>:<n>` | abort at the `n`th passing of the point, counted from 1 |
//! | `DECNET_CRASH_ORDER=<file>` | count nothing before this file is there; what it holds is as `DECNET_CRASH_AT`, or nothing: only count |
//! | `DECNET_CRASH_COUNT=<file>` | write how often each point was passed, one `<point> <n>` a line |
//!
//! [`ANY`] stands for all points together.

/// Before a commit of the ledger.
pub const BEFORE_COMMIT: &str = "before-commit";
/// After it, before anybody is told.
pub const AFTER_COMMIT: &str = "after-commit";
/// Before a call to the engine.
pub const BEFORE_CALL: &str = "before-call";
/// After it, before its answer is used.
pub const AFTER_CALL: &str = "after-call";
/// All points.
pub const ANY: &str = "any";

/// Does nothing.
#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub const fn point(_: &'static str) {}

#[cfg(feature = "fault-injection")]
pub use armed::point;

#[cfg(feature = "fault-injection")]
mod armed {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use super::ANY;

    struct Orders {
        /// Where the order is looked for until it is there; none: it is given already.
        wait_for: Option<PathBuf>,
        crash_at: Option<(String, u64)>,
        count_in: Option<PathBuf>,
        passed: BTreeMap<&'static str, u64>,
    }

    static ORDERS: LazyLock<Mutex<Orders>> = LazyLock::new(|| {
        Mutex::new(Orders {
            wait_for: std::env::var_os("DECNET_CRASH_ORDER").map(Into::into),
            crash_at: std::env::var("DECNET_CRASH_AT").ok().map(|text| order(&text)),
            count_in: std::env::var_os("DECNET_CRASH_COUNT").map(Into::into),
            passed: BTreeMap::new(),
        })
    });

    fn order(text: &str) -> (String, u64) {
        let Some((name, Ok(number))) = text
            .trim()
            .rsplit_once(':')
            .map(|(name, number)| (name, number.parse()))
        else {
            eprintln!("the order to crash is {text:?}, not <point>:<n>");
            std::process::abort();
        };
        (name.to_owned(), number)
    }

    impl Orders {
        /// Whether passings count yet.
        fn begun(&mut self) -> bool {
            let Some(file) = &self.wait_for else {
                return true;
            };
            let Ok(text) = std::fs::read_to_string(file) else {
                return false;
            };
            if !text.trim().is_empty() {
                self.crash_at = Some(order(&text));
            }
            self.wait_for = None;
            true
        }
    }

    /// Passes the point, or ends the process there.
    pub fn point(name: &'static str) {
        // Held to the end, so that no other thread gets any further than this one.
        let mut orders = ORDERS.lock().unwrap_or_else(PoisonError::into_inner);
        if !orders.begun() {
            return;
        }
        let orders = &mut *orders;
        for name in [name, ANY] {
            let times = orders.passed.entry(name).or_default();
            *times += 1;
            if orders
                .crash_at
                .as_ref()
                .is_some_and(|(at, n)| at == name && n == times)
            {
                std::process::abort();
            }
        }
        if let Some(file) = &orders.count_in {
            let lines: String = orders
                .passed
                .iter()
                .map(|(name, n)| format!("{name} {n}\n"))
                .collect();
            if let Err(error) = std::fs::write(file, lines) {
                eprintln!("cannot write {}: {error}", file.display());
            }
        }
    }
}
