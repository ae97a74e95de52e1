//! One visitor on one connection, and what the log says about it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use time::OffsetDateTime;

use crate::event::{Category, Event, EventLog, Outcome, Payer, Purse};

/// Numbers sessions within the process.
static OPENED: AtomicU64 = AtomicU64::new(0);

/// A connection, or a single datagram, as the log knows it.
#[derive(Debug)]
pub struct Session {
    log: EventLog,
    protocol: &'static str,
    transport: &'static str,
    peer: SocketAddr,
    local: SocketAddr,
    id: String,
    payer: Payer,
    opened: Instant,
    /// Set between the `connection` event and the `disconnect` event.
    open: AtomicBool,
}

impl Session {
    pub(super) fn open(
        log: &EventLog,
        protocol: &'static str,
        transport: &'static str,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Self {
        let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        let id = format!("{now:x}-{:x}", OPENED.fetch_add(1, Ordering::Relaxed));
        let opened = Instant::now();
        Self {
            log: log.clone(),
            protocol,
            transport,
            peer,
            local,
            id,
            payer: Payer {
                address: peer.ip(),
                connection: Arc::new(Mutex::new(Purse::of_connection(opened))),
            },
            opened,
            open: AtomicBool::new(false),
        }
    }

    /// Begins an event with this session's addresses and id, charged to its visitor: a flood is counted
    /// rather than written.
    pub fn event(&self, action: &str, category: Category) -> Event {
        self.log
            .event(action, category)
            .charged_to(&self.payer)
            .field("source.ip", self.peer.ip().to_string())
            .field("source.port", self.peer.port())
            .field("destination.ip", self.local.ip().to_string())
            .field("destination.port", self.local.port())
            .field("network.transport", self.transport)
            .field("network.protocol", self.protocol)
            .field("decnet.session", self.id.as_str())
    }

    /// Logs an attempt to log in: the one event every service with credentials shares.
    pub fn login(&self, user: impl AsRef<[u8]>, password: impl AsRef<[u8]>, admitted: bool) {
        self.event("login", Category::Authentication)
            .outcome(admitted)
            .text("user.name", user)
            .text("decnet.password", password)
            .emit();
    }

    /// Logs a command line that was run, or tried.
    pub fn command(&self, line: impl AsRef<[u8]>) {
        self.event("command", Category::Process)
            .text("process.command_line", line)
            .emit();
    }

    /// Logs bytes that are not the protocol.
    pub fn garbage(&self, sent: impl AsRef<[u8]>) {
        self.event("garbage", Category::Network)
            .of_type("error")
            .outcome(Outcome::Failure)
            .text("decnet.payload", sent)
            .emit();
    }

    /// The visitor's address.
    #[must_use]
    pub fn peer(&self) -> IpAddr {
        self.peer.ip()
    }

    /// The visitor's address and port.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    /// The decky's own address and port on this connection.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    pub(super) fn announce(&self) {
        self.open.store(true, Ordering::Relaxed);
        self.event("connection", Category::Network)
            .of_type("start")
            .outcome(Outcome::Success)
            .emit();
    }

    pub(super) fn close(&self, reason: &str) {
        if self.open.swap(false, Ordering::Relaxed) {
            let nanoseconds = u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.event("disconnect", Category::Network)
                .of_type("end")
                .field("event.duration", nanoseconds)
                .text("event.reason", reason)
                .emit();
        }
    }
}

impl Drop for Session {
    /// A session still open here was dropped with the runtime, or its task panicked.
    fn drop(&mut self) {
        self.close("the service stopped");
    }
}
