//! What the authority issues, and what it and its readers refuse.

#![allow(clippy::unwrap_used, clippy::panic)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use decnet_pki::ServerName;
use decnet_pki::ca::{CaError, CertificateAuthority, HostSubject};
use decnet_pki::certificate::{CaCertificate, CertificateError, Leaf};
use decnet_pki::csr::{self, CsrError, VerifiedCsr};
use decnet_pki::key::HostKey;
use decnet_pki::peer::{PeerError, PeerIdentity};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, SanType};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

fn ca() -> CertificateAuthority {
    CertificateAuthority::create("Test fleet CA", NOW).unwrap()
}

fn request(key: &HostKey) -> VerifiedCsr {
    VerifiedCsr::parse(&csr::create(key).unwrap(), 10_000).unwrap()
}

fn subject() -> HostSubject {
    HostSubject {
        fleet: Uuid::from_u128(1),
        host: Uuid::from_u128(2),
    }
}

fn der_of(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(body).unwrap()
}

fn pem_of(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

#[test]
fn an_authority_survives_its_pem_files() {
    let made = ca();
    let taken_up = CertificateAuthority::from_pem(&made.cert_pem(), &made.key_pem()).unwrap();
    assert_eq!(taken_up.pin(), made.pin());
    assert_eq!(made.pin().to_string().parse(), Ok(made.pin()));
    let key = HostKey::generate().unwrap();
    let leaf = taken_up
        .issue_host(&request(&key), subject(), NOW, Duration::days(1))
        .unwrap();
    decnet_pki::tls::verify_client_leaf(&leaf, &[made.certificate().clone()], NOW).unwrap();
}

#[test]
fn an_authority_with_anothers_key_is_refused() {
    let error = CertificateAuthority::from_pem(&ca().cert_pem(), &ca().key_pem()).unwrap_err();
    assert!(matches!(error, CaError::KeyMismatch), "{error}");
}

#[test]
fn a_leaf_does_not_pass_for_an_authority_nor_an_authority_for_a_leaf() {
    let authority = ca();
    let key = HostKey::generate().unwrap();
    let leaf = authority
        .issue_host(&request(&key), subject(), NOW, Duration::days(1))
        .unwrap();
    let error = CaCertificate::from_der(&leaf.chain()[0]).unwrap_err();
    assert_eq!(error, CertificateError::NotAuthority);
    assert_eq!(
        Leaf::from_pem(&authority.cert_pem()),
        Err(CertificateError::NotLeaf)
    );
    let peer = PeerIdentity::from_leaf(authority.certificate().der());
    assert_eq!(peer, Err(PeerError::Certificate(CertificateError::NotLeaf)));
}

#[test]
fn a_leaf_never_outlives_its_authority() {
    let authority = ca();
    let end = authority.certificate().not_after();
    let issue = |now, lifetime| {
        authority.issue_host(&request(&HostKey::generate().unwrap()), subject(), now, lifetime)
    };
    assert_eq!(
        issue(end - Duration::days(1), Duration::days(30))
            .unwrap()
            .not_after(),
        end
    );
    assert!(matches!(
        issue(end + Duration::seconds(1), Duration::days(1)),
        Err(CaError::NotValid { .. })
    ));
    assert!(matches!(
        issue(NOW - Duration::hours(1), Duration::days(1)),
        Err(CaError::NotValid { .. })
    ));
    for lifetime in [Duration::ZERO, Duration::days(-1), Duration::MAX] {
        assert!(
            matches!(issue(NOW, lifetime), Err(CaError::Lifetime { .. })),
            "{lifetime}"
        );
    }
}

#[test]
fn serial_numbers_are_random_and_long() {
    let authority = ca();
    let csr = request(&HostKey::generate().unwrap());
    let mut serials: Vec<String> = (0..50)
        .map(|_| {
            authority
                .issue_host(&csr, subject(), NOW, Duration::days(1))
                .unwrap()
                .serial()
                .to_owned()
        })
        .collect();
    // A leading zero byte may be there for the sign or be cut off, so lengths differ a little.
    assert!(
        serials.iter().all(|serial| (28..=34).contains(&serial.len())),
        "{serials:?}"
    );
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 50);
}

#[test]
fn a_server_certificate_without_a_name_is_refused() {
    let error = ca().issue_server(&[], NOW, Duration::days(1)).unwrap_err();
    assert!(matches!(error, CaError::NoNames), "{error}");
}

#[test]
fn an_authority_needs_a_printable_name() {
    for name in ["", "a\nb", &"x".repeat(65)] {
        assert!(
            matches!(CertificateAuthority::create(name, NOW), Err(CaError::CommonName)),
            "{name:?}"
        );
    }
    CertificateAuthority::create(&"é".repeat(64), NOW).unwrap();
}

#[test]
fn a_leaf_survives_its_pem_file() {
    let key = HostKey::generate().unwrap();
    let leaf = ca()
        .issue_host(&request(&key), subject(), NOW, Duration::days(7))
        .unwrap();
    let read = Leaf::from_pem(&leaf.chain_pem()).unwrap();
    assert_eq!(read, leaf);
    assert_eq!(read.key_digest(), key.digest());
    assert_eq!(read.not_before(), NOW - Duration::minutes(5));
    assert_eq!(read.not_after(), NOW + Duration::days(7));
    assert_eq!(read.chain().len(), 2);
}

#[test]
fn a_chain_file_that_holds_something_else_is_refused() {
    let key = HostKey::generate().unwrap();
    let leaf = ca()
        .issue_host(&request(&key), subject(), NOW, Duration::days(7))
        .unwrap();
    let chain = leaf.chain_pem();
    assert!(
        Leaf::from_pem(&format!("{chain}{}", *key.to_pkcs8_pem())).is_err(),
        "a private key"
    );
    assert!(matches!(
        Leaf::from_pem(&chain.repeat(3)),
        Err(CertificateError::ChainTooLong { len: 6 })
    ));
    assert!(Leaf::from_pem("").is_err());
    let trailing = pem_of("CERTIFICATE", &[der_of(&ca().cert_pem()), vec![0]].concat());
    assert!(matches!(
        CaCertificate::from_pem(&trailing),
        Err(CertificateError::Malformed(_))
    ));
}

#[test]
fn a_leaf_is_checked_as_a_handshake_would() {
    let (authority, other) = (ca(), ca());
    let key = HostKey::generate().unwrap();
    let leaf = authority
        .issue_host(&request(&key), subject(), NOW, Duration::days(7))
        .unwrap();
    let verify = |cas: &[CaCertificate], now| decnet_pki::tls::verify_client_leaf(&leaf, cas, now);
    let own = authority.certificate().clone();
    verify(&[other.certificate().clone(), own.clone()], NOW).unwrap();
    assert!(verify(&[other.certificate().clone()], NOW).is_err());
    assert!(verify(std::slice::from_ref(&own), NOW + Duration::days(8)).is_err());
    assert!(verify(std::slice::from_ref(&own), NOW - Duration::minutes(6)).is_err());
    assert!(verify(&[], NOW).is_err());
    let names = [ServerName::try_from("master.example").unwrap()];
    let (server, _) = authority.issue_server(&names, NOW, Duration::days(7)).unwrap();
    assert!(
        decnet_pki::tls::verify_client_leaf(&server, &[own], NOW).is_err(),
        "a server is no host"
    );
}

#[test]
fn a_tampered_certificate_request_is_refused() {
    let key = HostKey::generate().unwrap();
    let der = der_of(&csr::create(&key).unwrap());
    // The outer header (3 bytes), what is signed, the algorithm (12), the bit string's header (3), and the
    // signature up to the end.
    assert_eq!((der[0], der[1], der[3]), (0x30, 0x81, 0x30));
    let signed = 3..3 + 2 + usize::from(der[4]);
    let signature = signed.end + 15..der.len();
    let mut signature_failures = 0;
    for position in signed.chain(signature) {
        for bit in 0..8 {
            let mut tampered = der.clone();
            tampered[position] ^= 1 << bit;
            match VerifiedCsr::parse(&pem_of("CERTIFICATE REQUEST", &tampered), 10_000) {
                Err(CsrError::Signature) => signature_failures += 1,
                Err(CsrError::Malformed(_) | CsrError::KeyType) => {}
                other => panic!("bit {bit} of byte {position} changed: {other:?}"),
            }
        }
    }
    assert!(signature_failures > 500, "{signature_failures}");
}

#[test]
fn a_request_for_somebody_elses_key_is_refused() {
    let (own, victim) = (HostKey::generate().unwrap(), HostKey::generate().unwrap());
    let mut der = der_of(&csr::create(&own).unwrap());
    let spki = own.public().to_spki_der();
    let at = der.windows(spki.len()).position(|window| window == spki).unwrap();
    der[at..at + spki.len()].copy_from_slice(&victim.public().to_spki_der());
    let error = VerifiedCsr::parse(&pem_of("CERTIFICATE REQUEST", &der), 10_000).unwrap_err();
    assert!(matches!(error, CsrError::Signature), "{error}");
}

#[test]
fn an_oversized_request_is_refused_before_parsing() {
    let pem = csr::create(&HostKey::generate().unwrap()).unwrap();
    assert!(matches!(
        VerifiedCsr::parse(&pem, pem.len() - 1),
        Err(CsrError::TooLarge { .. })
    ));
    VerifiedCsr::parse(&pem, pem.len()).unwrap();
    assert!(
        matches!(
            VerifiedCsr::parse(&pem.repeat(2), 10_000),
            Err(CsrError::Malformed(_))
        ),
        "two of them"
    );
}

#[test]
fn the_identity_in_a_host_certificate_is_read_back() {
    let key = HostKey::generate().unwrap();
    let leaf = ca()
        .issue_host(&request(&key), subject(), NOW, Duration::days(7))
        .unwrap();
    assert_eq!(
        PeerIdentity::from_leaf(&leaf.chain()[0]).unwrap(),
        PeerIdentity {
            fleet: subject().fleet,
            host: subject().host,
            key: key.digest(),
            not_after: NOW + Duration::days(7),
        }
    );
}

#[test]
fn a_server_certificate_does_not_pass_for_a_host() {
    let names = [ServerName::try_from("master.example").unwrap()];
    let (leaf, _) = ca().issue_server(&names, NOW, Duration::days(7)).unwrap();
    assert_eq!(PeerIdentity::from_leaf(&leaf.chain()[0]), Err(PeerError::Usage));
}

#[test]
fn a_certificate_that_names_its_host_in_another_way_is_refused() {
    let authority = ca();
    let signer = HostKey::from_pkcs8_pem(&authority.key_pem()).unwrap();
    let issuer = Issuer::from_ca_cert_der(authority.certificate().der(), signer).unwrap();
    let (fleet, host) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let urn = format!("urn:decnet:fleet:{fleet}:host:{host}");
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let read = |common_name: &str, names: Vec<SanType>, usages: &[ExtendedKeyUsagePurpose]| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        params.extended_key_usages = usages.to_vec();
        let leaf = params
            .signed_by(HostKey::generate().unwrap().public(), &issuer)
            .unwrap();
        PeerIdentity::from_leaf(leaf.der())
    };
    let client = [ExtendedKeyUsagePurpose::ClientAuth];
    let common_name = host.to_string();
    // The control: in this form it is accepted, so what follows is refused for the one thing it changes.
    assert_eq!(read(&common_name, vec![uri(&urn)], &client).unwrap().host, host);

    let other = Uuid::from_u128(3).to_string();
    assert_eq!(
        read(&other, vec![uri(&urn)], &client),
        Err(PeerError::Name),
        "CN of another host"
    );
    assert_eq!(
        read(&common_name, vec![], &client),
        Err(PeerError::Name),
        "no name"
    );
    let dns = SanType::DnsName("x.example".try_into().unwrap());
    assert_eq!(
        read(&common_name, vec![uri(&urn), dns], &client),
        Err(PeerError::Name),
        "one more name"
    );
    assert_eq!(
        read(&common_name, vec![uri(&urn), uri(&urn)], &client),
        Err(PeerError::Name),
        "twice"
    );
    for bad in [
        urn.replace("urn:", "URN:"),
        urn.replace('-', ""),
        format!("{urn}:host:{host}"),
        urn.replace(":host:", ":hosts:"),
        format!("urn:decnet:fleet:{fleet}:host:{{{host}}}"),
    ] {
        assert_eq!(
            read(&common_name, vec![uri(&bad)], &client),
            Err(PeerError::Name),
            "{bad}"
        );
    }
    for usages in [
        &[][..],
        &[ExtendedKeyUsagePurpose::ServerAuth],
        &[
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ],
        &[ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::Any],
    ] {
        assert_eq!(
            read(&common_name, vec![uri(&urn)], usages),
            Err(PeerError::Usage),
            "{usages:?}"
        );
    }
}
