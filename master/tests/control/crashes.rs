//! The master dies before or after any of its commits. Who asked for something asks again, and the end is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use decnet::audit::Chain;
use decnet::control::audit::AuditFilter;
use decnet::control::deploy::DeployRequest;
use decnet::control::enrol::HostNetworking;
use decnet::control::hosts::DeckyState;
use decnet::control::rows::RowFilter;
use decnet::control::{Control, ControlError};
use decnet::init::{self, InitArgs};
use decnet::records::{Role, RowStatus};
use decnet::store::{Db, Decision, RedbStore, Store, StoreError, Transaction, View};
use decnet_pki::envelope::Envelope;
use decnet_pki::key::HostKey;
use decnet_wire::bundle::{self, Bundle, OperationKind};
use decnet_wire::ids::{DeckyName, HostId, OperationId, Timestamp};
use decnet_wire::limits;
use decnet_wire::observed::Observed;
use decnet_wire::report::{Accepted, Event, EventBody, Heartbeat, Outcome, Report};
use time::macros::datetime;

use crate::scene::{TWO, clock, container, invitation, lan0, operator, parts_over, request, stranger};

const THREE: &str = "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[a]\nservices=ssh\n[b]\nservices=http\n\
    [c]\nservices=redis\n";

/// When the master dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Nothing of this commit is kept.
    Before(u32),
    /// All of it is, and nobody hears of it.
    After(u32),
    Never,
}

#[derive(Debug)]
struct Fate {
    moment: Moment,
    commits: AtomicU32,
    dead: AtomicBool,
}

/// A store whose process ends at one of its commits: nothing can be read or written after that.
#[derive(Debug)]
struct Mortal {
    store: RedbStore,
    fate: Arc<Fate>,
}

impl Fate {
    fn die(&self) -> StoreError {
        self.dead.store(true, Ordering::SeqCst);
        StoreError::Access {
            action: "reach",
            source: redb::Error::Io(std::io::Error::other("the process is dead")),
        }
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

impl Store for Mortal {
    fn view(&self) -> Result<Box<dyn View + '_>, StoreError> {
        if self.fate.is_dead() {
            return Err(self.fate.die());
        }
        self.store.view()
    }

    fn transact(&self, work: &mut dyn FnMut(&mut dyn Transaction) -> Decision) -> Result<(), StoreError> {
        if self.fate.is_dead() {
            return Err(self.fate.die());
        }
        let number = self.fate.commits.fetch_add(1, Ordering::SeqCst) + 1;
        if self.fate.moment == Moment::Before(number) {
            return Err(self.fate.die());
        }
        self.store.transact(work)?;
        if self.fate.moment == Moment::After(number) {
            return Err(self.fate.die());
        }
        Ok(())
    }
}

/// An agent that obeys, and that keeps what it was given as a real one does.
#[derive(Debug)]
struct Agent {
    id: HostId,
    accepted: Option<Accepted>,
    bundle: Option<Bundle>,
    seq: u64,
    outbox: Vec<Event>,
    /// What it has told of each operation.
    told: BTreeMap<OperationId, Outcome>,
}

/// A master, started again whenever it died, and who speaks to it.
struct Life {
    control: Option<Arc<Control>>,
    fate: Arc<Fate>,
    now: Arc<Mutex<Timestamp>>,
    /// How long the machine has been up.
    uptime: Arc<Mutex<Duration>>,
    folder: tempfile::TempDir,
    deaths: u32,
}

impl Life {
    /// A master whose first commit after its first start is number 1.
    fn begin(init: &Path, moment: Moment) -> Self {
        let folder = tempfile::tempdir_in(quick()).unwrap();
        let state = folder.path().join("master");
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([init, &state])
            .status();
        assert!(copied.unwrap().success());
        let mut life = Self {
            control: None,
            fate: Arc::new(Fate {
                moment,
                commits: AtomicU32::new(0),
                dead: AtomicBool::new(false),
            }),
            now: Arc::new(Mutex::new(Timestamp::new(datetime!(2026-01-01 00:00 UTC)))),
            uptime: Arc::default(),
            folder,
            deaths: 0,
        };
        life.rise();
        life
    }

    /// The master starts. It may die of that, and is started again.
    fn rise(&mut self) {
        loop {
            if let Some(control) = self.control.take() {
                assert_eq!(Arc::strong_count(&control), 1);
            }
            let state = self.folder.path().join("master");
            let store = RedbStore::open(&init::store_path(&state)).unwrap();
            let db = Db::new(Mortal {
                store,
                fate: Arc::clone(&self.fate),
            });
            match Control::new(parts_over(&state, db), clock(&self.now, &self.uptime)) {
                Ok(control) => self.control = Some(control),
                Err(error) => assert!(self.fate.is_dead(), "the master does not start: {error}"),
            }
            if !self.fate.is_dead() {
                return;
            }
            self.bury();
        }
    }

    /// It dies once only.
    fn bury(&mut self) {
        self.deaths += 1;
        self.fate = Arc::new(Fate {
            moment: Moment::Never,
            commits: AtomicU32::new(self.fate.commits.load(Ordering::SeqCst)),
            dead: AtomicBool::new(false),
        });
    }

    /// Asks until there is an answer.
    fn ask<T>(&mut self, mut question: impl FnMut(&Control) -> Result<T, ControlError>) -> T {
        loop {
            let control = self.control.clone().unwrap();
            let answer = question(&control);
            drop(control);
            // What it said before it died was not heard.
            if self.fate.is_dead() {
                self.bury();
                self.rise();
                continue;
            }
            return answer.unwrap();
        }
    }

    fn pass(&self, time: Duration) {
        let mut now = self.now.lock().unwrap();
        *now = Timestamp::new(now.get() + time);
        *self.uptime.lock().unwrap() += time;
    }

    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    fn enrol(&mut self, name: &str) -> Agent {
        let key = HostKey::generate().unwrap();
        let invited = self.ask(|control| control.invite(&operator(), &invitation(name)));
        let request = request(&invited.token, &key);
        let welcome = self.ask(|control| control.enrol(&stranger(), &request)).unwrap();
        // The token is used up, and the same request is answered all the same.
        let again = self.ask(|control| control.enrol(&stranger(), &request)).unwrap();
        assert_eq!(welcome.certificate, again.certificate);
        Agent {
            id: invited.host,
            accepted: None,
            bundle: None,
            seq: 0,
            outbox: Vec::new(),
            told: BTreeMap::new(),
        }
    }

    fn deploy(&mut self, ini: &str) {
        let request = DeployRequest::of_text(ini, true);
        self.ask(|control| control.deploy(&operator(), &request));
    }
}

/// Where a commit costs no turn of a disk: what is tried here are its moments, not that disks keep what they are given.
fn quick() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    }
}

impl Agent {
    /// Takes the newest bundle as a real agent would: never an older one, never another one of the same number.
    fn pull(&mut self, life: &mut Life) {
        life.ask(Control::publish_due);
        let id = self.id;
        let (record, envelope) = life.ask(|control| Ok((control.bundle(id)?, control.envelope(id, 0)?)));
        let (Some(record), Some(envelope)) = (record, envelope) else {
            assert!(self.accepted.is_none(), "its bundle has gone");
            return;
        };
        if let Some(accepted) = &self.accepted {
            assert!(
                record.generation >= accepted.generation,
                "back to {}",
                record.generation
            );
            if record.generation == accepted.generation {
                assert_eq!(record.digest, accepted.digest, "two bundles of one number");
                return;
            }
        }
        let keys = life.ask(|control| Ok(control.keys().online.public()));
        let envelope = Envelope::parse(envelope.as_bytes(), limits::BUNDLE_ENVELOPE).unwrap();
        let verified = envelope
            .verify(bundle::PAYLOAD_TYPE, &[keys], NonZeroUsize::MIN)
            .unwrap();
        let bundle: Bundle = serde_json::from_slice(verified.bytes()).unwrap();
        if let Some(accepted) = &self.accepted
            && bundle.generation == accepted.generation + 1
        {
            assert_eq!(
                bundle.previous.as_ref(),
                Some(&accepted.digest),
                "another history"
            );
        }
        self.accepted = Some(Accepted {
            epoch: record.epoch,
            generation: record.generation,
            digest: record.digest,
        });
        self.bundle = Some(bundle);
    }

    fn say(
        &mut self,
        life: &Life,
        id: OperationId,
        decky: &DeckyName,
        kind: OperationKind,
        outcome: Outcome,
    ) {
        if self.told.get(&id) == Some(&outcome) {
            return;
        }
        self.told.insert(id, outcome.clone());
        self.seq += 1;
        self.outbox.push(Event {
            seq: self.seq,
            at: life.now(),
            body: EventBody::Operation {
                id,
                decky: decky.clone(),
                kind,
                outcome,
            },
        });
    }

    /// Does what its bundle asks for and tells of it, in two reports.
    fn obey(&mut self, life: &mut Life) {
        self.pull(life);
        let Some(bundle) = self.bundle.clone() else { return };
        let operations: Vec<_> = bundle
            .stacks
            .iter()
            .filter_map(|stack| Some((stack.decky.clone(), stack.operation?)))
            .collect();
        for (decky, operation) in &operations {
            if !self.told.contains_key(&operation.id) {
                self.say(life, operation.id, decky, operation.kind, Outcome::Running);
            }
        }
        self.report(life, None);
        for (decky, operation) in &operations {
            self.say(life, operation.id, decky, operation.kind, Outcome::Succeeded);
        }
        let containers = bundle.stacks.iter().flat_map(|stack| {
            let compose: serde_json::Value = stack.compose.parse().unwrap();
            let services: Vec<String> = compose["services"].as_object().unwrap().keys().cloned().collect();
            services
                .into_iter()
                .map(|service| container(stack.name.as_str(), &service))
                .collect::<Vec<_>>()
        });
        let observed = Observed {
            volumes: Vec::new(),
            containers: containers.collect(),
            interfaces: vec![lan0()],
            ..Observed::default()
        };
        self.report(life, Some(observed));
    }

    fn report(&mut self, life: &mut Life, observed: Option<Observed>) {
        let mut report = Report {
            schema: 1,
            heartbeat: Heartbeat {
                update: None,
                agent_version: "test".to_owned(),
                sent_at: life.now(),
                accepted: self.accepted.clone(),
                converged: true,
                reason: None,
                engine: Some("20.10".to_owned()),
                pending: Vec::new(),
            },
            observed: observed.map(Arc::new),
            events: self.outbox.clone(),
        };
        let id = self.id;
        let answer = life.ask(|control| control.ingest(id, &report));
        assert_eq!(answer.acked, self.seq, "what was sent is not acknowledged");
        self.outbox.clear();
        // Its answer got lost: the same again changes nothing.
        report.events.clear();
        let again = life.ask(|control| control.ingest(id, &report));
        assert_eq!(again.acked, self.seq);
    }
}

/// Everything that a master is asked for, and the sweep in between. Gives how often it committed.
fn live(init: &Path, moment: Moment) -> (u32, u32) {
    let mut life = Life::begin(init, moment);
    let mut agents = [life.enrol("east"), life.enrol("west")];
    let mut everybody = |life: &mut Life| {
        for _ in 0..3 {
            for agent in &mut agents {
                agent.obey(life);
            }
            life.ask(Control::flush_status);
            life.ask(|control| control.fail_overdue().map(drop));
            life.ask(Control::release_from_gone);
        }
        (agents[0].id, agents[1].id)
    };
    life.deploy(TWO);
    everybody(&mut life);
    let a: DeckyName = "a".parse().unwrap();
    life.pass(Duration::from_mins(1));
    life.ask(|control| control.mutate(&operator(), &a));
    life.deploy(THREE);
    let (east, _) = everybody(&mut life);
    let ipvlan = HostNetworking::new(true, None, None).unwrap();
    life.ask(|control| control.set_networking(&operator(), east, &ipvlan));
    everybody(&mut life);
    life.ask(|control| control.remove(&operator(), &a));
    everybody(&mut life);
    life.ask(
        |control| match control.create_token(&operator(), "ci", Role::Viewer, None) {
            // Made, and nobody heard its secret: it is made anew.
            Err(ControlError::Conflict(_)) => {
                control.revoke_token(&operator(), "ci")?;
                control.create_token(&operator(), "ci", Role::Viewer, None)
            }
            made => made,
        },
    );
    life.pass(Duration::from_mins(1));
    everybody(&mut life);
    the_end_is_the_same(&mut life, &agents, moment);
    (life.fate.commits.load(Ordering::SeqCst), life.deaths)
}

fn the_end_is_the_same(life: &mut Life, agents: &[Agent; 2], moment: Moment) {
    let deckies = life.ask(Control::deckies);
    let names: Vec<&str> = deckies
        .iter()
        .map(|view| view.record.decky.name.as_str())
        .collect();
    assert_eq!(names, ["b", "c"], "{moment:?}");
    assert!(
        deckies.iter().all(|view| view.state == DeckyState::Running),
        "{moment:?}: {deckies:#?}"
    );
    let addresses: BTreeSet<_> = deckies.iter().map(|view| view.record.decky.address).collect();
    assert_eq!(addresses.len(), deckies.len(), "{moment:?}: an address twice");

    let filter = RowFilter {
        limit: 1000,
        ..RowFilter::default()
    };
    let rows = life.ask(|control| control.list_rows(filter));
    assert!(
        rows.iter()
            .all(|row| matches!(row.status, RowStatus::Succeeded | RowStatus::Superseded)),
        "{moment:?}: {rows:#?}"
    );
    assert!(rows.iter().all(|row| row.late.is_none()), "{moment:?}: {rows:#?}");
    // What an agent said of an operation is what its row says, unless a newer one took its place.
    for agent in agents {
        for (id, outcome) in &agent.told {
            assert_eq!(*outcome, Outcome::Succeeded);
            let row = rows.iter().find(|row| row.id == *id).unwrap();
            assert!(row.status == RowStatus::Succeeded || row.status == RowStatus::Superseded);
        }
        let held: BTreeSet<&str> = agent.bundle.iter().flat_map(decky_names).collect();
        let own: BTreeSet<&str> = deckies
            .iter()
            .filter(|view| view.record.decky.host == agent.id)
            .map(|view| view.record.decky.name.as_str())
            .collect();
        assert_eq!(held, own, "{moment:?}");
    }

    let mut chain = Chain::new(None);
    let everything = AuditFilter {
        after: Some(0),
        limit: usize::MAX,
        ..AuditFilter::default()
    };
    let log = life.ask(|control| control.audit(&everything));
    log.entries
        .iter()
        .try_for_each(|entry| chain.follow(entry))
        .unwrap();
    chain.end().unwrap();
    let alarms = log.entries.iter().filter(|entry| {
        entry["action"]
            .as_str()
            .is_some_and(|action| action.starts_with("alarm"))
    });
    assert_eq!(alarms.count(), 0, "{moment:?}: {:#?}", log.entries);
}

fn decky_names(bundle: &Bundle) -> impl Iterator<Item = &str> {
    bundle.stacks.iter().map(|stack| stack.decky.as_str())
}

#[test]
fn a_master_that_dies_at_any_commit_comes_to_the_same_end() {
    let folder = tempfile::tempdir().unwrap();
    let init = folder.path().join("master");
    let args = InitArgs {
        state_dir: init.clone(),
        advertise: vec!["m".to_owned()],
    };
    init::run(&args, Timestamp::new(datetime!(2026-01-01 00:00 UTC))).unwrap();

    let (commits, deaths) = live(&init, Moment::Never);
    assert_eq!(deaths, 0);
    let next = AtomicU32::new(1);
    let die = || {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number > commits {
                return;
            }
            for moment in [Moment::Before(number), Moment::After(number)] {
                let (_, deaths) = live(&init, moment);
                assert_eq!(deaths, 1, "{moment:?} never came");
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(die);
        }
    });
    println!("died at {} moments of {commits} commits", 2 * commits);
}
