//! What an agent survives, with its own code on a disk, an engine, a clock and a master that are simulated: power cuts
//! at every instruction that leaves a trace, disks that fail, clocks that jump, months alone.
//!
//! Every test says how much it has tried and with what seed; `DECNET_SEED` asks for another one.

mod clocks;
mod crashes;
mod damage;
mod disk;
mod failures;
mod herd;
mod host;
mod offline;
mod scripts;

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    let asked = std::env::var("DECNET_SEED").ok();
    asked.map_or(20_261_122, |text| text.parse().expect("DECNET_SEED is a number"))
}
