//! The x_tables filter table of the calling thread's network namespace: read whole, and replaced whole.
//!
//! This is the interface below `iptables-legacy` (linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h):
//! socket options of a raw socket. What the entries of a table mean is the caller's business; here they are bytes, and
//! the kernel checks every one of them before it takes a table.
//!
//! It is a crate of its own because `getsockopt` and `setsockopt` with these options have no safe wrapper: all its unsafe
//! code stands in `Filter::ask` and `Filter::replace_once`.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// `XT_TABLE_MAXNAMELEN`: what a table's name is padded to.
const NAME: usize = 32;
/// The table that decides what passes.
const TABLE: &[u8] = b"filter";
/// `NF_INET_NUMHOOKS`.
pub const HOOKS: usize = 5;
/// The hooks of the filter table: input, forward, output (bits of `enum nf_inet_hooks`).
const VALID_HOOKS: u32 = 0b0_1110;

/// `IPT_SO_GET_INFO`, `IPT_SO_GET_ENTRIES`, `IPT_SO_SET_REPLACE`; the same numbers for IPv6.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
const SET_REPLACE: libc::c_int = 64;

/// `struct ipt_getinfo`: name, valid hooks, hook entries, underflows, number of entries, their size.
const INFO: usize = NAME + 4 + 2 * 4 * HOOKS + 4 + 4;
/// `struct ipt_get_entries` before the entries: name, size, and to a multiple of eight.
const ENTRIES: usize = (NAME + 4usize).next_multiple_of(8);
/// `struct xt_counters`: packets and bytes.
const COUNTERS: usize = 16;
/// Most bytes of a table that are read. A table of ours has some thousands.
const MOST: usize = 16 << 20;
/// How often a table may change between two calls.
const TRIES: usize = 8;

/// Each has a filter table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// A whole table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Where each hook's first entry begins (`enum nf_inet_hooks`), in bytes; of no meaning for hooks without entries.
    pub hooks: [u32; HOOKS],
    /// Where each hook's last entry, its policy, begins.
    pub policies: [u32; HOOKS],
    /// How many entries there are.
    pub count: u32,
    /// `struct ipt_entry` or `struct ip6t_entry` with matches and target, one after the other.
    pub entries: Vec<u8>,
}

/// A way to the filter table of the namespace in which it was opened.
#[derive(Debug)]
pub struct Filter {
    family: Family,
    fd: OwnedFd,
}

impl Filter {
    /// Opens it for the namespace of the calling thread.
    ///
    /// # Errors
    /// `EAFNOSUPPORT`: the kernel has no such family, so that nothing of it can be sent. `EPERM`: without `CAP_NET_RAW`.
    pub fn open(family: Family) -> Result<Self, Errno> {
        let address = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let fd = socket(address, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        Ok(Self { family, fd })
    }

    /// Reads the table with what its entries have counted.
    ///
    /// # Errors
    /// `ENOPROTOOPT`: the kernel has no `ip_tables` (`ip6_tables`), or it is not loaded. `ENOENT`: the same of
    /// `iptable_filter` (`ip6table_filter`). `EPERM`: without `CAP_NET_ADMIN`. `EAGAIN`: it changes all the time.
    pub fn read(&self) -> Result<Contents, Errno> {
        for _ in 0..TRIES {
            let (mut contents, size) = self.info()?;
            let mut answer = vec![0; ENTRIES + size];
            fill(&mut answer, 0, TABLE);
            let told = u32::try_from(size).map_err(|_| Errno::EMSGSIZE)?;
            fill(&mut answer, NAME, &told.to_ne_bytes());
            match self.ask(GET_ENTRIES, &mut answer) {
                // Another size than a moment ago.
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    contents.entries = answer.split_off(ENTRIES);
                    return Ok(contents);
                }
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Puts `contents` in place of what is there, at one moment.
    ///
    /// # Errors
    /// As of [`Self::read`]; and `ENOENT`: a match in it does not exist, `EINVAL`, `ELOOP`: it is no table.
    pub fn replace(&self, contents: &Contents) -> Result<(), Errno> {
        for _ in 0..TRIES {
            let (before, _) = self.info()?;
            match self.replace_once(contents, before.count) {
                // Another number of entries than a moment ago.
                Err(Errno::EAGAIN) => {}
                done => return done,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// The table without its entries, and their size.
    fn info(&self) -> Result<(Contents, usize), Errno> {
        let mut answer = vec![0; INFO];
        fill(&mut answer, 0, TABLE);
        self.ask(GET_INFO, &mut answer)?;
        let number = |index: usize| -> u32 {
            let at = NAME + 4 * index;
            let bytes = answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_ne_bytes)
        };
        let size = usize::try_from(number(2 + 2 * HOOKS)).unwrap_or(usize::MAX);
        if size > MOST {
            return Err(Errno::EMSGSIZE);
        }
        let contents = Contents {
            hooks: std::array::from_fn(|hook| number(1 + hook)),
            policies: std::array::from_fn(|hook| number(1 + HOOKS + hook)),
            count: number(1 + 2 * HOOKS),
            entries: Vec::new(),
        };
        Ok((contents, size))
    }

    /// `getsockopt`: what is asked for stands at the beginning of `buffer`, and the answer comes in its place.
    #[allow(unsafe_code)]
    fn ask(&self, option: libc::c_int, buffer: &mut [u8]) -> Result<(), Errno> {
        let mut length = libc::socklen_t::try_from(buffer.len()).map_err(|_| Errno::EMSGSIZE)?;
        // SAFETY: both pointers are to borrowed values that live through the call. The kernel reads and writes at most
        // `length` bytes of `buffer`, which is its length, and these options hold no pointers; any bytes are bytes.
        let code = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                self.level(),
                option,
                buffer.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        Errno::result(code).map(drop)
    }

    /// `setsockopt`: the table is as `contents` when it held `before` entries.
    #[allow(unsafe_code)]
    fn replace_once(&self, contents: &Contents, before: u32) -> Result<(), Errno> {
        let most = usize::try_from(before).map_err(|_| Errno::EMSGSIZE)?;
        let mut counters = vec![0_u8; most.checked_mul(COUNTERS).ok_or(Errno::EMSGSIZE)?];
        let request = request(contents, before, counters.as_mut_ptr().expose_provenance())?;
        let length = libc::socklen_t::try_from(request.len()).map_err(|_| Errno::EMSGSIZE)?;
        // SAFETY: the kernel reads `length` bytes of `request`, which is its length. It writes what the replaced entries
        // have counted where the request says: `before` times `COUNTERS` bytes, and `counters` has these, lives until
        // after the call and is used by nobody meanwhile. When the table has another number of entries by then, the
        // kernel refuses and writes nothing.
        let code = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                self.level(),
                SET_REPLACE,
                request.as_ptr().cast(),
                length,
            )
        };
        drop(counters);
        Errno::result(code).map(drop)
    }

    const fn level(&self) -> libc::c_int {
        match self.family {
            Family::V4 => libc::SOL_IP,
            Family::V6 => libc::SOL_IPV6,
        }
    }
}

/// `struct ipt_replace`: name, valid hooks, number of entries, their size, hook entries, underflows, number of counters,
/// a pointer to them, and, at a multiple of eight, the entries.
fn request(contents: &Contents, before: u32, counters: usize) -> Result<Vec<u8>, Errno> {
    let size = u32::try_from(contents.entries.len()).map_err(|_| Errno::EMSGSIZE)?;
    let mut out = vec![0; NAME];
    fill(&mut out, 0, TABLE);
    for number in [VALID_HOOKS, contents.count, size] {
        out.extend(number.to_ne_bytes());
    }
    for offset in contents.hooks.iter().chain(&contents.policies) {
        out.extend(offset.to_ne_bytes());
    }
    out.extend(before.to_ne_bytes());
    out.extend(counters.to_ne_bytes());
    out.resize(out.len().next_multiple_of(8), 0);
    out.extend(&contents.entries);
    Ok(out)
}

/// Writes `bytes` at `at`; there is room by construction.
fn fill(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = buffer.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_layout_of_the_kernels_struct() {
        let contents = Contents {
            hooks: [0, 1, 2, 3, 0],
            policies: [0, 4, 5, 6, 0],
            count: 7,
            entries: vec![9; 8],
        };
        let request = request(&contents, 8, 0).unwrap();
        // sizeof(struct ipt_replace) is 96 where pointers have eight bytes.
        assert_eq!(request.len(), 88 + size_of::<usize>() + 8);
        assert_eq!(
            request[..NAME],
            *b"filter\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
        );
        assert_eq!(request[32..36], 14_u32.to_ne_bytes());
        assert_eq!(request[36..40], 7_u32.to_ne_bytes());
        assert_eq!(request[40..44], 8_u32.to_ne_bytes());
        assert_eq!(request[56..60], 3_u32.to_ne_bytes(), "the output hook");
        assert_eq!(request[84..88], 8_u32.to_ne_bytes(), "the number of counters");
        assert_eq!(request[request.len() - 8..], [9; 8]);
    }
}
