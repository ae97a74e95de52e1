//! An order to install a release, as far as no package manager is needed.

use decnet_pki::envelope::Envelope;
use decnet_pki::key::SigningKey;
use decnet_wire::ids::Digest;
use decnet_wire::order::Order;
use decnet_wire::release::{Format, PAYLOAD_TYPE, Package, ProgressState, Release, Rollout, SCHEMA, WHOLE};

use crate::master::Master;
use crate::transport::{Running, deploy};

/// Publishes a bundle with one decky, and an order that this key has signed.
fn order(master: &Master, generation: u64, key: &SigningKey) {
    let mut bundle = master.bundle(generation);
    let release = Release {
        schema: SCHEMA,
        fleet: bundle.fleet,
        sequence: 1,
        version: "99.0".parse().unwrap(),
        downgrade: false,
        issued_at: bundle.issued_at,
        packages: vec![Package {
            format: Format::Deb,
            architecture: std::env::consts::ARCH.parse().unwrap(),
            digest: Digest::from_sha256([1; 32]),
            size: 1,
        }],
    };
    let envelope = Envelope::sign(PAYLOAD_TYPE, serde_json::to_vec(&release).unwrap(), &[key]);
    bundle.stacks = vec![deploy("web")];
    bundle.order = Some(Order::Update(Rollout {
        release: serde_json::from_slice(&envelope.to_json()).unwrap(),
        per_mille: WHOLE,
    }));
    master.publish(&bundle);
}

#[tokio::test]
async fn arbitrary_software_a_stolen_master_has_nothing_installed_and_the_rest_of_its_bundle_holds() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    order(&master, 1, &SigningKey::generate().unwrap());
    master
        .until("the order is refused", |master| master.told().len() >= 2)
        .await;
    let mut told = master.told();
    told.sort();
    assert_eq!(told, ["refused release", "web deploy running"]);
    assert!(master.heartbeat().unwrap().update.is_none());
    let accepted = running.reopen().await.status().unwrap().accepted;
    assert_eq!(accepted.unwrap().generation, 1);
}

#[tokio::test]
async fn a_host_that_does_not_update_itself_says_so() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    order(&master, 1, master.operator());
    let update = |master: &Master| master.heartbeat()?.update;
    master
        .until("it says so", move |master| update(master).is_some())
        .await;
    let update = update(&master).unwrap();
    assert_eq!((update.sequence, update.state), (1, ProgressState::Off));
    assert!(update.detail.unwrap().contains("updater is not true"));
    drop(running.reopen().await);
}
