//! Updates of the agent's own package.
//!
//! ```text
//!   agent (sandboxed)                                    updater (a unit of its own, the previous version's program)
//!   bundle's order ─ verify ─ turn? ─ fetch package ──▶ request.json ──▶ verify again ─ save what is installed ─ journal
//!                                                                            │
//!   report ◀── progress ◀───────────── state.json ◀── kept │ restored ◀── install ─ start ─ judge the new agent
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | [`phase`] | what comes after what: a pure function of the journal and what happened |
//! | [`health`] | what an agent says of how it began, and whether that is good enough |
//! | `files` | where both sides keep what, and in which form |
//! | `package` | dpkg, rpm, systemd |
//! | `record` | what rpm's database says of a version, kept and put back |
//! | `updater` | the unit's program |
//! | `watch` | the agent's side |
//!
//! Guarantees: whatever ends the updater, it goes on from its journal, and ends with the new version running and judged
//! good, or with the one of before. Nothing here touches a container.

pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod package;
mod phase;
mod record;
#[cfg(test)]
mod testing;
mod updater;
pub(crate) mod watch;

pub use files::Overview;
pub use updater::{UpdateError, run};
