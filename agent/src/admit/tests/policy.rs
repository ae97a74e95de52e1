//! Bundles held to a policy that the operators have signed.

use decnet_wire::report::EventBody;

use super::*;

fn held(signer: &Signer, policy: &decnet_wire::policy::Policy) -> Memory {
    let signed = SignedPolicy::stored(&signer.sign_policy(policy)).unwrap();
    Memory {
        policy: Some(Arc::new(Held::new(signed, now()))),
        ..Memory::default()
    }
}

/// A decky that adds a capability.
fn wishful(signer: &Signer, generation: u64) -> Vec<u8> {
    let mut compose = document(5, &["ssh"]);
    compose["services"]["ssh"]["cap_add"] = json!(["NET_ADMIN"]);
    signer.sign(&signer.bundle(generation, vec![stack("web-01", compose, None)]))
}

#[test]
fn a_signed_policy_allows_what_the_built_in_one_does_not_and_forbids_what_it_does_not_name() {
    let signer = Signer::new();
    let envelope = wishful(&signer, 1);
    assert_eq!(
        refused(&signer, &Memory::default(), &envelope, now()).0,
        Code::Policy
    );
    let allowed = held(
        &signer,
        &signer.policy(1, &json!({"capabilities": ["NET_ADMIN"]})),
    );
    assert!(is_news(&signer, &allowed, &envelope, now()));
    let (code, detail) = refused(
        &signer,
        &held(&signer, &signer.policy(2, &json!({"capabilities": ["NET_RAW"]}))),
        &envelope,
        now(),
    );
    assert_eq!(code, Code::Policy);
    assert_eq!(
        detail,
        "stack web-01: services.ssh.cap_add: the policy does not allow NET_ADMIN (rule capabilities)"
    );
}

#[test]
fn freeze_an_expired_policy_lets_no_new_bundle_in_whatever_the_clock_is_set_to() {
    let signer = Signer::new();
    let mut policy = signer.policy(1, &json!({}));
    policy.expires_at = hours(now(), 2);
    let mut memory = held(&signer, &policy);
    let late = hours(now(), 3);
    let bundle = |generation| {
        let mut bundle = signer.bundle(generation, vec![]);
        bundle.issued_at = late;
        bundle.expires_at = hours(late, 24);
        bundle
    };
    let envelope = signer.sign(&bundle(1));
    let (code, detail) = refused(&signer, &memory, &envelope, late);
    assert_eq!(code, Code::PolicyExpired);
    assert!(detail.contains("decnet policy sign"), "{detail}");
    // What is signed moves the time as well.
    memory.accepted = after(&bundle(1), &envelope).accepted;
    let next = signer.sign(&bundle(2));
    assert_eq!(refused(&signer, &memory, &next, now()).0, Code::PolicyExpired);
}

#[test]
fn a_master_that_keeps_the_policy_back_gets_nothing_in() {
    let mut signer = Signer::new();
    let envelope = signer.sign(&signer.bundle(1, vec![]));
    signer.trust_root.policy = Some(3);
    assert_eq!(
        refused(&signer, &Memory::default(), &envelope, now()).0,
        Code::PolicyMissing
    );
    let old = held(&signer, &signer.policy(2, &json!({})));
    assert_eq!(refused(&signer, &old, &envelope, now()).0, Code::PolicyMissing);
    for version in [3, 4] {
        let new = held(&signer, &signer.policy(version, &json!({})));
        assert!(is_news(&signer, &new, &envelope, now()));
    }
}

fn codes(ledger: &Ledger) -> Vec<String> {
    let events = ledger.waiting_events().unwrap();
    events
        .into_iter()
        .filter_map(|event| match event.body {
            EventBody::Refused { code, .. } => Some(code),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_policy_is_kept_before_it_counts_and_what_runs_goes_on_under_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let signer = Signer::new();
    let clock = FixedClock::at(now());
    let ledger = Arc::new(Ledger::open(&dir.path().join("l"), now()).unwrap().ledger);
    let open = || {
        let (bundles, published) = watch::channel(None);
        let admission = Admission::new(signer.audiences(), Arc::clone(&ledger), clock.clone(), bundles);
        admission.restore().unwrap();
        (admission, published)
    };
    let wide = signer.sign_policy(&signer.policy(2, &json!({"capabilities": ["NET_ADMIN"]})));
    let narrow = signer.sign_policy(&signer.policy(3, &json!({})));
    let (admission, _) = open();
    admission.admit_policy(&wide).await.unwrap();
    assert_eq!(admission.policy_version(), 2);
    let verdict = admission.admit(wishful(&signer, 1)).await.unwrap();
    assert!(matches!(verdict, Verdict::Accepted));

    // Neither the newer one nor a restart takes away what runs.
    admission.admit_policy(&narrow).await.unwrap();
    drop(admission);
    let (admission, published) = open();
    assert_eq!(admission.policy_version(), 3);
    let kept = published.borrow().clone().unwrap();
    assert_eq!(kept.bundle().generation, 1);
    assert!(kept.policy().cap_add.contains("NET_ADMIN"));
    let status = crate::policy::PolicyStatus::read(&ledger, signer.fleet, signer.host)
        .unwrap()
        .unwrap();
    assert_eq!((status.version, status.bundle), (3, Some(2)));
    assert_eq!(status.outside.len(), 1, "{status:?}");
    assert!(status.to_text().contains("outside of it"), "{}", status.to_text());

    // The next one is held to it.
    assert!(matches!(
        admission.admit(wishful(&signer, 2)).await.unwrap(),
        Verdict::Refused
    ));
    assert_eq!(codes(&ledger), ["policy"]);
    let good = signer.sign(&signer.bundle(3, vec![]));
    assert!(matches!(admission.admit(good).await.unwrap(), Verdict::Accepted));
    let status = crate::policy::PolicyStatus::read(&ledger, signer.fleet, signer.host)
        .unwrap()
        .unwrap();
    assert_eq!((status.bundle, status.outside.len()), (Some(3), 0));
}

#[tokio::test]
async fn a_refused_policy_leaves_the_one_before_and_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let signer = Signer::new();
    let ledger = Arc::new(Ledger::open(&dir.path().join("l"), now()).unwrap().ledger);
    let (bundles, _) = watch::channel(None);
    let admission = Admission::new(
        signer.audiences(),
        Arc::clone(&ledger),
        FixedClock::at(now()),
        bundles,
    );
    let held = signer.sign_policy(&signer.policy(5, &json!({})));
    admission.admit_policy(&held).await.unwrap();
    let old = signer.sign_policy(&signer.policy(4, &json!({})));
    let other = signer.sign_policy(&signer.policy(5, &json!({"capabilities": ["NET_ADMIN"]})));
    let stolen = signer.sign_as(
        decnet_wire::policy::PAYLOAD_TYPE,
        &serde_json::to_vec(&signer.policy(6, &json!({}))).unwrap(),
    );
    for _ in 0..3 {
        for envelope in [&old, &other, &stolen, &held] {
            admission.admit_policy(envelope).await.unwrap();
        }
    }
    assert_eq!(admission.policy_version(), 5);
    assert_eq!(
        codes(&ledger),
        ["policy-document", "policy-equivocation", "policy-document"]
    );
}

/// Believed when it came, and worth nothing as a new one.
#[tokio::test]
async fn after_a_rotation_the_held_policy_stays_and_the_next_needs_the_new_operators() {
    let dir = tempfile::tempdir().unwrap();
    let signer = Signer::new();
    let ledger = Arc::new(Ledger::open(&dir.path().join("l"), now()).unwrap().ledger);
    let audience = watch::Sender::new(Arc::new(signer.audience()));
    let (bundles, _) = watch::channel(None);
    let admission = Admission::new(
        audience.subscribe(),
        Arc::clone(&ledger),
        FixedClock::at(now()),
        bundles,
    );
    let held = signer.sign_policy(&signer.policy(1, &json!({})));
    admission.admit_policy(&held).await.unwrap();

    let next = Signer::new();
    let mut rotated = next.audience();
    (rotated.fleet, rotated.host) = (signer.fleet, signer.host);
    audience.send_replace(Arc::new(rotated));
    admission.restore().unwrap();
    assert_eq!(admission.policy_version(), 1);
    let by_old = signer.sign_policy(&signer.policy(2, &json!({})));
    admission.admit_policy(&by_old).await.unwrap();
    assert_eq!(admission.policy_version(), 1);
    assert_eq!(codes(&ledger), ["policy-document"]);
    let by_new = next.sign_policy(&next.policy(2, &json!({})));
    admission.admit_policy(&by_new).await.unwrap();
    assert_eq!(admission.policy_version(), 2);
}
