//! What the unit tests share: a signer, documents, a clock that stands still, and the simulated engine as a
//! machine.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use decnet_docker::EngineError;
use decnet_pki::ca::{CertificateAuthority, HostSubject};
use decnet_pki::certificate::Leaf;
use decnet_pki::csr::{self, VerifiedCsr};
use decnet_pki::envelope::Envelope;
use decnet_pki::key::{HostKey, SigningKey};
use decnet_plan::sim;
use decnet_plan::step::Step;
use decnet_plan::unused::Disk;
use decnet_wire::bundle::{
    Blob, BlobKind, Bundle, Network, NetworkDriver, Operation, OperationKind, PAYLOAD_TYPE, SCHEMA, Stack,
};
use decnet_wire::enrol::HostNetwork;
use decnet_wire::ids::{Digest, FleetId, HostId, OperationId, StackName, Timestamp};
use decnet_wire::observed::{Interface, Observed};
use decnet_wire::order::{self, Decommission, Nonce};
use decnet_wire::release::{self, Release};
use decnet_wire::trust::{self, TrustRoot};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use time::macros::datetime;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::admit::Audience;
use crate::clock::Clock;
use crate::identity::{Identity, IdentityStore, Stored};
use crate::reconcile::Machine;
use crate::trust::{self as trusted, wire_digest};

pub(crate) const NETWORK: &str = "decnet-lan";

pub(crate) fn now() -> Timestamp {
    Timestamp::new(datetime!(2026-03-01 12:00 UTC))
}

pub(crate) fn hours(at: Timestamp, hours: i64) -> Timestamp {
    Timestamp::new(at.get() + time::Duration::hours(hours))
}

/// A clock that only tests move.
#[derive(Debug)]
pub(crate) struct FixedClock(Mutex<Timestamp>);

impl FixedClock {
    pub(crate) fn at(at: Timestamp) -> Arc<Self> {
        Arc::new(Self(Mutex::new(at)))
    }

    pub(crate) fn set(&self, at: Timestamp) {
        *self.0.lock().unwrap() = at;
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

pub(crate) fn operation(number: u128, kind: OperationKind) -> Operation {
    Operation {
        id: OperationId::new(Uuid::from_u128(number)),
        kind,
        traceparent: None,
    }
}

/// A fleet's master, as far as signing goes.
pub(crate) struct Signer {
    pub(crate) online: SigningKey,
    pub(crate) fleet: FleetId,
    pub(crate) host: HostId,
    pub(crate) host_key: HostKey,
    pub(crate) trust_root: TrustRoot,
    operator: SigningKey,
    authority: CertificateAuthority,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let (online, operator) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let authority = CertificateAuthority::create("test", now().get()).unwrap();
        let fleet = FleetId::new(Uuid::from_u128(1));
        let trust_root = TrustRoot {
            schema: trust::SCHEMA,
            fleet,
            version: 1,
            epoch: 1,
            threshold: 1,
            operator_keys: vec![operator.public().to_string()],
            online_key: online.public().to_string(),
            online_key_expires_at: hours(now(), 24 * 365),
            ca_certificates: vec![authority.cert_pem()],
            policy: None,
        };
        Self {
            online,
            fleet,
            host: HostId::new(Uuid::from_u128(2)),
            host_key: HostKey::generate().unwrap(),
            trust_root,
            operator,
            authority,
        }
    }

    /// A certificate for one of the host's keys.
    pub(crate) fn certify(&self, key: &HostKey) -> Leaf {
        let csr = VerifiedCsr::parse(&csr::create(key).unwrap(), 1 << 16).unwrap();
        let subject = HostSubject {
            fleet: self.fleet.uuid(),
            host: self.host.uuid(),
        };
        let month = time::Duration::days(30);
        self.authority
            .issue_host(&csr, subject, now().get(), month)
            .unwrap()
    }

    /// The host's identity, kept in this folder.
    pub(crate) fn identity(&self, folder: &Path) -> IdentityStore {
        Identity::store(folder, &self.stored()).unwrap();
        IdentityStore::new(folder.to_owned(), Identity::load(folder).unwrap()).unwrap()
    }

    pub(crate) fn trust_envelope(&self) -> Value {
        let payload = serde_json::to_vec(&self.trust_root).unwrap();
        let envelope = Envelope::sign(trust::PAYLOAD_TYPE, payload, &[&self.operator]);
        serde_json::from_slice(&envelope.to_json()).unwrap()
    }

    /// A policy that the operator has signed, for all hosts, for a year.
    pub(crate) fn policy(&self, version: u64, rules: &Value) -> decnet_wire::policy::Policy {
        decnet_wire::policy::Policy {
            schema: decnet_wire::policy::SCHEMA,
            fleet: self.fleet,
            version,
            issued_at: now(),
            expires_at: hours(now(), 24 * 365),
            hosts: None,
            rules: serde_json::from_value(rules.clone()).unwrap(),
        }
    }

    pub(crate) fn sign_policy(&self, policy: &decnet_wire::policy::Policy) -> Vec<u8> {
        let payload = serde_json::to_vec(policy).unwrap();
        Envelope::sign(decnet_wire::policy::PAYLOAD_TYPE, payload, &[&self.operator]).to_json()
    }

    /// The operator's order that a host leaves.
    pub(crate) fn decommission(&self, host: HostId) -> Vec<u8> {
        let order = Decommission {
            schema: order::SCHEMA,
            fleet: self.fleet,
            host,
            nonce: Nonce::from_random([7; 16]),
            issued_at: now(),
        };
        let payload = serde_json::to_vec(&order).unwrap();
        Envelope::sign(order::DECOMMISSION_TYPE, payload, &[&self.operator]).to_json()
    }

    /// A release that the operator has signed.
    pub(crate) fn release(&self, release: &Release) -> Value {
        let payload = serde_json::to_vec(release).unwrap();
        let envelope = Envelope::sign(release::PAYLOAD_TYPE, payload, &[&self.operator]);
        serde_json::from_slice(&envelope.to_json()).unwrap()
    }

    /// What the host keeps of its enrolment.
    pub(crate) fn stored(&self) -> Stored {
        Stored {
            schema: Stored::SCHEMA,
            fleet: self.fleet,
            host: self.host,
            name: "edge-01".parse().unwrap(),
            agent_api: "127.0.0.1:9".to_owned(),
            network: HostNetwork::default(),
            certificate: self.certify(&self.host_key).chain_pem(),
            key: self.host_key.to_pkcs8_pem().to_string(),
            trust_root: self.trust_envelope(),
            enrol_at: None,
            previous: None,
        }
    }

    pub(crate) fn audience(&self) -> Audience {
        Audience {
            fleet: self.fleet,
            host: self.host,
            host_key: wire_digest(self.host_key.digest().sha256()),
            root: trusted::stored(&self.trust_envelope()).unwrap(),
        }
    }

    /// The same, for an admission.
    pub(crate) fn audiences(&self) -> watch::Receiver<Arc<Audience>> {
        watch::Sender::new(Arc::new(self.audience())).subscribe()
    }

    pub(crate) fn bundle(&self, generation: u64, stacks: Vec<Stack>) -> Bundle {
        Bundle {
            schema: SCHEMA,
            fleet: self.fleet,
            host: self.host,
            host_key: wire_digest(self.host_key.digest().sha256()),
            epoch: 1,
            generation,
            previous: None,
            issued_at: now(),
            expires_at: hours(now(), 24),
            networks: vec![network()],
            stacks,
            blobs: vec![blob(1), blob(2)],
            order: None,
        }
    }

    pub(crate) fn sign(&self, bundle: &Bundle) -> Vec<u8> {
        self.sign_as(PAYLOAD_TYPE, &serde_json::to_vec(bundle).unwrap())
    }

    pub(crate) fn sign_as(&self, payload_type: &str, payload: &[u8]) -> Vec<u8> {
        Envelope::sign(payload_type, payload.to_vec(), &[&self.online]).to_json()
    }
}

/// The digest that a signed bundle is known by.
pub(crate) fn digest_of(envelope: &[u8]) -> Digest {
    wire_digest(&Envelope::parse(envelope, usize::MAX).unwrap().digest())
}

pub(crate) fn network() -> Network {
    Network {
        name: NETWORK.parse().unwrap(),
        driver: NetworkDriver::Macvlan,
        parent: Some("eth0".parse().unwrap()),
        subnet: "10.9.0.0/24".parse().unwrap(),
        gateway: None,
        subnet6: None,
        gateway6: None,
        host_address: None,
        mode: None,
    }
}

pub(crate) fn blob(n: u8) -> Blob {
    let kind = BlobKind::ImageArchive {
        reference: format!("decoy:{n}"),
        image_ids: vec![Digest::from_sha256([n; 32])],
    };
    Blob {
        digest: Digest::from_sha256([n + 200; 32]),
        size: 1000,
        kind,
    }
}

/// One decky: a base container and one container for each service.
pub(crate) fn document(address: u8, services: &[&str]) -> Value {
    let hardened = |mut service: Value| {
        service["cap_drop"] = json!(["ALL"]);
        service["security_opt"] = json!(["no-new-privileges:true"]);
        service["restart"] = json!("unless-stopped");
        service
    };
    let mut all = serde_json::Map::new();
    let base = json!({
        "image": "decoy:1",
        "networks": {"lan": {"ipv4_address": format!("10.9.0.{address}")}},
    });
    all.insert("base".to_owned(), hardened(base));
    for (index, name) in services.iter().enumerate() {
        let service = json!({
            "image": "decoy:2",
            "network_mode": "service:base",
            "depends_on": ["base"],
            "expose": [1000 + index],
        });
        all.insert((*name).to_owned(), hardened(service));
    }
    json!({"networks": {"lan": {"external": true, "name": NETWORK}}, "services": all})
}

pub(crate) fn stack(name: &str, compose: Value, operation: Option<Operation>) -> Stack {
    Stack {
        name: name.parse().unwrap(),
        decky: name.parse().unwrap(),
        compose: compose.into(),
        operation,
    }
}

/// What a test makes of a step, instead of applying it.
pub(crate) type Hook = Box<dyn Fn(&Step) -> Option<EngineError> + Send + Sync>;

/// Who watches an engine.
pub(crate) type Watcher = Box<dyn Fn(Watched<'_>, &sim::Engine) + Send + Sync>;

/// What is done to an engine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Watched<'a> {
    Before(&'a Step),
    After(&'a Step),
}

/// The simulated engine, with faults.
pub(crate) struct SimMachine {
    host: HostId,
    pub(crate) engine: Mutex<sim::Engine>,
    seen: Mutex<Arc<Observed>>,
    pub(crate) away: std::sync::atomic::AtomicBool,
    pub(crate) hook: Mutex<Option<Hook>>,
    pub(crate) disk: Mutex<Option<Disk>>,
    /// Told of the engine before and after every step, while nobody else can touch it.
    pub(crate) watcher: Mutex<Option<Watcher>>,
    /// What happens between the next look and its answer.
    pub(crate) meanwhile: Mutex<Option<BoxFuture<'static, ()>>>,
    /// Steps applied so far.
    pub(crate) applied: AtomicUsize,
    /// After so many steps the machine hangs for ever, which is what a kill looks like from here.
    pub(crate) hang_at: AtomicUsize,
    pub(crate) hung: Notify,
    /// What transfers have told so far.
    pub(crate) told: AtomicU64,
}

impl SimMachine {
    pub(crate) fn new(host: HostId) -> Arc<Self> {
        let interfaces = vec![Interface::new("eth0".parse().unwrap())];
        let mut engine = sim::Engine::default();
        engine.interfaces = interfaces;
        Arc::new(Self {
            host,
            engine: Mutex::new(engine),
            seen: Mutex::default(),
            away: false.into(),
            hook: Mutex::new(None),
            disk: Mutex::new(None),
            watcher: Mutex::new(None),
            meanwhile: Mutex::new(None),
            applied: AtomicUsize::new(0),
            hang_at: AtomicUsize::new(usize::MAX),
            hung: Notify::new(),
            told: AtomicU64::new(0),
        })
    }

    /// The names of the containers that run.
    pub(crate) fn running(&self) -> Vec<String> {
        let observed = self.engine.lock().unwrap().observe(self.host);
        let running = observed
            .containers
            .into_iter()
            .filter(|container| container.state.is_running());
        running.map(|container| container.name).collect()
    }

    fn applied_to_engine(&self, step: &Step) -> Result<(), String> {
        let mut engine = self.engine.lock().unwrap();
        let watcher = self.watcher.lock().unwrap();
        let tell = |what, engine: &sim::Engine| {
            if let Some(watcher) = &*watcher {
                watcher(what, engine);
            }
        };
        tell(Watched::Before(step), &engine);
        let outcome = engine.apply(step);
        tell(Watched::After(step), &engine);
        outcome
    }

    fn check_away(&self) -> Result<(), EngineError> {
        if self.away.load(Ordering::SeqCst) {
            let source = bollard::errors::Error::RequestTimeoutError;
            return Err(EngineError::Connect {
                socket: "/sim".to_owned(),
                source,
            });
        }
        Ok(())
    }
}

impl Machine for SimMachine {
    /// The same value as before while nothing has changed.
    async fn observe(&self) -> Result<(Arc<Observed>, String), EngineError> {
        self.check_away()?;
        let observed = self.engine.lock().unwrap().observe(self.host);
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        let mut seen = self.seen.lock().unwrap();
        if **seen != observed {
            *seen = Arc::new(observed);
        }
        Ok((Arc::clone(&seen), "sim".to_owned()))
    }

    async fn suspects(&self, _: impl Fn(&StackName) -> bool + Send + Sync) -> bool {
        true
    }

    async fn apply(&self, step: &Step, _: impl Send) -> Result<(), EngineError> {
        if self.applied.fetch_add(1, Ordering::SeqCst) >= self.hang_at.load(Ordering::SeqCst) {
            self.hung.notify_one();
            std::future::pending::<()>().await;
        }
        self.check_away()?;
        if let Some(error) = self.hook.lock().unwrap().as_ref().and_then(|hook| hook(step)) {
            return Err(error);
        }
        self.applied_to_engine(step).map_err(|how| match step {
            Step::StartContainer { name, .. } => EngineError::Unsettled {
                name: name.clone(),
                how,
                logs: String::new(),
            },
            _ => EngineError::WrongImage {
                reference: how,
                what: "the simulated engine refused",
            },
        })
    }

    async fn disk(&self) -> Option<Disk> {
        *self.disk.lock().unwrap()
    }

    fn told(&self) -> u64 {
        self.told.load(Ordering::SeqCst)
    }

    async fn expect(&self, _blobs: Vec<Blob>) {}
}
