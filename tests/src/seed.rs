//! What a suite draws at random. `DECNET_SEED=<number>` repeats a run.

use std::sync::Mutex;
use std::sync::PoisonError;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// A source of choices whose seed was printed.
#[derive(Debug)]
pub struct Seed {
    random: Mutex<StdRng>,
}

impl Seed {
    /// A seed from `DECNET_SEED`, or a fresh one. Prints it under the suite's name.
    #[must_use]
    pub fn announced(suite: &str) -> Self {
        let given = std::env::var("DECNET_SEED")
            .ok()
            .and_then(|text| text.parse::<u64>().ok());
        let number = given.unwrap_or_else(|| rand::rng().random());
        println!("{suite}: DECNET_SEED={number}");
        Self {
            random: Mutex::new(StdRng::seed_from_u64(number)),
        }
    }

    /// A number below `bound`.
    #[must_use]
    pub fn below(&self, bound: u32) -> u32 {
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random_range(0..bound)
    }

    /// A word of eight letters that occurs nowhere by accident.
    #[must_use]
    pub fn word(&self) -> String {
        (0..8)
            .map(|_| char::from(b"bcdfghjkmnpqrstvwxz"[self.below(19) as usize]))
            .collect()
    }
}
