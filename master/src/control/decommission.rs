//! Hosts that leave the fleet: ordered to by the operators, and gone when they say so themselves.
//!
//! The order is the operators' own: this master hands it on, with the host's next bundle, or as the answer to whatever the
//! host asks once it is forgotten. What a host says in the end, its tombstone, is signed with its own key and is kept.
//!
//! | | in the fleet | its deckies | believed | when it comes |
//! | --- | --- | --- | --- | --- |
//! | decommissioned | until its tombstone is here | go with it | yes | gets the order in its bundle |
//! | forgotten (`force`) | no more, at once | are out of the fleet at once | no | gets the order, and is believed nothing else |

use decnet_pki::key::HostPublicKey;
use decnet_pki::order::{OrderError, SignedDecommission, admit_tombstone};
use decnet_wire::ids::{DeckyName, Digest, HostId, OperationId, Timestamp};
use decnet_wire::order::{SCHEMA, Tombstone, TombstoneRequest};
use serde_json::json;

use super::certificates::supersede;
use super::enrol::{digest, named};
use super::events::Event;
use super::{Alarm, Control, ControlError, settings, touch};
use crate::audit::{Action, Actor, Audited, Change, Who};
use crate::records::{
    AwaitedRecord, BundleRecord, Cause, DeckyRecord, Departure, End, EnrolTokenRecord, EnvelopeRecord, Host,
    HostStatus, ObservedRecord, Receipt, Row,
};
use crate::store::{StoreError, Writer};
use crate::text::chain;

/// Deckies that go, each with the operation by which it does.
pub type Teardowns = Vec<(DeckyName, OperationId)>;

/// What an order has begun.
#[derive(Debug, Clone, PartialEq)]
pub struct Begun {
    pub departure: Departure,
    /// The teardown of each of its deckies.
    pub operations: Teardowns,
}

/// What is begun for the deckies of a host.
#[derive(Default)]
struct Removals {
    operations: Teardowns,
    rows: Vec<Row>,
    /// The retirement of those that did not go before.
    retired: Vec<Event>,
}

impl Control {
    /// Has a host leave the fleet. With `force` it is forgotten at once. Asked for again it goes on as it was ordered
    /// first; with `force` it is forgotten then.
    ///
    /// # Errors
    /// No such host (404); it is the worker inside this master (409); the order is not the operators' for this host (422).
    pub fn decommission(
        &self,
        by: &Actor,
        id: HostId,
        order: &[u8],
        force: bool,
    ) -> Result<Begun, ControlError> {
        let now = self.now();
        let keys = self.keys();
        let order = SignedDecommission::admit(order, &keys.root, id)
            .map_err(|error| ControlError::Invalid(format!("the order is refused: {}", chain(&error))))?;
        let text = String::from_utf8(order.envelope().to_json()).map_err(|error| ControlError::Sign {
            what: "the order",
            source: error.into(),
        })?;
        let (departure, removals) = self.db.change(by, now, |w| {
            // One that other operators signed than those of today is not believed by the host any more.
            let before = w.get::<Departure>(&id)?;
            let stands = |departure: &Departure| {
                SignedDecommission::admit(departure.order.as_bytes(), &keys.root, id).is_ok()
            };
            let signed = |departure: Departure| Departure {
                order: text.clone(),
                nonce: order.document().nonce.clone(),
                ..departure
            };
            let Some(host) = w.get::<Host>(&id)? else {
                return match before.filter(|departure| departure.tombstone.is_none()) {
                    Some(departure) if stands(&departure) => Ok(unchanged(departure)),
                    Some(departure) => {
                        let departure = signed(departure);
                        w.put(&id, &departure)?;
                        let change = Change::new(Action::HostDecommission, format!("host/{}", departure.name))
                            .after(json!({ "id": id, "nonce": departure.nonce, "forced": true }));
                        Ok(change.done((departure, Removals::default())))
                    }
                    None => Err(unknown(id)),
                };
            };
            if host.embedded {
                return Err(ControlError::Conflict(
                    "the worker inside the master cannot be decommissioned: run the master with --no-local-worker"
                        .to_owned(),
                ));
            }
            // One without a key has nothing to wipe.
            let force = force || host.key.is_none();
            let before = before.filter(stands);
            if let Some(departure) = before.clone().filter(|_| !force) {
                return Ok(unchanged(departure));
            }
            let departure = Departure {
                keys: host.key.iter().chain(&host.next_key).cloned().collect(),
                forced: force,
                ..before.unwrap_or_else(|| Departure {
                    host: id,
                    name: host.name.clone(),
                    keys: Vec::new(),
                    order: text.clone(),
                    nonce: order.document().nonce.clone(),
                    ordered_at: now,
                    forced: force,
                    tombstone: None,
                })
            };
            let mut removals = self.tear_down(w, by, &host, None, now)?;
            if force {
                let why = format!("the host {} was forgotten", host.name);
                removals.rows.extend(forget(w, &host, &End::Failed(Cause::HostGone, why), by.who(), now)?);
            } else {
                w.put(&id, &Host { leaving: true, ..host.clone() })?;
                touch(w, id)?;
            }
            w.put(&id, &departure)?;
            let change = Change::new(Action::HostDecommission, named(&host))
                .before(json!({ "id": id, "key": host.key, "deckies": removals.operations.len() }))
                .after(json!({ "id": id, "nonce": departure.nonce, "forced": force }));
            Ok::<_, ControlError>(change.done((departure, removals)))
        })?;
        self.events.publish(removals.retired);
        self.after_departure(id, departure.forced, &removals.rows);
        tracing::warn!(host = %departure.name, %id, forced = departure.forced, "a host was decommissioned");
        Ok(Begun {
            departure,
            operations: removals.operations,
        })
    }

    /// Begins to remove a host's deckies, or one of them. The host stays.
    ///
    /// # Errors
    /// No such host, or it has no such decky (404).
    pub fn tear_down_host(
        &self,
        by: &Actor,
        id: HostId,
        only: Option<&DeckyName>,
    ) -> Result<Teardowns, ControlError> {
        let now = self.now();
        let removals = self.db.change(by, now, |w| {
            let host = w.get::<Host>(&id)?.ok_or_else(|| unknown(id))?;
            let removals = self.tear_down(w, by, &host, only, now)?;
            if let Some(name) = only.filter(|_| removals.operations.is_empty()) {
                return Err(ControlError::NotFound {
                    what: "decky of this host called",
                    name: name.to_string(),
                });
            }
            if removals.rows.is_empty() {
                return Ok(Audited::Unchanged(removals));
            }
            touch(w, id)?;
            let names: Vec<&DeckyName> = removals.operations.iter().map(|(name, _)| name).collect();
            let change =
                Change::new(Action::HostTeardown, named(&host)).after(json!({ "id": id, "deckies": names }));
            Ok::<_, ControlError>(change.done(removals))
        })?;
        self.publish.notify_one();
        self.events.publish(removals.retired);
        self.announce(&removals.rows);
        Ok(removals.operations)
    }

    /// Begins the removal of a host's deckies, or of one. Those that go already are among the operations.
    fn tear_down(
        &self,
        w: &mut Writer<'_>,
        by: &Actor,
        host: &Host,
        only: Option<&DeckyName>,
        now: Timestamp,
    ) -> Result<Removals, ControlError> {
        let mut removals = Removals::default();
        let mut records = w.all::<DeckyRecord>()?;
        records.retain(|record| {
            record.decky.host == host.id && only.is_none_or(|only| record.decky.name == *only)
        });
        for mut record in records {
            let name = record.decky.name.clone();
            let begun = self.begin_removal(w, &mut record, by, now)?;
            if !begun.rows.is_empty() {
                w.put(&name, &record)?;
            }
            removals.operations.push((name, begun.operation));
            removals.rows.extend(begun.rows);
            removals.retired.extend(begun.retired);
        }
        if !removals.rows.is_empty() {
            let mut settings = settings(&w.reader())?;
            settings.revision += 1;
            w.put(&(), &settings)?;
        }
        Ok(removals)
    }

    /// Takes a host's tombstone: the host is gone for good. Sent again it changes nothing.
    ///
    /// # Errors
    /// No host was ordered to leave under that id (404); the key is not the host's (403); it is not a tombstone for the order
    /// that was given (422).
    pub fn bury(&self, by: &Actor, request: &TombstoneRequest) -> Result<(), ControlError> {
        let (id, now) = (request.host, self.now());
        if request.schema != SCHEMA {
            return Err(ControlError::Invalid(
                "this master reads tombstones of schema 1".to_owned(),
            ));
        }
        let (departure, host) = self
            .db
            .read(|r| Ok::<_, ControlError>((r.get::<Departure>(&id)?, r.get::<Host>(&id)?)))?;
        let departure = departure.ok_or_else(|| ControlError::NotFound {
            what: "host that was ordered to leave",
            name: id.to_string(),
        })?;
        let tombstone = self
            .believed(&departure, host.as_ref(), request)
            .inspect_err(|error| {
                let subject = format!("host/{}", departure.name);
                let text = format!("a tombstone was refused: {}", chain(error));
                self.alarm(&Alarm::new(Action::AlarmTombstone, by, subject, &text));
            })?;
        let by = by.proved(id, departure.name.clone());
        let changed = self.db.change(&by, now, |w| {
            let Some(mut departure) = w.get::<Departure>(&id)?.filter(|found| found.tombstone.is_none())
            else {
                return Ok(Audited::Unchanged(Vec::new()));
            };
            let mut changed = Vec::new();
            if let Some(host) = w.get::<Host>(&id)? {
                changed = forget(w, &host, &End::Succeeded, by.who(), now)?;
            }
            departure.tombstone = Some(Receipt {
                key: request.key.clone(),
                envelope: request.tombstone.to_string(),
                received_at: now,
            });
            w.put(&id, &departure)?;
            let change = Change::new(Action::HostGone, format!("host/{}", departure.name)).after(json!({
                "id": id,
                "nonce": departure.nonce,
                "removed": tombstone.removed.len(),
                "left": tombstone.left,
            }));
            Ok::<_, ControlError>(change.done(changed))
        })?;
        if tombstone.left.is_empty() {
            tracing::info!(host = %departure.name, %id, "a host is wiped");
        } else {
            tracing::warn!(host = %departure.name, %id, left = ?tombstone.left, "a host has left, and not everything is gone there");
        }
        self.after_departure(id, true, &changed);
        Ok(())
    }

    fn believed(
        &self,
        departure: &Departure,
        host: Option<&Host>,
        request: &TombstoneRequest,
    ) -> Result<Tombstone, ControlError> {
        let invalid = |text: String| ControlError::Invalid(format!("the tombstone is refused: {text}"));
        let key: HostPublicKey = request.key.parse().map_err(|error| invalid(chain(&error)))?;
        let name = digest(key.digest().sha256().as_bytes());
        // It may have renewed its key after it was ordered.
        let newer = host.iter().flat_map(|host| host.key.iter().chain(&host.next_key));
        if !departure.keys.iter().chain(newer).any(|known| *known == name) {
            return Err(ControlError::Forbidden(format!(
                "the tombstone is signed with the key {name}, which is not that host's"
            )));
        }
        let tombstone = admit_tombstone(
            request.tombstone.to_string().as_bytes(),
            self.fleet,
            departure.host,
            &[key],
        )
        .map_err(|error: OrderError| invalid(chain(&error)))?;
        if tombstone.nonce != departure.nonce {
            return Err(invalid(format!(
                "it answers the order {}, not {}",
                tombstone.nonce, departure.nonce
            )));
        }
        Ok(tombstone)
    }

    /// The order for somebody who proves the key of a host that was forgotten: the only thing that he is told.
    pub(super) fn farewell(&self, id: HostId, key: &Digest) -> Result<Option<ControlError>, ControlError> {
        let departure = self
            .db
            .read(|r| Ok::<_, ControlError>(r.get::<Departure>(&id)?))?;
        let departure = departure.filter(|departure| departure.keys.contains(key));
        Ok(departure.map(|departure| ControlError::Leave(departure.order)))
    }

    /// Every host that was ever ordered to leave, the newest order first.
    ///
    /// # Errors
    /// The store's.
    pub fn departures(&self) -> Result<Vec<Departure>, ControlError> {
        let mut all = self.db.read(|r| Ok::<_, ControlError>(r.all::<Departure>()?))?;
        all.sort_by(|a, b| (b.ordered_at, &a.name).cmp(&(a.ordered_at, &b.name)));
        Ok(all)
    }

    /// One of them.
    ///
    /// # Errors
    /// No host of that id was ordered to leave (404).
    pub fn departure(&self, id: HostId) -> Result<Departure, ControlError> {
        let found = self
            .db
            .read(|r| Ok::<_, ControlError>(r.get::<Departure>(&id)?))?;
        found.ok_or_else(|| ControlError::NotFound {
            what: "host that was ordered to leave",
            name: id.to_string(),
        })
    }

    fn after_departure(&self, id: HostId, gone: bool, changed: &[Row]) {
        self.announce(changed);
        self.publish.notify_one();
        if gone {
            self.forget_lists();
            self.status().remove(&id);
            self.connections.cut(&id);
            self.note_gone(id);
        } else {
            self.note_host(id);
        }
    }
}

fn unknown(id: HostId) -> ControlError {
    ControlError::NotFound {
        what: "host",
        name: id.to_string(),
    }
}

fn unchanged(departure: Departure) -> Audited<(Departure, Removals)> {
    Audited::Unchanged((departure, Removals::default()))
}

/// Takes a host and everything that is known of it out of the store. Its certificates stay on the revocation lists.
pub(crate) fn forget(
    w: &mut Writer<'_>,
    host: &Host,
    end: &End,
    by: &Who,
    now: Timestamp,
) -> Result<Vec<Row>, StoreError> {
    let (id, mut ended) = (host.id, Vec::new());
    for record in w.all::<DeckyRecord>()? {
        if record.decky.host != id {
            continue;
        }
        if let Some(operation) = record.operation
            && let Some(mut row) = w.get::<Row>(&operation.id)?
            && row.end(end.clone(), by, now)
        {
            w.put(&row.id, &row)?;
            ended.push(row);
        }
        w.remove::<DeckyRecord>(&record.decky.name)?;
    }
    supersede(w, id, now)?;
    w.remove::<EnrolTokenRecord>(&id)?;
    w.remove::<AwaitedRecord>(&id)?;
    w.remove::<ObservedRecord>(&id)?;
    w.remove::<BundleRecord>(&id)?;
    w.remove::<EnvelopeRecord>(&id)?;
    w.remove::<HostStatus>(&id)?;
    w.remove::<Host>(&id)?;
    Ok(ended)
}
