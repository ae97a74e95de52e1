//! TLS handshakes between the configurations of this crate, in memory.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use decnet_pki::ServerName;
use decnet_pki::ca::{CertificateAuthority, HostSubject};
use decnet_pki::certificate::{CaCertificate, CaPin, Leaf};
use decnet_pki::csr::{self, VerifiedCsr};
use decnet_pki::digest::Sha256Digest;
use decnet_pki::key::HostKey;
use decnet_pki::peer::PeerIdentity;
use decnet_pki::tls::{self, TlsError};
use rustls::client::{ClientConfig, Resumption};
use rustls::server::{ServerConfig, ServerSessionMemoryCache};
use rustls::{
    AlertDescription, CertificateError, ClientConnection, Connection, Error, HandshakeKind, ProtocolVersion,
    ServerConnection,
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

const NAME: &str = "master.example";

// rustls asks the system for the time, so these certificates are made relative to it.
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

struct Fleet {
    authority: CertificateAuthority,
    server: (Leaf, HostKey),
    host: (Leaf, HostKey),
}

impl Fleet {
    fn new() -> Self {
        Self::made_at(now(), now())
    }

    /// A fleet whose server and host leaves, valid for a day, were issued at the given times.
    fn made_at(server_issued: OffsetDateTime, host_issued: OffsetDateTime) -> Self {
        let authority =
            CertificateAuthority::create("Test fleet CA", server_issued.min(host_issued)).unwrap();
        let names = [ServerName::try_from(NAME).unwrap()];
        let server = authority
            .issue_server(&names, server_issued, Duration::days(1))
            .unwrap();
        let host = issue_host(&authority, host_issued);
        Self {
            authority,
            server,
            host,
        }
    }

    fn cas(&self) -> Vec<CaCertificate> {
        vec![self.authority.certificate().clone()]
    }

    fn agent_api(&self) -> Arc<ServerConfig> {
        tls::agent_server_config(&self.server.0, &self.server.1, &self.cas()).unwrap()
    }

    fn enrolment(&self) -> Arc<ServerConfig> {
        tls::server_config(&self.server.0, &self.server.1).unwrap()
    }

    fn agent(&self) -> Arc<ClientConfig> {
        tls::client_config(&self.cas(), &self.host.0, &self.host.1).unwrap()
    }
}

fn issue_host(authority: &CertificateAuthority, now: OffsetDateTime) -> (Leaf, HostKey) {
    let key = HostKey::generate().unwrap();
    let request = VerifiedCsr::parse(&csr::create(&key).unwrap(), 10_000).unwrap();
    let subject = HostSubject {
        fleet: Uuid::from_u128(1),
        host: Uuid::from_u128(2),
    };
    (
        authority
            .issue_host(&request, subject, now, Duration::days(1))
            .unwrap(),
        key,
    )
}

#[derive(Debug)]
struct Refused {
    by_client: Option<Error>,
    by_server: Option<Error>,
}

/// Shakes hands, then sends one message each way: in TLS 1.3 a client learns of its refusal only then.
fn connect(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<(Connection, Connection), Box<Refused>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client: Connection = ClientConnection::new(Arc::clone(client), name).unwrap().into();
    let mut server: Connection = ServerConnection::new(Arc::clone(server)).unwrap().into();
    client.writer().write_all(b"ping").unwrap();
    server.writer().write_all(b"pong").unwrap();
    let mut refused = Refused {
        by_client: None,
        by_server: None,
    };
    while client.wants_write() || server.wants_write() {
        refused.by_server = refused.by_server.or(carry(&mut client, &mut server));
        refused.by_client = refused.by_client.or(carry(&mut server, &mut client));
    }
    if refused.by_client.is_some() || refused.by_server.is_some() {
        return Err(refused.into());
    }
    let mut received = [0; 4];
    server.reader().read_exact(&mut received).unwrap();
    assert_eq!(&received, b"ping");
    client.reader().read_exact(&mut received).unwrap();
    assert_eq!(&received, b"pong");
    Ok((client, server))
}

/// Carries everything that `from` has to say, and tells what `to` found wrong with it.
fn carry(from: &mut Connection, to: &mut Connection) -> Option<Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        if let Err(error) = to.process_new_packets() {
            return Some(error);
        }
    }
    None
}

#[track_caller]
fn refused_by_client(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &str) -> CertificateError {
    match connect(client, server, name).map_err(|refused| refused.by_client) {
        Err(Some(Error::InvalidCertificate(error))) => error,
        other => panic!("expected the client to refuse the server's certificate, got {other:?}"),
    }
}

#[track_caller]
fn refused_by_server(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Error {
    match connect(client, server, NAME).map_err(|refused| refused.by_server) {
        Err(Some(error)) => error,
        other => panic!("expected the server to refuse the client, got {other:?}"),
    }
}

#[test]
fn a_host_and_the_agent_api_meet_over_tls_13_and_http_11() {
    let fleet = Fleet::new();
    let (client, server) = connect(&fleet.agent(), &fleet.agent_api(), NAME).unwrap();
    for side in [&client, &server] {
        assert_eq!(side.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(side.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    let identity = PeerIdentity::from_leaf(&server.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!(identity.host, Uuid::from_u128(2));
    assert_eq!(identity.key, fleet.host.1.digest());
}

#[test]
fn a_client_without_a_certificate_is_refused_by_the_agent_api() {
    let fleet = Fleet::new();
    let client = tls::client_config_without_certificate(&fleet.cas()).unwrap();
    assert_eq!(
        refused_by_server(&client, &fleet.agent_api()),
        Error::NoCertificatesPresented
    );
    connect(&client, &fleet.enrolment(), NAME).unwrap();
}

#[test]
fn a_leaf_of_another_authority_is_refused() {
    let (fleet, stranger) = (Fleet::new(), Fleet::new());
    let client = tls::client_config(&fleet.cas(), &stranger.host.0, &stranger.host.1).unwrap();
    let error = refused_by_server(&client, &fleet.agent_api());
    // Both authorities bear one name, so only the signature tells them apart.
    assert!(
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::BadSignature | CertificateError::UnknownIssuer)
        ),
        "{error:?}"
    );
}

#[test]
fn an_expired_host_leaf_is_refused() {
    let fleet = Fleet::made_at(now(), now() - Duration::days(2));
    let error = refused_by_server(&fleet.agent(), &fleet.agent_api());
    assert!(
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
        ),
        "{error:?}"
    );
}

#[test]
fn a_server_certificate_does_not_open_the_agent_api() {
    let fleet = Fleet::new();
    let client = tls::client_config(&fleet.cas(), &fleet.server.0, &fleet.server.1).unwrap();
    let error = refused_by_server(&client, &fleet.agent_api());
    assert!(
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })
        ),
        "{error:?}"
    );
}

#[test]
fn a_host_that_poses_as_the_master_is_refused() {
    let fleet = Fleet::new();
    let imposter = tls::server_config(&fleet.host.0, &fleet.host.1).unwrap();
    for client in [
        fleet.agent(),
        tls::pinned_client_config(fleet.authority.pin()).unwrap(),
    ] {
        let error = refused_by_client(&client, &imposter, NAME);
        assert!(
            matches!(error, CertificateError::InvalidPurposeContext { .. }),
            "{error:?}"
        );
    }
}

#[test]
fn a_host_that_signs_a_server_certificate_of_its_own_is_refused() {
    let fleet = Fleet::new();
    let signer = HostKey::from_pkcs8_pem(&fleet.host.1.to_pkcs8_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&fleet.host.0.chain()[0], signer).unwrap();
    let mut params = rcgen::CertificateParams::new([NAME.to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let key = HostKey::generate().unwrap();
    let forged = params.signed_by(key.public(), &issuer).unwrap();
    let chain: String = [forged.pem(), fleet.host.0.chain_pem()].concat();
    let imposter = tls::server_config(&Leaf::from_pem(&chain).unwrap(), &key).unwrap();
    for client in [
        fleet.agent(),
        tls::pinned_client_config(fleet.authority.pin()).unwrap(),
    ] {
        refused_by_client(&client, &imposter, NAME);
    }
}

#[test]
fn a_server_of_another_authority_name_or_time_is_refused() {
    let (fleet, stranger) = (Fleet::new(), Fleet::new());
    refused_by_client(&fleet.agent(), &stranger.agent_api(), NAME);
    let error = refused_by_client(&fleet.agent(), &fleet.agent_api(), "other.example");
    assert!(
        matches!(error, CertificateError::NotValidForNameContext { .. }),
        "{error:?}"
    );
    let late = Fleet::made_at(now() - Duration::days(2), now());
    let error = refused_by_client(&late.agent(), &late.agent_api(), NAME);
    assert!(
        matches!(error, CertificateError::ExpiredContext { .. }),
        "{error:?}"
    );
}

#[test]
fn the_right_pin_meets_the_enrolment_server() {
    let fleet = Fleet::new();
    let client = tls::pinned_client_config(fleet.authority.pin()).unwrap();
    let (client, server) = connect(&client, &fleet.enrolment(), NAME).unwrap();
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(server.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn another_pin_is_refused() {
    let fleet = Fleet::new();
    // Of another CA, and of the leaf itself: a pin names a CA's certificate and nothing else.
    let leaf_pin = CaPin::from(Sha256Digest::of(&fleet.server.0.chain()[0]));
    for pin in [Fleet::new().authority.pin(), leaf_pin] {
        let client = tls::pinned_client_config(pin).unwrap();
        assert_eq!(
            refused_by_client(&client, &fleet.enrolment(), NAME),
            CertificateError::UnknownIssuer
        );
    }
}

#[test]
fn a_pin_does_not_make_a_root_of_a_certificate_that_is_no_cas() {
    // webpki takes any certificate for a root, so this one would vouch for itself.
    let key = HostKey::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([NAME.to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.self_signed(&key).unwrap();
    let server = tls::server_config(&Leaf::from_pem(&leaf.pem().repeat(2)).unwrap(), &key).unwrap();
    let client = tls::pinned_client_config(CaPin::from(Sha256Digest::of(leaf.der()))).unwrap();
    assert_eq!(
        refused_by_client(&client, &server, NAME),
        CertificateError::UnknownIssuer
    );
}

#[test]
fn the_pinned_ca_shown_beside_a_strangers_leaf_is_refused() {
    let (fleet, stranger) = (Fleet::new(), Fleet::new());
    let leaf_pem = stranger.server.0.chain_pem();
    let first = leaf_pem
        .split_inclusive("-----END CERTIFICATE-----\n")
        .next()
        .unwrap();
    let chain = Leaf::from_pem(&format!("{first}{}", fleet.authority.cert_pem())).unwrap();
    let server = tls::server_config(&chain, &stranger.server.1).unwrap();
    let client = tls::pinned_client_config(fleet.authority.pin()).unwrap();
    let error = refused_by_client(&client, &server, NAME);
    assert!(
        matches!(
            error,
            CertificateError::BadSignature | CertificateError::UnknownIssuer
        ),
        "{error:?}"
    );
}

#[test]
fn the_pinned_client_still_checks_name_and_time() {
    let fleet = Fleet::new();
    let client = tls::pinned_client_config(fleet.authority.pin()).unwrap();
    let error = refused_by_client(&client, &fleet.enrolment(), "other.example");
    assert!(
        matches!(error, CertificateError::NotValidForNameContext { .. }),
        "{error:?}"
    );

    let late = Fleet::made_at(now() - Duration::days(2), now());
    let client = tls::pinned_client_config(late.authority.pin()).unwrap();
    let error = refused_by_client(&client, &late.enrolment(), NAME);
    assert!(
        matches!(error, CertificateError::ExpiredContext { .. }),
        "{error:?}"
    );

    let over = Fleet::made_at(now() - Duration::days(3651), now() - Duration::days(3651));
    let client = tls::pinned_client_config(over.authority.pin()).unwrap();
    assert_eq!(
        refused_by_client(&client, &over.enrolment(), NAME),
        CertificateError::Expired
    );
}

#[test]
fn a_server_that_hides_its_ca_from_a_pinned_client_is_refused() {
    let fleet = Fleet::new();
    let pem = fleet.server.0.chain_pem();
    let first = pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    let server = tls::server_config(&Leaf::from_pem(first).unwrap(), &fleet.server.1).unwrap();
    let client = tls::pinned_client_config(fleet.authority.pin()).unwrap();
    assert_eq!(
        refused_by_client(&client, &server, NAME),
        CertificateError::UnknownIssuer
    );
}

#[test]
fn tls_12_is_refused() {
    let fleet = Fleet::new();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(fleet.authority.certificate().der().clone()).unwrap();
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = Arc::new(old);
    for server in [fleet.agent_api(), fleet.enrolment()] {
        let refused = connect(&old, &server, NAME).unwrap_err();
        assert_eq!(
            refused.by_client,
            Some(Error::AlertReceived(AlertDescription::ProtocolVersion))
        );
    }
}

#[test]
fn a_revoked_host_cannot_come_back_on_an_old_session() {
    let fleet = Fleet::new();
    // A client that would resume if it were let.
    let mut eager = (*fleet.agent()).clone();
    eager.resumption = Resumption::in_memory_sessions(8);
    let eager = Arc::new(eager);
    let second_handshake = |server: &Arc<ServerConfig>| {
        connect(&eager, server, NAME).unwrap();
        connect(&eager, server, NAME).unwrap().1.handshake_kind()
    };
    assert_eq!(second_handshake(&fleet.agent_api()), Some(HandshakeKind::Full));
    assert_eq!(second_handshake(&fleet.enrolment()), Some(HandshakeKind::Full));

    // Two locks: no session is kept, and no ticket is handed out that a client might try.
    assert_eq!(
        (
            fleet.agent_api().send_tls13_tickets,
            fleet.enrolment().send_tls13_tickets
        ),
        (0, 0)
    );

    // The control: a server that hands out tickets is resumed by this very client.
    let mut lax = (*fleet.agent_api()).clone();
    lax.send_tls13_tickets = 2;
    lax.session_storage = ServerSessionMemoryCache::new(8);
    let lax = Arc::new(lax);
    assert_eq!(second_handshake(&lax), Some(HandshakeKind::Resumed));

    // And our own client does not resume even there.
    let own = fleet.agent();
    connect(&own, &lax, NAME).unwrap();
    assert_eq!(
        connect(&own, &lax, NAME).unwrap().1.handshake_kind(),
        Some(HandshakeKind::Full)
    );
}

#[test]
fn a_certificate_with_anothers_key_is_refused_when_configuring() {
    let fleet = Fleet::new();
    let other = HostKey::generate().unwrap();
    assert!(matches!(
        tls::server_config(&fleet.server.0, &other),
        Err(TlsError::Identity(_))
    ));
    assert!(matches!(
        tls::client_config(&fleet.cas(), &fleet.host.0, &other),
        Err(TlsError::Identity(_))
    ));
    assert!(matches!(
        tls::client_config_without_certificate(&[]),
        Err(TlsError::NoAuthorities)
    ));
    let server = tls::agent_server_config(&fleet.server.0, &fleet.server.1, &[]);
    assert!(matches!(server, Err(TlsError::NoAuthorities)));
}
