//! A running decoy: the built binary on a free loopback port, with its event lines collected.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use nix::unistd::Pid;
use serde_json::Value;

/// How long a condition may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_decnet-decoy");

/// A decoy's environment, to be changed before it is started.
pub(crate) struct Start {
    slug: String,
    variables: Vec<(&'static str, String)>,
}

impl Start {
    pub(crate) fn new(slug: &str) -> Self {
        let variables = vec![
            ("DECNET_NODE", "node-1".to_owned()),
            ("HOSTNAME", "SRV-MAIL-42".to_owned()),
            ("DECNET_SEED", "01".repeat(32)),
            ("DECNET_OS_FAMILY", "linux".to_owned()),
            ("DECNET_DISTRO", "debian".to_owned()),
            ("DECNET_PORT", "0".to_owned()),
        ];
        Self {
            slug: slug.to_owned(),
            variables,
        }
    }

    /// Sets a variable; an empty value unsets it.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.into()));
        self
    }

    pub(crate) fn seed(self, byte: u8) -> Self {
        self.with("DECNET_SEED", format!("{byte:02x}").repeat(32))
    }

    pub(crate) fn persona(self, persona: &Value) -> Self {
        self.with("DECNET_PERSONA", persona.to_string())
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.arg(&self.slug).env_clear();
        command.envs(
            self.variables
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(k, v)| (k, v)),
        );
        command
    }

    /// Starts it and waits until it listens.
    pub(crate) fn run(self) -> Decoy {
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let writer = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                writer.events.lock().unwrap().push(event);
                writer.grown.notify_all();
            }
        });
        let mut decoy = Decoy { child, log, port: 0 };
        let listening = decoy.event("listening", |_| true);
        decoy.port = u16::try_from(listening["destination"]["port"].as_u64().unwrap()).unwrap();
        decoy
    }
}

#[derive(Default)]
struct Log {
    events: Mutex<Vec<Value>>,
    grown: Condvar,
}

/// Killed when dropped.
pub(crate) struct Decoy {
    child: Child,
    log: Arc<Log>,
    pub(crate) port: u16,
}

impl Decoy {
    pub(crate) fn start(slug: &str) -> Self {
        Start::new(slug).run()
    }

    /// Waits for the first event with this action for which `wanted` holds.
    pub(crate) fn event(&self, action: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut events = self.log.events.lock().unwrap();
        loop {
            let found = events
                .iter()
                .find(|event| event["event"]["action"] == action && wanted(event));
            if let Some(event) = found {
                return event.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such {action} event; there are: {events:#?}");
            events = self.log.grown.wait_timeout(events, left).unwrap().0;
        }
    }

    /// Every event with this action so far.
    pub(crate) fn events(&self, action: &str) -> Vec<Value> {
        let events = self.log.events.lock().unwrap();
        events
            .iter()
            .filter(|event| event["event"]["action"] == action)
            .cloned()
            .collect()
    }

    pub(crate) fn login(&self, user: &str, password: &str) -> Value {
        self.event("login", |event| {
            event["user"]["name"] == user && event["decnet"]["password"] == password
        })
    }

    pub(crate) fn connect(&self) -> Talk {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        Talk::new(stream)
    }

    /// A UDP socket that talks to the decoy.
    #[allow(dead_code, reason = "for services over UDP")]
    pub(crate) fn udp(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Sends SIGTERM and waits; returns the status and how long it took.
    pub(crate) fn stop(mut self) -> (ExitStatus, Duration) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let begun = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        (self.child.wait().unwrap(), begun.elapsed())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A raw conversation.
pub(crate) struct Talk {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Talk {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            heard: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Reads up to and including `text` and returns what was read.
    pub(crate) fn expect(&mut self, text: &str) -> String {
        loop {
            let at = self
                .heard
                .windows(text.len())
                .position(|window| window == text.as_bytes());
            if let Some(at) = at {
                let rest = self.heard.split_off(at + text.len());
                let read = std::mem::replace(&mut self.heard, rest);
                return String::from_utf8_lossy(&read).into_owned();
            }
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).unwrap_or_else(|error| {
                panic!(
                    "waiting for {text:?}: {error}; heard {:?}",
                    String::from_utf8_lossy(&self.heard)
                )
            });
            assert!(
                count > 0,
                "closed before {text:?}; heard {:?}",
                String::from_utf8_lossy(&self.heard)
            );
            self.heard.extend_from_slice(&chunk[..count]);
        }
    }

    /// Reads exactly `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.heard.len() < count {
            let mut chunk = [0; 4096];
            let more = self.stream.read(&mut chunk).unwrap();
            assert!(more > 0, "closed before {count} bytes; heard {:?}", self.heard);
            self.heard.extend_from_slice(&chunk[..more]);
        }
        let rest = self.heard.split_off(count);
        std::mem::replace(&mut self.heard, rest)
    }

    /// Sends a line and returns the answer up to and including `text`.
    pub(crate) fn ask(&mut self, line: &str, text: &str) -> String {
        self.send(format!("{line}\r\n"));
        self.expect(text)
    }

    /// Reads until the decoy closes.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.heard,
                Ok(count) => self.heard.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    panic!("still open after {PATIENCE:?}; heard {:?}", self.heard)
                }
                // A reset is an end as well: the decoy may close with our bytes unread.
                Err(_) => return self.heard,
            }
        }
    }
}

/// A connection from another loopback address.
pub(crate) fn from_address(address: [u8; 4], port: u16) -> Talk {
    let [a, b, c, d] = address;
    let end = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(end.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0)).unwrap();
    connect(end.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).unwrap();
    Talk::new(TcpStream::from(end))
}
