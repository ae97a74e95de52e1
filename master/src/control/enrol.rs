//! Enrolment: one-shot tokens, and the certificates they buy.
//!
//! Guarantees: only the hash of a token's secret is stored. A token is used up in the transaction that stores the
//! host's key; the same key may ask again with the same token until it expires and gets the same certificate, so
//! that a lost answer costs a retry and nothing else. Of a certificate request only the public key is used.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use decnet_pki::secret::{Secret, SecretHash};
use decnet_wire::bundle::{NetworkDriver, NetworkMode};
use decnet_wire::enrol::{self, EnrolRequest, EnrolResponse, HostNetwork, Token};
use decnet_wire::ids::{Digest, HostId, HostName, InterfaceName, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::certificates::{read_csr, supersede};
use super::{Alarm, Control, ControlError, settings, touch};
use crate::audit::{Action, Actor, Audited, Change};
use crate::fleet::model::Lan;
use crate::records::{Approval, DeckyRecord, EnrolTokenRecord, Host};
use crate::store::Reader;

/// How long a token lives when nobody says otherwise.
pub const TOKEN_LIFETIME: time::Duration = time::Duration::minutes(5);
/// The longest a token may live.
pub const TOKEN_LIFETIME_MAX: time::Duration = time::Duration::hours(1);
/// As [`TOKEN_LIFETIME`], of a token that is carried to its host in a file.
pub const CARRIED_LIFETIME: time::Duration = time::Duration::days(1);
/// As [`TOKEN_LIFETIME_MAX`], of such a token.
pub const CARRIED_LIFETIME_MAX: time::Duration = time::Duration::days(7);
/// How the text of a token begins.
const TOKEN_PREFIX: &str = "decnet1.";

/// What an operator says of a host to be enrolled.
#[derive(Debug, Clone)]
pub struct Invitation {
    pub name: HostName,
    pub network: HostNetworking,
    pub lan: Option<Lan>,
    pub lifetime: time::Duration,
    /// Whether the token is carried to a host that does not reach the master yet: it may live for longer.
    pub carried: bool,
    /// Whether an operator compares the host's fingerprint before it gets its certificate.
    pub approve: bool,
    pub notes: Option<String>,
}

/// How a host's deckies are attached to its LAN. An absent value means: the fleet's, or the usual one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostNetworking {
    ipvlan: bool,
    mode: Option<NetworkMode>,
    interface: Option<InterfaceName>,
}

impl HostNetworking {
    /// # Errors
    /// The mode is the other driver's (422).
    pub fn new(
        ipvlan: bool,
        mode: Option<NetworkMode>,
        interface: Option<InterfaceName>,
    ) -> Result<Self, ControlError> {
        let driver = if ipvlan {
            NetworkDriver::Ipvlan
        } else {
            NetworkDriver::Macvlan
        };
        if let Some(mode) = mode.filter(|mode| mode.driver() != driver) {
            return Err(ControlError::Invalid(format!(
                "{} is a mode of {}, and the host has {}: change one of the two",
                mode.as_str(),
                mode.driver().as_str(),
                driver.as_str()
            )));
        }
        Ok(Self {
            ipvlan,
            mode,
            interface,
        })
    }

    /// Whether the driver is ipvlan.
    #[must_use]
    pub const fn is_ipvlan(&self) -> bool {
        self.ipvlan
    }

    fn of(host: &Host) -> Self {
        Self {
            ipvlan: host.ipvlan,
            mode: host.mode,
            interface: host.interface.clone(),
        }
    }
}

/// The token to carry to the host. Shown once.
pub struct Invited {
    pub host: HostId,
    pub token: String,
    pub expires_at: Timestamp,
}

// Not the token: what is written to a log stays there.
impl fmt::Debug for Invited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invited")
            .field("host", &self.host)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl Control {
    /// Where hosts find the enrolment listener: `host:port`.
    #[must_use]
    pub fn enrolment(&self) -> &str {
        &self.addresses.enrolment
    }

    /// Makes a host's record and its token. A name whose token was never used may be invited again; the old
    /// token is worth nothing then.
    ///
    /// # Errors
    /// The name is an enrolled host's (409); the lifetime is beyond [`TOKEN_LIFETIME_MAX`], or that of a token that is
    /// carried (422).
    pub fn invite(&self, by: &Actor, invitation: &Invitation) -> Result<Invited, ControlError> {
        self.invite_as(by, invitation, false, &self.addresses.enrolment)
    }

    fn invite_as(
        &self,
        by: &Actor,
        invitation: &Invitation,
        embedded: bool,
        enrol_at: &str,
    ) -> Result<Invited, ControlError> {
        let (longest, text) = if invitation.carried {
            (CARRIED_LIFETIME_MAX, "seven days")
        } else {
            (TOKEN_LIFETIME_MAX, "one hour")
        };
        if invitation.lifetime <= time::Duration::ZERO || invitation.lifetime > longest {
            return Err(ControlError::Invalid(format!(
                "this token lives from one second to {text}"
            )));
        }
        let (now, keys) = (self.now(), self.keys());
        let secret = Secret::generate().map_err(|error| ControlError::Sign {
            what: "an enrolment token",
            source: error.into(),
        })?;
        let expires_at = Timestamp::new(now.get() + invitation.lifetime);
        let id = self.db.change(by, now, |w| {
            let same = w
                .all::<Host>()?
                .into_iter()
                .find(|host| host.name == invitation.name);
            if let Some(host) = &same
                && (host.embedded != embedded || (host.key.is_some() && !embedded))
            {
                return Err(ControlError::Conflict(format!(
                    "the host name {} is taken",
                    invitation.name
                )));
            }
            let id = same
                .as_ref()
                .map_or_else(|| HostId::new(Uuid::new_v4()), |host| host.id);
            // What the operator set for the embedded worker outlives its enrolment.
            let (network, lan) = match same.as_ref().filter(|_| embedded) {
                Some(host) => (HostNetworking::of(host), host.lan.clone()),
                None => (invitation.network.clone(), invitation.lan.clone()),
            };
            let host = Host {
                id,
                name: invitation.name.clone(),
                embedded,
                // Only the embedded worker has a key already. It stays until the new one is here: a host without
                // one counts as gone, and the next deploy would move its deckies elsewhere.
                key: same.as_ref().and_then(|host| host.key.clone()),
                certificate: same.as_ref().and_then(|host| host.certificate.clone()),
                certificate_ends_at: same.as_ref().and_then(|host| host.certificate_ends_at),
                awaiting: None,
                next_key: None,
                leaving: false,
                created_at: same.as_ref().map_or(now, |host| host.created_at),
                enrolled_at: same.as_ref().and_then(|host| host.enrolled_at),
                revoked: false,
                ipvlan: network.ipvlan,
                mode: network.mode,
                interface: network.interface,
                lan,
                generation: same.as_ref().map_or(0, |host| host.generation),
                notes: invitation.notes.clone(),
            };
            w.put(&id, &host)?;
            let token = EnrolTokenRecord {
                host: id,
                secret_hash: secret.hash().to_string(),
                expires_at,
                root_version: keys.root.version(),
                approval: if invitation.approve {
                    Approval::Needed
                } else {
                    Approval::NotNeeded
                },
                used_by: None,
                certificate: None,
            };
            w.put(&id, &token)?;
            Ok(Change::new(Action::HostInvite, named(&host))
                .before(json!({ "host": same.as_ref().map(shown) }))
                .after(json!({
                    "host": shown(&host),
                    "token": { "expires_at": expires_at, "approval": token.approval },
                }))
                .done(id))
        })?;
        self.note_host(id);
        let token = Token {
            schema: enrol::SCHEMA,
            host: id,
            name: invitation.name.clone(),
            enrol_at: enrol_at.to_owned(),
            ca_pin: digest(keys.serving().pin().sha256().as_bytes()),
            root_pin: digest(keys.root.envelope().digest().as_bytes()),
            secret: secret.reveal().to_string(),
            expires_at,
        };
        let json = serde_json::to_vec(&token).map_err(|error| ControlError::Sign {
            what: "an enrolment token",
            source: error.into(),
        })?;
        let token = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(json));
        Ok(Invited {
            host: id,
            token,
            expires_at,
        })
    }

    /// Lets the host that waits have its certificate.
    ///
    /// # Errors
    /// No such host (404); none waits, or one with another key (409).
    pub fn approve(&self, by: &Actor, id: HostId, key: &Digest) -> Result<(), ControlError> {
        let name = self.db.change(by, self.now(), |w| {
            let host = w.get::<Host>(&id)?.ok_or_else(|| ControlError::NotFound {
                what: "host",
                name: id.to_string(),
            })?;
            let token = w.get::<EnrolTokenRecord>(&id)?.filter(|token| self.now() <= token.expires_at);
            let (Some(awaiting), Some(token)) = (host.awaiting.clone(), token) else {
                return Err(ControlError::Conflict(format!(
                    "nobody waits to become the host {}: its token was not used, or has ended",
                    host.name
                )));
            };
            if awaiting != *key {
                return Err(ControlError::Conflict(format!(
                    "whoever waits to become the host {} has the key {awaiting}, not {key}: if that is not what the host \
                     itself says, somebody else has the token; invite the host anew",
                    host.name
                )));
            }
            let approval = Approval::Given(awaiting);
            if token.approval == approval {
                return Ok(Audited::Unchanged(host.name));
            }
            let token = EnrolTokenRecord {
                approval,
                ..token
            };
            w.put(&id, &token)?;
            let change = Change::new(Action::HostApprove, named(&host)).after(json!({ "id": id, "key": key }));
            Ok(change.done(host.name))
        })?;
        tracing::info!(host = %name, %id, %key, "an enrolment was approved");
        Ok(())
    }

    /// Grants an enrolment request, once. None while it waits for an operator's approval.
    ///
    /// # Errors
    /// Always the same refusal (403) for an unknown host, a wrong, expired or used-up token; a key that is another
    /// host's (403); a request that is not a P-256 certificate request (422).
    pub fn enrol(&self, by: &Actor, request: &EnrolRequest) -> Result<Option<EnrolResponse>, ControlError> {
        let refuse = || ControlError::Forbidden("the token is not valid: ask for a new one".to_owned());
        let secret: Secret = request.secret.parse().map_err(|_| refuse())?;
        let now = self.now();
        // Anybody may ask: without a token it costs one read, no signature check and no turn among the writers.
        let (host, _) = self
            .db
            .read(|r| valid_token(r, request.host, &secret, now))?
            .ok_or_else(refuse)?;
        let (id, subject) = (host.id, named(&host));
        // Who has the token's secret is the host that it was made for.
        let by = by.proved(host.id, host.name);
        let (csr, key) = read_csr(&request.csr)?;
        if let Some(other) = self.holder(&key, id)? {
            let text = format!(
                "the key of {} came with the enrolment token of another host",
                other.name
            );
            let refusal = ControlError::Forbidden(format!(
                "this key is the host {}'s already: enrol with a new one (without the file enrolling.key in the \
                 agent's state folder)",
                other.name
            ));
            let by = Actor::host(other.id, other.name, by.from());
            self.alarm(&Alarm::new(Action::AlarmForeignToken, &by, subject, &text));
            return Err(refusal);
        }
        let keys = self.keys();
        let mut reused = false;
        let granted = self.db.change(&by, now, |w| {
            let (mut host, mut token) =
                valid_token(&w.reader(), request.host, &secret, now)?.ok_or_else(refuse)?;
            if let (Some(used_by), Some(certificate)) = (&token.used_by, &token.certificate) {
                return if *used_by == key {
                    Ok(Audited::Unchanged(Some((
                        host,
                        certificate.clone(),
                        token.root_version,
                    ))))
                } else {
                    reused = true;
                    Err(refuse())
                };
            }
            match &token.approval {
                Approval::NotNeeded => {}
                Approval::Given(approved) if *approved == key => {}
                Approval::Given(_) => {
                    reused = true;
                    return Err(refuse());
                }
                // The first who shows the token binds it to his key.
                Approval::Needed => match &host.awaiting {
                    Some(awaiting) if *awaiting == key => return Ok(Audited::Unchanged(None)),
                    Some(_) => {
                        reused = true;
                        return Err(refuse());
                    }
                    None => {
                        tracing::info!(host = %host.name, id = %host.id, %key, "an enrolment waits for approval");
                        host.awaiting = Some(key.clone());
                        w.put(&host.id, &host)?;
                        let change = Change::new(Action::HostAwait, named(&host))
                            .after(json!({ "id": host.id, "key": key }));
                        return Ok(change.done(None));
                    }
                },
            }
            let before = json!({ "key": host.key, "certificate": host.certificate });
            // What the host had before is worth nothing with another key.
            supersede(w, host.id, now)?;
            let certificate = self.issue(w, &mut host, &csr)?;
            host.key = Some(key.clone());
            host.next_key = None;
            host.awaiting = None;
            host.enrolled_at = Some(now);
            token.used_by = Some(key.clone());
            token.certificate = Some(certificate.clone());
            w.put(&host.id, &host)?;
            w.put(&host.id, &token)?;
            // A new key is a new agent, which numbers its events by its own clock: below the old one's numbers its
            // events would count as known.
            self.forget_events(w, host.id)?;
            // Its first bundle says what it runs, be it nothing: an agent that has polled knows its state.
            touch(w, host.id)?;
            if host.embedded {
                let mut settings = settings(&w.reader())?;
                settings.embedded = Some(host.id);
                w.put(&(), &settings)?;
            }
            let change = Change::new(Action::HostEnroll, named(&host))
                .before(before)
                .after(json!({ "id": host.id, "key": host.key, "certificate": host.certificate }));
            Ok(change.done(Some((host, certificate, token.root_version))))
        });
        if reused {
            // It was stolen, or whoever used it first had stolen it.
            let stranger = Actor::stranger(by.from());
            let text = format!("the enrolment token of {id} came again with another key, {key}");
            self.alarm(&Alarm::new(Action::AlarmTokenReuse, &stranger, subject, &text));
        }
        let granted = granted?;
        self.note_host(id);
        let Some((host, certificate, root_version)) = granted else {
            return Ok(None);
        };
        self.forget_lists();
        self.publish.notify_one();
        tracing::info!(host = %host.name, id = %host.id, "enrolled a host");
        // The one that the token pins. The agent follows the chain from there.
        let trust_root = self
            .root_document(root_version)?
            .unwrap_or_else(|| keys.root.envelope().to_json());
        let trust_root = serde_json::from_slice(&trust_root).map_err(|error| ControlError::Sign {
            what: "the trust root",
            source: error.into(),
        })?;
        Ok(Some(EnrolResponse {
            schema: enrol::SCHEMA,
            fleet: self.fleet,
            host: host.id,
            name: host.name,
            certificate,
            trust_root,
            agent_api: self.addresses.agent_api.clone(),
            network: HostNetwork {
                ipvlan: host.ipvlan,
                interface: host.interface,
            },
        }))
    }

    /// The host other than this one that has a key. A key is one host's alone, or who holds it would be both.
    fn holder(&self, key: &Digest, besides: HostId) -> Result<Option<Host>, ControlError> {
        let has = |host: &Host| {
            host.id != besides
                && [&host.key, &host.next_key]
                    .into_iter()
                    .flatten()
                    .any(|its| its == key)
        };
        self.db.read(|r| Ok(r.all::<Host>()?.into_iter().find(has)))
    }

    /// A token for the worker inside this process, which finds the enrolment listener at `enrol_at`
    /// (`host:port`). A key that the worker had before is accepted until the token is used.
    ///
    /// # Errors
    /// The store's.
    pub fn invite_embedded(&self, name: &HostName, enrol_at: &str) -> Result<Invited, ControlError> {
        let invitation = Invitation {
            name: name.clone(),
            network: HostNetworking::default(),
            lan: None,
            lifetime: TOKEN_LIFETIME,
            carried: false,
            approve: false,
            notes: Some("the worker inside the master".to_owned()),
        };
        self.invite_as(&Actor::master(), &invitation, true, enrol_at)
    }

    /// Changes how a host's deckies are attached to its LAN. Its network is made anew, and its deckies with it;
    /// their addresses stay, and so do the MACs that macvlan shows. Nothing happens when it is so already.
    ///
    /// # Errors
    /// No such host (404); it is revoked, or its deckies could not run so (409, 422).
    pub fn set_networking(
        &self,
        by: &Actor,
        id: HostId,
        network: &HostNetworking,
    ) -> Result<(), ControlError> {
        let changed = self.db.change(by, self.now(), |w| {
            let host = w.get::<Host>(&id)?.ok_or_else(|| ControlError::NotFound {
                what: "host",
                name: id.to_string(),
            })?;
            if host.revoked {
                return Err(ControlError::Conflict(format!(
                    "the host {} is revoked",
                    host.name
                )));
            }
            if HostNetworking::of(&host) == *network {
                return Ok(Audited::Unchanged(false));
            }
            let HostNetworking {
                ipvlan,
                mode,
                interface,
            } = network.clone();
            let enrolled = host.key.is_some();
            let before = shown(&host);
            let host = Host {
                ipvlan,
                mode,
                interface,
                ..host
            };
            if enrolled {
                let r = w.reader();
                self.acceptable(&settings(&r)?, &host, &r.all::<DeckyRecord>()?)?;
            }
            w.put(&id, &host)?;
            if enrolled {
                touch(w, id)?;
            }
            Ok(Change::new(Action::HostNetwork, named(&host))
                .before(before)
                .after(shown(&host))
                .done(enrolled))
        })?;
        if changed {
            self.publish.notify_one();
        }
        Ok(())
    }
}

/// What the audit log calls a host.
pub(super) fn named(host: &Host) -> String {
    format!("host/{}", host.name)
}

/// What an operator says of a host, for the audit log.
fn shown(host: &Host) -> Value {
    json!({
        "id": host.id,
        "ipvlan": host.ipvlan,
        "mode": host.mode,
        "interface": host.interface,
        "subnet": host.lan.as_ref().map(|lan| lan.subnet),
        "gateway": host.lan.as_ref().and_then(|lan| lan.gateway),
        "notes": host.notes,
    })
}

/// The host and its token, when this is its secret and the time is right.
fn valid_token(
    r: &Reader<'_>,
    host: HostId,
    secret: &Secret,
    now: Timestamp,
) -> Result<Option<(Host, EnrolTokenRecord)>, ControlError> {
    let (Some(host), Some(token)) = (r.get::<Host>(&host)?, r.get::<EnrolTokenRecord>(&host)?) else {
        return Ok(None);
    };
    let matches = token
        .secret_hash
        .parse::<SecretHash>()
        .is_ok_and(|hash| hash.matches(secret));
    let valid = matches && now <= token.expires_at && !host.revoked;
    Ok(valid.then_some((host, token)))
}

pub(super) fn digest(bytes: &[u8; 32]) -> Digest {
    Digest::from_sha256(*bytes)
}
