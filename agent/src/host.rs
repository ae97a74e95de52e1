//! What concerns the host itself: units, and how it leaves the fleet.
//!
//! Flow of a decommission: [`leave`] (in the agent) removes everything that runs here from the engine, and has [`launch`]
//! start the reaper outside of the agent's unit; [`reaper`] removes the agent itself, and every trace but logs.
//!
//! | module | what |
//! | --- | --- |
//! | [`units`] | systemd over D-Bus |
//! | [`clearance`] | removes everything of this host from the engine |
//! | [`work`] | the reaper's folder: its journal, identity and program |
//! | [`launch`] | starts the reaper where nothing of the agent's ends it |
//! | [`leave`] | the agent's part of a decommission |
//! | [`reaper`] | the rest of it |

pub(crate) mod clearance;
pub(crate) mod launch;
pub(crate) mod leave;
pub(crate) mod reaper;
pub(crate) mod units;
pub(crate) mod work;
