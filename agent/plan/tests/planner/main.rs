//! The planner's promises: one at a time in `rules`, for everything at once in `properties`.

// A test may panic; only its `#[test]` functions are known to be tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod egress;
mod fleet;
mod host_links;
mod ipv6;
mod leases;
mod preflight;
mod project;
mod project_properties;
mod properties;
mod rules;
