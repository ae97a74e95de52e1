//! `(desired, observed) → Plan`, as one pure function over documents.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`step`] | the steps: data that carry every decided name, digest, address and MAC |
//! | [`labels`] | the labels that every object of ours carries |

pub mod labels;
pub mod step;
