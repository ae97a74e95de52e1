//! Builds what DECNET ships, the same bytes from the same inputs on every machine.
//!
//! - [`image`]: the decoy image, one static binary as an archive every Docker Engine loads;
//! - [`package`]: the packages for dpkg and rpm, made of the plain files around this crate;
//! - [`elf`]: what kind of executable a file is.

pub mod elf;
pub mod image;
pub mod package;
