//! What an order to leave and a tombstone must not be believed for, each test named after the threat.

#![allow(clippy::unwrap_used, clippy::panic)]

use decnet_pki::ca::CertificateAuthority;
use decnet_pki::envelope::{Envelope, ParseError, VerifyError};
use decnet_pki::key::{HostKey, SigningKey};
use decnet_pki::order::{OrderError, SignedDecommission, admit_tombstone};
use decnet_pki::root::Root;
use decnet_wire::ids::{FleetId, HostId, Timestamp};
use decnet_wire::limits;
use decnet_wire::order::{DECOMMISSION_TYPE, Decommission, Nonce, SCHEMA, TOMBSTONE_TYPE};
use decnet_wire::policy;
use decnet_wire::trust::{self, TrustRoot};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

const FLEET: FleetId = FleetId::new(Uuid::from_u128(1));
const HOST: HostId = HostId::new(Uuid::from_u128(7));

struct Fleet {
    operators: Vec<SigningKey>,
    online: SigningKey,
    root: Root,
}

/// Three operators, of whom two must sign.
fn fleet() -> Fleet {
    let operators: Vec<_> = (0..3).map(|_| SigningKey::generate().unwrap()).collect();
    let online = SigningKey::generate().unwrap();
    let authority = CertificateAuthority::create("test", OffsetDateTime::UNIX_EPOCH).unwrap();
    let document = TrustRoot {
        schema: trust::SCHEMA,
        fleet: FLEET,
        version: 1,
        epoch: 1,
        threshold: 2,
        operator_keys: operators.iter().map(|key| key.public().to_string()).collect(),
        online_key: online.public().to_string(),
        online_key_expires_at: Timestamp::new(OffsetDateTime::UNIX_EPOCH + Duration::days(1000)),
        ca_certificates: vec![authority.cert_pem()],
        policy: None,
    };
    let keys: Vec<&SigningKey> = operators.iter().collect();
    let envelope = Envelope::sign(trust::PAYLOAD_TYPE, serde_json::to_vec(&document).unwrap(), &keys);
    let root = Root::stored(envelope).unwrap();
    Fleet {
        operators,
        online,
        root,
    }
}

fn order() -> Decommission {
    Decommission {
        schema: SCHEMA,
        fleet: FLEET,
        host: HOST,
        nonce: Nonce::from_random([1; 16]),
        issued_at: Timestamp::new(OffsetDateTime::UNIX_EPOCH),
    }
}

fn signed(order: &Decommission, keys: &[&SigningKey]) -> Vec<u8> {
    Envelope::sign(DECOMMISSION_TYPE, serde_json::to_vec(order).unwrap(), keys).to_json()
}

/// One more member, or another value of one.
fn changed(mut document: Value, member: &str, value: Value) -> Vec<u8> {
    document[member] = value;
    serde_json::to_vec(&document).unwrap()
}

impl Fleet {
    /// Signed by enough operators.
    fn good(&self, kind: &str, payload: Vec<u8>) -> Vec<u8> {
        Envelope::sign(kind, payload, &[&self.operators[0], &self.operators[2]]).to_json()
    }

    fn refused(&self, bytes: &[u8]) -> OrderError {
        SignedDecommission::admit(bytes, &self.root, HOST).unwrap_err()
    }
}

#[test]
fn an_order_that_enough_operators_signed_is_believed() {
    let fleet = fleet();
    let bytes = fleet.good(DECOMMISSION_TYPE, serde_json::to_vec(&order()).unwrap());
    let found = SignedDecommission::admit(&bytes, &fleet.root, HOST).unwrap();
    assert_eq!(*found.document(), order());
    let kept = SignedDecommission::stored(&found.envelope().to_json()).unwrap();
    assert_eq!(kept.digest(), found.digest());
}

#[test]
fn threshold_too_few_operators_or_the_master_alone() {
    let fleet = fleet();
    let first = &fleet.operators[0];
    for keys in [
        vec![],
        vec![first],
        vec![first, first],
        vec![first, &fleet.online],
    ] {
        let error = fleet.refused(&signed(&order(), &keys));
        assert!(
            matches!(
                error,
                OrderError::Signatures(VerifyError::NotEnoughSignatures { .. })
            ),
            "{error}"
        );
    }
}

#[test]
fn type_confusion_another_document_of_the_operators_is_no_order() {
    let fleet = fleet();
    let payload = serde_json::to_vec(&order()).unwrap();
    for kind in [policy::PAYLOAD_TYPE, trust::PAYLOAD_TYPE, TOMBSTONE_TYPE] {
        let error = fleet.refused(&fleet.good(kind, payload.clone()));
        assert!(
            matches!(error, OrderError::Signatures(VerifyError::PayloadType { .. })),
            "{kind}: {error}"
        );
    }
}

#[test]
fn mix_and_match_another_fleets_and_another_hosts_order() {
    let fleet = fleet();
    let other = Decommission {
        fleet: FleetId::new(Uuid::from_u128(2)),
        ..order()
    };
    let keys: Vec<&SigningKey> = fleet.operators.iter().collect();
    let error = fleet.refused(&signed(&other, &keys));
    assert!(matches!(error, OrderError::Fleet { .. }), "{error}");
    let other = Decommission {
        host: HostId::new(Uuid::from_u128(8)),
        ..order()
    };
    let error = fleet.refused(&signed(&other, &keys));
    assert!(matches!(error, OrderError::Host { .. }), "{error}");
}

#[test]
fn an_order_of_another_form_is_refused_by_its_form() {
    let fleet = fleet();
    let document = serde_json::to_value(order()).unwrap();
    let payload = changed(document.clone(), "schema", json!(2));
    let error = fleet.refused(&fleet.good(DECOMMISSION_TYPE, payload));
    assert!(matches!(error, OrderError::Schema(2)), "{error}");
    for payload in [
        changed(document.clone(), "until", json!(1)),
        changed(document, "nonce", json!("short")),
    ] {
        let error = fleet.refused(&fleet.good(DECOMMISSION_TYPE, payload));
        assert!(matches!(error, OrderError::Malformed(_)), "{error}");
    }
}

#[test]
fn a_tombstone_of_another_form_is_refused_by_its_form() {
    let key = HostKey::generate().unwrap();
    let document = json!({
        "schema": 1,
        "fleet": FLEET,
        "host": HOST,
        "nonce": Nonce::from_random([1; 16]),
        "order": decnet_wire::ids::Digest::from_sha256([7; 32]),
        "finished_at": "2026-01-02T03:04:05.678Z",
        "removed": [],
        "left": [],
    });
    let admit = |payload: Vec<u8>| {
        let bytes = Envelope::sign_by_host(TOMBSTONE_TYPE, payload, &key)
            .unwrap()
            .to_json();
        admit_tombstone(&bytes, FLEET, HOST, &[*key.public()])
    };
    admit(serde_json::to_vec(&document).unwrap()).unwrap();
    let error = admit(changed(document.clone(), "schema", json!(2))).unwrap_err();
    assert!(matches!(error, OrderError::Schema(2)), "{error}");
    let error = admit(changed(document, "new", json!(1))).unwrap_err();
    assert!(matches!(error, OrderError::Malformed(_)), "{error}");
}

#[test]
fn endless_data_is_refused_before_it_is_parsed() {
    let error = fleet().refused(&vec![b' '; limits::ORDER + 1]);
    assert!(
        matches!(error, OrderError::Envelope(ParseError::TooLarge { .. })),
        "{error}"
    );
    let key = HostKey::generate().unwrap();
    let long = vec![b' '; limits::TOMBSTONE + 1];
    let error = admit_tombstone(&long, FLEET, HOST, &[*key.public()]).unwrap_err();
    assert!(
        matches!(error, OrderError::Envelope(ParseError::TooLarge { .. })),
        "{error}"
    );
}
