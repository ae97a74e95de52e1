//! What happens by the clock alone: deadlines of rows, the flush of heartbeats, due mutations, bundles to renew.

use std::sync::Arc;
use std::time::Duration;

use super::{Control, ControlError, rows, touch};
use crate::records::{DeckyRecord, Host, HostStatus, Row, RowStatus};

/// How often the sweep runs.
const PERIOD: Duration = Duration::from_secs(10);

/// An operation that has not ended after so long has failed, whatever comes later.
const DEADLINE: time::Duration = time::Duration::minutes(15);

impl Control {
    /// Runs the sweep until the master ends.
    pub async fn run_sweep(self: Arc<Self>) {
        let mut timer = tokio::time::interval(PERIOD);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let control = Arc::clone(&self);
            let swept = tokio::task::spawn_blocking(move || {
                // One part that fails does not keep the others from their turn.
                let parts = [
                    control.flush_status(),
                    control.tell_alarms(),
                    control.release_from_gone(),
                    control.fail_overdue().map(|_| ()),
                    control.republish_outdated(),
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
            if let Err(error) = swept.await {
                tracing::error!(%error, "the sweep was cut off");
            }
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
                if host.is_some_and(|host| host.key.is_some() && !host.revoked) {
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

    /// Fails every open row that is past its deadline, with the reason that is known.
    ///
    /// # Errors
    /// The store's.
    pub fn fail_overdue(&self) -> Result<usize, ControlError> {
        let now = self.now();
        let statuses = self.status().clone();
        let changed = self.db.bookkeep(|w| {
            let mut changed = Vec::new();
            // An open row is its decky's newest operation: a newer one supersedes it in the same transaction.
            for record in w.all::<DeckyRecord>()? {
                let Some(operation) = record.operation else {
                    continue;
                };
                let Some(mut row) = w.get::<Row>(&operation.id)? else {
                    continue;
                };
                if row.status.is_terminal() || now.get() - row.started_at.get() <= DEADLINE {
                    continue;
                }
                let host = match row.host {
                    Some(id) => w.get::<Host>(&id)?,
                    None => None,
                };
                let reason = match &record.leaving {
                    Some(leaving) => {
                        let name = w.get::<Host>(&leaving.host)?.map(|host| host.name.to_string());
                        let name = name.unwrap_or_else(|| leaving.host.to_string());
                        format!("the host {name} has not said that it let go of it; given up waiting")
                    }
                    None => overdue(host.as_ref(), row.host.and_then(|id| statuses.get(&id))),
                };
                rows::finish(&mut row, RowStatus::Failed, Some(reason), now);
                w.put(&row.id, &row)?;
                changed.push(row);
            }
            Ok::<_, ControlError>(changed)
        })?;
        self.events.announce(&changed);
        Ok(changed.len())
    }
}

fn overdue(host: Option<&Host>, status: Option<&HostStatus>) -> String {
    let minutes = DEADLINE.whole_minutes();
    let Some(host) = host else {
        return format!("the host is not known any more; not done after {minutes} minutes");
    };
    let name = &host.name;
    let why = match status {
        Some(HostStatus {
            last_heartbeat: None, ..
        })
        | None => format!("the host {name} was never heard of"),
        Some(HostStatus {
            refusal: Some(refusal),
            converged: false,
            ..
        }) => {
            format!("the host {name} refused its bundle: {refusal}")
        }
        Some(HostStatus { engine: None, .. }) => {
            format!("the Docker Engine of the host {name} does not answer")
        }
        Some(HostStatus {
            reason: Some(reason), ..
        }) => format!("the host {name} is not done: {reason}"),
        Some(HostStatus {
            last_heartbeat: Some(at),
            ..
        }) => {
            format!("the host {name} did not say that it is done; its last heartbeat was at {at}")
        }
    };
    format!("{why}; given up after {minutes} minutes")
}
