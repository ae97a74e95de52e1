//! VNC with a password: the RFB protocol (RFC 6143) up to the refusal.
//!
//! The challenge and the visitor's response are logged together; with both, a guessed password can be
//! checked later. Nobody is let in.

use std::io;
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Failure;
use crate::environment::Context;
use crate::event::{Category, Outcome};
use crate::serve::{self, Connection, Session};

/// RFC 6143 §7.1.1.
const VERSION: &[u8; 12] = b"RFB 003.008\n";
/// Security type (RFC 6143 §7.1.2).
const VNC_AUTHENTICATION: u8 = 2;
/// SecurityResult (RFC 6143 §7.1.3).
const FAILED: u32 = 1;

/// How a server puts its refusals; each set belongs to one program.
#[derive(Debug, Clone, Copy)]
struct Wording {
    wrong_password: &'static str,
    wrong_type: &'static str,
}

const WORDINGS: &[&Wording] = &[
    &Wording {
        wrong_password: "Authentication failed",
        wrong_type: "Invalid security type",
    },
    &Wording {
        wrong_password: "password check failed!",
        wrong_type: "Security type is not supported",
    },
    &Wording {
        wrong_password: "Authentication failure",
        wrong_type: "Requested security type not available",
    },
];

/// The handshake a visitor asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V3_3,
    V3_7,
    V3_8,
}

impl Version {
    /// `None` when it is not a version line. Unknown minor versions count as 3.3 (RFC 6143 §7.1.1).
    fn parse(line: &[u8; 12]) -> Option<Self> {
        let digits = line.strip_prefix(b"RFB ")?.strip_suffix(b"\n")?;
        let (major, minor) = (digits.get(..3)?, digits.get(4..)?);
        let is_number = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
        if digits[3] != b'.' || !is_number(major) || !is_number(minor) {
            return None;
        }
        Some(match (major, minor) {
            (b"003", b"007") => Self::V3_7,
            (b"003", b"008") => Self::V3_8,
            (b"003", _) => Self::V3_3,
            _ => Self::V3_8,
        })
    }
}

/// Serves for ever.
///
/// # Errors
///
/// When the port cannot be bound.
pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let wording = context.identity.choose("vnc.wording", WORDINGS);
    let random = SystemRandom::new();
    serve::tcp(&context, move |connection, session| {
        visit(connection, session, wording, random.clone())
    })
    .await
}

async fn visit(
    mut stream: Connection,
    session: Arc<Session>,
    wording: &'static Wording,
    random: SystemRandom,
) -> io::Result<()> {
    stream.write_all(VERSION).await?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    let Some(version) = Version::parse(&line) else {
        session.garbage(line);
        return Ok(());
    };
    session
        .event("handshake", Category::Network)
        .text("decnet.vnc.client_version", line[4..11].as_ref())
        .emit();

    if version == Version::V3_3 {
        stream.write_u32(u32::from(VNC_AUTHENTICATION)).await?;
    } else {
        stream.write_all(&[1, VNC_AUTHENTICATION]).await?;
        let chosen = stream.read_u8().await?;
        if chosen != VNC_AUTHENTICATION {
            session
                .event("security_type", Category::Authentication)
                .outcome(false)
                .field("decnet.vnc.security_type", chosen)
                .emit();
            return refuse(&mut stream, version, wording.wrong_type).await;
        }
    }

    let mut challenge = [0; 16];
    random
        .fill(&mut challenge)
        .map_err(|_| io::Error::other("the system gives no random bytes"))?;
    stream.write_all(&challenge).await?;
    let mut response = [0; 16];
    stream.read_exact(&mut response).await?;
    session
        .event("login", Category::Authentication)
        .outcome(Outcome::Failure)
        .field("decnet.vnc.challenge", hex::encode(challenge))
        .field("decnet.vnc.response", hex::encode(response))
        .emit();
    refuse(&mut stream, version, wording.wrong_password).await
}

/// SecurityResult; only 3.8 carries a reason (RFC 6143 §7.1.3, appendix A).
async fn refuse(stream: &mut Connection, version: Version, reason: &str) -> io::Result<()> {
    let mut answer = FAILED.to_be_bytes().to_vec();
    if version == Version::V3_8 {
        answer.extend(u32::try_from(reason.len()).unwrap_or(0).to_be_bytes());
        answer.extend(reason.as_bytes());
    }
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_lines_are_recognised_and_rubbish_is_not() {
        for (line, version) in [
            (b"RFB 003.003\n", Some(Version::V3_3)),
            (b"RFB 003.005\n", Some(Version::V3_3)),
            (b"RFB 003.007\n", Some(Version::V3_7)),
            (b"RFB 003.008\n", Some(Version::V3_8)),
            (b"RFB 003.889\n", Some(Version::V3_3)),
            (b"RFB 004.001\n", Some(Version::V3_8)),
            (b"RFB 003 008\n", None),
            (b"GET / HTTP/1", None),
            (b"RFB 0x3.008\n", None),
        ] {
            assert_eq!(Version::parse(line), version);
        }
    }
}
