//! What becomes of events that the master does not fetch for weeks.
//!
//! Guarantees: how an operation ended is never dropped, and no event passes another one. A number that was given out is
//! never another event's: what is left out leaves a gap, which the master passes over (`seq > acked`).
//!
//! Operations cannot fill the disk: only the master asks for them, and each leaves at most how it ended, and that it
//! worked after all. What hosts have to say by themselves, *notes* of drift and of refusals, can: of one decky, or one
//! kind of refusal, the newest stays and says how many it stands for; when that is still too much, the oldest go, and
//! one more note says how many went.

use std::collections::{BTreeMap, BTreeSet};

use decnet_wire::ids::{OperationId, Timestamp};
use decnet_wire::limits;
use decnet_wire::report::{Event, EventBody, Outcome};

use super::super::LedgerError;
use super::super::records::{Merged, OperationState, OutboxState, operation_key};
use super::super::tables::{MERGED, OPERATIONS, OUTBOX, Tx};
use crate::error::cut;

/// Events that wait before anything is merged: a master that is there fetches them within a second, so that more wait
/// only when it is away. They are looked through once for so many new ones.
pub(in super::super) const SLACK: u64 = 512;
/// Notes that are kept: one for each decky that a bundle may have.
pub(in super::super) const NOTES: usize = limits::STACKS;
/// Bytes of notes that are kept. A note is half a kilobyte where a container has said why it ended.
pub(in super::super) const NOTE_BYTES: usize = 2 * 1024 * 1024;

/// The code of the note about notes that were dropped.
pub(in super::super) const DROPPED: &str = "reports-dropped";

/// A note that waits.
struct Note {
    event: Event,
    /// What it is about.
    about: String,
    stands_for: Merged,
}

impl Tx {
    /// Keeps the outbox within its bounds.
    pub(super) fn compact(&self, at: Timestamp, state: &mut OutboxState) -> Result<(), LedgerError> {
        let waiting = self.count(&OUTBOX)?;
        if waiting <= state.compact_above.max(SLACK) {
            return Ok(());
        }
        let merged: BTreeMap<String, Merged> = self.named(&MERGED)?.into_iter().collect();
        let mut notes = Vec::new();
        let mut lifecycle = Vec::new();
        for event in self.numbered(&OUTBOX)? {
            let Some(about) = about(&event.body) else {
                lifecycle.push(event);
                continue;
            };
            let known = merged.get(&about).filter(|known| known.seq == event.seq);
            let stands_for = known.copied().unwrap_or(Merged {
                seq: event.seq,
                count: 1,
                since: event.at,
            });
            notes.push(Note {
                event,
                about,
                stands_for,
            });
        }
        self.leave_out_beginnings(&lifecycle)?;
        let notes = self.merge(notes)?;
        self.drop_oldest(at, &notes, state)?;
        state.compact_above = self.count(&OUTBOX)? + SLACK;
        Ok(())
    }

    /// That an operation has begun is no news once it has ended, or another one took its place.
    fn leave_out_beginnings(&self, lifecycle: &[Event]) -> Result<(), LedgerError> {
        let mut later: BTreeSet<OperationId> = BTreeSet::new();
        for event in lifecycle.iter().rev() {
            let EventBody::Operation { id, outcome, .. } = &event.body else {
                continue;
            };
            let ended = !later.insert(*id);
            if *outcome != Outcome::Running {
                continue;
            }
            let known = self.get(&OPERATIONS, &operation_key(*id))?;
            let replaced = known.is_none_or(|known| known.state == OperationState::Superseded);
            if ended || replaced {
                self.remove_numbered(&OUTBOX, event.seq)?;
            }
        }
        Ok(())
    }

    /// Leaves one note, the newest, about each thing. Gives them, oldest first.
    fn merge(&self, notes: Vec<Note>) -> Result<Vec<Note>, LedgerError> {
        let mut newest: BTreeMap<String, Note> = BTreeMap::new();
        for mut note in notes {
            if let Some(older) = newest.remove(&note.about) {
                self.remove_numbered(&OUTBOX, older.event.seq)?;
                note.stands_for.count += older.stands_for.count;
                note.stands_for.since = note.stands_for.since.min(older.stands_for.since);
            }
            newest.insert(note.about.clone(), note);
        }
        let mut notes: Vec<Note> = newest.into_values().collect();
        notes.sort_by_key(|note| note.event.seq);
        for note in &mut notes {
            let known = self.get(&MERGED, &note.about)?;
            if note.stands_for.count > 1 && known != Some(note.stands_for) {
                let Merged { count, since, .. } = note.stands_for;
                say_how_many(&mut note.event.body, count - 1, since);
                self.put_numbered(&OUTBOX, note.event.seq, &note.event)?;
                self.put(&MERGED, &note.about, &note.stands_for)?;
            }
        }
        Ok(notes)
    }

    /// Drops the oldest notes where there are too many, and says so in one that takes the place of its like.
    fn drop_oldest(&self, at: Timestamp, notes: &[Note], state: &mut OutboxState) -> Result<(), LedgerError> {
        let dropped_about = format!("refused {DROPPED}");
        let sizes: Vec<usize> = notes.iter().map(|note| note_size(&note.event)).collect();
        let (mut count, mut bytes) = (notes.len(), sizes.iter().sum::<usize>());
        let mut dropped: Option<Merged> = None;
        for (note, size) in notes.iter().zip(sizes) {
            if count <= NOTES && bytes <= NOTE_BYTES {
                break;
            }
            if note.about == dropped_about {
                continue;
            }
            count -= 1;
            bytes = bytes.saturating_sub(size);
            self.forget_note(note)?;
            let sum = dropped.get_or_insert(Merged {
                seq: 0,
                count: 0,
                since: note.stands_for.since,
            });
            sum.count += note.stands_for.count;
            sum.since = sum.since.min(note.stands_for.since);
        }
        let Some(mut sum) = dropped else { return Ok(()) };
        if let Some(note) = notes.iter().find(|note| note.about == dropped_about) {
            self.forget_note(note)?;
            sum.count += note.stands_for.count;
            sum.since = sum.since.min(note.stands_for.since);
        }
        sum.seq = state.next;
        state.next += 1;
        let body = EventBody::Refused {
            code: DROPPED.to_owned(),
            detail: format!(
                "{} reports of drift and refusals since {} are not kept: the master was away for too long",
                sum.count, sum.since
            ),
            generation: None,
        };
        let event = Event {
            seq: sum.seq,
            at,
            body,
        };
        self.put_numbered(&OUTBOX, event.seq, &event)?;
        self.put(&MERGED, &dropped_about, &sum)
    }

    fn forget_note(&self, note: &Note) -> Result<(), LedgerError> {
        self.remove(&MERGED, &note.about)?;
        self.remove_numbered(&OUTBOX, note.event.seq)
    }

    /// Forgets what acknowledged notes stood for.
    pub(super) fn forget_merged(&self, acked: u64) -> Result<(), LedgerError> {
        for (about, merged) in self.named(&MERGED)? {
            if merged.seq <= acked {
                self.remove(&MERGED, &about)?;
            }
        }
        Ok(())
    }

    /// Follows notes to their new numbers.
    pub(super) fn renumber_merged(&self, numbers: &BTreeMap<u64, u64>) -> Result<(), LedgerError> {
        for (about, mut merged) in self.named(&MERGED)? {
            match numbers.get(&merged.seq) {
                Some(seq) => {
                    merged.seq = *seq;
                    self.put(&MERGED, &about, &merged)?;
                }
                None => self.remove(&MERGED, &about)?,
            }
        }
        Ok(())
    }
}

/// What a note is about; none for what is no note.
fn about(body: &EventBody) -> Option<String> {
    match body {
        EventBody::Operation { .. } => None,
        EventBody::Drift { decky, .. } => Some(format!("drift {decky}")),
        EventBody::Refused { code, .. } => Some(format!("refused {code}")),
    }
}

fn say_how_many(body: &mut EventBody, others: u64, since: Timestamp) {
    let (EventBody::Drift { detail, .. } | EventBody::Refused { detail, .. }) = body else {
        return;
    };
    let more = format!(" … and {others} more since {since}");
    *detail = cut(detail, more.chars().count()) + &more;
}

/// Bytes that it takes, closely enough.
fn note_size(event: &Event) -> usize {
    const FRAME: usize = 256;
    match &event.body {
        EventBody::Drift { detail, .. } | EventBody::Refused { detail, .. } => FRAME + detail.len(),
        EventBody::Operation { .. } => FRAME,
    }
}
