//! Which trace something belongs to, as W3C Trace Context, level 1, writes it in the header `traceparent`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::ParseError;

/// The header of a request that continues a trace.
pub const HEADER: &str = "traceparent";

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// None for zeros alone, which the specification keeps for "no id".
            #[must_use]
            pub fn new(bytes: [u8; $bytes]) -> Option<Self> {
                (bytes != [0; $bytes]).then_some(Self(bytes))
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                read_hex(text)
                    .and_then(Self::new)
                    .ok_or_else(|| ParseError::new($what, text, $rule))
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseError;
            fn try_from(text: String) -> Result<Self, ParseError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

hex_id!(
    /// One trace: everything that came of one request.
    TraceId, 16, "trace id", "32 lower-case hexadecimal digits, not all of them 0"
);
hex_id!(
    /// One span of a trace.
    SpanId, 8, "span id", "16 lower-case hexadecimal digits, not all of them 0"
);

impl SpanId {
    /// The second half of a UUID: its variant's bits and 62 that are random in versions 4 and 7. None for zeros alone.
    #[must_use]
    pub fn of(id: Uuid) -> Option<Self> {
        let (_, half) = id.as_u64_pair();
        Self::new(half.to_be_bytes())
    }
}

/// A trace and the span in it that comes before (W3C Trace Context, §3.2.2): `00-<trace id>-<span id>-<flags>`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Traceparent {
    pub trace: TraceId,
    pub span: SpanId,
    /// Whether its spans are kept. Of the flags it is the only one that version 00 names (§3.2.2.5).
    pub sampled: bool,
}

impl FromStr for Traceparent {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || {
            ParseError::new(
                "traceparent",
                text,
                "version 00: 00-<32 digits>-<16 digits>-<2 digits>, lower-case hexadecimal, no id all 0",
            )
        };
        let mut parts = text.split('-');
        let mut part = || parts.next().ok_or_else(error);
        if part()? != "00" {
            return Err(error());
        }
        let trace = part()?.parse().map_err(|_| error())?;
        let span = part()?.parse().map_err(|_| error())?;
        let [flags] = read_hex(part()?).ok_or_else(error)?;
        if parts.next().is_some() {
            return Err(error());
        }
        Ok(Self {
            trace,
            span,
            sampled: flags & 1 == 1,
        })
    }
}

impl TryFrom<String> for Traceparent {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<Traceparent> for String {
    fn from(traceparent: Traceparent) -> Self {
        traceparent.to_string()
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{}-{}-{:02x}",
            self.trace,
            self.span,
            u8::from(self.sampled)
        )
    }
}

impl fmt::Debug for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn read_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification, §3.2.3.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_reads_back_and_of_its_flags_only_sampled_counts() {
        let read: Traceparent = EXAMPLE.parse().unwrap();
        assert_eq!(read.to_string(), EXAMPLE);
        assert_eq!(read.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(read.span.to_string(), "00f067aa0ba902b7");
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let text = EXAMPLE.replace("-01", &format!("-{flags}"));
            assert_eq!(text.parse::<Traceparent>().unwrap().sampled, sampled, "{flags}");
        }
    }

    #[test]
    fn nothing_but_version_00_in_lower_case_and_without_empty_ids_is_a_traceparent() {
        for bad in [
            String::new(),
            "00".to_owned(),
            EXAMPLE.to_uppercase(),
            EXAMPLE.replace("00-4b", "01-4b"),
            EXAMPLE.replace("00-4b", "ff-4b"),
            EXAMPLE.replace("00-4b", "0-4b"),
            EXAMPLE.replace("4bf9", "4Bf9"),
            EXAMPLE.replace("4bf9", "+bf9"),
            EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            EXAMPLE.replace("00f067aa0ba902b7", "00f067aa0ba902b"),
            EXAMPLE.replace("-01", "-1"),
            EXAMPLE.replace("-01", "-0g"),
            EXAMPLE.replace("-01", ""),
            format!("{EXAMPLE}-"),
            format!("{EXAMPLE}-00"),
            format!(" {EXAMPLE}"),
            format!("{EXAMPLE}\n"),
            EXAMPLE.replace('7', "é"),
        ] {
            assert!(bad.parse::<Traceparent>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_span_id_of_a_uuid_is_its_second_half() {
        let id: Uuid = "0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11".parse().unwrap();
        assert_eq!(SpanId::of(id).unwrap().to_string(), "9f573b1f6f2f8a11");
        assert_eq!(SpanId::of(Uuid::nil()), None);
    }
}
