//! rustls configurations.
//!
//! Guarantees: TLS 1.3 only; `ring` is named explicitly, never the process's default provider; ALPN
//! `http/1.1`; nothing is ever resumed, so that each connection shows its certificate and a revoked host
//! cannot come back on an old session.

mod pinned;
mod unverified;

use std::sync::Arc;

use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_pki_types::UnixTime;
use time::OffsetDateTime;

use crate::certificate::{CaCertificate, CaPin, Leaf};
use crate::key::HostKey;

const ALPN: &[u8] = b"http/1.1";

/// For the agent API: every client must show a certificate that one of `client_cas` issued.
///
/// # Errors
/// [`TlsError::NoAuthorities`], [`TlsError::Authority`], [`TlsError::Identity`] when `leaf` and `key` do not
/// belong together.
pub fn agent_server_config(
    leaf: &Leaf,
    key: &HostKey,
    client_cas: &[CaCertificate],
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = server_builder()?.with_client_cert_verifier(client_verifier(client_cas)?);
    finish_server(builder.with_single_cert(leaf.chain().to_vec(), key.to_private_key_der()))
}

/// For enrolment and the operator API: clients show no certificate and prove themselves in other ways. The
/// server sends its CA's certificate too, for clients that know only its pin.
///
/// # Errors
/// [`TlsError::Identity`] when `leaf` and `key` do not belong together.
pub fn server_config(leaf: &Leaf, key: &HostKey) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = server_builder()?.with_no_client_auth();
    finish_server(builder.with_single_cert(leaf.chain().to_vec(), key.to_private_key_der()))
}

/// For a host: verifies the server by `cas` and its name, and shows the host's certificate.
///
/// # Errors
/// As for [`agent_server_config`].
pub fn client_config(
    cas: &[CaCertificate],
    leaf: &Leaf,
    key: &HostKey,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = client_builder()?.with_root_certificates(roots(cas)?);
    builder
        .with_client_auth_cert(leaf.chain().to_vec(), key.to_private_key_der())
        .map(finish_client)
        .map_err(TlsError::Identity)
}

/// For an operator's client: verifies the server by `cas` and its name, and shows no certificate.
///
/// # Errors
/// [`TlsError::NoAuthorities`], [`TlsError::Authority`].
pub fn client_config_without_certificate(cas: &[CaCertificate]) -> Result<Arc<ClientConfig>, TlsError> {
    Ok(finish_client(
        client_builder()?
            .with_root_certificates(roots(cas)?)
            .with_no_client_auth(),
    ))
}

/// For enrolment: knows nothing but the pin of the CA's certificate. Among those the server sends there must
/// be the one that the pin names; the server's leaf is then verified against that one alone, with its name,
/// the time and its usage. The answer's CA certificate must still be compared with the pin before it is kept.
///
/// # Errors
/// [`TlsError::Provider`].
pub fn pinned_client_config(pin: CaPin) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = Arc::new(pinned::PinnedCaVerifier::new(pin, provider()));
    let builder = client_builder()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(finish_client(builder.with_no_client_auth()))
}

/// For fetching documents that prove themselves by signatures of their own, and for nothing else: believes any
/// server. Whoever stands in the way can withhold such a document; changing it is noticed by its reader.
///
/// # Errors
/// [`TlsError::Provider`].
pub fn unverified_client_config() -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = Arc::new(unverified::AnyServer::new(provider()));
    let builder = client_builder()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(finish_client(builder.with_no_client_auth()))
}

/// Checks a host's leaf exactly as the agent API would in a handshake at `now`: issued by one of `cas`, in
/// its validity, for TLS clients. A host asks this before it replaces a working certificate.
///
/// # Errors
/// [`TlsError::NoAuthorities`], [`TlsError::Authority`], [`TlsError::Leaf`].
pub fn verify_client_leaf(leaf: &Leaf, cas: &[CaCertificate], now: OffsetDateTime) -> Result<(), TlsError> {
    let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let Some((end_entity, issuers)) = leaf.chain().split_first() else {
        return Err(TlsError::NoAuthorities);
    };
    client_verifier(cas)?
        .verify_client_cert(end_entity, issuers, now)
        .map(drop)
        .map_err(TlsError::Leaf)
}

/// A TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// TLS 1.3 is not to be had from the cryptography this program is built with.
    #[error("TLS 1.3 is not available")]
    Provider(#[source] rustls::Error),
    /// Nobody would be trusted.
    #[error("no CA certificate to verify the other side with")]
    NoAuthorities,
    /// A CA certificate cannot serve as a root.
    #[error("a CA certificate cannot be used to verify the other side")]
    Authority(#[source] rustls::Error),
    /// The verifier cannot be built.
    #[error("cannot build the verifier of client certificates")]
    Verifier(#[source] VerifierBuilderError),
    /// The own certificate or key cannot be used.
    #[error("the certificate and the private key cannot be used together")]
    Identity(#[source] rustls::Error),
    /// A leaf would be refused in a handshake.
    #[error("the certificate would be refused")]
    Leaf(#[source] rustls::Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_builder() -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, TlsError> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Provider)
}

fn client_builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Provider)
}

fn finish_server(config: Result<ServerConfig, rustls::Error>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = config.map_err(TlsError::Identity)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn finish_client(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn roots(cas: &[CaCertificate]) -> Result<Arc<RootCertStore>, TlsError> {
    if cas.is_empty() {
        return Err(TlsError::NoAuthorities);
    }
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(ca.der().clone()).map_err(TlsError::Authority)?;
    }
    Ok(Arc::new(roots))
}

fn client_verifier(cas: &[CaCertificate]) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(roots(cas)?, provider())
        .build()
        .map_err(TlsError::Verifier)
}
