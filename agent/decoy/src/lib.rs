//! What a decky's containers run: one emulated service a process.
//!
//! ```text
//! environment ──> Context { identity, host, persona, log } ──> services::TABLE[slug].run
//!                                                                │
//!                        serve::tcp / serve::udp  <──────────────┘
//!                          one task a connection: Connection (idle timeout) + Session (events)
//!                                                                │
//!          event::EventLog ── one JSON line a fact, within the visitor's budget ──> queue ──> stdout
//! ```
//!
//! The whole process is one thread with one tokio runtime, and a second that writes the log. It resolves no names, writes no file and
//! reads nothing but its environment and its sockets, so it runs in an empty, read-only image.

pub mod door;
pub mod environment;
pub mod event;
pub mod host;
pub mod identity;
pub mod line;
pub mod pause;
pub mod serve;
pub mod services;
pub mod shell;

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

pub use environment::{Context, EnvironmentError};

/// How long the end waits for a reader of the log.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The first argument names no service.
    #[error("no service is called {slug:?}; there are: {known}, pause")]
    UnknownService {
        /// What was asked for.
        slug: String,
        /// Every slug there is.
        known: String,
    },
    /// The container's environment cannot be used.
    #[error("the environment of this container is damaged")]
    Environment(#[from] EnvironmentError),
    /// The service's port cannot be taken.
    #[error("cannot listen on {address}: is the port taken, or privileged?")]
    Bind {
        /// Address and port, with the transport.
        address: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The runtime, or a signal handler, cannot be set up.
    #[error("cannot set up the process")]
    SetUp(#[from] io::Error),
}

impl Failure {
    /// The process's exit code: 2 for a wrong start, 1 for everything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::UnknownService { .. } | Self::Environment(_) => 2,
            Self::Bind { .. } | Self::SetUp(_) => 1,
        }
    }
}

/// Runs the service `slug` until SIGTERM or SIGINT.
///
/// # Errors
///
/// When the service is unknown, the environment is damaged, or the port cannot be bound. Nothing that
/// happens on a connection is an error here.
pub fn run(slug: &str) -> Result<(), Failure> {
    let service = services::find(slug).ok_or_else(|| Failure::UnknownService {
        slug: slug.to_owned(),
        known: services::slugs(),
    })?;
    let context = Context::from_process(service)?;
    let log = context.log.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            outcome = (service.run)(context) => outcome,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    });
    // Dropping the runtime drops every session, and each says so in the log as it goes.
    drop(runtime);
    log.finish(LAST_WORDS);
    outcome
}
