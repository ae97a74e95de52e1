//! How many lifecycle transitions a master's store takes, and how long a report waits for its answer.
//!
//! One process: a master without listeners, and a thread for each host that says `running` and then `succeeded` of
//! each operation, one event a report, while the whole fleet is deployed again and again. Every report that has an event
//! is on the disk when it is answered.
//!
//! `HOSTS` (100), `DECKIES` (500) and `SECONDS` (20) say how large and how long.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use decnet::audit::Actor;
use decnet::control::deploy::DeployRequest;
use decnet::control::enrol::{HostNetworking, Invitation, TOKEN_LIFETIME};
use decnet::control::{Addresses, Control, DecoyImage, Limits, Parts, system_clock};
use decnet::fleet::catalogue::Catalogue;
use decnet::init::{self, InitArgs};
use decnet::keys::MasterKeys;
use decnet::store::{Db, RedbStore};
use decnet_pki::csr;
use decnet_pki::envelope::Envelope;
use decnet_pki::key::HostKey;
use decnet_wire::bundle::{self, Blob, BlobKind, Bundle};
use decnet_wire::enrol::{EnrolRequest, Token};
use decnet_wire::ids::{Digest, HostId, Timestamp};
use decnet_wire::limits;
use decnet_wire::report::{Accepted, Event, EventBody, Heartbeat, Outcome, Report};

fn main() -> Result<()> {
    let (hosts, deckies, seconds) = (
        number("HOSTS", 100)?,
        number("DECKIES", 500)?,
        number("SECONDS", 20)?,
    );
    let folder = tempfile::tempdir().context("no folder")?;
    let control = master(folder.path())?;
    let by = Actor::local(0);
    let ids = (0..hosts)
        .map(|n| enrol(&control, &by, n))
        .collect::<Result<Vec<HostId>>>()?;
    control.set_deployment_limit(&by, u16::try_from(deckies)?)?;
    let mut ini = "[general]\nnet=10.9.0.0/20\ngw=10.9.0.1\ninterface=lan0\n".to_owned();
    for n in 0..deckies {
        ini.push_str(&format!("[d{n}]\nservices=ssh\n"));
    }
    let request = DeployRequest::of_text(ini, true);

    let done = Arc::new(AtomicBool::new(false));
    let transitions = Arc::new(AtomicU64::new(0));
    let open = Arc::new(AtomicU64::new(0));
    let answers = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = ids
        .into_iter()
        .map(|host| {
            let (control, done, transitions) =
                (Arc::clone(&control), Arc::clone(&done), Arc::clone(&transitions));
            let (open, answers) = (Arc::clone(&open), Arc::clone(&answers));
            std::thread::spawn(move || -> Result<()> {
                let mut waited = Vec::new();
                let (mut generation, mut seq) = (0, 0);
                let mut newer = control.watch_bundle(host);
                while !done.load(Ordering::SeqCst) {
                    // As a long poll waits: without asking the store.
                    if *newer.borrow_and_update() <= generation {
                        std::thread::sleep(Duration::from_millis(2));
                        continue;
                    }
                    let Some(bundle) = next(&control, host, generation)? else {
                        continue;
                    };
                    generation = bundle.generation;
                    for outcome in [Outcome::Running, Outcome::Succeeded] {
                        for stack in &bundle.stacks {
                            let Some(operation) = stack.operation else {
                                continue;
                            };
                            seq += 1;
                            let body = EventBody::Operation {
                                id: operation.id,
                                decky: stack.decky.clone(),
                                kind: operation.kind,
                                outcome: outcome.clone(),
                            };
                            let report = report(&control, host, seq, body)?;
                            let asked = Instant::now();
                            let answer = control.ingest(host, &report)?;
                            waited.push(asked.elapsed());
                            ensure!(answer.acked == seq, "{} is not {seq}", answer.acked);
                            transitions.fetch_add(1, Ordering::SeqCst);
                            if outcome == Outcome::Succeeded {
                                open.fetch_sub(1, Ordering::SeqCst);
                            }
                        }
                    }
                }
                answers
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .extend(waited);
                Ok(())
            })
        })
        .collect();

    let began = Instant::now();
    let mut deploys = Vec::new();
    while began.elapsed() < Duration::from_secs(seconds) {
        let asked = Instant::now();
        open.fetch_add(deckies, Ordering::SeqCst);
        let rows = control.deploy(&by, &request)?.lifecycle_ids.len();
        transitions.fetch_add(rows as u64, Ordering::SeqCst);
        control.publish_due()?;
        deploys.push(asked.elapsed());
        while open.load(Ordering::SeqCst) > 0 && !threads.iter().any(std::thread::JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let took = began.elapsed();
    done.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a host panicked"))??;
    }
    let all = transitions.load(Ordering::SeqCst);
    let mut waited = std::mem::take(&mut *answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    waited.sort();
    deploys.sort();
    ensure!(!waited.is_empty(), "nobody reported");
    println!("{hosts} hosts, {deckies} deckies, {:.1} s", took.as_secs_f64());
    println!(
        "{:.0} transitions a minute",
        all as f64 / took.as_secs_f64() * 60.0
    );
    println!(
        "{:.0} reports a second, each on the disk",
        waited.len() as f64 / took.as_secs_f64()
    );
    for percent in [50, 90, 99] {
        println!(
            "p{percent} of a report's answer: {:?}",
            waited[(waited.len() - 1) * percent / 100]
        );
    }
    println!(
        "median of a deploy of {deckies} deckies with its bundles: {:?}",
        deploys[deploys.len() / 2]
    );
    Ok(())
}

fn number(name: &str, usual: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number")),
        Err(_) => Ok(usual),
    }
}

fn master(folder: &std::path::Path) -> Result<Arc<Control>> {
    let state_dir = folder.join("master");
    let args = InitArgs {
        state_dir: state_dir.clone(),
        advertise: vec!["m".to_owned()],
    };
    init::run(&args, Timestamp::new(time::OffsetDateTime::now_utc()))?;
    let digest = Digest::from_sha256([7; 32]);
    let reference = "decnet/decoy:bench".to_owned();
    let kind = BlobKind::ImageArchive {
        reference: reference.clone(),
        image_ids: vec![digest.clone()],
    };
    let parts = Parts {
        db: Db::new(RedbStore::open(&init::store_path(&state_dir))?),
        keys: MasterKeys::load(&init::keys_path(&state_dir))?,
        catalogue: Catalogue::load(&[]).map_err(|_| anyhow::anyhow!("no catalogue"))?,
        image: Some(DecoyImage {
            reference,
            blob: Blob {
                digest,
                size: 1,
                kind,
            },
        }),
        addresses: Addresses {
            agent_api: "m:8770".to_owned(),
            enrolment: "m:8771".to_owned(),
        },
        detect: || None,
        limits: Limits::default(),
        tracer: Default::default(),
    };
    Ok(Control::new(parts, system_clock())?)
}

fn enrol(control: &Control, by: &Actor, n: u64) -> Result<HostId> {
    let invited = control.invite(
        by,
        &Invitation {
            name: format!("host-{n}").parse()?,
            network: HostNetworking::default(),
            lan: None,
            lifetime: TOKEN_LIFETIME,
            notes: None,
            approve: false,
        },
    )?;
    let text = invited.token.strip_prefix("decnet1.").context("no token")?;
    let token: Token =
        serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text)?)?;
    let request = EnrolRequest {
        schema: 1,
        host: token.host,
        secret: token.secret,
        csr: csr::create(&HostKey::generate()?)?,
        agent_version: "bench".to_owned(),
    };
    control
        .enrol(&Actor::stranger(None), &request)?
        .context("the token was refused")?;
    Ok(invited.host)
}

fn next(control: &Control, host: HostId, after: u64) -> Result<Option<Bundle>> {
    let Some(sent) = control.envelope(host, after)? else {
        return Ok(None);
    };
    let envelope = Envelope::parse(sent.as_bytes(), limits::BUNDLE_ENVELOPE)?;
    let keys = [control.keys().online.public()];
    let verified = envelope.verify(bundle::PAYLOAD_TYPE, &keys, NonZeroUsize::MIN)?;
    Ok(Some(serde_json::from_slice(verified.bytes())?))
}

fn report(control: &Control, host: HostId, seq: u64, body: EventBody) -> Result<Report> {
    let record = control.bundle(host)?.context("no bundle")?;
    let at = Timestamp::new(time::OffsetDateTime::now_utc());
    Ok(Report {
        schema: 1,
        heartbeat: Heartbeat {
            agent_version: "bench".to_owned(),
            sent_at: at,
            accepted: Some(Accepted {
                epoch: record.epoch,
                generation: record.generation,
                digest: record.digest,
            }),
            converged: false,
            reason: None,
            engine: Some("20.10".to_owned()),
            pending: Vec::new(),
        },
        observed: None,
        events: vec![Event { seq, at, body }],
    })
}
