//! Bundles: one content for each generation, whoever asks for them and however often.

use std::sync::{Arc, Mutex};

use decnet::control::Parts;
use decnet::control::deploy::DeployRequest;
use decnet::fleet::catalogue::Catalogue;
use decnet::records::BundleRecord;
use decnet::store::{Db, Decision, RedbStore, Store, StoreError, Transaction, View};
use decnet::{init, keys};
use decnet_pki::envelope::Envelope;
use decnet_pki::key::SigningKey;
use decnet_plan::desired::Desired;
use decnet_plan::policy::{self, Policy};
use decnet_wire::bundle::{Blob, BlobKind, Bundle};
use decnet_wire::ids::Digest;
use decnet_wire::policy::PAYLOAD_TYPE;

use crate::scene::{Host, Master, TWO, names, operator, parts, parts_over};

/// A store in which something happens just before the next transaction begins.
#[derive(Clone)]
struct Meanwhile {
    store: Arc<RedbStore>,
    event: Arc<Mutex<Option<Happening>>>,
}

type Happening = Box<dyn FnOnce() + Send>;

impl Meanwhile {
    fn happens(&self, event: impl FnOnce() + Send + 'static) {
        *self.event.lock().unwrap() = Some(Box::new(event));
    }

    fn has_happened(&self) -> bool {
        self.event.lock().unwrap().is_none()
    }
}

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Store for Meanwhile {
    fn view(&self) -> Result<Box<dyn View + '_>, StoreError> {
        self.store.view()
    }

    fn transact(&self, work: &mut dyn FnMut(&mut dyn Transaction) -> Decision) -> Result<(), StoreError> {
        let event = self.event.lock().unwrap().take();
        if let Some(event) = event {
            event();
        }
        self.store.transact(work)
    }
}

/// The same master, and what may happen between what it reads and what it writes.
fn interrupted(master: Master) -> (Master, Meanwhile) {
    let mut store = None;
    let master = master.restart_from(|folder| {
        let meanwhile = Meanwhile {
            store: Arc::new(RedbStore::open(&init::store_path(folder)).unwrap()),
            event: Arc::default(),
        };
        store = Some(meanwhile.clone());
        parts_over(folder, Db::new(meanwhile))
    });
    (master, store.unwrap())
}

#[test]
fn publishers_at_once_sign_a_generation_once() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    master.control.set_deployment_limit(&operator(), 50).unwrap();
    for round in 0..10 {
        let ini = TWO
            .replace("[a]", &format!("[a{round}]"))
            .replace("[b]", &format!("[b{round}]"));
        let request = DeployRequest::of_text(ini, false);
        master.control.deploy(&operator(), &request).unwrap();
        let sent: Vec<Option<String>> = std::thread::scope(|scope| {
            let publish = || {
                master.control.publish_due().unwrap();
                master.control.envelope(host.id, 0).unwrap()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(publish)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(sent.iter().all(|one| *one == sent[0]), "round {round}");
    }
}

/// Without a decoy image a deploy was committed, answered 202, and its rows ran into their deadline.
#[test]
fn a_deploy_that_cannot_be_compiled_is_refused_before_it_is_stored() {
    let master = Master::new();
    Host::enrol(&master, "h");
    let master = master.restart_from(|folder| Parts {
        image: None,
        ..parts(folder)
    });
    let control = &master.control;
    let request = DeployRequest::of_text(TWO, false);
    let error = control.deploy(&operator(), &request).unwrap_err();
    assert_eq!(error.status(), 409, "{error}");
    assert!(control.plan(&request).is_err());
    assert!(control.deckies().unwrap().is_empty());
    assert!(control.unpublished().unwrap().is_empty());
}

/// A crash between the commit and the publisher: the next start publishes what was decided.
#[test]
fn a_generation_that_was_decided_before_a_crash_is_published_after_it() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    let request = DeployRequest::of_text(TWO, false);
    master.control.deploy(&operator(), &request).unwrap();
    let master = master.restart();
    assert_eq!(master.control.unpublished().unwrap(), ["h"]);
    master.control.publish_due().unwrap();
    assert_eq!(names(&host.bundle(&master)), ["a", "b"]);
}

/// A pass that finds nothing to do waits for no disk: an idle master would write for ever.
#[test]
fn an_idle_pass_writes_nothing() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    host.report(&master, None, vec![]);
    master.control.flush_status().unwrap();
    let store = init::store_path(&master.folder.path().join("master"));
    let before = std::fs::read(&store).unwrap();
    master.control.flush_status().unwrap();
    master.control.release_from_gone().unwrap();
    master.control.fail_overdue().unwrap();
    master.control.republish_outdated().unwrap();
    master.control.mutate_due().unwrap();
    assert!(std::fs::read(&store).unwrap() == before);
}

/// A catalogue with a service that hosts build, from an archive with that digest.
fn with_build(byte: u8) -> Catalogue {
    let text = "[[service]]\nslug = \"nfs\"\nname = \"NFS\"\nports = [\"2049/tcp\"]\nbuild = \"nfs.tar\"\n";
    let catalogue = Catalogue::load(&[("nfs.toml".to_owned(), text.to_owned())]).unwrap();
    let take = |archive: &str| {
        assert_eq!(archive, "nfs.tar");
        Ok::<_, std::convert::Infallible>(Blob {
            digest: Digest::from_sha256([byte; 32]),
            size: 10,
            kind: BlobKind::BuildContext {},
        })
    };
    catalogue.with_contexts(take).unwrap()
}

#[test]
fn a_service_that_hosts_build_brings_its_context_and_another_archive_is_published_once() {
    let master = Master::new().restart_with(with_build(1));
    let host = Host::enrol(&master, "h");
    let ini =
        "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[a]\nservices=ssh,nfs\n[b]\nservices=nfs\n";
    master.deploy(ini, false).unwrap();
    let check = |bundle: &Bundle, byte: u8| {
        let digest = Digest::from_sha256([byte; 32]);
        let named: Vec<_> = bundle.blobs.iter().map(|blob| &blob.digest).collect();
        assert_eq!(named.len(), 2, "the decoy image, and the context once");
        assert!(named.contains(&&digest));
        // What the host's agent makes of it.
        let stacks = bundle.stacks.iter().map(|stack| (&stack.name, &stack.compose));
        let desired = Desired::new(bundle.host, &bundle.networks, &bundle.blobs, stacks).unwrap();
        assert_eq!(policy::check(&desired, &Policy::built_in()), []);
        let nfs: Vec<_> = desired
            .containers()
            .filter(|(_, service, _)| *service == "nfs")
            .collect();
        assert_eq!(nfs.len(), 2);
        assert!(
            nfs.iter().all(|(_, _, spec)| spec.image == nfs[0].2.image),
            "one image"
        );
    };
    let first = host.bundle(&master);
    check(&first, 1);
    assert!(
        master
            .control
            .may_fetch(host.id, &Digest::from_sha256([1; 32]))
            .unwrap()
    );

    let master = master.restart_with(with_build(2));
    master.control.publish_due().unwrap();
    let second = host.bundle(&master);
    assert_eq!(second.generation, first.generation + 1);
    check(&second, 2);
    let master = master.restart_with(with_build(2));
    master.control.publish_due().unwrap();
    assert_eq!(host.bundle(&master).generation, second.generation);
}

/// A deploy is compiled before its transaction. What its hosts hold by then decides.
#[test]
fn a_deploy_is_held_to_what_its_hosts_hold_when_it_is_committed() {
    let master = Master::new();
    Host::enrol(&master, "h");
    let (master, meanwhile) = interrupted(master);
    let keys = init::keys_path(&master.folder.path().join("master"));
    let operator_key = std::fs::read_to_string(keys.join(keys::OPERATOR)).unwrap();
    let operator_key = SigningKey::from_pkcs8_pem(&operator_key).unwrap();
    let policy = serde_json::json!({
        "schema": 1, "fleet": master.control.fleet_id(), "version": 1, "issued_at": "2026-01-01T00:00:00.000Z",
        "expires_at": "2026-02-01T00:00:00.000Z", "rules": { "resources": { "deckies": 1 } },
    });
    let policy = Envelope::sign(PAYLOAD_TYPE, policy.to_string().into_bytes(), &[&operator_key]);
    let control = Arc::downgrade(&master.control);
    meanwhile.happens(move || {
        let control = control.upgrade().unwrap();
        control.take_policy(&operator(), &policy.to_json()).unwrap();
    });
    let request = DeployRequest::of_text(TWO, false);
    let error = master.control.deploy(&operator(), &request).unwrap_err();
    assert!(meanwhile.has_happened());
    assert!(error.to_string().contains("would not take this"), "{error}");
    assert!(master.control.deckies().unwrap().is_empty());
}

/// A bundle is signed before its transaction. One that names another bundle as the one before it than its host has would
/// be refused there.
#[test]
fn a_bundle_follows_the_one_that_is_the_newest_when_it_is_stored() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    let (master, meanwhile) = interrupted(master);
    let control = &master.control;
    control
        .deploy(&operator(), &DeployRequest::of_text(TWO, false))
        .unwrap();
    let known = control.bundle(host.id).unwrap().unwrap();
    let other = Digest::from_sha256([9; 32]);
    let (db, id, digest) = (Db::new(meanwhile.clone()), host.id, other.clone());
    // As when a host says, after a restore, what it has accepted.
    meanwhile.happens(move || {
        let said = BundleRecord { digest, ..known };
        db.bookkeep(|w| w.put(&id, &said)).unwrap();
    });
    control.publish_due().unwrap();
    assert!(meanwhile.has_happened());
    assert_eq!(control.bundle(host.id).unwrap().unwrap().digest, other);
    assert_eq!(control.unpublished().unwrap(), ["h"]);
    control.publish_due().unwrap();
    assert_eq!(host.bundle(&master).previous, Some(other));
    assert_eq!(names(&host.bundle(&master)), ["a", "b"]);
}
