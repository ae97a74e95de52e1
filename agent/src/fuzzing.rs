//! What has to hold of everything that comes from outside, whatever it is.
//!
//! The fuzz targets in `agent/fuzz` call these with what libFuzzer makes up; the tests below with the seeds that lie
//! there, among which is whatever was found once. A promise that is broken panics.

#![allow(clippy::panic, reason = "a broken promise is a finding")]

use std::num::NonZeroUsize;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use decnet_pki::csr::VerifiedCsr;
use decnet_pki::envelope::{Envelope, MAX_PAYLOAD_TYPE_LEN};
use decnet_pki::key::{HostKey, SigningKey};
use decnet_pki::order::{SignedDecommission, admit_tombstone};
use decnet_pki::policy::SignedPolicy;
use decnet_pki::release::SignedRelease;
use decnet_pki::root::Root;
use decnet_wire::bundle::{self, Bundle};
use decnet_wire::enrol::Token;
use decnet_wire::ids::{Digest, FleetId, HostId, Timestamp};
use decnet_wire::order::{self, Decommission, Tombstone};
use decnet_wire::release::{self, Release, Version, WHOLE};
use decnet_wire::{limits, policy, trust};
use time::macros::datetime;
use uuid::Uuid;

use crate::admit::fuzzing::admit;
use crate::enrol::parse_token;
use crate::trust::next;

/// The moment at which everything is looked at.
pub(crate) fn now() -> Timestamp {
    Timestamp::new(datetime!(2026-03-01 12:00 UTC))
}

/// Keys that are the same in every run, so that seeds can name them.
fn key(number: u8) -> SigningKey {
    // RFC 8410 §7: the frame of a private key, and 32 bytes of it.
    let mut der = vec![
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    der.extend([number; 32]);
    let text = STANDARD.encode(der);
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
    match SigningKey::from_pkcs8_pem(&pem) {
        Ok(key) => key,
        Err(error) => panic!("a key made by rule is refused: {error}"),
    }
}

/// Operators 1 to 3, and the online key.
static KEYS: LazyLock<[SigningKey; 4]> = LazyLock::new(|| [key(1), key(2), key(3), key(4)]);

/// The host's, and another's. Nothing depends on which they are.
static HOST_KEYS: LazyLock<[HostKey; 2]> = LazyLock::new(|| {
    [(); 2].map(|()| match HostKey::generate() {
        Ok(key) => key,
        Err(error) => panic!("no key can be made: {error}"),
    })
});

const FIRST_ROOT: &str = include_str!("../fuzz/seeds/root/first");

/// Version 1 of the trust root: operator 1 alone, fleet 1.
pub(crate) static ROOT: LazyLock<Root> = LazyLock::new(|| {
    let payload = FIRST_ROOT
        .lines()
        .next()
        .unwrap_or_default()
        .get(1..)
        .unwrap_or_default();
    let envelope = Envelope::sign(trust::PAYLOAD_TYPE, payload.as_bytes().to_vec(), &[&KEYS[0]]);
    match Root::stored(envelope) {
        Ok(root) => root,
        Err(error) => panic!("the first root is refused: {error}"),
    }
});

pub(crate) const FLEET: FleetId = FleetId::new(Uuid::from_u128(1));
pub(crate) const HOST: HostId = HostId::new(Uuid::from_u128(2));

pub(crate) fn host_key() -> Digest {
    Digest::from_sha256([3; 32])
}

fn is_a_line(error: &impl std::error::Error) {
    let text = crate::error::one_line(&crate::error::error_chain(error));
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
}

/// An envelope: what is read writes as the same again, and nobody's signature is enough for nothing.
pub fn envelope(input: &[u8]) {
    const LONGEST: usize = 16 * 1024;
    match Envelope::parse(input, LONGEST) {
        Ok(envelope) => {
            assert!(input.len() <= LONGEST && envelope.payload_type().len() <= MAX_PAYLOAD_TYPE_LEN);
            let written = envelope.to_json();
            let again = Envelope::parse(&written, usize::MAX);
            assert!(
                again.is_ok_and(|again| again == envelope),
                "written, it is another one"
            );
            let keys = [KEYS[0].public(), KEYS[1].public()];
            let kind = envelope.payload_type().to_owned();
            if let Ok(verified) = envelope.verify(&kind, &keys, NonZeroUsize::MIN) {
                assert_eq!(verified.bytes(), envelope.unverified_payload());
            }
            let mut signed = envelope;
            if signed.cosign(&kind, &KEYS[0]).is_ok() {
                assert!(signed.verify(&kind, &keys, NonZeroUsize::MIN).is_ok());
                let another = format!("{kind}+");
                assert!(signed.verify(&another, &keys, NonZeroUsize::MIN).is_err());
            }
        }
        Err(error) => is_a_line(&error),
    }
}

/// A bundle of a stolen master, whose signature is good: it is refused in one line, or it is for this host, in its time,
/// and is read again as what it was.
pub fn bundle(input: &[u8]) {
    let envelope = Envelope::sign(bundle::PAYLOAD_TYPE, input.to_vec(), &[&KEYS[3]]).to_json();
    admit(&envelope);
    if let Ok(document) = serde_json::from_slice::<Bundle>(input)
        && let Ok(written) = serde_json::to_vec(&document)
    {
        let again = serde_json::from_slice::<Bundle>(&written);
        assert!(
            again.is_ok_and(|again| again == document),
            "written, it is another one"
        );
    }
}

/// A chain of trust roots, one a line, each behind a letter whose bits say which of three operators signed it: each that
/// is believed follows the one before, by the thresholds of both.
pub fn root(input: &[u8]) {
    let mut known = ROOT.clone();
    for line in input.split(|byte| *byte == b'\n').take(16) {
        let Some((who, payload)) = line.split_first() else {
            continue;
        };
        let signers: Vec<_> = (0..3)
            .filter(|at| who >> at & 1 == 1)
            .map(|at| &KEYS[at])
            .collect();
        let signed = Envelope::sign(trust::PAYLOAD_TYPE, payload.to_vec(), &signers);
        match next(&known, &signed.to_json()) {
            Ok(believed) => {
                assert_eq!(believed.version(), known.version() + 1);
                assert_eq!(believed.fleet(), known.fleet());
                assert!(believed.epoch() >= known.epoch());
                for operators in [known.operators(), believed.operators()] {
                    assert!(operators.verify(&signed, trust::PAYLOAD_TYPE).is_ok());
                }
                assert!(!believed.authorities().is_empty(), "nobody could connect");
                known = believed;
            }
            Err(error) => is_a_line(&error),
        }
        if let Err(error) = next(&known, payload) {
            is_a_line(&error);
        }
    }
}

/// Policies, one a line, which the operator signed: each that is believed is for this host and in its time, is not older
/// than the one before, and is read again as what it was. None is believed that somebody else signed.
pub fn policy(input: &[u8]) {
    let mut held: Option<SignedPolicy> = None;
    for payload in input.split(|byte| *byte == b'\n').take(16) {
        let signed =
            |key: &SigningKey| Envelope::sign(policy::PAYLOAD_TYPE, payload.to_vec(), &[key]).to_json();
        let known = held.as_ref().map_or(0, SignedPolicy::version);
        let stranger = SignedPolicy::admit(&signed(&KEYS[1]), &ROOT, Some(HOST), held.as_ref(), now());
        assert!(stranger.is_err(), "a stranger's policy is believed");
        match SignedPolicy::admit(&signed(&KEYS[0]), &ROOT, Some(HOST), held.as_ref(), now()) {
            Ok(believed) => {
                assert!(believed.is_for(FLEET, HOST) && believed.version() >= known);
                let document = believed.document();
                assert!(document.expires_at > now());
                let written = serde_json::to_vec(document).unwrap_or_default();
                let again = serde_json::from_slice::<policy::Policy>(&written);
                assert!(
                    again.is_ok_and(|again| again == *document),
                    "written, it is another one"
                );
                held = Some(believed);
            }
            Err(error) => is_a_line(&error),
        }
    }
}

/// Releases, one a line, which the operator signed: each that is believed is this fleet's, makes sense, and is read again
/// as what it was. One that may follow what is installed is newer, and is lower only where it says so. None is believed
/// that somebody else signed, or that was signed as another document.
pub fn release(input: &[u8]) {
    let (mut taken, mut installed): (u64, Option<Version>) = (0, None);
    for payload in input.split(|byte| *byte == b'\n').take(16) {
        let signed = |kind: &str, key: &SigningKey| {
            let envelope = Envelope::sign(kind, payload.to_vec(), &[key]);
            SignedRelease::admit(&envelope.to_json(), &ROOT)
        };
        let stranger = signed(release::PAYLOAD_TYPE, &KEYS[1]);
        assert!(stranger.is_err(), "a stranger's release is believed");
        let other = signed(order::DECOMMISSION_TYPE, &KEYS[0]);
        assert!(other.is_err(), "another document is believed to be a release");
        match signed(release::PAYLOAD_TYPE, &KEYS[0]) {
            Ok(believed) => {
                let document = believed.document();
                assert!(
                    document.schema == release::SCHEMA && document.fleet == FLEET && document.sequence > 0
                );
                assert!(!document.packages.is_empty());
                assert!(
                    document
                        .packages
                        .iter()
                        .all(|package| package.size <= limits::PACKAGE)
                );
                assert!(believed.position(HOST) < WHOLE);
                let written = serde_json::to_vec(document).unwrap_or_default();
                let again = serde_json::from_slice::<Release>(&written);
                assert!(
                    again.is_ok_and(|again| again == *document),
                    "written, it is another one"
                );
                let version = &document.version;
                let before = installed.get_or_insert_with(|| version.clone());
                assert_eq!(version.cmp(&*before), (*before).cmp(version).reverse());
                match believed.may_follow(taken, before) {
                    Ok(()) => {
                        assert!(document.sequence > taken);
                        assert!(*version >= *before || document.downgrade);
                        taken = document.sequence;
                        assert!(believed.may_follow(taken, before).is_err(), "it follows itself");
                        *before = version.clone();
                    }
                    Err(error) => is_a_line(&error),
                }
            }
            Err(error) => is_a_line(&error),
        }
    }
}

/// An order to leave that the operator signed, and a tombstone that the host did: what is believed is for this fleet and
/// this host, and is read again as what it was. Neither is believed of somebody else, nor one as the other.
pub fn order(input: &[u8]) {
    let signed = |kind: &str, key: &SigningKey| {
        let envelope = Envelope::sign(kind, input.to_vec(), &[key]);
        SignedDecommission::admit(&envelope.to_json(), &ROOT, HOST)
    };
    let stranger = signed(order::DECOMMISSION_TYPE, &KEYS[1]);
    assert!(stranger.is_err(), "a stranger's order is believed");
    let other = signed(release::PAYLOAD_TYPE, &KEYS[0]);
    assert!(other.is_err(), "another document is believed to be an order");
    match signed(order::DECOMMISSION_TYPE, &KEYS[0]) {
        Ok(believed) => {
            let document = believed.document();
            assert!(document.schema == order::SCHEMA && document.fleet == FLEET && document.host == HOST);
            let written = serde_json::to_vec(document).unwrap_or_default();
            let again = serde_json::from_slice::<Decommission>(&written);
            assert!(
                again.is_ok_and(|again| again == *document),
                "written, it is another one"
            );
        }
        Err(error) => is_a_line(&error),
    }

    let keys = [*HOST_KEYS[0].public()];
    let buried = |kind: &str, key: &HostKey| match Envelope::sign_by_host(kind, input.to_vec(), key) {
        Ok(envelope) => admit_tombstone(&envelope.to_json(), FLEET, HOST, &keys),
        Err(error) => panic!("the host's key does not sign: {error}"),
    };
    let stranger = buried(order::TOMBSTONE_TYPE, &HOST_KEYS[1]);
    assert!(stranger.is_err(), "a stranger's tombstone is believed");
    let other = buried(order::DECOMMISSION_TYPE, &HOST_KEYS[0]);
    assert!(other.is_err(), "another document is believed to be a tombstone");
    match buried(order::TOMBSTONE_TYPE, &HOST_KEYS[0]) {
        Ok(believed) => {
            assert!(believed.schema == order::SCHEMA && believed.fleet == FLEET && believed.host == HOST);
            let written = serde_json::to_vec(&believed).unwrap_or_default();
            let again = serde_json::from_slice::<Tombstone>(&written);
            assert!(
                again.is_ok_and(|again| again == believed),
                "written, it is another one"
            );
        }
        Err(error) => is_a_line(&error),
    }
}

/// A certificate request, as text and as what the text would hold: only a key comes out of it, and always the same.
pub fn csr(input: &[u8]) {
    let body = STANDARD.encode(input);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    let framed = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        lines.join("\n")
    );
    for text in [String::from_utf8_lossy(input).into_owned(), framed] {
        match VerifiedCsr::parse(&text, 64 * 1024) {
            Ok(request) => {
                let again = VerifiedCsr::parse(&text, text.len());
                assert!(again.is_ok_and(|again| again == request));
            }
            Err(error) => is_a_line(&error),
        }
    }
}

/// An enrolment token, as text and as what the text would hold.
pub fn token(input: &[u8]) {
    let framed = format!("decnet1.{}", URL_SAFE_NO_PAD.encode(input));
    for text in [String::from_utf8_lossy(input).into_owned(), framed] {
        match parse_token(&text) {
            Ok(token) => {
                let written = serde_json::to_vec(&token).unwrap_or_default();
                let again = parse_token(&format!("decnet1.{}", URL_SAFE_NO_PAD.encode(written)));
                assert!(again.is_ok_and(|again| again == token));
                // By chance a host's name may hold what the secret is; what shows the secret shows which one it is.
                let other = Token {
                    secret: String::new(),
                    ..token.clone()
                };
                assert_eq!(format!("{token:?}"), format!("{other:?}"));
                drop(token.enrol_at.parse::<crate::config::HostPort>());
            }
            Err(error) => is_a_line(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn try_seeds(target: &str, hold: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/seeds")
            .join(target);
        let mut tried = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            hold(&std::fs::read(entry.unwrap().path()).unwrap());
            tried += 1;
        }
        assert!(tried > 0, "{} holds no seed", folder.display());
    }

    #[test]
    fn what_the_fuzzer_starts_from_and_has_found_keeps_its_promise() {
        try_seeds("envelope", envelope);
        try_seeds("bundle", bundle);
        try_seeds("root", root);
        try_seeds("policy", policy);
        try_seeds("release", release);
        try_seeds("order", order);
        try_seeds("csr", csr);
        try_seeds("token", token);
    }

    /// A fuzzer whose seeds are refused at the door finds nothing behind it.
    #[test]
    fn the_seeds_reach_what_is_behind_the_first_checks() {
        let seed = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("fuzz/seeds")
                .join(name);
            std::fs::read(path).unwrap()
        };
        assert!(Envelope::parse(&seed("envelope/signed"), 1 << 20).is_ok());
        let signed = Envelope::sign(bundle::PAYLOAD_TYPE, seed("bundle/decky"), &[&KEYS[3]]).to_json();
        assert!(admit(&signed), "the bundle is refused");
        let rules = Envelope::sign(policy::PAYLOAD_TYPE, seed("policy/rules"), &[&KEYS[0]]).to_json();
        SignedPolicy::admit(&rules, &ROOT, Some(HOST), None, now()).unwrap();
        for (name, last) in [("sequence", 3), ("downgrade", 2)] {
            let (mut taken, mut installed) = (0, "0.0".parse().unwrap());
            for line in seed(&format!("release/{name}")).split(|byte| *byte == b'\n') {
                let signed = Envelope::sign(release::PAYLOAD_TYPE, line.to_vec(), &[&KEYS[0]]);
                let believed = SignedRelease::admit(&signed.to_json(), &ROOT).unwrap();
                believed.may_follow(taken, &installed).unwrap();
                (taken, installed) = (believed.sequence(), believed.document().version.clone());
            }
            assert_eq!(taken, last, "{name}");
        }
        let leave = Envelope::sign(order::DECOMMISSION_TYPE, seed("order/order"), &[&KEYS[0]]).to_json();
        SignedDecommission::admit(&leave, &ROOT, HOST).unwrap();
        let key = &HOST_KEYS[0];
        let tombstone = Envelope::sign_by_host(order::TOMBSTONE_TYPE, seed("order/tombstone"), key).unwrap();
        admit_tombstone(&tombstone.to_json(), FLEET, HOST, &[*key.public()]).unwrap();
        let chain = seed("root/chain");
        let mut known = ROOT.clone();
        for line in chain.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let signers: Vec<_> = (0..3)
                .filter(|at| line[0] >> at & 1 == 1)
                .map(|at| &KEYS[at])
                .collect();
            let envelope = Envelope::sign(trust::PAYLOAD_TYPE, line[1..].to_vec(), &signers);
            known = next(&known, &envelope.to_json()).unwrap();
        }
        assert_eq!(known.version(), 3);
        assert!(VerifiedCsr::parse(&String::from_utf8(seed("csr/request")).unwrap(), 1 << 20).is_ok());
        assert!(parse_token(&String::from_utf8(seed("token/token")).unwrap()).is_ok());
    }
}
