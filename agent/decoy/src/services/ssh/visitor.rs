//! One ssh connection: what it tries, and the channels it opens once it is in.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use russh::keys::HashAlg;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session as Ssh2};
use russh::{Channel, ChannelId, Disconnect};

use super::Ssh;
use crate::event::{Category, Outcome};
use crate::serve::Session;
use crate::shell::{Editor, Entered, Shell};

/// Channels open at a time: MaxSessions of sshd_config(5).
const MAX_CHANNELS: usize = 10;

/// What a visitor may be shown in all, in bytes. A visitor who types but never reads makes russh
/// hold the answers in memory.
const OUTPUT_BUDGET: usize = 512 * 1024;

pub(super) struct Visitor {
    ssh: Arc<Ssh>,
    session: Arc<Session>,
    user: String,
    channels: HashMap<ChannelId, Open>,
    output_left: usize,
    greeted: bool,
}

/// An open session channel.
struct Open {
    terminal: bool,
    /// Set by a `shell` request.
    shell: Option<(Shell, Editor)>,
}

impl Visitor {
    pub(super) fn new(ssh: Arc<Ssh>, session: Arc<Session>) -> Self {
        let (user, channels) = (String::new(), HashMap::new());
        Self {
            ssh,
            session,
            user,
            channels,
            output_left: OUTPUT_BUDGET,
            greeted: false,
        }
    }

    fn attempt(&self, method: &str, user: &str, outcome: impl Into<Outcome>) -> crate::event::Event {
        self.session
            .event("login", Category::Authentication)
            .outcome(outcome)
            .text("user.name", user)
            .field("decnet.auth_method", method)
    }

    fn password(&mut self, method: &str, user: &str, password: &str) -> Auth {
        let admitted = self.ssh.door.admits(self.session.peer(), user, password);
        self.attempt(method, user, admitted)
            .text("decnet.password", password)
            .emit();
        if admitted {
            user.clone_into(&mut self.user);
            Auth::Accept
        } else {
            self.refused()
        }
    }

    /// A refusal as sshd gives it: every method may be tried again. russh by itself drops the one that failed.
    fn refused(&self) -> Auth {
        Auth::Reject {
            proceed_with_methods: Some(self.ssh.program.methods()),
            partial_success: false,
        }
    }

    fn show(
        &mut self,
        channel: ChannelId,
        text: &str,
        terminal: bool,
        ssh: &mut Ssh2,
    ) -> Result<(), russh::Error> {
        let text = if terminal {
            text.replace('\n', "\r\n")
        } else {
            text.to_owned()
        };
        if text.is_empty() {
            return Ok(());
        }
        match self.output_left.checked_sub(text.len()) {
            Some(left) => {
                self.output_left = left;
                ssh.data(channel, text.into_bytes())
            }
            None => ssh.disconnect(Disconnect::ByApplication, "", ""),
        }
    }

    fn finish(&mut self, channel: ChannelId, status: u32, ssh: &mut Ssh2) -> Result<(), russh::Error> {
        self.channels.remove(&channel);
        ssh.exit_status_request(channel, status)?;
        ssh.eof(channel)?;
        ssh.close(channel)
    }

    /// Runs a line of an interactive shell. False once the channel is closed.
    fn line(&mut self, channel: ChannelId, line: &str, ssh: &mut Ssh2) -> Result<bool, russh::Error> {
        let Some(Open {
            terminal,
            shell: Some((shell, _)),
        }) = self.channels.get_mut(&channel)
        else {
            return Ok(false);
        };
        let terminal = *terminal;
        if !line.trim().is_empty() {
            self.session.command(line);
        }
        let reply = shell.run(line);
        let prompt = if terminal && !reply.over {
            shell.prompt()
        } else {
            String::new()
        };
        self.show(channel, &format!("{}{prompt}", reply.text), terminal, ssh)?;
        if reply.over {
            self.finish(channel, reply.status, ssh)?;
        }
        Ok(!reply.over)
    }
}

impl Handler for Visitor {
    type Error = russh::Error;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        self.attempt("none", user, false).emit();
        Ok(self.refused())
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        Ok(self.password("password", user, password))
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        // Refused at the offer, as sshd does with a key it does not know.
        self.attempt("publickey", user, false)
            .text("decnet.public_key.type", offer.algorithm.to_string())
            .field(
                "decnet.public_key.fingerprint",
                offer.public_key.fingerprint(HashAlg::Sha256).to_string(),
            )
            .emit();
        Ok(self.refused())
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        match response.and_then(|mut answers| answers.next()) {
            Some(answer) => {
                let password = String::from_utf8_lossy(&answer).into_owned();
                Ok(self.password("keyboard-interactive", user, &password))
            }
            None => Ok(Auth::Partial {
                name: "".into(),
                instructions: "".into(),
                prompts: Cow::Owned(vec![("Password: ".into(), false)]),
            }),
        }
    }

    async fn auth_succeeded(&mut self, session: &mut Ssh2) -> Result<(), Self::Error> {
        self.session
            .event("session", Category::Authentication)
            .outcome(true)
            .text("user.name", &self.user)
            .text("user_agent.original", session.remote_sshid())
            .emit();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Ssh2,
    ) -> Result<(), Self::Error> {
        // A reply that is dropped refuses.
        if self.channels.len() < MAX_CHANNELS {
            self.channels.insert(
                channel.id(),
                Open {
                    terminal: false,
                    shell: None,
                },
            );
            reply.accept().await;
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        host: &str,
        port: u32,
        _from: &str,
        _from_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Ssh2,
    ) -> Result<(), Self::Error> {
        self.session
            .event("tunnel", Category::Network)
            .of_type("denied")
            .outcome(false)
            .text("decnet.tunnel.host", host)
            .field("decnet.tunnel.port", port)
            .emit();
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Ssh2) -> Result<(), Self::Error> {
        self.channels.remove(&channel);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(russh::Pty, u32)],
        session: &mut Ssh2,
    ) -> Result<(), Self::Error> {
        match self.channels.get_mut(&channel) {
            Some(open) => {
                open.terminal = true;
                session.channel_success(channel)
            }
            None => Ok(()),
        }
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Ssh2,
    ) -> Result<(), Self::Error> {
        self.session
            .event("environment", Category::Configuration)
            .text("decnet.variable.name", name)
            .text("decnet.variable.value", value)
            .emit();
        if self.channels.contains_key(&channel) {
            session.channel_success(channel)
        } else {
            Ok(())
        }
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Ssh2) -> Result<(), Self::Error> {
        let shell = Shell::new(&self.ssh.host, &self.ssh.identity, &self.user);
        let Some(open) = self
            .channels
            .get_mut(&channel)
            .filter(|open| open.shell.is_none())
        else {
            return Ok(());
        };
        let terminal = open.terminal;
        let greeting = if self.greeted {
            String::new()
        } else {
            shell.greeting()
        };
        let opening = if terminal {
            format!("{greeting}{}", shell.prompt())
        } else {
            String::new()
        };
        open.shell = Some((shell, Editor::default()));
        self.greeted = true;
        session.channel_success(channel)?;
        self.show(channel, &opening, terminal, session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Ssh2,
    ) -> Result<(), Self::Error> {
        let Some(terminal) = self.channels.get(&channel).map(|open| open.terminal) else {
            return Ok(());
        };
        self.session.command(command);
        session.channel_success(channel)?;
        let command = String::from_utf8_lossy(&command[..command.len().min(crate::shell::COMMAND_CAP)]);
        let reply = Shell::new(&self.ssh.host, &self.ssh.identity, &self.user).run(&command);
        self.show(channel, &reply.text, terminal, session)?;
        self.finish(channel, reply.status, session)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Ssh2,
    ) -> Result<(), Self::Error> {
        self.session
            .event("subsystem", Category::Process)
            .outcome(false)
            .text("process.name", name)
            .emit();
        if self.channels.contains_key(&channel) {
            session.channel_failure(channel)
        } else {
            Ok(())
        }
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], session: &mut Ssh2) -> Result<(), Self::Error> {
        let mut shown = Vec::new();
        for byte in data {
            let Some(Open {
                terminal,
                shell: Some((_, editor)),
            }) = self.channels.get_mut(&channel)
            else {
                return Ok(());
            };
            let terminal = *terminal;
            let entered = editor.take(*byte, &mut shown);
            if entered.is_some() && terminal {
                shown.push(b'\n');
                let echo = String::from_utf8_lossy(&std::mem::take(&mut shown)).into_owned();
                self.show(channel, &echo, true, session)?;
            }
            match entered {
                Some(Entered::Line(line)) if !self.line(channel, &line, session)? => return Ok(()),
                Some(Entered::End) => return self.finish(channel, 0, session),
                _ => {}
            }
        }
        let echoes = self.channels.get(&channel).is_some_and(|open| open.terminal);
        let echo = if echoes {
            String::from_utf8_lossy(&shown).into_owned()
        } else {
            String::new()
        };
        self.show(channel, &echo, false, session)
    }

    async fn channel_eof(&mut self, channel: ChannelId, session: &mut Ssh2) -> Result<(), Self::Error> {
        let Some(Open {
            shell: Some((_, editor)),
            ..
        }) = self.channels.get_mut(&channel)
        else {
            return Ok(());
        };
        if let Some(line) = editor.finish()
            && !self.line(channel, &line, session)?
        {
            return Ok(());
        }
        self.finish(channel, 0, session)
    }
}
