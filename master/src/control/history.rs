//! What is kept of operations that have ended. Open rows and each decky's newest row are always kept; the audit log is
//! never cut.

use std::collections::{BTreeMap, BTreeSet};

use decnet_wire::ids::{OperationId, Timestamp};
use serde_json::json;

use super::{Control, ControlError};
use crate::audit::{Action, Actor, Audited, Change};
use crate::records::{DeckyRecord, Row, RowStatus};
use crate::store::{Reader, StoreError, Writer};

/// Rows that go in one transaction: others wait for it, some milliseconds.
const PORTION: usize = 500;
/// Portions of one pass of the sweep: 30,000 rows a minute, more than operations end.
const PORTIONS: usize = 10;
/// How far the clock may have been set since the master began, until nothing is judged by its age any more.
const CLOCK_STEP: time::Duration = time::Duration::hours(1);

/// How much is kept. What goes beyond either goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How long after its end. None: for ever.
    pub age: Option<time::Duration>,
    /// How many rows, of whatever status. None: all.
    pub rows: Option<u64>,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            age: Some(time::Duration::days(90)),
            rows: Some(100_000),
        }
    }
}

/// What went, or would go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    pub by_status: BTreeMap<RowStatus, u64>,
    /// When the oldest and the newest of them were started.
    pub oldest: Option<Timestamp>,
    pub newest: Option<Timestamp>,
    /// How many rows are left.
    pub left: u64,
}

impl Purged {
    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.by_status.values().sum()
    }

    fn note(&mut self, row: &Row) {
        *self.by_status.entry(row.status).or_default() += 1;
        let at = row.started_at;
        self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
        self.newest = Some(self.newest.map_or(at, |newest| newest.max(at)));
    }
}

impl Control {
    /// How much this master keeps by itself.
    #[must_use]
    pub fn kept(&self) -> Keep {
        self.limits.keep
    }

    /// Removes what is beyond `keep`, or, for `dry_run`, says what that would be.
    ///
    /// # Errors
    /// The store's. What was removed by then stays so.
    pub fn purge(&self, by: &Actor, keep: Keep, dry_run: bool) -> Result<Purged, ControlError> {
        let now = self.now();
        let mut purged = Purged::default();
        let (mut beyond, total) = self.db.read(|r| {
            let beyond = beyond(r, keep, now, usize::MAX, |row| purged.note(row))?;
            Ok::<_, ControlError>((beyond, r.count::<Row>()?))
        })?;
        purged.left = total.saturating_sub(purged.rows());
        if dry_run || beyond.is_empty() {
            return Ok(purged);
        }
        let first = beyond.drain(..beyond.len().min(PORTION)).collect::<Vec<_>>();
        // The entry comes with the first portion: nothing goes that it does not tell of.
        self.db.change(by, now, |w| {
            remove(w, &first)?;
            let change = Change::new(Action::LifecyclePurge, "lifecycle")
                .before(json!({ "rows": total }))
                .after(json!({
                    "rows": purged.left,
                    "older_than_days": keep.age.map(time::Duration::whole_days),
                    "keep": keep.rows,
                    "oldest": purged.oldest,
                    "newest": purged.newest,
                }));
            Ok::<_, ControlError>(Audited::Changed((), change))
        })?;
        for portion in beyond.chunks(PORTION) {
            self.db.bookkeep(|w| remove(w, portion))?;
        }
        Ok(purged)
    }

    /// Removes what is beyond what this master keeps, as much as one pass may. Gives out how many rows.
    ///
    /// # Errors
    /// The store's.
    pub fn prune(&self) -> Result<usize, ControlError> {
        let mut keep = self.limits.keep;
        let now = self.now();
        // Whoever sets the clock a year ahead does not want the history gone.
        let passed = now.get() - self.started_at.get();
        let up = time::Duration::try_from(self.watch().up_for(self.uptime())).unwrap_or_default();
        if (passed - up).abs() > CLOCK_STEP {
            keep.age = None;
        }
        let mut pruned = 0;
        for _ in 0..PORTIONS {
            let portion = self.db.read(|r| beyond(r, keep, now, PORTION, |_| ()))?;
            if portion.is_empty() {
                break;
            }
            self.db.bookkeep(|w| remove(w, &portion))?;
            pruned += portion.len();
        }
        if pruned > 0 {
            tracing::info!(pruned, "removed rows that are older than what is kept, or more");
        }
        Ok(pruned)
    }
}

/// The oldest rows that are beyond `keep`, `most` of them at most.
fn beyond(
    r: &Reader<'_>,
    keep: Keep,
    now: Timestamp,
    most: usize,
    mut note: impl FnMut(&Row),
) -> Result<Vec<OperationId>, StoreError> {
    let total = r.count::<Row>()?;
    let surplus = keep.rows.map_or(0, |rows| total.saturating_sub(rows));
    let before = keep.age.and_then(|age| now.get().checked_sub(age));
    if surplus == 0 && before.is_none() {
        return Ok(Vec::new());
    }
    let mut kept = BTreeSet::new();
    for record in r.all::<DeckyRecord>()? {
        kept.extend(record.newest);
        kept.extend(record.operation.map(|operation| operation.id));
    }
    let mut beyond = Vec::new();
    // Ids begin with the time: the oldest come first.
    r.oldest::<Row>(|row| {
        let old = |at: Timestamp| before.is_some_and(|before| at.get() < before);
        let too_many = (beyond.len() as u64) < surplus;
        if !too_many && !old(row.started_at) {
            return false;
        }
        let ended = row.status.is_terminal() && (too_many || row.completed_at.is_some_and(old));
        if ended && !kept.contains(&row.id) {
            note(&row);
            beyond.push(row.id);
        }
        beyond.len() < most
    })?;
    Ok(beyond)
}

fn remove(w: &mut Writer<'_>, rows: &[OperationId]) -> Result<(), StoreError> {
    rows.iter().try_for_each(|id| w.remove::<Row>(id))
}
