//! The fleet: what the operator wants to run, from the text of a fleet INI to the Compose documents of a host.
//!
//! ```text
//! text ──ini::parse──▶ Document ──build::build──▶ Fleet ──compile::compile──▶ networks and stacks of one host
//! count ──generate───────────▲                        │
//!                        Catalogue               mutate::choose_services
//! ```
//!
//! Everything here is a pure function: no I/O, no clock and no global randomness. The moment and the random
//! source are arguments, so the same input always gives the same fleet and the same bytes.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`model`] | the fleet as the store keeps it |
//! | [`catalogue`] | services, archetypes, distros, OS families, vendors |
//! | [`ini`] | the one parser of fleet INI files |
//! | [`generate`](mod@generate) | a document without a text: so many deckies, with such services |
//! | [`build`] | from a document and the fleet before to the fleet after |
//! | [`mutate`] | which services a decky shows next, and when |
//! | [`compile`] | from the fleet to Compose documents |
//! | [`request`] | the body of a deploy request: a text, or what to generate |
//! | [`view`] | a decky as the API shows it, without secrets |

pub mod build;
pub mod catalogue;
pub mod compile;
#[cfg(test)]
mod fixture;
pub mod generate;
pub mod ini;
pub mod model;
pub mod mutate;
pub mod request;
pub mod view;
