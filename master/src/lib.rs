//! The master: holds the fleet, signs one bundle per host, keeps lifecycle rows, serves the admin CLI and API.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`fleet`] | the pure part: INI, catalogue, building a fleet, compiling it to Compose documents |
//! | [`store`], [`records`] | everything that is kept, behind one trait |
//! | [`audit`] | who changed what, as a chain of digests |
//! | [`backup`] | a copy of the store in one file, and the way back |
//! | [`control`] | every change, each one transaction; the publisher, reports, timers |
//! | [`metrics`] | what is counted for `/metrics` |
//! | [`keys`], [`init`] | keys and certificates on disk, and their making |
//! | [`serve`] | the listeners: agents, enrolment, operators |
//! | [`cli`] | the command line |

pub mod audit;
pub mod backup;
pub mod cli;
pub mod control;
pub mod fleet;
pub mod init;
pub mod keys;
pub mod lan;
pub mod metrics;
pub mod records;
pub mod serve;
pub mod store;
pub mod text;
