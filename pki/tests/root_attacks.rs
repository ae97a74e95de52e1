//! What a forger may try on a chain of trust roots: the cases of TUF's conformance suite that apply, restated for this
//! format. Each test names its threat.

#![allow(clippy::unwrap_used)]

use decnet_pki::ca::CertificateAuthority;
use decnet_pki::envelope::{Envelope, VerifyError};
use decnet_pki::key::SigningKey;
use decnet_pki::root::{Root, RootError};
use decnet_wire::ids::{FleetId, Timestamp};
use decnet_wire::trust::{PAYLOAD_TYPE, SCHEMA, TrustRoot};
use time::OffsetDateTime;
use uuid::Uuid;

/// A fleet's keys, and the documents that they would sign.
struct Fleet {
    operators: Vec<SigningKey>,
    online: SigningKey,
    authority: String,
}

impl Fleet {
    fn new(operators: usize) -> Self {
        let authority = CertificateAuthority::create("test", OffsetDateTime::UNIX_EPOCH).unwrap();
        Self {
            operators: keys(operators),
            online: SigningKey::generate().unwrap(),
            authority: authority.cert_pem(),
        }
    }

    fn document(&self, version: u64, threshold: u32, operators: &[SigningKey]) -> TrustRoot {
        TrustRoot {
            schema: SCHEMA,
            fleet: FleetId::new(Uuid::from_u128(1)),
            version,
            epoch: 1,
            threshold,
            operator_keys: operators.iter().map(|key| key.public().to_string()).collect(),
            online_key: self.online.public().to_string(),
            online_key_expires_at: Timestamp::new(OffsetDateTime::UNIX_EPOCH),
            ca_certificates: vec![self.authority.clone()],
            policy: None,
        }
    }

    /// Version 1, of which `threshold` operators must sign the next.
    fn first(&self, threshold: u32) -> Root {
        let document = self.document(1, threshold, &self.operators);
        let signers: Vec<&SigningKey> = self.operators.iter().collect();
        let envelope = signed(&document, &signers);
        let pin = envelope.digest();
        Root::pinned(envelope, &pin).unwrap()
    }
}

fn keys(count: usize) -> Vec<SigningKey> {
    (0..count).map(|_| SigningKey::generate().unwrap()).collect()
}

fn signed(document: &TrustRoot, keys: &[&SigningKey]) -> Envelope {
    Envelope::sign(PAYLOAD_TYPE, serde_json::to_vec(document).unwrap(), keys)
}

fn too_few(valid: usize, threshold: usize) -> VerifyError {
    VerifyError::NotEnoughSignatures { valid, threshold }
}

#[test]
fn a_chain_is_followed_from_the_pin_to_new_operators() {
    let fleet = Fleet::new(2);
    let first = fleet.first(2);
    let [a, b] = fleet.operators.as_slice() else {
        unreachable!()
    };
    let others = keys(3);
    let [c, d, _] = others.as_slice() else {
        unreachable!()
    };
    let second = fleet.document(2, 2, &others);
    let second = first.next(signed(&second, &[a, b, c, d])).unwrap();
    assert_eq!(second.version(), 2);
    assert_eq!(second.operators().keys().len(), 3);

    // From here on the first ones have nothing to say.
    let third = fleet.document(3, 1, &others);
    let error = second.next(signed(&third, &[a, b])).unwrap_err();
    assert!(matches!(error, RootError::Signatures(source) if source == too_few(0, 2)));
    assert_eq!(second.next(signed(&third, &[c, d])).unwrap().version(), 3);
}

#[test]
fn a_root_from_nowhere_is_not_the_pinned_one() {
    let fleet = Fleet::new(1);
    let own = fleet.first(1);
    let stranger = Fleet::new(1).first(1).envelope().clone();
    let error = Root::pinned(stranger, &own.envelope().digest()).unwrap_err();
    assert!(matches!(error, RootError::Pin { .. }), "{error}");
}

#[test]
fn arbitrary_software_a_root_that_only_its_own_operators_signed_is_no_successor() {
    let fleet = Fleet::new(1);
    let thieves = keys(1);
    let forged = fleet.document(2, 1, &thieves);
    let error = fleet.first(1).next(signed(&forged, &[&thieves[0]])).unwrap_err();
    assert!(matches!(error, RootError::Signatures(source) if source == too_few(0, 1)));
}

#[test]
fn key_loss_a_root_that_its_own_operators_have_not_signed_is_no_successor() {
    // Nobody would hold the keys that the one after it needs.
    let fleet = Fleet::new(1);
    let absent = keys(2);
    let next = fleet.document(2, 2, &absent);
    for signers in [vec![&fleet.operators[0]], vec![&fleet.operators[0], &absent[0]]] {
        let valid = signers.len() - 1;
        let error = fleet.first(1).next(signed(&next, &signers)).unwrap_err();
        assert!(matches!(error, RootError::OwnSignatures(source) if source == too_few(valid, 2)));
    }
}

#[test]
fn threshold_too_few_of_the_known_operators_decide_nothing() {
    let fleet = Fleet::new(3);
    let next = fleet.document(2, 1, &fleet.operators);
    let first = fleet.first(2);
    let error = first.next(signed(&next, &[&fleet.operators[0]])).unwrap_err();
    assert!(matches!(error, RootError::Signatures(source) if source == too_few(1, 2)));
    first
        .next(signed(&next, &[&fleet.operators[0], &fleet.operators[2]]))
        .unwrap();
}

#[test]
fn duplicate_key_one_that_is_listed_or_signs_twice_counts_once() {
    let fleet = Fleet::new(1);
    let mut document = fleet.document(1, 2, &fleet.operators);
    document.operator_keys.push(document.operator_keys[0].clone());
    // Also in another spelling.
    document
        .operator_keys
        .push(document.operator_keys[0].to_uppercase());
    let envelope = signed(&document, &[&fleet.operators[0]]);
    let mut json: serde_json::Value = serde_json::from_slice(&envelope.to_json()).unwrap();
    let signatures = json["signatures"].as_array_mut().unwrap();
    let mut again = signatures[0].clone();
    again["keyid"] = "another".into();
    signatures.push(again);
    let envelope = Envelope::parse(json.to_string().as_bytes(), 1 << 20).unwrap();
    let pin = envelope.digest();
    let error = Root::pinned(envelope, &pin).unwrap_err();
    assert!(
        matches!(
            error,
            RootError::Threshold { threshold: 2, .. } | RootError::Key(_)
        ),
        "{error}"
    );
}

#[test]
fn threshold_of_none_or_of_more_than_there_are_makes_no_root() {
    let fleet = Fleet::new(2);
    let signers: Vec<&SigningKey> = fleet.operators.iter().collect();
    for threshold in [0, 3, u32::MAX] {
        let envelope = signed(&fleet.document(1, threshold, &fleet.operators), &signers);
        let pin = envelope.digest();
        let error = Root::pinned(envelope, &pin).unwrap_err();
        assert!(
            matches!(error, RootError::Threshold { keys: 2, .. }),
            "{threshold}: {error}"
        );
    }
    let nobody = signed(&fleet.document(1, 1, &[]), &signers);
    let pin = nobody.digest();
    assert!(matches!(
        Root::pinned(nobody, &pin).unwrap_err(),
        RootError::Threshold { keys: 0, .. }
    ));
}

#[test]
fn rollback_and_fast_forward_every_version_comes_after_the_one_before() {
    let fleet = Fleet::new(1);
    let operator = &fleet.operators[0];
    let first = fleet.first(1);
    let second = first
        .next(signed(&fleet.document(2, 1, &fleet.operators), &[operator]))
        .unwrap();
    for version in [0, 1, 2, 4, u64::MAX] {
        let other = signed(&fleet.document(version, 1, &fleet.operators), &[operator]);
        let error = second.next(other).unwrap_err();
        assert!(
            matches!(error, RootError::Version { known: 2, found } if found == version),
            "{version}: {error}"
        );
    }
}

#[test]
fn fast_forward_nothing_follows_the_last_number() {
    let fleet = Fleet::new(1);
    let operator = &fleet.operators[0];
    let last = signed(&fleet.document(u64::MAX, 1, &fleet.operators), &[operator]);
    let last = Root::pinned(last.clone(), &last.digest()).unwrap();
    for version in [0, 1, u64::MAX] {
        let other = signed(&fleet.document(version, 1, &fleet.operators), &[operator]);
        assert!(last.next(other).is_err(), "{version}");
    }
}

#[test]
fn mix_and_match_another_fleets_root_of_the_same_operators_is_no_successor() {
    let fleet = Fleet::new(1);
    let mut other = fleet.document(2, 1, &fleet.operators);
    other.fleet = FleetId::new(Uuid::from_u128(2));
    let error = fleet
        .first(1)
        .next(signed(&other, &[&fleet.operators[0]]))
        .unwrap_err();
    assert!(matches!(error, RootError::Fleet { .. }), "{error}");
}

#[test]
fn rollback_the_epoch_never_falls() {
    let fleet = Fleet::new(1);
    let operator = &fleet.operators[0];
    let mut raised = fleet.document(2, 1, &fleet.operators);
    raised.epoch = 7;
    let second = fleet.first(1).next(signed(&raised, &[operator])).unwrap();
    let mut fallen = fleet.document(3, 1, &fleet.operators);
    fallen.epoch = 6;
    let error = second.next(signed(&fallen, &[operator])).unwrap_err();
    assert!(
        matches!(error, RootError::Epoch { known: 7, found: 6 }),
        "{error}"
    );
}

#[test]
fn type_confusion_the_same_bytes_as_another_kind_of_document_are_no_root() {
    let fleet = Fleet::new(1);
    let payload = serde_json::to_vec(&fleet.document(1, 1, &fleet.operators)).unwrap();
    let envelope = Envelope::sign(decnet_wire::bundle::PAYLOAD_TYPE, payload, &[&fleet.operators[0]]);
    let pin = envelope.digest();
    let error = Root::pinned(envelope.clone(), &pin).unwrap_err();
    assert!(
        matches!(error, RootError::OwnSignatures(VerifyError::PayloadType { .. })),
        "{error}"
    );
    let error = fleet.first(1).next(envelope).unwrap_err();
    assert!(
        matches!(error, RootError::Signatures(VerifyError::PayloadType { .. })),
        "{error}"
    );
}

#[test]
fn every_flipped_bit_of_the_payload_breaks_the_chain() {
    let fleet = Fleet::new(1);
    let first = fleet.first(1);
    let envelope = signed(&fleet.document(2, 1, &fleet.operators), &[&fleet.operators[0]]);
    let json: serde_json::Value = serde_json::from_slice(&envelope.to_json()).unwrap();
    let payload = envelope.unverified_payload();
    for at in 0..payload.len() {
        let mut damaged = payload.to_vec();
        damaged[at] ^= 1 << (at % 8);
        let mut json = json.clone();
        json["payload"] = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, damaged).into();
        let damaged = Envelope::parse(json.to_string().as_bytes(), 1 << 20).unwrap();
        assert!(
            matches!(first.next(damaged).unwrap_err(), RootError::Signatures(_)),
            "byte {at}"
        );
    }
}

#[test]
fn a_form_keys_or_authorities_that_cannot_be_read_are_told_apart() {
    let fleet = Fleet::new(1);
    let read = |change: &dyn Fn(&mut TrustRoot)| {
        let mut document = fleet.document(1, 1, &fleet.operators);
        change(&mut document);
        let envelope = signed(&document, &[&fleet.operators[0]]);
        let pin = envelope.digest();
        Root::pinned(envelope, &pin).unwrap_err()
    };
    assert!(matches!(
        read(&|document| document.schema = 2),
        RootError::Schema(2)
    ));
    assert!(matches!(
        read(&|document| document.online_key = "?".to_owned()),
        RootError::Key(_)
    ));
    assert!(matches!(
        read(&|document| document.ca_certificates = vec!["?".to_owned()]),
        RootError::Authority(_)
    ));
    assert!(matches!(
        read(&|document| document.ca_certificates.clear()),
        RootError::Authorities(0)
    ));
    let garbage = Envelope::sign(PAYLOAD_TYPE, b"{}".to_vec(), &[&fleet.operators[0]]);
    let pin = garbage.digest();
    assert!(matches!(
        Root::pinned(garbage, &pin).unwrap_err(),
        RootError::Malformed(_)
    ));
}
