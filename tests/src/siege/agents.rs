//! Agents, as far as the master sees them: enrolment, the long poll, the heartbeat, each over a connection of its own
//! that is made again where it broke.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use decnet_pki::certificate::{CaCertificate, CaPin, Leaf};
use decnet_pki::csr;
use decnet_pki::envelope::Envelope;
use decnet_pki::key::HostKey;
use decnet_pki::tls;
use decnet_wire::enrol::Token;
use decnet_wire::trust::TrustRoot;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hyper::{Method, StatusCode};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::line::{self, Line, Operator};
use super::{ANSWER, HEARTBEAT};

/// What a poll waits for here, in seconds; what it may take besides.
const WAIT: u64 = 20;
const GRACE: Duration = Duration::from_secs(10);
/// Every so many heartbeats an agent comes by a new connection, as one does that was restarted.
const RECONNECT: u64 = 3;
/// Enrolments at once.
const AT_ONCE: usize = 8;

/// An enrolled host.
#[derive(Debug)]
pub(super) struct Host {
    name: String,
    pub(super) agent_port: u16,
    pub(super) enrol_port: u16,
    /// With its certificate.
    pub(super) tls: Arc<ClientConfig>,
    /// As one that has only a token.
    pub(super) stranger: Arc<ClientConfig>,
}

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) heartbeats: AtomicU64,
    pub(super) polls: AtomicU64,
    slowest_ms: AtomicU64,
    missed: Mutex<Vec<String>>,
    failed_polls: Mutex<Vec<String>>,
}

impl Counts {
    pub(super) fn missed(&self) -> Vec<String> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn failed_polls(&self) -> Vec<String> {
        self.failed_polls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn slowest(&self) -> Duration {
        Duration::from_millis(self.slowest_ms.load(Ordering::Relaxed))
    }
}

/// Invites and enrols so many hosts.
pub(super) async fn enrol(operator: &Operator, many: usize) -> Result<Vec<Arc<Host>>> {
    stream::iter(0..many)
        .map(|at| async move { Host::enrol(operator, &format!("host-{at}")).await.map(Arc::new) })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

impl Host {
    /// As `decnet-agent enroll` does it, in memory. What fails is tried again.
    pub(super) async fn enrol(operator: &Operator, name: &str) -> Result<Self> {
        let invitation = operator
            .post("/api/v1/swarm/hosts/enroll", &json!({ "name": name }))
            .await?;
        let text = invitation["token"].as_str().context("no token")?;
        let text = text.strip_prefix("decnet1.").context("another kind of token")?;
        let token: Token = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text)?)?;
        let key = HostKey::generate()?;
        let pin = CaPin::from(
            token
                .ca_pin
                .as_str()
                .parse::<decnet_pki::digest::Sha256Digest>()?,
        );
        let stranger = tls::pinned_client_config(pin)?;
        let enrol_port = port(&token.enrol_at)?;
        let request = json!({
            "schema": 1, "host": token.host, "secret": token.secret,
            "csr": csr::create(&key)?, "agent_version": "0.0.0",
        });
        let body = Bytes::from(serde_json::to_vec(&request)?);
        let mut tries = 0;
        let answer = loop {
            let asking = async {
                let mut line = Line::over(line::tls_from_elsewhere(enrol_port, &stranger).await?).await?;
                let (status, answer) = line.ask(Method::POST, "/enroll/v1", body.clone()).await?;
                ensure!(
                    status.is_success(),
                    "{status}: {}",
                    String::from_utf8_lossy(&answer)
                );
                Ok::<_, anyhow::Error>(answer)
            };
            match tokio::time::timeout(ANSWER, asking).await {
                Ok(Ok(answer)) => break answer,
                Ok(Err(error)) if tries == 5 => return Err(error.context("not enrolled after six tries")),
                Err(_) if tries == 5 => bail!("not enrolled after six tries"),
                _ => tries += 1,
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let answer: Value = serde_json::from_slice(&answer)?;
        let leaf = Leaf::from_pem(answer["certificate"].as_str().context("no certificate")?)?;
        let root = Envelope::parse(&serde_json::to_vec(&answer["trust_root"])?, 1 << 20)?;
        let root: TrustRoot = serde_json::from_slice(root.unverified_payload())?;
        let authorities: Vec<_> = root
            .ca_certificates
            .iter()
            .map(|pem| CaCertificate::from_pem(pem))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: name.to_owned(),
            agent_port: port(answer["agent_api"].as_str().context("no address")?)?,
            enrol_port,
            tls: tls::client_config(&authorities, &leaf, &key)?,
            stranger,
        })
    }

    pub(super) async fn connect(&self) -> Result<Line> {
        Line::over(line::tls(self.agent_port, &self.tls).await?).await
    }
}

fn port(address: &str) -> Result<u16> {
    let (_, port) = address.rsplit_once(':').context("an address without a port")?;
    Ok(port.parse()?)
}

/// A connection and what may be tried again on another one: what a kept connection fails with may be that it was
/// closed meanwhile.
async fn ask(
    host: &Host,
    kept: &mut Option<Line>,
    method: Method,
    uri: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes)> {
    if let Some(mut line) = kept.take()
        && let Ok(answer) = line.ask(method.clone(), uri, body.clone()).await
    {
        *kept = Some(line);
        return Ok(answer);
    }
    let mut line = host.connect().await?;
    let answer = line.ask(method, uri, body).await?;
    *kept = Some(line);
    Ok(answer)
}

/// Polls until the end.
pub(super) async fn poll(host: Arc<Host>, counts: Arc<Counts>, end: CancellationToken) {
    let (mut kept, mut after) = (None, 0);
    loop {
        let uri = format!("/agent/v1/bundle?after={after}&wait={WAIT}");
        let asking = ask(&host, &mut kept, Method::GET, &uri, Bytes::new());
        let asking = tokio::time::timeout(Duration::from_secs(WAIT) + GRACE, asking);
        let answer = tokio::select! {
            answer = asking => answer,
            () = end.cancelled() => return,
        };
        let failed = match answer {
            Ok(Ok((StatusCode::NO_CONTENT, _))) => None,
            Ok(Ok((StatusCode::OK, body))) => match generation(&body) {
                Ok(generation) => {
                    after = generation;
                    None
                }
                Err(error) => Some(format!("{error:#}")),
            },
            Ok(Ok((status, _))) => Some(status.to_string()),
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("no answer".to_owned()),
        };
        counts.polls.fetch_add(1, Ordering::Relaxed);
        if let Some(failed) = failed {
            let mut polls = counts.failed_polls.lock().unwrap_or_else(PoisonError::into_inner);
            polls.push(format!("{}: {failed}", host.name));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn generation(envelope: &[u8]) -> Result<u64> {
    let envelope = Envelope::parse(envelope, decnet_wire::limits::BUNDLE_ENVELOPE)?;
    let bundle: Value = serde_json::from_slice(envelope.unverified_payload())?;
    bundle["generation"]
        .as_u64()
        .context("a bundle without a generation")
}

/// Reports until the end, first after `share`.
pub(super) async fn report(host: Arc<Host>, counts: Arc<Counts>, end: CancellationToken, share: Duration) {
    let (mut kept, mut count) = (None, 0_u64);
    let mut due = tokio::time::Instant::now() + share;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = end.cancelled() => return,
        }
        due += HEARTBEAT;
        count += 1;
        if count.is_multiple_of(RECONNECT) {
            kept = None;
        }
        let begun = Instant::now();
        let asking = async {
            let body = Bytes::from(serde_json::to_vec(&heartbeat()?)?);
            let (status, answer) = ask(&host, &mut kept, Method::POST, "/agent/v1/report", body).await?;
            ensure!(
                status.is_success(),
                "{status}: {}",
                String::from_utf8_lossy(&answer)
            );
            Ok::<_, anyhow::Error>(())
        };
        let missed = match tokio::time::timeout(ANSWER, asking).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("no answer in {ANSWER:?}")),
        };
        counts.heartbeats.fetch_add(1, Ordering::Relaxed);
        let taken = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        counts.slowest_ms.fetch_max(taken, Ordering::Relaxed);
        if let Some(missed) = missed {
            kept = None;
            let mut all = counts.missed.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(format!("{}: {missed}", host.name));
        }
    }
}

fn heartbeat() -> Result<decnet_wire::report::Report> {
    let sent_at = decnet_wire::ids::Timestamp::new(time::OffsetDateTime::now_utc());
    let report = json!({
        "schema": 1,
        "heartbeat": { "agent_version": "0.0.0", "sent_at": sent_at, "converged": false },
        "events": [],
    });
    Ok(serde_json::from_value(report)?)
}
