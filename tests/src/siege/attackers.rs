//! Clients that misbehave, each in its own way, again and again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::agents::Host;
use super::line;

/// An attacker that was cut off is back after this.
const PAUSE: Duration = Duration::from_secs(5);
/// Slow ones send a byte this often.
const DRIP: Duration = Duration::from_secs(1);

/// What an attacker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Connects to the agents' port and says nothing.
    HalfOpen,
    /// Begins a handshake and goes on byte by byte.
    HalfShaken,
    /// Sends a handshake that does not end.
    EndlessHandshake,
    /// Sends a request's head byte by byte.
    SlowHead,
    /// Sends a body byte by byte.
    SlowBody,
    /// Asks and asks, and reads nothing.
    NeverReading,
    /// Says that a body of a gigabyte comes, and sends it.
    Oversized,
    /// Sends chunks without an end.
    EndlessBody,
    /// Sends a head without an end.
    EndlessHead,
    /// A host with a certificate that sends its largest report byte by byte.
    StolenHost,
}

impl Kind {
    pub(super) const ALL: [Self; 10] = [
        Self::HalfOpen,
        Self::HalfShaken,
        Self::EndlessHandshake,
        Self::SlowHead,
        Self::SlowBody,
        Self::NeverReading,
        Self::Oversized,
        Self::EndlessBody,
        Self::EndlessHead,
        Self::StolenHost,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half-open",
            Self::HalfShaken => "half-shaken",
            Self::EndlessHandshake => "endless in its handshake",
            Self::SlowHead => "slow with its head",
            Self::SlowBody => "slow with its body",
            Self::NeverReading => "never reading",
            Self::Oversized => "oversized",
            Self::EndlessBody => "endless in its body",
            Self::EndlessHead => "endless in its head",
            Self::StolenHost => "a stolen host's",
        }
    }

    /// How long the master may keep such a connection.
    pub(super) const fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::HalfOpen | Self::HalfShaken | Self::EndlessHandshake => 10,
            Self::SlowHead | Self::EndlessHead => 10 + 15,
            Self::SlowBody => 10 + 20 + 15,
            // The write, after requests that it took; a stranger is old after two minutes, besides.
            Self::NeverReading => 10 + 60,
            Self::Oversized | Self::EndlessBody => 10 + 20,
            Self::StolenHost => 10 + 60 + 15,
        })
    }
}

/// How long connections lived.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<BTreeMap<&'static str, (u64, Duration)>>);

impl Held {
    fn note(&self, kind: Kind, lived: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, longest) = all.entry(kind.name()).or_default();
        *count += 1;
        *longest = lived.max(*longest);
    }

    pub(super) fn summary(&self) -> BTreeMap<&'static str, (u64, Duration)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Attacks until it is over; then it does nothing more, and holds what it has until it is cut off, or lets go of it.
pub(super) async fn attack(
    kind: Kind,
    number: usize,
    host: Arc<Host>,
    held: Arc<Held>,
    over: CancellationToken,
    holds: bool,
) {
    while !over.is_cancelled() {
        let begun = Instant::now();
        tokio::select! {
            // It ends when the master has ended the connection.
            _ = once(kind, number, &host) => held.note(kind, begun.elapsed()),
            () = over.cancelled(), if !holds => return,
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = over.cancelled() => return,
        }
    }
}

async fn once(kind: Kind, number: usize, host: &Host) -> Result<()> {
    let agents = || TcpStream::connect(("127.0.0.1", host.agent_port));
    let post = |length: &str| {
        format!("POST /enroll/v1 HTTP/1.1\r\nhost: m\r\ncontent-type: application/json\r\n{length}\r\n\r\n")
    };
    match kind {
        Kind::HalfOpen => closed(agents().await?).await,
        Kind::HalfShaken => drip(agents().await?, &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await,
        Kind::EndlessHandshake => {
            let mut record = vec![22, 3, 1, 0x3e, 0x80, 1, 0, 0xff, 0xff];
            record.resize(5 + 16_000, 0);
            pour(agents().await?, &record, &record).await
        }
        Kind::SlowHead => {
            let stream = line::tls(host.enrol_port, &host.stranger).await?;
            drip(stream, b"POST /enroll/v1 HTTP/1.1\r\nx: ").await
        }
        Kind::SlowBody => {
            let stream = line::tls(host.enrol_port, &host.stranger).await?;
            drip(stream, post("content-length: 200000").as_bytes()).await
        }
        Kind::NeverReading => {
            let stream = line::narrow_tls(host.enrol_port, &host.stranger).await?;
            let asking = b"GET /enroll/v1/crl HTTP/1.1\r\nhost: m\r\n\r\n".repeat(16);
            let (reading, mut writing) = tokio::io::split(stream);
            // Held, and not read.
            while writing.write_all(&asking).await.is_ok() {}
            drop(reading);
            Ok(())
        }
        Kind::Oversized => {
            let stream = line::tls(host.enrol_port, &host.stranger).await?;
            pour(
                stream,
                post("content-length: 1000000000").as_bytes(),
                &[b' '; 4096],
            )
            .await
        }
        Kind::EndlessBody => {
            let stream = line::tls(host.enrol_port, &host.stranger).await?;
            let mut chunk = b"1000\r\n".to_vec();
            chunk.resize(chunk.len() + 4096, b' ');
            chunk.extend(b"\r\n");
            pour(stream, post("transfer-encoding: chunked").as_bytes(), &chunk).await
        }
        Kind::EndlessHead => {
            let stream = line::tls(host.enrol_port, &host.stranger).await?;
            pour(stream, b"GET / HTTP/1.1\r\n", b"x: y\r\n".repeat(100).as_slice()).await
        }
        Kind::StolenHost => {
            let stream = line::tls(host.agent_port, &host.tls).await?;
            let head = b"POST /agent/v1/report HTTP/1.1\r\nhost: m\r\ncontent-length: 16000000\r\n\r\n";
            if number.is_multiple_of(3) {
                return drip(stream, head).await;
            }
            // Most of it at once.
            let mut begun = head.to_vec();
            begun.resize(begun.len() + 1_000_000, b' ');
            drip(stream, &begun).await
        }
    }
}

/// Waits until the other side has closed.
async fn closed(mut stream: impl AsyncRead + Unpin) -> Result<()> {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Sends the beginning, and then a byte at a time.
async fn drip(stream: impl AsyncRead + AsyncWrite + Unpin, begun: &[u8]) -> Result<()> {
    let (reading, mut writing) = tokio::io::split(stream);
    let sending = async {
        writing.write_all(begun).await?;
        loop {
            tokio::time::sleep(DRIP).await;
            writing.write_all(b" ").await?;
            writing.flush().await?;
        }
    };
    tokio::select! {
        sent = sending => sent,
        closed = closed(reading) => closed,
    }
}

/// Sends the beginning, and then more and more.
async fn pour(stream: impl AsyncRead + AsyncWrite + Unpin, begun: &[u8], more: &[u8]) -> Result<()> {
    let (reading, mut writing) = tokio::io::split(stream);
    let sending = async {
        writing.write_all(begun).await?;
        loop {
            writing.write_all(more).await?;
            // A master that takes all of it would keep this process busy.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        sent = sending => sent,
        closed = closed(reading) => closed,
    }
}
