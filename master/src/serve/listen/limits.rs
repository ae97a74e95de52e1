//! Every limit of the listeners, with its reason. Nothing here can be configured: a limit that is too low for a fleet
//! is a defect of this file.

use std::time::Duration;

/// From the first byte to the end of the TLS handshake. Three round trips on the worst line that agents are known to
/// have take two seconds.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The most bytes that a client may send until its handshake is over: a hello with every extension there is and a chain
/// of certificates take less than half of it.
const HANDSHAKE_BYTES: usize = 16 * 1024;
/// From the first byte of a request, or from the end of the handshake, to the end of the request's head.
const HEAD: Duration = Duration::from_secs(15);
/// The most bytes of a request's head. Ours take a few hundred, but for the ids of a whole fleet's lifecycle rows.
const HEAD_BYTES: usize = 32 * 1024;
/// The most header fields of a request.
const HEAD_FIELDS: usize = 64;
/// Between two requests. Longer than the heartbeat, so that an agent keeps its connection.
const IDLE: Duration = Duration::from_secs(75);
/// A client that takes fewer than [`WRITE_BYTES`] of what waits for it in this time does not read.
const WRITE: Duration = Duration::from_secs(30);
/// See [`WRITE`]: two thousand bytes a second, an eighth of the slowest line that a decoy image is worth loading over.
const WRITE_BYTES: usize = 64 * 1024;
/// After this, and up to an eighth more, a connection ends with the answer under way; agents make another one. It bounds
/// what a defect in one connection can gather, and brings agents to a listener's newest certificate. The eighth
/// keeps hosts that came together from coming together again.
const AGE: Duration = Duration::from_secs(3600);
/// For a client that has not shown who it is.
const AGE_OF_A_STRANGER: Duration = Duration::from_secs(120);

/// How long an agent may take to send a body. Behind a slow line it sends its largest report in less.
pub const BODY: Duration = Duration::from_secs(60);
/// As [`BODY`], for a host that enrols: its request is about two thousand bytes.
pub const ENROLMENT_BODY: Duration = Duration::from_secs(20);
/// Memory for the bodies that are on their way from agents at one moment, in bytes. A heartbeat takes one thousand, so
/// that all of 10,000 hosts at once fit; who comes when it is used up is told to try again.
pub const BODIES: usize = 64 * 1024 * 1024;
/// As [`BODIES`], for enrolment.
pub const ENROLMENT_BODIES: usize = 8 * 1024 * 1024;
/// Packages that are on their way to hosts at one moment. Each takes one chunk of memory, and a line that is fast is used up by
/// far fewer; whoever comes besides tries again.
pub const DOWNLOADS: usize = 32;
/// The longest that a poll waits, in seconds, whatever it asks for. Below what proxies and NAT tables forget.
pub const POLL_S: u64 = 60;
/// Polls of one host that wait at one moment. A host needs one; the other is that of a connection that broke unnoticed.
pub const POLLS_OF_A_HOST: usize = 2;
/// Reports of one host that are on their way at one moment: a second one is there because the first broke off.
pub const REPORTS_OF_A_HOST: usize = 1;

/// How long open requests may take to finish once the master ends. A blob that is cut off is resumed.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// What one listener allows.
///
/// A client has *proven* itself when it has shown who it is: an agent by the handshake with its certificate, an operator
/// by a request with a token. Those who have not have places of their own, so that they cannot take those of the others;
/// when these are used up, the oldest of the address that holds the most of them gives way.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections of clients that have proven themselves; with none of them, nobody is told from a stranger.
    pub proven: usize,
    /// Of these, from one address: an IPv4 address or an IPv6 network of 64 bits (what one customer is given, RFC 6177).
    pub proven_of_an_address: usize,
    /// Of these, with one certificate or token. The oldest gives way.
    pub proven_of_an_owner: usize,
    /// Connections of clients that have not proven themselves.
    pub strangers: usize,
    /// Of these, from one address. The oldest gives way.
    pub strangers_of_an_address: usize,
    /// Whether a client certificate, which TLS has checked, is proof.
    pub certificate_proves: bool,
    /// Whether HTTP/1.0 is refused: it has no keep-alive that agents could use, and other rules for bodies.
    pub only_http_1_1: bool,
    pub handshake: Duration,
    pub handshake_bytes: usize,
    pub head: Duration,
    pub head_bytes: usize,
    pub head_fields: usize,
    pub idle: Duration,
    pub write: Duration,
    pub write_bytes: usize,
    pub age: Duration,
}

const fn usual() -> Limits {
    Limits {
        proven: 0,
        proven_of_an_address: 0,
        proven_of_an_owner: 0,
        strangers: 0,
        strangers_of_an_address: 0,
        certificate_proves: false,
        only_http_1_1: false,
        handshake: HANDSHAKE,
        handshake_bytes: HANDSHAKE_BYTES,
        head: HEAD,
        head_bytes: HEAD_BYTES,
        head_fields: HEAD_FIELDS,
        idle: IDLE,
        write: WRITE,
        write_bytes: WRITE_BYTES,
        age: AGE,
    }
}

/// The agent API.
pub const AGENTS: Limits = Limits {
    // A poll and a report for each of 10,000 hosts.
    proven: 20_000,
    // 4,000 hosts behind one NAT address; and one address never has more than half of all.
    proven_of_an_address: 8192,
    // Poll, report, blobs, renewal; as many again that broke unnoticed.
    proven_of_an_owner: 8,
    // Handshakes under way. One takes a few milliseconds of work and some round trips: all hosts of a fleet that lost its
    // master are in again within their back-off of some seconds. At 30 kB each it is 60 MB in the worst case.
    strangers: 2048,
    strangers_of_an_address: 1024,
    certificate_proves: true,
    only_http_1_1: true,
    ..usual()
};

/// Enrolment. Nobody proves anything here before the one request that counts.
pub const ENROLMENT: Limits = Limits {
    strangers: 512,
    strangers_of_an_address: 256,
    only_http_1_1: true,
    age: AGE_OF_A_STRANGER,
    ..usual()
};

/// The operator API over HTTPS.
pub const OPERATORS: Limits = Limits {
    proven: 512,
    proven_of_an_address: 256,
    proven_of_an_owner: 128,
    strangers: 512,
    strangers_of_an_address: 128,
    ..usual()
};

/// The operator API on the socket. Only the user that the master runs as, and root, can connect.
pub const LOCAL: Limits = Limits {
    strangers: 1024,
    strangers_of_an_address: 1024,
    ..usual()
};

/// Files that the master has open besides connections: store, blobs on their way, listeners, the runtime's own.
const OTHER_FILES: usize = 512;

impl Limits {
    /// Connections at once, of whomever.
    #[must_use]
    pub const fn connections(&self) -> usize {
        self.proven + self.strangers
    }

    /// For a process that may have `files` open: agents have what the others leave, and none of them can use up
    /// the descriptors of the others.
    #[must_use]
    pub fn agents_within(files: u64) -> Self {
        let others = ENROLMENT.connections() + OPERATORS.connections() + LOCAL.connections() + OTHER_FILES;
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let left = files.saturating_sub(others).max(64);
        let strangers = AGENTS.strangers.min(left / 4);
        Self {
            strangers,
            strangers_of_an_address: AGENTS.strangers_of_an_address.min(strangers),
            proven: AGENTS.proven.min(left - strangers),
            ..AGENTS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With 20,000 places and a limit of 20,000 files, strangers used up the descriptors of the store.
    #[test]
    fn the_listeners_share_the_open_files_and_never_take_all_of_them() {
        for files in [4096, 20_000, 524_288, 1 << 40] {
            let agents = Limits::agents_within(files);
            let all = agents.connections()
                + ENROLMENT.connections()
                + OPERATORS.connections()
                + LOCAL.connections()
                + OTHER_FILES;
            assert!(all as u64 <= files, "{all} of {files}");
            assert!(agents.proven >= 2 * agents.strangers, "{agents:?}");
        }
        assert_eq!(Limits::agents_within(524_288).proven, AGENTS.proven);
    }
}
