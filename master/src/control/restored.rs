//! After a restore: the store may be older than what hosts know. No bundle is published for a host until it has said
//! which generation it accepted last; the next one follows that.
//!
//! Guarantees: no generation is signed twice and none is taken back, so that no agent sees a fork, a rollback or two
//! truths. What a host runs meanwhile runs on.

use decnet_wire::ids::{HostId, HostName};
use decnet_wire::report::Accepted;
use serde_json::json;

use super::enrol::named;
use super::{Control, ControlError};
use crate::audit::{Action, Actor, Audited, Change};
use crate::records::{AwaitedRecord, BundleRecord, EnvelopeRecord, Host};
use crate::store::{StoreError, Writer};

/// How far the generation of a host goes up that cannot say what it accepted: beyond what a master publishes
/// for one host between a backup and a restore, and within the 2²⁰ that agents follow at once.
const UNHEARD: u64 = 1 << 16;
/// How far ahead of what is known a host may say it is: agents follow no farther, so none can be there.
const AHEAD: u64 = 1 << 20;

impl Control {
    /// The hosts that get no bundle before they have reported, by name.
    ///
    /// # Errors
    /// The store's.
    pub fn awaited(&self) -> Result<Vec<HostName>, ControlError> {
        self.db.read(|r| {
            let mut names = Vec::new();
            for awaited in r.all::<AwaitedRecord>()? {
                let host = r.get::<Host>(&awaited.host)?;
                names.extend(host.filter(|host| !host.revoked).map(|host| host.name));
            }
            names.sort();
            Ok(names)
        })
    }

    /// Waits for a host no more: its next generation is far beyond all that can have been published for it.
    ///
    /// # Errors
    /// No such host (404), or it is not waited for (409).
    pub fn accept_loss(&self, by: &Actor, id: HostId) -> Result<(), ControlError> {
        self.db.change(by, self.now(), |w| {
            let mut host = w.get::<Host>(&id)?.ok_or_else(|| ControlError::NotFound {
                what: "host",
                name: id.to_string(),
            })?;
            if w.get::<AwaitedRecord>(&id)?.is_none() {
                return Err(ControlError::Conflict(format!(
                    "the host {} is not waited for: its bundles are published",
                    host.name
                )));
            }
            let before = host.generation;
            host.generation += UNHEARD;
            w.remove::<AwaitedRecord>(&id)?;
            w.put(&id, &host)?;
            let change = Change::new(Action::HostAcceptLoss, named(&host))
                .before(json!({ "generation": before }))
                .after(json!({ "generation": host.generation }));
            Ok(Audited::Changed((), change))
        })?;
        self.awaits().remove(&id);
        self.publish.notify_one();
        Ok(())
    }

    /// As after a restore.
    #[cfg(test)]
    pub(crate) fn await_host(&self, host: HostId) {
        let now = self.now();
        let awaited = AwaitedRecord {
            host,
            since: now,
            backup: now,
        };
        self.db.bookkeep(|w| w.put(&host, &awaited)).unwrap();
        self.awaits().insert(host);
    }

    /// Whether a report of this host is waited for.
    pub(super) fn is_awaited(&self, host: HostId) -> bool {
        self.awaits().contains(&host)
    }

    /// Goes on after what a host says that it accepted.
    pub(super) fn learn(&self, host: HostId, accepted: Option<&Accepted>) -> Result<(), ControlError> {
        let learnt = self.db.bookkeep(|w| follow(w, host, accepted))?;
        if learnt {
            self.awaits().remove(&host);
            self.publish.notify_one();
        }
        Ok(())
    }
}

/// True when the host may get bundles again.
fn follow(w: &mut Writer<'_>, id: HostId, accepted: Option<&Accepted>) -> Result<bool, StoreError> {
    let Some(mut host) = w.get::<Host>(&id)? else {
        w.remove::<AwaitedRecord>(&id)?;
        return Ok(true);
    };
    let published = w.get::<BundleRecord>(&id)?;
    let known = host
        .generation
        .max(published.as_ref().map_or(0, |bundle| bundle.generation));
    match accepted {
        Some(accepted) if accepted.generation > known.saturating_add(AHEAD) => {
            tracing::error!(
                host = %host.name,
                generation = accepted.generation,
                "a host says that it accepted a generation that no master can have published; it gets no bundle until \
                 an operator says `decnet restore --accept-loss`"
            );
            return Ok(false);
        }
        Some(accepted) => {
            host.generation = known.max(accepted.generation) + 1;
            if let Some(mut bundle) = published
                && accepted.generation >= bundle.generation
            {
                // What follows names this one as the one before it. What was signed then is not sent any more.
                bundle.epoch = accepted.epoch;
                bundle.generation = accepted.generation;
                bundle.digest = accepted.digest.clone();
                w.put(&id, &bundle)?;
                w.remove::<EnvelopeRecord>(&id)?;
            }
            tracing::info!(
                host = %host.name,
                accepted = accepted.generation,
                known,
                "a host said where it is; its bundles are published again"
            );
        }
        // It has none, or lost it: nothing that it may remember is as far as this.
        None => host.generation = known + UNHEARD,
    }
    w.put(&id, &host)?;
    w.remove::<AwaitedRecord>(&id)?;
    Ok(true)
}
