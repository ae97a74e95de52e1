//! Listeners: accept, bound, shake hands, serve HTTP/1.1 with hyper, end cleanly.
//!
//! ```text
//!  accept ─▶ a stranger's place ─▶ handshake ─▶ who it is ─▶ a place of its own ─▶ requests ─▶ age, silence, end
//!             (the oldest of           bytes,      certificate, or the
//!              the largest gives way)  time        first good token
//! ```
//!
//! Every bound stands in [`limits`], with its reason.

mod gate;
pub mod limits;
mod network;
mod paced;
mod places;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::ServerConfig;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use gate::Gate;
pub use gate::{HttpService, Proven};
use limits::{GRACE, Limits};
pub use network::Network;
use paced::{Heard, Paced, Turn};
use places::{Place, Places};

use crate::metrics::{ListenerMeter, Refused};

/// Connections that the kernel keeps until they are accepted; it takes fewer where `net.core.somaxconn` is lower.
const BACKLOG: u32 = 4096;
/// Connections that gave way and whose tasks have not ended yet.
const LEAVING: usize = 64;
/// That connections give way is told no more often.
const TELL: Duration = Duration::from_secs(60);

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

/// Takes as many file descriptors as this process may have, which is how many it gives: the usual 1,024 are fewer than
/// the connections.
pub fn allow_files() -> u64 {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).map(|(now, most)| {
        match setrlimit(Resource::RLIMIT_NOFILE, most, most) {
            Ok(()) => most,
            Err(error) => {
                tracing::warn!(%error, "the limit on open files stays at {now}");
                now
            }
        }
    });
    raised.unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit on open files is not known");
        1024
    })
}

/// What the agent listener allows in a process that may have `files` open; tells when it is less than it could.
#[must_use]
pub fn agent_limits(files: u64) -> Limits {
    let limits = Limits::agents_within(files);
    if limits.proven < limits::AGENTS.proven {
        tracing::warn!(
            files,
            "room for {} connections of agents instead of {}: raise the limit on open files (LimitNOFILE=) for more",
            limits.proven,
            limits::AGENTS.proven
        );
    }
    limits
}

/// Opens a TCP listener.
///
/// # Errors
/// The address is taken or not this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let open = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|source| ListenError::Bind {
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

/// Serves TLS connections within `bounds` until `end`, then lets open requests finish. Each is spoken as `tls` says
/// when it is made. `service` makes one service a connection.
pub async fn serve_tls<S, F>(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    bounds: impl Into<Bounds>,
    end: CancellationToken,
    service: F,
) where
    F: Fn(Remote) -> S + Clone + Send + Sync + 'static,
    S: HttpService,
{
    let Bounds { limits, meter } = bounds.into();
    let tasks = TaskTracker::new();
    let mut door = Door::new(limits);
    while let Some(opened) = door.open(&end).await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => break,
        };
        let Some((stream, address)) = survive(accepted).await else {
            continue;
        };
        let guest = door.enter(opened, address.ip());
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
        let (service, end, meter) = (service.clone(), end.clone(), meter.clone());
        tasks.spawn(async move {
            let _open = meter.accept();
            let gave_way = guest.cut.clone();
            tokio::select! {
                () = tls_connection(stream, address, acceptor, limits, guest, end, service, &meter) => {}
                () = gave_way.cancelled() => {
                    meter.refuse(Refused::GaveWay);
                    tracing::debug!(%address, "a connection gave way to another");
                }
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

// What one connection is made of, once each.
#[allow(clippy::too_many_arguments)]
async fn tls_connection<S, F>(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    limits: Limits,
    guest: Guest,
    end: CancellationToken,
    service: F,
    meter: &ListenerMeter,
) where
    F: Fn(Remote) -> S,
    S: HttpService,
{
    let handshake = timeout(limits.handshake, acceptor.accept(Paced::new(stream, &limits)));
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        () = end.cancelled() => return,
    };
    let mut stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            meter.refuse(Refused::Handshake);
            tracing::debug!(%address, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            meter.refuse(Refused::HandshakeTime);
            tracing::debug!(%address, "TLS handshake took too long");
            return;
        }
    };
    stream.get_mut().0.shaken();
    let certificate = peer_certificate(&stream);
    if limits.certificate_proves
        && let Some(certificate) = &certificate
        && !guest.place.prove(Sha256::digest(certificate).into())
    {
        meter.refuse(Refused::NoPlace);
        tracing::debug!(%address, "no place is left for one more client");
        return;
    }
    let this = Arc::new(Connection::default());
    let cut = this.cut.clone();
    let _ended = cut.clone().drop_guard();
    let remote = Remote::Tls {
        address,
        certificate,
        connection: this,
    };
    tokio::select! {
        () = connection(stream, service(remote), limits, guest, end) => {}
        () = cut.cancelled() => {
            meter.refuse(Refused::Cut);
            tracing::info!(%address, "a connection was cut");
        }
    }
}

fn peer_certificate<S>(stream: &TlsStream<S>) -> Option<Arc<[u8]>> {
    let chain = stream.get_ref().1.peer_certificates()?;
    chain.first().map(|der| Arc::from(der.as_ref()))
}

/// Serves connections on a Unix socket within `bounds` until `end`.
pub async fn serve_unix<S, F>(
    listener: UnixListener,
    bounds: impl Into<Bounds>,
    end: CancellationToken,
    service: F,
) where
    F: Fn(Remote) -> S + Clone + Send + Sync + 'static,
    S: HttpService,
{
    let Bounds { limits, meter } = bounds.into();
    let tasks = TaskTracker::new();
    let mut door = Door::new(limits);
    while let Some(opened) = door.open(&end).await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => break,
        };
        let Some((stream, _)) = survive(accepted).await else {
            continue;
        };
        let Ok(peer) = stream.peer_cred() else { continue };
        let guest = door.enter(opened, Ipv4Addr::LOCALHOST.into());
        let (service, end, meter) = (service.clone(), end.clone(), meter.clone());
        tasks.spawn(async move {
            let _open = meter.accept();
            let gave_way = guest.cut.clone();
            let mut stream = Paced::new(stream, &limits);
            stream.shaken();
            let service = service(Remote::Unix { uid: peer.uid() });
            tokio::select! {
                () = connection(stream, service, limits, guest, end) => {}
                () = gave_way.cancelled() => {
                    meter.refuse(Refused::GaveWay);
                    tracing::debug!("a connection on the socket gave way to another");
                }
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

/// What bounds a listener, and counts its connections.
#[derive(Debug, Clone)]
pub struct Bounds {
    limits: Limits,
    meter: ListenerMeter,
}

impl Bounds {
    #[must_use]
    pub fn new(limits: Limits, meter: ListenerMeter) -> Self {
        Self { limits, meter }
    }
}

/// Counted for nobody.
impl From<Limits> for Bounds {
    fn from(limits: Limits) -> Self {
        Self::new(limits, ListenerMeter::default())
    }
}

/// Lets connections in, at most as many as the limits say.
#[derive(Debug)]
struct Door {
    places: Arc<Places>,
    /// A second bound: on the tasks, some of which may be about to end.
    tasks: Arc<Semaphore>,
    told: Option<Instant>,
    /// How many had given way then.
    gone: u64,
}

/// The right to accept one more connection.
type Opened = OwnedSemaphorePermit;

/// A connection that was let in.
#[derive(Debug)]
struct Guest {
    place: Arc<Place>,
    /// It has to give way.
    cut: CancellationToken,
    _opened: Opened,
}

impl Door {
    fn new(limits: Limits) -> Self {
        Self {
            places: Places::new(limits),
            tasks: Arc::new(Semaphore::new(limits.connections() + LEAVING)),
            told: None,
            gone: 0,
        }
    }

    /// Waits until one more may be accepted. None at the end.
    async fn open(&self, end: &CancellationToken) -> Option<Opened> {
        tokio::select! {
            place = Arc::clone(&self.tasks).acquire_owned() => place.ok(),
            () = end.cancelled() => None,
        }
    }

    fn enter(&mut self, opened: Opened, address: IpAddr) -> Guest {
        let cut = CancellationToken::new();
        let place = Arc::new(self.places.enter(address, cut.clone()));
        let gone = self.places.gave_way();
        if gone > self.gone && self.told.is_none_or(|told| told.elapsed() >= TELL) {
            tracing::warn!(
                connections = gone - self.gone,
                "connections gave way to others: somebody opens more than a listener has places for"
            );
            self.told = Some(Instant::now());
            self.gone = gone;
        }
        Guest {
            place,
            cut,
            _opened: opened,
        }
    }
}

/// Answers requests on one connection until it ends, is idle for too long, is old, or is too slow.
async fn connection<I, S>(io: I, service: S, limits: Limits, guest: Guest, end: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: HttpService,
{
    let turn = Arc::new(Turn::new());
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_headers(limits.head_fields)
        .max_buf_size(limits.head_bytes.max(8192));
    let io = Heard {
        stream: io,
        turn: Arc::clone(&turn),
    };
    let old = Instant::now() + limits.age + guest.place.share_of(limits.age / 8);
    let gate = Gate::new(
        service,
        Arc::clone(&turn),
        guest.place.clone(),
        limits.only_http_1_1,
    );
    let serving = http.serve_connection(TokioIo::new(io), gate);
    let mut serving = std::pin::pin!(serving);
    let mut young = true;
    let outcome = loop {
        tokio::select! {
            outcome = serving.as_mut() => break outcome,
            () = turn.too_slow(limits.head) => {
                tracing::debug!("a request's head took too long");
                return;
            }
            () = sleep_until(old), if young => {
                young = false;
                serving.as_mut().graceful_shutdown();
            }
            () = end.cancelled() => {
                serving.as_mut().graceful_shutdown();
                match timeout(GRACE, serving).await {
                    Ok(outcome) => break outcome,
                    // A client that takes its time does not hold up the end.
                    Err(_) => return,
                }
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended with an error");
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
