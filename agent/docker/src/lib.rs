//! Observes a Docker Engine and applies steps to it, over its local socket.
//!
//! The engine decides nothing here and neither does this crate: a step carries every name, address and digest.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`crash`] | where tests can end the process |
//! | `engine` | the connection: bounded calls, each with a timeout |
//! | `observe` | the engine's objects of one host, the images, the interfaces; [`Observer`] remembers them |
//! | `known` | what need not be asked again while steps are applied |
//! | `list` | containers as people ask for them, and what they have written |
//! | `progress` | what a pull or a build tells while it is under way |
//! | `apply` | one step |
//! | [`host`] | the host's own network: what its kernel has, its links |
//! | `events` | the engine's events as a hint to look again |
//! | `error` | [`EngineError`]: what failed, on what, in the engine's words, and whether to retry |

mod apply;
/// For tests that crash; see there.
pub mod crash;
mod engine;
mod error;
mod events;
pub mod host;
mod known;
mod list;
mod observe;
mod progress;

pub use apply::{BlobSource, Builder, longest_silence};
pub use engine::{Engine, Facts};
pub use error::{EngineError, Fault};
pub use list::{Listed, LogLine};
pub use observe::Observer;
pub use progress::{Progress, ProgressSink};
