//! Reads the lines of text protocols, with a cap.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A line without its CR LF or LF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What was sent, cut at the reader's cap.
    pub bytes: Vec<u8>,
    /// Whether more was sent than the cap; the rest was thrown away.
    pub cut: bool,
}

impl Line {
    /// The line as text, with U+FFFD for what is not UTF-8.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Buffers reads of `R` into lines of at most `cap` bytes.
#[derive(Debug)]
pub struct LineReader<R> {
    inner: R,
    cap: usize,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// A reader whose lines keep at most `cap` bytes.
    #[must_use]
    pub fn new(inner: R, cap: usize) -> Self {
        Self {
            inner,
            cap,
            buffer: Vec::new(),
        }
    }

    /// The next line; `None` at the end of the stream. What stands before the end without a line
    /// feed counts as a line.
    ///
    /// # Errors
    ///
    /// Those of the stream, an idle timeout among them.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = Vec::new();
        let mut cut = false;
        loop {
            let feed = self.buffer.iter().position(|byte| *byte == b'\n');
            let taken = self.buffer.drain(..feed.map_or(self.buffer.len(), |at| at + 1));
            for byte in taken {
                if bytes.len() <= self.cap + 1 {
                    bytes.push(byte);
                } else {
                    cut |= byte != b'\n';
                }
            }
            let ended = feed.is_none() && {
                let mut chunk = [0; 1024];
                let count = self.inner.read(&mut chunk).await?;
                self.buffer.extend_from_slice(&chunk[..count]);
                count == 0
            };
            if ended && bytes.is_empty() {
                return Ok(None);
            }
            if ended || feed.is_some() {
                if bytes.last() == Some(&b'\n') {
                    bytes.pop();
                }
                if bytes.last() == Some(&b'\r') {
                    bytes.pop();
                }
                cut |= bytes.len() > self.cap;
                bytes.truncate(self.cap);
                return Ok(Some(Line { bytes, cut }));
            }
        }
    }

    /// Exactly `count` bytes; fewer at the end of the stream. The caller bounds `count`.
    ///
    /// # Errors
    ///
    /// Those of the stream, an idle timeout among them.
    pub async fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            let mut chunk = [0; 1024];
            let read = self.inner.read(&mut chunk).await?;
            if read == 0 {
                break;
            }
            self.buffer.extend_from_slice(&chunk[..read]);
        }
        Ok(self.buffer.drain(..count.min(self.buffer.len())).collect())
    }

    /// The stream, for what is not lines. Bytes already buffered are lost to it.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// The stream and the bytes read ahead of it.
    pub fn into_parts(self) -> (R, Vec<u8>) {
        (self.inner, self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(sent: &[u8], cap: usize) -> Vec<(String, bool)> {
        let mut reader = LineReader::new(sent, cap);
        let mut lines = Vec::new();
        while let Some(line) = reader.next().await.unwrap() {
            lines.push((line.text(), line.cut));
        }
        lines
    }

    #[tokio::test]
    async fn both_line_ends_and_a_missing_one_give_lines() {
        let expected = [("a", false), ("", false), ("b", false), ("c", false)];
        assert_eq!(
            lines(b"a\r\n\r\nb\nc", 10).await,
            expected.map(|(text, cut)| (text.to_owned(), cut))
        );
    }

    #[tokio::test]
    async fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let sent = [&vec![b'x'; 100_000][..], b"\r\nnext\r\n12345\r\n123456\r\n"].concat();
        let expected = [
            ("xxxxx", true),
            ("next", false),
            ("12345", false),
            ("12345", true),
        ];
        assert_eq!(
            lines(&sent, 5).await,
            expected.map(|(text, cut)| (text.to_owned(), cut))
        );
    }
}
