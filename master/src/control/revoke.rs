//! Revocation: a host that is not believed any more, from this moment on.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use decnet_wire::ids::{HostId, Timestamp};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::certificates::supersede;
use super::{Control, ControlError};
use crate::audit::{Action, Actor, Audited, Change, Who};
use crate::records::{Cause, DeckyRecord, End, EnrolTokenRecord, Host, Row};
use crate::store::{StoreError, Writer};

/// The connections on which hosts speak, or the streams that operators' tokens opened, so that those of one host or
/// one token can be cut.
#[derive(Debug)]
pub(super) struct Connections<K>(Mutex<HashMap<K, Vec<CancellationToken>>>);

impl<K> Default for Connections<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Connections<K> {
    fn open(&self) -> MutexGuard<'_, HashMap<K, Vec<CancellationToken>>> {
        // The map is whole after every statement that changes it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, of: K, cut: CancellationToken) {
        let mut open = self.open();
        let connections = open.entry(of).or_default();
        // Those that have ended are cancelled as well.
        connections.retain(|connection| !connection.is_cancelled());
        connections.push(cut);
    }

    pub(super) fn cut<Q: Eq + Hash + ?Sized>(&self, of: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let connections = self.open().remove(of).unwrap_or_default();
        let live = connections.iter().filter(|cut| !cut.is_cancelled()).count();
        connections.iter().for_each(CancellationToken::cancel);
        live
    }
}

impl Control {
    /// Notes that this host speaks on a connection, which ends when `cut` is cancelled. To be called before the host is
    /// looked up, so that none slips through between the two.
    pub fn speaks(&self, host: HostId, cut: CancellationToken) {
        self.connections.add(host, cut);
    }

    /// Believes a host no more: its key and its token are worth nothing, its connections end now. Its deckies stay where
    /// they are until somebody removes them there, and what it was to do has failed.
    ///
    /// # Errors
    /// No such host (404); it is the worker inside this master (409).
    pub fn revoke(&self, by: &Actor, id: HostId) -> Result<(), ControlError> {
        let now = self.now();
        let (name, ended) = self.db.change(by, now, |w| {
            let host = w.get::<Host>(&id)?.ok_or_else(|| ControlError::NotFound {
                what: "host",
                name: id.to_string(),
            })?;
            if host.embedded {
                return Err(ControlError::Conflict(
                    "the worker inside the master cannot be revoked: run the master with --no-local-worker"
                        .to_owned(),
                ));
            }
            if host.revoked {
                return Ok(Audited::Unchanged((host.name, Vec::new())));
            }
            w.remove::<EnrolTokenRecord>(&id)?;
            supersede(w, id, now)?;
            let ended = fail_open(w, &host, by.who(), now)?;
            let name = host.name.clone();
            let change = Change::new(Action::HostRevoke, format!("host/{name}"))
                .before(json!({ "id": id, "revoked": false, "key": host.key }))
                .after(json!({ "id": id, "revoked": true }));
            w.put(
                &id,
                &Host {
                    revoked: true,
                    next_key: None,
                    ..host
                },
            )?;
            Ok(change.done((name, ended)))
        })?;
        self.note_host(id);
        self.announce(&ended);
        self.forget_lists();
        let connections = self.connections.cut(&id);
        tracing::warn!(host = %name, %id, connections, "a host was revoked");
        Ok(())
    }
}

/// Nobody will say how it ended.
fn fail_open(w: &mut Writer<'_>, host: &Host, by: &Who, now: Timestamp) -> Result<Vec<Row>, StoreError> {
    let mut ended = Vec::new();
    for record in w.all::<DeckyRecord>()? {
        let Some(operation) = record.operation else {
            continue;
        };
        let Some(mut row) = w.get::<Row>(&operation.id)? else {
            continue;
        };
        let why = format!("the host {} was revoked", host.name);
        if row.host == Some(host.id) && row.end(End::Failed(Cause::HostGone, why), by, now) {
            w.put(&row.id, &row)?;
            ended.push(row);
        }
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_connections_of_that_host_are_cut() {
        let (east, west) = (
            HostId::new(uuid::Uuid::from_u128(1)),
            HostId::new(uuid::Uuid::from_u128(2)),
        );
        let connections = Connections::default();
        let tokens: Vec<CancellationToken> = (0..4).map(|_| CancellationToken::new()).collect();
        for (host, token) in [east, east, west, east].into_iter().zip(&tokens) {
            connections.add(host, token.clone());
        }
        tokens[0].cancel();
        assert_eq!(connections.cut(&east), 2);
        assert!(tokens[1].is_cancelled() && tokens[3].is_cancelled());
        assert!(!tokens[2].is_cancelled());
        assert_eq!(connections.cut(&east), 0);
    }

    #[test]
    fn a_host_that_connects_again_and_again_leaves_nothing() {
        let host = HostId::new(uuid::Uuid::from_u128(1));
        let connections = Connections::default();
        for _ in 0..100 {
            let token = CancellationToken::new();
            connections.add(host, token.clone());
            token.cancel();
        }
        assert_eq!(connections.open()[&host].len(), 1);
    }
}
