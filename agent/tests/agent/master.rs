//! A master as the wire contract has it, with the faults that a network has.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use decnet_pki::ServerName;
use decnet_pki::ca::{CertificateAuthority, HostSubject};
use decnet_pki::csr::VerifiedCsr;
use decnet_pki::digest::Sha256Digest;
use decnet_pki::envelope::Envelope;
use decnet_pki::key::{KeyDigest, SigningKey};
use decnet_pki::secret::Secret;
use decnet_pki::tls;
use decnet_wire::bundle::{self, Bundle};
use decnet_wire::enrol::{self, EnrolRequest, EnrolResponse, HostNetwork, Token};
use decnet_wire::ids::{Digest, FleetId, HostId, Timestamp};
use decnet_wire::policy;
use decnet_wire::report::{Event, EventBody, Heartbeat, Outcome, Report, ReportAnswer};
use decnet_wire::trust::{self, TrustRoot};
use futures_util::StreamExt as _;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

type Body = BoxBody<Bytes, io::Error>;

/// What goes wrong next. Each number counts down.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Reports that are stored and whose answer is lost.
    pub(crate) lost_report_answers: u32,
    /// Reports that are stored and whose answer takes a second.
    pub(crate) slow_report_answers: u32,
    /// Enrolments that are granted and whose answer is lost.
    pub(crate) lost_enrol_answers: u32,
    /// Reports are asked for once an hour.
    pub(crate) rare_heartbeats: bool,
    /// Polls whose connection is cut.
    pub(crate) cut_polls: u32,
    /// Times that the bundle is sent again to somebody who has it.
    pub(crate) repeated_bundles: u32,
    /// Blob transfers that break off in the middle.
    pub(crate) cut_blobs: u32,
    /// Blob transfers, after those, whose bytes are others.
    pub(crate) false_blobs: u32,
}

#[derive(Default)]
struct State {
    bundle: Option<(u64, Vec<u8>)>,
    enrolled: Option<KeyDigest>,
    events: BTreeMap<u64, Event>,
    received: Vec<Vec<u64>>,
    heartbeat: Option<Heartbeat>,
    ranges: Vec<Option<String>>,
    blobs: HashMap<String, Vec<u8>>,
    /// Trust roots after the first, by version.
    roots: BTreeMap<u64, Vec<u8>>,
    /// How often each was asked for.
    asked: BTreeMap<u64, u32>,
    /// The policy that is handed on: what the header says, and the envelope.
    policy: Option<(u64, Vec<u8>)>,
    policy_asked: u32,
    /// Requests for what there is not.
    strange: Vec<String>,
    faults: Faults,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
    published: tokio::sync::watch::Sender<u64>,
    woken: tokio::sync::watch::Sender<u64>,
    authority: CertificateAuthority,
    fleet: FleetId,
    host: HostId,
    secret: String,
    trust_root: serde_json::Value,
    agent_api: SocketAddr,
}

pub(crate) struct Master {
    shared: Arc<Shared>,
    online: SigningKey,
    operator: SigningKey,
    root: TrustRoot,
    pub(crate) enrol_at: SocketAddr,
    host_key: Mutex<Option<Digest>>,
    root_pin: Digest,
    _listeners: [AbortOnDropHandle<()>; 2],
}

fn now() -> Timestamp {
    Timestamp::new(OffsetDateTime::now_utc())
}

fn from_now(hours: i64) -> Timestamp {
    Timestamp::new(OffsetDateTime::now_utc() + time::Duration::hours(hours))
}

fn wire(digest: &Sha256Digest) -> Digest {
    Digest::from_sha256(*digest.as_bytes())
}

impl Master {
    pub(crate) async fn start() -> Self {
        let clock = OffsetDateTime::now_utc();
        let authority = CertificateAuthority::create("test fleet", clock).unwrap();
        let (online, operator) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let fleet = FleetId::new(Uuid::new_v4());
        let host = HostId::new(Uuid::new_v4());
        let root = TrustRoot {
            schema: trust::SCHEMA,
            fleet,
            version: 1,
            epoch: 1,
            threshold: 1,
            operator_keys: vec![operator.public().to_string()],
            online_key: online.public().to_string(),
            online_key_expires_at: from_now(1000),
            ca_certificates: vec![authority.cert_pem()],
            policy: None,
        };
        let envelope = Envelope::sign(
            trust::PAYLOAD_TYPE,
            serde_json::to_vec(&root).unwrap(),
            &[&operator],
        );
        let names = [ServerName::try_from("127.0.0.1").unwrap()];
        let lifetime = time::Duration::days(1);
        let (leaf, key) = authority.issue_server(&names, clock, lifetime).unwrap();
        let clients = [authority.certificate().clone()];
        let api_tls = tls::agent_server_config(&leaf, &key, &clients).unwrap();
        let enrol_tls = tls::server_config(&leaf, &key).unwrap();
        let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let enrolment = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let enrol_at = enrolment.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Notify::new(),
            published: tokio::sync::watch::Sender::new(0),
            woken: tokio::sync::watch::Sender::new(0),
            authority,
            fleet,
            host,
            secret: Secret::generate().unwrap().reveal().to_string(),
            trust_root: serde_json::from_slice(&envelope.to_json()).unwrap(),
            agent_api: api.local_addr().unwrap(),
        });
        let listeners = [
            listen(api, api_tls, &shared),
            listen(enrolment, enrol_tls, &shared),
        ];
        Self {
            shared,
            online,
            operator,
            root,
            enrol_at,
            host_key: Mutex::default(),
            root_pin: wire(&envelope.digest()),
            _listeners: listeners,
        }
    }

    pub(crate) fn host(&self) -> HostId {
        self.shared.host
    }

    pub(crate) fn token(&self) -> Token {
        Token {
            schema: enrol::SCHEMA,
            host: self.shared.host,
            name: "worker-1".parse().unwrap(),
            enrol_at: self.enrol_at.to_string(),
            ca_pin: wire(self.shared.authority.pin().sha256()),
            root_pin: self.root_pin.clone(),
            secret: self.shared.secret.clone(),
            expires_at: from_now(1),
        }
    }

    /// A bundle for the host that enrolled here.
    pub(crate) fn bundle(&self, generation: u64) -> Bundle {
        let key = self.state().enrolled.expect("the host enrolled first");
        *self.host_key.lock().unwrap() = Some(wire(key.sha256()));
        Bundle {
            schema: bundle::SCHEMA,
            fleet: self.shared.fleet,
            host: self.shared.host,
            host_key: wire(key.sha256()),
            epoch: 1,
            generation,
            previous: None,
            issued_at: now(),
            expires_at: from_now(24),
            networks: Vec::new(),
            stacks: Vec::new(),
            blobs: Vec::new(),
            order: None,
        }
    }

    pub(crate) fn publish(&self, bundle: &Bundle) {
        self.publish_as(bundle, &self.online);
    }

    /// The same, signed by another key.
    pub(crate) fn publish_as(&self, bundle: &Bundle, key: &SigningKey) {
        let payload = serde_json::to_vec(bundle).unwrap();
        let envelope = Envelope::sign(bundle::PAYLOAD_TYPE, payload, &[key]);
        self.state().bundle = Some((bundle.generation, envelope.to_json()));
        self.shared.published.send_replace(bundle.generation);
    }

    /// Offers something in the place of a bundle.
    pub(crate) fn publish_bytes(&self, generation: u64, bytes: Vec<u8>) {
        self.state().bundle = Some((generation, bytes));
        self.shared.published.send_replace(generation);
    }

    /// The trust root of a version, with another online key.
    pub(crate) fn root(&self, version: u64, online: &SigningKey) -> TrustRoot {
        TrustRoot {
            version,
            online_key: online.public().to_string(),
            ..self.root.clone()
        }
    }

    /// Signed by the operator.
    pub(crate) fn signed(&self, root: &TrustRoot) -> Vec<u8> {
        let payload = serde_json::to_vec(root).unwrap();
        Envelope::sign(trust::PAYLOAD_TYPE, payload, &[&self.operator]).to_json()
    }

    /// Offers a trust root that the operator has signed.
    pub(crate) fn offer(&self, root: &TrustRoot) {
        self.offer_bytes(root.version, self.signed(root));
    }

    pub(crate) fn offer_as(&self, root: &TrustRoot, keys: &[&SigningKey]) {
        let payload = serde_json::to_vec(root).unwrap();
        let envelope = Envelope::sign(trust::PAYLOAD_TYPE, payload, keys).to_json();
        self.offer_bytes(root.version, envelope);
    }

    pub(crate) fn offer_bytes(&self, version: u64, bytes: Vec<u8>) {
        self.state().roots.insert(version, bytes);
    }

    /// How often a trust root was asked for.
    pub(crate) fn asked(&self, version: u64) -> u32 {
        self.state().asked.get(&version).copied().unwrap_or(0)
    }

    /// A policy of the operator's, for every host, for 1,000 hours.
    pub(crate) fn policy(&self, version: u64, rules: &serde_json::Value) -> policy::Policy {
        policy::Policy {
            schema: policy::SCHEMA,
            fleet: self.shared.fleet,
            version,
            issued_at: now(),
            expires_at: from_now(1000),
            hosts: None,
            rules: serde_json::from_value(rules.clone()).unwrap(),
        }
    }

    /// Hands on a policy that the operator has signed.
    pub(crate) fn rule(&self, policy: &policy::Policy) {
        self.rule_as(policy, &[&self.operator]);
    }

    pub(crate) fn rule_as(&self, policy: &policy::Policy, keys: &[&SigningKey]) {
        let payload = serde_json::to_vec(policy).unwrap();
        let envelope = Envelope::sign(policy::PAYLOAD_TYPE, payload, keys).to_json();
        self.rule_bytes(policy.version, envelope);
    }

    /// Says that there is this version, and hands on these bytes.
    pub(crate) fn rule_bytes(&self, version: u64, envelope: Vec<u8>) {
        self.state().policy = Some((version, envelope));
        self.wake();
    }

    /// Answers the polls that wait.
    pub(crate) fn wake(&self) {
        self.shared.woken.send_modify(|times| *times += 1);
    }

    /// How often the policy was asked for.
    pub(crate) fn policy_asked(&self) -> u32 {
        self.state().policy_asked
    }

    pub(crate) fn operator(&self) -> &SigningKey {
        &self.operator
    }

    pub(crate) fn agent_api(&self) -> SocketAddr {
        self.shared.agent_api
    }

    /// Requests for what this master does not have.
    pub(crate) fn strange(&self) -> Vec<String> {
        self.state().strange.clone()
    }

    pub(crate) fn add_blob(&self, digest: &Digest, bytes: Vec<u8>) {
        self.state().blobs.insert(digest.hex().to_owned(), bytes);
    }

    pub(crate) fn break_next(&self, faults: Faults) {
        self.state().faults = faults;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// The sequence numbers of every report that came in, also of those whose answer was lost.
    pub(crate) fn received(&self) -> Vec<Vec<u64>> {
        self.state().received.clone()
    }

    pub(crate) fn ranges(&self) -> Vec<Option<String>> {
        self.state().ranges.clone()
    }

    /// What happened, each event once, in its order.
    pub(crate) fn told(&self) -> Vec<String> {
        let state = self.state();
        let told = state.events.values().map(|event| match &event.body {
            EventBody::Operation {
                decky, kind, outcome, ..
            } => {
                let outcome = match outcome {
                    Outcome::Running => "running".to_owned(),
                    Outcome::Succeeded => "succeeded".to_owned(),
                    Outcome::Failed { error } => format!("failed: {error}"),
                };
                format!("{decky} {} {outcome}", kind.as_str())
            }
            EventBody::Refused { code, .. } => format!("refused {code}"),
            EventBody::Drift { decky, .. } => format!("{decky} drift"),
        });
        told.collect()
    }

    pub(crate) fn heartbeat(&self) -> Option<Heartbeat> {
        self.state().heartbeat.clone()
    }

    /// As a master does that was killed before it wrote the heartbeat down.
    pub(crate) fn forget_heartbeat(&self) {
        self.state().heartbeat = None;
    }

    /// Waits until `holds` does; looks after every request that comes in.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if holds(self) {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(90), wait).await.is_err() {
            panic!(
                "{what}: not within 90 s; told {:?}, heartbeat {:?}",
                self.told(),
                self.heartbeat()
            );
        }
    }

    /// Waits for a heartbeat that says: nothing is left to do for this generation.
    pub(crate) async fn until_converged(&self, generation: u64) {
        self.until(&format!("generation {generation} converged"), |master| {
            master.heartbeat().is_some_and(|heartbeat| {
                let accepted = heartbeat
                    .accepted
                    .is_some_and(|accepted| accepted.generation == generation);
                accepted && heartbeat.converged
            })
        })
        .await;
    }
}

/// The text that an operator carries.
pub(crate) fn token_text(token: &Token) -> String {
    format!(
        "decnet1.{}",
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(token).unwrap())
    )
}

fn listen(listener: TcpListener, tls: Arc<ServerConfig>, shared: &Arc<Shared>) -> AbortOnDropHandle<()> {
    let shared = Arc::clone(shared);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(tls);
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
            connections.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |request| {
                    let shared = Arc::clone(&shared);
                    async move {
                        let answer = shared.answer(request).await;
                        shared.changed.notify_waiters();
                        answer
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                drop(connection.await);
            });
        }
    }))
}

/// Ends the connection without an answer.
fn cut() -> io::Error {
    io::Error::other("cut by the test")
}

fn count_down(fault: &mut u32) -> bool {
    let due = *fault > 0;
    *fault = fault.saturating_sub(1);
    due
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/enroll/v1" => self.enrol(request).await,
            "/agent/v1/bundle" => self.poll(&request).await,
            "/agent/v1/report" => self.report(request).await,
            "/agent/v1/policy" => Ok(self.policy()),
            _ => {
                let root = ["/agent/v1/trust-root/", "/enroll/v1/trust-root/"]
                    .iter()
                    .find_map(|prefix| path.strip_prefix(prefix));
                if let Some(version) = root {
                    return Ok(self.trust_root(version.parse().unwrap()));
                }
                match path.strip_prefix("/agent/v1/blobs/sha256/") {
                    Some(hex) => self.blob(hex, &request),
                    None => {
                        self.state.lock().unwrap().strange.push(path);
                        Ok(plain(StatusCode::NOT_FOUND, "{}".into()))
                    }
                }
            }
        }
    }

    fn policy(&self) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        state.policy_asked += 1;
        match &state.policy {
            Some((_, policy)) => plain(StatusCode::OK, policy.clone().into()),
            None => plain(StatusCode::NOT_FOUND, "{}".into()),
        }
    }

    fn trust_root(&self, version: u64) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        *state.asked.entry(version).or_default() += 1;
        match state.roots.get(&version) {
            Some(root) => plain(StatusCode::OK, root.clone().into()),
            None => plain(StatusCode::NOT_FOUND, "{}".into()),
        }
    }

    async fn enrol(&self, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
        let body = request
            .into_body()
            .collect()
            .await
            .map_err(io::Error::other)?
            .to_bytes();
        let request: EnrolRequest = serde_json::from_slice(&body).unwrap();
        let csr = VerifiedCsr::parse(&request.csr, 16 * 1024).unwrap();
        let mut state = self.state.lock().unwrap();
        let other_key = state.enrolled.is_some_and(|key| key != csr.key_digest());
        if request.secret != self.secret || other_key {
            let detail = r#"{"detail": "the token is spent"}"#;
            return Ok(plain(StatusCode::FORBIDDEN, detail.into()));
        }
        state.enrolled = Some(csr.key_digest());
        if count_down(&mut state.faults.lost_enrol_answers) {
            return Err(cut());
        }
        let subject = HostSubject {
            fleet: self.fleet.uuid(),
            host: self.host.uuid(),
        };
        let clock = OffsetDateTime::now_utc();
        let leaf = self
            .authority
            .issue_host(&csr, subject, clock, time::Duration::days(1))
            .unwrap();
        let response = EnrolResponse {
            schema: enrol::SCHEMA,
            fleet: self.fleet,
            host: self.host,
            name: "worker-1".parse().unwrap(),
            certificate: leaf.chain_pem(),
            trust_root: self.trust_root.clone(),
            agent_api: self.agent_api.to_string(),
            network: HostNetwork::default(),
        };
        Ok(plain(
            StatusCode::OK,
            serde_json::to_vec(&response).unwrap().into(),
        ))
    }

    async fn poll(&self, request: &Request<Incoming>) -> Result<Response<Body>, io::Error> {
        let query = request.uri().query().unwrap();
        let number = |name: &str| -> u64 {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name))
                .unwrap()
                .parse()
                .unwrap()
        };
        let (after, wait) = (number("after="), number("wait="));
        let mut published = self.published.subscribe();
        {
            let mut state = self.state.lock().unwrap();
            if count_down(&mut state.faults.cut_polls) {
                return Err(cut());
            }
            if let Some((_, envelope)) = state.bundle.clone()
                && count_down(&mut state.faults.repeated_bundles)
            {
                return Ok(plain(StatusCode::OK, envelope.into()));
            }
        }
        let mut woken = self.woken.subscribe();
        tokio::select! {
            _ = published.wait_for(|generation| *generation > after) => {}
            _ = woken.changed() => {}
            () = tokio::time::sleep(Duration::from_secs(wait)) => {}
        }
        let state = self.state.lock().unwrap();
        let mut answer = match &state.bundle {
            Some((generation, envelope)) if *generation > after => {
                plain(StatusCode::OK, envelope.clone().into())
            }
            _ => plain(StatusCode::NO_CONTENT, Bytes::new()),
        };
        if let Some((version, _)) = &state.policy {
            answer
                .headers_mut()
                .insert(policy::VERSION_HEADER, (*version).into());
        }
        if let Some((newest, _)) = state.roots.last_key_value() {
            answer
                .headers_mut()
                .insert(trust::VERSION_HEADER, (*newest).into());
        }
        Ok(answer)
    }

    async fn report(&self, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
        let body = request
            .into_body()
            .collect()
            .await
            .map_err(io::Error::other)?
            .to_bytes();
        let report: Report = serde_json::from_slice(&body).unwrap();
        let (answer, slow) = {
            let mut state = self.state.lock().unwrap();
            let answer = state.take_report(report)?;
            (answer, count_down(&mut state.faults.slow_report_answers))
        };
        if slow {
            self.changed.notify_waiters();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(answer)
    }
    fn blob(&self, hex: &str, request: &Request<Incoming>) -> Result<Response<Body>, io::Error> {
        let mut state = self.state.lock().unwrap();
        let range = request
            .headers()
            .get(header::RANGE)
            .map(|value| value.to_str().unwrap().to_owned());
        state.ranges.push(range.clone());
        let Some(blob) = state.blobs.get(hex).cloned() else {
            return Ok(plain(StatusCode::NOT_FOUND, "{}".into()));
        };
        let from: usize = range.map_or(0, |range| {
            range
                .strip_prefix("bytes=")
                .unwrap()
                .strip_suffix('-')
                .unwrap()
                .parse()
                .unwrap()
        });
        // A range is asked for of the same blob only (RFC 9110 section 13.1.5).
        let same = request.headers().get(header::IF_RANGE);
        assert!(
            from == 0 || same.is_some_and(|tag| *tag == *format!("\"sha256:{hex}\"")),
            "{same:?}"
        );
        let mut rest = blob[from..].to_vec();
        let cuts = count_down(&mut state.faults.cut_blobs);
        if !cuts && count_down(&mut state.faults.false_blobs) {
            rest.iter_mut().for_each(|byte| *byte = !*byte);
        }
        let rest = Bytes::from(rest);
        let mut response = Response::builder().header(header::CONTENT_LENGTH, rest.len());
        if from > 0 {
            let value = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, value);
        }
        let pieces = if cuts {
            vec![Ok(rest.slice(..rest.len() / 2)), Err(cut())]
        } else {
            vec![Ok(rest)]
        };
        // The piece before the cut gets its time on the line.
        let stream = futures_util::stream::iter(pieces).then(|piece| async {
            if piece.is_err() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            piece.map(Frame::data)
        });
        Ok(response.body(BodyExt::boxed(StreamBody::new(stream))).unwrap())
    }
}

impl State {
    fn take_report(&mut self, report: Report) -> Result<Response<Body>, io::Error> {
        self.received
            .push(report.events.iter().map(|event| event.seq).collect());
        for event in report.events {
            let known = self.events.insert(event.seq, event.clone());
            assert!(
                known.is_none_or(|known| known == event),
                "one number for two events: {event:?}"
            );
        }
        self.heartbeat = Some(report.heartbeat);
        if count_down(&mut self.faults.lost_report_answers) {
            return Err(cut());
        }
        let answer = ReportAnswer {
            schema: decnet_wire::report::SCHEMA,
            acked: self.events.keys().last().copied().unwrap_or(0),
            time: now(),
            poll_wait_s: 5,
            heartbeat_s: if self.faults.rare_heartbeats { 3600 } else { 2 },
            resync: false,
            renew_within_s: Some(1),
        };
        Ok(plain(StatusCode::OK, serde_json::to_vec(&answer).unwrap().into()))
    }
}

fn plain(status: StatusCode, body: Bytes) -> Response<Body> {
    let body = Full::new(body).map_err(|never| match never {}).boxed();
    Response::builder().status(status).body(body).unwrap()
}
