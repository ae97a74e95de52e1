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
    /// An image archive cannot be read.
    #[error("cannot read image archive {blob}")]
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

impl EngineError {
    /// Whether the same step can succeed later without anything being changed by hand: the engine is away, slow or
    /// overloaded.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::ListInterfaces(_) => true,
            Self::Call { source, .. } => is_transient(source),
            Self::ReadBlob { source, .. } => source.kind() != io::ErrorKind::NotFound,
            Self::Foreign { .. }
            | Self::Taken { .. }
            | Self::Unsettled { .. }
            | Self::Unhealthy { .. }
            | Self::Incomplete { .. }
            | Self::PackFiles { .. }
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
