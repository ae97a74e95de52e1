//! What a release must not be believed for, or not be installed for, each test named after the threat.

#![allow(clippy::unwrap_used, clippy::panic)]

use decnet_pki::ca::CertificateAuthority;
use decnet_pki::envelope::{Envelope, ParseError, VerifyError};
use decnet_pki::key::SigningKey;
use decnet_pki::release::{ReleaseError, SignedRelease};
use decnet_pki::root::Root;
use decnet_wire::ids::{Digest, FleetId, HostId, Timestamp};
use decnet_wire::limits;
use decnet_wire::policy;
use decnet_wire::release::{Format, PAYLOAD_TYPE, Package, Release, SCHEMA, WHOLE};
use decnet_wire::trust::{self, TrustRoot};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

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
        fleet: FleetId::new(Uuid::from_u128(1)),
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

fn release(sequence: u64, version: &str) -> Release {
    Release {
        schema: SCHEMA,
        fleet: FleetId::new(Uuid::from_u128(1)),
        sequence,
        version: version.parse().unwrap(),
        downgrade: false,
        issued_at: Timestamp::new(OffsetDateTime::UNIX_EPOCH),
        packages: vec![Package {
            format: Format::Deb,
            architecture: "x86_64".parse().unwrap(),
            digest: Digest::from_sha256([1; 32]),
            size: 10,
        }],
    }
}

fn signed(release: &Release, keys: &[&SigningKey]) -> Vec<u8> {
    Envelope::sign(PAYLOAD_TYPE, serde_json::to_vec(release).unwrap(), keys).to_json()
}

impl Fleet {
    fn good(&self, release: &Release) -> SignedRelease {
        let bytes = signed(release, &[&self.operators[0], &self.operators[2]]);
        SignedRelease::admit(&bytes, &self.root).unwrap()
    }

    fn refused(&self, bytes: &[u8]) -> ReleaseError {
        SignedRelease::admit(bytes, &self.root).unwrap_err()
    }
}

#[test]
fn a_release_that_enough_operators_signed_is_believed_and_follows() {
    let fleet = fleet();
    let found = fleet.good(&release(3, "1.1"));
    assert_eq!(found.sequence(), 3);
    found.may_follow(2, &"1.0".parse().unwrap()).unwrap();
    found.may_follow(2, &"1.1".parse().unwrap()).unwrap();
    assert!(found.document().package(Format::Deb, "x86_64").is_some());
    assert!(found.document().package(Format::Rpm, "x86_64").is_none());
    assert!(found.document().package(Format::Deb, "aarch64").is_none());
}

#[test]
fn arbitrary_software_too_few_operators_or_the_master_alone() {
    let fleet = fleet();
    let document = release(1, "1.0");
    let first = &fleet.operators[0];
    for keys in [
        vec![],
        vec![first],
        vec![first, first],
        vec![first, &fleet.online],
    ] {
        let error = fleet.refused(&signed(&document, &keys));
        assert!(matches!(error, ReleaseError::Signatures(_)), "{error}");
    }
}

#[test]
fn type_confusion_another_document_of_the_operators_is_no_release() {
    let fleet = fleet();
    let keys: Vec<&SigningKey> = fleet.operators.iter().collect();
    let payload = serde_json::to_vec(&release(1, "1.0")).unwrap();
    let error = fleet.refused(&Envelope::sign(policy::PAYLOAD_TYPE, payload, &keys).to_json());
    assert!(
        matches!(error, ReleaseError::Signatures(VerifyError::PayloadType { .. })),
        "{error}"
    );
}

#[test]
fn mix_and_match_another_fleets_release() {
    let fleet = fleet();
    let mut document = release(1, "1.0");
    document.fleet = FleetId::new(Uuid::from_u128(2));
    let keys: Vec<&SigningKey> = fleet.operators.iter().collect();
    let error = fleet.refused(&signed(&document, &keys));
    assert!(matches!(error, ReleaseError::Fleet { .. }), "{error}");
}

#[test]
fn a_release_of_another_form_is_refused_by_its_form() {
    let fleet = fleet();
    let mut document = serde_json::to_value(release(1, "1.0")).unwrap();
    let keys: Vec<&SigningKey> = fleet.operators.iter().collect();
    let refused = |document: &serde_json::Value| {
        let payload = serde_json::to_vec(document).unwrap();
        fleet.refused(&Envelope::sign(PAYLOAD_TYPE, payload, &keys).to_json())
    };
    document["new"] = true.into();
    let error = refused(&document);
    assert!(matches!(error, ReleaseError::Malformed(_)), "{error}");
    document["schema"] = 2.into();
    let error = refused(&document);
    assert!(matches!(error, ReleaseError::Schema(2)), "{error}");
    // Also where nothing else is new.
    document.as_object_mut().unwrap().remove("new");
    let error = refused(&document);
    assert!(matches!(error, ReleaseError::Schema(2)), "{error}");
}

#[test]
fn endless_data() {
    let fleet = fleet();
    let error = fleet.refused(&vec![b' '; limits::RELEASE + 1]);
    assert!(
        matches!(error, ReleaseError::Envelope(ParseError::TooLarge { .. })),
        "{error}"
    );
    let mut document = release(1, "1.0");
    document.packages[0].size = limits::PACKAGE + 1;
    let keys: Vec<&SigningKey> = fleet.operators.iter().collect();
    let error = fleet.refused(&signed(&document, &keys));
    assert!(matches!(error, ReleaseError::Size(_)), "{error}");
}

#[test]
fn replay_what_was_taken_before_or_came_before_it() {
    let found = fleet().good(&release(3, "1.0"));
    let installed = "1.0".parse().unwrap();
    for taken in [3, 4] {
        let error = found.may_follow(taken, &installed).unwrap_err();
        assert!(matches!(error, ReleaseError::Replay { .. }), "{error}");
    }
}

#[test]
fn fast_forward_the_numbers_are_not_used_up_by_one_lie() {
    let fleet = fleet();
    let installed = "1.0".parse().unwrap();
    fleet
        .good(&release((1 << 20) + 7, "1.1"))
        .may_follow(7, &installed)
        .unwrap();
    for sequence in [(1 << 20) + 8, u64::MAX] {
        let error = fleet
            .good(&release(sequence, "1.1"))
            .may_follow(7, &installed)
            .unwrap_err();
        assert!(matches!(error, ReleaseError::FastForward { .. }), "{error}");
    }
}

#[test]
fn rollback_a_lower_version_unless_the_operators_say_so() {
    let fleet = fleet();
    let installed = "1.0".parse().unwrap();
    let mut document = release(3, "1.0~rc1");
    let error = fleet.good(&document).may_follow(2, &installed).unwrap_err();
    assert!(matches!(error, ReleaseError::Downgrade { .. }), "{error}");
    document.downgrade = true;
    fleet.good(&document).may_follow(2, &installed).unwrap();
}

#[test]
fn a_wave_takes_its_share_of_hosts_and_each_release_other_ones() {
    let fleet = fleet();
    let (first, second) = (fleet.good(&release(1, "1.0")), fleet.good(&release(2, "1.0")));
    let hosts: Vec<HostId> = (0..10_000).map(|n| HostId::new(Uuid::from_u128(n))).collect();
    let below = |release: &SignedRelease, least: u16| -> Vec<HostId> {
        let within = hosts.iter().filter(|host| release.position(**host) < least);
        within.copied().collect()
    };
    let tenth = below(&first, WHOLE / 10);
    // A thousand are expected, with a deviation of thirty.
    assert!((850..1150).contains(&tenth.len()), "{}", tenth.len());
    assert_eq!(below(&first, WHOLE).len(), hosts.len());
    assert!(below(&first, 0).is_empty());
    let fifth = below(&first, WHOLE / 5);
    assert!(
        tenth.iter().all(|host| fifth.contains(host)),
        "a larger wave keeps the hosts"
    );
    let both = below(&second, WHOLE / 10);
    let both = both.iter().filter(|host| tenth.contains(host)).count();
    assert!(both < tenth.len() / 2, "the same hosts are first each time");
}
