//! Releases of the agent that the operators have signed, and how far one of them is rolled out.
//!
//! The master keeps them, hands the one that is being rolled out to the hosts that are meant as a part of their bundles, and
//! looks at what hosts say became of it. It signs none. Which host is in a wave it need not say: every host computes its own
//! position.
//!
//! Paused or aborted, the order is in no bundle any more: hosts that have begun go on to their end, all others do not begin.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use decnet_pki::release::{ReleaseError, SignedRelease};
use decnet_wire::ids::{Digest, HostId, HostName, Timestamp};
use decnet_wire::order::Order;
use decnet_wire::release::{Package, Progress, ProgressState, Rollout, WHOLE};
use serde_json::json;

use super::{Control, ControlError, touch};
use crate::audit::{Action, Actor, Change, names};
use crate::records::{Host, HostStatus, ReleaseRecord, RolloutRecord, RolloutState};
use crate::store::{Reader, StoreError, Writer};
use crate::text::chain;

/// Of the hosts of a wave, this share may report that the release is no good, in percent: at one more the rollout pauses. In a
/// small wave the first one is too many.
const TOLERATED: usize = 5;

/// A release, and since when it is here.
#[derive(Debug, Clone)]
pub struct KnownRelease {
    pub release: SignedRelease,
    pub taken_at: Timestamp,
    /// A host has found it good.
    pub proven: bool,
}

/// What is to be changed about the rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutChange {
    /// Begins it, or takes it further.
    Advance {
        sequence: u64,
        per_mille: u16,
        /// None: every host.
        hosts: Option<BTreeSet<HostId>>,
    },
    Pause,
    Resume,
    Abort,
}

/// The rollout, and how far its hosts are.
#[derive(Debug, Clone)]
pub struct RolloutStatus {
    pub record: RolloutRecord,
    pub release: SignedRelease,
    /// Every host that is meant, with what it said of this release.
    pub hosts: Vec<(HostName, Option<Progress>)>,
}

impl RolloutStatus {
    /// How many hosts say that the release is no good.
    #[must_use]
    pub fn failures(&self) -> usize {
        let failed = |progress: &Progress| progress.state.is_failure();
        let hosts = self.hosts.iter();
        hosts
            .filter(|(_, progress)| progress.as_ref().is_some_and(failed))
            .count()
    }
}

impl Control {
    /// Every release that was ever taken, by sequence.
    ///
    /// # Errors
    /// The store's.
    pub fn releases(&self) -> Result<BTreeMap<u64, KnownRelease>, ControlError> {
        self.db.read(read_releases)
    }

    /// Where blobs lie.
    #[must_use]
    pub fn blobs(&self) -> &Path {
        &self.blobs
    }

    /// Takes a signed release, as an agent would. Its packages have to be here.
    ///
    /// # Errors
    /// No host would believe or install it, it is not newer than all others, or a package is missing (422).
    pub fn take_release(&self, by: &Actor, envelope: &[u8]) -> Result<u64, ControlError> {
        let now = self.now();
        let release = SignedRelease::admit(envelope, &self.keys().root)
            .map_err(|error| ControlError::Invalid(chain(&error)))?;
        let document = release.document();
        for Package { digest, size, .. } in &document.packages {
            let found = std::fs::metadata(self.blobs.join(digest.hex()));
            if !found.is_ok_and(|file| file.len() == *size) {
                return Err(ControlError::Invalid(format!(
                    "the package {digest} of {size} bytes is not on this master: `decnet host releases add` brings packages and \
                     release together"
                )));
            }
        }
        let text = String::from_utf8(release.envelope().to_json()).map_err(|error| ControlError::Sign {
            what: "the release",
            source: error.into(),
        })?;
        let change =
            Change::new(Action::ReleaseSign, format!("release/{}", document.sequence)).after(json!({
                "sequence": document.sequence,
                "version": document.version,
                "downgrade": document.downgrade,
                "packages": document.packages,
            }));
        self.db.change(by, now, |w| {
            let known = read_releases(&w.reader())?;
            if let Some((newest, _)) = known.last_key_value().filter(|(newest, _)| document.sequence <= **newest) {
                return Err(ControlError::Invalid(format!(
                    "release {newest} is there already: sign another one, with sequence {}",
                    newest + 1
                )));
            }
            // Hosts would not take it, and no number would be left for the next one.
            let newest = known.keys().next_back().copied().unwrap_or(0);
            if let Err(error @ ReleaseError::FastForward { .. }) = release.may_follow(newest, &document.version) {
                return Err(ControlError::Invalid(chain(&error)));
            }
            let highest = known.values().map(|known| &known.release.document().version).max();
            if let Some(highest) = highest.filter(|highest| document.version < **highest && !document.downgrade) {
                return Err(ControlError::Invalid(format!(
                    "version {} is lower than {highest}, and the release is not signed as a downgrade: `decnet host rollback`, or \
                     `decnet host releases add --downgrade`",
                    document.version
                )));
            }
            let record = ReleaseRecord {
                sequence: document.sequence,
                envelope: text,
                taken_at: now,
                proven: false,
            };
            w.put(&document.sequence, &record)?;
            Ok::<_, ControlError>(change.done(()))
        })?;
        tracing::info!(version = %document.version, sequence = document.sequence, "a release was taken");
        Ok(document.sequence)
    }

    /// Changes how far a release is rolled out.
    ///
    /// # Errors
    /// There is no such release or host (404, 422), or the rollout is not at a point where that could be (409).
    pub fn roll_out(&self, by: &Actor, change: &RolloutChange) -> Result<(), ControlError> {
        let now = self.now();
        // What hosts have said until now counts for the rollout that there is.
        self.watch_rollout()?;
        self.db.change(by, now, |w| {
            let known = w.get::<RolloutRecord>(&())?;
            let next = advanced(&w.reader(), known.as_ref(), change, now)?;
            let audited = Change::new(Action::ReleaseRollout, format!("release/{}", next.sequence))
                .before(known.as_ref().map_or_else(|| json!(null), summary))
                .after(summary(&next));
            self.put_rollout(w, known.as_ref(), &next)?;
            Ok::<_, ControlError>(audited.done(()))
        })?;
        self.publish.notify_one();
        Ok(())
    }

    /// The rollout, if there ever was one.
    ///
    /// # Errors
    /// The store's.
    pub fn rollout(&self) -> Result<Option<RolloutStatus>, ControlError> {
        self.flush_status()?;
        self.db.read(|r| {
            let record = r.get::<RolloutRecord>(&())?;
            record.map(|record| status_of(r, record)).transpose()
        })
    }

    /// Pauses the rollout when too many hosts of the wave say that the release is no good, and ends it when all have it.
    ///
    /// # Errors
    /// The store's.
    pub fn watch_rollout(&self) -> Result<(), ControlError> {
        let Some(status) = self.rollout()? else {
            return Ok(());
        };
        let is_kept = |progress: &Option<Progress>| {
            progress
                .as_ref()
                .is_some_and(|progress| progress.state == ProgressState::Kept)
        };
        if status.hosts.iter().any(|(_, progress)| is_kept(progress)) {
            self.db.bookkeep(|w| note_proven(w, status.record.sequence))?;
        }
        if status.record.state != RolloutState::Running {
            return Ok(());
        }
        let failures = status.failures();
        let wave = status.hosts.len() * usize::from(status.record.per_mille) / usize::from(WHOLE);
        let most = (wave * TOLERATED).div_ceil(100).max(1);
        let is_over = |progress: &Option<Progress>| {
            let state = progress.as_ref().map(|progress| progress.state);
            matches!(state, Some(ProgressState::Kept | ProgressState::Off))
        };
        let version = &status.release.document().version;
        let (state, reason) = if failures.saturating_sub(status.record.tolerated) >= most {
            let failed = status.hosts.iter().find_map(|(name, progress)| {
                let progress = progress.as_ref().filter(|progress| progress.state.is_failure())?;
                let detail = progress.detail.as_deref().unwrap_or(progress.state.as_str());
                Some(format!("{name}: {detail}"))
            });
            let reason = format!("{failures} hosts failed, as in {}", failed.unwrap_or_default());
            tracing::error!(%version, "the rollout pauses: {reason}");
            (RolloutState::Paused, Some(reason))
        } else if status.record.per_mille == WHOLE
            && status.hosts.iter().all(|(_, progress)| is_over(progress))
        {
            tracing::info!(%version, "the rollout is done");
            (RolloutState::Done, None)
        } else {
            return Ok(());
        };
        self.db.change(&Actor::master(), self.now(), |w| {
            let known = w.get::<RolloutRecord>(&())?;
            let next = RolloutRecord {
                state,
                reason,
                ..status.record.clone()
            };
            // Somebody was quicker.
            if known.as_ref() != Some(&status.record) {
                return Ok(crate::audit::Audited::Unchanged(()));
            }
            let change = Change::new(Action::ReleaseRollout, format!("release/{}", next.sequence))
                .before(summary(&status.record))
                .after(summary(&next));
            self.put_rollout(w, known.as_ref(), &next)?;
            Ok::<_, ControlError>(change.done(()))
        })?;
        self.publish.notify_one();
        Ok(())
    }

    /// Writes it, and has every host that it concerns, or concerned, look at its bundle again.
    fn put_rollout(
        &self,
        w: &mut Writer<'_>,
        before: Option<&RolloutRecord>,
        next: &RolloutRecord,
    ) -> Result<(), StoreError> {
        w.put(&(), next)?;
        for host in w.all::<Host>()? {
            let concerned = next.names(&host) || before.is_some_and(|before| before.names(&host));
            // One that is done stays in bundles as they are: it is taken out with the next change.
            if concerned && next.state != RolloutState::Done {
                touch(w, host.id)?;
            }
        }
        Ok(())
    }
}

/// The rollout as it stands in bundles, and whom it concerns.
#[derive(Debug)]
pub(super) struct UpdateOrder {
    record: RolloutRecord,
    rollout: Rollout,
    packages: Vec<Digest>,
}

impl UpdateOrder {
    /// None while nothing is rolled out.
    pub(super) fn read(r: &Reader<'_>) -> Result<Option<Self>, ControlError> {
        let is_running =
            |record: &RolloutRecord| matches!(record.state, RolloutState::Running | RolloutState::Done);
        let Some(record) = r.get::<RolloutRecord>(&())?.filter(is_running) else {
            return Ok(None);
        };
        let release = find(r, record.sequence)?;
        Ok(Some(Self {
            rollout: Rollout {
                release: serde_json::from_slice(&release.envelope().to_json()).unwrap_or_default(),
                per_mille: record.per_mille,
            },
            packages: packages(&release),
            record,
        }))
    }

    /// What a host's bundle says, and what it may fetch for it.
    pub(super) fn of(&self, host: &Host) -> Option<(Order, &[Digest])> {
        let named = self.record.names(host);
        named.then(|| (Order::Update(self.rollout.clone()), self.packages.as_slice()))
    }
}

/// The packages of all releases: blobs that bundles may name.
pub(super) fn known_packages(r: &Reader<'_>) -> Result<BTreeSet<Digest>, ControlError> {
    let releases = read_releases(r)?;
    Ok(releases
        .values()
        .flat_map(|known| packages(&known.release))
        .collect())
}

/// That a host has found a release good: it is one to go back to.
fn note_proven(w: &mut Writer<'_>, sequence: u64) -> Result<(), StoreError> {
    match w.get::<ReleaseRecord>(&sequence)? {
        Some(record) if !record.proven => w.put(
            &sequence,
            &ReleaseRecord {
                proven: true,
                ..record
            },
        ),
        _ => Ok(()),
    }
}

fn packages(release: &SignedRelease) -> Vec<Digest> {
    let packages = release.document().packages.iter();
    packages.map(|package| package.digest.clone()).collect()
}

fn read_releases(r: &Reader<'_>) -> Result<BTreeMap<u64, KnownRelease>, ControlError> {
    let read = |record: ReleaseRecord| {
        Ok((
            record.sequence,
            KnownRelease {
                release: stored(&record)?,
                taken_at: record.taken_at,
                proven: record.proven,
            },
        ))
    };
    r.all::<ReleaseRecord>()?.into_iter().map(read).collect()
}

fn stored(record: &ReleaseRecord) -> Result<SignedRelease, ControlError> {
    SignedRelease::stored(record.envelope.as_bytes()).map_err(|source| ControlError::Sign {
        what: "the stored release",
        source: source.into(),
    })
}

fn find(r: &Reader<'_>, sequence: u64) -> Result<SignedRelease, ControlError> {
    match r.get::<ReleaseRecord>(&sequence)? {
        Some(record) => stored(&record),
        None => Err(ControlError::NotFound {
            what: "release",
            name: sequence.to_string(),
        }),
    }
}

/// The rollout after a change.
fn advanced(
    r: &Reader<'_>,
    known: Option<&RolloutRecord>,
    change: &RolloutChange,
    now: Timestamp,
) -> Result<RolloutRecord, ControlError> {
    let conflict = |text: &str| Err(ControlError::Conflict(text.to_owned()));
    match (change, known) {
        (
            RolloutChange::Advance {
                sequence,
                per_mille,
                hosts,
            },
            known,
        ) => {
            if *per_mille > WHOLE {
                return Err(ControlError::Invalid(format!(
                    "per_mille is not within 0 to {WHOLE}"
                )));
            }
            let release = find(r, *sequence)?;
            let all = r.all::<Host>()?;
            let is_known = |id: &HostId| all.iter().any(|host| host.id == *id && updates(host));
            if let Some(unknown) = hosts.iter().flatten().find(|id| !is_known(id)) {
                return Err(ControlError::Invalid(format!(
                    "there is no enrolled host {unknown} that has an agent of its own"
                )));
            }
            let mut next = RolloutRecord {
                sequence: release.sequence(),
                per_mille: *per_mille,
                state: RolloutState::Running,
                hosts: hosts.clone(),
                begun_at: now,
                tolerated: 0,
                reason: None,
            };
            let Some(known) = known.filter(|known| known.sequence == *sequence) else {
                if let Some(known) = known.filter(|known| known.sequence > *sequence) {
                    return Err(ControlError::Conflict(format!(
                        "release {} was rolled out after it: hosts take no release twice; sign it again, with `decnet host \
                         rollback` or `decnet host releases add`",
                        known.sequence
                    )));
                }
                return Ok(next);
            };
            if known.state == RolloutState::Aborted {
                return conflict("the rollout of this release was aborted: sign a release anew to try again");
            }
            if known.state == RolloutState::Paused {
                return conflict("the rollout is paused: resume it with `decnet host update --resume`");
            }
            if known.hosts == *hosts && known.per_mille > *per_mille {
                return Err(ControlError::Conflict(format!(
                    "it is rolled out to {} per mille already: hosts that have begun do not go back by that",
                    known.per_mille
                )));
            }
            (next.begun_at, next.tolerated) = (known.begun_at, known.tolerated);
            Ok(next)
        }
        (_, None) => conflict("nothing is being rolled out"),
        (change, Some(known)) => {
            let (from, to): (&[RolloutState], _) = match change {
                RolloutChange::Pause => (&[RolloutState::Running], RolloutState::Paused),
                RolloutChange::Resume => (&[RolloutState::Paused], RolloutState::Running),
                _ => (
                    &[RolloutState::Running, RolloutState::Paused],
                    RolloutState::Aborted,
                ),
            };
            if !from.contains(&known.state) {
                return Err(ControlError::Conflict(format!(
                    "the rollout is {}",
                    known.state.as_str()
                )));
            }
            let failures = status_of(r, known.clone())?.failures();
            Ok(RolloutRecord {
                state: to,
                // Who resumes knows what has failed by then.
                tolerated: if to == RolloutState::Running {
                    failures
                } else {
                    known.tolerated
                },
                reason: None,
                ..known.clone()
            })
        }
    }
}

/// Whether a host has an agent with a package of its own.
fn updates(host: &Host) -> bool {
    host.key.is_some() && !host.revoked && !host.embedded
}

impl RolloutRecord {
    /// Whether it concerns a host.
    fn names(&self, host: &Host) -> bool {
        updates(host) && self.hosts.as_ref().is_none_or(|hosts| hosts.contains(&host.id))
    }
}

fn status_of(r: &Reader<'_>, record: RolloutRecord) -> Result<RolloutStatus, ControlError> {
    let release = find(r, record.sequence)?;
    let mut hosts = Vec::new();
    for host in r.all::<Host>()?.into_iter().filter(|host| record.names(host)) {
        let said = r.get::<HostStatus>(&host.id)?.and_then(|status| status.update);
        hosts.push((host.name, said.filter(|said| said.sequence == record.sequence)));
    }
    hosts.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(RolloutStatus {
        record,
        release,
        hosts,
    })
}

fn summary(record: &RolloutRecord) -> serde_json::Value {
    json!({
        "sequence": record.sequence,
        "state": record.state.as_str(),
        "per_mille": record.per_mille,
        "hosts": record.hosts.as_ref().map(names),
        "reason": record.reason,
    })
}
