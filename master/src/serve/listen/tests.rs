//! The limits, seen from a client: on the socket where TLS has no part in it.

use super::*;
use std::convert::Infallible;

use bytes::Bytes;
use decnet_pki::ca::{CertificateAuthority, HostSubject};
use decnet_pki::csr::{self, VerifiedCsr};
use decnet_pki::key::HostKey;
use decnet_pki::{ServerName, tls};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use uuid::Uuid;

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
    let serving = tokio::spawn(serve_unix(listener, limits::LOCAL, end.clone(), service));
    let mut client = UnixStream::connect(&path).await.unwrap();
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

const GET: &[u8] = b"GET /now HTTP/1.1\r\nhost: m\r\n\r\n";
const LARGE: usize = 16 * 1024 * 1024;

/// `/now` answers at once, `/later` after a minute, `/large` at length, `/proof` knows the client from then on.
async fn service(request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let mut answer = hyper::Response::new(Full::from("told"));
    match request.uri().path() {
        "/later" => tokio::time::sleep(Duration::from_secs(60)).await,
        "/large" => *answer.body_mut() = Full::from(vec![b'x'; LARGE]),
        "/proof" => {
            answer.extensions_mut().insert(Proven([1; 32]));
        }
        _ => {}
    }
    Ok(answer)
}

/// A listener on a socket.
struct Local {
    folder: tempfile::TempDir,
    end: CancellationToken,
}

impl Local {
    async fn serve(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = bind_unix(&folder.path().join("s")).await.unwrap();
        let end = CancellationToken::new();
        tokio::spawn(serve_unix(listener, limits, end.clone(), |_| service_fn(service)));
        Self { folder, end }
    }

    async fn client(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("s")).await.unwrap()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Sends a request and gives the answer's head.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &[u8]) -> Option<String> {
    stream.write_all(request).await.ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"told") && !head.ends_with(b"\r\n\r\n")
        || head.ends_with(b"\r\n\r\n") && told(&head)
    {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Whether the head says that the four bytes follow.
fn told(head: &[u8]) -> bool {
    String::from_utf8_lossy(head).contains("content-length: 4\r\n")
}

/// How long until the other side has ended the connection, from now on with a clock that waits for nobody.
async fn until_the_end<S: AsyncRead + Unpin>(stream: &mut S) -> Duration {
    tokio::time::pause();
    let begun = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    begun.elapsed()
}

#[track_caller]
fn about(taken: Duration, expected: Duration) {
    let most = expected + Duration::from_secs(1);
    assert!(
        taken >= expected && taken <= most,
        "{taken:?} instead of {expected:?}"
    );
}

#[tokio::test]
async fn a_head_that_does_not_begin_or_never_ends_has_its_time() {
    for begun in [&b""[..], b"GET /now HTTP/1.1\r\nhost: m\r\n"] {
        let local = Local::serve(limits::LOCAL).await;
        let mut client = local.client().await;
        client.write_all(begun).await.unwrap();
        about(until_the_end(&mut client).await, limits::LOCAL.head);
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_has_no_more_time() {
    let local = Local::serve(limits::LOCAL).await;
    let mut client = local.client().await;
    assert!(ask(&mut client, GET).await.is_some());
    let (mut reading, mut writing) = client.into_split();
    let trickle = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if writing.write_all(b"x").await.is_err() {
                return;
            }
        }
    });
    let taken = until_the_end(&mut reading).await;
    about(taken, limits::LOCAL.head + Duration::from_secs(1));
    trickle.abort();
}

#[tokio::test]
async fn a_connection_between_requests_is_kept_for_a_while() {
    let local = Local::serve(limits::LOCAL).await;
    let mut client = local.client().await;
    for _ in 0..3 {
        assert!(ask(&mut client, GET).await.is_some());
        tokio::time::pause();
        tokio::time::sleep(limits::LOCAL.idle - Duration::from_secs(2)).await;
        tokio::time::resume();
    }
    assert!(ask(&mut client, GET).await.is_some());
    about(until_the_end(&mut client).await, limits::LOCAL.idle);
}

#[tokio::test]
async fn a_head_is_only_so_large_and_has_only_so_many_fields() {
    let local = Local::serve(limits::LOCAL).await;
    let long = format!(
        "GET /now HTTP/1.1\r\nhost: m\r\nx: {}\r\n\r\n",
        // A head that comes whole with one read, and is a little longer, is taken.
        "y".repeat(4 * limits::LOCAL.head_bytes)
    );
    let many = format!(
        "GET /now HTTP/1.1\r\n{}\r\n",
        "x: y\r\n".repeat(limits::LOCAL.head_fields + 1)
    );
    for request in [long, many] {
        let mut client = local.client().await;
        let head = ask(&mut client, request.as_bytes()).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
        // What it sent beyond is thrown away, which the system may tell it.
        assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn agents_speak_http_1_1_and_nothing_else() {
    let local = Local::serve(Limits {
        only_http_1_1: true,
        ..limits::LOCAL
    })
    .await;
    let mut client = local.client().await;
    let head = ask(
        &mut client,
        b"GET /now HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    )
    .await
    .unwrap();
    assert!(head.contains(" 505 "), "{head}");
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    let mut client = local.client().await;
    assert!(
        ask(&mut client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .is_none_or(|head| head.contains(" 400 "))
    );
    let operators = Local::serve(limits::LOCAL).await;
    let head = ask(&mut operators.client().await, b"GET /now HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    assert!(head.contains(" 200 "), "{head}");
}

#[tokio::test]
async fn who_never_reads_the_answer_is_given_up() {
    let local = Local::serve(limits::LOCAL).await;
    let mut client = local.client().await;
    client
        .write_all(b"GET /large HTTP/1.1\r\nhost: m\r\n\r\n")
        .await
        .unwrap();
    client.readable().await.unwrap();
    tokio::time::pause();
    tokio::time::sleep(limits::LOCAL.write * 3).await;
    tokio::time::resume();
    let mut got = Vec::new();
    let _ = client.read_to_end(&mut got).await;
    assert!(got.len() < LARGE / 2, "{} bytes", got.len());
}

#[tokio::test]
async fn an_old_connection_ends_with_the_answer_under_way() {
    let age = Duration::from_secs(10);
    let local = Local::serve(Limits { age, ..limits::LOCAL }).await;
    let mut idle = local.client().await;
    assert!(ask(&mut idle, GET).await.is_some());
    let mut waiting = local.client().await;
    waiting
        .write_all(b"GET /later HTTP/1.1\r\nhost: m\r\n\r\n")
        .await
        .unwrap();
    let taken = until_the_end(&mut idle).await;
    assert!(
        taken >= age - Duration::from_secs(1) && taken <= age * 2,
        "{taken:?}"
    );
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.ends_with("told") && answer.contains("connection: close"),
        "{answer}"
    );
}

#[tokio::test]
async fn who_has_shown_a_token_is_not_driven_out_by_who_has_not() {
    let few = Limits {
        proven: 2,
        proven_of_an_address: 2,
        proven_of_an_owner: 2,
        strangers: 4,
        strangers_of_an_address: 4,
        ..limits::OPERATORS
    };
    let local = Local::serve(few).await;
    let (mut known, mut stranger) = (local.client().await, local.client().await);
    let proof = b"GET /proof HTTP/1.1\r\nhost: m\r\n\r\n";
    assert!(ask(&mut known, proof).await.is_some());
    assert!(ask(&mut stranger, GET).await.is_some());
    let mut flood = Vec::new();
    for _ in 0..40 {
        flood.push(local.client().await);
    }
    assert_eq!(stranger.read(&mut [0]).await.unwrap(), 0, "the oldest gave way");
    assert!(ask(&mut known, proof).await.is_some());
    assert!(
        ask(&mut local.client().await, proof).await.is_some(),
        "and one more comes in"
    );
}

/// A fleet's authority, a listener that wants its certificates, and what a host connects with.
struct Fleet {
    at: SocketAddr,
    client: TlsConnector,
    end: CancellationToken,
}

impl Fleet {
    async fn serve(limits: Limits) -> Self {
        let (now, day) = (time::OffsetDateTime::now_utc(), time::Duration::days(1));
        let ca = CertificateAuthority::create("test", now).unwrap();
        let cas = [ca.certificate().clone()];
        let name = ServerName::try_from("localhost").unwrap();
        let (leaf, key) = ca.issue_server(&[name], now, day).unwrap();
        let config = tls::agent_server_config(&leaf, &key, &cas).unwrap();
        let host = HostKey::generate().unwrap();
        let request = VerifiedCsr::parse(&csr::create(&host).unwrap(), 10_000).unwrap();
        let subject = HostSubject {
            fleet: Uuid::from_u128(1),
            host: Uuid::from_u128(2),
        };
        let leaf = ca.issue_host(&request, subject, now, day).unwrap();
        let client = tls::client_config(&cas, &leaf, &host).unwrap();
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (at, end) = (listener.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(serve_tls(
            listener,
            watch::Sender::new(config).subscribe(),
            limits,
            end.clone(),
            |_| service_fn(service),
        ));
        Self {
            at,
            client: client.into(),
            end,
        }
    }

    async fn stranger(&self) -> TcpStream {
        TcpStream::connect(self.at).await.unwrap()
    }

    async fn agent(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        self.client.connect(name, self.stranger().await).await.unwrap()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_has_its_time() {
    let fleet = Fleet::serve(limits::AGENTS).await;
    let mut client = fleet.stranger().await;
    // A record's head: a handshake message of 512 bytes follows, and does not.
    client.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    about(until_the_end(&mut client).await, limits::AGENTS.handshake);
}

#[tokio::test]
async fn an_endless_handshake_ends_at_its_bytes() {
    let fleet = Fleet::serve(limits::AGENTS).await;
    let mut client = fleet.stranger().await;
    // A hello of 65,535 bytes in records of 16,000.
    let mut record = vec![22, 3, 1, 0x3e, 0x80];
    record.extend([1, 0, 0xff, 0xff]);
    record.resize(5 + 16_000, 0);
    client.write_all(&record).await.unwrap();
    let mut more = vec![22, 3, 1, 0x3e, 0x80];
    more.resize(5 + 16_000, 0);
    let _ = client.write_all(&more).await;
    let mut said = Vec::new();
    let ended = timeout(limits::AGENTS.handshake / 2, client.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "it was still listened to");
}

#[tokio::test]
async fn an_agent_is_served_while_strangers_take_every_place_that_they_can() {
    let few = Limits {
        proven: 4,
        proven_of_an_address: 4,
        proven_of_an_owner: 4,
        strangers: 4,
        strangers_of_an_address: 4,
        ..limits::AGENTS
    };
    let fleet = Fleet::serve(few).await;
    let mut flood = Vec::new();
    let mut agent = fleet.agent().await;
    for _ in 0..5 {
        for _ in 0..20 {
            flood.push(fleet.stranger().await);
        }
        assert!(ask(&mut agent, GET).await.is_some(), "the one that is in");
        let mut another = fleet.agent().await;
        assert!(ask(&mut another, GET).await.is_some(), "and one that comes");
    }
}

#[tokio::test]
async fn a_host_that_opens_too_many_connections_loses_its_oldest() {
    let two = Limits {
        proven_of_an_owner: 2,
        ..limits::AGENTS
    };
    let fleet = Fleet::serve(two).await;
    let mut first = fleet.agent().await;
    assert!(ask(&mut first, GET).await.is_some());
    let (mut second, mut third) = (fleet.agent().await, fleet.agent().await);
    assert!(ask(&mut second, GET).await.is_some());
    assert!(ask(&mut third, GET).await.is_some());
    assert!(ask(&mut first, GET).await.is_none());
    assert!(ask(&mut second, GET).await.is_some());
}
