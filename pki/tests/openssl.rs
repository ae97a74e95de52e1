//! OpenSSL reads what this crate writes, agrees on what it means, and the other way round.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use decnet_pki::ServerName;
use decnet_pki::ca::{CertificateAuthority, HostSubject, Revoked};
use decnet_pki::csr::{self, CsrError, VerifiedCsr};
use decnet_pki::envelope::{Envelope, pre_authentication_encoding};
use decnet_pki::key::{HostKey, SigningKey};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use uuid::{Uuid, uuid};

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
const FLEET: Uuid = uuid!("11111111-2222-4333-8444-555555555555");
const HOST: Uuid = uuid!("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee");

/// A folder of files to hand to openssl; it goes away with the test.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn try_openssl<S: AsRef<OsStr>>(args: &[S]) -> Output {
    match Command::new("openssl").args(args).output() {
        Ok(output) => output,
        Err(error) => panic!("these tests need the `openssl` program; install OpenSSL 3 ({error})"),
    }
}

#[track_caller]
fn openssl<S: AsRef<OsStr>>(args: &[S]) -> String {
    let output = try_openssl(args);
    assert!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

macro_rules! args {
    ($($arg:expr),* $(,)?) => { [$(OsStr::new(&$arg).to_owned()),*] };
}

fn ca() -> CertificateAuthority {
    CertificateAuthority::create("Test fleet CA", NOW).unwrap()
}

fn subject() -> HostSubject {
    HostSubject {
        fleet: FLEET,
        host: HOST,
    }
}

/// The text of one extension in `openssl x509 -text`: what stands below its heading.
fn extension<'t>(text: &'t str, heading: &str) -> &'t str {
    let mut lines = text
        .lines()
        .skip_while(|line| !line.trim_start().starts_with(heading));
    lines
        .next()
        .unwrap_or_else(|| panic!("no {heading:?} in\n{text}"));
    lines.next().unwrap().trim()
}

#[test]
fn openssl_reads_the_authority_as_a_ca_for_leaves_and_revocation_lists() {
    let bench = Bench::new();
    let authority = ca();
    let cert = bench.file("ca.pem", authority.cert_pem());
    let text = openssl(&args!["x509", "-in", cert, "-noout", "-text"]);
    assert_eq!(
        extension(&text, "X509v3 Basic Constraints: critical"),
        "CA:TRUE, pathlen:0"
    );
    assert_eq!(
        extension(&text, "X509v3 Key Usage: critical"),
        "Certificate Sign, CRL Sign"
    );
    assert!(text.contains("Not Before: Mar  1 11:55:00 2026 GMT"), "{text}");
    assert!(text.contains("Not After : Feb 27 12:00:00 2036 GMT"), "{text}");
    assert!(text.contains("ASN1 OID: prime256v1"), "{text}");

    let print = openssl(&args!["x509", "-in", cert, "-noout", "-fingerprint", "-sha256"]);
    let hex = print
        .trim()
        .split_once('=')
        .unwrap()
        .1
        .replace(':', "")
        .to_lowercase();
    assert_eq!(authority.pin().to_string(), format!("sha256:{hex}"));
}

#[test]
fn openssl_refuses_a_leaf_on_the_revocation_list_and_no_other() {
    let bench = Bench::new();
    // Two authorities, as there are while a fleet changes from one to the other.
    let (old, new) = (
        ca(),
        CertificateAuthority::create("Test fleet CA 2", NOW).unwrap(),
    );
    let leaf = |authority: &CertificateAuthority| {
        let request = csr::create(&HostKey::generate().unwrap()).unwrap();
        let request = VerifiedCsr::parse(&request, 10_000).unwrap();
        authority
            .issue_host(&request, subject(), NOW, Duration::days(30))
            .unwrap()
    };
    let (gone, kept, newer) = (leaf(&old), leaf(&old), leaf(&new));
    let revoked = [Revoked {
        serial: gone.serial().to_owned(),
        at: NOW + Duration::milliseconds(1500),
    }];
    let at = NOW + Duration::hours(1);
    let lists = [
        old.issue_crl(&revoked, 257, at, Duration::days(7)).unwrap(),
        new.issue_crl(&[], 258, at, Duration::days(7)).unwrap(),
    ];
    let lists = bench.file("crl.pem", lists.concat());
    let authorities = bench.file("cas.pem", [old.cert_pem(), new.cert_pem()].concat());

    let text = openssl(&args!["crl", "-in", lists, "-noout", "-text"]);
    assert_eq!(extension(&text, "X509v3 CRL Number"), "257");
    assert!(text.contains("Last Update: Mar  1 12:55:00 2026 GMT"), "{text}");
    assert!(text.contains("Next Update: Mar  8 13:00:00 2026 GMT"), "{text}");
    assert!(
        text.contains("Revocation Date: Mar  1 12:00:01 2026 GMT"),
        "{text}"
    );
    let verify = |name: &str, leaf: &str| {
        let leaf = bench.file(name, leaf);
        let when = (NOW + Duration::hours(2)).unix_timestamp().to_string();
        try_openssl(&args![
            "verify",
            "-crl_check",
            "-purpose",
            "sslclient",
            "-attime",
            when,
            "-CAfile",
            authorities,
            "-CRLfile",
            lists,
            leaf
        ])
    };
    for leaf in [&kept, &newer] {
        let said = verify("leaf.pem", &leaf.chain_pem());
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
    let said = verify("gone.pem", &gone.chain_pem());
    let said = (
        said.status.success(),
        String::from_utf8_lossy(&said.stderr).into_owned(),
    );
    assert!(!said.0 && said.1.contains("certificate revoked"), "{said:?}");
}

#[test]
fn openssl_verifies_a_host_certificate_as_a_client_and_not_as_a_server() {
    let bench = Bench::new();
    let authority = ca();
    let key = HostKey::generate().unwrap();
    let request = VerifiedCsr::parse(&csr::create(&key).unwrap(), 10_000).unwrap();
    let leaf = authority
        .issue_host(&request, subject(), NOW, Duration::days(30))
        .unwrap();
    let ca_file = bench.file("ca.pem", authority.cert_pem());
    let leaf_file = bench.file("leaf.pem", leaf.chain_pem());
    let at = NOW.unix_timestamp().to_string();
    let verify = |purpose: &str| {
        let args = [
            &args!["verify", "-x509_strict", "-attime", at, "-purpose", purpose][..],
            &args!["-CAfile", ca_file, leaf_file],
        ];
        try_openssl(&args.concat())
    };
    let as_client = verify("sslclient");
    assert!(
        as_client.status.success(),
        "{}",
        String::from_utf8_lossy(&as_client.stderr)
    );
    let as_server = verify("sslserver");
    assert!(!as_server.status.success());
    assert!(String::from_utf8_lossy(&as_server.stderr).contains("purpose"));

    let text = openssl(&args!["x509", "-in", leaf_file, "-noout", "-text"]);
    assert_eq!(extension(&text, "X509v3 Basic Constraints: critical"), "CA:FALSE");
    assert_eq!(
        extension(&text, "X509v3 Key Usage: critical"),
        "Digital Signature"
    );
    assert_eq!(
        extension(&text, "X509v3 Extended Key Usage"),
        "TLS Web Client Authentication"
    );
    assert_eq!(
        extension(&text, "X509v3 Subject Alternative Name"),
        format!("URI:urn:decnet:fleet:{FLEET}:host:{HOST}")
    );
    assert!(text.contains(&format!("Subject: CN = {HOST}\n")), "{text}");
    assert!(text.contains("Not Before: Mar  1 11:55:00 2026 GMT"), "{text}");
    assert!(text.contains("Not After : Mar 31 12:00:00 2026 GMT"), "{text}");
}

#[test]
fn openssl_verifies_a_server_certificate_by_name_and_address() {
    let bench = Bench::new();
    let authority = ca();
    let names =
        ["master.example", "192.0.2.7", "2001:db8::7"].map(|name| ServerName::try_from(name).unwrap());
    let (leaf, key) = authority.issue_server(&names, NOW, Duration::days(30)).unwrap();
    assert_eq!(leaf.key_digest(), key.digest());
    let ca_file = bench.file("ca.pem", authority.cert_pem());
    let leaf_file = bench.file("leaf.pem", leaf.chain_pem());
    let at = NOW.unix_timestamp().to_string();
    for (option, name, accepted) in [
        ("-verify_hostname", "master.example", true),
        ("-verify_ip", "192.0.2.7", true),
        ("-verify_ip", "2001:db8::7", true),
        ("-verify_hostname", "other.example", false),
        ("-verify_ip", "192.0.2.8", false),
    ] {
        let args = [
            &args![
                "verify",
                "-x509_strict",
                "-attime",
                at,
                "-purpose",
                "sslserver",
                option,
                name
            ][..],
            &args!["-CAfile", ca_file, leaf_file],
        ];
        let output = try_openssl(&args.concat());
        assert_eq!(
            output.status.success(),
            accepted,
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let text = openssl(&args!["x509", "-in", leaf_file, "-noout", "-text"]);
    assert_eq!(
        extension(&text, "X509v3 Extended Key Usage"),
        "TLS Web Server Authentication"
    );
    assert_eq!(extension(&text, "X509v3 Basic Constraints: critical"), "CA:FALSE");
}

#[test]
fn openssl_verifies_an_envelope_signature() {
    let bench = Bench::new();
    let key = SigningKey::generate().unwrap();
    let envelope = Envelope::sign("application/vnd.example+json", b"{\"a\":1}".to_vec(), &[&key]);
    let json: serde_json::Value = serde_json::from_slice(&envelope.to_json()).unwrap();
    let sig_text = bench.file("sig.b64", json["signatures"][0]["sig"].as_str().unwrap());
    let sig = bench.path("sig");
    openssl(&args!["base64", "-d", "-A", "-in", sig_text, "-out", sig]);
    let private = bench.file("key.pem", key.to_pkcs8_pem().as_bytes());
    let public = bench.path("public.pem");
    openssl(&args!["pkey", "-in", private, "-pubout", "-out", public]);
    let check = |message: &[u8]| {
        let message = bench.file("message", message);
        let key = args!["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public];
        try_openssl(&[&key[..], &args!["-sigfile", sig, "-in", message]].concat())
    };
    let signed = pre_authentication_encoding("application/vnd.example+json", b"{\"a\":1}");
    let good = check(&signed);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(
        !check(b"{\"a\":1}").status.success(),
        "the signature is over the encoding, not the payload"
    );
}

#[test]
fn an_envelope_that_openssl_signed_is_verified_and_what_is_changed_is_refused() {
    let bench = Bench::new();
    let private = bench.path("key.pem");
    openssl(&args!["genpkey", "-algorithm", "ed25519", "-out", private]);
    let key = SigningKey::from_pkcs8_pem(&std::fs::read_to_string(&private).unwrap()).unwrap();
    let sign = |kind: &str, payload: &[u8]| {
        let message = bench.file("message", pre_authentication_encoding(kind, payload));
        let sig = bench.path("sig");
        openssl(&args![
            "pkeyutl", "-sign", "-rawin", "-inkey", private, "-in", message, "-out", sig
        ]);
        std::fs::read(sig).unwrap()
    };
    for payload in [&b""[..], b"{}", &[0xff; 3000]] {
        let kind = "application/vnd.example+json";
        let with = |payload: &[u8], sig: &[u8]| {
            let json = serde_json::json!({
                "payload": STANDARD.encode(payload), "payloadType": kind,
                "signatures": [{"sig": STANDARD.encode(sig)}],
            });
            let envelope = Envelope::parse(json.to_string().as_bytes(), 10_000).unwrap();
            envelope.verify(kind, &[key.public()], NonZeroUsize::MIN)
        };
        let good = sign(kind, payload);
        assert_eq!(with(payload, &good).unwrap().bytes(), payload);
        assert!(with(&[payload, b" "].concat(), &good).is_err());
        assert!(with(payload, &sign("application/vnd.other+json", payload)).is_err());
        // Both are deterministic (RFC 8032, section 5.1.6).
        assert_eq!(
            key.sign(&pre_authentication_encoding(kind, payload)).to_vec(),
            good
        );
    }
}

/// The CA signs for this fleet's own hosts and servers, and for nothing else that certificates are used for.
#[test]
fn openssl_lets_each_certificate_be_used_for_what_it_is_and_nothing_else() {
    let bench = Bench::new();
    let (authority, stranger) = (ca(), ca());
    let key = HostKey::generate().unwrap();
    let request = VerifiedCsr::parse(&csr::create(&key).unwrap(), 10_000).unwrap();
    let host = authority
        .issue_host(&request, subject(), NOW, Duration::days(30))
        .unwrap();
    let name = [ServerName::try_from("master.example").unwrap()];
    let (server, _) = authority.issue_server(&name, NOW, Duration::days(30)).unwrap();
    let host = bench.file("host.pem", host.chain_pem());
    let server = bench.file("server.pem", server.chain_pem());
    let own = bench.file("ca.pem", authority.cert_pem());
    let other = bench.file("other.pem", stranger.cert_pem());
    let verified = |purpose: &str, ca: &PathBuf, leaf: &PathBuf, at: OffsetDateTime| {
        let at = at.unix_timestamp().to_string();
        let args = [
            &args!["verify", "-x509_strict", "-attime", at, "-purpose", purpose][..],
            &args!["-CAfile", ca, leaf],
        ];
        try_openssl(&args.concat()).status.success()
    };
    for purpose in [
        "sslclient",
        "sslserver",
        "smimesign",
        "smimeencrypt",
        "crlsign",
        "timestampsign",
    ] {
        assert_eq!(
            verified(purpose, &own, &host, NOW),
            purpose == "sslclient",
            "host, {purpose}"
        );
        assert_eq!(
            verified(purpose, &own, &server, NOW),
            purpose == "sslserver",
            "server, {purpose}"
        );
        assert!(
            !verified(purpose, &other, &host, NOW),
            "another CA of the same name"
        );
        for later in [NOW + Duration::days(31), NOW - Duration::minutes(6)] {
            assert!(!verified(purpose, &own, &host, later) && !verified(purpose, &own, &server, later));
        }
    }
    // A host cannot make certificates with its own.
    let below = bench.file(
        "below.key",
        HostKey::generate().unwrap().to_pkcs8_pem().as_bytes(),
    );
    let (request, forged) = (bench.path("below.csr"), bench.path("below.pem"));
    let host_key = bench.file("host.key", key.to_pkcs8_pem().as_bytes());
    openssl(&args![
        "req", "-new", "-key", below, "-subj", "/CN=x", "-out", request
    ]);
    openssl(&args![
        "x509", "-req", "-in", request, "-CA", host, "-CAkey", host_key, "-days", "9999", "-out", forged
    ]);
    let args = [
        &args!["verify", "-no_check_time", "-CAfile", own][..],
        &args!["-untrusted", host, forged],
    ];
    let refused = try_openssl(&args.concat());
    assert!(!refused.status.success());
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(why.contains("invalid CA certificate"), "{why}");
}

#[test]
fn keys_made_by_openssl_can_be_used() {
    let bench = Bench::new();
    let ed25519 = bench.path("ed25519.pem");
    openssl(&args!["genpkey", "-algorithm", "ed25519", "-out", ed25519]);
    let signing = SigningKey::from_pkcs8_pem(&std::fs::read_to_string(&ed25519).unwrap()).unwrap();
    let public = openssl(&args!["pkey", "-in", ed25519, "-noout", "-text_pub"]);
    let hex: String = public
        .lines()
        .skip(2)
        .flat_map(str::chars)
        .filter(char::is_ascii_hexdigit)
        .collect();
    assert_eq!(signing.public().to_string(), hex);

    let p256 = bench.path("p256.pem");
    openssl(&args![
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        p256
    ]);
    let host = HostKey::from_pkcs8_pem(&std::fs::read_to_string(&p256).unwrap()).unwrap();
    let spki = bench.path("spki.der");
    openssl(&args![
        "pkey", "-in", p256, "-pubout", "-outform", "DER", "-out", spki
    ]);
    let digest = openssl(&args!["dgst", "-sha256", "-r", spki]);
    assert_eq!(host.digest().to_string(), format!("sha256:{}", &digest[..64]));
}

#[test]
fn openssl_verifies_a_document_signed_by_a_host() {
    let bench = Bench::new();
    let key = HostKey::generate().unwrap();
    let private = bench.file("key.pem", key.to_pkcs8_pem().as_bytes());
    let public = bench.path("public.pem");
    openssl(&args!["pkey", "-in", private, "-pubout", "-out", public]);
    let sig = bench.file("sig", key.sign_document("type", b"payload").unwrap());
    let message = bench.file("message", pre_authentication_encoding("type", b"payload"));
    openssl(&args![
        "dgst",
        "-sha256",
        "-verify",
        public,
        "-signature",
        sig,
        message
    ]);
}

#[test]
fn openssl_accepts_our_certificate_request_and_we_accept_its() {
    let bench = Bench::new();
    let key = HostKey::generate().unwrap();
    let ours = bench.file("ours.csr", csr::create(&key).unwrap());
    openssl(&args!["req", "-in", ours, "-noout", "-verify"]);

    let private = bench.file("key.pem", key.to_pkcs8_pem().as_bytes());
    let theirs = bench.path("theirs.csr");
    // It asks to be a CA under another name; only its key is heard.
    let request = args![
        "req", "-new", "-key", private, "-subj", "/CN=evil", "-out", theirs
    ];
    openssl(
        &[
            &request[..],
            &args!["-addext", "basicConstraints=critical,CA:TRUE"],
        ]
        .concat(),
    );
    let parsed = VerifiedCsr::parse(&std::fs::read_to_string(&theirs).unwrap(), 10_000).unwrap();
    assert_eq!(parsed.key_digest(), key.digest());
    let leaf = ca()
        .issue_host(&parsed, subject(), NOW, Duration::days(1))
        .unwrap();
    let file = bench.file("leaf.pem", leaf.chain_pem());
    let text = openssl(&args!["x509", "-in", file, "-noout", "-text"]);
    assert!(!text.contains("evil") && !text.contains("CA:TRUE"), "{text}");
}

#[test]
fn certificate_requests_for_other_kinds_of_keys_are_refused() {
    let bench = Bench::new();
    for (name, algorithm, options) in [
        ("rsa", "RSA", &["-pkeyopt", "rsa_keygen_bits:2048"][..]),
        ("ed25519", "ED25519", &[]),
        ("p384", "EC", &["-pkeyopt", "ec_paramgen_curve:P-384"]),
        // The right curve, spelt out by its parameters instead of named.
        (
            "explicit",
            "EC",
            &[
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-pkeyopt",
                "ec_param_enc:explicit",
            ],
        ),
    ] {
        let (key, request) = (
            bench.path(&format!("{name}.pem")),
            bench.path(&format!("{name}.csr")),
        );
        let options: Vec<_> = options
            .iter()
            .map(|option| OsStr::new(option).to_owned())
            .collect();
        openssl(
            &[
                &args!["genpkey", "-algorithm", algorithm, "-out", key],
                &options[..],
            ]
            .concat(),
        );
        openssl(&args![
            "req", "-new", "-key", key, "-subj", "/CN=x", "-out", request
        ]);
        let error = VerifiedCsr::parse(&std::fs::read_to_string(&request).unwrap(), 10_000).unwrap_err();
        assert!(matches!(error, CsrError::KeyType), "{name}: {error}");
    }
}
