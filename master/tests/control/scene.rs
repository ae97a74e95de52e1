//! A master without listeners, its clock, and a host that says what the test wants.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use decnet::audit::Actor;
use decnet::control::deploy::DeployRequest;
use decnet::control::enrol::{HostNetworking, Invitation, TOKEN_LIFETIME};
use decnet::control::hosts::DeckyState;
use decnet::control::{Addresses, Clock, Control, ControlError, DecoyImage, Limits, Parts};
use decnet::fleet::catalogue::Catalogue;
use decnet::fleet::model::Lan;
use decnet::init::{self, InitArgs};
use decnet::keys::MasterKeys;
use decnet::records::Row;
use decnet::store::{Db, RedbStore};
use decnet_pki::csr;
use decnet_pki::envelope::Envelope;
use decnet_pki::key::HostKey;
use decnet_wire::bundle::{self, Blob, BlobKind, Bundle};
use decnet_wire::enrol::{EnrolRequest, Token};
use decnet_wire::ids::{Digest, HostId, OperationId, Timestamp};
use decnet_wire::limits;
use decnet_wire::observed::{ContainerState, Interface, Observed, ObservedContainer};
use decnet_wire::release::Progress;
use decnet_wire::report::{
    Accepted, Event, EventBody, Heartbeat, Outcome, PendingStack, Report, ReportAnswer,
};
use time::macros::datetime;

pub(crate) const TWO: &str =
    "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[a]\nservices=ssh\n[b]\nservices=http\n";

/// Who changes things in these tests.
pub(crate) fn operator() -> Actor {
    Actor::local(0)
}

/// Who comes with an enrolment token.
pub(crate) fn stranger() -> Actor {
    Actor::stranger(None)
}

pub(crate) struct Master {
    pub(crate) control: Arc<Control>,
    pub(crate) now: Arc<Mutex<Timestamp>>,
    /// What no setting of the clock changes.
    pub(crate) uptime: Arc<Mutex<Duration>>,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) fn clock(now: &Arc<Mutex<Timestamp>>, uptime: &Arc<Mutex<Duration>>) -> Clock {
    let (now, uptime) = (Arc::clone(now), Arc::clone(uptime));
    Clock::new(move || *now.lock().unwrap(), move || *uptime.lock().unwrap())
}

pub(crate) fn parts(folder: &Path) -> Parts {
    let store = RedbStore::open(&init::store_path(folder)).unwrap();
    parts_over(folder, Db::new(store))
}

/// With a store of one's own in place of the one in the folder.
pub(crate) fn parts_over(folder: &Path, db: Db) -> Parts {
    let digest = Digest::from_sha256([7; 32]);
    let reference = "decnet/decoy:test".to_owned();
    let kind = BlobKind::ImageArchive {
        reference: reference.clone(),
        image_ids: vec![digest.clone()],
    };
    Parts {
        db,
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
        blobs: folder.join("blobs"),
        detect: || None,
        limits: Limits::default(),
        tracer: decnet_trace::Tracer::off(),
    }
}

impl Master {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now = Arc::new(Mutex::new(Timestamp::new(datetime!(2026-01-01 00:00 UTC))));
        let args = InitArgs {
            state_dir: folder.path().join("master"),
            advertise: vec!["m".to_owned()],
        };
        init::run(&args, *now.lock().unwrap()).unwrap();
        let uptime = Arc::default();
        let control = Control::new(parts(&args.state_dir), clock(&now, &uptime)).unwrap();
        Self {
            control,
            now,
            uptime,
            folder,
        }
    }

    /// As after a `kill -9`: nothing is told to the old one.
    pub(crate) fn restart(self) -> Self {
        self.restart_from(parts)
    }

    /// The same, of whatever lies in its folder by then.
    pub(crate) fn restart_from(self, parts: impl FnOnce(&Path) -> Parts) -> Self {
        let Self {
            control,
            now,
            uptime,
            folder,
        } = self;
        assert_eq!(Arc::strong_count(&control), 1);
        drop(control);
        let control = Control::new(parts(&folder.path().join("master")), clock(&now, &uptime)).unwrap();
        Self {
            control,
            now,
            uptime,
            folder,
        }
    }

    /// The same with another catalogue.
    pub(crate) fn restart_with(self, catalogue: Catalogue) -> Self {
        self.restart_from(|folder| Parts {
            catalogue,
            ..parts(folder)
        })
    }

    pub(crate) fn pass(&self, time: time::Duration) {
        self.set_clock(time);
        *self.uptime.lock().unwrap() += Duration::try_from(time).unwrap_or_default();
    }

    /// Somebody sets the clock.
    pub(crate) fn set_clock(&self, time: time::Duration) {
        let mut now = self.now.lock().unwrap();
        *now = Timestamp::new(now.get() + time);
    }

    pub(crate) fn deploy(&self, ini: &str, replace: bool) -> Result<Vec<OperationId>, ControlError> {
        let request = DeployRequest::of_text(ini, replace);
        let ids = self.control.deploy(&operator(), &request)?.lifecycle_ids;
        self.control.publish_due().unwrap();
        Ok(ids)
    }

    pub(crate) fn row(&self, id: OperationId) -> Row {
        self.control.rows(&[id]).unwrap().remove(0)
    }

    pub(crate) fn state(&self, name: &str) -> Option<DeckyState> {
        let deckies = self.control.deckies().unwrap();
        deckies
            .into_iter()
            .find(|view| view.record.decky.name.as_str() == name)
            .map(|view| view.state)
    }
}

/// A host that says what the test wants.
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) seq: u64,
    pub(crate) converged: bool,
    /// What its heartbeats say is not as asked.
    pub(crate) pending: Vec<PendingStack>,
    /// What its heartbeats say of a release.
    pub(crate) update: Option<Progress>,
}

impl Host {
    pub(crate) fn enrol(master: &Master, name: &str) -> Self {
        let host = Self::enrol_quietly(master, name);
        master.control.publish_due().unwrap();
        host
    }

    /// On the LAN 10.9.`lan`.0/24.
    pub(crate) fn enrol_on(master: &Master, name: &str, lan: u8) -> Self {
        let lan = Lan {
            subnet: format!("10.9.{lan}.0/24").parse().unwrap(),
            gateway: Some(format!("10.9.{lan}.1").parse().unwrap()),
            interface: Some("lan0".parse().unwrap()),
        };
        let host = Self::invited(
            master,
            &Invitation {
                lan: Some(lan),
                ..invitation(name)
            },
        );
        master.control.publish_due().unwrap();
        host
    }

    /// Its first bundle is left to whoever publishes next.
    pub(crate) fn enrol_quietly(master: &Master, name: &str) -> Self {
        Self::invited(master, &invitation(name))
    }

    pub(crate) fn invited(master: &Master, invitation: &Invitation) -> Self {
        let invited = master.control.invite(&operator(), invitation).unwrap();
        master
            .control
            .enrol(
                &stranger(),
                &request(&invited.token, &HostKey::generate().unwrap()),
            )
            .unwrap()
            .unwrap();
        Self {
            id: invited.host,
            seq: 0,
            converged: true,
            pending: Vec::new(),
            update: None,
        }
    }

    pub(crate) fn bundle(&self, master: &Master) -> Bundle {
        let record = master.control.bundle(self.id).unwrap().unwrap();
        let sent = master
            .control
            .envelope(self.id, record.generation - 1)
            .unwrap()
            .unwrap();
        let envelope = Envelope::parse(sent.as_bytes(), limits::BUNDLE_ENVELOPE).unwrap();
        let keys = [master.control.keys().online.public()];
        let verified = envelope
            .verify(bundle::PAYLOAD_TYPE, &keys, NonZeroUsize::MIN)
            .unwrap();
        serde_json::from_slice(verified.bytes()).unwrap()
    }

    pub(crate) fn report(&self, master: &Master, observed: Option<Observed>, events: Vec<Event>) -> u64 {
        let acked = self.try_report(master, observed, events).unwrap();
        master.control.publish_due().unwrap();
        acked
    }

    pub(crate) fn try_report(
        &self,
        master: &Master,
        observed: Option<Observed>,
        events: Vec<Event>,
    ) -> Result<u64, ControlError> {
        let report = self.compose(master, observed, events);
        Ok(master.control.ingest(self.id, &report)?.acked)
    }

    /// Its word while it has accepted another generation than the newest, and is at work.
    pub(crate) fn report_under(&self, master: &Master, generation: u64, events: Vec<Event>) {
        let mut report = self.compose(master, None, events);
        report.heartbeat.accepted.as_mut().unwrap().generation = generation;
        report.heartbeat.converged = false;
        master.control.ingest(self.id, &report).unwrap();
        master.control.publish_due().unwrap();
    }

    /// Its word under the generation that it says it accepted, whatever the master knows of it.
    pub(crate) fn report_accepted(
        &self,
        master: &Master,
        accepted: Option<Accepted>,
        observed: Option<Observed>,
        events: Vec<Event>,
    ) -> ReportAnswer {
        let report = Report {
            schema: 1,
            heartbeat: Heartbeat {
                update: None,
                agent_version: "test".to_owned(),
                sent_at: *master.now.lock().unwrap(),
                accepted,
                converged: true,
                reason: None,
                engine: Some("20.10".to_owned()),
                pending: Vec::new(),
            },
            observed: observed.map(Arc::new),
            events,
        };
        let answer = master.control.ingest(self.id, &report).unwrap();
        master.control.publish_due().unwrap();
        answer
    }

    fn compose(&self, master: &Master, observed: Option<Observed>, events: Vec<Event>) -> Report {
        let record = master.control.bundle(self.id).unwrap().unwrap();
        let accepted = Accepted {
            epoch: record.epoch,
            generation: record.generation,
            digest: record.digest,
        };
        let heartbeat = Heartbeat {
            update: self.update.clone(),
            agent_version: "test".to_owned(),
            sent_at: *master.now.lock().unwrap(),
            accepted: Some(accepted),
            converged: self.converged,
            reason: None,
            engine: Some("20.10".to_owned()),
            pending: self.pending.clone(),
        };
        Report {
            schema: 1,
            heartbeat,
            observed: observed.map(Arc::new),
            events,
        }
    }

    pub(crate) fn event(&mut self, master: &Master, row: &Row, outcome: Outcome) -> Event {
        let body = EventBody::Operation {
            id: row.id,
            decky: row.decky.clone(),
            kind: row.operation,
            outcome,
        };
        self.says(master, body)
    }

    /// That a decky left its state.
    pub(crate) fn drift(&mut self, master: &Master, decky: &str, detail: &str) -> Event {
        let body = EventBody::Drift {
            decky: decky.parse().unwrap(),
            detail: detail.to_owned(),
        };
        self.says(master, body)
    }

    /// What it says next.
    fn says(&mut self, master: &Master, body: EventBody) -> Event {
        self.seq += 1;
        Event {
            seq: self.seq,
            at: *master.now.lock().unwrap(),
            body,
        }
    }

    pub(crate) fn say(&mut self, master: &Master, id: OperationId, outcome: Outcome) {
        let event = self.event(master, &master.row(id), outcome);
        let seq = event.seq;
        assert_eq!(self.report(master, None, vec![event]), seq);
    }

    /// Runs exactly what its bundle asks for, and says so.
    pub(crate) fn obey(&mut self, master: &Master) {
        let bundle = self.bundle(master);
        let mut containers = Vec::new();
        let mut events = Vec::new();
        for stack in &bundle.stacks {
            let compose = stack.compose.parse().unwrap();
            let services = compose["services"].as_object().unwrap();
            for service in services.keys() {
                containers.push(container(stack.name.as_str(), service));
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
                volumes: Vec::new(),
                containers,
                interfaces: vec![lan0()],
                ..Observed::default()
            }),
            events,
        );
    }
}

pub(crate) fn container(stack: &str, service: &str) -> ObservedContainer {
    ObservedContainer {
        refers: Vec::new(),
        spec: None,
        id: format!("{stack}-{service}"),
        name: format!("{stack}-{service}-1"),
        stack: stack.parse().unwrap(),
        service: service.to_owned(),
        hash: String::new(),
        image: String::new(),
        state: ContainerState::Running,
        restarts: 0,
        joined: None,
        lock: None,
        warnings: Vec::new(),
        attachments: Vec::new(),
        expose: Vec::new(),
        tuning: None,
    }
}

pub(crate) fn lan0() -> Interface {
    Interface::new("lan0".parse().unwrap())
}

pub(crate) fn invitation(name: &str) -> Invitation {
    Invitation {
        name: name.parse().unwrap(),
        network: HostNetworking::default(),
        lan: None,
        lifetime: TOKEN_LIFETIME,
        carried: false,
        notes: None,
        approve: false,
    }
}

pub(crate) fn request(token: &str, key: &HostKey) -> EnrolRequest {
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

pub(crate) fn names(bundle: &Bundle) -> Vec<&str> {
    bundle.stacks.iter().map(|stack| stack.decky.as_str()).collect()
}

pub(crate) fn sha(bundle: &Bundle) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(serde_json::to_vec(bundle).unwrap()).into()
}
