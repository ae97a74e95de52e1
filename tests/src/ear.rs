//! Somebody on a LAN who listens: what calls it was not kept from calling.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

/// One port of every address of a network namespace, for TCP and UDP, IPv4 and IPv6.
#[derive(Debug)]
pub struct Ear {
    tcp: TcpListener,
    udp: UdpSocket,
    port: u16,
}

impl Ear {
    /// Listens in a namespace of `ip netns`, on a port that is free there.
    ///
    /// # Errors
    ///
    /// When there is no such namespace, or no root.
    pub fn in_namespace(name: &str) -> Result<Self> {
        let namespace = File::open(format!("/var/run/netns/{name}"))
            .with_context(|| format!("no network namespace {name}"))?;
        let listen = move || -> Result<Self> {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("root is needed")?;
            // What takes IPv6 takes IPv4 as well, under mapped addresses.
            let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            let port = tcp.local_addr()?.port();
            let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
            tcp.set_nonblocking(true)?;
            udp.set_nonblocking(true)?;
            Ok(Self { tcp, udp, port })
        };
        // A thread of its own: it does not come back from the namespace, and sockets stay where they were made.
        std::thread::scope(|scope| {
            let heard = scope.spawn(listen).join();
            heard.unwrap_or_else(|_| anyhow::bail!("nobody can listen in {name}"))
        })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who has called since the last time, and how: `tcp` or `udp`.
    ///
    /// # Errors
    ///
    /// When it hears nothing any more.
    pub fn heard(&self) -> Result<Vec<(&'static str, IpAddr)>> {
        let mut callers = Vec::new();
        while let Some((_, from)) = now(self.tcp.accept())? {
            callers.push(("tcp", origin(from)));
        }
        while let Some((_, from)) = now(self.udp.recv_from(&mut [0; 64]))? {
            callers.push(("udp", origin(from)));
        }
        Ok(callers)
    }
}

fn now<T>(heard: std::io::Result<T>) -> Result<Option<T>> {
    match heard {
        Ok(call) => Ok(Some(call)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("the listener on the LAN fails"),
    }
}

fn origin(from: SocketAddr) -> IpAddr {
    from.ip().to_canonical()
}
