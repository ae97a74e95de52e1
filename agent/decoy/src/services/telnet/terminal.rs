//! A line at a time over telnet: option negotiation (RFC 855), echo, and the few editing keys.

use std::collections::VecDeque;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

/// RFC 857.
const ECHO: u8 = 1;
/// RFC 858.
const SUPPRESS_GO_AHEAD: u8 = 3;
/// RFC 1073.
const WINDOW_SIZE: u8 = 31;

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
    /// Opens with the offers that full-screen servers make: the server echoes, a character at a time.
    pub(super) async fn open(mut connection: Connection) -> io::Result<Self> {
        let offers = [
            IAC,
            DO,
            WINDOW_SIZE,
            IAC,
            WILL,
            ECHO,
            IAC,
            WILL,
            SUPPRESS_GO_AHEAD,
        ];
        connection.write_all(&offers).await?;
        Ok(Self {
            connection,
            negotiation: Negotiation::default(),
            typed: VecDeque::new(),
            editor: Editor::default(),
        })
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
#[derive(Debug, Default)]
struct Negotiation {
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
            (DO, ECHO | SUPPRESS_GO_AHEAD) | (WILL, WINDOW_SIZE) | (WONT | DONT, _) => return,
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
        let (mut negotiation, mut replies) = (Negotiation::default(), Vec::new());
        let data = bytes
            .iter()
            .filter_map(|byte| negotiation.take(*byte, &mut replies))
            .collect();
        (data, replies)
    }

    #[test]
    fn commands_are_taken_out_and_unknown_options_refused() {
        let sent = [
            b'a', IAC, DO, 24, IAC, WILL, 24, IAC, SB, 31, 0, 80, IAC, IAC, IAC, SE, b'b', IAC, IAC,
        ];
        let refusals = vec![IAC, WONT, 24, IAC, DONT, 24];
        assert_eq!(feed(&sent), (vec![b'a', b'b', IAC], refusals));
    }

    #[test]
    fn endless_negotiation_is_answered_a_bounded_number_of_times() {
        let (_, replies) = feed(&[IAC, DO, 99].repeat(10_000));
        assert_eq!(replies.len(), 3 * REPLY_CAP as usize);
    }
}
