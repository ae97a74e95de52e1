//! What the kernel says of this process, under the names that every Prometheus client library uses.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Fraction, signed};

#[derive(Debug)]
pub(super) struct Process {
    resident: Gauge,
    files: Gauge,
    most_files: Gauge,
    started: Fraction,
}

impl Default for Process {
    fn default() -> Self {
        let started = Fraction::default();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        started.set(since.as_secs_f64());
        Self {
            resident: Gauge::default(),
            files: Gauge::default(),
            most_files: Gauge::default(),
            started,
        }
    }
}

impl Process {
    pub(super) fn register(&self, r: &mut Registry) {
        let r = r.sub_registry_with_prefix("process");
        r.register_with_unit(
            "resident_memory",
            "Memory of the process that is in RAM",
            Unit::Bytes,
            self.resident.clone(),
        );
        r.register("open_fds", "File descriptors that are open", self.files.clone());
        r.register(
            "max_fds",
            "File descriptors that may be open",
            self.most_files.clone(),
        );
        r.register_with_unit(
            "start_time",
            "When the process started, since 1970, by the clock of that moment",
            Unit::Seconds,
            self.started.clone(),
        );
    }

    /// Looks. What the kernel does not say stays as it was.
    pub(super) fn take(&self) {
        if let Ok(status) = std::fs::read_to_string("/proc/self/status")
            && let Some(kibibytes) = resident(&status)
        {
            self.resident.set(signed(kibibytes.saturating_mul(1024)));
        }
        if let Ok(folder) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the folder itself.
            self.files.set(signed(folder.count().saturating_sub(1) as u64));
        }
        if let Ok((most, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            self.most_files.set(signed(most));
        }
    }
}

/// `VmRSS` in KiB (proc_pid_status(5)).
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_size_is_found_among_the_rest() {
        assert_eq!(
            resident("Name:\tdecnet\nVmRSS:\t   12345 kB\nThreads:\t3\n"),
            Some(12345)
        );
        assert_eq!(resident("Name:\tdecnet\n"), None);
        let process = Process::default();
        process.take();
        assert!(process.resident.get() > 1 << 20 && process.files.get() > 2);
    }
}
