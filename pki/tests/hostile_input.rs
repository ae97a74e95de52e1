//! Whatever arrives, parsers answer; they never panic.

#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use decnet_pki::ca::{CertificateAuthority, HostSubject};
use decnet_pki::certificate::{CaCertificate, CaPin, Leaf};
use decnet_pki::csr::{self, VerifiedCsr};
use decnet_pki::envelope::Envelope;
use decnet_pki::key::{HostKey, HostPublicKey, PublicKey, SigningKey};
use decnet_pki::peer::PeerIdentity;
use decnet_pki::secret::Secret;
use proptest::prelude::{Strategy, any, proptest};
use proptest::sample::Index;
use time::Duration;
use time::macros::datetime;
use uuid::Uuid;

const MAX: usize = 1 << 16;

/// One good specimen of everything, to be damaged.
struct Specimens {
    envelope: Vec<u8>,
    csr: String,
    chain: String,
    leaf: Vec<u8>,
    ca: Vec<u8>,
}

static SPECIMENS: LazyLock<Specimens> = LazyLock::new(|| {
    let now = datetime!(2026-03-01 12:00 UTC);
    let authority = CertificateAuthority::create("Test fleet CA", now).unwrap();
    let csr = csr::create(&HostKey::generate().unwrap()).unwrap();
    let subject = HostSubject {
        fleet: Uuid::from_u128(1),
        host: Uuid::from_u128(2),
    };
    let request = VerifiedCsr::parse(&csr, MAX).unwrap();
    let leaf = authority
        .issue_host(&request, subject, now, Duration::days(1))
        .unwrap();
    Specimens {
        envelope: Envelope::sign("type", b"payload".to_vec(), &[&SigningKey::generate().unwrap()]).to_json(),
        csr,
        chain: leaf.chain_pem(),
        leaf: leaf.chain()[0].to_vec(),
        ca: authority.certificate().der().to_vec(),
    }
});

fn parse_all(bytes: &[u8]) {
    let _ = Envelope::parse(bytes, MAX).map(|envelope| envelope.to_json());
    let _ = PeerIdentity::from_leaf(bytes);
    let _ = CaCertificate::from_der(bytes);
    let _ = HostPublicKey::from_spki_der(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = VerifiedCsr::parse(&text, MAX);
    let _ = Leaf::from_pem(&text);
    let _ = CaCertificate::from_pem(&text);
    let _ = SigningKey::from_pkcs8_pem(&text);
    let _ = HostKey::from_pkcs8_pem(&text);
    let _ = text.parse::<Secret>();
    let _ = text.parse::<PublicKey>();
    let _ = text.parse::<HostPublicKey>();
    let _ = text.parse::<CaPin>();
}

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
}

/// Some bytes overwritten, and perhaps the end cut off.
fn damage() -> impl Strategy<Value = (Vec<(Index, u8)>, Option<Index>)> {
    (
        proptest::collection::vec((any::<Index>(), any::<u8>()), 1..8),
        any::<Option<Index>>(),
    )
}

fn damaged(specimen: &[u8], (writes, cut): &(Vec<(Index, u8)>, Option<Index>)) -> Vec<u8> {
    let mut bytes = specimen.to_vec();
    for (at, byte) in writes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(specimen.len()));
    }
    bytes
}

proptest! {
    #[test]
    fn random_bytes_never_panic_a_parser(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        parse_all(&bytes);
        for label in ["CERTIFICATE REQUEST", "CERTIFICATE", "PRIVATE KEY"] {
            parse_all(&pem(label, &bytes));
        }
    }

    #[test]
    fn damaged_documents_never_panic_a_parser(damage in damage()) {
        let good = &*SPECIMENS;
        parse_all(&damaged(&good.envelope, &damage));
        parse_all(&damaged(good.csr.as_bytes(), &damage));
        parse_all(&damaged(good.chain.as_bytes(), &damage));
        for der in [&good.leaf, &good.ca] {
            let der = damaged(der, &damage);
            parse_all(&der);
            parse_all(&pem("CERTIFICATE", &der));
            parse_all(&pem("CERTIFICATE REQUEST", &der));
        }
    }
}
