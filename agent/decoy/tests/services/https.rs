use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use serde_json::json;

use crate::decoy::{Decoy, PATIENCE, Start};

/// Accepts the decoy's self-signed certificate; signatures are still checked.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The certificate, the protocol agreed on, and the answer to a GET.
pub(crate) fn visit(decoy: &Decoy, protocols: &[&str]) -> (Vec<u8>, Option<Vec<u8>>, String) {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("shop.example").unwrap();
    let stream = TcpStream::connect(("127.0.0.1", decoy.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut tls = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream);
    tls.write_all(b"GET /login HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer);
    let certificate = tls.conn.peer_certificates().unwrap()[0].to_vec();
    let agreed = tls.conn.alpn_protocol().map(<[u8]>::to_vec);
    (certificate, agreed, String::from_utf8_lossy(&answer).into_owned())
}

fn holds(haystack: &[u8], needle: &str) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle.as_bytes())
}

#[test]
fn the_site_is_served_over_tls_and_the_handshake_is_logged() {
    let decoy = Start::new("https")
        .persona(&json!({"tls_cn": "shop.example", "response_code": 200}))
        .run();
    let (certificate, agreed, answer) = visit(&decoy, &["http/1.1"]);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(holds(&certificate, "shop.example"));
    assert_eq!(agreed.as_deref(), Some(&b"http/1.1"[..]));
    let handshake = decoy.event("tls", |_| true);
    assert_eq!(handshake["tls"]["client"]["server_name"], "shop.example");
    assert_eq!(decoy.event("request", |_| true)["url"]["path"], "/login");
}

#[test]
fn a_seed_keeps_its_certificate_byte_for_byte_and_another_has_another() {
    let certificate = |seed| visit(&Start::new("https").seed(seed).run(), &[]).0;
    let first = certificate(1);
    assert_eq!(first, certificate(1));
    assert_ne!(first, certificate(2));
    assert!(holds(&first, "SRV-MAIL-42"));
    assert!(!holds(&first, "node-1"), "the node's name is shown");
}

#[test]
fn http_2_is_agreed_on_where_the_persona_asks_for_it() {
    let both = Start::new("https")
        .persona(&json!({"http_versions": ["http/2", "http/1.1"]}))
        .run();
    assert_eq!(visit(&both, &["h2", "http/1.1"]).1.as_deref(), Some(&b"h2"[..]));
    assert_eq!(visit(&both, &["http/1.1"]).1.as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(
        visit(&Decoy::start("https"), &["h2", "http/1.1"]).1.as_deref(),
        Some(&b"http/1.1"[..])
    );
}

#[test]
fn certificates_that_cannot_be_used_are_refused_at_start() {
    for (persona, complaint) in [
        (
            json!({"tls_cert": "/etc/ssl/x.pem", "tls_key": "/etc/ssl/x.key"}),
            "tls_cert holds no PEM certificate",
        ),
        (json!({"tls_key": "x"}), "tls_key is given without tls_cert"),
        (json!({"http_versions": ["http/3"]}), "http/3"),
    ] {
        let output = Start::new("https").persona(&persona).command().output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(complaint), "{stderr}");
    }
}
