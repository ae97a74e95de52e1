//! imap (RFC 3501, RFC 4959): credentials, then a small mailbox.

mod fetch;
mod words;

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

/// The longest line, and the longest literal, in bytes (RFC 7162 §4 recommends 8192 octets).
const LINE_CAP: usize = 8192;

/// Literals of one command.
const LITERALS: usize = 8;

/// Commands of one connection.
const COMMANDS: u32 = 1000;

const BEFORE_LOGIN: &str = "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN AUTH=LOGIN";
const AFTER_LOGIN: &str =
    "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ UIDPLUS NAMESPACE CHILDREN UNSELECT";

/// Exchange's, before and after a login alike.
const EXCHANGE: &str = "IMAP4 IMAP4rev1 AUTH=PLAIN UIDPLUS CHILDREN IDLE NAMESPACE LITERAL+";

struct Imap {
    host: Host,
    identity: Identity,
    door: Door,
    /// UIDVALIDITY (RFC 3501 §2.3.1.1).
    validity: u64,
}

pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let imap = Arc::new(Imap {
        host: context.host.clone(),
        door: Door::new(&context.identity, "mail", Vec::new()),
        validity: context
            .identity
            .number("imap.validity", 1_600_000_000..=1_700_000_000),
        identity: context.identity.clone(),
    });
    crate::serve::tcp(&context, move |connection, session| {
        let imap = Arc::clone(&imap);
        async move { imap.visit(connection, &session).await }
    })
    .await
}

/// What one connection has reached (RFC 3501 §3).
#[derive(Default)]
struct State {
    mail: Option<Vec<Message>>,
    selected: bool,
}

impl Imap {
    async fn visit(&self, connection: Connection, session: &Session) -> io::Result<()> {
        let mut lines = LineReader::new(connection, LINE_CAP);
        let greeting = if self.host.family.is_windows() {
            "* OK The Microsoft Exchange IMAP4 service is ready.\r\n".to_owned()
        } else {
            format!("* OK [CAPABILITY {BEFORE_LOGIN}] Dovecot ready.\r\n")
        };
        lines.get_mut().write_all(greeting.as_bytes()).await?;
        let mut state = State::default();
        for _ in 0..COMMANDS {
            let Some(command) = receive(&mut lines).await? else {
                return Ok(());
            };
            let (tag, rest) = command.split_once(' ').unwrap_or((&command, ""));
            let tag = if tag.is_empty() { "*" } else { tag };
            let (verb, arguments) = rest.split_once(' ').unwrap_or((rest, ""));
            let verb = verb.to_ascii_uppercase();
            if verb != "LOGIN" && verb != "AUTHENTICATE" {
                session.command(&command);
            }
            let answer = match verb.as_str() {
                "LOGOUT" => {
                    let farewell = if self.host.family.is_windows() {
                        format!(
                            "* BYE Microsoft Exchange Server IMAP4 server signing off.\r\n{tag} OK LOGOUT completed.\r\n"
                        )
                    } else {
                        format!("* BYE Logging out\r\n{tag} OK Logout completed.\r\n")
                    };
                    return lines.get_mut().write_all(farewell.as_bytes()).await;
                }
                "LOGIN" if state.mail.is_none() => match words::words(arguments).as_slice() {
                    [user, password] => self.login(session, tag, user, password, &mut state),
                    _ => format!("{tag} BAD Error in IMAP command LOGIN: Missing arguments.\r\n"),
                },
                "AUTHENTICATE" if state.mail.is_none() => match authenticate(&mut lines, arguments).await? {
                    Some((user, password)) => self.login(session, tag, &user, &password, &mut state),
                    None => format!("{tag} NO Unsupported authentication mechanism.\r\n"),
                },
                "IDLE" if state.mail.is_some() => {
                    lines.get_mut().write_all(b"+ idling\r\n").await?;
                    lines.next().await?;
                    format!("{tag} OK Idle completed.\r\n")
                }
                verb => self.answer(session, &mut state, tag, verb, arguments),
            };
            lines.get_mut().write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }

    fn login(&self, session: &Session, tag: &str, user: &str, password: &str, state: &mut State) -> String {
        let admitted = self.door.admits(session.peer(), user, password);
        session.login(user, password, admitted);
        if !admitted {
            return if self.host.family.is_windows() {
                format!("{tag} NO LOGIN failed.\r\n")
            } else {
                format!("{tag} NO [AUTHENTICATIONFAILED] Authentication failed.\r\n")
            };
        }
        state.mail = Some(mailbox::of(&self.host, &self.identity, user));
        if self.host.family.is_windows() {
            return format!("{tag} OK LOGIN completed.\r\n");
        }
        format!("{tag} OK [CAPABILITY {AFTER_LOGIN}] Logged in\r\n")
    }

    /// Every command that is answered in one go.
    fn answer(&self, session: &Session, state: &mut State, tag: &str, verb: &str, arguments: &str) -> String {
        let windows = self.host.family.is_windows();
        match verb {
            "CAPABILITY" if windows => {
                return format!("* CAPABILITY {EXCHANGE}\r\n{tag} OK CAPABILITY completed.\r\n");
            }
            "ID" | "STARTTLS" if windows => return format!("{tag} BAD Command Error. 12\r\n"),
            "CAPABILITY" => {
                let known = if state.mail.is_some() {
                    AFTER_LOGIN
                } else {
                    BEFORE_LOGIN
                };
                return format!("* CAPABILITY {known}\r\n{tag} OK Capability completed.\r\n");
            }
            "NOOP" => return format!("{tag} OK NOOP completed.\r\n"),
            "ID" => return format!("* ID (\"name\" \"Dovecot\")\r\n{tag} OK ID completed.\r\n"),
            "STARTTLS" => return format!("{tag} BAD TLS support isn't enabled.\r\n"),
            _ => {}
        }
        let Some(mail) = &state.mail else {
            if windows {
                return format!("{tag} BAD Command received in Invalid state.\r\n");
            }
            return format!("{tag} BAD Error in IMAP command received by server.\r\n");
        };
        let inbox = |name: &String| name.eq_ignore_ascii_case("INBOX");
        let words = words::words(arguments);
        let (uid, verb, arguments) = match verb {
            "UID" => {
                let (verb, rest) = arguments.split_once(' ').unwrap_or((arguments, ""));
                (true, verb.to_ascii_uppercase(), rest)
            }
            verb => (false, verb.to_owned(), arguments),
        };
        match verb.as_str() {
            "SELECT" | "EXAMINE" if words.first().is_some_and(inbox) => {
                state.selected = true;
                let (validity, next) = (self.validity, mail.len() + 1);
                format!(
                    "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)\r\n* {} EXISTS\r\n* 0 RECENT\r\n\
                     * OK [UIDVALIDITY {validity}] UIDs valid\r\n* OK [UIDNEXT {next}] Predicted next UID\r\n\
                     {tag} OK [READ-WRITE] Select completed.\r\n",
                    mail.len()
                )
            }
            "SELECT" | "EXAMINE" | "STATUS" if !words.first().is_some_and(inbox) => {
                format!("{tag} NO [NONEXISTENT] Mailbox doesn't exist\r\n")
            }
            "STATUS" => format!(
                "* STATUS INBOX (MESSAGES {0} RECENT 0 UIDNEXT {1} UIDVALIDITY {2} UNSEEN 0)\r\n\
                 {tag} OK Status completed.\r\n",
                mail.len(),
                mail.len() + 1,
                self.validity
            ),
            "LIST" | "LSUB" => {
                format!("* {verb} (\\HasNoChildren) \"/\" INBOX\r\n{tag} OK List completed.\r\n")
            }
            "NAMESPACE" => format!("* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n{tag} OK Namespace completed.\r\n"),
            "CLOSE" | "UNSELECT" => {
                state.selected = false;
                format!("{tag} OK Close completed.\r\n")
            }
            "SEARCH" if state.selected => {
                let numbers: String = (1..=mail.len()).map(|number| format!(" {number}")).collect();
                format!("* SEARCH{numbers}\r\n{tag} OK Search completed.\r\n")
            }
            "FETCH" if state.selected => {
                let (set, items) = arguments.split_once(' ').unwrap_or((arguments, ""));
                let mut answer = String::new();
                for (number, message) in (1..)
                    .zip(mail)
                    .filter(|(number, _)| words::in_set(set, *number, mail.len()))
                {
                    session
                        .event("read", Category::Email)
                        .text("email.subject", &message.subject)
                        .emit();
                    answer.push_str(&fetch::fetch(number, message, items, uid));
                }
                format!("{answer}{tag} OK Fetch completed.\r\n")
            }
            "STORE" | "COPY" | "EXPUNGE" | "CHECK" | "APPEND" | "CREATE" | "DELETE" | "SUBSCRIBE" => {
                format!("{tag} NO [NOPERM] Permission denied\r\n")
            }
            _ => format!("{tag} BAD Error in IMAP command received by server.\r\n"),
        }
    }
}

/// A whole command: its lines joined, with literals turned into quoted strings.
async fn receive(lines: &mut LineReader<Connection>) -> io::Result<Option<String>> {
    let mut command = String::new();
    for _ in 0..=LITERALS {
        let Some(line) = lines.next().await? else {
            return Ok(None);
        };
        let text = line.text();
        let Some((before, size, waits)) = words::literal(&text).filter(|(_, size, _)| *size <= LINE_CAP)
        else {
            command.push_str(&text);
            return Ok(Some(command));
        };
        command.push_str(before);
        if waits {
            lines.get_mut().write_all(b"+ OK\r\n").await?;
        }
        let literal = lines.take(size).await?;
        command.push_str(&words::quoted(&String::from_utf8_lossy(&literal)));
    }
    Ok(Some(command))
}

/// The AUTHENTICATE exchange; `None` for a mechanism that is not offered.
async fn authenticate(
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
        "PLAIN" => Some(plain(&match initial {
            Some(response) => response,
            None => ask("").await?,
        })),
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
