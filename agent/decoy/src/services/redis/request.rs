//! Reads requests: RESP arrays of bulk strings, or inline commands.
//!
//! Written here and not taken from a crate because the server's side of RESP is these two forms only, and
//! because each refusal must carry the exact words a Redis server uses.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Longest inline command and longest length line (`PROTO_INLINE_MAX_SIZE` of Redis).
const INLINE_CAP: usize = 64 * 1024;
/// Most words of one command.
const WORDS_CAP: usize = 1024;
/// Most bytes of one command, all words together.
const COMMAND_CAP: usize = 1024 * 1024;

/// What a visitor sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// At least one word.
    Command(Vec<Vec<u8>>),
    /// An empty line or an empty array: ignored, as Redis does.
    Nothing,
    /// The stream ended between requests.
    End,
}

/// Why no further request can be read.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(std::io::Error),
    /// Not the protocol; the text is what Redis answers after `Protocol error: `.
    Protocol(String),
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

pub(super) async fn read<R: AsyncBufRead + Unpin>(stream: &mut R) -> Result<Request, ReadError> {
    let Some(line) = read_line(stream, "too big inline request").await? else {
        return Ok(Request::End);
    };
    let Some(count) = line.strip_prefix(b"*") else {
        let words = split_inline(&line).ok_or_else(|| protocol("unbalanced quotes in request"))?;
        return Ok(if words.is_empty() {
            Request::Nothing
        } else {
            Request::Command(words)
        });
    };
    let count = number(count).filter(|count| *count <= WORDS_CAP as i64);
    let count = count.ok_or_else(|| protocol("invalid multibulk length"))?;
    let mut words = Vec::new();
    let mut room = COMMAND_CAP;
    for _ in 0..count {
        let line = read_line(stream, "too big bulk count string").await?;
        let line = line.ok_or_else(|| ReadError::Io(std::io::ErrorKind::UnexpectedEof.into()))?;
        let Some(length) = line.strip_prefix(b"$") else {
            let found = line.first().copied().unwrap_or(b'\r').escape_ascii();
            return Err(protocol(&format!("expected '$', got '{found}'")));
        };
        let length = number(length).and_then(|length| usize::try_from(length).ok());
        let length = length
            .filter(|length| *length <= room)
            .ok_or_else(|| protocol("invalid bulk length"))?;
        room -= length;
        words.push(read_bulk(stream, length).await?);
    }
    Ok(if words.is_empty() {
        Request::Nothing
    } else {
        Request::Command(words)
    })
}

/// `length` bytes and the CR LF after them. Memory grows with what arrives, not with what is promised.
async fn read_bulk<R: AsyncBufRead + Unpin>(stream: &mut R, length: usize) -> Result<Vec<u8>, ReadError> {
    let mut word = Vec::new();
    (&mut *stream).take(length as u64).read_to_end(&mut word).await?;
    if word.len() < length {
        return Err(ReadError::Io(std::io::ErrorKind::UnexpectedEof.into()));
    }
    let mut end = [0; 2];
    stream.read_exact(&mut end).await?;
    Ok(word)
}

/// A line without its LF or CR LF; `None` at the end of the stream.
async fn read_line<R: AsyncBufRead + Unpin>(
    stream: &mut R,
    too_long: &str,
) -> Result<Option<Vec<u8>>, ReadError> {
    let mut line = Vec::new();
    (&mut *stream)
        .take(INLINE_CAP as u64 + 1)
        .read_until(b'\n', &mut line)
        .await?;
    match line.pop() {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) if line.len() >= INLINE_CAP => return Err(protocol(too_long)),
        Some(_) => return Err(ReadError::Io(std::io::ErrorKind::UnexpectedEof.into())),
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(line))
}

fn protocol(reason: &str) -> ReadError {
    ReadError::Protocol(reason.to_owned())
}

fn number(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Splits an inline command as `sdssplitargs` of Redis does: blanks separate, `"` allows escapes, `'` does
/// not. `None` when a quote stays open or is followed by something other than a blank.
fn split_inline(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut bytes = line.iter().copied().peekable();
    loop {
        while bytes.next_if(u8::is_ascii_whitespace).is_some() {}
        if bytes.peek().is_none() || words.len() == WORDS_CAP {
            return Some(words);
        }
        let mut word = Vec::new();
        while let Some(byte) = bytes.next_if(|byte| !byte.is_ascii_whitespace()) {
            if byte != b'"' && byte != b'\'' {
                word.push(byte);
                continue;
            }
            loop {
                match bytes.next()? {
                    end if end == byte => break,
                    b'\\' if byte == b'"' => word.push(escaped(&mut bytes)?),
                    b'\\' if bytes.peek() == Some(&b'\'') => word.extend(bytes.next()),
                    other => word.push(other),
                }
            }
            if bytes.peek().is_some_and(|next| !next.is_ascii_whitespace()) {
                return None;
            }
        }
        words.push(word);
    }
}

fn escaped(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    Some(match bytes.next()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        b'x' => {
            let digits = [bytes.next()?, bytes.next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(mut sent: &[u8]) -> Result<Vec<Request>, String> {
        let mut requests = Vec::new();
        loop {
            match read(&mut sent).await {
                Ok(Request::End) => return Ok(requests),
                Ok(request) => requests.push(request),
                Err(ReadError::Protocol(reason)) => return Err(reason),
                Err(ReadError::Io(error)) => return Err(error.kind().to_string()),
            }
        }
    }

    fn command(words: &[&str]) -> Request {
        Request::Command(words.iter().map(|word| word.as_bytes().to_vec()).collect())
    }

    #[tokio::test]
    async fn arrays_and_inline_commands_may_be_mixed() {
        let sent = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n\r\nset k \"a\\x41 b\" 'c d'\n*0\r\n";
        let expected = [
            command(&["GET", "a"]),
            command(&["PING"]),
            Request::Nothing,
            command(&["set", "k", "aA b", "c d"]),
            Request::Nothing,
        ];
        assert_eq!(read_all(sent).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn promises_beyond_the_caps_are_refused_before_any_memory_is_taken() {
        let refused = [
            ("*99999999\r\n", "invalid multibulk length"),
            ("*x\r\n", "invalid multibulk length"),
            ("*1\r\n$536870912\r\n", "invalid bulk length"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
            ("*1\r\n+a\r\n", "expected '$', got '+'"),
            ("get \"a\r\n", "unbalanced quotes in request"),
        ];
        for (sent, reason) in refused {
            assert_eq!(read_all(sent.as_bytes()).await.unwrap_err(), reason, "{sent:?}");
        }
        assert_eq!(
            read_all(&vec![b'x'; INLINE_CAP + 10]).await.unwrap_err(),
            "too big inline request"
        );
    }
}
