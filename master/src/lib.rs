//! Filled below.

pub mod fleet;
