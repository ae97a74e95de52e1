//! The master: holds the fleet, signs one bundle per host, keeps lifecycle rows, serves the admin CLI and API.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`fleet`] | the pure part: INI, catalogue, building a fleet, compiling it to Compose documents |
//! | [`store`], [`records`] | everything that is kept, behind one trait |
//! | [`audit`] | who changed what, as a chain of digests |
//! | [`control`] | every change, each one transaction; the publisher, reports, timers |
//! | [`keys`], [`init`] | keys and certificates on disk, and their making |
//! | [`serve`] | the listeners: agents, enrolment, operators |
//! | [`cli`] | the command line |

pub mod audit;
pub mod cli;
pub mod control;
pub mod fleet;
pub mod init;
pub mod keys;
pub mod lan;
pub mod records;
pub mod serve;
pub mod store;
pub mod text;
