//! One exchange with the kernel over netlink (RFC 3549).

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use std::os::fd::AsFd as _;

/// The kernel answers at once; what takes longer is lost.
const ANSWER: Duration = Duration::from_secs(5);
/// Most bytes that one answer may have: a machine with thousands of links sends some megabytes.
const MOST: usize = 64 << 20;
/// The kernel fills at most this much into one datagram (netlink(7) advises 8192; dumps use up to 32 KiB).
const DATAGRAM: usize = 64 << 10;
/// `struct nlmsghdr`: length, type, flags, sequence, port.
pub(super) const HEADER: usize = 16;

/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`, `NLM_F_EXCL`, `NLM_F_CREATE` (linux/netlink.h).
pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const ERROR: u16 = 0x2;
const DONE: u16 = 0x3;

/// A netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Netlink {
    fd: OwnedFd,
}

/// One message of an answer: its type and what follows its header.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
}

impl Netlink {
    pub(super) fn open(protocol: SockProtocol) -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { fd })
    }

    /// Sends `request`, one message or a batch, and collects what comes until the message with the number `last` is
    /// acknowledged or its dump is complete.
    ///
    /// # Errors
    /// The first error that the kernel reports for any of the messages.
    pub(super) fn exchange(&self, request: &[u8], last: u32) -> Result<Vec<Answer>, Errno> {
        send(self.fd.as_raw_fd(), request, MsgFlags::empty())?;
        let deadline = Instant::now() + ANSWER;
        let mut buffer = vec![0; DATAGRAM];
        let (mut answers, mut total) = (Vec::new(), 0);
        loop {
            self.wait(deadline)?;
            let size = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
            total += size;
            if size > buffer.len() || total > MOST {
                return Err(Errno::EMSGSIZE);
            }
            let mut rest = buffer.get(..size).unwrap_or_default();
            while let Some(message) = Message::split(&mut rest) {
                match message.kind {
                    ERROR => match message.code() {
                        0 if message.sequence == last => return Ok(answers),
                        0 => {}
                        code => return Err(Errno::from_raw(code)),
                    },
                    DONE if message.sequence == last => {
                        return match message.code() {
                            0 => Ok(answers),
                            code => Err(Errno::from_raw(code)),
                        };
                    }
                    kind if message.sequence == last => answers.push(Answer {
                        kind,
                        body: message.body.to_vec(),
                    }),
                    _ => {}
                }
            }
        }
    }

    fn wait(&self, deadline: Instant) -> Result<(), Errno> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => Err(Errno::ETIMEDOUT),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// One message in a datagram from the kernel.
struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Takes the first message off; None when nothing whole is left.
    fn split(rest: &mut &'a [u8]) -> Option<Self> {
        let header = rest.get(..HEADER)?;
        let length = usize::try_from(u32::from_ne_bytes(header.get(..4)?.try_into().ok()?)).ok()?;
        let message = Self {
            kind: u16::from_ne_bytes(header.get(4..6)?.try_into().ok()?),
            sequence: u32::from_ne_bytes(header.get(8..12)?.try_into().ok()?),
            body: rest.get(HEADER..length)?,
        };
        // Messages begin at multiples of four (NLMSG_ALIGN).
        *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }

    /// What an error or the end of a dump says: zero, or an errno, which the kernel writes negated.
    fn code(&self) -> i32 {
        let code = self.body.get(..4).and_then(|code| code.try_into().ok());
        code.map_or(0, i32::from_ne_bytes).wrapping_neg()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_or_lying_message_is_no_message() {
        let mut short: &[u8] = &[1, 2, 3];
        assert!(Message::split(&mut short).is_none());
        let mut header = [0_u8; HEADER];
        header[0] = 200;
        let mut lying: &[u8] = &header;
        assert!(Message::split(&mut lying).is_none());
        header[0] = 4;
        let mut small: &[u8] = &header;
        assert!(Message::split(&mut small).is_none());
    }

    #[test]
    fn an_error_code_is_the_kernels_negated() {
        let mut datagram = Vec::new();
        datagram.extend(20_u32.to_ne_bytes());
        datagram.extend(ERROR.to_ne_bytes());
        datagram.extend([0; 2]);
        datagram.extend(7_u32.to_ne_bytes());
        datagram.extend([0; 4]);
        datagram.extend((-95_i32).to_ne_bytes());
        let mut rest = datagram.as_slice();
        let message = Message::split(&mut rest).unwrap();
        assert_eq!((message.sequence, message.code()), (7, 95));
        assert!(rest.is_empty());
    }
}
