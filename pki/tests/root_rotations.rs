//! Changes of operator keys, as sequences of roots: what TUF's conformance suite tries as key rotations
//! (`test_updater_key_rotations.py`), restated for this format. A case says which keys each version names, how many of
//! them must sign, which sign it, and whether a host follows.

#![allow(clippy::unwrap_used)]

use decnet_pki::ca::CertificateAuthority;
use decnet_pki::envelope::Envelope;
use decnet_pki::key::SigningKey;
use decnet_pki::root::{Root, RootError};
use decnet_wire::ids::{FleetId, Timestamp};
use decnet_wire::trust::{PAYLOAD_TYPE, SCHEMA, TrustRoot};
use time::OffsetDateTime;
use uuid::Uuid;

/// Keys, threshold, signers.
type Version = (&'static [usize], u32, &'static [usize]);

/// What becomes of the last version; every one before is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Followed,
    /// Too few of the operators before signed it.
    NotByThose,
    /// Too few of its own operators signed it.
    NotByItsOwn,
}

const FIVE: &[usize] = &[0, 1, 2, 3, 4];

const CASES: &[(&str, &[Version], Last)] = &[
    (
        "1 of 1, the key changes",
        &[(&[0], 1, &[0]), (&[1], 1, &[0, 1]), (&[1], 1, &[1])],
        Last::Followed,
    ),
    (
        "1 of 1, the key changes and others sign besides",
        &[(&[0], 1, &[0]), (&[1], 1, &[3, 0, 1, 4]), (&[1], 1, &[2, 1, 0])],
        Last::Followed,
    ),
    (
        "3 of 5, others sign each time",
        &[
            (FIVE, 3, &[0, 2, 4]),
            (FIVE, 3, &[1, 2, 3]),
            (FIVE, 3, &[0, 3, 4]),
            (FIVE, 3, &[4, 1, 0]),
        ],
        Last::Followed,
    ),
    (
        "3 of 5, one key changes",
        &[
            (FIVE, 3, &[0, 1, 2]),
            (&[1, 2, 3, 4, 5], 3, &[2, 3, 4]),
            (&[1, 2, 3, 4, 5], 3, &[3, 4, 5]),
        ],
        Last::Followed,
    ),
    (
        "3 of 5, one key changes and signs at once",
        &[(FIVE, 3, &[0, 1, 2]), (&[1, 2, 3, 4, 5], 3, &[0, 3, 4, 5])],
        Last::Followed,
    ),
    (
        "3 of 5, all keys change",
        &[
            (FIVE, 3, &[0, 2, 4]),
            (&[5, 6, 7, 8, 9], 3, &[0, 2, 4, 5, 6, 7]),
            (&[5, 6, 7, 8, 9], 3, &[7, 8, 9]),
        ],
        Last::Followed,
    ),
    (
        "1 of 3 becomes 2 of 3",
        &[(&[0, 1, 2], 1, &[0]), (&[0, 1, 2], 2, &[0, 1])],
        Last::Followed,
    ),
    (
        "2 of 3 becomes 1 of 3",
        &[
            (&[0, 1, 2], 2, &[0, 1]),
            (&[0, 1, 2], 1, &[0, 1]),
            (&[0, 1, 2], 1, &[2]),
        ],
        Last::Followed,
    ),
    (
        "1 of 2 becomes 2 of 2",
        &[(&[0], 1, &[0]), (&[0, 1], 2, &[0, 1]), (&[0, 1], 2, &[0, 1])],
        Last::Followed,
    ),
    (
        "1 of 1, the old key does not sign",
        &[(&[0], 1, &[0]), (&[1], 1, &[1, 2, 3])],
        Last::NotByThose,
    ),
    (
        "1 of 1, the new key does not sign",
        &[(&[0], 1, &[0]), (&[1], 1, &[0, 2])],
        Last::NotByItsOwn,
    ),
    (
        "3 of 5, one key changes and only two of the new ones sign",
        &[(FIVE, 3, &[0, 2, 4]), (&[1, 2, 3, 4, 5], 3, &[0, 2, 4])],
        Last::NotByItsOwn,
    ),
    (
        "3 of 5, one key changes and only two of the old ones sign",
        &[(FIVE, 3, &[0, 2, 4]), (&[1, 2, 3, 4, 5], 3, &[2, 4, 5])],
        Last::NotByThose,
    ),
    (
        "1 of 3 becomes 2 of 3, and one signs",
        &[(&[0, 1, 2], 1, &[0]), (&[0, 1, 2], 2, &[1])],
        Last::NotByItsOwn,
    ),
    (
        "2 of 3 becomes 1 of 3, and one signs",
        &[(&[0, 1, 2], 2, &[0, 1]), (&[0, 1, 2], 1, &[1])],
        Last::NotByThose,
    ),
    (
        "keys that were given up cannot come back by themselves",
        &[(&[0], 1, &[0]), (&[1], 1, &[0, 1]), (&[0], 1, &[0])],
        Last::NotByThose,
    ),
];

#[test]
fn operators_change_only_by_the_thresholds_of_both_versions() {
    let keys: Vec<SigningKey> = (0..10).map(|_| SigningKey::generate().unwrap()).collect();
    let authority = CertificateAuthority::create("test", OffsetDateTime::UNIX_EPOCH).unwrap();
    for (case, versions, last) in CASES {
        let mut known: Option<Root> = None;
        for (at, (named, threshold, signers)) in versions.iter().enumerate() {
            let document = TrustRoot {
                policy: None,
                schema: SCHEMA,
                fleet: FleetId::new(Uuid::from_u128(1)),
                version: at as u64 + 1,
                epoch: 1,
                threshold: *threshold,
                operator_keys: named.iter().map(|key| keys[*key].public().to_string()).collect(),
                online_key: keys[0].public().to_string(),
                online_key_expires_at: Timestamp::new(OffsetDateTime::UNIX_EPOCH),
                ca_certificates: vec![authority.cert_pem()],
            };
            let signers: Vec<&SigningKey> = signers.iter().map(|key| &keys[*key]).collect();
            let envelope = Envelope::sign(PAYLOAD_TYPE, serde_json::to_vec(&document).unwrap(), &signers);
            let outcome = match &known {
                None => Root::pinned(envelope.clone(), &envelope.digest()),
                Some(known) => known.next(envelope),
            };
            let expected = if at + 1 == versions.len() {
                *last
            } else {
                Last::Followed
            };
            let found = match &outcome {
                Ok(_) => Last::Followed,
                Err(RootError::Signatures(_)) => Last::NotByThose,
                Err(RootError::OwnSignatures(_)) => Last::NotByItsOwn,
                Err(other) => unreachable!("{case}, version {}: {other}", at + 1),
            };
            assert_eq!(found, expected, "{case}, version {}", at + 1);
            known = outcome.ok();
        }
    }
}
