//! Answers to what is no request, in the words of the server pretended.
//!
//! hyper answers malformed requests by itself, with a head like no web server's. What it writes passes through here,
//! and those answers are exchanged for the server's own; so is HTTP/0.9, which hyper does not speak and web servers do.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Site;
use crate::serve::Session;

/// How much of what came last is kept for the log.
const KEPT: usize = 1024;

/// A stream whose answers to malformed HTTP/1 requests are the site's.
pub(super) struct Disguise<S> {
    stream: S,
    site: Arc<Site>,
    session: Arc<Session>,
    /// The beginning of what came last.
    heard: Vec<u8>,
    /// An exchanged answer, and how much of it is sent.
    answer: Vec<u8>,
    sent: usize,
}

impl<S: AsyncWrite + Unpin> Disguise<S> {
    pub(super) fn new(stream: S, site: Arc<Site>, session: Arc<Session>) -> Self {
        Self {
            stream,
            site,
            session,
            heard: Vec::new(),
            answer: Vec::new(),
            sent: 0,
        }
    }

    /// The answer in place of `written`, when that is hyper's own.
    fn exchange(&self, written: &[u8]) -> Option<Vec<u8>> {
        let (line, rest) = written.strip_prefix(b"HTTP/1.1 ")?.split_at_checked(3)?;
        let status = std::str::from_utf8(line).ok()?.parse::<u16>().ok()?;
        let end = rest.iter().position(|byte| *byte == b'\n')? + 1;
        // The site's own answers never begin with these: its servers put other headers first.
        let own = b"connection: close\r\ncontent-length: 0\r\n";
        let is_own = rest[end..]
            .get(..own.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(own));
        if !is_own || !matches!(status, 400 | 414 | 431) {
            return None;
        }
        self.session.garbage(&self.heard);
        let local = self.session.local_address();
        let address = local.ip().to_string();
        let place = (address.as_str(), local.port());
        Some(if is_bare(&self.heard) {
            self.site.bare(place)
        } else {
            self.site.malformed(status, place)
        })
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.answer.len() {
            let unsent = &self.answer[self.sent..];
            self.sent += match ready!(Pin::new(&mut self.stream).poll_write(context, unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => count,
            };
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether this is a request of HTTP/0.9: one line of two words.
fn is_bare(heard: &[u8]) -> bool {
    let Some(rest) = heard.strip_prefix(b"GET /") else {
        return false;
    };
    let line = rest.strip_suffix(b"\r\n\r\n").or(rest.strip_suffix(b"\r\n"));
    let line = line.or(rest.strip_suffix(b"\n"));
    line.is_some_and(|path| path.iter().all(u8::is_ascii_graphic))
}

impl<S: AsyncRead + Unpin> AsyncRead for Disguise<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let came = &buffer.filled()[before..];
        if !came.is_empty() {
            self.heard.clear();
            self.heard.extend_from_slice(&came[..came.len().min(KEPT)]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Disguise<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_answer(context))?;
        if let Some(answer) = self.exchange(bytes) {
            (self.answer, self.sent) = (answer, 0);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
