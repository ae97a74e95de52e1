//! What happens by the clock alone: deadlines of rows, the flush of heartbeats, due mutations, bundles to renew.

mod verdict;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use decnet_wire::report::Outcome;

use super::{Control, ControlError, touch};
use crate::audit::Who;
use crate::records::{DeckyRecord, End, Host, HostStatus, Row};
use verdict::{Facts, verdict};

pub use verdict::Deadlines;
pub(super) use watch::Watch;

/// How often the sweep runs.
const PERIOD: Duration = Duration::from_secs(10);

impl Control {
    /// Runs the sweep until the master ends. `swept` is called after each: the store was read and written, so that
    /// whoever watches the master sees it alive.
    pub async fn run_sweep(self: Arc<Self>, swept: impl Fn() + Send) {
        let mut timer = tokio::time::interval(PERIOD);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let control = Arc::clone(&self);
            let sweeping = tokio::task::spawn_blocking(move || {
                // One part that fails does not keep the others from their turn.
                let parts = [
                    control.flush_status(),
                    control.note_hosts(),
                    control.tell_alarms(),
                    control.release_from_gone(),
                    control.fail_overdue().map(|_| ()),
                    control.prune().map(|_| ()),
                    control.republish_outdated(),
                    control.watch_rollout(),
                    control.mutate_due().map(|mutated| {
                        if mutated > 0 {
                            tracing::info!(mutated, "mutated deckies whose interval was over");
                        }
                    }),
                ];
                for error in parts.into_iter().filter_map(Result::err) {
                    tracing::error!(error = %crate::text::chain(&error), "a part of the sweep failed");
                }
            });
            if let Err(error) = sweeping.await {
                tracing::error!(%error, "the sweep was cut off");
            }
            swept();
        }
    }

    /// Writes what hosts last said to the store.
    ///
    /// # Errors
    /// The store's.
    pub fn flush_status(&self) -> Result<(), ControlError> {
        let latest: Vec<HostStatus> = self.status().values().cloned().collect();
        self.db.bookkeep(|w| {
            for mut status in latest {
                let stored = w.get::<HostStatus>(&status.host)?;
                if let Some(stored) = &stored {
                    status.acked = stored.acked;
                }
                if stored.as_ref() != Some(&status) {
                    w.put(&status.host, &status)?;
                }
            }
            Ok(())
        })
    }

    /// Nobody waits for a host that is gone to let go of a decky.
    ///
    /// # Errors
    /// The store's.
    pub fn release_from_gone(&self) -> Result<(), ControlError> {
        let released = self.db.bookkeep(|w| {
            let mut released = false;
            for mut record in w.all::<DeckyRecord>()? {
                let Some(leaving) = &record.leaving else { continue };
                let host = w.get::<Host>(&leaving.host)?;
                if host.is_some_and(|host| host.lives()) {
                    continue;
                }
                record.leaving = None;
                touch(w, record.decky.host)?;
                w.put(&record.decky.name.clone(), &record)?;
                released = true;
            }
            Ok::<_, ControlError>(released)
        })?;
        if released {
            self.publish.notify_one();
        }
        Ok(())
    }

    /// Ends every open row of which nothing more is to be expected, with the cause that is known. Gives out how many.
    ///
    /// # Errors
    /// The store's.
    pub fn fail_overdue(&self) -> Result<usize, ControlError> {
        let (now, uptime) = (self.now(), self.uptime());
        let open = self.db.read(|r| {
            let mut open = Vec::new();
            // An open row is its decky's newest operation: a newer one supersedes it in the same transaction.
            for record in r.all::<DeckyRecord>()? {
                if let Some(operation) = record.operation
                    && let Some(row) = r.get::<Row>(&operation.id)?
                    && !row.status.is_terminal()
                {
                    open.push((row.id, row.started_at, record.decky.name));
                }
            }
            Ok::<_, ControlError>(open)
        })?;
        let ages = self
            .watch()
            .look(open.iter().map(|(id, at, _)| (*id, *at)), now, uptime);
        let statuses = self.status().clone();
        let by = Who::Master {};
        let (changed, touched) = self.db.bookkeep(|w| {
            let mut changed = Vec::new();
            let mut touched = false;
            for (id, _, decky) in open {
                let Some(mut row) = w.get::<Row>(&id)?.filter(|row| !row.status.is_terminal()) else {
                    continue;
                };
                let record = w.get::<DeckyRecord>(&decky)?;
                let waits_for = match record.as_ref().and_then(|record| record.leaving.as_ref()) {
                    Some(leaving) => Some(
                        w.get::<Host>(&leaving.host)?
                            .map_or_else(|| leaving.host.to_string(), |host| host.name.to_string()),
                    ),
                    None => None,
                };
                let host = match row.host {
                    Some(host) => w.get::<Host>(&host)?,
                    None => None,
                };
                let facts = Facts {
                    row: &row,
                    open_for: ages.get(&id).copied().unwrap_or_default(),
                    waits_for: waits_for.as_deref(),
                    status: row.host.and_then(|host| statuses.get(&host)),
                    silent_for: row.host.and_then(|host| self.silent_for(host)),
                    host: host.as_ref(),
                };
                let Some(end) = verdict(&facts, &self.limits.deadlines) else {
                    continue;
                };
                let succeeded = end == End::Succeeded;
                row.end(end, &by, now);
                w.put(&row.id, &row)?;
                if succeeded {
                    touched |= self.conclude(w, &row, &Outcome::Succeeded)?;
                }
                changed.push(row);
            }
            Ok::<_, ControlError>((changed, touched))
        })?;
        self.announce(&changed);
        if touched {
            self.publish.notify_one();
        }
        Ok(changed.len())
    }
}
