//! Hosts that are ordered to leave the fleet: told so, forgotten, and gone when they say so themselves.

use std::fs::File;

use decnet::audit::Action;
use decnet::backup::restore;
use decnet::control::ControlError;
use decnet::control::audit::AuditFilter;
use decnet::control::enrol::TOKEN_LIFETIME;
use decnet::control::hosts::HostState;
use decnet::init;
use decnet::keys::{OPERATOR, signing_key};
use decnet::records::{Cause, RowStatus};
use decnet_pki::csr;
use decnet_pki::envelope::Envelope;
use decnet_pki::key::{HostKey, SigningKey};
use decnet_pki::order::{SignedDecommission, sign_tombstone};
use decnet_wire::bundle::OperationKind;
use decnet_wire::enrol::RejoinRequest;
use decnet_wire::ids::{Digest, HostId};
use decnet_wire::order::{
    DECOMMISSION_TYPE, Decommission, Nonce, Order, SCHEMA, Tombstone, TombstoneRequest,
};
use decnet_wire::trust::{PAYLOAD_TYPE, TrustRoot};
use tokio_util::sync::CancellationToken;

use crate::certificates::{renewal, revoked, serial};
use crate::scene::{Host, Master, TWO, invitation, names, operator, parts, request, stranger};

/// A fleet of one host with two deckies, which run.
struct Scene {
    master: Master,
    host: Host,
    key: HostKey,
    certificate: String,
}

impl Scene {
    fn new() -> Self {
        let master = Master::new();
        let (key, invited) = (
            HostKey::generate().unwrap(),
            master.control.invite(&operator(), &invitation("w")).unwrap(),
        );
        let enrolled = master
            .control
            .enrol(&stranger(), &request(&invited.token, &key))
            .unwrap()
            .unwrap();
        let mut host = Host {
            id: invited.host,
            seq: 0,
            converged: true,
            pending: Vec::new(),
            update: None,
        };
        master.control.publish_due().unwrap();
        master.deploy(TWO, false).unwrap();
        host.obey(&master);
        Self {
            master,
            host,
            key,
            certificate: enrolled.certificate,
        }
    }

    fn operator(&self) -> SigningKey {
        let keys = init::keys_path(&self.master.folder.path().join("master"));
        signing_key(&keys.join(OPERATOR)).unwrap()
    }

    fn order_for(&self, host: HostId, nonce: u8, signer: &SigningKey) -> Vec<u8> {
        let order = Decommission {
            schema: SCHEMA,
            fleet: self.master.control.fleet_id(),
            host,
            nonce: Nonce::from_random([nonce; 16]),
            issued_at: *self.master.now.lock().unwrap(),
        };
        let payload = serde_json::to_vec(&order).unwrap();
        Envelope::sign(DECOMMISSION_TYPE, payload, &[signer]).to_json()
    }

    fn order(&self, nonce: u8) -> Vec<u8> {
        self.order_for(self.host.id, nonce, &self.operator())
    }

    fn decommission(&self, nonce: u8, force: bool) -> decnet::control::decommission::Begun {
        let begun = self
            .master
            .control
            .decommission(&operator(), self.host.id, &self.order(nonce), force)
            .unwrap();
        self.master.control.publish_due().unwrap();
        begun
    }

    /// Another operator in the place of the one that there is; gives his key.
    fn new_operator(&self) -> SigningKey {
        let (old, new) = (self.operator(), SigningKey::generate().unwrap());
        let keys = self.master.control.keys();
        let mut root: TrustRoot = serde_json::from_slice(keys.root.envelope().unverified_payload()).unwrap();
        root.version += 1;
        root.operator_keys = vec![new.public().to_string()];
        let payload = serde_json::to_vec(&root).unwrap();
        let envelope = Envelope::sign(PAYLOAD_TYPE, payload, &[&old, &new]).to_json();
        self.master.control.follow_root(&operator(), &envelope).unwrap();
        new
    }

    /// Decommissions it with an order that this operator has signed.
    fn order_by(&self, nonce: u8, signer: &SigningKey) -> decnet::control::decommission::Begun {
        let order = self.order_for(self.host.id, nonce, signer);
        let control = &self.master.control;
        let begun = control.decommission(&operator(), self.host.id, &order, false);
        control.publish_due().unwrap();
        begun.unwrap()
    }

    /// Has the host ask for a certificate for a new key; it is not used yet.
    fn renewed(&self) -> HostKey {
        let key = HostKey::generate().unwrap();
        let control = &self.master.control;
        control.renew(&stranger(), self.host.id, &renewal(&key)).unwrap();
        key
    }

    fn digest(&self) -> Digest {
        Digest::from_sha256(*self.key.digest().sha256().as_bytes())
    }

    /// What the host says when nothing of it is left.
    fn tombstone(&self, nonce: u8, key: &HostKey) -> TombstoneRequest {
        let tombstone = Tombstone {
            schema: SCHEMA,
            fleet: self.master.control.fleet_id(),
            host: self.host.id,
            nonce: Nonce::from_random([nonce; 16]),
            order: Digest::from_sha256([1; 32]),
            finished_at: *self.master.now.lock().unwrap(),
            removed: vec!["package decnet-agent".to_owned()],
            left: Vec::new(),
        };
        TombstoneRequest {
            schema: SCHEMA,
            host: self.host.id,
            key: key.public().to_string(),
            tombstone: serde_json::from_slice(&sign_tombstone(&tombstone, key).unwrap().to_json()).unwrap(),
        }
    }

    fn bury(&self, nonce: u8) {
        let request = self.tombstone(nonce, &self.key);
        self.master.control.bury(&stranger(), &request).unwrap();
    }

    fn state(&self) -> Option<HostState> {
        let hosts = self.master.control.hosts().unwrap();
        let mut hosts = hosts.into_iter();
        hosts
            .find(|view| view.host.id == self.host.id)
            .map(|view| view.state)
    }

    /// What the host is answered when it speaks.
    fn authorized(&self) -> Result<(), ControlError> {
        let answer = self.master.control.authorize(self.host.id, &self.digest(), None);
        answer.map(drop)
    }

    fn is_told_to_leave(&self, answer: Result<(), ControlError>) {
        let Err(ControlError::Leave(order)) = answer else {
            panic!("{answer:?}");
        };
        let root = &self.master.control.keys().root;
        SignedDecommission::admit(order.as_bytes(), root, self.host.id).unwrap();
    }

    fn rejoins(&self, key: &HostKey) -> Result<(), ControlError> {
        let request = RejoinRequest {
            schema: 1,
            host: self.host.id,
            csr: csr::create(key).unwrap(),
        };
        self.master.control.rejoin(&stranger(), &request).map(drop)
    }

    fn deckies(&self) -> usize {
        self.master.control.deckies().unwrap().len()
    }

    fn audited(&self, action: Action) -> usize {
        let filter = AuditFilter {
            action: Some(action.as_str().to_owned()),
            limit: usize::MAX,
            ..AuditFilter::default()
        };
        self.master.control.audit(&filter).unwrap().entries.len()
    }
}

#[test]
fn an_ordered_host_gets_the_order_and_nothing_else_and_is_gone_with_its_tombstone() {
    let scene = Scene::new();
    let begun = scene.decommission(1, false);
    assert_eq!(scene.state(), Some(HostState::Decommissioning));
    assert!(!begun.departure.forced && begun.operations.len() == 2);

    let bundle = scene.host.bundle(&scene.master);
    assert!(bundle.stacks.is_empty() && bundle.networks.is_empty() && bundle.blobs.is_empty());
    let Some(Order::Decommission(order)) = bundle.order else {
        panic!("{:?}", bundle.order);
    };
    let root = &scene.master.control.keys().root;
    SignedDecommission::admit(order.to_string().as_bytes(), root, scene.host.id).unwrap();
    // It is still believed: it has to fetch that.
    scene.authorized().unwrap();
    for (_, id) in &begun.operations {
        let row = scene.master.row(*id);
        assert_eq!(
            (row.operation, row.status),
            (OperationKind::Teardown, RowStatus::Pending)
        );
    }
    // No decky comes where everything goes.
    let error = scene
        .master
        .deploy(&TWO.replace("[a]", "[c]").replace("[b]", "[d]"), false)
        .unwrap_err();
    assert!((400..500).contains(&error.status()), "{error}");
    // Nor does another host take its name.
    let error = scene
        .master
        .control
        .invite(&operator(), &invitation("w"))
        .unwrap_err();
    assert_eq!(error.status(), 409, "{error}");
    assert_eq!(revoked(&scene.master), [""; 0]);

    scene.bury(1);
    assert_eq!((scene.state(), scene.deckies()), (None, 0));
    assert_eq!(revoked(&scene.master), [serial(&scene.certificate)]);
    for (_, id) in &begun.operations {
        assert_eq!(scene.master.row(*id).status, RowStatus::Succeeded);
    }
    let departure = scene.master.control.departure(scene.host.id).unwrap();
    assert_eq!(departure.tombstone.unwrap().key, scene.key.public().to_string());
    scene.is_told_to_leave(scene.authorized());
    // Said again it changes nothing, and its name is free. It is not ordered once more.
    scene.bury(1);
    assert_eq!(scene.audited(Action::HostGone), 1);
    let control = &scene.master.control;
    let again = control.decommission(&operator(), scene.host.id, &scene.order(2), true);
    assert_eq!(again.unwrap_err().status(), 404);
    scene
        .master
        .control
        .invite(&operator(), &invitation("w"))
        .unwrap();
}

#[test]
fn a_forgotten_host_is_out_at_once_and_hears_nothing_but_the_order() {
    let scene = Scene::new();
    let cut = CancellationToken::new();
    scene.master.control.speaks(scene.host.id, cut.clone());
    assert_eq!(revoked(&scene.master), [""; 0]);
    let begun = scene.decommission(1, true);
    assert!(begun.departure.forced);
    assert_eq!((scene.state(), scene.deckies()), (None, 0));
    for (_, id) in &begun.operations {
        let row = scene.master.row(*id);
        assert_eq!(
            (row.status, row.cause),
            (RowStatus::Failed, Some(Cause::HostGone))
        );
    }
    scene.is_told_to_leave(scene.authorized());
    scene.is_told_to_leave(scene.rejoins(&scene.key));
    // Only who proves the key is told.
    let other = HostKey::generate().unwrap();
    let error = scene.rejoins(&other).unwrap_err();
    assert_eq!(error.status(), 403, "{error}");
    let wrong = Digest::from_sha256([9; 32]);
    let error = scene
        .master
        .control
        .authorize(scene.host.id, &wrong, None)
        .unwrap_err();
    assert_eq!(error.status(), 403, "{error}");
    assert_eq!(revoked(&scene.master), [serial(&scene.certificate)]);
    assert!(cut.is_cancelled(), "it goes on speaking");

    // It was not dead after all.
    scene.bury(1);
    let departure = scene.master.control.departure(scene.host.id).unwrap();
    assert!(departure.forced && departure.tombstone.is_some());
}

#[test]
fn a_host_that_does_not_answer_is_forgotten_by_a_second_order() {
    let scene = Scene::new();
    scene.decommission(1, false);
    // The same again goes on as it was ordered.
    assert_eq!(
        scene.decommission(2, false).departure.nonce,
        Nonce::from_random([1; 16])
    );
    assert_eq!(scene.audited(Action::HostDecommission), 1);
    let forgotten = scene.decommission(3, true).departure;
    assert_eq!(
        (forgotten.forced, forgotten.nonce),
        (true, Nonce::from_random([1; 16]))
    );
    assert_eq!(scene.state(), None);
    scene.is_told_to_leave(scene.authorized());
}

#[test]
fn an_order_that_the_operators_did_not_give_changes_nothing() {
    let scene = Scene::new();
    let online = &scene.master.control.keys().online;
    let other = HostId::new(uuid::Uuid::from_u128(5));
    for (order, status) in [
        (scene.order_for(scene.host.id, 1, online), 422),
        (scene.order_for(other, 1, &scene.operator()), 422),
        (b"{}".to_vec(), 422),
    ] {
        let answer = scene
            .master
            .control
            .decommission(&operator(), scene.host.id, &order, true);
        assert_eq!(answer.unwrap_err().status(), status);
    }
    let unknown = scene.order_for(other, 1, &scene.operator());
    let answer = scene
        .master
        .control
        .decommission(&operator(), other, &unknown, true);
    assert_eq!(answer.unwrap_err().status(), 404);
    assert_eq!((scene.state(), scene.deckies()), (Some(HostState::Active), 2));
    assert_eq!(scene.master.control.departures().unwrap(), []);
}

#[test]
fn a_tombstone_counts_from_its_own_host_for_its_own_order() {
    let scene = Scene::new();
    let bury = |request: &TombstoneRequest| {
        let answer = scene.master.control.bury(&stranger(), request);
        answer.unwrap_err().status()
    };
    // Nobody asked for it.
    assert_eq!(bury(&scene.tombstone(1, &scene.key)), 404);
    scene.decommission(1, false);
    assert_eq!(bury(&scene.tombstone(2, &scene.key)), 422);
    assert_eq!(bury(&scene.tombstone(1, &HostKey::generate().unwrap())), 403);
    // Another key's signature under the host's own name.
    let forged = TombstoneRequest {
        key: scene.key.public().to_string(),
        ..scene.tombstone(1, &HostKey::generate().unwrap())
    };
    assert_eq!(bury(&forged), 422);
    let newer = TombstoneRequest {
        schema: 2,
        ..scene.tombstone(1, &scene.key)
    };
    assert_eq!(bury(&newer), 422);
    assert_eq!(scene.state(), Some(HostState::Decommissioning));
    // Of one source an alarm is told of once, and then now and then.
    assert_eq!(scene.audited(Action::AlarmTombstone), 1);
    scene.bury(1);
    assert_eq!(scene.state(), None);
}

#[test]
fn an_invited_host_that_never_came_is_simply_forgotten() {
    let scene = Scene::new();
    let invited = scene
        .master
        .control
        .invite(&operator(), &invitation("never"))
        .unwrap();
    let order = scene.order_for(invited.host, 1, &scene.operator());
    let begun = scene
        .master
        .control
        .decommission(&operator(), invited.host, &order, false)
        .unwrap();
    assert!(begun.departure.forced);
    assert!(scene.master.control.host(invited.host).is_err());
    assert!(TOKEN_LIFETIME > time::Duration::ZERO);
}

#[test]
fn what_was_ordered_outlives_a_restart_and_a_restore_of_before() {
    let mut scene = Scene::new();
    let backup = scene.master.folder.path().join("backup");
    let taken_at = scene.master.control.note_backup(&operator()).unwrap();
    let file = File::create(&backup).unwrap();
    scene.master.control.backup(taken_at, file).unwrap();

    scene.decommission(1, false);
    scene.master = scene.master.restart();
    assert_eq!(scene.state(), Some(HostState::Decommissioning));
    assert!(scene.host.bundle(&scene.master).order.is_some());

    let restored = |scene: Scene| {
        let now = *scene.master.now.lock().unwrap();
        let master = scene.master.restart_from(|folder| {
            restore(&backup, folder, &operator(), now).unwrap();
            parts(folder)
        });
        Scene { master, ..scene }
    };
    let scene = restored(scene);
    assert_eq!(scene.state(), Some(HostState::Decommissioning));
    scene.bury(1);
    let scene = restored(scene);
    assert_eq!((scene.state(), scene.deckies()), (None, 0));
    scene.is_told_to_leave(scene.authorized());
}

#[test]
fn a_teardown_removes_the_deckies_and_keeps_the_host() {
    let mut scene = Scene::new();
    let control = &scene.master.control;
    let only = "a".parse().unwrap();
    let one = control
        .tear_down_host(&operator(), scene.host.id, Some(&only))
        .unwrap();
    assert_eq!(one.len(), 1);
    // What is on its way is not begun anew.
    let all = control.tear_down_host(&operator(), scene.host.id, None).unwrap();
    assert!(all.len() == 2 && all.contains(&one[0]));
    control.publish_due().unwrap();
    let missing = "zzz".parse().unwrap();
    let error = control
        .tear_down_host(&operator(), scene.host.id, Some(&missing))
        .unwrap_err();
    assert_eq!(error.status(), 404);
    scene.host.obey(&scene.master);
    assert_eq!((scene.state(), scene.deckies()), (Some(HostState::Active), 0));
    for (_, id) in all {
        assert_eq!(scene.master.row(id).status, RowStatus::Succeeded);
    }
}

#[test]
fn a_key_that_the_host_has_asked_for_meanwhile_is_its_own() {
    // Ordered first: the tombstone is signed with the new one.
    let scene = Scene::new();
    scene.decommission(1, false);
    let newer = scene.renewed();
    let tombstone = scene.tombstone(1, &newer);
    scene.master.control.bury(&stranger(), &tombstone).unwrap();
    assert_eq!(scene.state(), None);

    // Asked for first: whoever comes with it is told to leave.
    let scene = Scene::new();
    let newer = scene.renewed();
    scene.decommission(1, true);
    scene.is_told_to_leave(scene.rejoins(&newer));
}

#[test]
fn a_host_that_is_revoked_before_it_has_left_is_told_to_leave() {
    let scene = Scene::new();
    scene.decommission(1, false);
    scene.master.control.revoke(&operator(), scene.host.id).unwrap();
    scene.is_told_to_leave(scene.authorized());
    scene.is_told_to_leave(scene.rejoins(&scene.key));
    scene.bury(1);
    assert_eq!(scene.state(), None);
}

#[test]
fn the_worker_inside_the_master_is_not_decommissioned() {
    let scene = Scene::new();
    let control = &scene.master.control;
    let name = "local".parse().unwrap();
    let local = control.invite_embedded(&name, "127.0.0.1:8771").unwrap().host;
    let order = scene.order_for(local, 1, &scene.operator());
    for force in [false, true] {
        let answer = control.decommission(&operator(), local, &order, force);
        assert_eq!(answer.unwrap_err().status(), 409);
    }
    assert!(control.host(local).is_ok());
}

#[test]
fn another_hosts_deckies_are_not_touched() {
    for force in [false, true] {
        let master = Master::new();
        let mut hosts = [Host::enrol(&master, "w"), Host::enrol(&master, "x")];
        master.deploy(TWO, false).unwrap();
        hosts.iter_mut().for_each(|host| host.obey(&master));
        let [leaving, other] = hosts;
        let scene = Scene {
            master,
            host: leaving,
            key: HostKey::generate().unwrap(),
            certificate: String::new(),
        };
        let before = other.bundle(&scene.master);
        assert_eq!(names(&before).len(), 1, "each has one of the two");
        let begun = scene.decommission(1, force);
        assert_eq!(begun.operations.len(), 1, "{begun:?}");
        assert_eq!(scene.deckies(), if force { 1 } else { 2 });
        assert_eq!(names(&other.bundle(&scene.master)), names(&before));
    }
}

#[test]
fn an_order_of_operators_who_were_replaced_is_given_anew() {
    for forced in [false, true] {
        let scene = Scene::new();
        scene.decommission(1, forced);
        let new = scene.new_operator();
        let departure = scene.order_by(2, &new).departure;
        assert_eq!(departure.nonce, Nonce::from_random([2; 16]));
        assert_eq!(departure.forced, forced, "it stays as it was begun");
        let keys = scene.master.control.keys();
        let stored = scene.master.control.departure(scene.host.id).unwrap();
        SignedDecommission::admit(stored.order.as_bytes(), &keys.root, scene.host.id).unwrap();
        if forced {
            scene.is_told_to_leave(scene.authorized());
        } else {
            let Some(Order::Decommission(order)) = scene.host.bundle(&scene.master).order else {
                panic!("its bundle has no order");
            };
            SignedDecommission::admit(order.to_string().as_bytes(), &keys.root, scene.host.id).unwrap();
        }
        scene.bury(2);
        assert_eq!(scene.state(), None);
    }
}
