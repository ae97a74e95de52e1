//! The master without listeners and without agents: what a deploy, a report, a failure and a restart do to the
//! store. A test plays the host: it enrols, reads its bundles and reports.

#![allow(clippy::unwrap_used, clippy::panic)]

mod audit;
mod certificates;
mod crashes;
mod decommission;
mod enrolment;
mod events;
mod fleet;
mod history;
mod host_states;
mod moves;
mod outcomes;
mod policies;
mod publishing;
mod releases;
mod restore;
mod rows;
mod scene;
