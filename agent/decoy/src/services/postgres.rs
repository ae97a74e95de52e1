//! PostgreSQL up to the refused password.
//!
//! The password is asked for in clear text (`password` in `pg_hba.conf`), which every client answers, and
//! logged. Nobody is let in. Messages are read and written with `pgwire`'s codec, whose length limits hold
//! before anything is parsed.

mod release;

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use pgwire::messages::response::ErrorResponse;
use pgwire::messages::startup::{Authentication, NegotiateProtocolVersion, PasswordMessageFamily, Startup};
use pgwire::messages::{
    DecodeContext, PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion, SslNegotiationMetaMessage,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Failure;
use crate::environment::Context;
use crate::event::{Category, Outcome};
use crate::serve::{self, Connection, Session};
use release::Server;

/// Bytes kept unparsed: the codec's own limit for messages before a login is 10,000.
const BUFFER_CAP: usize = 16 * 1024;
/// Lengths of a message before the login (`MAX_STARTUP_PACKET_LENGTH` of PostgreSQL).
const LENGTHS: std::ops::RangeInclusive<i32> = 8..=10_000;
// Requests that stand in the place of a protocol version (PostgreSQL documentation, "Message Formats").
const CANCEL_REQUEST: i32 = 80_877_102;
const TLS_REQUEST: i32 = 80_877_103;
const GSS_REQUEST: i32 = 80_877_104;
/// Times a client may ask for encryption before it must go on without.
const NEGOTIATIONS: usize = 2;

/// Serves for ever.
///
/// # Errors
///
/// When the port cannot be bound.
pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let release = Arc::new(Server::new(&context.identity, &context.host));
    serve::tcp(&context, move |connection, session| {
        let visit = Visit {
            stream: connection,
            buffer: BytesMut::new(),
            session,
            release: Arc::clone(&release),
        };
        visit.run()
    })
    .await
}

/// What a client may send now; the messages before a login carry no type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Encryption,
    Startup,
    Password,
}

struct Visit {
    stream: Connection,
    buffer: BytesMut,
    session: Arc<Session>,
    release: Arc<Server>,
}

impl Visit {
    async fn run(mut self) -> io::Result<()> {
        let Some(startup) = self.startup().await? else {
            return Ok(());
        };
        let parameter = |name: &str| startup.parameters.get(name).map(String::as_str);
        let Some(user) = parameter("user").filter(|user| !user.is_empty()) else {
            self.session
                .event("login", Category::Authentication)
                .outcome(Outcome::Failure)
                .emit();
            return self.refuse(self.release.no_user()).await;
        };
        if startup.protocol_number_minor > 0
            || startup.parameters.keys().any(|name| name.starts_with("_pq_."))
        {
            let unknown = startup
                .parameters
                .keys()
                .filter(|name| name.starts_with("_pq_."))
                .cloned()
                .collect();
            let negotiate = NegotiateProtocolVersion::new(0, unknown);
            self.send(&PgWireBackendMessage::NegotiateProtocolVersion(negotiate))
                .await?;
        }

        self.send(&PgWireBackendMessage::Authentication(
            Authentication::CleartextPassword,
        ))
        .await?;
        let answer = self.message(Stage::Password).await;
        let password = match &answer {
            // The bytes as sent, up to their NUL: the codec's own decoding would lose what is not UTF-8.
            Ok(Some(PgWireFrontendMessage::PasswordMessageFamily(PasswordMessageFamily::Raw(body)))) => {
                body[..].split(|byte| *byte == 0).next()
            }
            _ => None,
        };
        self.session
            .event("login", Category::Authentication)
            .outcome(Outcome::Failure)
            .text("user.name", user)
            .maybe("decnet.password", password)
            .text("decnet.postgres.database", parameter("database").unwrap_or(user))
            .maybe("decnet.postgres.application", parameter("application_name"))
            .maybe("decnet.postgres.encoding", parameter("client_encoding"))
            .emit();
        // psql hangs up here to ask its user, then comes back with the password.
        if answer?.is_none() {
            return Ok(());
        }
        self.refuse(self.release.wrong_password(user)).await
    }

    /// Reads up to the startup message, refusing encryption on the way; `None` when the visit is over.
    async fn startup(&mut self) -> io::Result<Option<Startup>> {
        for _ in 0..=NEGOTIATIONS {
            let Some(head) = self.head().await? else {
                return Ok(None);
            };
            // What is no request of any protocol version is refused by the version it seems to name.
            let (length, code) = head;
            let known = [CANCEL_REQUEST, TLS_REQUEST, GSS_REQUEST].contains(&code) || code >> 16 == 3;
            if !known || !LENGTHS.contains(&length) {
                self.session.garbage(&self.buffer);
                if LENGTHS.contains(&length) {
                    self.refuse(self.release.unsupported_protocol(code)).await?;
                }
                return Ok(None);
            }
            let stage = if matches!(code, TLS_REQUEST | GSS_REQUEST) {
                Stage::Encryption
            } else {
                Stage::Startup
            };
            match self.message(stage).await? {
                Some(PgWireFrontendMessage::SslNegotiation(meta)) => {
                    let asked = if matches!(meta, SslNegotiationMetaMessage::PostgresGss(_)) {
                        "gss"
                    } else {
                        "tls"
                    };
                    let event = self.session.event("encryption_request", Category::Network);
                    event.field("decnet.postgres.encryption", asked).emit();
                    self.stream.write_all(b"N").await?;
                }
                Some(PgWireFrontendMessage::Startup(startup)) => return Ok(Some(startup)),
                Some(PgWireFrontendMessage::CancelRequest(_)) => {
                    self.session.event("cancel_request", Category::Database).emit();
                    return Ok(None);
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Length and code of the message that is due, without taking them; `None` at the end of the stream.
    async fn head(&mut self) -> io::Result<Option<(i32, i32)>> {
        while self.buffer.len() < 8 {
            if !self.more().await? {
                if !self.buffer.is_empty() {
                    self.session.garbage(&self.buffer);
                }
                return Ok(None);
            }
        }
        let word = |at: usize| {
            let bytes = &self.buffer[at..at + 4];
            i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        Ok(Some((word(0), word(4))))
    }

    /// The next message; `None` at the end of the stream, or when it is not one.
    async fn message(&mut self, stage: Stage) -> io::Result<Option<PgWireFrontendMessage>> {
        let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
        context.awaiting_frontend_ssl = stage == Stage::Encryption;
        context.awaiting_frontend_startup = stage != Stage::Password;
        loop {
            // The codec subtracts the length's own four bytes before it looks whether they are there.
            let too_short = matches!(self.buffer[..], [_, 0, 0, 0, ..4, ..]);
            if stage == Stage::Password && too_short {
                self.session.garbage(&self.buffer);
                return Ok(None);
            }
            match PgWireFrontendMessage::decode(&mut self.buffer, &context) {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) if self.buffer.len() < BUFFER_CAP => {
                    if !self.more().await? {
                        return Ok(None);
                    }
                }
                _ => {
                    self.session.garbage(&self.buffer);
                    return Ok(None);
                }
            }
        }
    }

    async fn more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    async fn send(&mut self, message: &PgWireBackendMessage) -> io::Result<()> {
        let mut out = BytesMut::new();
        message.encode(&mut out).map_err(io::Error::other)?;
        self.stream.write_all(&out).await
    }

    async fn refuse(&mut self, error: ErrorResponse) -> io::Result<()> {
        self.send(&PgWireBackendMessage::ErrorResponse(error)).await?;
        self.stream.shutdown().await
    }
}
