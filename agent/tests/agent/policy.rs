//! The policy on its way: what the operator has signed holds, whatever the master hands on.

use decnet_pki::key::SigningKey;
use serde_json::json;

use crate::master::Master;
use crate::transport::{Running, deploy};

/// A bundle of one decky that asks for a capability.
fn publish_wish(master: &Master, generation: u64) {
    let mut bundle = master.bundle(generation);
    let mut stack = deploy("web");
    let image = format!("registry.invalid/web@sha256:{}", "0".repeat(64));
    stack.compose = json!({"services": {"base": {
        "image": image, "network_mode": "none", "cap_drop": ["ALL"], "cap_add": ["NET_ADMIN"],
        "security_opt": ["no-new-privileges:true"],
    }}})
    .into();
    bundle.stacks = vec![stack];
    master.publish(&bundle);
}

async fn until_told(master: &Master, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
    let wanted = expected.clone();
    master
        .until(&format!("told {expected:?}"), move |master| {
            master.told().len() >= wanted.len()
        })
        .await;
    assert_eq!(master.told(), expected);
}

#[tokio::test]
async fn a_policy_is_fetched_before_the_bundle_that_comes_with_it_is_looked_at() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    publish_wish(&master, 1);
    until_told(&master, &["refused policy"]).await;
    // What was refused under one policy is looked at again under the next.
    master.rule(&master.policy(1, &json!({"capabilities": ["NET_ADMIN"]})));
    until_told(&master, &["refused policy", "web deploy running"]).await;
    assert_eq!(master.policy_asked(), 1);

    master.rule(&master.policy(2, &json!({"capabilities": ["NET_RAW"]})));
    master
        .until("the policy is asked for", |master| master.policy_asked() == 2)
        .await;
    publish_wish(&master, 2);
    until_told(
        &master,
        &["refused policy", "web deploy running", "refused policy"],
    )
    .await;
    let status = running.reopen().await.status().unwrap();
    let policy = status.policy.as_ref().unwrap();
    assert_eq!(
        (policy.version, policy.bundle, policy.outside.len()),
        (2, Some(1), 1)
    );
    assert!(
        status.to_text().contains("policy       version 2"),
        "{}",
        status.to_text()
    );
}

#[tokio::test]
async fn arbitrary_software_a_stolen_master_signs_no_policy() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    master.rule(&master.policy(1, &json!({})));
    master
        .until("the policy is asked for", |master| master.policy_asked() == 1)
        .await;
    let thief = SigningKey::generate().unwrap();
    master.rule_as(
        &master.policy(2, &json!({"capabilities": ["NET_ADMIN"]})),
        &[&thief],
    );
    publish_wish(&master, 1);
    until_told(&master, &["refused policy-document", "refused policy"]).await;
    // Another version than was said, and one that the operator has signed before.
    let old = master.policy(1, &json!({}));
    let payload = serde_json::to_vec(&old).unwrap();
    let envelope = decnet_pki::envelope::Envelope::sign(
        decnet_wire::policy::PAYLOAD_TYPE,
        payload,
        &[master.operator()],
    );
    master.rule_bytes(9, envelope.to_json());
    until_told(
        &master,
        &[
            "refused policy-document",
            "refused policy",
            "refused policy-equivocation",
        ],
    )
    .await;
    assert_eq!(
        running.reopen().await.status().unwrap().policy.unwrap().version,
        1
    );
}

#[tokio::test]
async fn a_master_that_keeps_the_policy_back_gets_nothing_in() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    let online = SigningKey::generate().unwrap();
    let mut root = master.root(2, &online);
    root.policy = Some(1);
    master.offer(&root);
    let mut bundle = master.bundle(1);
    bundle.stacks = vec![deploy("web")];
    master.publish_as(&bundle, &online);
    until_told(&master, &["refused policy-missing"]).await;
    // Handed on at last.
    master.rule(&master.policy(1, &json!({})));
    until_told(&master, &["refused policy-missing", "web deploy running"]).await;
    drop(running.reopen().await);
}

#[tokio::test]
async fn endless_data_a_policy_that_is_none_costs_nothing_else() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    master.rule_bytes(1, vec![b' '; 1 << 20]);
    let mut bundle = master.bundle(1);
    bundle.stacks = vec![deploy("web")];
    master.publish(&bundle);
    until_told(&master, &["web deploy running"]).await;
    assert!(master.policy_asked() > 0);
    assert!(running.reopen().await.status().unwrap().policy.is_none());
}
