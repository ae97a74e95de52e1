//! telnet (RFC 854): a login prompt, then the shell.

mod terminal;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::Failure;
use crate::door::Door;
use crate::environment::Context;
use crate::host::{Distro, Host, OsFamily};
use crate::identity::Identity;
use crate::serve::{Connection, Session};
use crate::shell::{Shell, ShellPersona, release_name};
use terminal::{Opening, Terminal};

/// How long a wrong password takes, as login(1) makes it.
const FAIL_DELAY: Duration = Duration::from_millis(800);

/// Wrong passwords a connection may send.
const TRIES: u32 = 5;

#[derive(Debug)]
struct Telnet {
    host: Host,
    identity: Identity,
    door: Door,
}

pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let persona: ShellPersona = context.persona()?;
    let telnet = Arc::new(Telnet {
        host: persona.host(&context.host),
        door: Door::new(&context.identity, "telnet", persona.accounts()),
        identity: context.identity.clone(),
    });
    crate::serve::tcp(&context, move |connection, session| {
        let telnet = Arc::clone(&telnet);
        async move { telnet.visit(connection, &session).await }
    })
    .await
}

impl Telnet {
    async fn visit(&self, connection: Connection, session: &Session) -> io::Result<()> {
        let mut terminal = Terminal::open(connection, Opening::of(self.host.family)).await?;
        terminal.send(&self.banner()).await?;
        let (ask_user, refusal) = match self.host.family {
            OsFamily::Cisco => ("Username: ".to_owned(), "% Login invalid\n\n"),
            OsFamily::Windows | OsFamily::WindowsServer => (
                "login: ".to_owned(),
                "\nThe handle is invalid.\n\nLogin Failed\n\n",
            ),
            _ => (
                format!("{} login: ", self.host.short_name()),
                "\nLogin incorrect\n",
            ),
        };
        for _ in 0..TRIES {
            let Some(user) = terminal.ask(&ask_user, true).await? else {
                return Ok(());
            };
            if user.is_empty() {
                continue;
            }
            let Some(password) = terminal.ask("Password: ", false).await? else {
                session.login(&user, "", false);
                return Ok(());
            };
            let admitted = self.door.admits(session.peer(), &user, &password);
            session.login(&user, &password, admitted);
            if admitted {
                return self.shell(terminal, session, &user).await;
            }
            tokio::time::sleep(FAIL_DELAY).await;
            terminal.send(refusal).await?;
        }
        Ok(())
    }

    async fn shell(&self, mut terminal: Terminal, session: &Session, user: &str) -> io::Result<()> {
        let mut shell = Shell::new(&self.host, &self.identity, user);
        terminal.send(&shell.greeting()).await?;
        while let Some(line) = terminal.ask(&shell.prompt(), true).await? {
            if !line.is_empty() {
                session.command(&line);
            }
            let reply = shell.run(&line);
            terminal.send(&reply.text).await?;
            if reply.over {
                break;
            }
        }
        Ok(())
    }

    fn banner(&self) -> String {
        match (self.host.family, self.host.distro) {
            (OsFamily::Windows | OsFamily::WindowsServer, _) => {
                "Welcome to Microsoft Telnet Service \n\n".to_owned()
            }
            (OsFamily::Cisco, _) => "\n\nUser Access Verification\n\n".to_owned(),
            (OsFamily::Bsd, _) => format!("\nFreeBSD/amd64 ({}) (pts/0)\n\n", self.host.hostname),
            // BusyBox's, which has one carriage return more than others.
            (OsFamily::Embedded, _) => "\r\n".to_owned(),
            (OsFamily::Linux, Distro::Debian) => "Debian GNU/Linux 12\n".to_owned(),
            (OsFamily::Linux, distro) => format!("{}\n", release_name(distro)),
        }
    }
}
