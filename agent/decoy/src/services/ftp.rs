//! ftp (RFC 959, RFC 2428): credentials, uploads, and a nearly empty directory.
//!
//! The control channel is the project's own: libunftp's replies cannot be worded, so every decky would
//! have named its library whatever its banner says.

mod data;
mod software;

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use crate::Failure;
use crate::door::Door;
use crate::environment::Context;
use crate::event::Category;
use crate::identity::Identity;
use crate::line::LineReader;
use crate::serve::{Connection, Session};
use data::Passive;
use software::Software;

/// The longest command line, in bytes.
const LINE_CAP: usize = 2048;

/// Commands of one connection, and logins among them.
const COMMANDS: u32 = 1000;
const LOGINS: u32 = 6;

struct Ftp {
    software: Software,
    door: Door,
    /// Whether anyone may come in as `anonymous`; the seed's choice.
    anonymous: bool,
    files: String,
}

#[derive(Default)]
struct Dialogue {
    user: Option<String>,
    /// Who logged in.
    name: String,
    admitted: bool,
    logins: u32,
    directory: String,
    passive: Option<Passive>,
    rename: bool,
}

pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let ftp = Arc::new(Ftp {
        software: Software::of(&context.host, &context.identity),
        door: Door::new(&context.identity, "ftp", Vec::new()),
        anonymous: context.identity.number("ftp.anonymous", 0..=1) == 1,
        files: listing(&context.identity),
    });
    crate::serve::tcp(&context, move |connection, session| {
        let ftp = Arc::clone(&ftp);
        async move { ftp.visit(connection, &session).await }
    })
    .await
}

impl Ftp {
    async fn visit(&self, connection: Connection, session: &Session) -> io::Result<()> {
        let mut lines = LineReader::new(connection, LINE_CAP);
        let greeting = self
            .software
            .greeting(&session.local_address().ip().to_string(), self.anonymous);
        lines.get_mut().write_all(greeting.as_bytes()).await?;
        let mut dialogue = Dialogue {
            directory: "/".to_owned(),
            ..Dialogue::default()
        };
        for _ in 0..COMMANDS {
            let Some(line) = lines.next().await? else {
                return Ok(());
            };
            let text = line.text();
            let (verb, argument) = text.split_once(' ').unwrap_or((&text, ""));
            let verb = verb.trim().to_ascii_uppercase();
            if verb != "PASS" {
                session.command(&line.bytes);
            }
            let answer = match verb.as_str() {
                "QUIT" => {
                    return lines.get_mut().write_all(self.software.goodbye.as_bytes()).await;
                }
                "USER" | "PASS" => self.login(session, &mut dialogue, &verb, argument),
                "LIST" | "NLST" | "MLSD" | "RETR" | "STOR" | "APPE" if dialogue.admitted => {
                    self.transfer(session, lines.get_mut(), &mut dialogue, &verb, argument)
                        .await?
                }
                "PASV" | "EPSV" if dialogue.admitted => {
                    let passive = Passive::open(session).await?;
                    let answer = if verb == "PASV" {
                        passive.pasv()
                    } else {
                        passive.epsv()
                    };
                    dialogue.passive = Some(passive);
                    answer
                }
                verb => self.answer(&mut dialogue, verb, argument),
            };
            lines.get_mut().write_all(answer.as_bytes()).await?;
            if dialogue.logins >= LOGINS && !dialogue.admitted {
                return Ok(());
            }
        }
        Ok(())
    }

    fn login(&self, session: &Session, dialogue: &mut Dialogue, verb: &str, argument: &str) -> String {
        if verb == "USER" {
            dialogue.user = Some(argument.to_owned());
            return format!(
                "331 {}\r\n",
                self.software.ask_password.replace("{user}", argument)
            );
        }
        let Some(user) = dialogue.user.take() else {
            return format!("503 {}\r\n", self.software.user_first);
        };
        let anonymous = matches!(user.to_ascii_lowercase().as_str(), "anonymous" | "ftp");
        dialogue.admitted = if anonymous {
            self.anonymous
        } else {
            self.door.admits(session.peer(), &user, argument)
        };
        dialogue.logins += 1;
        session.login(&user, argument, dialogue.admitted);
        if dialogue.admitted {
            dialogue.name.clone_from(&user);
            format!("230 {}\r\n", self.software.welcome.replace("{user}", &user))
        } else {
            format!("530 {}\r\n", self.software.refusal)
        }
    }

    fn answer(&self, dialogue: &mut Dialogue, verb: &str, argument: &str) -> String {
        match verb {
            "SYST" => return format!("215 {}\r\n", self.software.system),
            "FEAT" => return self.software.features.to_owned(),
            "OPTS" => return "200 Always in UTF8 mode.\r\n".to_owned(),
            "NOOP" => return "200 NOOP ok.\r\n".to_owned(),
            "HELP" if dialogue.admitted => return self.software.help.to_owned(),
            "STAT" if dialogue.admitted => return self.software.status.replace("{user}", &dialogue.name),
            _ if !dialogue.admitted => return format!("530 {}\r\n", self.software.ask_login),
            _ => {}
        }
        let rename = std::mem::replace(&mut dialogue.rename, verb == "RNFR");
        match verb {
            "PWD" | "XPWD" => format!("257 \"{}\" is the current directory\r\n", dialogue.directory),
            "CWD" | "XCWD" if argument.trim_matches('/').is_empty() || argument == "." => {
                "250 Directory successfully changed.\r\n".to_owned()
            }
            "CDUP" => "250 Directory successfully changed.\r\n".to_owned(),
            "CWD" | "XCWD" => "550 Failed to change directory.\r\n".to_owned(),
            "TYPE" if argument.eq_ignore_ascii_case("a") => "200 Switching to ASCII mode.\r\n".to_owned(),
            "TYPE" => "200 Switching to Binary mode.\r\n".to_owned(),
            "MODE" | "STRU" | "ALLO" => "200 Command okay.\r\n".to_owned(),
            "REST" => "350 Restart position accepted.\r\n".to_owned(),
            "SIZE" | "MDTM" => "550 Could not get file size.\r\n".to_owned(),
            // The decoy opens no connection: a visitor's PORT could point anywhere (RFC 2577 §3).
            "PORT" | "EPRT" => "500 Illegal PORT command.\r\n".to_owned(),
            "DELE" | "RMD" | "MKD" | "RNFR" | "SITE" => "550 Permission denied.\r\n".to_owned(),
            "RNTO" if rename => "550 Permission denied.\r\n".to_owned(),
            "RNTO" => "503 RNFR required first.\r\n".to_owned(),
            "PASV" | "EPSV" => "425 Use PORT or PASV first.\r\n".to_owned(),
            _ => format!("500 {}\r\n", self.software.unknown.replace("{verb}", verb)),
        }
    }

    async fn transfer(
        &self,
        session: &Session,
        control: &mut Connection,
        dialogue: &mut Dialogue,
        verb: &str,
        argument: &str,
    ) -> io::Result<String> {
        let Some(passive) = dialogue.passive.take() else {
            return Ok("425 Use PORT or PASV first.\r\n".to_owned());
        };
        if verb == "RETR" {
            session
                .event("download", Category::File)
                .outcome(false)
                .text("file.path", argument)
                .emit();
            return Ok("550 Failed to open file.\r\n".to_owned());
        }
        control.write_all(b"150 Ok to send data.\r\n").await?;
        let Some(stream) = passive.accept().await else {
            return Ok("425 Failed to establish connection.\r\n".to_owned());
        };
        if !matches!(verb, "STOR" | "APPE") {
            let sent = data::send(stream, &self.listing(verb)).await;
            return Ok(if sent.is_ok() {
                "226 Directory send OK.\r\n"
            } else {
                "426 Failure writing network stream.\r\n"
            }
            .to_owned());
        }
        let upload = data::receive(stream).await;
        session
            .event("upload", Category::File)
            .of_type("creation")
            .outcome(upload.whole)
            .text("file.path", argument)
            .field("file.size", upload.size)
            .field("file.hash.sha256", upload.sha256)
            .text("decnet.content", &upload.head)
            .emit();
        Ok(if upload.whole {
            "226 Transfer complete.\r\n"
        } else {
            "552 Exceeded storage allocation.\r\n"
        }
        .to_owned())
    }

    fn listing(&self, verb: &str) -> String {
        if verb == "LIST" {
            return self.files.clone();
        }
        let names = self.files.lines().filter_map(|row| row.rsplit(' ').next());
        names.map(|name| format!("{name}\r\n")).collect()
    }
}

/// What LIST shows: directories that promise something, and cannot be entered.
fn listing(identity: &Identity) -> String {
    let names = ["backup", "incoming", "private", "pub", "scans", "www"];
    let rows = names
        .iter()
        .filter(|name| identity.number(&format!("ftp.list.{name}"), 0..=2) > 0)
        .map(|name| {
            let day = identity.number(&format!("ftp.day.{name}"), 10..=28);
            format!("drwxr-x---    2 1000     1000         4096 Mar {day} 09:12 {name}\r\n")
        });
    rows.collect()
}
