//! Answers, in RESP2 or RESP3 (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

/// The protocol a connection has chosen with HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Resp2,
    Resp3,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reply {
    Status(&'static str),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    /// Text meant for people; RESP3 marks it as such.
    Verbatim(String),
    Null,
    Array(Vec<Reply>),
    Set(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
}

impl Reply {
    pub(super) const OK: Self = Self::Status("OK");

    pub(super) fn error(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }

    pub(super) fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(bytes.as_ref().to_vec())
    }

    pub(super) fn bulks<T: AsRef<[u8]>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::Array(items.into_iter().map(Self::bulk).collect())
    }

    pub(super) fn count(count: usize) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    pub(super) fn encode(&self, protocol: Protocol) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out, protocol);
        out
    }

    fn encode_into(&self, out: &mut Vec<u8>, protocol: Protocol) {
        let new = protocol == Protocol::Resp3;
        match self {
            Self::Status(text) => line(out, '+', text),
            // An error is one line; what the visitor sent is repeated in some.
            Self::Error(text) => line(out, '-', &text.replace(['\r', '\n'], " ")),
            Self::Integer(number) => line(out, ':', &number.to_string()),
            Self::Bulk(bytes) => blob(out, '$', bytes),
            Self::Verbatim(text) if new => blob(out, '=', format!("txt:{text}").as_bytes()),
            Self::Verbatim(text) => blob(out, '$', text.as_bytes()),
            Self::Null if new => line(out, '_', ""),
            Self::Null => line(out, '$', "-1"),
            Self::Array(items) => {
                head(out, '*', items.len());
                items.iter().for_each(|item| item.encode_into(out, protocol));
            }
            Self::Set(items) => {
                head(out, if new { '~' } else { '*' }, items.len());
                items.iter().for_each(|item| item.encode_into(out, protocol));
            }
            Self::Map(pairs) => {
                if new {
                    head(out, '%', pairs.len());
                } else {
                    head(out, '*', pairs.len() * 2);
                }
                for (key, value) in pairs {
                    key.encode_into(out, protocol);
                    value.encode_into(out, protocol);
                }
            }
        }
    }
}

fn line(out: &mut Vec<u8>, mark: char, text: &str) {
    out.extend_from_slice(format!("{mark}{text}\r\n").as_bytes());
}

fn head(out: &mut Vec<u8>, mark: char, count: usize) {
    line(out, mark, &count.to_string());
}

fn blob(out: &mut Vec<u8>, mark: char, bytes: &[u8]) {
    head(out, mark, bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_has_its_own_forms() {
        let reply = Reply::Map(vec![
            (Reply::bulk("a"), Reply::Null),
            (Reply::Integer(1), Reply::Set(vec![])),
        ]);
        assert_eq!(
            reply.encode(Protocol::Resp2),
            b"*4\r\n$1\r\na\r\n$-1\r\n:1\r\n*0\r\n"
        );
        assert_eq!(
            reply.encode(Protocol::Resp3),
            b"%2\r\n$1\r\na\r\n_\r\n:1\r\n~0\r\n"
        );
        let text = Reply::Verbatim("x".into());
        assert_eq!(text.encode(Protocol::Resp3), b"=5\r\ntxt:x\r\n");
        assert_eq!(text.encode(Protocol::Resp2), b"$1\r\nx\r\n");
    }

    #[test]
    fn what_a_visitor_sent_cannot_end_an_error_line() {
        assert_eq!(
            Reply::error("ERR a\r\n+OK").encode(Protocol::Resp2),
            b"-ERR a  +OK\r\n"
        );
    }
}
