//! Lines on their way to standard output.
//!
//! A thread of its own writes, so that a reader who stalls stops neither the visitors nor SIGTERM.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most that waits to be written, in bytes.
const WAITING: usize = 512 * 1024;

/// The writer needs little.
const STACK: usize = 64 * 1024;

/// A bounded queue of whole lines.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Whether the writer has taken lines that are not written yet.
    writing: bool,
    /// Lines that found no room.
    dropped: u64,
}

impl Queue {
    /// A queue whose lines are written to `out`.
    ///
    /// # Errors
    ///
    /// When the system allows no further thread.
    pub(super) fn to(out: File) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self::default());
        let lines = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("log".to_owned())
            .stack_size(STACK)
            .spawn(move || lines.write(out))?;
        Ok(queue)
    }

    /// Adds a line; when there is no room, it is counted and false returned.
    pub(super) fn push(&self, line: &[u8]) -> bool {
        let mut state = self.lock();
        let fits = state.waiting.len() + line.len() <= WAITING;
        if fits {
            state.waiting.extend_from_slice(line);
            self.changed.notify_all();
        } else {
            state.dropped += 1;
        }
        fits
    }

    /// Takes the count of lines that found no room, once there is room again.
    pub(super) fn dropped(&self) -> u64 {
        let mut state = self.lock();
        if state.waiting.len() > WAITING / 2 {
            return 0;
        }
        std::mem::take(&mut state.dropped)
    }

    /// Waits until every line is written, but not longer than `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let unfinished = |state: &mut State| state.writing || !state.waiting.is_empty();
        let state = self.lock();
        // Whether in time or not: the process ends either way.
        let _ = self.changed.wait_timeout_while(state, patience, unfinished);
    }

    fn write(&self, mut out: File) {
        loop {
            let mut state = self.lock();
            state.writing = false;
            self.changed.notify_all();
            let mut state = self
                .changed
                .wait_while(state, |state| state.waiting.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            let lines = std::mem::take(&mut state.waiting);
            state.writing = true;
            drop(state);
            // A reader that went away must not take the decoy down with it.
            let _ = out.write_all(&lines);
        }
    }

    /// The state is whole after any panic: lines are added and taken in single steps.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits, taken away.
    #[cfg(test)]
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().waiting)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_stalled_reader_blocks_nobody_and_gets_whole_lines_once_it_reads() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let queue = Queue::to(File::from(OwnedFd::from(writer))).unwrap();
        let line = [&[b'x'; 999][..], b"\n"].concat();
        let pushed = (0..10_000).filter(|_| queue.push(&line)).count();
        assert!((WAITING / 1000..10_000).contains(&pushed), "{pushed} lines");
        assert_eq!(queue.dropped(), 0, "told before there is room");

        let mut read = vec![0; pushed * 1000];
        reader.read_exact(&mut read).unwrap();
        assert!(read.chunks(1000).all(|chunk| chunk == line));
        queue.flush(Duration::from_secs(20));
        assert_eq!(queue.dropped(), 10_000 - pushed as u64);
        assert_eq!(queue.dropped(), 0, "a count is told once");
    }

    #[test]
    fn a_reader_who_never_reads_does_not_hold_up_the_end() {
        let (_reader, writer) = UnixStream::pair().unwrap();
        let queue = Queue::to(File::from(OwnedFd::from(writer))).unwrap();
        while queue.push(&[b'x'; 10_000]) {}
        queue.flush(Duration::from_millis(10));
    }
}
