//! A TCP stream that gives up on a silent peer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// A visitor's stream. Reads and writes fail with [`io::ErrorKind::TimedOut`] once no byte has moved
/// in either direction for the idle timeout, or the session has lasted too long. The second bound is
/// here too, because protocol crates may keep the stream in a task of their own.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    timeout: Duration,
    ends: Instant,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, timeout: Duration, cap: Duration) -> Self {
        Self {
            stream,
            timeout,
            ends: Instant::now() + cap,
            deadline: Box::pin(sleep(timeout)),
        }
    }

    /// The bare stream, for libraries that take nothing else. It has no idle timeout any more; the
    /// session's total cap still holds.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Passes a finished operation on and restarts the clock; turns a pending one into an error when
    /// the time is up.
    fn watch<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            let next = self.ends.min(Instant::now() + self.timeout);
            self.deadline.as_mut().reset(next);
            return polled;
        }
        ready!(self.deadline.as_mut().poll(context));
        let reason = if Instant::now() < self.ends {
            format!("idle for {} s", self.timeout.as_secs())
        } else {
            "lasted too long".to_owned()
        };
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watch(polled, context)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(polled, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
