//! A TCP connection between an agent and its master that can be cut, stand still or be slow.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// What happens to what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It arrives.
    Open,
    /// Connections are closed, new ones as soon as they are made.
    Cut,
    /// Connections stay, and new ones are taken; nothing arrives any more in either direction, until it is open again.
    Still,
    /// What an agent sends arrives, what the master answers is lost with the connection.
    Deaf,
    /// Every piece takes so much longer.
    Slow(Duration),
}

#[derive(Debug)]
struct State {
    way: Way,
    open: Vec<TcpStream>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    master: SocketAddrV4,
}

/// The link. It is cut when this is dropped.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    address: SocketAddrV4,
}

impl Link {
    /// Listens on a port of the loopback address, on the way to the master's `port`.
    ///
    /// # Errors
    ///
    /// When there is no port.
    pub fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for a link")?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr()?.port());
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                way: Way::Open,
                open: Vec::new(),
            }),
            changed: Condvar::new(),
            master: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for agent in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A master that is not there looks as it would without the link: the connection is closed.
                thread::spawn(move || drop(shared.connect(&agent)));
            }
        });
        Ok(Self { shared, address })
    }

    /// Where agents connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Treats everything so from now on.
    pub fn set(&self, way: Way) {
        let mut state = self.shared.state();
        state.way = way;
        if way == Way::Cut {
            state.close();
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.set(Way::Cut);
    }
}

impl State {
    fn close(&mut self) {
        for stream in self.open.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(self: &Arc<Self>, agent: &TcpStream) -> io::Result<()> {
        self.may_pass()?;
        let master = TcpStream::connect(self.master)?;
        self.state()
            .open
            .extend([agent.try_clone()?, master.try_clone()?]);
        let shared = Arc::clone(self);
        let (from_master, to_agent) = (master.try_clone()?, agent.try_clone()?);
        let answers = thread::spawn(move || drop(shared.carry(&from_master, &to_agent, true)));
        drop(self.carry(agent, &master, false));
        drop(answers.join());
        Ok(())
    }

    /// Carries what `from` sends to `to` until one of them ends, and then ends both.
    fn carry(&self, mut from: &TcpStream, mut to: &TcpStream, answer: bool) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let carried = loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(count) => count,
                Err(error) => break Err(error),
            };
            match self.may_pass() {
                Ok(Way::Deaf) if answer => break Ok(()),
                Ok(Way::Slow(by)) => thread::sleep(by),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
            if let Err(error) = to.write_all(&buffer[..count]) {
                break Err(error);
            }
        };
        drop(from.shutdown(Shutdown::Both));
        drop(to.shutdown(Shutdown::Both));
        carried
    }

    /// Waits while it stands still.
    fn may_pass(&self) -> io::Result<Way> {
        let mut state = self.state();
        while state.way == Way::Still {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.way {
            Way::Cut => Err(io::ErrorKind::ConnectionAborted.into()),
            way => Ok(way),
        }
    }
}
