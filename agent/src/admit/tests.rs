use decnet_pki::key::SigningKey;
use decnet_wire::ids::{FleetId, HostId};
use decnet_wire::limits;
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde_json::json;
use uuid::Uuid;

use super::examine::{Examined, Memory, examine};
use super::*;
use crate::testing::{FixedClock, Signer, digest_of, document, hours, now, stack};

mod orders;
mod policy;

fn accepted(bundle: &Bundle, envelope: &[u8]) -> AcceptedRecord {
    AcceptedRecord {
        epoch: bundle.epoch,
        generation: bundle.generation,
        digest: digest_of(envelope),
        signed_at: bundle.issued_at,
        expires_at: bundle.expires_at,
        accepted_at: now(),
    }
}

fn after(bundle: &Bundle, envelope: &[u8]) -> Memory {
    Memory {
        accepted: Some(accepted(bundle, envelope)),
        refusals: Vec::new(),
        policy: None,
    }
}

fn refused(signer: &Signer, memory: &Memory, envelope: &[u8], at: Timestamp) -> (Code, String) {
    match examine(&signer.audience(), memory, envelope, at) {
        Err(refusal) => (refusal.code, refusal.detail),
        Ok(outcome) => panic!("not refused: {outcome:?}"),
    }
}

fn is_news(signer: &Signer, memory: &Memory, envelope: &[u8], at: Timestamp) -> bool {
    matches!(
        examine(&signer.audience(), memory, envelope, at),
        Ok(Examined::News(_))
    )
}

#[test]
fn a_bundle_that_is_in_order_is_news_once() {
    let signer = Signer::new();
    let bundle = signer.bundle(1, vec![stack("web-01", document(5, &["ssh"]), None)]);
    let envelope = signer.sign(&bundle);
    assert!(is_news(&signer, &Memory::default(), &envelope, now()));
    let again = examine(&signer.audience(), &after(&bundle, &envelope), &envelope, now());
    assert!(matches!(again, Ok(Examined::NoNews)));
}

#[test]
fn endless_data_is_refused_before_it_is_parsed() {
    let signer = Signer::new();
    let envelope = vec![b'['; limits::BUNDLE_ENVELOPE + 1];
    assert_eq!(
        refused(&signer, &Memory::default(), &envelope, now()).0,
        Code::TooLarge
    );
}

#[test]
fn endless_stacks_are_refused() {
    let signer = Signer::new();
    let one = stack("a", json!({}), None);
    let bundle = signer.bundle(1, vec![one; limits::STACKS + 1]);
    assert_eq!(
        refused(&signer, &Memory::default(), &signer.sign(&bundle), now()).0,
        Code::TooLarge
    );
}

#[test]
fn what_is_no_envelope_and_no_bundle_is_refused() {
    let signer = Signer::new();
    assert_eq!(
        refused(&signer, &Memory::default(), b"[1]", now()).0,
        Code::Malformed
    );
    let nonsense = signer.sign_as(decnet_wire::bundle::PAYLOAD_TYPE, br#"{"schema": 1}"#);
    assert_eq!(
        refused(&signer, &Memory::default(), &nonsense, now()).0,
        Code::Malformed
    );
    let newer = signer.sign_as(
        decnet_wire::bundle::PAYLOAD_TYPE,
        br#"{"schema": 2, "new": true}"#,
    );
    assert_eq!(
        refused(&signer, &Memory::default(), &newer, now()).0,
        Code::Schema
    );
}

#[test]
fn another_documents_signature_is_worth_nothing_for_a_bundle() {
    let signer = Signer::new();
    let payload = serde_json::to_vec(&signer.bundle(1, vec![])).unwrap();
    let envelope = signer.sign_as(decnet_wire::trust::PAYLOAD_TYPE, &payload);
    assert_eq!(
        refused(&signer, &Memory::default(), &envelope, now()).0,
        Code::PayloadType
    );
}

#[test]
fn another_keys_signature_is_refused() {
    let mut signer = Signer::new();
    let audience = signer.audience();
    signer.online = SigningKey::generate().unwrap();
    let envelope = signer.sign(&signer.bundle(1, vec![]));
    let refusal = examine(&audience, &Memory::default(), &envelope, now()).unwrap_err();
    assert_eq!(refusal.code, Code::Signature);
    assert!(
        !refusal.stands(),
        "an unsigned copy must not make the signed one refused"
    );
}

#[test]
fn an_online_key_past_its_delegation_signs_nothing() {
    let signer = Signer::new();
    let mut bundle = signer.bundle(1, vec![]);
    let late = hours(now(), 24 * 365);
    bundle.expires_at = hours(late, 1);
    assert_eq!(
        refused(&signer, &Memory::default(), &signer.sign(&bundle), late).0,
        Code::KeyExpired
    );
}

#[test]
fn a_bundle_for_another_fleet_host_or_key_is_refused() {
    let signer = Signer::new();
    let mut other = signer.bundle(1, vec![]);
    other.fleet = FleetId::new(Uuid::from_u128(99));
    assert_eq!(
        refused(&signer, &Memory::default(), &signer.sign(&other), now()).0,
        Code::Audience
    );
    let mut other = signer.bundle(1, vec![]);
    other.host = HostId::new(Uuid::from_u128(99));
    assert_eq!(
        refused(&signer, &Memory::default(), &signer.sign(&other), now()).0,
        Code::Audience
    );
    let mut other = signer.bundle(1, vec![]);
    other.host_key = Digest::from_sha256([9; 32]);
    assert_eq!(
        refused(&signer, &Memory::default(), &signer.sign(&other), now()).0,
        Code::Audience
    );
}

#[test]
fn a_freeze_ends_at_the_bundles_expiry_also_when_the_clock_is_set_back() {
    let signer = Signer::new();
    let bundle = signer.bundle(2, vec![]);
    let envelope = signer.sign(&bundle);
    assert_eq!(
        refused(&signer, &Memory::default(), &envelope, bundle.expires_at).0,
        Code::Expired
    );

    // A bundle signed later has been seen: the time cannot be before that.
    let mut newer = signer.bundle(1, vec![]);
    newer.issued_at = bundle.expires_at;
    newer.expires_at = hours(newer.issued_at, 24);
    let memory = after(&newer, &signer.sign(&newer));
    assert_eq!(refused(&signer, &memory, &envelope, now()).0, Code::Expired);
}

/// A master whose clock was a year ahead for a minute took its hosts' time with it, and they refused as expired what
/// it signed from then on.
#[test]
fn a_bundle_of_the_future_is_refused_until_its_time_comes() {
    let signer = Signer::new();
    let mut bundle = signer.bundle(2, vec![]);
    bundle.issued_at = hours(now(), 13);
    bundle.expires_at = hours(now(), 37);
    let envelope = signer.sign(&bundle);
    let (code, detail) = refused(&signer, &Memory::default(), &envelope, now());
    assert_eq!(code, Code::Early);
    assert!(detail.contains("clocks"), "{detail}");
    let record = RefusalRecord {
        digest: digest_of(&envelope),
        code: "early".to_owned(),
        stands: false,
    };
    let memory = Memory {
        accepted: None,
        refusals: vec![record],
        policy: None,
    };
    assert!(is_news(&signer, &memory, &envelope, hours(now(), 2)));
}

#[test]
fn a_bundle_refused_as_expired_stays_refused_when_the_clock_is_set_back() {
    let signer = Signer::new();
    let envelope = signer.sign(&signer.bundle(1, vec![]));
    let record = RefusalRecord {
        digest: digest_of(&envelope),
        code: "expired".to_owned(),
        stands: true,
    };
    let memory = Memory {
        accepted: None,
        refusals: vec![record],
        policy: None,
    };
    assert_eq!(refused(&signer, &memory, &envelope, now()).0, Code::Expired);
}

#[test]
fn an_expired_bundle_that_is_accepted_already_is_no_news_and_no_refusal() {
    let signer = Signer::new();
    let bundle = signer.bundle(1, vec![]);
    let envelope = signer.sign(&bundle);
    let late = hours(bundle.expires_at, 1);
    let outcome = examine(&signer.audience(), &after(&bundle, &envelope), &envelope, late);
    assert!(matches!(outcome, Ok(Examined::NoNews)));
}

#[test]
fn a_rollback_is_refused() {
    let signer = Signer::new();
    let newer = signer.bundle(7, vec![]);
    let memory = after(&newer, &signer.sign(&newer));
    let older = signer.sign(&signer.bundle(6, vec![]));
    assert_eq!(refused(&signer, &memory, &older, now()).0, Code::Rollback);
}

#[test]
fn two_truths_under_one_generation_are_an_alarm() {
    let signer = Signer::new();
    let bundle = signer.bundle(7, vec![]);
    let memory = after(&bundle, &signer.sign(&bundle));
    let other = signer.sign(&signer.bundle(7, vec![stack("a", json!({}), None)]));
    assert_eq!(refused(&signer, &memory, &other, now()).0, Code::Equivocation);
}

#[test]
fn another_epoch_than_the_trust_roots_is_refused() {
    let signer = Signer::new();
    let mut bundle = signer.bundle(1, vec![]);
    bundle.epoch = 2;
    assert_eq!(
        refused(&signer, &Memory::default(), &signer.sign(&bundle), now()).0,
        Code::Epoch
    );
}

#[test]
fn generations_cannot_be_used_up_by_a_fast_forward() {
    let signer = Signer::new();
    let bundle = signer.bundle(1, vec![]);
    let memory = after(&bundle, &signer.sign(&bundle));
    let far = signer.sign(&signer.bundle(u64::MAX, vec![]));
    assert_eq!(refused(&signer, &memory, &far, now()).0, Code::FastForward);
    assert!(is_news(
        &signer,
        &memory,
        &signer.sign(&signer.bundle(1000, vec![])),
        now()
    ));
}

/// TUF recovers from a fast-forward by new keys; here a trust root that raises the epoch does.
#[test]
fn fast_forward_recovery_generations_begin_again_with_a_new_epoch_and_only_then() {
    let mut signer = Signer::new();
    let last = signer.bundle(u64::MAX, vec![]);
    let memory = after(&last, &signer.sign(&last));
    let first = signer.bundle(1, vec![]);
    assert_eq!(
        refused(&signer, &memory, &signer.sign(&first), now()).0,
        Code::Rollback
    );
    signer.trust_root.epoch = 2;
    assert_eq!(
        refused(&signer, &memory, &signer.sign(&first), now()).0,
        Code::Epoch
    );
    let mut first = first;
    first.epoch = 2;
    let envelope = signer.sign(&first);
    assert!(is_news(&signer, &memory, &envelope, now()));
    // A host that is shown the old root again does not go back.
    let memory = after(&first, &envelope);
    signer.trust_root.epoch = 1;
    let old = signer.bundle(u64::MAX, vec![]);
    assert_eq!(
        refused(&signer, &memory, &signer.sign(&old), now()).0,
        Code::Rollback
    );
}

#[test]
fn a_fork_of_the_history_is_refused() {
    let signer = Signer::new();
    let bundle = signer.bundle(1, vec![]);
    let envelope = signer.sign(&bundle);
    let memory = after(&bundle, &envelope);
    let mut next = signer.bundle(2, vec![]);
    next.previous = Some(Digest::from_sha256([7; 32]));
    assert_eq!(
        refused(&signer, &memory, &signer.sign(&next), now()).0,
        Code::Fork
    );
    next.previous = Some(digest_of(&envelope));
    assert!(is_news(&signer, &memory, &signer.sign(&next), now()));
}

#[test]
fn a_document_without_meaning_is_refused_with_its_place() {
    let signer = Signer::new();
    let mut compose = document(5, &["ssh"]);
    compose["services"]["ssh"]["devises"] = json!(["/dev/kvm"]);
    let bundle = signer.bundle(1, vec![stack("web-01", compose, None)]);
    let (code, detail) = refused(&signer, &Memory::default(), &signer.sign(&bundle), now());
    assert_eq!(code, Code::Document);
    assert!(
        detail.contains("web-01") && detail.contains("services.ssh.devises"),
        "{detail}"
    );
}

#[test]
fn a_stolen_master_cannot_ask_for_what_the_policy_forbids() {
    let signer = Signer::new();
    for (key, value, told) in [
        ("cap_add", json!(["SYS_ADMIN"]), "SYS_ADMIN"),
        ("devices", json!(["/dev/kvm"]), "services.ssh.devices"),
        ("privileged", json!(true), "services.ssh.privileged"),
        (
            "volumes",
            json!(["/var/run/docker.sock:/s"]),
            "services.ssh.volumes",
        ),
    ] {
        let mut compose = document(5, &["ssh"]);
        compose["services"]["ssh"][key] = value;
        let bundle = signer.bundle(1, vec![stack("web-01", compose, None)]);
        let (code, detail) = refused(&signer, &Memory::default(), &signer.sign(&bundle), now());
        assert_eq!(code, Code::Policy, "{key}");
        assert!(detail.contains(told), "{detail}");
    }
}

#[tokio::test]
async fn a_refusal_is_reported_once_and_leaves_the_accepted_bundle_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let signer = Signer::new();
    let clock = FixedClock::at(now());
    let ledger = Arc::new(Ledger::open(&dir.path().join("l"), now()).unwrap().ledger);
    let (bundles, published) = watch::channel(None);
    let admission = Admission::new(signer.audiences(), Arc::clone(&ledger), clock.clone(), bundles);
    let good = signer.sign(&signer.bundle(5, vec![]));
    assert!(matches!(
        admission.admit(good.clone()).await.unwrap(),
        Verdict::Accepted
    ));
    assert!(matches!(admission.admit(good).await.unwrap(), Verdict::NoNews));
    let old = signer.sign(&signer.bundle(4, vec![]));
    for _ in 0..3 {
        assert!(matches!(
            admission.admit(old.clone()).await.unwrap(),
            Verdict::Refused
        ));
    }
    let events = ledger.waiting_events().unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    let body = &events[0].body;
    assert!(
        matches!(body, decnet_wire::report::EventBody::Refused { code, generation: Some(4), .. } if code == "rollback"),
        "{body:?}"
    );
    let kept = published
        .borrow()
        .as_ref()
        .map(|admitted| admitted.bundle().generation);
    assert_eq!(kept, Some(5));

    // After a restart the same bundle is published, even when it has expired.
    clock.set(hours(now(), 48));
    let (bundles, published) = watch::channel(None);
    Admission::new(signer.audiences(), ledger, clock, bundles)
        .restore()
        .unwrap();
    assert_eq!(
        published
            .borrow()
            .as_ref()
            .map(|admitted| admitted.bundle().generation),
        Some(5)
    );
}

/// What arrives: which of a few bundles, and when.
fn arrivals() -> impl Strategy<Value = Vec<(u64, bool, i64, i64)>> {
    let hour = prop_oneof![-48..48_i64, 0..2_i64];
    proptest::collection::vec((1..6_u64, any::<bool>(), 1..40_i64, hour), 1..25)
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 48, ..Default::default() })]

    /// Whatever the clock does: what was refused stays refused, unless it was of the future; generations only rise,
    /// and a generation has one content.
    #[test]
    fn nothing_that_was_refused_is_ever_accepted(arrivals in arrivals()) {
        let signer = Signer::new();
        let audience = signer.audience();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ledger = Arc::new(Ledger::open(&dir.path().join("l"), now()).unwrap().ledger);
        let clock = FixedClock::at(now());
        let (bundles, _) = watch::channel(None);
        let admission = Admission::new(watch::Sender::new(Arc::new(audience)).subscribe(), Arc::clone(&ledger), clock.clone(), bundles);
        let mut refused = std::collections::BTreeSet::new();
        let mut highest = 0;
        for (generation, variant, lifetime, at) in arrivals {
            let stacks = if variant { vec![stack("a", json!({}), None)] } else { vec![] };
            let mut bundle = signer.bundle(generation, stacks);
            bundle.expires_at = hours(bundle.issued_at, lifetime);
            let envelope = signer.sign(&bundle);
            let digest = digest_of(&envelope);
            clock.set(hours(now(), at));
            match runtime.block_on(admission.admit(envelope)).unwrap() {
                Verdict::Accepted => {
                    prop_assert!(!refused.contains(&digest), "generation {generation} was refused before");
                    prop_assert!(generation > highest);
                    prop_assert!(hours(now(), at) < bundle.expires_at);
                    highest = generation;
                }
                Verdict::NoNews => prop_assert_eq!(ledger.accepted().unwrap().unwrap().digest, digest),
                Verdict::Refused => {
                    // All are issued now.
                    if at >= -12 {
                        refused.insert(digest);
                    }
                }
            }
        }
    }
}
