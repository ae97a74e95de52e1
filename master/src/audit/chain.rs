//! Following the chain, entry by entry, believing nothing but the digests.

use serde_json::Value;

use super::{beginning, digest_of};

/// How far a chain was followed.
#[derive(Debug)]
pub struct Chain {
    seq: u64,
    last: String,
    /// The digest that must be in it, until it was met.
    wanted: Option<String>,
}

/// Where a chain breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    #[error(
        "after entry {after} comes entry {found}: what was between them is missing, or entries changed places"
    )]
    Gap { after: u64, found: u64 },
    #[error("what comes after entry {after} has no number")]
    Unnumbered { after: u64 },
    #[error("entry {seq} does not name the digest of the one before it: one of the two was replaced")]
    Previous { seq: u64 },
    #[error("entry {seq} was changed: its digest is another one")]
    Changed { seq: u64 },
    #[error(
        "the head {head} is not in the log, which ends with entry {last}: its end was cut off, or rewritten"
    )]
    Head { head: String, last: u64 },
}

impl Chain {
    /// Begins before the first entry. A digest that was noted elsewhere must be met on the way.
    #[must_use]
    pub fn new(head: Option<&str>) -> Self {
        Self {
            seq: 0,
            last: beginning().to_string(),
            wanted: head.map(str::to_owned),
        }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// It does not follow.
    pub fn follow(&mut self, entry: &Value) -> Result<(), Break> {
        let after = self.seq;
        let seq = entry["seq"].as_u64().ok_or(Break::Unnumbered { after })?;
        if Some(seq) != after.checked_add(1) {
            return Err(Break::Gap { after, found: seq });
        }
        let digest = digest_of(entry).to_string();
        if entry["digest"] != digest.as_str() {
            return Err(Break::Changed { seq });
        }
        if entry["previous"] != self.last.as_str() {
            return Err(Break::Previous { seq });
        }
        if self.wanted.as_ref() == Some(&digest) {
            self.wanted = None;
        }
        self.seq = seq;
        self.last = digest;
        Ok(())
    }

    /// The number of the last entry, and its digest: the head, to be kept elsewhere.
    ///
    /// # Errors
    /// The digest that was to be met was not.
    pub fn end(self) -> Result<(u64, String), Break> {
        match self.wanted {
            Some(head) => Err(Break::Head { head, last: self.seq }),
            None => Ok((self.seq, self.last)),
        }
    }
}
