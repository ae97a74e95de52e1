//! What the store holds, one type a table.

mod row;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use decnet_wire::bundle::{NetworkMode, Operation};
use decnet_wire::ids::{
    DeckyName, Digest, FleetId, HostId, HostName, InterfaceName, OperationId, ServiceSlug, Timestamp,
};
use decnet_wire::observed::Observed;
use decnet_wire::order::Nonce;
use decnet_wire::release::Progress;
use decnet_wire::report::{Accepted, PendingStack};
use serde::{Deserialize, Serialize};

use crate::fleet::model::{CustomService, Decky, DeploymentLimit, Lan, Minutes};
use crate::store::{Record, Table};

pub use row::{Cause, End, Row, RowStatus, Trace, Transition};

/// The fleet's settings: one record under the empty key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub fleet: FleetId,
    /// Raised by every change of the fleet. With [`Settings::draw_seed`] it decides what is drawn at random, so
    /// that a plan and the deploy that follows it draw the same.
    pub revision: u64,
    /// 32 random bytes in hex.
    pub draw_seed: String,
    /// The names and addresses under which agents and operators reach this master, the first one in tokens.
    pub advertise: Vec<String>,
    pub lan: Option<Lan>,
    pub mutate_interval: Minutes,
    pub deployment_limit: DeploymentLimit,
    pub custom_services: BTreeMap<ServiceSlug, CustomService>,
    /// The embedded worker's host, once it was made.
    pub embedded: Option<HostId>,
}

impl Record for Settings {
    type Key = ();
    const TABLE: Table = Table::Settings;
    fn key_bytes((): &()) -> Vec<u8> {
        b"settings".to_vec()
    }
}

/// A decky as the operator wants it, and how far the fleet is on the way there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeckyRecord {
    pub decky: Decky,
    /// It is on its way out: its host removes it, then the record goes.
    pub removing: bool,
    /// The newest operation, carried by the bundle.
    pub operation: Option<Operation>,
    /// The id of the newest operation there ever was: its row is kept as long as the decky is.
    #[serde(default)]
    pub newest: Option<OperationId>,
    /// What ran before the open operation; comes back when the operation fails.
    pub previous: Option<Box<Decky>>,
    /// The host that must have let go of it before its own host gets it.
    pub leaving: Option<Leaving>,
}

/// A host that is to let go of a decky which moved elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaving {
    pub host: HostId,
    /// The first of that host's generations without the decky.
    pub generation: u64,
}

impl Record for DeckyRecord {
    type Key = DeckyName;
    const TABLE: Table = Table::Deckies;
    fn key_bytes(key: &DeckyName) -> Vec<u8> {
        key.as_str().as_bytes().to_vec()
    }
}

/// A policy that the operators have signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRecord {
    pub version: u64,
    /// A DSSE envelope.
    pub envelope: String,
    pub taken_at: Timestamp,
}

impl Record for PolicyRecord {
    type Key = u64;
    const TABLE: Table = Table::Policies;
    fn key_bytes(key: &u64) -> Vec<u8> {
        key.to_be_bytes().to_vec()
    }
}

/// A release that the operators have signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRecord {
    pub sequence: u64,
    /// A DSSE envelope.
    pub envelope: String,
    pub taken_at: Timestamp,
    /// A host runs it, or ran it, and found it good.
    pub proven: bool,
}

impl Record for ReleaseRecord {
    type Key = u64;
    const TABLE: Table = Table::Releases;
    fn key_bytes(key: &u64) -> Vec<u8> {
        key.to_be_bytes().to_vec()
    }
}

/// How far a release is rolled out: one record under the empty key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutRecord {
    pub sequence: u64,
    /// Hosts whose position is below it begin.
    pub per_mille: u16,
    pub state: RolloutState,
    /// None: every host.
    pub hosts: Option<BTreeSet<HostId>>,
    pub begun_at: Timestamp,
    /// How many hosts had failed when somebody went on in spite of it.
    pub tolerated: usize,
    /// Why it was paused, where nobody did that.
    pub reason: Option<String>,
}

impl Record for RolloutRecord {
    type Key = ();
    const TABLE: Table = Table::Rollout;
    fn key_bytes((): &()) -> Vec<u8> {
        b"rollout".to_vec()
    }
}

/// Whether hosts begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutState {
    /// Those within the wave do.
    Running,
    /// None does, for now.
    Paused,
    /// None does any more.
    Aborted,
    /// All have it.
    Done,
}

impl RolloutState {
    /// As people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Aborted => "aborted",
            Self::Done => "done",
        }
    }
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    pub id: HostId,
    pub name: HostName,
    /// It runs inside the master's own process.
    pub embedded: bool,
    /// SHA-256 of the SubjectPublicKeyInfo of its key; none until it enrolled.
    pub key: Option<Digest>,
    /// SHA-256 of its certificate's DER.
    pub certificate: Option<Digest>,
    /// When its newest certificate ends.
    #[serde(default)]
    pub certificate_ends_at: Option<Timestamp>,
    /// The key of who wants to be this host, and waits for an operator's approval.
    #[serde(default)]
    pub awaiting: Option<Digest>,
    /// A key that it asked a certificate for. It takes the place of [`Host::key`] when it is used for the first time.
    #[serde(default)]
    pub next_key: Option<Digest>,
    pub created_at: Timestamp,
    pub enrolled_at: Option<Timestamp>,
    pub revoked: bool,
    /// It was ordered to leave the fleet: see [`Departure`].
    #[serde(default)]
    pub leaving: bool,
    /// ipvlan in place of macvlan.
    pub ipvlan: bool,
    /// The driver's mode; none: its usual one.
    #[serde(default)]
    pub mode: Option<NetworkMode>,
    /// The parent interface on this host, where it differs from the fleet's.
    pub interface: Option<InterfaceName>,
    /// The host's own LAN, where it differs from the fleet's.
    pub lan: Option<Lan>,
    /// The newest generation decided for it. The publisher makes the bundle of that number.
    pub generation: u64,
    pub notes: Option<String>,
}

impl Record for Host {
    type Key = HostId;
    const TABLE: Table = Table::Hosts;
    fn key_bytes(key: &HostId) -> Vec<u8> {
        key.uuid().as_bytes().to_vec()
    }
}

impl Host {
    /// Whether it can be sent a bundle.
    #[must_use]
    pub fn lives(&self) -> bool {
        self.key.is_some() && !self.revoked
    }

    /// Whether deckies may be put there.
    #[must_use]
    pub fn takes_deckies(&self) -> bool {
        self.lives() && !self.leaving
    }
}

/// A host that was ordered to leave the fleet. Kept for good: it may come back from wherever it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Departure {
    pub host: HostId,
    pub name: HostName,
    /// SHA-256 of the SubjectPublicKeyInfo of each key that it may show.
    pub keys: Vec<Digest>,
    /// The signed order: a DSSE envelope.
    pub order: String,
    pub nonce: Nonce,
    pub ordered_at: Timestamp,
    /// It was forgotten at once.
    pub forced: bool,
    /// What it said in the end.
    pub tombstone: Option<Receipt>,
}

/// A tombstone, with what it takes to check it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The host's public key: the base64 of its SubjectPublicKeyInfo.
    pub key: String,
    /// A DSSE envelope.
    pub envelope: String,
    pub received_at: Timestamp,
}

impl Record for Departure {
    type Key = HostId;
    const TABLE: Table = Table::Departures;
    fn key_bytes(key: &HostId) -> Vec<u8> {
        key.uuid().as_bytes().to_vec()
    }
}

/// The certificates that a host was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificatesRecord {
    pub host: HostId,
    /// Those that have not ended by themselves, the newest last.
    pub issued: Vec<IssuedCertificate>,
    /// That of [`Host::next_key`], in PEM with its issuer's: the same request is answered with it again.
    pub pending: Option<String>,
}

impl CertificatesRecord {
    /// A host that was given none.
    #[must_use]
    pub fn none(host: HostId) -> Self {
        Self {
            host,
            issued: Vec::new(),
            pending: None,
        }
    }
}

/// A certificate that was given to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedCertificate {
    /// In hex.
    pub serial: String,
    pub key: Digest,
    /// The pin of the CA that issued it.
    pub authority: Digest,
    pub expires_at: Timestamp,
    /// Since when it is not believed any more.
    pub revoked_at: Option<Timestamp>,
}

impl Record for CertificatesRecord {
    type Key = HostId;
    const TABLE: Table = Table::Certificates;
    fn key_bytes(key: &HostId) -> Vec<u8> {
        key.uuid().as_bytes().to_vec()
    }
}

/// The newest revocation list of a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationListRecord {
    /// The pin of the CA.
    pub authority: Digest,
    pub number: u64,
    pub made_at: Timestamp,
    /// The serial numbers on it, in hex and sorted.
    pub serials: Vec<String>,
    /// In PEM.
    pub list: String,
}

impl Record for RevocationListRecord {
    type Key = Digest;
    const TABLE: Table = Table::RevocationLists;
    fn key_bytes(key: &Digest) -> Vec<u8> {
        key.as_str().as_bytes().to_vec()
    }
}

/// What a host last said of itself. Kept apart from [`Host`], which only the operator's actions change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostStatus {
    pub host: HostId,
    pub last_heartbeat: Option<Timestamp>,
    pub address: Option<IpAddr>,
    pub agent_version: Option<String>,
    pub engine: Option<String>,
    pub accepted: Option<Accepted>,
    pub converged: bool,
    pub reason: Option<String>,
    /// The stacks that are not as the accepted generation asks.
    #[serde(default)]
    pub pending: Vec<PendingStack>,
    /// How often one of its deckies left what was desired by itself.
    #[serde(default)]
    pub drifts: u64,
    /// The newest of those, as `decky: what`, and when it was.
    #[serde(default)]
    pub last_drift: Option<(Timestamp, String)>,
    /// The last event that was applied.
    pub acked: u64,
    /// The newest refusal of a bundle, as `code: detail`.
    pub refusal: Option<String>,
    /// The generation that was refused, where the refusal names one.
    #[serde(default)]
    pub refused: Option<u64>,
    /// When its agent last said that it has not looked at its engine, under a generation under which it had looked
    /// before: the agent, or the engine, began anew.
    #[serde(default)]
    pub began_anew: Option<Timestamp>,
    /// What became of the newest release that it was told of.
    #[serde(default)]
    pub update: Option<Progress>,
}

impl HostStatus {
    /// Whether it has looked at its engine since it accepted its generation: it then knows what is not as asked.
    #[must_use]
    pub fn has_looked(&self) -> bool {
        self.converged || !self.pending.is_empty()
    }

    /// What it says of a decky that is not as it was asked for.
    #[must_use]
    pub fn pending(&self, decky: &DeckyName) -> Option<&PendingStack> {
        self.pending.iter().find(|pending| pending.decky == *decky)
    }

    /// A host that has not been heard of.
    #[must_use]
    pub fn unheard(host: HostId) -> Self {
        Self {
            host,
            last_heartbeat: None,
            address: None,
            agent_version: None,
            engine: None,
            accepted: None,
            converged: false,
            reason: None,
            pending: Vec::new(),
            drifts: 0,
            last_drift: None,
            acked: 0,
            refusal: None,
            refused: None,
            began_anew: None,
            update: None,
        }
    }
}

impl Record for HostStatus {
    type Key = HostId;
    const TABLE: Table = Table::HostStatus;
    fn key_bytes(key: &HostId) -> Vec<u8> {
        key.uuid().as_bytes().to_vec()
    }
}

/// The bundle published last for a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleRecord {
    pub host: HostId,
    /// Of the trust root by which it was signed.
    #[serde(default)]
    pub root_version: u64,
    pub epoch: u64,
    pub generation: u64,
    /// SHA-256 of the payload.
    pub digest: Digest,
    /// The key of the host that it is for.
    pub host_key: Digest,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    /// Blobs that it names: what the host may fetch.
    pub blobs: Vec<Digest>,
}

impl Record for BundleRecord {
    type Key = HostId;
    const TABLE: Table = Table::Bundles;
    fn key_bytes(key: &HostId) -> Vec<u8> {
        key.uuid().as_bytes().to_vec()
    }
}

/// A bundle's signed envelope, as it is sent. Apart from [`BundleRecord`], which is read for every host at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EnvelopeRecord(pub String);

impl Record for EnvelopeRecord {
    type Key = HostId;
    const TABLE: Table = Table::Envelopes;
    fn key_bytes(key: &HostId) -> Vec<u8> {
        key.uuid().as_bytes().to_vec()
    }
}

/// What a host's agent saw on its engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedRecord {
    pub host: HostId,
    pub received_at: Timestamp,
    /// The generation that the agent had accepted by then.
    pub accepted: Option<Accepted>,
    pub observed: Observed,
}

impl Record for ObservedRecord {
    type Key = HostId;
    const TABLE: Table = Table::Observed;
    fn key_bytes(key: &HostId) -> Vec<u8> {
        key.uuid().as_bytes().to_vec()
    }
}

/// A host that gets no bundle before it has said, after a restore, which one it accepted last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwaitedRecord {
    pub host: HostId,
    /// When the store was restored.
    pub since: Timestamp,
    /// When the backup was taken.
    pub backup: Timestamp,
}

impl Record for AwaitedRecord {
    type Key = HostId;
    const TABLE: Table = Table::Awaited;
    fn key_bytes(key: &HostId) -> Vec<u8> {
        key.uuid().as_bytes().to_vec()
    }
}

/// An enrolment token: only the hash of its secret is here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolTokenRecord {
    pub host: HostId,
    /// SHA-256 of the secret, in hex.
    pub secret_hash: String,
    pub expires_at: Timestamp,
    /// Of the trust root that the token pins.
    #[serde(default)]
    pub root_version: u64,
    /// Whether an operator has to approve of the key that uses it.
    #[serde(default)]
    pub approval: Approval,
    /// The key that used it up. The same key may ask again and gets the same certificate.
    pub used_by: Option<Digest>,
    /// The certificate that was given, in PEM.
    pub certificate: Option<String>,
}

/// What an operator has to say to an enrolment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Approval {
    /// Nothing: the token is enough.
    #[default]
    NotNeeded,
    /// The key that [`Host::awaiting`] names, if any, waits for it.
    Needed,
    /// This key may have the certificate.
    Given(Digest),
}

impl Record for EnrolTokenRecord {
    type Key = HostId;
    const TABLE: Table = Table::EnrolTokens;
    fn key_bytes(key: &HostId) -> Vec<u8> {
        key.uuid().as_bytes().to_vec()
    }
}

/// An operator's token: only its hash is here, as the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiTokenRecord {
    /// SHA-256 of the token, in hex.
    pub hash: String,
    /// No two tokens have the same.
    pub name: String,
    pub role: Role,
    pub created_at: Timestamp,
    /// None: until it is revoked.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// To the minute.
    #[serde(default)]
    pub last_used: Option<Timestamp>,
}

impl Record for ApiTokenRecord {
    type Key = String;
    const TABLE: Table = Table::ApiTokens;
    fn key_bytes(key: &String) -> Vec<u8> {
        key.as_bytes().to_vec()
    }
}

/// What an operator may do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and changes.
    Admin,
}

impl Role {
    /// As people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }
}
