//! Lab hosts: whole Debian hosts with their own kernel, systemd as PID 1 and Docker, on a LAN that nothing leaves.
//!
//! A host is a process of User-mode Linux, so a reboot, a power cut, a unit or a package can be tried for real while the
//! machine itself is not touched: a guest sees its own disk, its own LAN, and one folder of the machine.
//!
//! ```text
//!   network namespace declab-<pid>-<n>
//!     lan0 (bridge, 10.66.0.1/24)     the master and clients run here: Lab::inside
//!      ├── tap1 ── vec0 of the 1st host, 10.66.0.241
//!      └── tap2 ── vec0 of the 2nd host, 10.66.0.242
//! ```
//!
//! Commands reach a guest over a serial line and a shared folder, not over the LAN: they work whatever a test does to
//! the guest's network.
//!
//! Everything is removed on drop; guests also end when the thread that booted them does, however it ends, so boot them
//! on the test's own thread. What a killed run leaves is removed by the next one. Logs of the consoles stay below the
//! image's folder until the next run of the same name.

mod host;
mod image;
mod leftovers;
mod worker;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

pub use self::host::{Boot, Host};
use self::image::Image;
pub use self::worker::LEFTOVERS;
use crate::command::{SHORT, program, run};
use crate::wait::{Seen, until};

/// The first three bytes of the LAN. Every lab has the same: none sees another.
const PREFIX: &str = "10.66.0";
/// The bridge, with the gateway's address.
const BRIDGE: &str = "lan0";
/// Hosts get addresses from here on, so that deckies' pools, which begin low, do not meet them.
const FIRST_HOST: u8 = 241;
/// As many labs at once, in all processes of the machine: more would only make each other slow.
const PLACES: u32 = 2;
/// How long to wait for a place, in seconds: other runs' tests may be long.
const PLACE_LIMIT: std::time::Duration = std::time::Duration::from_secs(1800);

static MADE: AtomicU32 = AtomicU32::new(0);

/// A LAN for lab hosts.
#[derive(Debug)]
pub struct Lab {
    site: Arc<Site>,
    hosts: AtomicU32,
}

/// What a lab's hosts stand on. It goes when the lab and all its hosts are gone.
#[derive(Debug)]
struct Site {
    namespace: String,
    logs: PathBuf,
    image: Image,
    folder: TempDir,
    _place: Flock<File>,
}

impl Lab {
    /// A LAN without hosts. `name` is what its logs are called.
    ///
    /// # Errors
    ///
    /// When something that is needed is not there, by the name of Debian's package, or the image was not made.
    pub fn new(name: &str) -> Result<Self> {
        let image = Image::find()?;
        let place = place()?;
        leftovers::remove();
        let namespace = format!(
            "{}{}-{}",
            leftovers::NAMESPACE,
            std::process::id(),
            MADE.fetch_add(1, Ordering::SeqCst)
        );
        let logs = image.logs(name)?;
        // Short, because the paths of sockets may have 107 bytes only; a name that leftovers::remove understands.
        let folder = tempfile::Builder::new()
            .prefix(&namespace)
            .rand_bytes(0)
            .tempdir_in("/tmp")
            .context("no folder for the hosts' disks")?;
        ip(&["netns", "add", &namespace])?;
        // From here on the guard removes what is there, should a step fail.
        let lab = Self {
            site: Arc::new(Site {
                namespace,
                logs,
                image,
                folder,
                _place: place,
            }),
            hosts: AtomicU32::new(0),
        };
        let namespace = lab.namespace();
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", namespace, "link", "add", BRIDGE, "type", "bridge"])
            .context("the kernel needs bridges")?;
        ip(&[
            "-n",
            namespace,
            "addr",
            "add",
            &format!("{}/24", lab.gateway()),
            "dev",
            BRIDGE,
        ])?;
        ip(&["-n", namespace, "link", "set", BRIDGE, "up"])?;
        Ok(lab)
    }

    /// A host to be booted. `name` is its host name.
    #[must_use]
    pub fn host(&self, name: &str) -> HostPlan {
        let number = self.hosts.fetch_add(1, Ordering::SeqCst);
        // No lab has 14 hosts on a machine that has two processors.
        let last = FIRST_HOST.saturating_add(u8::try_from(number).unwrap_or(u8::MAX));
        HostPlan {
            site: Arc::clone(&self.site),
            name: name.to_owned(),
            tap: format!("tap{}", number + 1),
            mac: format!("02:00:5e:66:00:{last:02x}"),
            address: self.address(last),
            memory_mib: 768,
        }
    }

    /// Boots hosts at once; returns when all are ready.
    ///
    /// # Errors
    ///
    /// As [`HostPlan::boot`].
    pub fn boot<const N: usize>(&self, plans: [HostPlan; N]) -> Result<[Host; N]> {
        let mut hosts = Vec::new();
        for plan in plans {
            hosts.push(Host::start(plan)?);
        }
        for host in &hosts {
            host.ready()?;
        }
        hosts
            .try_into()
            .map_err(|_| anyhow::anyhow!("as many hosts as plans"))
    }

    /// The network namespace of the bridge.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.site.namespace
    }

    /// A folder for files of this run.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.site.folder.path()
    }

    /// A command that runs on the LAN, with the gateway's address.
    #[must_use]
    pub fn inside(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.namespace()]).args(arguments);
        command
    }

    /// The subnet, as CIDR.
    #[must_use]
    pub fn subnet(&self) -> String {
        format!("{PREFIX}.0/24")
    }

    /// The bridge's address, where a master listens and clients come from.
    #[must_use]
    pub fn gateway(&self) -> String {
        self.address(1)
    }

    /// The address that ends in `last`.
    #[must_use]
    pub fn address(&self, last: u8) -> String {
        format!("{PREFIX}.{last}")
    }

    /// The `[general]` section of a fleet on this LAN.
    #[must_use]
    pub fn general(&self) -> String {
        format!(
            "[general]\nnet = {}\ngw = {}\ninterface = {}\n",
            self.subnet(),
            self.gateway(),
            host::INTERFACE
        )
    }

    /// The answer to ARP for `address`, asked afresh.
    ///
    /// # Errors
    ///
    /// When nobody answers.
    pub fn mac_of(&self, address: &str) -> Result<String> {
        crate::lan::mac_of(&|arguments| self.inside(arguments), BRIDGE, address)
    }

    /// Makes the LAN ask for the MAC address of `address` when it calls it next.
    ///
    /// # Errors
    ///
    /// When `ip` fails.
    pub fn forget_mac(&self, address: &str) -> Result<()> {
        crate::lan::forget_mac(&|arguments| self.inside(arguments), BRIDGE, address)
    }
}

/// A host before it is booted.
#[derive(Debug)]
pub struct HostPlan {
    site: Arc<Site>,
    name: String,
    tap: String,
    mac: String,
    address: String,
    memory_mib: u32,
}

impl HostPlan {
    /// Its address on the LAN, in place of the next free one.
    #[must_use]
    pub fn ip(mut self, address: &str) -> Self {
        address.clone_into(&mut self.address);
        self
    }

    /// Its memory, in MiB; 768 unless said.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Boots it on a fresh disk; returns when systemd has started everything and the engine answers.
    ///
    /// # Errors
    ///
    /// When it does not come up, or a unit fails, with the end of its console.
    pub fn boot(self) -> Result<Host> {
        let host = Host::start(self)?;
        host.ready()?;
        Ok(host)
    }
}

impl Site {
    /// A command that runs on the LAN, and dies with the thread that starts it.
    fn bound(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        // A PID namespace: when its first process is killed, the kernel ends all the others.
        command
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .args(["ip", "netns", "exec", &self.namespace])
            .args(arguments);
        command
    }

    /// Makes the end of a host's cable that is on the bridge.
    fn plug(&self, tap: &str) -> Result<()> {
        let namespace = &self.namespace;
        run(
            &mut program(
                "ip",
                &[
                    "netns", "exec", namespace, "ip", "tuntap", "add", "dev", tap, "mode", "tap",
                ],
            ),
            SHORT,
        )?
        .ok()
        .context("the kernel needs /dev/net/tun")?;
        ip(&["-n", namespace, "link", "set", tap, "master", BRIDGE])?;
        ip(&["-n", namespace, "link", "set", tap, "up"])?;
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Bridge and taps go with it.
        if let Err(error) = ip(&["netns", "del", &self.namespace]) {
            eprintln!("a namespace of a lab stays behind: {error:#}");
        }
    }
}

/// Waits until fewer than [`PLACES`] labs are there.
fn place() -> Result<Flock<File>> {
    let folder = Path::new("/run/decnet-tests");
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make {}: root is needed", folder.display()))?;
    until("a place for a lab", PLACE_LIMIT, || {
        for number in 0..PLACES {
            let path = folder.join(format!("lab-{number}"));
            let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                return Ok(Seen::Done(lock));
            }
        }
        Ok(Seen::not_yet(format!("{PLACES} labs of other tests")))
    })
}

fn ip(arguments: &[&str]) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "root is needed to make network namespaces"
    );
    run(&mut program("ip", arguments), SHORT)
        .context("install Debian's package iproute2")?
        .ok()
        .map(drop)
}
