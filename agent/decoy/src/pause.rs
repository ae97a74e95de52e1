//! The base container's only process: it owns the decky's network namespace and does nothing.
//!
//! As PID 1 it reaps whatever is orphaned to it (`docker exec` leaves such processes behind), passes
//! SIGTERM and SIGINT on, and ends at once.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

/// How long children may take to end before PID 1 goes and the kernel kills them.
const GRACE: Duration = Duration::from_millis(300);

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
///
/// When signals cannot be blocked or waited for.
pub fn run() -> io::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    // Blocked signals stay pending even for PID 1, whose unhandled signals the kernel would drop.
    signals.thread_block()?;
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                reap();
            }
            signal => {
                end_children(signal);
                return Ok(());
            }
        }
    }
}

/// Collects every child that has ended. Returns whether any is left.
fn reap() -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return true,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

fn end_children(signal: Signal) {
    // Only PID 1 may signal "everyone": outside a PID namespace that would be the whole machine.
    if getpid() != Pid::from_raw(1) || kill(Pid::from_raw(-1), signal).is_err() {
        return;
    }
    let deadline = Instant::now() + GRACE;
    while reap() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}
