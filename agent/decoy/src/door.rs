//! Decides who gets in: the persona's accounts, or whoever has guessed often enough.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::identity::Identity;

/// Addresses and guessed pairs remembered; the memory starts afresh beyond that.
const REMEMBERED: usize = 1024;

/// A service's answer to credentials.
#[derive(Debug)]
pub struct Door {
    accounts: Vec<(String, String)>,
    /// The wrong guess of one address that is let in, so that guessing seems to work in the end.
    patience: u32,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    wrong: HashMap<IpAddr, u32>,
    /// Pairs that once opened the door open it again, from anywhere.
    guessed: Vec<(String, String)>,
}

impl Door {
    /// A door for `accounts` (user, password). How many wrong guesses it takes is the identity's choice
    /// under `label`.
    #[must_use]
    pub fn new(identity: &Identity, label: &str, accounts: Vec<(String, String)>) -> Self {
        let patience = u32::try_from(identity.number(&format!("{label}.patience"), 4..=12)).unwrap_or(4);
        Self {
            accounts,
            patience,
            memory: Mutex::default(),
        }
    }

    /// Whether this pair is let in.
    pub fn admits(&self, from: IpAddr, user: &str, password: &str) -> bool {
        let is_pair = |(name, secret): &(String, String)| name == user && secret == password;
        if self.accounts.iter().any(is_pair) {
            return true;
        }
        // The counters are whole after any panic: each is changed in one step.
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.guessed.iter().any(is_pair) {
            return true;
        }
        if memory.wrong.len() >= REMEMBERED && !memory.wrong.contains_key(&from) {
            memory.wrong.clear();
        }
        let wrong = memory.wrong.entry(from).or_insert(0);
        *wrong += 1;
        // Nobody logs in without a name, or with one that no system would have.
        let plausible = !user.is_empty() && user.len() <= 64 && !user.chars().any(char::is_control);
        if *wrong < self.patience || !plausible {
            return false;
        }
        memory.wrong.remove(&from);
        if memory.guessed.len() >= REMEMBERED {
            memory.guessed.clear();
        }
        if password.len() <= 256 {
            memory.guessed.push((user.to_owned(), password.to_owned()));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guesser_gets_in_after_the_seeds_number_of_tries_and_again_with_the_same_pair() {
        let door = Door::new(
            &Identity::from_seed(&[3; 32]),
            "ssh",
            vec![("root".into(), "admin".into())],
        );
        let (guesser, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert!(door.admits(other, "root", "admin"));
        let tries = (1..=20)
            .find(|n| door.admits(guesser, "root", &format!("guess{n}")))
            .unwrap();
        assert_eq!(tries, door.patience);
        assert!((4..=12).contains(&tries));
        assert!(door.admits(other, "root", &format!("guess{tries}")));
        assert!(!door.admits(other, "root", "guess1"));
    }
}
