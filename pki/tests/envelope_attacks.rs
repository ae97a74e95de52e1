//! What a forger may try on a signed envelope, one test each.

#![allow(clippy::unwrap_used)]

use std::num::NonZeroUsize;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use decnet_pki::envelope::{
    Envelope, MAX_KEY_ID_LEN, MAX_PAYLOAD_TYPE_LEN, MAX_SIGNATURES, ParseError, VerifyError,
    pre_authentication_encoding,
};
use decnet_pki::key::{PublicKey, SigningKey};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

const TYPE: &str = "application/vnd.example.bundle+json";
const MAX: usize = 1 << 20;

fn at_least(threshold: usize) -> NonZeroUsize {
    NonZeroUsize::new(threshold).unwrap()
}

fn key() -> SigningKey {
    SigningKey::generate().unwrap()
}

fn not_enough(valid: usize, threshold: usize) -> VerifyError {
    VerifyError::NotEnoughSignatures { valid, threshold }
}

fn parse(json: &serde_json::Value) -> Result<Envelope, ParseError> {
    Envelope::parse(json.to_string().as_bytes(), MAX)
}

fn to_value(envelope: &Envelope) -> serde_json::Value {
    serde_json::from_slice(&envelope.to_json()).unwrap()
}

#[test]
fn the_encoding_matches_the_specifications_vector() {
    assert_eq!(
        pre_authentication_encoding("http://example.com/HelloWorld", b"hello world"),
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    );
    assert_eq!(pre_authentication_encoding("", b""), b"DSSEv1 0  0 ");
    assert_eq!(
        pre_authentication_encoding("é", b"\0"),
        b"DSSEv1 2 \xc3\xa9 1 \0",
        "lengths are bytes"
    );
}

#[test]
fn the_specifications_envelope_parses_and_its_signature_is_over_our_encoding() {
    // protocol.md, "Test Vectors": ECDSA P-256, signature as r and s, public key by its coordinates.
    let text = br#"{"payload": "aGVsbG8gd29ybGQ=",
        "payloadType": "http://example.com/HelloWorld",
        "signatures": [{"sig": "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="}]}"#;
    let envelope = Envelope::parse(text, MAX).unwrap();
    assert_eq!(envelope.payload_type(), "http://example.com/HelloWorld");
    assert_eq!(envelope.unverified_payload(), b"hello world");

    let point = hex::decode(concat!(
        "04",
        "67cd390f77aa359cb08c2235f652270493a9ed832b0abcc01f70954c0390d238",
        "0c782bd54e269125a44f4433aff1432ce94e12bca73aa67ac80cea12608ddf74",
    ))
    .unwrap();
    let json: serde_json::Value = serde_json::from_slice(text).unwrap();
    let signature = STANDARD
        .decode(json["signatures"][0]["sig"].as_str().unwrap())
        .unwrap();
    let signed = pre_authentication_encoding(envelope.payload_type(), envelope.unverified_payload());
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(&signed, &signature)
        .unwrap();
}

#[test]
fn what_was_signed_comes_out_of_verification_unchanged() {
    let signer = key();
    let sent = Envelope::sign(TYPE, b"{\"a\": 1}".to_vec(), &[&signer]);
    let received = Envelope::parse(&sent.to_json(), MAX).unwrap();
    assert_eq!(received, sent);
    let verified = received
        .verify(TYPE, &[key().public(), signer.public()], at_least(1))
        .unwrap();
    assert_eq!(verified.bytes(), b"{\"a\": 1}");
    assert_eq!(verified.payload_type(), TYPE);
    assert_eq!(verified.signers(), [signer.public()]);
    assert_eq!(verified.digest(), sent.digest());
}

#[test]
fn the_json_has_the_specifications_members_and_standard_base64() {
    let signer = key();
    let value = to_value(&Envelope::sign(TYPE, vec![0xfb, 0xff], &[&signer]));
    assert_eq!(value["payload"], "+/8=");
    assert_eq!(value["payloadType"], TYPE);
    assert_eq!(value["signatures"][0]["keyid"], signer.public().key_id());
    assert_eq!(value.as_object().unwrap().len(), 3);
    assert_eq!(value["signatures"][0].as_object().unwrap().len(), 2);
}

#[test]
fn both_base64_alphabets_are_accepted_but_not_in_one_string() {
    let signer = key();
    let mut value = to_value(&Envelope::sign(TYPE, vec![0xfb, 0xff, 0xfe], &[&signer]));
    let sig = value["signatures"][0]["sig"].as_str().unwrap().to_owned();
    for (payload, sig) in [
        ("+//+", sig.clone()),
        ("-__-", sig.replace('+', "-").replace('/', "_")),
        (
            "-__-",
            sig.replace('+', "-")
                .replace('/', "_")
                .trim_end_matches('=')
                .to_owned(),
        ),
    ] {
        value["payload"] = payload.into();
        value["signatures"][0]["sig"] = sig.into();
        parse(&value)
            .unwrap()
            .verify(TYPE, &[signer.public()], at_least(1))
            .unwrap();
    }
    value["payload"] = "+_/-".into();
    assert!(matches!(parse(&value), Err(ParseError::Malformed(_))));
}

#[test]
fn tampered_payload_is_refused() {
    let signer = key();
    let mut value = to_value(&Envelope::sign(TYPE, b"deploy nothing".to_vec(), &[&signer]));
    value["payload"] = "ZGVwbG95IGV2ZXJ5dGhpbmc=".into();
    assert_eq!(
        parse(&value)
            .unwrap()
            .verify(TYPE, &[signer.public()], at_least(1)),
        Err(not_enough(0, 1))
    );
}

#[test]
fn type_confusion_is_refused_before_any_signature_is_checked() {
    let signer = key();
    let envelope = Envelope::sign("application/vnd.example.policy+json", b"{}".to_vec(), &[&signer]);
    let refused = Err(VerifyError::PayloadType {
        expected: TYPE.to_owned(),
        found: "application/vnd.example.policy+json".to_owned(),
    });
    assert_eq!(envelope.verify(TYPE, &[signer.public()], at_least(1)), refused);
    // With no key at all the answer is still the type's: no signature was counted.
    assert_eq!(envelope.verify(TYPE, &[], at_least(1)), refused);
}

#[test]
fn relabelling_one_type_as_another_breaks_the_signature() {
    let signer = key();
    let mut value = to_value(&Envelope::sign("other", b"{}".to_vec(), &[&signer]));
    value["payloadType"] = TYPE.into();
    assert_eq!(
        parse(&value)
            .unwrap()
            .verify(TYPE, &[signer.public()], at_least(1)),
        Err(not_enough(0, 1))
    );
}

#[test]
fn moving_bytes_between_type_and_payload_breaks_the_signature() {
    let signer = key();
    let mut value = to_value(&Envelope::sign("ab", b"c".to_vec(), &[&signer]));
    value["payloadType"] = "a".into();
    value["payload"] = "YmM=".into();
    assert_eq!(
        parse(&value)
            .unwrap()
            .verify("a", &[signer.public()], at_least(1)),
        Err(not_enough(0, 1))
    );
}

#[test]
fn a_strangers_signature_under_a_known_key_id_is_refused() {
    let (signer, stranger) = (key(), key());
    let mut value = to_value(&Envelope::sign(TYPE, b"{}".to_vec(), &[&stranger]));
    value["signatures"][0]["keyid"] = signer.public().key_id().into();
    assert_eq!(
        parse(&value)
            .unwrap()
            .verify(TYPE, &[signer.public()], at_least(1)),
        Err(not_enough(0, 1))
    );
}

#[test]
fn a_wrong_or_missing_key_id_does_not_stop_a_good_signature() {
    let signer = key();
    let mut value = to_value(&Envelope::sign(TYPE, b"{}".to_vec(), &[&signer]));
    value["signatures"][0]["keyid"] = "nonsense".into();
    parse(&value)
        .unwrap()
        .verify(TYPE, &[signer.public()], at_least(1))
        .unwrap();
    value["signatures"][0].as_object_mut().unwrap().remove("keyid");
    parse(&value)
        .unwrap()
        .verify(TYPE, &[signer.public()], at_least(1))
        .unwrap();
}

#[test]
fn one_signature_repeated_under_many_key_ids_counts_once() {
    let signer = key();
    let mut value = to_value(&Envelope::sign(TYPE, b"{}".to_vec(), &[&signer]));
    let sig = value["signatures"][0]["sig"].clone();
    value["signatures"] = (0..3)
        .map(|id| serde_json::json!({"keyid": format!("key {id}"), "sig": sig}))
        .collect();
    let envelope = parse(&value).unwrap();
    assert_eq!(
        envelope.verify(TYPE, &[signer.public(), key().public()], at_least(2)),
        Err(not_enough(1, 2))
    );
}

#[test]
fn a_bad_signature_beside_good_ones_takes_nothing_from_them() {
    let (good, other) = (key(), key());
    let mut json = to_value(&Envelope::sign(TYPE, b"{}".to_vec(), &[&good, &other]));
    // The key id says that it is the second's.
    json["signatures"][1]["sig"] = STANDARD.encode([7; 64]).into();
    let envelope = parse(&json).unwrap();
    let keys = [good.public(), other.public()];
    assert_eq!(
        envelope.verify(TYPE, &keys, at_least(1)).unwrap().signers(),
        [good.public()]
    );
    assert_eq!(envelope.verify(TYPE, &keys, at_least(2)), Err(not_enough(1, 2)));
}

#[test]
fn a_list_of_values_is_no_envelope_and_no_signature() {
    let signer = key();
    let value = to_value(&Envelope::sign(TYPE, b"{}".to_vec(), &[&signer]));
    let signature = &value["signatures"][0];
    let listed = serde_json::json!([signature["keyid"], signature["sig"]]);
    assert!(parse(&serde_json::json!([TYPE, value["payload"], value["signatures"]])).is_err());
    let mut other = value.clone();
    other["signatures"][0] = listed;
    assert!(parse(&other).is_err());
    assert!(parse(&value).is_ok());
}

#[test]
fn one_key_listed_twice_counts_once() {
    let signer = key();
    let envelope = Envelope::sign(TYPE, b"{}".to_vec(), &[&signer, &signer]);
    assert_eq!(
        envelope.verify(TYPE, &[signer.public(), signer.public()], at_least(2)),
        Err(not_enough(1, 2))
    );
}

#[test]
fn a_threshold_needs_that_many_different_known_keys() {
    let keys = [key(), key(), key()];
    let known: Vec<PublicKey> = keys.iter().map(SigningKey::public).collect();
    let stranger = key();
    let one = Envelope::sign(TYPE, b"{}".to_vec(), &[&keys[0], &stranger]);
    assert_eq!(one.verify(TYPE, &known, at_least(2)), Err(not_enough(1, 2)));
    let two = Envelope::sign(TYPE, b"{}".to_vec(), &[&stranger, &keys[2], &keys[0]]);
    let verified = two.verify(TYPE, &known, at_least(2)).unwrap();
    let mut expected = vec![known[0], known[2]];
    expected.sort();
    assert_eq!(verified.signers(), expected);
    assert_eq!(two.verify(TYPE, &known, at_least(4)), Err(not_enough(2, 4)));
}

#[test]
fn signatures_gathered_one_by_one_reach_the_threshold() {
    let (first, second) = (key(), key());
    let mut envelope = Envelope::sign(TYPE, b"{}".to_vec(), &[&first]);
    let digest = envelope.digest();
    let mut envelope = {
        envelope.cosign(TYPE, &second).unwrap();
        envelope.cosign(TYPE, &second).unwrap();
        Envelope::parse(&envelope.to_json(), MAX).unwrap()
    };
    envelope
        .verify(TYPE, &[first.public(), second.public()], at_least(2))
        .unwrap();
    assert_eq!(envelope.digest(), digest);
    assert_eq!(to_value(&envelope)["signatures"].as_array().unwrap().len(), 2);
    assert!(
        envelope.cosign("other", &key()).is_err(),
        "a signer is told what it would sign"
    );
}

#[test]
fn cosigning_keeps_anothers_signature_that_poses_under_the_signers_key_id() {
    let (first, second) = (key(), key());
    let mut value = to_value(&Envelope::sign(TYPE, b"{}".to_vec(), &[&first]));
    value["signatures"][0]["keyid"] = second.public().key_id().into();
    let mut envelope = parse(&value).unwrap();
    envelope.cosign(TYPE, &second).unwrap();
    envelope
        .verify(TYPE, &[first.public(), second.public()], at_least(2))
        .unwrap();
}

#[test]
fn a_full_envelope_takes_no_further_signature_and_stays_readable() {
    let keys: Vec<SigningKey> = (0..MAX_SIGNATURES).map(|_| key()).collect();
    let mut envelope = Envelope::sign(TYPE, Vec::new(), &keys.iter().collect::<Vec<_>>());
    assert!(envelope.cosign(TYPE, &key()).is_err());
    envelope.cosign(TYPE, &keys[0]).unwrap();
    assert_eq!(Envelope::parse(&envelope.to_json(), MAX).unwrap(), envelope);
}

#[test]
fn endless_data_is_refused_by_length_before_parsing() {
    let json = Envelope::sign(TYPE, vec![0; 100], &[&key()]).to_json();
    assert!(Envelope::parse(&json, json.len()).is_ok());
    let error = Envelope::parse(&json, json.len() - 1).unwrap_err();
    assert!(matches!(error, ParseError::TooLarge { .. }), "{error}");
    // Not even JSON: only the length was looked at.
    assert!(matches!(
        Envelope::parse(&[b'{'; 50], 49),
        Err(ParseError::TooLarge { len: 50, max_len: 49 })
    ));
}

#[test]
fn a_flood_of_signatures_is_refused() {
    let mut value = to_value(&Envelope::sign(TYPE, Vec::new(), &[]));
    value["signatures"] = (0..MAX_SIGNATURES)
        .map(|_| serde_json::json!({"sig": ""}))
        .collect();
    parse(&value).unwrap();
    value["signatures"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({"sig": ""}));
    assert!(matches!(parse(&value), Err(ParseError::Malformed(_))));
}

#[test]
fn oversized_type_and_key_id_are_refused() {
    let long_type = Envelope::sign(&"x".repeat(MAX_PAYLOAD_TYPE_LEN + 1), Vec::new(), &[]);
    assert!(parse(&to_value(&long_type)).is_err());
    let mut value = to_value(&Envelope::sign(TYPE, Vec::new(), &[&key()]));
    value["signatures"][0]["keyid"] = "x".repeat(MAX_KEY_ID_LEN + 1).into();
    assert!(parse(&value).is_err());
}

#[test]
fn a_member_given_twice_is_refused() {
    let text = br#"{"payloadType":"a","payload":"","payload":"AAAA","signatures":[]}"#;
    assert!(matches!(
        Envelope::parse(text, MAX),
        Err(ParseError::Malformed(_))
    ));
}

#[test]
fn bytes_after_the_envelope_are_refused() {
    let mut json = Envelope::sign(TYPE, Vec::new(), &[&key()]).to_json();
    json.extend_from_slice(b"{}");
    assert!(matches!(
        Envelope::parse(&json, MAX),
        Err(ParseError::Malformed(_))
    ));
}

#[test]
fn no_signature_at_all_is_refused() {
    let envelope = Envelope::sign(TYPE, b"{}".to_vec(), &[]);
    assert_eq!(
        envelope.verify(TYPE, &[key().public()], at_least(1)),
        Err(not_enough(0, 1))
    );
}
