//! Whether the kernel has what networks of deckies need.
//!
//! Its files do not tell: a driver that is built in leaves no trace, and one that lies on the disk may not load. So
//! each is tried in a namespace of its own, where a link is made and goes with the namespace.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use decnet_plan::compose::Egress;
use decnet_wire::observed::Feature;
use netlink_packet_route::link::InfoKind;
use nix::errno::Errno;

use super::lock::{self, Way};
use super::{links, namespace};

/// What was found missing is looked for again: somebody may have loaded the module meanwhile.
const AGAIN: Duration = Duration::from_secs(60);

/// A fact about the machine, whoever asks.
static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

struct Known {
    at: Instant,
    found: Found,
}

/// What trying has shown.
#[derive(Default)]
struct Found {
    lacks: BTreeSet<Feature>,
    /// What closes namespaces; None when nothing does, and when nothing could be tried.
    closes: Option<Way>,
}

/// What the kernel was seen to lack, sorted. What could not be tried, as without the right to make a namespace, is
/// not among it.
///
/// The first call tries, and takes some milliseconds. Later ones tell what is known; what is missing is tried again
/// behind their backs.
#[must_use]
pub fn lacks() -> Vec<Feature> {
    known(|found| found.lacks.iter().copied().collect())
}

/// What the kernel closes namespaces with; None when it can do so in no way, which is then among what it lacks. As
/// [`lacks`] otherwise.
#[must_use]
pub fn closes() -> Option<Way> {
    known(|found| found.closes)
}

fn known<T>(read: impl FnOnce(&Found) -> T) -> T {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_with(|| Known {
        at: Instant::now(),
        found: find_out(),
    });
    if !known.found.lacks.is_empty() && known.at.elapsed() >= AGAIN {
        // Also keeps others from starting one more.
        known.at = Instant::now();
        let again = std::thread::Builder::new().name("kernel".to_owned());
        let tried = again.spawn(|| {
            let found = find_out();
            if let Some(known) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                known.found = found;
            }
        });
        if let Err(error) = tried {
            tracing::debug!(%error, "what the kernel lacks is tried again later");
        }
    }
    read(&known.found)
}

fn find_out() -> Found {
    namespace::in_a_new_one(try_all).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot try what the kernel has: no namespace can be made");
        Found::default()
    })
}

fn try_all() -> Found {
    let mut lacks = BTreeSet::new();
    // Any Ethernet will do to sit on. Without one, loopback, on which the drivers refuse to sit once they are there.
    // One carries either macvlan or ipvlan, so each has its own; a VLAN goes beside either.
    let paired = links::create_pair("ground", "other").is_ok();
    let [one, other] = if paired { ["ground", "other"] } else { ["lo"; 2] };
    let closes = try_to_close();
    if closes == Err(Unclosable) {
        lacks.insert(Feature::Nftables);
    }
    let kinds = [
        (Feature::Macvlan, InfoKind::MacVlan, "try-macvlan", one),
        (Feature::Ipvlan, InfoKind::IpVlan, "try-ipvlan", other),
        (Feature::Vlan, InfoKind::Vlan, "try-vlan", one),
    ];
    for (feature, kind, name, ground) in kinds {
        let made = links::index(ground).and_then(|ground| match kind {
            InfoKind::Vlan => links::create_vlan(name, 1, ground),
            kind => links::create_on(name, kind, ground),
        });
        if made == Err(Errno::EOPNOTSUPP) {
            lacks.insert(feature);
        }
    }
    Found {
        lacks,
        closes: closes.ok().flatten(),
    }
}

/// The kernel has no filter that serves.
#[derive(Debug, PartialEq, Eq)]
struct Unclosable;

/// Closes the namespace of the calling thread; None when that could not be tried.
fn try_to_close() -> Result<Option<Way>, Unclosable> {
    let close = |way| lock::close(way, &Egress::default(), &Egress::default().rules());
    match close(Way::Nftables) {
        Ok(()) => return Ok(Some(Way::Nftables)),
        // No nftables at all, or not the family; not one of the expressions.
        Err(Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT) => {}
        Err(error) => {
            tracing::debug!(%error, "cannot try whether nftables closes namespaces");
            return Ok(None);
        }
    }
    let mut second = close(Way::XTables);
    if second == Err(Errno::ENOPROTOOPT) {
        // What these modules add to it the kernel loads by itself.
        load(&["ip_tables", "ip6_tables"]);
        second = close(Way::XTables);
    }
    match second {
        Ok(()) => Ok(Some(Way::XTables)),
        Err(error) => {
            tracing::debug!(%error, "neither nftables nor x_tables closes namespaces");
            Err(Unclosable)
        }
    }
}

/// Loads modules that exist. Whether that helped is seen by trying.
fn load(modules: &[&str]) {
    let mut modprobe = Command::new("modprobe");
    modprobe.args(["--quiet", "--all"]).args(modules);
    let loaded = modprobe
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if let Err(error) = loaded {
        tracing::debug!(%error, "cannot run modprobe");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_can_make_is_not_said_to_be_missing() {
        let can = |kind: &str| {
            Command::new("unshare")
                .args(["--net", "sh", "-c"])
                .arg(format!(
                    "ip link add ground type veth peer name other && ip link add try link ground type {kind}"
                ))
                .status()
                .unwrap_or_else(|error| panic!("missing: util-linux and iproute2: {error}"))
                .success()
        };
        assert!(can("macvlan"), "missing: a kernel with macvlan, and root");
        let lacks = lacks();
        assert!(!lacks.contains(&Feature::Macvlan), "{lacks:?}");
        assert_eq!(lacks.contains(&Feature::Ipvlan), !can("ipvlan"), "{lacks:?}");
        assert_eq!(lacks.contains(&Feature::Vlan), !can("vlan id 1"), "{lacks:?}");
    }
}
