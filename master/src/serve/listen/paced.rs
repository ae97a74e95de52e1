//! Streams that notice clients which send or take too little.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::limits::Limits;

/// The bare stream. Ends with an error when the handshake takes too many bytes, or the other side does not read.
#[derive(Debug)]
pub(super) struct Paced<S> {
    stream: S,
    /// Bytes that may still come; no bound once the handshake is over.
    may_read: Option<usize>,
    write: Duration,
    write_bytes: usize,
    /// Since something waits to be written: when the present span ends, and how much went out in it.
    blocked: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, limits: &Limits) -> Self {
        Self {
            stream,
            may_read: Some(limits.handshake_bytes),
            write: limits.write,
            write_bytes: limits.write_bytes,
            blocked: None,
        }
    }

    /// The handshake is over.
    pub(super) fn shaken(&mut self) {
        self.may_read = None;
    }

    fn wrote(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Ready(Ok(length)) => {
                if let Some((_, moved)) = &mut self.blocked {
                    *moved = moved.saturating_add(length);
                }
                Poll::Ready(Ok(length))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let end = Instant::now() + self.write;
                let (span, moved) = self
                    .blocked
                    .get_or_insert_with(|| (Box::pin(sleep_until(end)), 0));
                loop {
                    ready!(span.as_mut().poll(cx));
                    if *moved < self.write_bytes {
                        return Poll::Ready(Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "the other side does not read what it asked for",
                        )));
                    }
                    *moved = 0;
                    span.as_mut().reset(end);
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if let Some(may_read) = &mut self.may_read {
            *may_read = may_read
                .checked_sub(buffer.filled().len() - before)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the handshake is too long"))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Whoever writes flushes when everything is out: nothing waits any more.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.blocked = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where a connection is in the round of requests and answers.
#[derive(Debug)]
pub(super) struct Turn {
    phase: Mutex<Phase>,
    changed: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The last answer is out, the next request has not begun.
    Idle,
    /// A request's head is on its way, since then.
    Head(Instant),
    /// A request is answered.
    Answering,
}

impl Turn {
    /// The first head is expected at once.
    pub(super) fn new() -> Self {
        Self {
            phase: Mutex::new(Phase::Head(Instant::now())),
            changed: Notify::new(),
        }
    }

    /// Bytes came.
    fn heard(&self) {
        let mut phase = self.phase();
        if *phase == Phase::Idle {
            *phase = Phase::Head(Instant::now());
            self.changed.notify_one();
        }
    }

    /// A request's head came whole.
    pub(super) fn asked(&self) {
        *self.phase() = Phase::Answering;
        self.changed.notify_one();
    }

    /// Its answer is out.
    pub(super) fn answered(&self) {
        *self.phase() = Phase::Idle;
    }

    /// Ends when one head takes longer than `most`.
    pub(super) async fn too_slow(&self, most: Duration) {
        loop {
            let phase = *self.phase();
            if let Phase::Head(since) = phase {
                let waited = timeout_at(since + most, self.changed.notified()).await;
                if waited.is_err() && *self.phase() == phase {
                    return;
                }
            } else {
                self.changed.notified().await;
            }
        }
    }

    fn phase(&self) -> std::sync::MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that tells the turn when bytes come.
#[derive(Debug)]
pub(super) struct Heard<S> {
    pub(super) stream: S,
    pub(super) turn: std::sync::Arc<Turn>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.turn.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::listen::limits::AGENTS;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test(start_paused = true)]
    async fn who_never_reads_is_given_up_and_who_reads_slowly_is_not() {
        for (reads, taken) in [(0, false), (AGENTS.write_bytes / 20, true)] {
            let (client, server) = tokio::io::duplex(1024);
            let mut paced = Paced::new(server, &AGENTS);
            let reading = tokio::spawn(async move {
                let (mut client, mut left) = (client, reads);
                let mut buffer = vec![0; reads.max(1)];
                while left > 0 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if client.read_exact(&mut buffer).await.is_err() {
                        left = 0;
                    }
                }
                tokio::time::sleep(Duration::from_secs(3600)).await;
            });
            let outcome = paced.write_all(&vec![0; AGENTS.write_bytes * 3]).await;
            assert_eq!(outcome.is_ok(), taken, "{outcome:?}");
            reading.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_out_leaves_no_time_running() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut paced = Paced::new(server, &AGENTS);
        for _ in 0..3 {
            let wrote = async {
                paced.write_all(&[0; 2000]).await.unwrap();
                paced.flush().await.unwrap();
            };
            let read = async {
                tokio::time::sleep(AGENTS.write / 2).await;
                client.read_exact(&mut [0; 2000]).await.unwrap();
            };
            tokio::join!(wrote, read);
            tokio::time::sleep(AGENTS.write * 2).await;
        }
    }

    #[tokio::test]
    async fn a_handshake_has_a_bound_and_what_follows_has_none() {
        let (mut client, server) = tokio::io::duplex(4 * AGENTS.handshake_bytes);
        let mut paced = Paced::new(server, &AGENTS);
        client.write_all(&vec![0; AGENTS.handshake_bytes]).await.unwrap();
        let mut buffer = vec![0; AGENTS.handshake_bytes];
        paced.read_exact(&mut buffer).await.unwrap();
        client.write_all(&[0; 2]).await.unwrap();
        let error = paced.read(&mut buffer[..1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        paced.shaken();
        paced.read_exact(&mut buffer[..1]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte_and_silence_between_heads_is_not_counted() {
        let turn = Turn::new();
        let most = Duration::from_secs(15);
        let begun = Instant::now();
        turn.too_slow(most).await;
        assert_eq!(begun.elapsed(), most, "the first is expected at once");
        turn.asked();
        let far = Duration::from_secs(3600);
        assert!(tokio::time::timeout(far, turn.too_slow(most)).await.is_err());
        turn.answered();
        assert!(tokio::time::timeout(far, turn.too_slow(most)).await.is_err());
        let (begun, later) = (Instant::now(), Duration::from_secs(7));
        let trickle = async {
            tokio::time::sleep(later).await;
            loop {
                turn.heard();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = turn.too_slow(most) => {}
            () = trickle => {}
        }
        assert_eq!(begun.elapsed(), later + most);
    }
}
