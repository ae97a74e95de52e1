//! Project Wycheproof's vectors for Ed25519: signatures that look right and are not, and the other way round.

#![allow(clippy::unwrap_used)]

use decnet_pki::key::PublicKey;
use wycheproof::TestResult;
use wycheproof::eddsa::{TestName, TestSet};

#[test]
fn every_vector_of_ed25519_is_judged_as_wycheproof_does() {
    let set = TestSet::load(TestName::Ed25519).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in set.test_groups {
        let key: [u8; 32] = group.key.pk.as_slice().try_into().unwrap();
        let key = PublicKey::from_bytes(key);
        for test in group.tests {
            let verified = key.verify(&test.msg, &test.sig).is_ok();
            match test.result {
                TestResult::Valid => valid += 1,
                TestResult::Invalid => invalid += 1,
                TestResult::Acceptable => panic!("test {}: neither valid nor invalid", test.tc_id),
            }
            let expected = test.result == TestResult::Valid;
            assert_eq!(verified, expected, "test {}: {}", test.tc_id, test.comment);
        }
    }
    assert!(valid > 50 && invalid > 50, "{valid} valid, {invalid} invalid");
    println!("{valid} valid, {invalid} invalid");
}
