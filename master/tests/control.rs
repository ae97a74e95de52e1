//! The master without listeners and without agents: what a deploy, a report, a failure and a restart do to the
//! store. A test plays the host: it enrols, reads its bundles and reports.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};

use decnet::control::deploy::DeployRequest;
use decnet::control::enrol::{Invitation, TOKEN_LIFETIME};
use decnet::control::hosts::DeckyState;
use decnet::control::{Addresses, Clock, Control, ControlError, DecoyImage, Parts};
use decnet::fleet::catalogue::Catalogue;
use decnet::init::{self, InitArgs};
use decnet::keys::MasterKeys;
use decnet::records::{Row, RowStatus};
use decnet::store::{Db, RedbStore};
use decnet_pki::csr;
use decnet_pki::envelope::Envelope;
use decnet_pki::key::HostKey;
use decnet_wire::bundle::{self, Blob, BlobKind, Bundle, OperationKind};
use decnet_wire::enrol::{EnrolRequest, Token};
use decnet_wire::ids::{DeckyName, Digest, HostId, OperationId, Timestamp};
use decnet_wire::limits;
use decnet_wire::observed::{ContainerState, Interface, Observed, ObservedContainer};
use decnet_wire::report::{Accepted, Event, EventBody, Heartbeat, Outcome, Report};
use time::macros::datetime;

const TWO: &str =
    "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[a]\nservices=ssh\n[b]\nservices=http\n";

struct Master {
    control: Arc<Control>,
    now: Arc<Mutex<Timestamp>>,
    folder: tempfile::TempDir,
}

fn clock(now: &Arc<Mutex<Timestamp>>) -> Clock {
    let now = Arc::clone(now);
    Arc::new(move || *now.lock().unwrap())
}

fn open(folder: &Path, now: &Arc<Mutex<Timestamp>>) -> Arc<Control> {
    let digest = Digest::from_sha256([7; 32]);
    let reference = "decnet/decoy:test".to_owned();
    let kind = BlobKind::ImageArchive {
        reference: reference.clone(),
        image_ids: vec![digest.clone()],
    };
    let parts = Parts {
        db: Db::new(RedbStore::open(&init::store_path(folder)).unwrap()),
        keys: MasterKeys::load(&init::keys_path(folder)).unwrap(),
        catalogue: Catalogue::load(&[]).unwrap(),
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
    };
    Control::new(parts, clock(now)).unwrap()
}

impl Master {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now = Arc::new(Mutex::new(Timestamp::new(datetime!(2026-01-01 00:00 UTC))));
        let args = InitArgs {
            state_dir: folder.path().join("master"),
            advertise: vec!["m".to_owned()],
        };
        init::run(&args, *now.lock().unwrap()).unwrap();
        let control = open(&folder.path().join("master"), &now);
        Self { control, now, folder }
    }

    /// As after a `kill -9`: nothing is told to the old one.
    fn restart(self) -> Self {
        let Self { control, now, folder } = self;
        assert_eq!(Arc::strong_count(&control), 1);
        drop(control);
        let control = open(&folder.path().join("master"), &now);
        Self { control, now, folder }
    }

    fn pass(&self, time: time::Duration) {
        let mut now = self.now.lock().unwrap();
        *now = Timestamp::new(now.get() + time);
    }

    fn deploy(&self, ini: &str, replace: bool) -> Result<Vec<OperationId>, ControlError> {
        let request = DeployRequest {
            ini: ini.to_owned(),
            replace,
        };
        let ids = self.control.deploy(&request)?.lifecycle_ids;
        self.control.publish_due().unwrap();
        Ok(ids)
    }

    fn row(&self, id: OperationId) -> Row {
        self.control.rows(&[id]).unwrap().remove(0)
    }

    fn state(&self, name: &str) -> Option<DeckyState> {
        let deckies = self.control.deckies().unwrap();
        deckies
            .into_iter()
            .find(|view| view.record.decky.name.as_str() == name)
            .map(|view| view.state)
    }
}

/// A host that says what the test wants.
struct Host {
    id: HostId,
    seq: u64,
}

impl Host {
    fn enrol(master: &Master, name: &str) -> Self {
        let invitation = invitation(name);
        let invited = master.control.invite(&invitation).unwrap();
        master
            .control
            .enrol(&request(&invited.token, &HostKey::generate().unwrap()))
            .unwrap();
        master.control.publish_due().unwrap();
        Self {
            id: invited.host,
            seq: 0,
        }
    }

    fn bundle(&self, master: &Master) -> Bundle {
        let record = master.control.bundle(self.id).unwrap().unwrap();
        let envelope = Envelope::parse(record.envelope.as_bytes(), limits::BUNDLE_ENVELOPE).unwrap();
        let keys = [master.control.keys().online.public()];
        let verified = envelope
            .verify(bundle::PAYLOAD_TYPE, &keys, NonZeroUsize::MIN)
            .unwrap();
        serde_json::from_slice(verified.bytes()).unwrap()
    }

    fn report(&self, master: &Master, observed: Option<Observed>, events: Vec<Event>) -> u64 {
        let record = master.control.bundle(self.id).unwrap().unwrap();
        let accepted = Accepted {
            epoch: record.epoch,
            generation: record.generation,
            digest: record.digest,
        };
        let heartbeat = Heartbeat {
            agent_version: "test".to_owned(),
            sent_at: *master.now.lock().unwrap(),
            accepted: Some(accepted),
            converged: true,
            reason: None,
            engine: Some("20.10".to_owned()),
        };
        let report = Report {
            schema: 1,
            heartbeat,
            observed,
            events,
        };
        let answer = master.control.ingest(self.id, &report).unwrap();
        master.control.publish_due().unwrap();
        answer.acked
    }

    fn event(&mut self, master: &Master, row: &Row, outcome: Outcome) -> Event {
        self.seq += 1;
        let body = EventBody::Operation {
            id: row.id,
            decky: row.decky.clone(),
            kind: row.operation,
            outcome,
        };
        Event {
            seq: self.seq,
            at: *master.now.lock().unwrap(),
            body,
        }
    }

    fn say(&mut self, master: &Master, id: OperationId, outcome: Outcome) {
        let event = self.event(master, &master.row(id), outcome);
        let seq = event.seq;
        assert_eq!(self.report(master, None, vec![event]), seq);
    }

    /// Runs exactly what its bundle asks for, and says so.
    fn obey(&mut self, master: &Master) {
        let bundle = self.bundle(master);
        let mut containers = Vec::new();
        let mut events = Vec::new();
        for stack in &bundle.stacks {
            let services = stack.compose["services"].as_object().unwrap();
            for service in services.keys() {
                containers.push(ObservedContainer {
                    id: format!("{}-{service}", stack.name),
                    name: format!("{}-{service}-1", stack.name),
                    stack: stack.name.clone(),
                    service: service.clone(),
                    hash: String::new(),
                    image: String::new(),
                    state: ContainerState::Running,
                    restarts: 0,
                    joined: None,
                    attachments: Vec::new(),
                    expose: Vec::new(),
                });
            }
            if let Some(operation) = stack.operation
                && !master.row(operation.id).status.is_terminal()
            {
                events.push(self.event(master, &master.row(operation.id), Outcome::Succeeded));
            }
        }
        self.report(
            master,
            Some(Observed {
                containers,
                interfaces: vec![lan0()],
                ..Observed::default()
            }),
            events,
        );
    }
}

fn lan0() -> Interface {
    Interface {
        name: "lan0".parse().unwrap(),
        up: true,
        addresses: Vec::new(),
    }
}

fn invitation(name: &str) -> Invitation {
    Invitation {
        name: name.parse().unwrap(),
        ipvlan: false,
        interface: None,
        lan: None,
        lifetime: TOKEN_LIFETIME,
        notes: None,
    }
}

fn request(token: &str, key: &HostKey) -> EnrolRequest {
    use base64::Engine as _;
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(token.strip_prefix("decnet1.").unwrap())
        .unwrap();
    let token: Token = serde_json::from_slice(&json).unwrap();
    EnrolRequest {
        schema: 1,
        host: token.host,
        secret: token.secret,
        csr: csr::create(key).unwrap(),
        agent_version: "test".to_owned(),
    }
}

fn names(bundle: &Bundle) -> Vec<&str> {
    bundle.stacks.iter().map(|stack| stack.decky.as_str()).collect()
}

#[test]
fn a_deploy_commits_rows_and_the_next_generation_together() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    let before = host.bundle(&master);
    assert!(before.stacks.is_empty());
    let ids = master.deploy(TWO, false).unwrap();
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| master.row(*id).status == RowStatus::Pending));
    let after = host.bundle(&master);
    assert_eq!(after.generation, before.generation + 1);
    assert_eq!(after.previous, Some(Digest::from_sha256(sha(&before))));
    assert_eq!(names(&after), ["a", "b"]);
    let carried: Vec<OperationId> = after
        .stacks
        .iter()
        .filter_map(|stack| stack.operation)
        .map(|operation| operation.id)
        .collect();
    assert_eq!(carried.len(), 2);
    assert!(carried.iter().all(|id| ids.contains(id)));
}

fn sha(bundle: &Bundle) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(serde_json::to_vec(bundle).unwrap()).into()
}

#[test]
fn a_refused_description_changes_nothing() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    let before = host.bundle(&master);
    for bad in [
        TWO,
        "[c]\nservices=nonsense",
        "",
        "[c]\nservices=ssh\nip=10.9.1.1",
    ] {
        assert!(master.deploy(bad, false).is_err(), "{bad}");
    }
    assert_eq!(host.bundle(&master), before);
    assert_eq!(master.control.deckies().unwrap().len(), 2);
}

#[test]
fn a_deploy_without_any_host_is_refused_with_what_to_do() {
    let master = Master::new();
    let error = master.deploy(TWO, false).unwrap_err();
    assert_eq!(error.status(), 409);
    assert!(error.to_string().contains("host enroll"), "{error}");
}

#[test]
fn a_plan_draws_what_the_deploy_after_it_draws() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    host.obey(&master);
    let ini = "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[any]\namount=5\n";
    let request = DeployRequest {
        ini: ini.to_owned(),
        replace: false,
    };
    let planned = master.control.plan(&request).unwrap();
    assert_eq!(
        master.control.deckies().unwrap().len(),
        0,
        "a plan changes nothing"
    );
    let again = master.control.plan(&request).unwrap();
    assert_eq!(planned.hosts[0].plan, again.hosts[0].plan);
    master.deploy(ini, false).unwrap();
    let text = serde_json::to_string(&planned.hosts[0].plan).unwrap();
    for view in master.control.deckies().unwrap() {
        assert!(
            text.contains(view.record.decky.hostname.as_str()),
            "{:?}",
            view.record.decky.hostname
        );
    }
}

#[test]
fn a_report_that_comes_twice_counts_once() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    let ids = master.deploy(TWO, false).unwrap();
    let running = host.event(&master, &master.row(ids[0]), Outcome::Running);
    let done = host.event(&master, &master.row(ids[0]), Outcome::Succeeded);
    assert_eq!(host.report(&master, None, vec![running.clone(), done.clone()]), 2);
    let ended = master.row(ids[0]);
    assert_eq!(ended.status, RowStatus::Succeeded);
    master.pass(time::Duration::minutes(1));
    assert_eq!(host.report(&master, None, vec![running, done]), 2);
    assert_eq!(master.row(ids[0]), ended);
}

#[test]
fn a_host_cannot_end_another_hosts_operation() {
    let master = Master::new();
    let _owner = Host::enrol(&master, "a-host");
    let ids = master
        .deploy(
            "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[a]\nservices=ssh\n",
            false,
        )
        .unwrap();
    let mut thief = Host::enrol(&master, "b-host");
    thief.say(&master, ids[0], Outcome::Succeeded);
    assert_eq!(master.row(ids[0]).status, RowStatus::Pending);
}

#[test]
fn a_mutation_keeps_address_mac_and_base_and_a_failed_one_is_undone() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    let name: DeckyName = "a".parse().unwrap();
    let find = |master: &Master| {
        let deckies = master.control.deckies().unwrap();
        deckies
            .into_iter()
            .find(|view| view.record.decky.name == name)
            .unwrap()
            .record
            .decky
    };
    let base = |bundle: &Bundle| bundle.stacks[0].compose["services"]["base"].clone();
    let (before, base_before) = (find(&master), base(&host.bundle(&master)));
    let id = master.control.mutate(&name).unwrap();
    master.control.publish_due().unwrap();
    let after = find(&master);
    assert_eq!(master.row(id).operation, OperationKind::Mutate);
    assert_ne!(after.services, before.services);
    assert_eq!((after.address, after.mac), (before.address, before.mac));
    assert_eq!(base(&host.bundle(&master)), base_before);

    host.say(
        &master,
        id,
        Outcome::Failed {
            error: "ssh exited".to_owned(),
        },
    );
    assert_eq!(master.row(id).status, RowStatus::Failed);
    assert_eq!(
        find(&master).services,
        before.services,
        "the fleet says what runs"
    );
    assert_eq!(host.bundle(&master).stacks[0].operation, None);
}

#[test]
fn a_newer_operation_supersedes_the_open_one() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    let ids = master.deploy(TWO, false).unwrap();
    let name: DeckyName = master.row(ids[0]).decky;
    let newer = master.control.mutate(&name).unwrap();
    assert_eq!(master.row(ids[0]).status, RowStatus::Superseded);
    assert_eq!(master.row(newer).status, RowStatus::Pending);
    host.say(&master, ids[0], Outcome::Succeeded);
    assert_eq!(master.row(ids[0]).status, RowStatus::Superseded);
    assert_eq!(master.row(ids[0]).late, Some(Outcome::Succeeded));
    assert_eq!(
        master.row(newer).status,
        RowStatus::Pending,
        "the older outcome closes the older row only"
    );
}

#[test]
fn a_removed_decky_goes_when_its_host_says_so() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    let name: DeckyName = "a".parse().unwrap();
    let id = master.control.remove(&name).unwrap();
    assert_eq!(
        master.control.remove(&name).unwrap(),
        id,
        "asking twice is one operation"
    );
    master.control.publish_due().unwrap();
    assert_eq!(master.state("a"), Some(DeckyState::TearingDown));
    let stack = &host.bundle(&master).stacks[0];
    assert_eq!(stack.compose["services"].as_object().unwrap().len(), 0);
    assert!(
        master.deploy("[a]\nservices=ssh", false).is_err(),
        "the name is taken until then"
    );
    host.obey(&master);
    assert_eq!(master.state("a"), None);
    assert_eq!(master.row(id).status, RowStatus::Succeeded);
    assert_eq!(names(&host.bundle(&master)), ["b"]);
}

#[test]
fn replacing_keeps_what_stays_and_removes_what_is_gone() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    let kept = host.bundle(&master).stacks[1].compose.clone();
    let ids = master.deploy(
        "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[b]\nservices=http\n[c]\nservices=redis\n",
        true,
    );
    assert_eq!(ids.unwrap().len(), 3, "two deploys and one removal");
    let bundle = host.bundle(&master);
    assert_eq!(names(&bundle), ["a", "b", "c"]);
    assert_eq!(
        bundle.stacks[1].compose, kept,
        "an unchanged decky compiles to the same document"
    );
    host.obey(&master);
    assert_eq!(names(&host.bundle(&master)), ["b", "c"]);
}

#[test]
fn hosts_share_the_fleet_and_one_pool_of_addresses() {
    let master = Master::new();
    let (one, two) = (Host::enrol(&master, "one"), Host::enrol(&master, "two"));
    let ini = "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[d]\namount=6\nservices=ssh\n";
    master.deploy(ini, false).unwrap();
    let (first, second) = (one.bundle(&master), two.bundle(&master));
    assert_eq!((first.stacks.len(), second.stacks.len()), (3, 3));
    let mut addresses: Vec<_> = master
        .control
        .deckies()
        .unwrap()
        .iter()
        .map(|view| view.record.decky.address)
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 6);
    assert_ne!(first.networks[0].name, second.networks[0].name);
}

#[test]
fn rows_past_their_deadline_fail_with_what_is_known() {
    let master = Master::new();
    let _silent = Host::enrol(&master, "h");
    let ids = master.deploy(TWO, false).unwrap();
    master.pass(time::Duration::minutes(14));
    assert_eq!(master.control.fail_overdue().unwrap(), 0);
    master.pass(time::Duration::minutes(2));
    assert_eq!(master.control.fail_overdue().unwrap(), 2);
    let row = master.row(ids[0]);
    assert_eq!(row.status, RowStatus::Failed);
    assert!(
        row.error.unwrap().contains("never heard of"),
        "the reason names the host's silence"
    );
}

#[test]
fn everything_is_there_after_a_restart() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    let ids = master.deploy(TWO, false).unwrap();
    host.say(&master, ids[0], Outcome::Succeeded);
    let (bundle, rows) = (host.bundle(&master), master.control.rows(&ids).unwrap());
    let master = master.restart();
    assert_eq!(host.bundle(&master), bundle);
    assert_eq!(master.control.rows(&ids).unwrap(), rows);
    host.say(&master, ids[1], Outcome::Succeeded);
    assert_eq!(master.row(ids[1]).status, RowStatus::Succeeded);
}

#[test]
fn a_bundle_is_renewed_before_it_expires_and_says_the_same() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    let before = host.bundle(&master);
    master.pass(time::Duration::hours(13));
    master.control.republish_outdated().unwrap();
    master.control.publish_due().unwrap();
    let after = host.bundle(&master);
    assert_eq!(after.generation, before.generation + 1);
    assert!(after.expires_at > before.expires_at);
    assert_eq!((after.stacks, after.networks), (before.stacks, before.networks));
}

#[test]
fn a_token_buys_one_certificate_for_one_key() {
    let master = Master::new();
    let invited = master.control.invite(&invitation("h")).unwrap();
    let (key, thief) = (HostKey::generate().unwrap(), HostKey::generate().unwrap());
    let wrong = EnrolRequest {
        secret: decnet_pki::secret::Secret::generate()
            .unwrap()
            .reveal()
            .to_string(),
        ..request(&invited.token, &thief)
    };
    assert_eq!(master.control.enrol(&wrong).unwrap_err().status(), 403);
    let first = master.control.enrol(&request(&invited.token, &key)).unwrap();
    let again = master.control.enrol(&request(&invited.token, &key)).unwrap();
    assert_eq!(
        first.certificate, again.certificate,
        "a lost answer costs a retry and nothing else"
    );
    assert_eq!(
        master
            .control
            .enrol(&request(&invited.token, &thief))
            .unwrap_err()
            .status(),
        403
    );
    assert_eq!(master.control.invite(&invitation("h")).unwrap_err().status(), 409);
}

#[test]
fn an_expired_token_is_worth_nothing() {
    let master = Master::new();
    let invited = master.control.invite(&invitation("h")).unwrap();
    master.pass(TOKEN_LIFETIME + time::Duration::seconds(1));
    let key = HostKey::generate().unwrap();
    assert_eq!(
        master
            .control
            .enrol(&request(&invited.token, &key))
            .unwrap_err()
            .status(),
        403
    );
    let fresh = master.control.invite(&invitation("h")).unwrap();
    assert_eq!(
        fresh.host, invited.host,
        "a name whose token was never used may be invited again"
    );
    assert!(
        master.control.enrol(&request(&invited.token, &key)).is_err(),
        "the old token stays worthless"
    );
    assert!(master.control.enrol(&request(&fresh.token, &key)).is_ok());
}
