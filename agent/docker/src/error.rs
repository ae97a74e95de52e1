//! What can go wrong between us, the engine and the kernel.

use std::io;
use std::net::IpAddr;

use decnet_wire::ids::{InterfaceName, MacAddress};

/// A failed exchange with the engine, or an object that is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The socket does not answer: the engine is stopped, restarting, or not installed.
    #[error("the engine at {socket} does not answer")]
    Connect {
        socket: String,
        #[source]
        source: bollard::errors::Error,
    },
    /// The engine answered a call with an error, or not at all.
    #[error("cannot {what}")]
    Call {
        /// What was asked for, on what: `create container decnet-web-ssh-1`.
        what: String,
        #[source]
        source: bollard::errors::Error,
    },
    /// The engine did not finish a call in time.
    #[error("cannot {what}: the engine did not answer within {seconds} s")]
    Timeout { what: String, seconds: u64 },
    /// An object of that name exists and is not the one that is wanted.
    #[error("cannot {what}: {object} ({id}) exists already and {why}; remove or rename it")]
    Foreign {
        what: String,
        object: String,
        id: String,
        why: &'static str,
    },
    /// Another network has what this one is to have.
    #[error(
        "cannot {what}: network {other} ({id}) has {holds} already; remove it, or give this host another LAN"
    )]
    Taken {
        what: String,
        other: String,
        id: String,
        /// `the interface eth1`, `10.0.0.0/16`.
        holds: String,
    },
    /// A container ended, or was restarted, before it had settled.
    #[error("container {name} does not stay up: {how}{logs}")]
    Unsettled {
        name: String,
        /// `exited with code 3`, `was killed for using too much memory`, …
        how: String,
        /// The last lines that it wrote, or nothing; starts with a separator.
        logs: String,
    },
    /// The engine had kept something of a container that never let it start again; it is removed, to be made anew.
    #[error("container {name} could not be started any more and is made anew: {why}")]
    Spoilt { name: String, why: String },
    /// A container has not become healthy in time, or says that it is not.
    #[error("container {name} is not healthy: {how}")]
    Unhealthy { name: String, how: String },
    /// A container that was to do its work and end has not, or has failed.
    #[error("container {name} has not completed: {how}{logs}")]
    Incomplete {
        name: String,
        how: String,
        /// As of [`Self::Unsettled`].
        logs: String,
    },
    /// The files of a specification make no archive: a path that climbs out, or one that is too long.
    #[error("cannot pack the files of container {container}")]
    PackFiles {
        container: String,
        #[source]
        source: io::Error,
    },
    /// A build's context cannot be read.
    #[error("cannot read {path}, of the build of image {image}")]
    ReadContext {
        image: String,
        path: String,
        #[source]
        source: io::Error,
    },
    /// The engine's builder gave up.
    #[error("cannot build image {image}: {why}{last}")]
    Build {
        image: String,
        /// In the builder's words.
        why: String,
        /// The last lines of the build, or nothing; starts with a separator.
        last: String,
    },
    /// A blob cannot be had. Of its source's kinds, `NotFound` says that nobody has it, `InvalidData` that it was
    /// damaged on its way or where it comes from, `StorageFull` that there is no room for it; with any other kind it
    /// could not be reached.
    #[error("cannot read blob {blob}")]
    ReadBlob {
        blob: String,
        #[source]
        source: io::Error,
    },
    /// The engine has loaded or pulled something, but not the image that was asked for.
    #[error("image {reference} is not there after {what}: the archive or registry holds another image")]
    WrongImage { reference: String, what: &'static str },
    /// None of the names of the container's image is known to the engine.
    #[error("cannot create container {container}: the engine has no image {image}")]
    NoImage { container: String, image: String },
    /// The engine's version cannot do what the step asks for.
    #[error("cannot {what}: {why}")]
    Unsupported { what: String, why: &'static str },
    /// Somebody on the LAN has the address that a container is to have.
    #[error(
        "{container} cannot have {address}: {mac} answers for it on {parent}; give it another address, or \
         take it from that machine"
    )]
    AddressTaken {
        container: String,
        address: IpAddr,
        parent: InterfaceName,
        mac: MacAddress,
    },
    /// The kernel does not do what is asked of it.
    #[error("cannot {what}")]
    Host {
        what: String,
        #[source]
        source: io::Error,
    },
    /// The host's network interfaces cannot be listed.
    #[error("cannot list the host's network interfaces")]
    ListInterfaces(#[source] nix::Error),
}

/// Whose fault an error is that is not [`EngineError::retryable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A registry that is not reached, a disk that is full: it passes, or somebody makes it pass on the host.
    Passing,
    /// The host or its LAN, as it is now: another machine has the address, the kernel lacks something.
    Host,
    /// What was asked for.
    Wish,
    /// What was asked for: the container was started and ended. The same again will end the same.
    Ended,
}

/// What Go's network stack and registries say when a registry is not reached or has enough to do.
const REGISTRY_IS_AWAY: [&str; 16] = [
    "dial tcp",
    "no such host",
    "server misbehaving",
    "i/o timeout",
    "TLS handshake timeout",
    "connection refused",
    "connection reset by peer",
    "network is unreachable",
    "no route to host",
    "request canceled",
    "context deadline exceeded",
    "unexpected EOF",
    "toomanyrequests",
    "Too Many Requests",
    "Bad Gateway",
    "Service Unavailable",
];

impl EngineError {
    /// Whose fault it is, so that whoever tries again knows how often.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Unsettled { .. } => Fault::Ended,
            Self::AddressTaken { .. } | Self::Taken { .. } | Self::Host { .. } | Self::ListInterfaces(_) => {
                Fault::Host
            }
            Self::Spoilt { .. } => Fault::Passing,
            Self::ReadBlob { source, .. } if source.kind() != io::ErrorKind::NotFound => Fault::Passing,
            // What the build's own programs wrote says nothing about the host.
            Self::Build { why, .. } => of_words(why, true),
            Self::Call { what, source } => {
                let fetches = ["pull image ", "build image "]
                    .iter()
                    .any(|call| what.starts_with(call));
                of_words(said(source), fetches)
            }
            _ => Fault::Wish,
        }
    }

    /// The engine's own words; nothing where it has said none.
    pub(crate) fn said(&self) -> &str {
        match self {
            Self::Call { source, .. } => said(source),
            _ => "",
        }
    }

    /// Whether the same step can succeed later without anything being changed by hand: the engine is away, slow or
    /// overloaded.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::ListInterfaces(_) => true,
            Self::Call { what, source } => is_transient(source) || (asks(what) && status(self) == Some(500)),
            Self::ReadBlob { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::StorageFull
            ),
            Self::Foreign { .. }
            | Self::Taken { .. }
            | Self::Unsettled { .. }
            | Self::Spoilt { .. }
            | Self::Unhealthy { .. }
            | Self::Incomplete { .. }
            | Self::PackFiles { .. }
            | Self::Build { .. }
            | Self::ReadContext { .. }
            | Self::WrongImage { .. }
            | Self::NoImage { .. }
            | Self::AddressTaken { .. }
            | Self::Host { .. }
            | Self::Unsupported { .. } => false,
        }
    }
}

/// Lost connections and the status codes that an engine gives while it is overloaded or going down. A plain 500 is
/// how the engine refuses for good (an address in use, an unknown interface), so it is none of them.
fn is_transient(error: &bollard::errors::Error) -> bool {
    use bollard::errors::Error;
    match error {
        Error::DockerResponseServerError { status_code, .. } => matches!(status_code, 429 | 502 | 503 | 504),
        Error::RequestTimeoutError
        | Error::IOError { .. }
        | Error::HyperResponseError { .. }
        | Error::HyperLegacyError { .. }
        | Error::SocketNotFoundError(_) => true,
        _ => false,
    }
}

/// Whether a call asks what there is. An engine that cannot even say that has troubles of its own, whatever is asked of it.
fn asks(what: &str) -> bool {
    ["list ", "inspect "].iter().any(|call| what.starts_with(call))
}

/// `fetches`: of a call that asks registries.
fn of_words(said: &str, fetches: bool) -> Fault {
    let away = fetches && REGISTRY_IS_AWAY.iter().any(|word| said.contains(word));
    if away || said.contains("no space left on device") {
        Fault::Passing
    } else {
        Fault::Wish
    }
}

/// The engine's own words.
fn said(error: &bollard::errors::Error) -> &str {
    use bollard::errors::Error;
    match error {
        Error::DockerResponseServerError { message, .. } => message,
        Error::DockerStreamError { error } => error,
        _ => "",
    }
}

/// Whether the engine says that there is no such object.
pub(crate) fn is_absent(error: &EngineError) -> bool {
    status(error) == Some(404)
}

/// The status code that the engine answered with.
pub(crate) fn status(error: &EngineError) -> Option<u16> {
    match error {
        EngineError::Call {
            source: bollard::errors::Error::DockerResponseServerError { status_code, .. },
            ..
        } => Some(*status_code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(what: &str, message: &str) -> EngineError {
        let source = bollard::errors::Error::DockerResponseServerError {
            status_code: 500,
            message: message.to_owned(),
        };
        EngineError::Call {
            what: what.to_owned(),
            source,
        }
    }

    #[test]
    fn a_registry_that_is_not_reached_is_not_the_fault_of_what_was_asked() {
        let away = [
            "Get \"https://r.example/v2/\": dial tcp: lookup r.example on 10.0.0.1:53: no such host",
            "Get \"https://r.example/v2/\": net/http: TLS handshake timeout",
            "toomanyrequests: you have reached your pull rate limit",
        ];
        for text in away {
            assert_eq!(
                call("pull image r.example/a", text).fault(),
                Fault::Passing,
                "{text}"
            );
        }
        for text in [
            "manifest unknown",
            "pull access denied for a, repository does not exist",
        ] {
            assert_eq!(
                call("pull image r.example/a", text).fault(),
                Fault::Wish,
                "{text}"
            );
        }
        let start = call("start container a", "failed to dial: connection refused");
        assert_eq!(start.fault(), Fault::Wish);
    }

    #[test]
    fn what_a_builds_programs_wrote_does_not_make_its_failure_pass() {
        let build = |why: &str| EngineError::Build {
            image: "a".to_owned(),
            why: why.to_owned(),
            last: "; the build's last lines: connection refused | no space left on device".to_owned(),
        };
        assert_eq!(
            build("executor failed running [x]: exit code: 1").fault(),
            Fault::Wish
        );
        assert_eq!(
            build("dial tcp: lookup r.example: no such host").fault(),
            Fault::Passing
        );
        assert!(!build("dial tcp").retryable());
    }

    #[test]
    fn an_engine_that_cannot_say_what_there_is_is_asked_again() {
        for what in ["list images", "list networks", "inspect image a"] {
            assert!(
                call(what, "the engine has lost its bearings").retryable(),
                "{what}"
            );
        }
        assert!(!call("start container a", "address already in use").retryable());
    }

    #[test]
    fn a_full_disk_passes_whatever_it_kept_from_being_done() {
        for what in ["create container a", "load image a", "pull image a"] {
            let error = call(what, "write /var/lib/docker/x: no space left on device");
            assert!(!error.retryable());
            assert_eq!(error.fault(), Fault::Passing, "{what}");
        }
        let blob = EngineError::ReadBlob {
            blob: "b".to_owned(),
            source: io::ErrorKind::StorageFull.into(),
        };
        assert!(!blob.retryable(), "it is said in the row");
        assert_eq!(blob.fault(), Fault::Passing);
    }
}
