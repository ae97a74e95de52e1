//! Hosts' certificates after enrolment: renewal with a new key, the return after an end of any length, revocation lists.
//!
//! Guarantees: of a request only the public key is used. A new key counts from its first use on, and the one of before
//! up to then, so that a lost answer or a crash at any moment leaves the host with one that works. Who proves a key
//! that the store does not know is refused, whatever certificate he shows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::PoisonError;

use decnet_pki::ca::{HostSubject, Revoked};
use decnet_pki::csr::VerifiedCsr;
use decnet_pki::digest::Sha256Digest;
use decnet_wire::enrol::{self, LeafResponse, RejoinRequest, RenewRequest};
use decnet_wire::ids::{Digest, HostId, Timestamp};
use serde_json::json;

use super::enrol::{digest, named};
use super::{Alarm, Control, ControlError, touch};
use crate::audit::{Action, Actor, Audited, Change};
use crate::records::{CertificatesRecord, Departure, Host, IssuedCertificate, RevocationListRecord};
use crate::store::{StoreError, Writer};

/// The most that a certificate request may hold, in bytes.
const CSR_CAP: usize = 16 * 1024;
/// How long a host's certificate is valid.
const LIFETIME: time::Duration = time::Duration::days(30);
/// How long a key that was replaced may still be tried before that is an alarm.
const KEY_CHANGE: time::Duration = time::Duration::hours(1);
/// The most certificates of one host that have not ended: a host renews after half their time, and once more for each
/// CA. One that asks on and on is broken, or not ours.
const ISSUED_MAX: usize = 32;
/// How long a revocation list is good for.
const LIST_LIFETIME: time::Duration = time::Duration::days(7);
/// How long until it is looked whether something has changed that nobody told of, such as a certificate's end.
const LIST_LOOK: time::Duration = time::Duration::minutes(10);
/// How long until one is made anew although nothing has changed.
const LIST_AGE: time::Duration = time::Duration::days(1);

impl Control {
    /// Whether this host, with this key, may speak to the agent API. Asked at every request. A key that the host was
    /// given a certificate for takes the place of the one of before.
    ///
    /// # Errors
    /// The host is unknown, revoked, or has another key (403).
    pub fn authorize(&self, id: HostId, key: &Digest, from: Option<IpAddr>) -> Result<Host, ControlError> {
        let found = self.db.read(|r| Ok::<_, ControlError>(r.get::<Host>(&id)?))?;
        // Who was forgotten, or revoked after that, is told the one thing.
        if found.as_ref().is_none_or(|host| host.revoked)
            && let Some(order) = self.farewell(id, key)?
        {
            return Err(order);
        }
        match found {
            Some(host) if host.revoked => self.alarm(&Alarm::new(
                Action::AlarmRevokedHost,
                &Actor::host(id, host.name.clone(), from),
                named(&host),
                &format!("the revoked host {} tried to speak", host.name),
            )),
            Some(host) if host.key.as_ref() == Some(key) => return Ok(host),
            Some(host) if host.next_key.as_ref() == Some(key) => {
                return self.promote(&Actor::host(id, host.name, from), id, key);
            }
            Some(host) => self.suspect(&host, key, from)?,
            None => {}
        }
        Err(unknown(id))
    }

    /// Somebody has a certificate of ours for a host, and a key that is not the host's.
    fn suspect(&self, host: &Host, key: &Digest, from: Option<IpAddr>) -> Result<(), ControlError> {
        let now = self.now().get();
        // A host that has just changed its key may still finish what it began with the one before.
        let just_now = |issued: &IssuedCertificate| {
            issued.key == *key && issued.revoked_at.is_some_and(|at| now - at.get() <= KEY_CHANGE)
        };
        let certificates = self
            .db
            .read(|r| Ok::<_, ControlError>(r.get::<CertificatesRecord>(&host.id)?))?;
        if certificates.is_some_and(|certificates| certificates.issued.iter().any(just_now)) {
            return Ok(());
        }
        let text = format!("{} came with the key {key}, which is not its own", host.id);
        let by = Actor::stranger(from);
        self.alarm(&Alarm::new(Action::AlarmForeignKey, &by, named(host), &text));
        Ok(())
    }

    fn promote(&self, by: &Actor, id: HostId, key: &Digest) -> Result<Host, ControlError> {
        let now = self.now();
        let host = self.db.change(by, now, |w| {
            let known = w.get::<Host>(&id)?.filter(|host| !host.revoked);
            let Some(mut host) = known else {
                return Err(unknown(id));
            };
            if host.key.as_ref() == Some(key) {
                return Ok(Audited::Unchanged(host));
            }
            if host.next_key.as_ref() != Some(key) {
                return Err(unknown(id));
            }
            let before = std::mem::replace(&mut host.key, host.next_key.take());
            w.put(&id, &host)?;
            let mut certificates = certificates(w, id)?;
            certificates.pending = None;
            for issued in &mut certificates.issued {
                if issued.key != *key {
                    issued.revoked_at.get_or_insert(now);
                }
            }
            w.put(&id, &certificates)?;
            // Bundles name the key of the host that they are for.
            touch(w, id)?;
            let change = Change::new(Action::HostRekey, named(&host))
                .before(json!({ "id": id, "key": before }))
                .after(json!({ "id": id, "key": host.key }));
            let host = w.get::<Host>(&id)?.unwrap_or(host);
            Ok(change.done(host))
        })?;
        self.forget_lists();
        self.publish.notify_one();
        Ok(host)
    }

    /// Certifies a new key of a host that has shown its present one.
    ///
    /// # Errors
    /// The request is not one for a new P-256 key (422); the host has asked for too many (429).
    pub fn renew(
        &self,
        by: &Actor,
        id: HostId,
        request: &RenewRequest,
    ) -> Result<LeafResponse, ControlError> {
        let renewed = self.renewed(by, id, request);
        self.alarm_if_refused(by, &format!("host/{}", by.who().name()), &renewed);
        renewed
    }

    fn renewed(&self, by: &Actor, id: HostId, request: &RenewRequest) -> Result<LeafResponse, ControlError> {
        let (csr, key) = read(request.schema, &request.csr)?;
        let certificate = self.db.change(by, self.now(), |w| {
            let known = w.get::<Host>(&id)?.filter(|host| !host.revoked);
            let Some(mut host) = known else {
                return Err(unknown(id));
            };
            if host.key.as_ref() == Some(&key) {
                return Err(ControlError::Invalid(
                    "a renewal is for a new key, and this is the present one".to_owned(),
                ));
            }
            let before = certificates(w, id)?;
            if let Some(pending) = before.pending
                && host.next_key.as_ref() == Some(&key)
            {
                return Ok(Audited::Unchanged(pending));
            }
            let certificate = self.issue(w, &mut host, &csr)?;
            host.next_key = Some(key.clone());
            w.put(&id, &host)?;
            let mut after = certificates(w, id)?;
            after.pending = Some(certificate.clone());
            w.put(&id, &after)?;
            Ok(Change::new(Action::HostRenew, named(&host))
                .before(json!({ "id": id, "key": host.key }))
                .after(json!({ "id": id, "next_key": key, "certificate": host.certificate }))
                .done(certificate))
        })?;
        Ok(LeafResponse {
            schema: enrol::SCHEMA,
            certificate,
        })
    }

    /// Certifies once more the key that a host is known by: its certificate has ended, or is of a CA that has.
    ///
    /// # Errors
    /// Always the same refusal (403) for a host that is unknown or revoked and for a key that is not its own; a request
    /// that is none (422); the host has asked for too many (429).
    pub fn rejoin(&self, by: &Actor, request: &RejoinRequest) -> Result<LeafResponse, ControlError> {
        let id = request.host;
        // Anybody may ask: without a host it costs one read and no signature check.
        let (host, departed) = self
            .db
            .read(|r| Ok::<_, ControlError>((r.get::<Host>(&id)?, r.has::<Departure>(&id)?)))?;
        if departed && host.as_ref().is_none_or(|host| host.revoked) {
            let (_, key) = read(request.schema, &request.csr)?;
            return Err(self.farewell(id, &key)?.unwrap_or_else(|| unknown(id)));
        }
        let host = host
            .filter(|host| host.key.is_some())
            .ok_or_else(|| unknown(id))?;
        if host.revoked {
            let text = format!("somebody asked to come back as the revoked host {}", host.name);
            self.alarm(&Alarm::new(Action::AlarmRevokedHost, by, named(&host), &text));
            return Err(unknown(id));
        }
        let (csr, key) = read(request.schema, &request.csr)?;
        let (stranger, subject) = (by, named(&host));
        // Its signature proves the key, and the transaction that the key is this host's.
        let by = by.proved(id, host.name);
        let certificate = self.db.change(&by, self.now(), |w| {
            let known = w
                .get::<Host>(&id)?
                .filter(|host| !host.revoked && [&host.key, &host.next_key].contains(&&Some(key.clone())));
            let Some(mut host) = known else {
                return Err(unknown(id));
            };
            let certificate = self.issue(w, &mut host, &csr)?;
            if host.next_key.as_ref() == Some(&key) {
                let mut certificates = certificates(w, id)?;
                certificates.pending = Some(certificate.clone());
                w.put(&id, &certificates)?;
            }
            w.put(&id, &host)?;
            Ok(Change::new(Action::HostRejoin, named(&host))
                .after(json!({ "id": id, "key": key, "certificate": host.certificate }))
                .done(certificate))
        });
        self.alarm_if_refused(stranger, &subject, &certificate);
        let certificate = certificate?;
        Ok(LeafResponse {
            schema: enrol::SCHEMA,
            certificate,
        })
    }

    fn alarm_if_refused<T>(&self, by: &Actor, subject: &str, outcome: &Result<T, ControlError>) {
        if let Err(error) = outcome
            && (400..500).contains(&error.status())
        {
            let text = crate::text::chain(error);
            self.alarm(&Alarm::new(Action::AlarmRenewalRefused, by, subject, &text));
        }
    }

    /// Issues a certificate for a host and writes down that it did. Whoever calls decides what the key counts for.
    pub(super) fn issue(
        &self,
        w: &mut Writer<'_>,
        host: &mut Host,
        csr: &VerifiedCsr,
    ) -> Result<String, ControlError> {
        let (now, keys) = (self.now(), self.keys());
        let mut certificates = certificates(w, host.id)?;
        certificates.issued.retain(|issued| issued.expires_at > now);
        if certificates.issued.len() >= ISSUED_MAX {
            return Err(ControlError::TooMany(format!(
                "the host {} has {ISSUED_MAX} certificates that have not ended: enrol it anew",
                host.name
            )));
        }
        let subject = HostSubject {
            fleet: self.fleet.uuid(),
            host: host.id.uuid(),
        };
        let issuing = keys.issuing();
        let leaf = issuing
            .issue_host(csr, subject, now.get(), LIFETIME)
            .map_err(|error| ControlError::Sign {
                what: "a host certificate",
                source: error.into(),
            })?;
        certificates.issued.push(IssuedCertificate {
            serial: leaf.serial().to_owned(),
            key: digest(leaf.key_digest().sha256().as_bytes()),
            authority: digest(issuing.pin().sha256().as_bytes()),
            expires_at: Timestamp::new(leaf.not_after()),
            revoked_at: None,
        });
        w.put(&host.id, &certificates)?;
        host.certificate_ends_at = Some(Timestamp::new(leaf.not_after()));
        host.certificate = leaf
            .chain()
            .first()
            .map(|der| digest(Sha256Digest::of(der.as_ref()).as_bytes()));
        Ok(leaf.chain_pem())
    }

    /// The newest revocation lists of all CAs that are believed, in PEM one after the other (RFC 5280 section 5).
    ///
    /// # Errors
    /// The store's; one cannot be signed.
    pub fn revocation_lists(&self) -> Result<String, ControlError> {
        let now = self.now();
        // Anybody may ask, and to look through all certificates takes a while.
        let mut kept = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, lists)) = kept.as_ref()
            && (time::Duration::ZERO..LIST_LOOK).contains(&(now.get() - made.get()))
        {
            return Ok(lists.clone());
        }
        let lists = self.sign_lists(now)?;
        *kept = Some((now, lists.clone()));
        Ok(lists)
    }

    /// To be called after every change of what is on the revocation lists.
    pub(super) fn forget_lists(&self) {
        *self.lists.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn sign_lists(&self, now: Timestamp) -> Result<String, ControlError> {
        let keys = self.keys();
        let mut lists = String::new();
        for authority in keys.authorities() {
            let pin = digest(authority.pin().sha256().as_bytes());
            let current = |kept: &RevocationListRecord, revoked: &[Revoked]| {
                let age = now.get() - kept.made_at.get();
                let serials = revoked.iter().map(|leaf| leaf.serial.as_str());
                (time::Duration::ZERO..LIST_AGE).contains(&age)
                    && serials.eq(kept.serials.iter().map(String::as_str))
            };
            let (kept, revoked) = self.db.read(|r| {
                let revoked = revoked(r.all::<CertificatesRecord>()?, &pin, now);
                Ok::<_, ControlError>((r.get::<RevocationListRecord>(&pin)?, revoked))
            })?;
            if let Some(kept) = kept
                && current(&kept, &revoked)
            {
                lists.push_str(&kept.list);
                continue;
            }
            lists.push_str(&self.db.bookkeep(|w| {
                // What was read above may have changed.
                let revoked = revoked_by(w, &pin, now)?;
                let kept = w.get::<RevocationListRecord>(&pin)?;
                let number = kept.map_or(1, |kept| kept.number + 1);
                let list = authority
                    .issue_crl(&revoked, number, now.get(), LIST_LIFETIME)
                    .map_err(|error| ControlError::Sign {
                        what: "a revocation list",
                        source: error.into(),
                    })?;
                let record = RevocationListRecord {
                    authority: pin.clone(),
                    number,
                    made_at: now,
                    serials: revoked.into_iter().map(|leaf| leaf.serial).collect(),
                    list: list.clone(),
                };
                w.put(&pin, &record)?;
                Ok::<_, ControlError>(list)
            })?);
        }
        Ok(lists)
    }

    /// How long hosts may spread their renewals when a new CA is there: 20 a second, an hour at most.
    pub(super) fn renew_within_s(&self) -> u32 {
        let hosts = u32::try_from(self.status().len()).unwrap_or(u32::MAX);
        (hosts / 20).clamp(1, 3600)
    }

    /// How many hosts have their newest certificate of each CA, by its pin.
    ///
    /// # Errors
    /// The store's.
    pub fn hosts_by_authority(&self) -> Result<BTreeMap<Digest, usize>, ControlError> {
        self.db.read(|r| {
            let mut hosts = BTreeMap::new();
            for certificates in r.all::<CertificatesRecord>()? {
                let live = certificates
                    .issued
                    .iter()
                    .rfind(|issued| issued.revoked_at.is_none());
                if let Some(newest) = live {
                    *hosts.entry(newest.authority.clone()).or_default() += 1;
                }
            }
            Ok(hosts)
        })
    }
}

/// Nothing that was issued to this host is believed any more.
pub(crate) fn supersede(w: &mut Writer<'_>, id: HostId, now: Timestamp) -> Result<(), StoreError> {
    let mut certificates = certificates(w, id)?;
    certificates.pending = None;
    for issued in &mut certificates.issued {
        issued.revoked_at.get_or_insert(now);
    }
    w.put(&id, &certificates)
}

fn certificates(w: &Writer<'_>, id: HostId) -> Result<CertificatesRecord, StoreError> {
    Ok(w.get(&id)?.unwrap_or_else(|| CertificatesRecord::none(id)))
}

fn revoked_by(w: &Writer<'_>, authority: &Digest, now: Timestamp) -> Result<Vec<Revoked>, StoreError> {
    Ok(revoked(w.all::<CertificatesRecord>()?, authority, now))
}

/// What belongs on a CA's list, sorted: a certificate that has ended needs no word of it.
fn revoked(records: Vec<CertificatesRecord>, authority: &Digest, now: Timestamp) -> Vec<Revoked> {
    let mut revoked: Vec<Revoked> = records
        .into_iter()
        .flat_map(|record| record.issued)
        .filter(|issued| issued.authority == *authority && issued.expires_at > now)
        .filter_map(|issued| {
            let at = issued.revoked_at?.get();
            Some(Revoked {
                serial: issued.serial,
                at,
            })
        })
        .collect();
    revoked.sort_by(|a, b| a.serial.cmp(&b.serial));
    revoked
}

fn read(schema: u32, csr: &str) -> Result<(VerifiedCsr, Digest), ControlError> {
    if schema != enrol::SCHEMA {
        return Err(ControlError::Invalid(
            "this master reads certificate requests of schema 1".to_owned(),
        ));
    }
    read_csr(csr)
}

/// A certificate request, and the name of its key.
///
/// # Errors
/// It is none for a P-256 key, or its own signature does not hold (422).
pub fn read_csr(csr: &str) -> Result<(VerifiedCsr, Digest), ControlError> {
    let csr = VerifiedCsr::parse(csr, CSR_CAP)
        .map_err(|error| ControlError::Invalid(format!("the certificate request is refused: {error}")))?;
    let key = digest(csr.key_digest().sha256().as_bytes());
    Ok((csr, key))
}

fn unknown(id: HostId) -> ControlError {
    ControlError::Forbidden(format!("the host {id} is not enrolled with this key"))
}
