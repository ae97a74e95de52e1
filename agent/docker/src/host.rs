//! The host's own network: links, addresses on the LAN, what the kernel can do. Everything that is not asked of the
//! engine but of the kernel.
//!
//! | module | what it does |
//! | --- | --- |
//! | `netlink` | one exchange with the kernel |
//! | `links` | the links of a namespace: list, make, remove |
//! | `routes` | the way out of the host's LANs |
//! | `port` | whether a LAN takes other MAC addresses from this host |
//! | `namespace` | threads that stand in another network namespace |
//! | `kernel` | whether the kernel has what networks of deckies need, found out by trying |
//! | `arp` | who on a LAN has an address |
//! | `nd` | the same for IPv6 |
//! | `frames` | an interface's frames, as they are on the wire |
//! | `leftovers` | processes of containers that the engine has forgotten |
//! | `lock` | filter rules inside a decky's namespace: it answers, it does not call |

pub(crate) mod arp;
mod frames;
pub(crate) mod kernel;
pub(crate) mod leftovers;
pub(crate) mod links;
pub(crate) mod lock;
pub(crate) mod namespace;
pub(crate) mod nd;
mod netlink;
mod port;
mod routes;

pub use crate::observe::interfaces;
pub use kernel::{closes, lacks};
pub use lock::{EgressCounters, Way};
pub use port::{Port, try_port};
pub use routes::{DefaultRoute, default_routes};
