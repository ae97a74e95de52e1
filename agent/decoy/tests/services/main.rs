//! Runs the built binary and talks to it as a visitor does.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod decoy;
mod fingerprint;
mod framework;
mod ftp;
mod http;
mod https;
mod mail;
mod mqtt;
mod mysql;
mod postgres;
mod redis;
mod snmp;
mod ssh;
mod telnet;
mod vnc;
