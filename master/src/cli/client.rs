//! The client of the operator API: one connection a request, over the Unix socket or HTTPS.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use decnet_pki::secret::SecretText;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::failure::Failure;
use crate::serve::operator::views::ErrorView;
use crate::text::chain;

/// Where the master of this machine listens.
pub(super) const SOCKET: &str = "/run/decnet/master.sock";
/// The port of the operator API over HTTPS.
const PORT: u16 = 8772;
/// How long to wait for a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// How long to wait for an answer.
const ANSWER: Duration = Duration::from_secs(60);
/// The most that an answer may hold, in bytes. A plan of 500 deckies is about 2 MiB.
const ANSWER_CAP: usize = 64 * 1024 * 1024;
/// The most that a download may hold, in bytes.
const DOWNLOAD_CAP: u64 = 1 << 40;
/// The most that one event may hold, in bytes.
const EVENT_CAP: usize = 1024 * 1024;
/// What a reader who was cut off sends (WHATWG HTML, §9.2).
const LAST_EVENT_ID: &str = "last-event-id";
/// The most that a token or CA file may hold, in bytes.
const FILE_CAP: u64 = 64 * 1024;

/// How to reach the master. Given after the command.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The master's Unix socket; where root needs no token [default: /run/decnet/master.sock]
    #[arg(long, env = "DECNET_SOCKET", value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,
    /// The master's HTTPS address, as in `https://master.example:8772`; goes before --socket
    #[arg(long, env = "DECNET_SERVER", value_name = "URL", global = true)]
    pub server: Option<String>,
    /// The master's CA certificate in PEM, needed with --server
    #[arg(long, env = "DECNET_CA", value_name = "FILE", global = true)]
    pub ca: Option<PathBuf>,
    /// A file that holds the operator token; the variable DECNET_TOKEN may hold the token itself
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// The token itself. Only through the variable: a command line is for everybody to read.
    #[arg(
        long,
        env = "DECNET_TOKEN",
        hide = true,
        hide_env_values = true,
        global = true
    )]
    pub token: Option<SecretText>,
}

/// A way to the master.
pub(super) struct Client {
    target: Target,
    token: Option<HeaderValue>,
}

enum Target {
    Socket(PathBuf),
    Tls {
        host: String,
        port: u16,
        name: ServerName<'static>,
        config: Arc<rustls::ClientConfig>,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tls { host, port, .. } => write!(f, "https://{host}:{port}"),
        }
    }
}

impl Client {
    /// Reads the files that the connection names. Nothing is sent yet.
    pub(super) fn new(connection: &Connection) -> Result<Self, Failure> {
        let token = match (&connection.token_file, &connection.token) {
            (Some(path), _) => {
                let token = read_small(path, "the token file")?;
                if token.trim().is_empty() {
                    return Err(Failure::Usage(format!(
                        "the token file {} is empty",
                        path.display()
                    )));
                }
                Some(SecretText::from(token))
            }
            (None, token) => token.clone(),
        };
        let token = token
            .as_ref()
            .map(|token| token.reveal().trim())
            .filter(|token| !token.is_empty())
            .map(header)
            .transpose()?;
        let target = match &connection.server {
            None => Target::Socket(connection.socket.clone().unwrap_or_else(|| SOCKET.into())),
            Some(url) => tls_target(url, connection.ca.as_deref())?,
        };
        Ok(Self { target, token })
    }

    /// Asks, and reads the answer to a success.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, None).await
    }

    /// Sends a request, and reads the answer to a success.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Failure> {
        let response = self.send(method, path, body).await?;
        let response = self.accept(response).await?;
        let bytes = self.whole(response).await?;
        self.parse(&bytes)
    }

    /// Sends a file's bytes.
    pub(super) async fn upload(&self, path: &str, file: Bytes) -> Result<(), Failure> {
        let request = self.request(Method::PUT, path, None);
        let request = request.header(CONTENT_TYPE, "application/octet-stream");
        let response = self.sent(path, request, file).await?;
        self.accept(response).await.map(drop)
    }

    /// Asks for a text.
    pub(super) async fn text(&self, path: &str) -> Result<String, Failure> {
        let response = self.send(Method::GET, path, None).await?;
        let response = self.accept(response).await?;
        let bytes = self.whole(response).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a request whose answer may have any status, and reads it.
    pub(super) async fn any<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let response = self.send(Method::GET, path, None).await?;
        if matches!(
            response.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            self.accept(response).await?;
            return Err(Failure::Denied("the master refused".to_owned()));
        }
        let bytes = self.whole(response).await?;
        self.parse(&bytes)
    }

    /// Sends a request, and gives out a header of the answer to a success.
    pub(super) async fn header(
        &self,
        method: Method,
        path: &str,
        name: &str,
    ) -> Result<Option<String>, Failure> {
        let response = self.send(method, path, None).await?;
        let response = self.accept(response).await?;
        let value = response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        Ok(value)
    }

    /// Sends a request, and writes the answer to a success to `out`.
    pub(super) async fn download(
        &self,
        method: Method,
        path: &str,
        out: &mut (dyn std::io::Write + Send),
    ) -> Result<(), Failure> {
        let response = self.send(method, path, None).await?;
        let mut body = self.accept(response).await?.into_body();
        let mut length = 0_u64;
        loop {
            let frame = match tokio::time::timeout(ANSWER, body.frame()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    return Err(self.unreachable(&format!("the answer was cut off: {error}")));
                }
                Err(_) => return Err(self.unreachable("the answer took too long")),
            };
            let Ok(data) = frame.into_data() else { continue };
            length = length.saturating_add(data.len() as u64);
            if length > DOWNLOAD_CAP {
                return Err(Failure::Failed(format!(
                    "the answer of the master at {} is larger than {DOWNLOAD_CAP} bytes",
                    self.target
                )));
            }
            out.write_all(&data)
                .map_err(|error| Failure::Failed(format!("cannot write what the master sends: {error}")))?;
        }
    }

    /// Opens the stream of events of these topics, of all where there is none; from after the event `last` on.
    pub(super) async fn events(&self, topics: &[String], last: Option<&str>) -> Result<EventStream, Failure> {
        let mut path = "/api/v1/events".to_owned();
        for (n, topic) in topics.iter().enumerate() {
            path.push_str(if n == 0 { "?topic=" } else { "&topic=" });
            path.extend(form_urlencoded::byte_serialize(topic.as_bytes()));
        }
        let last = last
            .map(HeaderValue::from_str)
            .transpose()
            .map_err(|_| Failure::Usage("the id of the last event is not plain text".to_owned()))?;
        let response = self
            .send_with(Method::GET, &path, None, last.map(|last| (LAST_EVENT_ID, last)))
            .await?;
        let response = self.accept(response).await?;
        Ok(EventStream {
            body: response.into_body(),
            buffer: BytesMut::new(),
            last: None,
        })
    }

    /// Sends a request.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, Failure> {
        self.send_with(method, path, body, None).await
    }

    async fn send_with(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        header: Option<(&str, HeaderValue)>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = self.request(method, path, header);
        let bytes = match body {
            None => Bytes::new(),
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
        };
        self.sent(path, request, bytes).await
    }

    /// A request without its body.
    fn request(&self, method: Method, path: &str, header: Option<(&str, HeaderValue)>) -> Builder {
        let host = match &self.target {
            Target::Socket(_) => "localhost".to_owned(),
            Target::Tls { host, port, .. } => format!("{host}:{port}"),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .header(ACCEPT, "*/*");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        request
    }

    async fn sent(&self, path: &str, request: Builder, bytes: Bytes) -> Result<Response<Incoming>, Failure> {
        let request = request
            .body(Full::new(bytes))
            .map_err(|error| Failure::Usage(format!("cannot ask the master for {path}: {error}")))?;
        match tokio::time::timeout(CONNECT + ANSWER, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable("it took too long to answer")),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        match &self.target {
            Target::Socket(path) => {
                let stream = self.in_time(UnixStream::connect(path)).await?;
                self.speak(stream, request).await
            }
            Target::Tls {
                host,
                port,
                name,
                config,
            } => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                let stream = self.in_time(TcpStream::connect((bare, *port))).await?;
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                let stream = self.in_time(connector.connect(name.clone(), stream)).await?;
                self.speak(stream, request).await
            }
        }
    }

    async fn in_time<T>(&self, connect: impl Future<Output = std::io::Result<T>>) -> Result<T, Failure> {
        match tokio::time::timeout(CONNECT, connect).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.not_connected(&error)),
            Err(_) => Err(self.unreachable("it took too long to connect")),
        }
    }

    async fn speak(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(&chain(&error)))?;
        // Ends with the answer's body, or with the connection.
        tokio::spawn(connection);
        sender
            .send_request(request)
            .await
            .map_err(|error| self.unreachable(&chain(&error)))
    }

    /// Passes on a success; everything else is a failure of its kind.
    async fn accept(&self, response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = self.whole(response).await?;
        let error: ErrorView = serde_json::from_slice(&bytes).unwrap_or_default();
        let detail = if error.detail.is_empty() {
            status.to_string()
        } else {
            error.detail
        };
        Err(match status {
            StatusCode::UNAUTHORIZED if self.token.is_none() => Failure::Denied(format!(
                "the master at {} wants a token: give --token-file FILE, or run this as root on the master",
                self.target
            )),
            StatusCode::UNAUTHORIZED => Failure::Denied(format!(
                "the master at {} does not know this token: make another with `decnet token create` on the master",
                self.target
            )),
            StatusCode::FORBIDDEN => Failure::Denied(format!(
                "this token may not do that ({detail}): use one of the role admin"
            )),
            status if status.is_client_error() && !error.errors.is_empty() => {
                Failure::Refused(error.errors.into_iter().map(|error| error.message).collect())
            }
            status if status.is_client_error() => Failure::refused(detail),
            _ => Failure::Failed(match error.error_id {
                Some(id) => format!("the master at {} failed: look for {id} in its log", self.target),
                None => format!("the master at {} failed: {detail}", self.target),
            }),
        })
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, Failure> {
        let reading = Limited::new(response.into_body(), ANSWER_CAP).collect();
        match tokio::time::timeout(ANSWER, reading).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::Failed(format!(
                "the answer of the master at {} is larger than {ANSWER_CAP} bytes",
                self.target
            ))),
            Ok(Err(error)) => Err(self.unreachable(&format!("the answer was cut off: {error}"))),
            Err(_) => Err(self.unreachable("the answer took too long")),
        }
    }

    fn parse<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(bytes).map_err(|error| {
            Failure::Failed(format!(
                "the master at {} answered what this version of decnet does not read ({error}): use the version of \
                 the master",
                self.target
            ))
        })
    }

    fn not_connected(&self, error: &std::io::Error) -> Failure {
        use std::io::ErrorKind;
        match (&self.target, error.kind()) {
            (Target::Socket(path), ErrorKind::PermissionDenied) => Failure::Denied(format!(
                "no permission to use {}: run this as root, or use --server with a token",
                path.display()
            )),
            (Target::Socket(_), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => self.unreachable(
                "nothing listens there; start `decnet serve`, or say --socket PATH or --server URL",
            ),
            (Target::Tls { .. }, ErrorKind::InvalidData) => {
                self.unreachable(&format!("{error}; is --ca the CA of this master?"))
            }
            _ => self.unreachable(&error.to_string()),
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::Unreachable(format!("the master at {} is not reachable: {why}", self.target))
    }
}

fn tls_target(url: &str, ca: Option<&Path>) -> Result<Target, Failure> {
    let wrong = || {
        Failure::Usage(format!(
            "--server {url}: not an address such as https://master.example:{PORT}"
        ))
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let (Some("https"), Some(host), "/") = (uri.scheme_str(), uri.host(), uri.path()) else {
        return Err(wrong());
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(bare).map_err(|_| wrong())?;
    let ca = ca.ok_or_else(|| {
        Failure::Usage(
            "--server needs --ca FILE: a copy of keys/ca.crt in the master's state folder".to_owned(),
        )
    })?;
    let text = read_small(ca, "the CA certificate")?;
    let unread = || {
        Failure::Usage(format!(
            "--ca {}: there is no certificate in PEM in it",
            ca.display()
        ))
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        roots
            .add(certificate.map_err(|_| unread())?)
            .map_err(|_| unread())?;
    }
    if roots.is_empty() {
        return Err(unread());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Failure::Failed(format!("TLS 1.3 is not to be had: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Target::Tls {
        host: host.to_owned(),
        port: uri.port_u16().unwrap_or(PORT),
        name,
        config: Arc::new(config),
    })
}

fn header(token: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Failure::Usage("the token is not one line of plain text".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_small(path: &Path, what: &str) -> Result<String, Failure> {
    let failed =
        |why: &dyn std::fmt::Display| Failure::Usage(format!("cannot read {what} {}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    let mut text = String::new();
    file.take(FILE_CAP + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(&error))?;
    if text.len() as u64 > FILE_CAP {
        return Err(failed(&format!("it is larger than {FILE_CAP} bytes")));
    }
    Ok(text)
}

/// Server-sent events (WHATWG HTML, §9.2).
pub(super) struct EventStream {
    body: Incoming,
    buffer: BytesMut,
    /// The newest id that came.
    last: Option<String>,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerEvent {
    pub(super) name: String,
    pub(super) data: String,
    pub(super) id: Option<String>,
}

impl EventStream {
    /// From after which event on a stream that is opened next would miss nothing.
    pub(super) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// The next event; none once the stream has ended or is broken.
    pub(super) async fn next(&mut self) -> Option<ServerEvent> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block = self.buffer.split_to(end + 2);
                let (id, event) = event(&String::from_utf8_lossy(&block));
                if id.is_some() {
                    self.last = id;
                }
                if let Some(event) = event {
                    return Some(event);
                }
            }
            if self.buffer.len() > EVENT_CAP {
                return None;
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

/// A block of the stream: its id, and the event that it is. None for a comment; the id of one counts all the same.
fn event(block: &str) -> (Option<String>, Option<ServerEvent>) {
    let (mut id, mut name) = (None, "message");
    let mut lines = Vec::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value,
            "id" => id = Some(value.to_owned()),
            "data" => lines.push(value),
            _ => {}
        }
    }
    let event = (!lines.is_empty()).then(|| ServerEvent {
        name: name.to_owned(),
        data: lines.join("\n"),
        id: id.clone(),
    });
    (id, event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_no_event() {
        assert_eq!(event(": keep-alive\n\n"), (None, None));
        assert_eq!(event(": keep-alive\nid: 7\n\n"), (Some("7".to_owned()), None));
        let (id, lagged) = event("id: 9\nevent: lagged\ndata: {\"missed\":3}\n\n");
        let lagged = lagged.unwrap();
        assert_eq!((id.as_deref(), lagged.id.as_deref()), (Some("9"), Some("9")));
        assert_eq!(
            (lagged.name.as_str(), lagged.data.as_str()),
            ("lagged", "{\"missed\":3}")
        );
    }

    #[test]
    fn a_server_address_that_is_none_is_a_usage_error() {
        for bad in [
            "http://m:8772",
            "m:8772",
            "https://",
            "https://m/api",
            "https://m m",
        ] {
            let failure = tls_target(bad, None).err().unwrap();
            assert_eq!(failure.code(), 2, "{bad}");
        }
        let failure = tls_target("https://[::1]:8772", None).err().unwrap();
        assert!(failure.to_string().contains("--ca"), "{failure}");
    }

    #[test]
    fn a_token_that_would_break_the_request_is_a_usage_error() {
        assert_eq!(header("a\r\nX: y").unwrap_err().code(), 2);
    }
}
