//! What a policy must not be believed for, each test named after the threat.

#![allow(clippy::unwrap_used, clippy::panic)]

use decnet_pki::ca::CertificateAuthority;
use decnet_pki::envelope::Envelope;
use decnet_pki::key::SigningKey;
use decnet_pki::policy::{PolicyError, SignedPolicy};
use decnet_pki::root::Root;
use decnet_wire::ids::{FleetId, HostId, Timestamp};
use decnet_wire::limits;
use decnet_wire::policy::{PAYLOAD_TYPE, Policy, Rules, SCHEMA};
use decnet_wire::trust::{self, TrustRoot};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

fn day(n: i64) -> Timestamp {
    Timestamp::new(OffsetDateTime::UNIX_EPOCH + Duration::days(n))
}

fn host() -> HostId {
    HostId::new(Uuid::from_u128(7))
}

struct Fleet {
    operators: Vec<SigningKey>,
    root: Root,
}

/// Three operators, of whom two must sign.
fn fleet() -> Fleet {
    let operators: Vec<_> = (0..3).map(|_| SigningKey::generate().unwrap()).collect();
    let authority = CertificateAuthority::create("test", OffsetDateTime::UNIX_EPOCH).unwrap();
    let document = TrustRoot {
        schema: trust::SCHEMA,
        fleet: FleetId::new(Uuid::from_u128(1)),
        version: 1,
        epoch: 1,
        threshold: 2,
        operator_keys: operators.iter().map(|key| key.public().to_string()).collect(),
        online_key: SigningKey::generate().unwrap().public().to_string(),
        online_key_expires_at: day(1000),
        ca_certificates: vec![authority.cert_pem()],
        policy: None,
    };
    let keys: Vec<&SigningKey> = operators.iter().collect();
    let envelope = Envelope::sign(trust::PAYLOAD_TYPE, serde_json::to_vec(&document).unwrap(), &keys);
    let root = Root::stored(envelope).unwrap();
    Fleet { operators, root }
}

fn policy(version: u64) -> Policy {
    Policy {
        schema: SCHEMA,
        fleet: FleetId::new(Uuid::from_u128(1)),
        version,
        issued_at: day(1),
        expires_at: day(100),
        hosts: None,
        rules: Rules::default(),
    }
}

fn signed(policy: &Policy, keys: &[&SigningKey]) -> Vec<u8> {
    Envelope::sign(PAYLOAD_TYPE, serde_json::to_vec(policy).unwrap(), keys).to_json()
}

impl Fleet {
    fn good(&self, policy: &Policy) -> Vec<u8> {
        signed(policy, &[&self.operators[0], &self.operators[2]])
    }

    fn admit(&self, bytes: &[u8], held: Option<&SignedPolicy>) -> Result<SignedPolicy, PolicyError> {
        SignedPolicy::admit(bytes, &self.root, Some(host()), held, day(2))
    }

    fn refused(&self, bytes: &[u8], held: Option<&SignedPolicy>) -> PolicyError {
        self.admit(bytes, held).unwrap_err()
    }
}

#[test]
fn a_policy_that_enough_operators_signed_is_believed() {
    let fleet = fleet();
    let first = fleet.admit(&fleet.good(&policy(1)), None).unwrap();
    assert_eq!(first.version(), 1);
    let again = fleet.admit(&fleet.good(&policy(1)), Some(&first)).unwrap();
    assert_eq!(again.digest(), first.digest());
    assert_eq!(
        fleet
            .admit(&fleet.good(&policy(5)), Some(&first))
            .unwrap()
            .version(),
        5
    );
    let kept = SignedPolicy::stored(&first.envelope().to_json()).unwrap();
    assert_eq!(kept.document(), first.document());
}

#[test]
fn arbitrary_software_threshold_and_one_key_twice() {
    let fleet = fleet();
    let (one, thief) = (&fleet.operators[0], SigningKey::generate().unwrap());
    for keys in [vec![], vec![one], vec![one, one], vec![one, &thief], vec![&thief]] {
        let error = fleet.refused(&signed(&policy(1), &keys), None);
        assert!(matches!(error, PolicyError::Signatures(_)), "{error}");
    }
}

#[test]
fn type_confusion_a_root_or_a_bundle_is_no_policy() {
    let fleet = fleet();
    let keys = [&fleet.operators[0], &fleet.operators[1]];
    for payload_type in [trust::PAYLOAD_TYPE, decnet_wire::bundle::PAYLOAD_TYPE] {
        let payload = serde_json::to_vec(&policy(1)).unwrap();
        let error = fleet.refused(&Envelope::sign(payload_type, payload, &keys).to_json(), None);
        assert!(matches!(error, PolicyError::Signatures(_)), "{error}");
    }
    let root = fleet.root.envelope().to_json();
    assert!(matches!(fleet.refused(&root, None), PolicyError::Signatures(_)));
}

#[test]
fn mix_and_match_another_fleets_and_another_hosts_policy() {
    let fleet = fleet();
    let mut other = policy(1);
    other.fleet = FleetId::new(Uuid::from_u128(2));
    assert!(matches!(
        fleet.refused(&fleet.good(&other), None),
        PolicyError::Fleet { .. }
    ));
    let mut other = policy(1);
    other.hosts = Some([HostId::new(Uuid::from_u128(8))].into());
    let bytes = fleet.good(&other);
    assert!(matches!(fleet.refused(&bytes, None), PolicyError::Host(found) if found == host()));
    // Who hands it on believes it.
    SignedPolicy::admit(&bytes, &fleet.root, None, None, day(2)).unwrap();
}

#[test]
fn freeze_and_rollback_and_fast_forward_and_equivocation() {
    let fleet = fleet();
    let held = fleet.admit(&fleet.good(&policy(5)), None).unwrap();
    let mut late = policy(6);
    late.expires_at = day(2);
    assert!(matches!(
        fleet.refused(&fleet.good(&late), Some(&held)),
        PolicyError::Expired { .. }
    ));
    let old = fleet.good(&policy(4));
    assert!(matches!(
        fleet.refused(&old, Some(&held)),
        PolicyError::Rollback { known: 5, found: 4 }
    ));
    for version in [u64::MAX, 6 + (1 << 20)] {
        let far = fleet.good(&policy(version));
        assert!(matches!(
            fleet.refused(&far, Some(&held)),
            PolicyError::FastForward { .. }
        ));
    }
    let mut other = policy(5);
    other.rules.capabilities.insert("NET_ADMIN".parse().unwrap());
    assert!(matches!(
        fleet.refused(&fleet.good(&other), Some(&held)),
        PolicyError::Equivocation(5)
    ));
}

#[test]
fn endless_data_and_what_is_none() {
    let fleet = fleet();
    let keys = [&fleet.operators[0], &fleet.operators[1]];
    assert!(matches!(
        fleet.refused(&vec![b'['; limits::POLICY + 1], None),
        PolicyError::Envelope(_)
    ));
    assert!(matches!(fleet.refused(b"[1]", None), PolicyError::Envelope(_)));
    let is = |payload: &str| {
        fleet.refused(
            &Envelope::sign(PAYLOAD_TYPE, payload.as_bytes().to_vec(), &keys).to_json(),
            None,
        )
    };
    assert!(matches!(is(r#"{"schema": 2, "new": 1}"#), PolicyError::Schema(2)));
    assert!(matches!(is(r#"{"schema": 1}"#), PolicyError::Malformed(_)));
    let damaged = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut document = serde_json::to_value(policy(1)).unwrap();
        change(&mut document);
        is(&document.to_string())
    };
    assert!(matches!(
        damaged(&|d| d["rules"]["privileged"] = true.into()),
        PolicyError::Malformed(_)
    ));
    assert!(matches!(
        damaged(&|d| d["version"] = 0.into()),
        PolicyError::Malformed(_)
    ));
    assert!(matches!(
        damaged(&|d| d["hosts"] = serde_json::json!([])),
        PolicyError::Malformed(_)
    ));
    assert!(matches!(
        damaged(&|d| d["expires_at"] = d["issued_at"].clone()),
        PolicyError::Malformed(_)
    ));
}
