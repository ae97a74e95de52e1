//! Builds what DECNET ships, the same bytes from the same inputs on every machine.
//!
//! - [`image`]: the decoy image, one static binary as an archive every Docker Engine loads;
//! - [`elf`]: the check that a binary can run in an image that holds nothing else.

pub mod elf;
pub mod image;
