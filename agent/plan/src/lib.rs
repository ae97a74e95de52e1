//! `(desired, observed, policy) → Plan`, as one pure function over documents.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`compose`] | the typed model of the Compose documents that a bundle carries |
//! | [`desired`] | all documents of a bundle, normalised to networks and containers with one meaning each |
//! | [`policy`] | what any bundle may ask of a host |
//! | [`planner`] | the steps from what is observed to what is desired, and how far a stack is |
//! | [`step`] | the steps: data that carry every decided name, digest, address and MAC |
//! | [`changes`] | what has changed between two specifications, field by field |
//! | [`unused`] | which images nothing needs any more |
//! | [`labels`] | the labels that every object of ours carries |
//! | `sim` | an engine in memory, for tests (feature `test-support`) |

pub mod changes;
pub mod compose;
pub mod desired;
pub mod labels;
pub mod planner;
pub mod policy;
#[cfg(feature = "test-support")]
pub mod sim;
pub mod step;
pub mod unused;
