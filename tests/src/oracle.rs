//! The same Compose files through two engines, Docker Compose and `decnet-agent compose`, on one Docker Engine.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`fixture`] | the Compose files under `fixtures/compose`, and single edits of them |
//! | [`contender`] | the two programs, and what each has made |
//! | [`snapshot`] | what the engine inspects, without what differs from run to run |
//! | [`stage`] | images, and objects that belong to nobody's project |

pub mod contender;
pub mod fixture;
pub mod snapshot;
pub mod stage;

use anyhow::{Result, ensure};

/// # Errors
///
/// With all of them, when there is a difference.
pub fn none_differ(differences: &[String]) -> Result<()> {
    ensure!(
        differences.is_empty(),
        "{} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
    Ok(())
}
