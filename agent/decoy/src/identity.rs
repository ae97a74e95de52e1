//! Everything a service shows that could have been otherwise: keys, versions, ids, contents.
//!
//! All of it is derived from the decky's seed by label with HMAC-SHA-256, so a restarted container shows
//! the same and two deckies share nothing that a scanner could match on.

use std::fmt;
use std::ops::RangeInclusive;

use ring::hmac;

/// A decky's source of choices. The same seed and label always give the same answer.
#[derive(Clone)]
pub struct Identity {
    key: hmac::Key,
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Identity(..)")
    }
}

impl Identity {
    /// An identity from a decky's 32-byte secret.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, seed),
        }
    }

    /// `N` secret bytes: HMAC-SHA-256 in counter mode over the label (NIST SP 800-108 §4.1).
    #[must_use]
    pub fn bytes<const N: usize>(&self, label: &str) -> [u8; N] {
        let mut out = [0; N];
        for (counter, block) in (1u32..).zip(out.chunks_mut(32)) {
            let mut context = hmac::Context::with_key(&self.key);
            context.update(&counter.to_be_bytes());
            context.update(label.as_bytes());
            block.copy_from_slice(&context.sign().as_ref()[..block.len()]);
        }
        out
    }

    /// A number within `range`, both ends included.
    #[must_use]
    pub fn number(&self, label: &str, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        let word = u64::from_be_bytes(self.bytes(label));
        // An empty or full range has no modulus; `low` and the word itself are the only answers then.
        match high.checked_sub(low).map(|width| width.checked_add(1)) {
            None => low,
            Some(None) => word,
            Some(Some(count)) => low + word % count,
        }
    }

    /// One of `options`.
    ///
    /// # Panics
    ///
    /// When `options` is empty: the options are constants of the program.
    #[must_use]
    pub fn choose<'a, T: ?Sized>(&self, label: &str, options: &[&'a T]) -> &'a T {
        assert!(!options.is_empty(), "nothing to choose from for {label}");
        let last = options.len() as u64 - 1;
        options[usize::try_from(self.number(label, 0..=last)).unwrap_or(0)]
    }

    /// `2 * N` lower-case hexadecimal digits.
    #[must_use]
    pub fn hex<const N: usize>(&self, label: &str) -> String {
        hex::encode(self.bytes::<N>(label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_chooses_the_same_again_and_labels_are_independent() {
        let (one, again) = (Identity::from_seed(&[7; 32]), Identity::from_seed(&[7; 32]));
        assert_eq!(one.bytes::<80>("key"), again.bytes::<80>("key"));
        assert_ne!(one.bytes::<32>("key"), one.bytes::<32>("other"));
        assert_ne!(
            one.bytes::<32>("key"),
            Identity::from_seed(&[8; 32]).bytes::<32>("key")
        );
        let long = one.bytes::<64>("key");
        assert_ne!(long[..32], long[32..], "blocks repeat");
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_both_ends() {
        let identity = Identity::from_seed(&[1; 32]);
        let drawn: Vec<u64> = (0..200).map(|n| identity.number(&n.to_string(), 3..=5)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&3), Some(&5)));
        assert_eq!(identity.number("one", 9..=9), 9);
        let _ = identity.number("all", 0..=u64::MAX);
    }
}
