//! A Unix socket between an agent and the engine, for an engine that is slow, stopped, or ends in mid-sentence.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Everything is passed on.
    Pass = 0,
    /// Connections are taken and never answered.
    Hang = 1,
    /// Connections are closed at once.
    Refuse = 2,
    /// Every request is answered with status 500.
    Fail = 3,
    /// Everything is passed on, later.
    Slow = 4,
}

/// By how much each piece of what a slow engine is sent is late.
const SLOW: Duration = Duration::from_millis(400);
/// What an engine says that fails.
const FAILURE: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n\
    Content-Length: 46\r\nConnection: close\r\n\r\n{\"message\":\"the engine has lost its bearings\"}";

#[derive(Debug)]
struct Shared {
    mode: AtomicU8,
    /// Requests that were passed on, counted by method; how far an apply got.
    changes: AtomicU64,
    /// After so many changing requests the mode turns to `Refuse`; 0 for never.
    cut_after: AtomicU64,
    /// Events are swallowed, on connections that stay open.
    deaf: AtomicBool,
    open: Mutex<Vec<UnixStream>>,
    engine: PathBuf,
}

/// The proxy. It ends with the process; its socket file goes when it is dropped.
#[derive(Debug)]
pub struct EngineProxy {
    shared: Arc<Shared>,
    socket: PathBuf,
}

impl EngineProxy {
    /// Listens on `socket`, passing on to the machine's engine.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made.
    pub fn listen(socket: &Path, mode: Mode) -> Result<Self> {
        Self::before(Path::new("/var/run/docker.sock"), socket, mode)
    }

    /// Listens on `socket`, passing on to the engine behind another one.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made.
    pub fn before(engine: &Path, socket: &Path, mode: Mode) -> Result<Self> {
        let listener =
            UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
        let shared = Arc::new(Shared {
            mode: AtomicU8::new(mode as u8),
            changes: AtomicU64::new(0),
            cut_after: AtomicU64::new(0),
            deaf: AtomicBool::new(false),
            open: Mutex::default(),
            engine: engine.to_owned(),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for agent in listener.incoming().flatten() {
                serving.take(agent);
            }
        });
        Ok(Self {
            shared,
            socket: socket.to_owned(),
        })
    }

    /// Where agents connect to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Treats connections so from now on. Open ones are cut unless everything is passed on.
    pub fn set(&self, mode: Mode) {
        self.shared.set(mode);
    }

    /// Passes on so many more requests that change something, then cuts every connection and refuses new ones.
    pub fn cut_after(&self, changes: u64) {
        let so_far = self.shared.changes.load(Ordering::SeqCst);
        self.shared.cut_after.store(so_far + changes, Ordering::SeqCst);
    }

    /// Swallows what the engine tells of events, or tells it again; nobody is told that anything is missing.
    pub fn deafen(&self, deaf: bool) {
        self.shared.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Whether it refuses connections, as after a cut.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.shared.mode.load(Ordering::SeqCst) == Mode::Refuse as u8
    }

    /// How many requests that change something were passed on.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::SeqCst)
    }
}

impl Drop for EngineProxy {
    fn drop(&mut self) {
        self.shared.set(Mode::Refuse);
        drop(std::fs::remove_file(&self.socket));
    }
}

impl Shared {
    fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
        if !matches!(mode, Mode::Pass | Mode::Slow) {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            for stream in open.drain(..) {
                drop(stream.shutdown(Shutdown::Both));
            }
        }
    }

    fn take(self: &Arc<Self>, agent: UnixStream) {
        let mode = self.mode.load(Ordering::SeqCst);
        if mode == Mode::Refuse as u8 {
            return;
        }
        if let Ok(copy) = agent.try_clone() {
            self.open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(copy);
        }
        if mode == Mode::Hang as u8 {
            // Kept open by its copy.
            return;
        }
        if mode == Mode::Fail as u8 {
            // Answered when something was asked, or the asking would fail and not the engine.
            thread::spawn(move || {
                let mut agent = &agent;
                drop(agent.read(&mut [0; 4096]));
                drop(agent.write_all(FAILURE.as_bytes()));
                drop(agent.shutdown(Shutdown::Both));
            });
            return;
        }
        let shared = Arc::clone(self);
        // An engine that is not there looks to the agent as it would without the proxy: a closed connection.
        thread::spawn(move || {
            drop(shared.pass(&agent));
            // Dropping it leaves its copy open.
            drop(agent.shutdown(Shutdown::Both));
        });
    }

    fn pass(self: &Arc<Self>, agent: &UnixStream) -> io::Result<()> {
        let engine = UnixStream::connect(&self.engine)?;
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(engine.try_clone()?);
        let (from_engine, to_agent) = (engine.try_clone()?, agent.try_clone()?);
        let shared = Arc::clone(self);
        let events = Arc::new(AtomicBool::new(false));
        let follows = Arc::clone(&events);
        let answers = thread::spawn(move || {
            drop(shared.answer(from_engine, &to_agent, &follows));
            drop(to_agent.shutdown(Shutdown::Both));
        });
        let mut buffer = vec![0; 64 << 10];
        let (mut reader, mut writer) = (agent.try_clone()?, engine);
        loop {
            let count = reader.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            // A request's head comes in one piece from every client there is; bodies do not start so.
            let line = buffer[..count]
                .split(|byte| *byte == b'\r')
                .next()
                .unwrap_or_default();
            if self.mode.load(Ordering::SeqCst) == Mode::Slow as u8 {
                thread::sleep(SLOW);
            }
            if line.starts_with(b"GET ") && line.windows(8).any(|part| part == b"/events?") {
                events.store(true, Ordering::SeqCst);
            }
            let changes = [b"POST ".as_slice(), b"DELETE "]
                .iter()
                .any(|start| buffer[..count].starts_with(start));
            if changes {
                let so_far = self.changes.fetch_add(1, Ordering::SeqCst) + 1;
                let cut_after = self.cut_after.load(Ordering::SeqCst);
                if cut_after != 0 && so_far >= cut_after {
                    // The request reaches the engine; the answer reaches nobody.
                    writer.write_all(&buffer[..count])?;
                    self.cut_after.store(0, Ordering::SeqCst);
                    self.set(Mode::Refuse);
                    break;
                }
            }
            writer.write_all(&buffer[..count])?;
        }
        drop(writer.shutdown(Shutdown::Write));
        drop(answers.join());
        Ok(())
    }

    /// Passes answers on, but for events while they are swallowed.
    fn answer(&self, mut engine: UnixStream, mut agent: &UnixStream, events: &AtomicBool) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = engine.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            // The head of the stream has to come, or nobody takes it for one.
            let is_head = buffer[..count].starts_with(b"HTTP/1.1 ");
            if is_head || !(events.load(Ordering::SeqCst) && self.deaf.load(Ordering::SeqCst)) {
                agent.write_all(&buffer[..count])?;
            }
        }
    }
}
