//! What a program tells the service manager that started it: that it is ready, what it does, that it is alive.
//!
//! The protocol is one datagram of `NAME=value` lines to the Unix socket that `NOTIFY_SOCKET` names (sd_notify(3),
//! "Standalone Implementations"). Without one, everything here does nothing.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use crate::error::one_line;

/// How long a datagram may wait for a manager that is busy. One that is lost is missed no longer than until the next.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who started this process, as far as it wants to be told. Clones tell the same one.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names; none where it names none, or one that cannot be used.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else {
            return Self::default();
        };
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        // The variables are inherited: they may be about a parent.
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|microseconds| is_ours && *microseconds > 0);
        Self::at(&address, watchdog.map(Duration::from_micros)).unwrap_or_else(|error| {
            tracing::warn!(address = %address.display(), %error, "the service manager cannot be told anything");
            Self::default()
        })
    }

    /// The one behind a socket, which ends a process that it has not heard of for as long as `watchdog`.
    pub(crate) fn at(address: &OsStr, watchdog: Option<Duration>) -> std::io::Result<Self> {
        let address = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket: Some(Arc::new((socket, address))),
            watchdog,
        })
    }

    /// Whether somebody listens.
    pub(crate) const fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// After how long a silence this process is ended; none where it may be silent.
    #[must_use]
    pub const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// It does now what it was started for.
    pub fn ready(&self, status: &str) {
        self.tell("READY=1", Some(status));
    }

    /// It ends because it was asked to.
    pub fn stopping(&self, status: &str) {
        self.tell("STOPPING=1", Some(status));
    }

    /// What it does, for people who look.
    pub fn status(&self, text: &str) {
        self.tell("", Some(text));
    }

    /// It is alive. Only for the loop whose standing still is to end this process.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            self.tell("WATCHDOG=1", None);
        }
    }

    fn tell(&self, state: &str, status: Option<&str>) {
        let Some(told) = &self.socket else { return };
        let (socket, address) = &**told;
        let mut text = state.to_owned();
        if let Some(status) = status {
            let between = if state.is_empty() { "" } else { "\n" };
            // A line break would begin another assignment.
            text = format!("{state}{between}STATUS={}", one_line(status));
        }
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            tracing::debug!(%error, state, "the service manager was not told");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A service manager that only listens.
    pub(crate) struct Manager {
        socket: UnixDatagram,
        folder: tempfile::TempDir,
    }

    impl Manager {
        pub(crate) fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self { socket, folder }
        }

        pub(crate) fn supervisor(&self, watchdog: Option<Duration>) -> Supervisor {
            Supervisor::at(self.folder.path().join("notify").as_os_str(), watchdog).unwrap()
        }

        /// What came since it was asked last, one text a datagram.
        pub(crate) fn heard(&self) -> Vec<String> {
            let mut buffer = [0; 4096];
            let mut heard = Vec::new();
            while let Ok(length) = self.socket.recv(&mut buffer) {
                heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            heard
        }
    }

    #[test]
    fn a_manager_hears_each_word_as_its_protocol_has_it() {
        let manager = Manager::new();
        let supervisor = manager.supervisor(Some(Duration::from_secs(60)));
        supervisor.ready("converged");
        supervisor.alive();
        supervisor.status("waiting\nREADY=0 for\tDocker");
        supervisor.stopping("the deckies keep running");
        assert_eq!(
            manager.heard(),
            [
                "READY=1\nSTATUS=converged",
                "WATCHDOG=1",
                "STATUS=waiting READY=0 for Docker",
                "STOPPING=1\nSTATUS=the deckies keep running",
            ]
        );
    }

    #[test]
    fn a_manager_without_a_watchdog_is_not_fed_and_one_that_is_gone_stops_nobody() {
        let manager = Manager::new();
        let supervisor = manager.supervisor(None);
        supervisor.alive();
        assert_eq!(manager.heard(), Vec::<String>::new());
        drop(manager);
        supervisor.ready("nobody hears it");
        Supervisor::default().ready("nobody is there");
    }

    #[test]
    fn a_socket_without_a_file_is_reached_as_well() {
        let name = format!("decnet-supervisor-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        let supervisor = Supervisor::at(OsStr::new(&format!("@{name}")), None).unwrap();
        supervisor.status("here");
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STATUS=here");
    }
}
