//! Talking to a program that wants to be waited for: read until it says something, then write.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Dialogue {
    child: Child,
    output: Receiver<Vec<u8>>,
    /// Everything that it said.
    heard: String,
    /// Up to where `heard` was looked at.
    seen: usize,
}

impl Dialogue {
    /// Starts the program.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let mut stdout = child.stdout.take().context("no pipe")?;
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            output,
            heard: String::new(),
            seen: 0,
        })
    }

    /// Reads until one of `words` was said since the last time; says which.
    ///
    /// # Errors
    ///
    /// When none was said within `limit` or before the program ended.
    pub fn expect<'a>(&mut self, words: &[&'a str], limit: Duration) -> Result<&'a str> {
        let end = Instant::now() + limit;
        loop {
            let fresh = &self.heard[self.seen..];
            let first = words
                .iter()
                .filter_map(|word| fresh.find(word).map(|at| (at, *word)))
                .min();
            if let Some((at, word)) = first {
                self.seen += at + word.len();
                return Ok(word);
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.heard.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => bail!("waited for {words:?}; it said {:?}", self.heard),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("ended before it said any of {words:?}; it said {:?}", self.heard)
                }
            }
        }
    }

    /// Writes a line.
    ///
    /// # Errors
    ///
    /// When the program has ended.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no pipe")?;
        stdin.write_all(format!("{line}\n").as_bytes())?;
        stdin.flush()?;
        Ok(())
    }

    /// Everything that it said so far.
    #[must_use]
    pub fn heard(&self) -> &str {
        &self.heard
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
