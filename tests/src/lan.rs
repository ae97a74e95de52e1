//! A LAN of one's own: a veth pair whose near end is a parent for macvlan, and whose far end is a network namespace
//! that has the gateway's address. Nothing on it reaches any other network.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};

use crate::command::{SHORT, program, run};
use crate::engine;
use crate::seed::Seed;

static MADE: AtomicU32 = AtomicU32::new(0);

/// The names of a LAN. Enough to remove one that another process left.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LanNames {
    /// The parent interface, in the machine's own namespace.
    pub parent: String,
    /// The namespace with the other end.
    pub namespace: String,
    /// The first three bytes of the /24, as `10.77.0`.
    pub prefix: String,
}

/// A LAN that exists. Removed when dropped.
#[derive(Debug)]
pub struct Lan {
    names: LanNames,
    kept: bool,
}

impl Lan {
    /// A LAN under names of this process and a subnet that the engine does not use.
    ///
    /// # Errors
    ///
    /// When links or namespaces cannot be made.
    pub fn create(seed: &Seed) -> Result<Self> {
        let number = MADE.fetch_add(1, Ordering::SeqCst);
        let process = std::process::id();
        let taken = engine::subnets()?;
        let prefix = loop {
            let prefix = format!("10.{}.{}", 100 + seed.below(100), seed.below(256));
            if !taken
                .iter()
                .any(|subnet| subnet.starts_with(&format!("{prefix}.")))
            {
                break prefix;
            }
        };
        // At most 15 bytes each (IFNAMSIZ).
        Self::named(&LanNames {
            parent: format!("dn{process}p{number}"),
            namespace: format!("decnet-test-{process}-{number}"),
            prefix,
        })
    }

    /// A LAN under these names.
    ///
    /// # Errors
    ///
    /// When a link or namespace cannot be made, for example because it is there already.
    pub fn named(names: &LanNames) -> Result<Self> {
        let LanNames {
            parent,
            namespace,
            prefix,
        } = names;
        let gateway = format!("{prefix}.1/24");
        ensure!(parent.len() <= 15, "{parent} is too long a name for an interface");
        // From here on the guard removes what is there, should a step fail.
        ip(&["netns", "add", namespace])?;
        let lan = Self {
            names: names.clone(),
            kept: false,
        };
        ip(&[
            "link", "add", parent, "type", "veth", "peer", "name", "lan0", "netns", namespace,
        ])?;
        ip(&["link", "set", parent, "up"])?;
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", namespace, "addr", "add", &gateway, "dev", "lan0"])?;
        ip(&["-n", namespace, "link", "set", "lan0", "up"])?;
        Ok(lan)
    }

    /// Its names.
    #[must_use]
    pub fn names(&self) -> &LanNames {
        &self.names
    }

    /// The parent interface.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.names.parent
    }

    /// The subnet, as CIDR.
    #[must_use]
    pub fn subnet(&self) -> String {
        format!("{}.0/24", self.names.prefix)
    }

    /// The namespace's own address.
    #[must_use]
    pub fn gateway(&self) -> String {
        format!("{}.1", self.names.prefix)
    }

    /// The address that ends in `last`.
    #[must_use]
    pub fn address(&self, last: u8) -> String {
        format!("{}.{last}", self.names.prefix)
    }

    /// Whether `address` is of this LAN.
    #[must_use]
    pub fn holds(&self, address: Ipv4Addr) -> bool {
        address
            .to_string()
            .starts_with(&format!("{}.", self.names.prefix))
    }

    /// The `[general]` section of a fleet on this LAN.
    #[must_use]
    pub fn general(&self) -> String {
        format!(
            "[general]\nnet = {}\ngw = {}\ninterface = {}\n",
            self.subnet(),
            self.gateway(),
            self.parent()
        )
    }

    /// A command that runs on the LAN.
    #[must_use]
    pub fn inside(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.names.namespace])
            .args(arguments);
        command
    }

    /// The answer to ARP for `address`, asked afresh.
    ///
    /// # Errors
    ///
    /// When nobody answers.
    pub fn mac_of(&self, address: &str) -> Result<String> {
        mac_of(&|arguments| self.inside(arguments), "lan0", address)
    }

    /// Leaves it behind; somebody else removes it by its names.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove(&self.names)
        {
            eprintln!("a LAN stays behind: {error:#}");
        }
    }
}

/// Forgets which MAC address `address` has. No other one: two who emptied the whole cache at once would make the kernel
/// miss an entry that it has just listed.
///
/// # Errors
///
/// When `ip` fails.
pub(crate) fn forget_mac(inside: &dyn Fn(&[&str]) -> Command, device: &str, address: &str) -> Result<()> {
    let flush = ["ip", "neigh", "flush", "to", address, "dev", device];
    run(&mut inside(&flush), SHORT)?.ok()?;
    Ok(())
}

/// The answer to ARP for `address` on `device`, asked afresh with commands that `inside` makes.
///
/// # Errors
///
/// When nobody answers.
pub(crate) fn mac_of(inside: &dyn Fn(&[&str]) -> Command, device: &str, address: &str) -> Result<String> {
    // Whatever the cache says may be old.
    forget_mac(inside, device, address)?;
    // Any datagram makes the kernel ask; nothing has to listen there.
    let ask = format!("exec 3<>/dev/udp/{address}/9 && echo >&3 || true");
    crate::wait::until(&format!("an answer to ARP for {address}"), SHORT, || {
        run(&mut inside(&["bash", "-c", &ask]), SHORT)?;
        let said = run(
            &mut inside(&["ip", "neigh", "show", address, "dev", device]),
            SHORT,
        )?
        .ok()?;
        let mac = said
            .split_whitespace()
            .skip_while(|word| *word != "lladdr")
            .nth(1);
        Ok(match mac {
            Some(mac) => crate::wait::Seen::Done(mac.to_owned()),
            None => crate::wait::Seen::not_yet(said.trim()),
        })
    })
}

/// Removes what is there of a LAN.
///
/// # Errors
///
/// When something of it stays.
pub fn remove(names: &LanNames) -> Result<()> {
    // One end takes the other with it. The namespace may be held by a client for a moment longer.
    run(&mut program("ip", &["link", "del", &names.parent]), SHORT)?;
    run(&mut program("ip", &["netns", "del", &names.namespace]), SHORT)?;
    let left = left(names)?;
    ensure!(left.is_empty(), "still there: {}", left.join(", "));
    Ok(())
}

/// What is there of a LAN.
///
/// # Errors
///
/// When `ip` does not answer.
pub fn left(names: &LanNames) -> Result<Vec<String>> {
    let links = ip(&["-o", "link", "show"])?;
    let namespaces = ip(&["netns", "list"])?;
    let mut left = Vec::new();
    if links
        .lines()
        .any(|line| line.contains(&format!(" {}@", names.parent)))
    {
        left.push(format!("link {}", names.parent));
    }
    if namespaces.split_whitespace().any(|word| word == names.namespace) {
        left.push(format!("namespace {}", names.namespace));
    }
    Ok(left)
}

fn ip(arguments: &[&str]) -> Result<String> {
    run(&mut program("ip", arguments), SHORT)?
        .ok()
        .context("root is needed, and a kernel with veth and namespaces")
}
