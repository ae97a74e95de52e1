//! Whatever is killed, stopped, cut off or lied to: once it is over, master, ledgers and engine agree.
//!
//! `make chaos SEED=… MINUTES=…` does as much of it as asked; `DECNET_CHAOS_DECKIES` says with how many deckies.

use std::time::Duration;

use anyhow::Result;
use decnet_tests::asked::asked;
use decnet_tests::chaos::{Scale, Stage};

#[test]
fn once_all_faults_are_over_master_ledgers_and_engine_agree() -> Result<()> {
    let scale = Scale {
        lasts: Duration::from_secs(asked("DECNET_CHAOS_SECONDS", 30)?),
        deckies: asked("DECNET_CHAOS_DECKIES", 16)?,
    };
    let mut stage = Stage::set("chaos")?;
    stage.play(scale)?;
    stage.agree()?;
    stage.end()
}
