//! A line at a time over telnet: option negotiation (RFC 855), echo, and the few editing keys.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::host::OsFamily;
use crate::serve::Connection;
use crate::shell::{Editor, Entered};

// RFC 854, "TELNET COMMANDS".
const IAC: u8 = 255;
const DONT: u8 = 254;
const DO: u8 = 253;
const WONT: u8 = 252;
const WILL: u8 = 251;
const SB: u8 = 250;
const SE: u8 = 240;

// Options, by the number IANA's "Telnet Options" gives them.
const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SUPPRESS_GO_AHEAD: u8 = 3;
const STATUS: u8 = 5;
const TERMINAL_TYPE: u8 = 24;
const WINDOW_SIZE: u8 = 31;
const TERMINAL_SPEED: u8 = 32;
const FLOW_CONTROL: u8 = 33;
const X_DISPLAY: u8 = 35;
const AUTHENTICATION: u8 = 37;
const NEW_ENVIRONMENT: u8 = 39;

/// How long servers that ask first wait for an answer here. Real ones wait for ever, and a visitor without telnet's
/// options would never see a prompt.
const ANSWER: Duration = Duration::from_secs(1);

/// What a server says of its options before its banner: the first bytes a scanner knows it by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    /// Verb and option, sent at once.
    first: &'static [(u8, u8)],
    /// Sent once the visitor has answered; none: the banner follows at once.
    then: &'static [(u8, u8)],
}

impl Opening {
    pub(super) fn of(family: OsFamily) -> Self {
        match family {
            // telnetd of Linux NetKit and inetutils.
            OsFamily::Linux => Self {
                first: &[
                    (DO, TERMINAL_TYPE),
                    (DO, TERMINAL_SPEED),
                    (DO, X_DISPLAY),
                    (DO, NEW_ENVIRONMENT),
                ],
                then: &[
                    (WILL, SUPPRESS_GO_AHEAD),
                    (DO, WINDOW_SIZE),
                    (WILL, STATUS),
                    (DO, FLOW_CONTROL),
                    (WILL, ECHO),
                ],
            },
            OsFamily::Bsd => Self {
                first: &[(DO, AUTHENTICATION)],
                then: &[
                    (WILL, SUPPRESS_GO_AHEAD),
                    (DO, TERMINAL_TYPE),
                    (DO, WINDOW_SIZE),
                    (DO, TERMINAL_SPEED),
                    (DO, FLOW_CONTROL),
                    (DO, NEW_ENVIRONMENT),
                    (WILL, STATUS),
                    (WILL, ECHO),
                ],
            },
            OsFamily::Windows | OsFamily::WindowsServer => Self {
                first: &[
                    (DO, AUTHENTICATION),
                    (WILL, ECHO),
                    (WILL, SUPPRESS_GO_AHEAD),
                    (DO, NEW_ENVIRONMENT),
                    (DO, WINDOW_SIZE),
                    (DO, BINARY),
                    (WILL, BINARY),
                ],
                then: &[],
            },
            // BusyBox.
            OsFamily::Embedded => Self {
                first: &[
                    (DO, ECHO),
                    (DO, WINDOW_SIZE),
                    (WILL, ECHO),
                    (WILL, SUPPRESS_GO_AHEAD),
                ],
                then: &[],
            },
            OsFamily::Cisco => Self {
                first: &[
                    (WILL, ECHO),
                    (WILL, SUPPRESS_GO_AHEAD),
                    (DO, TERMINAL_TYPE),
                    (DO, WINDOW_SIZE),
                ],
                then: &[],
            },
        }
    }

    fn bytes(offers: &[(u8, u8)]) -> Vec<u8> {
        offers
            .iter()
            .flat_map(|(verb, option)| [IAC, *verb, *option])
            .collect()
    }

    /// Whether the visitor's `verb` about `option` is the answer to an offer, which needs none itself.
    fn awaits(self, verb: u8, option: u8) -> bool {
        let offer = match verb {
            DO | DONT => WILL,
            _ => DO,
        };
        self.first
            .iter()
            .chain(self.then)
            .any(|known| *known == (offer, option))
    }
}

/// Option replies to one connection. A peer that negotiates without end gets no more after that.
const REPLY_CAP: u32 = 64;

#[derive(Debug)]
pub(super) struct Terminal {
    connection: Connection,
    negotiation: Negotiation,
    /// Typed bytes that no line has taken yet.
    typed: VecDeque<u8>,
    editor: Editor,
}

impl Terminal {
    /// Opens with the offers of the server pretended.
    pub(super) async fn open(connection: Connection, opening: Opening) -> io::Result<Self> {
        let mut terminal = Self {
            connection,
            negotiation: Negotiation::new(opening),
            typed: VecDeque::new(),
            editor: Editor::default(),
        };
        terminal
            .connection
            .write_all(&Opening::bytes(opening.first))
            .await?;
        if !opening.then.is_empty() {
            if let Ok(filled) = timeout(ANSWER, terminal.fill()).await {
                filled?;
            }
            terminal
                .connection
                .write_all(&Opening::bytes(opening.then))
                .await?;
        }
        Ok(terminal)
    }

    /// Sends text, its line feeds as CR LF.
    pub(super) async fn send(&mut self, text: &str) -> io::Result<()> {
        self.connection
            .write_all(text.replace('\n', "\r\n").as_bytes())
            .await
    }

    /// Prompts for a line; `None` at the end of the input.
    pub(super) async fn ask(&mut self, prompt: &str, echo: bool) -> io::Result<Option<String>> {
        self.send(prompt).await?;
        loop {
            let mut shown = Vec::new();
            let mut entered = None;
            while entered.is_none()
                && let Some(byte) = self.typed.pop_front()
            {
                entered = self.editor.take(byte, &mut shown);
            }
            if echo {
                self.connection.write_all(&shown).await?;
            }
            if let Some(entered) = entered {
                self.send("\n").await?;
                return Ok(match entered {
                    Entered::Line(line) => Some(line),
                    Entered::End => None,
                });
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Reads once and answers options. False at the end of the stream.
    async fn fill(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 1024];
        let count = self.connection.read(&mut chunk).await?;
        let mut replies = Vec::new();
        for byte in &chunk[..count] {
            self.typed.extend(self.negotiation.take(*byte, &mut replies));
        }
        self.connection.write_all(&replies).await?;
        Ok(count > 0)
    }
}

/// Takes telnet commands out of the byte stream.
#[derive(Debug)]
struct Negotiation {
    opening: Opening,
    state: State,
    replies: u32,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Data,
    Command,
    Option(u8),
    Subnegotiation,
    SubnegotiationCommand,
}

impl Negotiation {
    fn new(opening: Opening) -> Self {
        Self {
            opening,
            state: State::default(),
            replies: 0,
        }
    }

    /// The data byte that `byte` completes, if it does; option replies are added to `replies`.
    fn take(&mut self, byte: u8, replies: &mut Vec<u8>) -> Option<u8> {
        let (next, data) = match (self.state, byte) {
            (State::Data, IAC) => (State::Command, None),
            (State::Data, _) => (State::Data, Some(byte)),
            (State::Command, IAC) => (State::Data, Some(IAC)),
            (State::Command, WILL | WONT | DO | DONT) => (State::Option(byte), None),
            (State::Command, SB) => (State::Subnegotiation, None),
            (State::Command, _) => (State::Data, None),
            (State::Option(verb), option) => {
                self.answer(verb, option, replies);
                (State::Data, None)
            }
            (State::Subnegotiation, IAC) => (State::SubnegotiationCommand, None),
            (State::Subnegotiation, _) => (State::Subnegotiation, None),
            (State::SubnegotiationCommand, SE) => (State::Data, None),
            (State::SubnegotiationCommand, _) => (State::Subnegotiation, None),
        };
        self.state = next;
        data
    }

    /// Refuses what was not offered; agreement to an offer needs no answer (RFC 854, loop rule).
    fn answer(&mut self, verb: u8, option: u8, replies: &mut Vec<u8>) {
        let refusal = match (verb, option) {
            (WONT | DONT, _) => return,
            _ if self.opening.awaits(verb, option) => return,
            (DO, _) => WONT,
            _ => DONT,
        };
        if self.replies < REPLY_CAP {
            self.replies += 1;
            replies.extend_from_slice(&[IAC, refusal, option]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut negotiation = Negotiation::new(Opening::of(OsFamily::Cisco));
        let mut replies = Vec::new();
        let data = bytes
            .iter()
            .filter_map(|byte| negotiation.take(*byte, &mut replies))
            .collect();
        (data, replies)
    }

    #[test]
    fn commands_are_taken_out_and_unknown_options_refused() {
        let sent = [
            b'a', IAC, DO, ECHO, IAC, WILL, 24, IAC, DO, 32, IAC, WILL, 32, IAC, SB, 31, 0, 80, IAC, IAC,
            IAC, SE, b'b', IAC, IAC,
        ];
        let refusals = vec![IAC, WONT, 32, IAC, DONT, 32];
        assert_eq!(feed(&sent), (vec![b'a', b'b', IAC], refusals));
    }

    #[test]
    fn endless_negotiation_is_answered_a_bounded_number_of_times() {
        let (_, replies) = feed(&[IAC, DO, 99].repeat(10_000));
        assert_eq!(replies.len(), 3 * REPLY_CAP as usize);
    }
}
