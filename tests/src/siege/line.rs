//! One HTTP/1.1 connection, over TLS or on the operator's socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use decnet_pki::ServerName;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

/// A connection that requests go through one after another.
#[derive(Debug)]
pub(super) struct Line {
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

/// Connects to a port of this machine.
pub(super) async fn tls(port: u16, config: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
    wrap(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?, config).await
}

/// As [`tls`], from an address of its own: whoever is refused too often is put off by address.
pub(super) async fn tls_from_elsewhere(
    port: u16,
    config: &Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, 7), 0).into())?;
    let stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
    wrap(stream, config).await
}

/// As [`tls`], with little room for what it does not read.
pub(super) async fn narrow_tls(port: u16, config: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let stream = socket
        .connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .await?;
    wrap(stream, config).await
}

async fn wrap(stream: TcpStream, config: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
    let connector = TlsConnector::from(Arc::clone(config));
    Ok(connector.connect(name, stream).await?)
}

impl Line {
    pub(super) async fn over<S>(stream: S) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self {
            sender,
            _driver: AbortOnDropHandle::new(driver),
        })
    }

    pub(super) async fn ask(
        &mut self,
        method: Method,
        uri: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "127.0.0.1")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}

/// The operator API on the master's socket.
#[derive(Debug)]
pub(super) struct Operator(PathBuf);

impl Operator {
    pub(super) fn on(socket: &Path) -> Self {
        Self(socket.to_owned())
    }

    pub(super) async fn get(&self, uri: &str) -> Result<Value> {
        self.ask(Method::GET, uri, Bytes::new()).await
    }

    pub(super) async fn post(&self, uri: &str, body: &Value) -> Result<Value> {
        self.ask(Method::POST, uri, serde_json::to_vec(body)?.into())
            .await
    }

    async fn ask(&self, method: Method, uri: &str, body: Bytes) -> Result<Value> {
        let mut line = Line::over(UnixStream::connect(&self.0).await?).await?;
        let (status, body) = line.ask(method, uri, body).await?;
        let said = String::from_utf8_lossy(&body);
        ensure!(status.is_success(), "{uri} answered {status}: {said}");
        serde_json::from_slice(&body).with_context(|| format!("{uri} answered {said:?}"))
    }
}
