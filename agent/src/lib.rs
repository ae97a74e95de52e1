//! The worker's service: pulls its signed bundle and makes the local Docker Engine match it.
//!
//! Tasks and channels of one [`Agent`]; there is no state outside of it, and a process may run several:
//!
//! ```text
//!            master                                                   Docker Engine
//!    bundle ↓      ↑ report   blob ↓                            events ↓     ↕ observe, apply
//!  ┌──────────┐ ┌──────────┐                                ┌─────────────────────────────┐
//!  │ pull     │ │ report   │         ┌── blobs ───────────→ │ reconcile                   │
//!  │  admit   │ │          │ ←─────────── watch: condition ─│  aim → plan → execute       │
//!  └────┬─────┘ └──┬───────┘                                └──────────────┬──────────────┘
//!       │   watch: │ bundles ─────────────────────────────────────────────→│ notify: wake
//!       ↓ accept   ↓ outbox, acknowledge                                   ↓ transitions, journal
//!  ┌────────────────────────────────── ledger (redb, one writer thread) ──────────────────────────┐
//!  └──────────────────────────────────────────────────────────────────────────────────────────────┘
//!       ↑ control: /status /plan /journal /retry on <state>/agent.sock
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | [`config`] | what the agent is told at start |
//! | [`enrol`] | from a one-shot token to an identity |
//! | `identity`, `trust` | who this host is, and whose signatures count |
//! | `link` | one HTTP connection to the master |
//! | `pull`, `admit` | the long poll, and the only way to an admitted bundle |
//! | [`ledger`] | the agent's memory: bundle, operations, journal, outbox |
//! | `traces` | what an OpenTelemetry collector is told of operations |
//! | `blobs`, `transfers` | content by digest, fetched and verified; how far that is |
//! | `reconcile` | the loop |
//! | `report` | heartbeat, events, observed state |
//! | `control`, [`status`], [`doctor`] | what people on the host can ask |
//! | `compose` | Compose projects of this machine, without a master |
//! | [`update`] | new versions of this program: when, how, and how to go back |
//! | [`supervisor`] | what the service manager is told |
//! | [`cli`] | the commands |

mod admit;
mod agent;
mod backoff;
/// See `examples/ledger_bench.rs`; in no program.
#[cfg(feature = "bench")]
pub mod bench;
mod blobs;
mod certificate;
pub mod cli;
pub mod clock;
mod compose;
pub mod config;
mod control;
pub mod core_dumps;
pub mod doctor;
pub mod enrol;
mod error;
/// Called by the fuzz targets in `agent/fuzz`; in no program.
#[cfg(any(feature = "fuzzing", test))]
pub mod fuzzing;
mod host;
mod identity;
pub mod ledger;
mod link;
pub mod logging;
pub mod manual;
mod policy;
mod pull;
mod reconcile;
mod report;
pub mod status;
pub mod supervisor;
mod traces;
mod transfers;
mod trust;
pub mod update;

pub use agent::{Agent, OpenError, RunError};
pub use config::Config;
pub use error::error_chain;

/// The version that is reported to the master.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod faults;
#[cfg(test)]
mod testing;
