//! The agent against a master in this process, over real TLS, and against the machine's own Docker Engine.

// Helpers of tests are tests: what fails in one ends the test there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod build;
mod enrolment;
mod host;
mod image;
mod lab;
mod master;
mod policy;
mod transport;
mod trust;
mod update;
