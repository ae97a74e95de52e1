//! smtp (RFC 5321, RFC 4954): credentials and messages. `smtp_relay` takes mail for anyone.

mod software;

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use serde::Deserialize;
use smtp_proto::{AUTH_LOGIN, AUTH_PLAIN, Error, Request};
use tokio::io::AsyncWriteExt;

use super::sasl::{decoded, plain};
use crate::Failure;
use crate::door::Door;
use crate::environment::Context;
use crate::event::{Category, Outcome};
use crate::line::LineReader;
use crate::serve::{Connection, Session};
use software::{Mta, Software};

/// RFC 5321 §4.5.3.1.6 asks for 1000 octets; AUTH takes 12288 (RFC 4954 §4).
const LINE_CAP: usize = 12 * 1024;

/// The largest message taken, in bytes: Postfix's `message_size_limit`.
const MESSAGE_CAP: usize = 10_240_000;

/// Mistakes after which Postfix hangs up (`smtpd_hard_error_limit`).
const ERRORS: u32 = 20;

/// How much of a message is kept for the log.
const KEPT: usize = 4096;

/// A local part and a domain of full length, in bytes (RFC 5321 §4.5.3.1).
const ADDRESS_CAP: usize = 64 + 1 + 255;

/// Commands of one connection, and recipients of one message.
const COMMANDS: u32 = 1000;
const RECIPIENTS: usize = 100;

/// Whose mail is taken without a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relaying {
    /// That for the machine's own domain.
    Closed,
    /// Everyone's.
    Open,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Persona {
    banner: Option<String>,
    mta: Mta,
}

struct Smtp {
    software: Software,
    domain: String,
    relaying: Relaying,
    door: Door,
}

/// One visitor's progress.
#[derive(Default)]
struct Dialogue {
    helo: Option<String>,
    admitted: bool,
    from: Option<String>,
    recipients: Vec<String>,
}

pub(super) async fn run(context: Context, relaying: Relaying) -> Result<(), Failure> {
    let persona: Persona = context.persona()?;
    let smtp = Arc::new(Smtp {
        software: Software::new(&context.host, &context.identity, persona.mta, persona.banner),
        domain: super::mailbox::domain(&context.host),
        relaying,
        door: Door::new(&context.identity, "mail", Vec::new()),
    });
    crate::serve::tcp(&context, move |connection, session| {
        let smtp = Arc::clone(&smtp);
        async move { smtp.visit(connection, &session).await }
    })
    .await
}

impl Smtp {
    async fn visit(&self, connection: Connection, session: &Session) -> io::Result<()> {
        let mut lines = LineReader::new(connection, LINE_CAP);
        lines
            .get_mut()
            .write_all(format!("220 {}\r\n", self.software.banner()).as_bytes())
            .await?;
        let mut dialogue = Dialogue::default();
        let mut errors = 0;
        for _ in 0..COMMANDS {
            let Some(line) = lines.next().await? else {
                return Ok(());
            };
            let sent = [&line.bytes[..], b"\r\n"].concat();
            let request = Request::parse(&mut sent.iter());
            if !matches!(request, Ok(Request::Auth { .. })) {
                session.command(&line.bytes);
            }
            let answer = match request {
                Ok(Request::Quit) => {
                    return lines
                        .get_mut()
                        .write_all(self.software.goodbye().as_bytes())
                        .await;
                }
                Ok(Request::Data) if dialogue.recipients.is_empty() => {
                    "503 5.5.1 Error: need RCPT command\r\n".to_owned()
                }
                Ok(Request::Data) => {
                    lines
                        .get_mut()
                        .write_all(b"354 End data with <CR><LF>.<CR><LF>\r\n")
                        .await?;
                    let Some(message) = receive(&mut lines).await? else {
                        return Ok(());
                    };
                    self.take(session, &mut dialogue, &message)
                }
                Ok(Request::Auth {
                    mechanism,
                    initial_response,
                }) => {
                    let initial = Some(initial_response.into_owned()).filter(|text| !text.is_empty());
                    self.auth(session, &mut lines, &mut dialogue, mechanism, initial)
                        .await?
                }
                Ok(request) => self.answer(session, &mut dialogue, request),
                // Postfix's answer to web browsers, `smtpd_forbidden_commands`.
                Err(_) if self.software.is_postfix() && is_forbidden(&line.bytes) => {
                    let goodbye = "221 2.7.0 Error: I can break rules, too. Goodbye.\r\n";
                    return lines.get_mut().write_all(goodbye.as_bytes()).await;
                }
                Err(error) => refusal(&self.software, &error),
            };
            errors += u32::from(answer.starts_with('5'));
            lines.get_mut().write_all(answer.as_bytes()).await?;
            if errors >= ERRORS && self.software.is_postfix() {
                let goodbye = format!("421 4.7.0 {} Error: too many errors\r\n", self.software.name());
                return lines.get_mut().write_all(goodbye.as_bytes()).await;
            }
        }
        Ok(())
    }

    fn answer(&self, session: &Session, dialogue: &mut Dialogue, request: Request<Cow<'_, str>>) -> String {
        match request {
            Request::Ehlo { host } => {
                *dialogue = Dialogue {
                    helo: Some(host.into_owned()),
                    admitted: dialogue.admitted,
                    ..Dialogue::default()
                };
                self.software.ehlo(session.peer())
            }
            Request::Helo { host } => {
                dialogue.helo = Some(host.into_owned());
                format!("250 {}\r\n", self.software.name())
            }
            Request::Mail { .. } if dialogue.helo.is_none() => {
                "503 5.5.1 Error: send HELO/EHLO first\r\n".to_owned()
            }
            Request::Mail { from } => {
                dialogue.recipients.clear();
                dialogue.from = Some(from.address.into_owned());
                "250 2.1.0 Ok\r\n".to_owned()
            }
            Request::Rcpt { .. } if dialogue.from.is_none() => {
                "503 5.5.1 Error: need MAIL command\r\n".to_owned()
            }
            Request::Rcpt { to } => self.recipient(dialogue, to.address.into_owned()),
            Request::Rset => {
                dialogue.from = None;
                dialogue.recipients.clear();
                "250 2.0.0 Ok\r\n".to_owned()
            }
            Request::Noop { .. } => "250 2.0.0 Ok\r\n".to_owned(),
            Request::Vrfy { value } => format!("252 2.0.0 {value}\r\n"),
            Request::StartTls => self.software.no_tls().to_owned(),
            _ => self.software.unknown().to_owned(),
        }
    }

    fn recipient(&self, dialogue: &mut Dialogue, address: String) -> String {
        if address.len() > ADDRESS_CAP {
            return "501 5.1.3 Bad recipient address syntax\r\n".to_owned();
        }
        let domain = address.rsplit('@').next().unwrap_or_default().to_lowercase();
        let local = domain == self.domain
            || domain == self.software.name()
            || self.domain.ends_with(&format!(".{domain}"))
            // RFC 5321 §4.5.1: every server takes mail for its postmaster.
            || domain == "postmaster";
        if !local && !dialogue.admitted && self.relaying == Relaying::Closed {
            return self.software.no_relay(&address);
        }
        if dialogue.recipients.len() >= RECIPIENTS {
            return "452 4.5.3 Error: too many recipients\r\n".to_owned();
        }
        dialogue.recipients.push(address);
        "250 2.1.5 Ok\r\n".to_owned()
    }

    async fn auth(
        &self,
        session: &Session,
        lines: &mut LineReader<Connection>,
        dialogue: &mut Dialogue,
        mechanism: u64,
        initial: Option<String>,
    ) -> io::Result<String> {
        let mut ask = async |challenge: &str| {
            lines
                .get_mut()
                .write_all(format!("334 {challenge}\r\n").as_bytes())
                .await?;
            Ok::<_, io::Error>(lines.next().await?.map(|line| line.text()).unwrap_or_default())
        };
        let (user, password) = match mechanism {
            AUTH_PLAIN => plain(&match initial {
                Some(response) => response,
                None => ask("").await?,
            }),
            AUTH_LOGIN => {
                let user = match initial {
                    Some(user) => user,
                    None => ask("VXNlcm5hbWU6").await?,
                };
                (decoded(&user), decoded(&ask("UGFzc3dvcmQ6").await?))
            }
            _ => {
                return Ok(
                    "535 5.7.8 Error: authentication failed: Invalid authentication mechanism\r\n".into(),
                );
            }
        };
        dialogue.admitted = self.door.admits(session.peer(), &user, &password);
        session.login(&user, &password, dialogue.admitted);
        Ok(if dialogue.admitted {
            "235 2.7.0 Authentication successful\r\n".to_owned()
        } else {
            self.software.denied().to_owned()
        })
    }

    fn take(&self, session: &Session, dialogue: &mut Dialogue, message: &Received) -> String {
        let fits = message.size <= MESSAGE_CAP;
        let head = String::from_utf8_lossy(&message.head);
        let header = |name: &str| {
            let mut lines = head.lines().take_while(|line| !line.is_empty());
            lines
                .find_map(|line| {
                    line.get(..name.len())
                        .filter(|start| start.eq_ignore_ascii_case(name))
                        .and(line.get(name.len()..))
                })
                .map(str::trim)
        };
        session
            .event("message", Category::Email)
            .outcome(Outcome::from(fits))
            .text("email.sender.address", dialogue.from.take().unwrap_or_default())
            .field(
                "email.to.address",
                dialogue.recipients.iter().take(20).cloned().collect::<Vec<_>>(),
            )
            .field("decnet.message.recipients", dialogue.recipients.len())
            .field("decnet.message.bytes", message.size)
            .maybe("email.subject", header("Subject:"))
            .text("decnet.message.content", &message.head)
            .emit();
        dialogue.recipients.clear();
        if fits {
            self.software.queued(&message.head)
        } else {
            "552 5.3.4 Error: message file too big\r\n".to_owned()
        }
    }
}

/// A message's size and beginning. The rest is counted and thrown away.
struct Received {
    size: usize,
    head: Vec<u8>,
}

/// Reads up to the lone dot; `None` when the visitor hangs up before it.
async fn receive(lines: &mut LineReader<Connection>) -> io::Result<Option<Received>> {
    let mut message = Received {
        size: 0,
        head: Vec::new(),
    };
    while let Some(line) = lines.next().await? {
        if line.bytes == b"." && !line.cut {
            return Ok(Some(message));
        }
        // RFC 5321 §4.5.2.
        let content = line.bytes.strip_prefix(b".").unwrap_or(&line.bytes);
        message.size += content.len() + 2;
        if message.head.len() < KEPT {
            message.head.extend_from_slice(content);
            message.head.extend_from_slice(b"\r\n");
            message.head.truncate(KEPT);
        }
        // Twice the cap is patience enough for a sender who does not stop.
        if message.size > 2 * MESSAGE_CAP {
            break;
        }
    }
    Ok(None)
}

fn is_forbidden(line: &[u8]) -> bool {
    [&b"CONNECT "[..], b"GET ", b"POST "].iter().any(|verb| {
        line.get(..verb.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(verb))
    })
}

fn refusal(software: &Software, error: &Error) -> String {
    match error {
        Error::SyntaxError { syntax } => format!("501 5.5.4 Syntax: {syntax}\r\n"),
        Error::InvalidSenderAddress => "501 5.1.7 Bad sender address syntax\r\n".to_owned(),
        Error::InvalidRecipientAddress => "501 5.1.3 Bad recipient address syntax\r\n".to_owned(),
        Error::InvalidParameter { .. } | Error::UnsupportedParameter { .. } => {
            "555 5.5.4 Unsupported option\r\n".to_owned()
        }
        _ => software.unknown().to_owned(),
    }
}
