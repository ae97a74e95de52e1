//! Listeners: accept, bound, shake hands, serve HTTP/1.1 with hyper, end cleanly.
//!
//! Bounds: connections per listener, time for the handshake, time for a request's head, time to finish when the
//! master ends. What is over the bound waits in the kernel's queue.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's head; also how long an idle connection is kept.
const REQUEST_HEAD: Duration = Duration::from_secs(75);
/// The most bytes of a request's head.
const HEAD_BYTES: usize = 32 * 1024;
/// How long open requests may take to finish once the master ends. A blob that is cut off is resumed.
const GRACE: Duration = Duration::from_secs(10);
/// Connections at once of agents: a poll and a report for each of 10,000 hosts.
pub const AGENTS: usize = 20_000;
/// Connections at once of operators.
pub const OPERATORS: usize = 1024;
/// Connections at once of anybody: they must not use up the file descriptors of the others.
pub const STRANGERS: usize = 256;

/// Who is at the other end of a connection.
#[derive(Clone)]
pub enum Remote {
    /// A process on this machine, by its user id.
    Unix { uid: u32 },
    /// A TLS client, with its leaf certificate in DER where it showed one.
    Tls {
        address: SocketAddr,
        certificate: Option<Arc<[u8]>>,
        connection: Arc<Connection>,
    },
}

impl Remote {
    /// The address of somebody on the network.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Unix { .. } => None,
            Self::Tls { address, .. } => Some(address.ip()),
        }
    }
}

impl fmt::Debug for Remote {
    /// In one short line: a whole certificate would fill the log of a master that somebody knocks at.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid } => write!(f, "uid {uid}"),
            Self::Tls { address, .. } => write!(f, "{address}"),
        }
    }
}

/// One TLS connection.
#[derive(Debug, Default)]
pub struct Connection {
    /// Ends it, in the middle of whatever it does; cancelled once it has ended.
    pub cut: CancellationToken,
    /// That somebody keeps `cut`.
    pub known: AtomicBool,
}

/// A listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("could not listen on {at}")]
    Bind {
        at: String,
        #[source]
        source: std::io::Error,
    },
    #[error("another process listens on {0}: is a master running already?")]
    Busy(PathBuf),
}

/// Takes as many file descriptors as this process may have: the usual 1,024 are fewer than the connections.
pub fn allow_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

/// Opens a TCP listener.
///
/// # Errors
/// The address is taken or not this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError::Bind {
            at: address.to_string(),
            source,
        })
}

/// Opens a Unix socket for the user that the master runs as. A socket that nobody listens on any more is replaced.
///
/// # Errors
/// Somebody listens on it, or it cannot be made.
pub async fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    let error = |source| ListenError::Bind {
        at: path.display().to_string(),
        source,
    };
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(ListenError::Busy(path.to_owned()));
    }
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder).map_err(error)?;
    // Made in a folder of its own and moved when its rights are set: nobody else can connect in between.
    let making = folder.join(".new");
    clear(&making).map_err(error)?;
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&making)
        .map_err(error)?;
    let new = making.join("s");
    let listener = UnixListener::bind(&new).map_err(error)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).map_err(error)?;
    std::fs::rename(&new, path).map_err(error)?;
    std::fs::remove_dir(&making).map_err(error)?;
    Ok(listener)
}

/// Takes away what a master that was killed at this point left.
fn clear(making: &Path) -> std::io::Result<()> {
    let gone = |outcome: std::io::Result<()>| match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    gone(std::fs::remove_file(making.join("s")))?;
    gone(std::fs::remove_dir(making))
}

/// Serves at most `connections` TLS connections at once until `end`, then lets open requests finish. Each is spoken as
/// `tls` says when it is made. `service` makes one service a connection.
pub async fn serve_tls<S, F>(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    connections: usize,
    end: CancellationToken,
    service: F,
) where
    F: Fn(Remote) -> S + Clone + Send + Sync + 'static,
    S: HttpService,
{
    let tasks = TaskTracker::new();
    let places = Arc::new(Semaphore::new(connections));
    loop {
        let Some(place) = next_place(&places, &end).await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => break,
        };
        let Some((stream, address)) = survive(accepted).await else {
            continue;
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
        let (service, end) = (service.clone(), end.clone());
        tasks.spawn(async move {
            let _place = place;
            let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
            let shaken = tokio::select! {
                shaken = handshake => shaken,
                () = end.cancelled() => return,
            };
            let stream = match shaken {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "TLS handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(%address, "TLS handshake took too long");
                    return;
                }
            };
            let certificate = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(|chain| chain.first())
                .map(|der| Arc::from(der.as_ref()));
            let this = Arc::new(Connection::default());
            let cut = this.cut.clone();
            let _ended = cut.clone().drop_guard();
            let remote = Remote::Tls {
                address,
                certificate,
                connection: this,
            };
            tokio::select! {
                () = connection(TokioIo::new(stream), service(remote), end) => {}
                () = cut.cancelled() => tracing::info!(%address, "a connection was cut"),
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

/// Serves connections on a Unix socket until `end`.
pub async fn serve_unix<S, F>(listener: UnixListener, end: CancellationToken, service: F)
where
    F: Fn(Remote) -> S + Clone + Send + Sync + 'static,
    S: HttpService,
{
    let tasks = TaskTracker::new();
    let places = Arc::new(Semaphore::new(OPERATORS));
    loop {
        let Some(place) = next_place(&places, &end).await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => break,
        };
        let Some((stream, _)) = survive(accepted).await else {
            continue;
        };
        let Ok(peer) = stream.peer_cred() else { continue };
        let (service, end) = (service.clone(), end.clone());
        tasks.spawn(async move {
            let _place = place;
            connection(
                TokioIo::new(stream),
                service(Remote::Unix { uid: peer.uid() }),
                end,
            )
            .await;
        });
    }
    tasks.close();
    tasks.wait().await;
}

/// What hyper serves a connection with.
pub trait HttpService:
    Service<
        hyper::Request<Incoming>,
        Response = hyper::Response<Self::Body>,
        Error = Self::Failure,
        Future: Send,
    > + Send
    + 'static
{
    type Body: hyper::body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static;
    type Failure: Into<Box<dyn std::error::Error + Send + Sync>>;
}

impl<S, B, E> HttpService for S
where
    S: Service<hyper::Request<Incoming>, Response = hyper::Response<B>, Error = E, Future: Send>
        + Send
        + 'static,
    B: hyper::body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Body = B;
    type Failure = E;
}

async fn connection<I, S>(io: I, service: S, end: CancellationToken)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: HttpService,
{
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(REQUEST_HEAD)
        .max_buf_size(HEAD_BYTES.max(8192));
    let serving = http.serve_connection(io, service);
    let mut serving = std::pin::pin!(serving);
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = end.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, serving).await {
                Ok(outcome) => outcome,
                // A client that takes its time does not hold up the end.
                Err(_) => return,
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

async fn next_place(
    places: &Arc<Semaphore>,
    end: &CancellationToken,
) -> Option<tokio::sync::OwnedSemaphorePermit> {
    tokio::select! {
        place = Arc::clone(places).acquire_owned() => place.ok(),
        () = end.cancelled() => None,
    }
}

/// A failed accept concerns one connection, or the process is out of file descriptors: wait a moment, go on.
async fn survive<T>(accepted: std::io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "could not accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// The socket could be connected to by anybody until its rights were set. A killed master leaves both files.
    #[tokio::test]
    async fn the_socket_is_its_owners_alone_and_replaces_what_a_killed_master_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.sock");
        drop(UnixListener::bind(&path).unwrap());
        std::fs::create_dir(folder.path().join(".new")).unwrap();
        drop(UnixListener::bind(folder.path().join(".new/s")).unwrap());
        let held = bind_unix(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(bind_unix(&path).await, Err(ListenError::Busy(_))));
        drop(held);
        bind_unix(&path).await.unwrap();
    }

    /// A client that never finished its body kept its connection for ever, and the master from ending.
    #[tokio::test]
    async fn a_client_that_takes_its_time_does_not_hold_up_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = bind_unix(&path).await.unwrap();
        let end = CancellationToken::new();
        let (begun, mut asked) = tokio::sync::mpsc::channel(1);
        let service = move |_| {
            let begun = begun.clone();
            service_fn(move |request: hyper::Request<Incoming>| {
                let begun = begun.clone();
                async move {
                    begun.send(()).await.unwrap();
                    let _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(hyper::Response::new(Full::<Bytes>::default()))
                }
            })
        };
        let serving = tokio::spawn(serve_unix(listener, end.clone(), service));
        let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
        client
            .write_all(b"POST / HTTP/1.1\r\nhost: m\r\ncontent-length: 9\r\n\r\nhalf")
            .await
            .unwrap();
        asked.recv().await.unwrap();
        tokio::time::pause();
        end.cancel();
        serving.await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "it is cut off");
    }
}
