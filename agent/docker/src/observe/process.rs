//! Whether a container's process is still the one that was seen.
//!
//! An engine that loses an event, or is not asked, may have restarted a container meanwhile: it then has another
//! process. The kernel tells that without a call to the engine.

use std::fs;

/// A process, as long as it lives. Its id alone may come to mean another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i64,
    /// In clock ticks since the machine's start (proc_pid_stat(5), field 22).
    pub(super) began: u64,
}

impl Process {
    /// None when there is none of that id, or this process does not see it.
    pub(super) fn find(pid: i64) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self {
            pid,
            began: began(&stat)?,
        })
    }

    pub(super) fn lives(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }
}

/// The second field, the program's name, may contain anything, so the fields are counted from its last bracket.
fn began(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let mut stat = "7 (a) b (c)) S".to_owned();
        for field in 4..=30 {
            stat.push_str(&format!(" {field}"));
        }
        assert_eq!(began(&stat), Some(22));
    }

    #[test]
    fn a_process_that_has_ended_does_not_live() {
        let own = Process::find(std::process::id().into()).unwrap();
        assert!(own.lives());
        assert!(
            !Process {
                began: own.began + 1,
                ..own
            }
            .lives()
        );
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(child.id().into()).unwrap();
        assert!(process.lives());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.lives());
    }
}
