//! An interface's frames, as they are on the wire (packet(7)): a question, and whoever answers it.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{LinkAddr, MsgFlags, bind, recv, send};
use socket2::{Domain, Protocol, Socket, Type};

/// Times at which a question is sent. RFC 5227 spreads three probes over some seconds, for machines that all start at
/// the same moment; here nobody but this host has just started, and a machine on a LAN answers within milliseconds.
const PROBES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(200),
];
/// When an answer to the last one is not waited for any more.
const END: Duration = Duration::from_millis(350);

/// The least that a frame has, without its checksum (IEEE 802.3).
pub(super) const SHORTEST: usize = 60;
const LONGEST: usize = 1_600;

/// Asks on an interface of the namespace that the calling thread stands in. `request` makes the frame, and `answer`
/// reads one of that protocol, each with the interface's own MAC address.
///
/// Takes a third of a second when nobody answers.
pub(super) fn ask<T>(
    interface: &str,
    protocol: u16,
    request: impl FnOnce([u8; 6]) -> Vec<u8>,
    answer: impl Fn(&[u8], [u8; 6]) -> Option<T>,
) -> io::Result<Option<T>> {
    let link = link(interface)?;
    let own = link
        .addr()
        .ok_or_else(|| io::Error::other(format!("{interface} has no MAC address")))?;
    let socket = Socket::new(
        Domain::PACKET,
        Type::RAW,
        Some(Protocol::from(i32::from(protocol.to_be()))),
    )?;
    bind(socket.as_raw_fd(), &link)?;
    // What came from other interfaces before the socket was bound to this one.
    let mut buffer = [0; LONGEST];
    while recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
    let request = request(own);
    let begun = Instant::now();
    for (number, at) in PROBES.into_iter().enumerate() {
        while let Some(frame) = next(&socket, &mut buffer, begun + at)? {
            if let Some(found) = answer(frame, own) {
                return Ok(Some(found));
            }
        }
        send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
        tracing::trace!(interface, number, "asked");
    }
    while let Some(frame) = next(&socket, &mut buffer, begun + END)? {
        if let Some(found) = answer(frame, own) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The interface as packet(7) addresses it.
fn link(interface: &str) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no interface {interface}"),
            )
        })
}

/// The next frame, or None once `deadline` has come.
fn next<'b>(socket: &Socket, buffer: &'b mut [u8], deadline: Instant) -> io::Result<Option<&'b [u8]>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        // Rounded up, or the last fraction of a millisecond would be spun away.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(size) => return Ok(Some(buffer.get(..size).unwrap_or_default())),
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
}
