//! pop3 (RFC 1939, RFC 2449, RFC 5034): credentials, then a small mailbox.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use super::mailbox::{self, Message};
use super::sasl::{decoded, plain};
use crate::Failure;
use crate::door::Door;
use crate::environment::Context;
use crate::event::Category;
use crate::host::Host;
use crate::identity::Identity;
use crate::line::LineReader;
use crate::serve::{Connection, Session};

/// RFC 2449 §4 asks for 255; SASL responses may be longer.
const LINE_CAP: usize = 2048;

/// Commands of one connection, and refusals among them.
const COMMANDS: u32 = 1000;

struct Pop3 {
    host: Host,
    identity: Identity,
    door: Door,
}

pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let pop3 = Arc::new(Pop3 {
        host: context.host.clone(),
        door: Door::new(&context.identity, "mail", Vec::new()),
        identity: context.identity.clone(),
    });
    crate::serve::tcp(&context, move |connection, session| {
        let pop3 = Arc::clone(&pop3);
        async move { pop3.visit(connection, &session).await }
    })
    .await
}

impl Pop3 {
    async fn visit(&self, connection: Connection, session: &Session) -> io::Result<()> {
        let mut lines = LineReader::new(connection, LINE_CAP);
        let windows = self.host.family.is_windows();
        let (greeting, goodbye) = if windows {
            (
                "+OK The Microsoft Exchange POP3 service is ready.\r\n",
                "+OK Microsoft Exchange Server POP3 server signing off.\r\n",
            )
        } else {
            ("+OK Dovecot ready.\r\n", "+OK Logging out.\r\n")
        };
        lines.get_mut().write_all(greeting.as_bytes()).await?;
        let mut name = None;
        let mut mail: Option<Vec<Message>> = None;
        for _ in 0..COMMANDS {
            let Some(line) = lines.next().await? else {
                return Ok(());
            };
            let text = line.text();
            let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
            let verb = verb.to_ascii_uppercase();
            if verb != "PASS" && verb != "AUTH" {
                session.command(&line.bytes);
            }
            let answer = match (verb.as_str(), &mail) {
                ("QUIT", _) => {
                    return lines.get_mut().write_all(goodbye.as_bytes()).await;
                }
                ("CAPA", _) if windows => "+OK\r\nTOP\r\nUIDL\r\nSASL PLAIN\r\nUSER\r\n.\r\n".to_owned(),
                ("CAPA", _) => "+OK\r\nCAPA\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nPIPELINING\r\nAUTH-RESP-CODE\r\n\
                     USER\r\nSASL PLAIN LOGIN\r\n.\r\n"
                    .to_owned(),
                ("NOOP", _) => "+OK\r\n".to_owned(),
                ("USER", None) => {
                    name = Some(rest.to_owned());
                    "+OK\r\n".to_owned()
                }
                ("PASS", None) => match name.take() {
                    Some(user) => self.login(session, &user, rest, &mut mail),
                    None => "-ERR No username given.\r\n".to_owned(),
                },
                ("AUTH", None) if rest.trim().is_empty() && !windows => {
                    "+OK\r\nPLAIN\r\nLOGIN\r\n.\r\n".to_owned()
                }
                ("AUTH", None) => match self.sasl(&mut lines, rest).await? {
                    Some((user, password)) => self.login(session, &user, &password, &mut mail),
                    None => "-ERR Unsupported authentication mechanism.\r\n".to_owned(),
                },
                (verb, Some(mail)) => self.transaction(session, verb, rest, mail),
                _ if windows => "-ERR Protocol error. 14\r\n".to_owned(),
                _ => "-ERR Unknown command.\r\n".to_owned(),
            };
            lines.get_mut().write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }

    fn login(
        &self,
        session: &Session,
        user: &str,
        password: &str,
        mail: &mut Option<Vec<Message>>,
    ) -> String {
        let admitted = self.door.admits(session.peer(), user, password);
        session.login(user, password, admitted);
        if !admitted {
            return if self.host.family.is_windows() {
                "-ERR Logon failure: unknown user name or bad password.\r\n"
            } else {
                "-ERR [AUTH] Authentication failed.\r\n"
            }
            .to_owned();
        }
        *mail = Some(mailbox::of(&self.host, &self.identity, user));
        "+OK Logged in.\r\n".to_owned()
    }

    /// The AUTH command's exchange (RFC 5034 §4). `None` for a mechanism that is not offered.
    async fn sasl(
        &self,
        lines: &mut LineReader<Connection>,
        arguments: &str,
    ) -> io::Result<Option<(String, String)>> {
        let mut words = arguments.split_whitespace();
        let mechanism = words.next().unwrap_or("").to_ascii_uppercase();
        let initial = words.next().map(str::to_owned);
        let mut ask = async |challenge: &str| {
            lines
                .get_mut()
                .write_all(format!("+ {challenge}\r\n").as_bytes())
                .await?;
            Ok::<_, io::Error>(lines.next().await?.map(|line| line.text()).unwrap_or_default())
        };
        Ok(match mechanism.as_str() {
            "PLAIN" => {
                let response = match initial {
                    Some(response) => response,
                    None => ask("").await?,
                };
                Some(plain(&response))
            }
            "LOGIN" => {
                let user = match initial {
                    Some(user) => user,
                    None => ask("VXNlcm5hbWU6").await?,
                };
                Some((decoded(&user), decoded(&ask("UGFzc3dvcmQ6").await?)))
            }
            _ => None,
        })
    }

    /// A command of the TRANSACTION state (RFC 1939 §5).
    fn transaction(&self, session: &Session, verb: &str, rest: &str, mail: &[Message]) -> String {
        let mut numbers = rest.split_whitespace().map(str::parse::<usize>);
        let number = numbers.next().transpose().unwrap_or(Some(0));
        let message = number.and_then(|number| mail.get(number.checked_sub(1)?));
        let listing = |row: &dyn Fn(usize, &Message) -> String| match (number, message) {
            (None, _) => {
                let rows: String = (1..)
                    .zip(mail)
                    .map(|(n, message)| format!("{}\r\n", row(n, message)))
                    .collect();
                format!("+OK {} messages:\r\n{rows}.\r\n", mail.len())
            }
            (Some(number), Some(message)) => format!("+OK {}\r\n", row(number, message)),
            _ => "-ERR There's no such message.\r\n".to_owned(),
        };
        match verb {
            "STAT" => {
                let size: usize = mail.iter().map(|message| message.source.len()).sum();
                format!("+OK {} {size}\r\n", mail.len())
            }
            "LIST" => listing(&|number, message| format!("{number} {}", message.source.len())),
            "UIDL" => listing(&|number, message| format!("{number} {}", &message.id[..16])),
            "RETR" | "TOP" => match message {
                Some(message) => {
                    session
                        .event("read", Category::Email)
                        .text("email.subject", &message.subject)
                        .emit();
                    let (headers, body) = message.parts();
                    let body = if verb == "TOP" && numbers.next() == Some(Ok(0)) {
                        ""
                    } else {
                        body
                    };
                    format!("+OK {} octets\r\n{headers}{body}.\r\n", message.source.len())
                }
                None => "-ERR There's no such message.\r\n".to_owned(),
            },
            "DELE" if message.is_some() => "+OK Marked to be deleted.\r\n".to_owned(),
            "RSET" => "+OK\r\n".to_owned(),
            _ => "-ERR Unknown command.\r\n".to_owned(),
        }
    }
}
