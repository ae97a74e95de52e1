//! One HTTP/1.1 connection to the master, kept open and made again when it is gone.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use decnet_pki::ServerName;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::config::HostPort;

/// How long connecting and the TLS handshake may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection that requests go through one after another.
pub(crate) struct Link {
    to: HostPort,
    server_name: ServerName<'static>,
    tls: watch::Receiver<Arc<ClientConfig>>,
    open: Option<Open>,
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    // Drives the connection; ends with the link.
    _driver: AbortOnDropHandle<()>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("to", &self.to)
            .field("open", &self.open.is_some())
            .finish_non_exhaustive()
    }
}

/// A request that got no usable answer. All of these are worth another try, except a refusal.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the master's name {0:?} is neither a DNS name nor an address")]
    Name(String),
    #[error("cannot connect to {to}")]
    Connect {
        to: HostPort,
        #[source]
        source: std::io::Error,
    },
    #[error("no TLS connection with {to}{}", clock_hint(.source))]
    Tls {
        to: HostPort,
        #[source]
        source: std::io::Error,
    },
    #[error("{to} did not answer within {} s", .after.as_secs())]
    Timeout { to: HostPort, after: Duration },
    #[error("the exchange with {to} broke off{}", clock_hint(.source))]
    Exchange {
        to: HostPort,
        #[source]
        source: hyper::Error,
    },
    #[error("cannot read the answer of {to}")]
    Body {
        to: HostPort,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the answer of {to} is longer than {most} bytes")]
    TooLarge { to: HostPort, most: usize },
    #[error("the request cannot be made")]
    Request(#[source] http::Error),
    #[error("{to} answered {status}{}", .said.as_deref().map(|said| format!(": {said}")).unwrap_or_default())]
    Status {
        to: HostPort,
        status: StatusCode,
        said: Option<String>,
    },
}

impl LinkError {
    /// Whether the master does not know this host, or no longer lets it in.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            }
            _ => false,
        }
    }
}

impl LinkError {
    /// Whether the same request would be answered in the same way again.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                status.is_client_error() && !later.contains(status)
            }
            _ => false,
        }
    }

    /// Whether nothing was answered at all.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::Tls { .. }
                | Self::Timeout { .. }
                | Self::Exchange { .. }
                | Self::Body { .. }
        )
    }

    /// Whether the other side showed a certificate that is not believed here.
    pub(crate) fn is_unknown_server(&self) -> bool {
        matches!(tls_error(self), Some(rustls::Error::InvalidCertificate(_)))
    }

    /// Whether the other side ended the handshake, as a master does that believes this host's certificate no more.
    pub(crate) fn is_alert(&self) -> bool {
        matches!(tls_error(self), Some(rustls::Error::AlertReceived(_)))
    }
}

/// Whether a certificate, of whichever side, is of another time than it is where it was looked at.
pub(crate) fn is_about_time(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustls::{AlertDescription, CertificateError, Error};
    matches!(
        tls_error(error),
        Some(
            Error::AlertReceived(AlertDescription::CertificateExpired)
                | Error::InvalidCertificate(
                    CertificateError::Expired
                        | CertificateError::ExpiredContext { .. }
                        | CertificateError::NotValidYet
                        | CertificateError::NotValidYetContext { .. },
                ),
        )
    )
}

/// What to do about such a certificate.
pub(crate) fn clock_hint(error: &(dyn std::error::Error + 'static)) -> &'static str {
    if is_about_time(error) {
        ": a certificate is of another time; look at the clocks of this host and of the master"
    } else {
        ""
    }
}

/// What TLS has to do with an error.
fn tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<std::io::Error>() {
            // Its source is what the inner error comes from, not the inner error.
            Some(outer) => outer.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    None
}

impl Link {
    /// Each new connection is made as `tls` says then; one that is open ends when it says something else.
    pub(crate) fn new(to: HostPort, tls: watch::Receiver<Arc<ClientConfig>>) -> Result<Self, LinkError> {
        let server_name =
            ServerName::try_from(to.host().to_owned()).map_err(|_| LinkError::Name(to.host().to_owned()))?;
        Ok(Self {
            to,
            server_name,
            tls,
            open: None,
        })
    }

    /// Sends a request and waits for the head of the answer. A kept connection may have been closed by the
    /// other side meanwhile, so what fails on one is tried once more on a new one; every request of this
    /// agent may be repeated.
    pub(crate) async fn send(
        &mut self,
        request: &Request<Bytes>,
        wait: Duration,
    ) -> Result<Response<Incoming>, LinkError> {
        // An error says that nobody will change it any more.
        if self.tls.has_changed().unwrap_or(false) {
            self.open = None;
        }
        let kept = self.open.is_some();
        match self.send_once(request, wait).await {
            Err(LinkError::Exchange { .. }) if kept => self.send_once(request, wait).await,
            other => other,
        }
    }

    /// Reads an answer's body of at most `most` bytes.
    pub(crate) async fn read(
        &mut self,
        answer: Response<Incoming>,
        most: usize,
        wait: Duration,
    ) -> Result<Bytes, LinkError> {
        let body = Limited::new(answer.into_body(), most).collect();
        let outcome = timeout(wait, body).await;
        let error = match outcome {
            Ok(Ok(body)) => return Ok(body.to_bytes()),
            Ok(Err(source)) if source.is::<LengthLimitError>() => LinkError::TooLarge {
                to: self.to.clone(),
                most,
            },
            Ok(Err(source)) => LinkError::Body {
                to: self.to.clone(),
                source,
            },
            Err(_) => LinkError::Timeout {
                to: self.to.clone(),
                after: wait,
            },
        };
        // The rest of the body is still on its way: the connection is of no more use.
        self.open = None;
        Err(error)
    }

    /// Sends a request and reads the whole answer, if its status is one of these.
    pub(crate) async fn exchange(
        &mut self,
        request: &Request<Bytes>,
        accepted: &[StatusCode],
        most: usize,
        wait: Wait,
    ) -> Result<(StatusCode, Bytes), LinkError> {
        let answer = self.send(request, wait.head).await?;
        let status = answer.status();
        if !accepted.contains(&status) {
            return Err(self.unexpected(answer).await);
        }
        Ok((status, self.read(answer, most, wait.body).await?))
    }

    /// Turns an answer that is not what was asked for into an error, with what the master says about it.
    pub(crate) async fn unexpected(&mut self, answer: Response<Incoming>) -> LinkError {
        let status = answer.status();
        let body = self.read(answer, 16 * 1024, CONNECT).await.unwrap_or_default();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            // A new handshake tells whether it is the certificate.
            self.open = None;
        }
        LinkError::Status {
            to: self.to.clone(),
            status,
            said: said(&body),
        }
    }

    /// Forgets the connection; the next request makes a new one.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    async fn send_once(
        &mut self,
        request: &Request<Bytes>,
        wait: Duration,
    ) -> Result<Response<Incoming>, LinkError> {
        let mut open = match self.open.take() {
            Some(open) if open.sender.is_ready() => open,
            _ => self.connect().await?,
        };
        let mut request = request.clone().map(Full::new);
        if let Ok(host) = HeaderValue::from_str(&self.to.to_string()) {
            request.headers_mut().insert(header::HOST, host);
        }
        match timeout(wait, open.sender.send_request(request)).await {
            Ok(Ok(answer)) => {
                self.open = Some(open);
                Ok(answer)
            }
            Ok(Err(source)) => Err(LinkError::Exchange {
                to: self.to.clone(),
                source,
            }),
            Err(_) => Err(LinkError::Timeout {
                to: self.to.clone(),
                after: wait,
            }),
        }
    }

    async fn connect(&mut self) -> Result<Open, LinkError> {
        let tls = TlsConnector::from(Arc::clone(&self.tls.borrow_and_update()));
        let to = &self.to;
        let attempt = async {
            let stream = TcpStream::connect((to.host(), to.port()))
                .await
                .map_err(|source| LinkError::Connect {
                    to: to.clone(),
                    source,
                })?;
            // Small requests; only a slower answer if it is refused.
            let _ = stream.set_nodelay(true);
            let stream = tls
                .connect(self.server_name.clone(), stream)
                .await
                .map_err(|source| LinkError::Tls {
                    to: to.clone(),
                    source,
                })?;
            let (sender, connection) =
                http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|source| LinkError::Exchange {
                        to: to.clone(),
                        source,
                    })?;
            // Its error is also that of the request under way, which reports it.
            let driver = tokio::spawn(async move { drop(connection.await) });
            Ok(Open {
                sender,
                _driver: AbortOnDropHandle::new(driver),
            })
        };
        timeout(CONNECT, attempt).await.map_err(|_| LinkError::Timeout {
            to: to.clone(),
            after: CONNECT,
        })?
    }
}

/// How long an answer may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    pub(crate) head: Duration,
    pub(crate) body: Duration,
}

impl Wait {
    /// For what a master answers at once.
    pub(crate) const USUAL: Self = Self::each(Duration::from_secs(30));

    /// As long for the one as for the other.
    pub(crate) const fn each(time: Duration) -> Self {
        Self {
            head: time,
            body: time,
        }
    }
}

/// A request for what is there.
pub(crate) fn get(uri: &str) -> Result<Request<Bytes>, LinkError> {
    Request::builder()
        .uri(uri)
        .body(Bytes::new())
        .map_err(LinkError::Request)
}

/// A request with a JSON document.
pub(crate) fn post(uri: &str, document: Vec<u8>) -> Result<Request<Bytes>, LinkError> {
    Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Bytes::from(document))
        .map_err(LinkError::Request)
}

/// A way to speak TLS that stays as it is.
pub(crate) fn fixed(tls: Arc<ClientConfig>) -> watch::Receiver<Arc<ClientConfig>> {
    watch::Sender::new(tls).subscribe()
}

/// The sentence in an error's body: the `detail` or `error` of a JSON object, else the text as it is.
fn said(body: &[u8]) -> Option<String> {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => {
            let sentence = |key| {
                value
                    .get(key)
                    .and_then(serde_json::Value::as_str)
                    .map(str::to_owned)
            };
            sentence("detail")
                .or_else(|| sentence("error"))
                .or_else(|| sentence("message"))?
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let text: String = crate::error::one_line(&text).chars().take(300).collect();
    (!text.is_empty()).then_some(text)
}
