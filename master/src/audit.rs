//! The audit log: who changed what, from where, before and after, as a chain that nobody can alter unseen.
//!
//! Flow: whoever changes something passes an [`Actor`] and gives out a [`Change`]; [`crate::store::Db::change`] writes
//! the [`Entry`] in the transaction of the change itself. There is no other way to write an entry, and no way to
//! write one later, over another or away.
//!
//! Guarantees: a change and its entry are kept together or not at all. An entry names the digest of the one before
//! it, so that an entry changed, taken out or put elsewhere shows in every digest after it. Entries that are cut off
//! at the end show against a digest that was noted elsewhere, such as in the system's journal.
//!
//! Assumption: whoever can write the store can write a whole new chain. Only a head that is kept elsewhere tells.

mod actor;
mod chain;

use std::net::IpAddr;

use decnet_wire::ids::{Digest, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::store::{Record, Table};

pub use actor::{Actor, Who};
pub use chain::{Break, Chain};

/// The version of an entry's form.
pub const SCHEMA: u32 = 1;
/// The most that `before` and `after` of one entry hold together, in bytes of their canonical form.
const DETAIL: usize = 16 * 1024;
/// Of what is cut, this much of its beginning is kept, in characters.
const BEGINNING: usize = 1024;
/// The longest subject, in characters.
const SUBJECT: usize = 256;
/// Names that are listed of many.
const NAMES: usize = 60;

/// What may happen. The names never change; those of alarms begin with `alarm.`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    FleetInit,
    FleetLimit,
    DeckyDeploy,
    DeckyMutate,
    DeckyRemove,
    DeckyInterval,
    HostInvite,
    /// Somebody used the token of a host that an operator has to approve of.
    HostAwait,
    HostApprove,
    HostEnroll,
    HostNetwork,
    /// A host was given a certificate for a new key, which does not count yet.
    HostRenew,
    /// A host's new key took the place of the one before.
    HostRekey,
    /// A host whose certificate had ended was given another one for its key.
    HostRejoin,
    HostRevoke,
    /// A host was ordered to leave the fleet.
    HostDecommission,
    /// A host said that it is wiped.
    HostGone,
    /// All deckies of a host were removed, or some.
    HostTeardown,
    TokenCreate,
    TokenRevoke,
    TrustRotate,
    PolicySign,
    /// A release of the agent was taken.
    ReleaseSign,
    /// It was changed how far a release is rolled out.
    ReleaseRollout,
    /// Rows of operations that had ended were removed.
    LifecyclePurge,
    /// Somebody took a copy of the store.
    FleetBackup,
    /// The store is that of a backup.
    FleetRestore,
    /// After a restore, a host is not waited for any more.
    HostAcceptLoss,
    /// A host reported about what is not its own.
    AlarmForeignReport,
    /// A host numbered its events so that nothing could follow them.
    AlarmEventNumber,
    /// A host that is revoked tried to speak.
    AlarmRevokedHost,
    /// A host tried to speak with a key that is not its own, or is so no more.
    AlarmForeignKey,
    /// An enrolment token that one key had used came with another one.
    AlarmTokenReuse,
    /// A host came with an enrolment token that was made for another one.
    AlarmForeignToken,
    /// A renewal was refused.
    AlarmRenewalRefused,
    /// Somebody said of a host that it is wiped, and it was not that host.
    AlarmTombstone,
}

impl Action {
    /// Its name, as it is kept and filtered by.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FleetInit => "fleet.init",
            Self::FleetLimit => "fleet.limit",
            Self::DeckyDeploy => "decky.deploy",
            Self::DeckyMutate => "decky.mutate",
            Self::DeckyRemove => "decky.remove",
            Self::DeckyInterval => "decky.interval",
            Self::HostInvite => "host.invite",
            Self::HostAwait => "host.await",
            Self::HostApprove => "host.approve",
            Self::HostEnroll => "host.enroll",
            Self::HostNetwork => "host.network",
            Self::HostRenew => "host.renew",
            Self::HostRekey => "host.rekey",
            Self::HostRejoin => "host.rejoin",
            Self::HostRevoke => "host.revoke",
            Self::HostDecommission => "host.decommission",
            Self::HostGone => "host.gone",
            Self::HostTeardown => "host.teardown",
            Self::TokenCreate => "token.create",
            Self::TokenRevoke => "token.revoke",
            Self::PolicySign => "policy.sign",
            Self::ReleaseSign => "release.sign",
            Self::ReleaseRollout => "release.rollout",
            Self::LifecyclePurge => "lifecycle.purge",
            Self::FleetBackup => "fleet.backup",
            Self::FleetRestore => "fleet.restore",
            Self::HostAcceptLoss => "host.accept_loss",
            Self::TrustRotate => "trust.rotate",
            Self::AlarmForeignReport => "alarm.foreign_report",
            Self::AlarmEventNumber => "alarm.event_number",
            Self::AlarmRevokedHost => "alarm.revoked_host",
            Self::AlarmForeignKey => "alarm.foreign_key",
            Self::AlarmTokenReuse => "alarm.token_reuse",
            Self::AlarmForeignToken => "alarm.foreign_token",
            Self::AlarmRenewalRefused => "alarm.renewal_refused",
            Self::AlarmTombstone => "alarm.tombstone",
        }
    }

    /// Those that somebody tried who must not.
    pub(crate) const ALARMS: [Self; 8] = [
        Self::AlarmForeignReport,
        Self::AlarmEventNumber,
        Self::AlarmRevokedHost,
        Self::AlarmForeignKey,
        Self::AlarmTokenReuse,
        Self::AlarmForeignToken,
        Self::AlarmRenewalRefused,
        Self::AlarmTombstone,
    ];
}

/// What was changed, for the entry. Holds no secret: digests, names and numbers only.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    action: Action,
    subject: String,
    before: Value,
    after: Value,
}

impl Change {
    /// A change of something: `fleet`, or a kind and a name as in `host/edge-01`.
    #[must_use]
    pub fn new(action: Action, subject: impl Into<String>) -> Self {
        Self {
            action,
            subject: subject.into(),
            before: Value::Null,
            after: Value::Null,
        }
    }

    /// What of it was so before, as a small object.
    #[must_use]
    pub fn before(self, before: Value) -> Self {
        Self { before, ..self }
    }

    /// What of it is so now.
    #[must_use]
    pub fn after(self, after: Value) -> Self {
        Self { after, ..self }
    }

    /// The outcome of a transaction that changed this.
    #[must_use]
    pub const fn done<T>(self, outcome: T) -> Audited<T> {
        Audited::Changed(outcome, self)
    }
}

/// Names of which only the first are kept, and how many there are.
#[must_use]
pub fn names<T: ToString>(all: impl IntoIterator<Item = T>) -> Value {
    let mut all = all.into_iter();
    let first: Vec<String> = all.by_ref().take(NAMES).map(|name| name.to_string()).collect();
    json!({ "count": first.len() + all.count(), "names": first })
}

/// What came of a transaction: a change with its entry, or nothing at all.
#[derive(Debug)]
pub enum Audited<T> {
    Changed(T, Change),
    /// Nothing was written.
    Unchanged(T),
}

/// One link of the chain.
///
/// Its canonical form is JSON without whitespace, of all members but `digest`, in UTF-8; the members of every object
/// in the order of their names' code points; of characters in strings only `"`, `\` and those below U+0020 escaped,
/// the latter as `\b \t \n \f \r` or `\u00xx` in small letters. Numbers are integers. RFC 8785 gives the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub schema: u32,
    /// From 1 on, without a gap.
    pub seq: u64,
    pub at: Timestamp,
    pub actor: Who,
    /// The address that it came from.
    pub from: Option<IpAddr>,
    pub action: String,
    pub subject: String,
    pub before: Value,
    pub after: Value,
    /// The digest of the entry before; of the first one, 32 zero bytes.
    pub previous: Digest,
    /// SHA-256 of the canonical form.
    pub digest: Digest,
}

impl Entry {
    /// The entry that follows `last`.
    ///
    /// # Errors
    /// Never in practice: an entry is always JSON.
    pub(crate) fn following(
        last: Option<(u64, Digest)>,
        at: Timestamp,
        by: &Actor,
        change: Change,
    ) -> Result<Self, serde_json::Error> {
        let (seq, previous) = last.unwrap_or_else(|| (0, beginning()));
        let (before, after) = bounded(change.before, change.after);
        let mut entry = Self {
            schema: SCHEMA,
            seq: seq + 1,
            at,
            actor: by.who().clone(),
            from: by.from(),
            action: change.action.as_str().to_owned(),
            subject: change.subject.chars().take(SUBJECT).collect(),
            before,
            after,
            previous,
            digest: beginning(),
        };
        entry.digest = digest_of(&serde_json::to_value(&entry)?);
        Ok(entry)
    }
}

/// An entry as it lies in the store. Whatever somebody made of it is read, so that it can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoredEntry(pub Value);

impl Record for StoredEntry {
    type Key = u64;
    const TABLE: Table = Table::Audit;
    fn key_bytes(key: &u64) -> Vec<u8> {
        key.to_be_bytes().to_vec()
    }
}

/// What the first entry names as the one before it.
#[must_use]
pub fn beginning() -> Digest {
    Digest::from_sha256([0; 32])
}

/// The digest of an entry: over its canonical form, whatever it says of its digest itself.
#[must_use]
pub fn digest_of(entry: &Value) -> Digest {
    let mut text = String::new();
    match entry {
        Value::Object(members) => {
            let members = members.iter().filter(|(name, _)| *name != "digest");
            write_object(members, &mut text);
        }
        other => write_canonical(other, &mut text),
    }
    Digest::from_sha256(Sha256::digest(text.as_bytes()).into())
}

fn write_object<'a>(members: impl Iterator<Item = (&'a String, &'a Value)>, text: &mut String) {
    let mut members: Vec<_> = members.collect();
    members.sort_by_key(|(name, _)| *name);
    text.push('{');
    for (index, (name, value)) in members.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&Value::from(name.as_str()).to_string());
        text.push(':');
        write_canonical(value, text);
    }
    text.push('}');
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(members) => write_object(members.iter(), text),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

/// Both as they are kept: without fractions, whose text programs disagree on, and not too large.
fn bounded(mut before: Value, mut after: Value) -> (Value, Value) {
    let size = |value: &Value| {
        let mut text = String::new();
        write_canonical(value, &mut text);
        text.len()
    };
    without_fractions(&mut before);
    without_fractions(&mut after);
    if size(&before) + size(&after) > DETAIL {
        for side in [&mut before, &mut after] {
            let bytes = size(side);
            if bytes > DETAIL / 2 {
                let beginning: String = side.to_string().chars().take(BEGINNING).collect();
                *side = json!({ "cut": { "bytes": bytes, "beginning": beginning } });
            }
        }
    }
    (before, after)
}

fn without_fractions(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => *value = Value::from(number.to_string()),
        Value::Array(items) => items.iter_mut().for_each(without_fractions),
        Value::Object(members) => members.values_mut().for_each(without_fractions),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
