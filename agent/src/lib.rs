//! stub
pub mod clock;
pub mod config;
pub mod enrol;
mod backoff;
mod error;
mod identity;
pub mod ledger;
mod link;
mod trust;
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
mod admit;
mod blobs;
mod reconcile;
