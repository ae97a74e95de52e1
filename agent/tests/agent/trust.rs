//! What a master can make a host believe: what the operators have signed, and nothing else.

use decnet_pki::key::SigningKey;

use crate::master::Master;
use crate::transport::{Running, deploy};

fn key() -> SigningKey {
    SigningKey::generate().unwrap()
}

/// What the host believes after all that was offered.
async fn believed(running: Running) -> u64 {
    running.reopen().await.status().unwrap().trust_root_version
}

#[tokio::test]
async fn the_online_key_of_a_root_that_follows_is_believed_with_the_bundle_that_it_signs() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    let (second, third) = (key(), key());
    master.offer(&master.root(2, &second));
    master.offer(&master.root(3, &third));
    let mut bundle = master.bundle(1);
    bundle.stacks = vec![deploy("web")];
    master.publish_as(&bundle, &third);
    master
        .until("the bundle", |master| !master.told().is_empty())
        .await;
    assert_eq!(master.told(), ["web deploy running"]);
    assert_eq!((master.asked(2), master.asked(3), master.asked(4)), (1, 1, 0));

    // The keys of before sign nothing any more.
    for (generation, key) in [(2, &second), (3, &third)] {
        let mut bundle = master.bundle(generation);
        bundle.stacks = vec![deploy("web")];
        master.publish_as(&bundle, key);
        let told = usize::try_from(generation).unwrap();
        master
            .until("the next", move |master| master.told().len() == told)
            .await;
    }
    assert_eq!(
        master.told(),
        ["web deploy running", "refused signature", "web deploy running"]
    );
    assert_eq!(believed(running).await, 3);
}

#[tokio::test]
async fn arbitrary_software_a_stolen_master_cannot_name_its_own_operators() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    let (thief, thiefs_online) = (key(), key());
    let mut forged = master.root(2, &thiefs_online);
    forged.operator_keys = vec![thief.public().to_string()];
    master.offer_as(&forged, &[&thief]);
    let mut bundle = master.bundle(1);
    bundle.stacks = vec![deploy("web")];
    master.publish_as(&bundle, &thiefs_online);
    master
        .until("two refusals", |master| master.told().len() == 2)
        .await;
    assert_eq!(master.told(), ["refused trust-root", "refused signature"]);

    // It is offered with every answer, and told once. What the known key signs is taken all the same.
    let mut bundle = master.bundle(2);
    bundle.stacks = vec![deploy("web")];
    master.publish(&bundle);
    master
        .until("the good one", |master| master.told().len() == 3)
        .await;
    assert_eq!(
        master.told(),
        ["refused trust-root", "refused signature", "web deploy running"]
    );
    assert!(master.asked(2) > 1, "asked for {} times", master.asked(2));
    assert_eq!(believed(running).await, 1);
}

#[tokio::test]
async fn fast_forward_no_version_is_skipped() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    let online = key();
    // The newest is there, what lies between is not.
    master.offer(&master.root(3, &online));
    let mut bundle = master.bundle(1);
    bundle.stacks = vec![deploy("web")];
    master.publish_as(&bundle, &online);
    master
        .until("the refusal", |master| !master.told().is_empty())
        .await;
    assert_eq!(master.told(), ["refused signature"]);
    assert_eq!(master.asked(3), 0);

    // Under the number that is missing stands another one.
    let mut other = master.root(3, &online);
    other.version = 7;
    let envelope = master.signed(&other);
    master.offer_bytes(2, envelope);
    master.publish(&master.bundle(2));
    master
        .until("the refusal", |master| master.told().len() == 2)
        .await;
    assert_eq!(master.told()[1], "refused trust-root");
    assert_eq!(believed(running).await, 1);
}

#[tokio::test]
async fn endless_data_a_root_that_is_none_costs_nothing_else() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    master.offer_bytes(2, vec![b' '; 1 << 20]);
    let mut bundle = master.bundle(1);
    bundle.stacks = vec![deploy("web")];
    master.publish(&bundle);
    master
        .until("the bundle", |master| !master.told().is_empty())
        .await;
    assert_eq!(master.told(), ["web deploy running"]);
    assert!(master.asked(2) > 0);

    // Once it is one, it is taken.
    let online = key();
    master.offer(&master.root(2, &online));
    let mut bundle = master.bundle(2);
    bundle.stacks = vec![deploy("web")];
    master.publish_as(&bundle, &online);
    master.until("the next", |master| master.told().len() == 2).await;
    assert_eq!(believed(running).await, 2);
}

#[tokio::test]
async fn a_man_in_the_middle_is_asked_for_trust_roots_and_believed_in_nothing() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    let thief = Master::start().await;
    // His own fleet's next root, signed by his own operators.
    thief.offer(&thief.root(2, &key()));
    let running = running.led_astray(&thief).await;
    thief
        .until("he is asked for a root", |thief| thief.asked(2) > 1)
        .await;
    assert!(thief.strange().is_empty(), "{:?}", thief.strange());
    assert!(thief.heartbeat().is_none(), "he was told something");

    // The true one serves him as well: it says nothing about him.
    let online = key();
    thief.offer_bytes(2, master.signed(&master.root(2, &online)));
    thief
        .until("he is asked for the next", |thief| thief.asked(3) > 0)
        .await;
    assert!(thief.strange().is_empty(), "{:?}", thief.strange());
    assert!(thief.heartbeat().is_none(), "he was told something");
    assert_eq!(believed(running).await, 2);
}

#[tokio::test]
async fn endless_data_an_answer_longer_than_any_bundle_is_told_once_and_costs_nothing_else() {
    let master = Master::start().await;
    let _running = Running::enrolled_at(&master).await;
    for generation in [1, 2] {
        master.publish_bytes(generation, vec![b'['; decnet_wire::limits::BUNDLE_ENVELOPE + 1]);
        master
            .until("the refusal", |master| master.told().len() == 1)
            .await;
    }
    let mut bundle = master.bundle(3);
    bundle.stacks = vec![deploy("web")];
    master.publish(&bundle);
    master
        .until("the good one", |master| master.told().len() == 2)
        .await;
    assert_eq!(master.told(), ["refused too-large", "web deploy running"]);
}
