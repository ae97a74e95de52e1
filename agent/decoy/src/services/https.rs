//! https: the http site over TLS 1.2 and 1.3.

mod certificate;

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio_rustls::TlsAcceptor;

use super::http::{Site, Versions};
use crate::Failure;
use crate::environment::{Context, EnvironmentError};
use crate::event::Category;
use crate::serve::{Connection, Session};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Persona {
    tls_cn: Option<String>,
    tls_cert: Option<String>,
    tls_key: Option<String>,
}

pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let site = Arc::new(Site::new(&context)?);
    let versions = Versions::of(&context)?;
    let acceptor = TlsAcceptor::from(Arc::new(config(&context, versions)?));
    crate::serve::tcp(&context, move |connection, session| {
        let (site, acceptor) = (Arc::clone(&site), acceptor.clone());
        async move {
            let stream = shake_hands(&acceptor, connection, &session).await?;
            super::http::serve(stream, site, session, versions).await
        }
    })
    .await
}

async fn shake_hands(
    acceptor: &TlsAcceptor,
    connection: Connection,
    session: &Session,
) -> std::io::Result<tokio_rustls::server::TlsStream<Connection>> {
    let shaken = acceptor.accept(connection).await;
    let mut event = session.event("tls", Category::Network).outcome(shaken.is_ok());
    if let Ok(stream) = &shaken {
        let (_, tls) = stream.get_ref();
        event = event
            .maybe("tls.client.server_name", tls.server_name())
            .maybe("tls.next_protocol", tls.alpn_protocol())
            .maybe(
                "tls.version",
                tls.protocol_version().map(|version| format!("{version:?}")),
            )
            .maybe(
                "tls.cipher",
                tls.negotiated_cipher_suite()
                    .map(|suite| format!("{:?}", suite.suite())),
            );
    }
    event.emit();
    shaken
}

fn config(context: &Context, versions: Versions) -> Result<ServerConfig, EnvironmentError> {
    let persona: Persona = context.persona()?;
    let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let (chain, key) = match (given(persona.tls_cert), given(persona.tls_key)) {
        (Some(chain), Some(key)) => from_pem(&chain, &key)?,
        (None, None) => {
            // The host name, not the node's: that one is the fleet's and never shown.
            let name = given(persona.tls_cn).unwrap_or_else(|| context.host.hostname.clone());
            certificate::self_signed(&context.identity, &name)
                .map_err(|error| wrong("tls_cn", format!("cannot stand in a certificate: {error}")))?
        }
        (None, Some(_)) => return Err(wrong("tls_key", "is given without tls_cert: give both or none")),
        (Some(_), None) => return Err(wrong("tls_cert", "is given without tls_key: give both or none")),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| wrong("tls_cert", format!("and tls_key do not work together: {error}")))?;
    config.alpn_protocols = [(versions.http2, "h2"), (versions.http1, "http/1.1")]
        .iter()
        .filter(|(served, _)| *served)
        .map(|(_, name)| name.as_bytes().to_vec())
        .collect();
    Ok(config)
}

fn from_pem(
    chain: &str,
    key: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), EnvironmentError> {
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| wrong("tls_cert", "holds no PEM certificate: give the text, not a path"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| wrong("tls_key", "holds no PEM private key: give the text, not a path"))?;
    Ok((chain, key))
}

fn wrong(key: &'static str, problem: impl Into<String>) -> EnvironmentError {
    EnvironmentError::PersonaValue {
        key,
        problem: problem.into(),
    }
}
