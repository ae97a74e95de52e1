//! Plans on a real Docker Engine: planned, applied, observed, and then nothing left to do.
//!
//! Needs a Docker Engine at `/var/run/docker.sock`, root, iproute2, and gcc with a static C library.

// A test may panic; only its `#[test]` functions are known to be tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attributes;
mod build;
mod egress;
mod failures;
mod foreign;
mod image;
mod lab;
mod lifecycle;
mod networks;
mod observer;
mod pull;
mod steps;
