//! Plans on a real Docker Engine: planned, applied, observed, and then nothing left to do.
//!
//! Needs a Docker Engine at `/var/run/docker.sock`, root, iproute2, and gcc with a static C library.

mod failures;
mod image;
mod lab;
mod lifecycle;
