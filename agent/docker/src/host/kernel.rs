//! Whether the kernel has what networks of deckies need.
//!
//! Its files do not tell: a driver that is built in leaves no trace, and one that lies on the disk may not load. So
//! each is tried in a namespace of its own, where a link is made and goes with the namespace.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use decnet_plan::compose::Egress;
use decnet_wire::observed::KernelFeature;
use netlink_packet_route::link::InfoKind;
use nix::errno::Errno;

use super::{links, lock, namespace};

/// What was found missing is looked for again: somebody may have loaded the module meanwhile.
const AGAIN: Duration = Duration::from_secs(60);

/// A fact about the machine, whoever asks.
static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

struct Known {
    at: Instant,
    lacks: BTreeSet<KernelFeature>,
}

/// What the kernel was seen to lack, sorted. What could not be tried, as without the right to make a namespace, is
/// not among it.
///
/// The first call tries, and takes some milliseconds. Later ones tell what is known; what is missing is tried again
/// behind their backs.
#[must_use]
pub fn lacks() -> Vec<KernelFeature> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match known.as_mut() {
        None => {
            *known = Some(Known {
                at: Instant::now(),
                lacks: find_out(),
            });
        }
        Some(found) if !found.lacks.is_empty() && found.at.elapsed() >= AGAIN => {
            // Also keeps others from starting one more.
            found.at = Instant::now();
            let again = std::thread::Builder::new().name("kernel".to_owned());
            let tried = again.spawn(|| {
                let lacks = find_out();
                if let Some(found) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                    found.lacks = lacks;
                }
            });
            if let Err(error) = tried {
                tracing::debug!(%error, "what the kernel lacks is tried again later");
            }
        }
        Some(_) => {}
    }
    known
        .iter()
        .flat_map(|known| known.lacks.iter().copied())
        .collect()
}

fn find_out() -> BTreeSet<KernelFeature> {
    namespace::in_a_new_one(try_all).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot try what the kernel has: no namespace can be made");
        BTreeSet::new()
    })
}

fn try_all() -> BTreeSet<KernelFeature> {
    let mut lacks = BTreeSet::new();
    // Any Ethernet will do to sit on. Without one, loopback, on which the drivers refuse to sit once they are there.
    // One carries one of the kinds, so each has its own.
    let paired = links::create_pair("ground", "other").is_ok();
    let grounds = if paired { ["ground", "other"] } else { ["lo"; 2] };
    // `EOPNOTSUPP`: no nftables at all; `ENOENT`: not one of the expressions.
    if let Err(Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EPROTONOSUPPORT) =
        lock::close(&Egress::default(), &Egress::default().rules())
    {
        lacks.insert(KernelFeature::Nftables);
    }
    let kinds = [
        (KernelFeature::Macvlan, InfoKind::MacVlan, "try-macvlan"),
        (KernelFeature::Ipvlan, InfoKind::IpVlan, "try-ipvlan"),
        (KernelFeature::Vlan, InfoKind::Vlan, "try-vlan"),
    ];
    for (feature, kind, name) in kinds {
        // One ground carries macvlan or ipvlan; a VLAN goes beside either.
        let ground = grounds[usize::from(feature == KernelFeature::Ipvlan)];
        let made = links::index(ground).and_then(|ground| match kind {
            InfoKind::Vlan => links::create_vlan(name, 1, ground),
            kind => links::create_on(name, kind, ground),
        });
        if made == Err(Errno::EOPNOTSUPP) {
            lacks.insert(feature);
        }
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_can_make_is_not_said_to_be_missing() {
        let can = |kind: &str| {
            std::process::Command::new("unshare")
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
        assert!(!lacks.contains(&KernelFeature::Macvlan), "{lacks:?}");
        assert_eq!(
            lacks.contains(&KernelFeature::Ipvlan),
            !can("ipvlan"),
            "{lacks:?}"
        );
        assert_eq!(
            lacks.contains(&KernelFeature::Vlan),
            !can("vlan id 1"),
            "{lacks:?}"
        );
    }
}
