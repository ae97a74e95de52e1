//! How many lifecycle transitions a master takes, and how long a report waits for its answer.
//!
//! One process: a master without listeners, and a thread for each host that says `running` and then `succeeded` of
//! each operation, one event a report, while the whole fleet is deployed again and again. A report goes the way that it
//! goes through the agent API, but for TLS and HTTP: from JSON to JSON, with the host's key asked for. It is on the disk
//! when it is answered. While a deploy is made, one host reports all the time.
//!
//! Afterwards the store is opened anew and every row counted: each must have come to its end, with three transitions, and each
//! transition must have been an event.
//!
//! `HOSTS` (100), `FLEET` (500 deckies) and `LASTS` (20 seconds) say how large and how long. Each host reports again as
//! soon as it has its answer; with `RATE` they report evenly, so often that it makes so many transitions a minute while there
//! is something to report.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use decnet::audit::Actor;
use decnet::control::deploy::DeployRequest;
use decnet::control::enrol::{HostNetworking, Invitation, TOKEN_LIFETIME};
use decnet::control::events::Heard;
use decnet::control::events::topic::Filter;
use decnet::control::{Addresses, Control, DecoyImage, Limits, Parts, system_clock};
use decnet::fleet::catalogue::Catalogue;
use decnet::init::{self, InitArgs};
use decnet::keys::MasterKeys;
use decnet::records::{Row, RowStatus};
use decnet::store::{Db, Reader, RedbStore};
use decnet_pki::csr;
use decnet_pki::envelope::Envelope;
use decnet_pki::key::HostKey;
use decnet_tests::asked::asked;
use decnet_wire::bundle::{self, Blob, BlobKind, Bundle};
use decnet_wire::enrol::{EnrolRequest, Token};
use decnet_wire::ids::{DeckyName, Digest, HostId, Timestamp};
use decnet_wire::limits;
use decnet_wire::report::{Accepted, Event, EventBody, Heartbeat, Outcome, Report, ReportAnswer};

/// What is said while a deploy is made is said so often.
const MEANWHILE: Duration = Duration::from_millis(5);

fn main() -> Result<()> {
    let (hosts, deckies, seconds, rate) = (
        asked::<u64>("HOSTS", 100)?,
        asked::<u64>("FLEET", 500)?,
        asked::<u64>("LASTS", 20)?,
        asked::<u64>("RATE", 0)?,
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

    let bench = Arc::new(Bench {
        control: Arc::clone(&control),
        done: AtomicBool::new(false),
        deploying: AtomicBool::new(false),
        open: AtomicU64::new(0),
        heard: AtomicU64::new(0),
        // A deploy of so many is three transitions of each, and each host makes two of its own.
        pause: match rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs(60) * u32::try_from(hosts)? * 3 / 2 / u32::try_from(rate)?,
        },
    });
    let listener = listen(Arc::clone(&bench))?;
    let threads: Vec<_> = ids
        .into_iter()
        .enumerate()
        .map(|(n, id)| {
            let bench = Arc::clone(&bench);
            std::thread::spawn(move || {
                let turn = bench.pause * u32::try_from(n)? / u32::try_from(hosts)?;
                let mut host = Host::new(&bench, id, turn);
                host.run(n == 0)?;
                Ok::<_, anyhow::Error>((host.waited, host.meanwhile))
            })
        })
        .collect();

    let (began, cpu) = (Instant::now(), cpu_time()?);
    let mut deploys = Vec::new();
    while began.elapsed() < Duration::from_secs(seconds) {
        let asked = Instant::now();
        bench.open.fetch_add(deckies, Ordering::SeqCst);
        bench.deploying.store(true, Ordering::SeqCst);
        control.deploy(&by, &request)?;
        bench.deploying.store(false, Ordering::SeqCst);
        let deployed = asked.elapsed();
        control.publish_due()?;
        deploys.push((deployed, asked.elapsed()));
        while bench.open.load(Ordering::SeqCst) > 0
            && !threads.iter().any(std::thread::JoinHandle::is_finished)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let (took, cpu) = (began.elapsed(), cpu_time()?.saturating_sub(cpu));
    bench.done.store(true, Ordering::SeqCst);
    let (mut waited, mut meanwhile) = (Vec::new(), Vec::new());
    for thread in threads {
        let (all, during) = thread.join().map_err(|_| anyhow::anyhow!("a host panicked"))??;
        waited.extend(all);
        meanwhile.extend(during);
    }
    listener
        .join()
        .map_err(|_| anyhow::anyhow!("the listener panicked"))??;
    waited.sort();
    meanwhile.sort();
    let events = bench.heard.load(Ordering::SeqCst);
    drop((control, bench));
    let kept = kept(folder.path())?;
    ensure!(
        events == kept.transitions,
        "{events} events of {} transitions",
        kept.transitions
    );

    let a_minute = kept.transitions as f64 / took.as_secs_f64() * 60.0;
    println!(
        "{hosts} hosts, {deckies} deckies, {} deploys, {:.1} s",
        deploys.len(),
        took.as_secs_f64()
    );
    println!(
        "{a_minute:.0} transitions a minute: {} of {} rows, each on the disk and an event",
        kept.transitions, kept.rows
    );
    println!(
        "{:.0} µs of CPU a transition, hosts and listener included",
        cpu.as_secs_f64() * 1e6 / kept.transitions as f64
    );
    println!("{} reports answered: {}", waited.len(), percentiles(&waited)?);
    println!(
        "{} reports while a deploy was made: {}",
        meanwhile.len(),
        percentiles(&meanwhile)?
    );
    let mut committed: Vec<Duration> = deploys.iter().map(|(committed, _)| *committed).collect();
    let mut published: Vec<Duration> = deploys.iter().map(|(_, published)| *published).collect();
    committed.sort();
    published.sort();
    println!("deploys of {deckies} deckies: {}", percentiles(&committed)?);
    println!("until all bundles are published: {}", percentiles(&published)?);
    Ok(())
}

struct Bench {
    control: Arc<Control>,
    done: AtomicBool,
    deploying: AtomicBool,
    /// Rows that have not ended.
    open: AtomicU64,
    /// Transitions that were announced.
    heard: AtomicU64,
    /// Of a host between two reports.
    pause: Duration,
}

/// One host's agent.
struct Host<'a> {
    bench: &'a Bench,
    id: HostId,
    /// When it begins, so that not all report at once.
    turn: Duration,
    key: Option<Digest>,
    accepted: Option<Accepted>,
    /// One that it has.
    decky: Option<DeckyName>,
    seq: u64,
    /// How long each report waited for its answer.
    waited: Vec<Duration>,
    /// The same of those that came while a deploy was made.
    meanwhile: Vec<Duration>,
}

impl<'a> Host<'a> {
    fn new(bench: &'a Bench, id: HostId, turn: Duration) -> Self {
        Self {
            bench,
            id,
            turn,
            key: None,
            accepted: None,
            decky: None,
            seq: 0,
            waited: Vec::new(),
            meanwhile: Vec::new(),
        }
    }

    /// Says of each operation that it runs, and then that it succeeded. The one that `talks` reports while it waits.
    fn run(&mut self, talks: bool) -> Result<()> {
        let bench = self.bench;
        let mut newer = bench.control.watch_bundle(self.id);
        let mut generation = 0;
        while !bench.done.load(Ordering::SeqCst) {
            // As a long poll waits: without asking the store.
            if *newer.borrow_and_update() <= generation {
                std::thread::sleep(MEANWHILE);
                if talks
                    && let Some(decky) = self.decky.clone()
                    && bench.deploying.load(Ordering::SeqCst)
                {
                    let detail = "a service is not as it was".to_owned();
                    let waited = self.say(EventBody::Drift { decky, detail })?;
                    self.meanwhile.push(waited);
                }
                continue;
            }
            let Some(bundle) = self.next(generation)? else {
                continue;
            };
            generation = bundle.generation;
            std::thread::sleep(self.turn);
            for outcome in [Outcome::Running, Outcome::Succeeded] {
                for stack in &bundle.stacks {
                    let Some(operation) = stack.operation else {
                        continue;
                    };
                    let body = EventBody::Operation {
                        id: operation.id,
                        decky: stack.decky.clone(),
                        kind: operation.kind,
                        outcome: outcome.clone(),
                    };
                    let waited = self.say(body)?;
                    self.waited.push(waited);
                    if outcome == Outcome::Succeeded {
                        bench.open.fetch_sub(1, Ordering::SeqCst);
                    }
                    std::thread::sleep(bench.pause.saturating_sub(waited));
                }
            }
        }
        Ok(())
    }

    fn next(&mut self, after: u64) -> Result<Option<Bundle>> {
        let control = &self.bench.control;
        let Some(sent) = control.envelope(self.id, after)? else {
            return Ok(None);
        };
        let envelope = Envelope::parse(sent.as_bytes(), limits::BUNDLE_ENVELOPE)?;
        let keys = [control.keys().online.public()];
        let verified = envelope.verify(bundle::PAYLOAD_TYPE, &keys, NonZeroUsize::MIN)?;
        let bundle: Bundle = serde_json::from_slice(verified.bytes())?;
        self.key = Some(bundle.host_key.clone());
        self.decky = bundle.stacks.first().map(|stack| stack.decky.clone());
        self.accepted = Some(Accepted {
            epoch: bundle.epoch,
            generation: bundle.generation,
            digest: Digest::from_sha256(*envelope.digest().as_bytes()),
        });
        Ok(Some(bundle))
    }

    /// Reports one event. Gives out how long the answer took.
    fn say(&mut self, body: EventBody) -> Result<Duration> {
        self.seq += 1;
        let at = Timestamp::new(time::OffsetDateTime::now_utc());
        let report = Report {
            schema: 1,
            heartbeat: Heartbeat {
                update: None,
                agent_version: "bench".to_owned(),
                sent_at: at,
                accepted: self.accepted.clone(),
                converged: false,
                reason: None,
                engine: Some("20.10".to_owned()),
                pending: Vec::new(),
            },
            observed: None,
            events: vec![Event {
                seq: self.seq,
                at,
                body,
            }],
        };
        let sent = serde_json::to_vec(&report)?;
        let key = self.key.as_ref().context("it reports before it has a bundle")?;
        let asked = Instant::now();
        let answer = answer(&self.bench.control, self.id, key, &sent)?;
        let waited = asked.elapsed();
        let answer: ReportAnswer = serde_json::from_slice(&answer)?;
        ensure!(answer.acked == self.seq, "{} is not {}", answer.acked, self.seq);
        Ok(waited)
    }
}

/// As the agent API answers a report.
fn answer(control: &Control, host: HostId, key: &Digest, report: &[u8]) -> Result<Vec<u8>> {
    control.authorize(host, key, None)?;
    let report: Report = serde_json::from_slice(report)?;
    Ok(serde_json::to_vec(&control.ingest(host, &report)?)?)
}

/// Counts the transitions that are announced.
fn listen(bench: Arc<Bench>) -> Result<std::thread::JoinHandle<Result<()>>> {
    let mut reader = bench
        .control
        .events()
        .subscribe(Filter::new(["decky.*.lifecycle"])?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    Ok(std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                match tokio::time::timeout(Duration::from_millis(200), reader.next()).await {
                    Ok(Heard::Event(_)) => {
                        bench.heard.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(Heard::Gap(gap)) => anyhow::bail!("the listener missed events: {gap:?}"),
                    Err(_) if bench.done.load(Ordering::SeqCst) => return Ok(()),
                    Err(_) => {}
                }
            }
        })
    }))
}

/// What a store holds once it is opened anew.
struct Kept {
    rows: u64,
    transitions: u64,
}

fn kept(folder: &Path) -> Result<Kept> {
    let db = Db::new(RedbStore::open(&init::store_path(&folder.join("master")))?);
    let read = |r: &Reader<'_>| r.all();
    let rows: Vec<Row> = db.read(read)?;
    let ended = |row: &Row| row.status == RowStatus::Succeeded && row.transitions.len() == 3;
    let strange = rows.iter().find(|row| !ended(row));
    ensure!(strange.is_none(), "a row did not come to its end: {strange:?}");
    Ok(Kept {
        rows: rows.len() as u64,
        transitions: rows.iter().map(|row| row.transitions.len() as u64).sum(),
    })
}

/// User and system time of this process.
fn cpu_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // After the name in brackets: the 14th and 15th field are hundredths of a second (proc_pid_stat(5), sysconf(3)).
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|it| it.parse().unwrap_or(0)).sum();
    Ok(Duration::from_millis(ticks * 10))
}

fn percentiles(sorted: &[Duration]) -> Result<String> {
    let last = sorted.last().context("nothing was measured")?;
    let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    Ok(format!(
        "p50 {:.1?}, p90 {:.1?}, p99 {:.1?}, at most {last:.1?}",
        at(50),
        at(90),
        at(99)
    ))
}

fn master(folder: &Path) -> Result<Arc<Control>> {
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
        blobs: state_dir.join("blobs"),
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
            carried: false,
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
