//! What the operators allow any bundle to ask of a host. Signed by them in a DSSE envelope of type [`PAYLOAD_TYPE`].
//!
//! A host without a policy has the built-in one of `decnet-plan`. Some things no policy can allow, so that they have no
//! words here: privileged containers, the host's namespaces, the container engine's own files.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::bundle::NetworkDriver;
use crate::egress::Destination;
use crate::ids::{Digest, FleetId, HostId, InterfaceName, ParseError, Timestamp, text_id};

/// The DSSE payload type of a policy.
pub const PAYLOAD_TYPE: &str = "application/vnd.decnet.policy+json";
/// The header of the agent API's answers with the version of the policy for the host that asks.
pub const VERSION_HEADER: &str = "decnet-policy";
/// The version of this document's form.
pub const SCHEMA: u32 = 1;

/// The rules, and whom they are for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PolicyFields")]
pub struct Policy {
    /// Always [`SCHEMA`].
    pub schema: u32,
    pub fleet: FleetId,
    /// Strictly increasing, one sequence for the whole fleet, from 1. Of those that name a host the newest counts.
    pub version: u64,
    pub issued_at: Timestamp,
    /// After this moment no new bundle is accepted. What was accepted keeps running.
    pub expires_at: Timestamp,
    /// None: every host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<BTreeSet<HostId>>,
    pub rules: Rules,
}

/// A [`Policy`] as JSON has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFields {
    schema: u32,
    fleet: FleetId,
    version: u64,
    issued_at: Timestamp,
    expires_at: Timestamp,
    #[serde(default)]
    hosts: Option<BTreeSet<HostId>>,
    rules: Rules,
}

impl TryFrom<PolicyFields> for Policy {
    type Error = PolicyError;
    fn try_from(fields: PolicyFields) -> Result<Self, PolicyError> {
        let PolicyFields {
            schema,
            fleet,
            version,
            issued_at,
            expires_at,
            hosts,
            rules,
        } = fields;
        if version == 0 {
            return Err(PolicyError::Version);
        }
        if expires_at <= issued_at {
            return Err(PolicyError::Expiry);
        }
        if hosts.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(PolicyError::NoHosts);
        }
        rules.check()?;
        Ok(Self {
            schema,
            fleet,
            version,
            issued_at,
            expires_at,
            hosts,
            rules,
        })
    }
}

/// A policy that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("a policy's version begins at 1")]
    Version,
    #[error("it expires before it was issued")]
    Expiry,
    #[error("hosts: it names none; leave it out for every host")]
    NoHosts,
    /// Who may write to the outer one could put a link to anywhere in place of the inner one.
    #[error("mounts: {inner} lies within {outer}: name paths that do not lie within each other")]
    NestedMounts { outer: HostPath, inner: HostPath },
}

impl Policy {
    /// Whether it is for this host.
    #[must_use]
    pub fn names(&self, host: HostId) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.contains(&host))
    }
}

/// What bundles may ask for. What is not named is forbidden, but where a field says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    #[serde(skip_serializing_if = "is_default")]
    pub images: Images,
    /// Capabilities that containers may be given.
    #[serde(skip_serializing_if = "is_default")]
    pub capabilities: BTreeSet<Capability>,
    /// None: those of the network namespace, `net.ipv4.*` and `net.ipv6.*`.
    #[serde(skip_serializing_if = "is_default")]
    pub sysctls: Option<BTreeSet<SysctlPattern>>,
    /// Paths of the host that containers may see.
    #[serde(skip_serializing_if = "is_default")]
    pub mounts: Vec<HostMount>,
    /// Devices of the host that containers may have.
    #[serde(skip_serializing_if = "is_default")]
    pub devices: Vec<HostDevice>,
    /// Options besides `no-new-privileges:true`, which every container has.
    #[serde(skip_serializing_if = "is_default")]
    pub security_options: BTreeSet<SecurityOption>,
    #[serde(skip_serializing_if = "is_default")]
    pub networks: Networks,
    #[serde(skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// Where deckies may call.
    #[serde(skip_serializing_if = "is_default")]
    pub egress: BTreeSet<Destination>,
}

impl Rules {
    /// Checks what no single field tells.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn check(&self) -> Result<(), PolicyError> {
        for outer in &self.mounts {
            let nested = |inner: &&HostMount| inner.path != outer.path && inner.path.is_within(&outer.path);
            if let Some(inner) = self.mounts.iter().find(nested) {
                return Err(PolicyError::NestedMounts {
                    outer: outer.path.clone(),
                    inner: inner.path.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Where images may come from. With neither digests nor repositories: from anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    /// Images by digest: of a manifest that is pulled, or every id of an archive's image.
    #[serde(skip_serializing_if = "is_default")]
    pub digests: Option<BTreeSet<Digest>>,
    /// Repositories of which every image may be pulled.
    #[serde(skip_serializing_if = "is_default")]
    pub repositories: Option<BTreeSet<Repository>>,
    /// Whether bundles may build images. None: where images may come from anywhere.
    #[serde(skip_serializing_if = "is_default")]
    pub builds: Option<bool>,
    /// Whether bundles may bring images as archives. None: yes.
    #[serde(skip_serializing_if = "is_default")]
    pub archives: Option<bool>,
}

/// One path of the host: exactly this one, nothing below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostMount {
    pub path: HostPath,
    /// Not only for reading.
    #[serde(default, skip_serializing_if = "is_default")]
    pub write: bool,
}

/// One device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostDevice {
    pub path: HostPath,
    /// What of it may be asked for, as the engine writes it.
    pub permissions: DevicePermissions,
}

/// Networks and addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Networks {
    /// None: each that a bundle can name.
    #[serde(skip_serializing_if = "is_default")]
    pub drivers: Option<BTreeSet<NetworkDriver>>,
    /// Interfaces of the host that networks may sit on. None: any.
    #[serde(skip_serializing_if = "is_default")]
    pub parents: Option<BTreeSet<InterfaceName>>,
    /// Where the addresses of deckies, of the host among them, and whole bridge networks must lie. None: anywhere.
    #[serde(skip_serializing_if = "is_default")]
    pub ranges: Option<Vec<IpNet>>,
}

/// Ceilings. None: no ceiling. A container that has no limit of its own is above every ceiling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// Bytes, for each container. Memory and swap together may be twice as much.
    #[serde(skip_serializing_if = "is_default")]
    pub memory: Option<u64>,
    /// Billionths of a core, for each container.
    #[serde(skip_serializing_if = "is_default")]
    pub nano_cpus: Option<u64>,
    /// Processes and threads, for each container.
    #[serde(skip_serializing_if = "is_default")]
    pub pids: Option<u64>,
    /// For each host.
    #[serde(skip_serializing_if = "is_default")]
    pub containers: Option<u64>,
    /// For each host.
    #[serde(skip_serializing_if = "is_default")]
    pub deckies: Option<u64>,
}

text_id!(
    /// A capability as capabilities(7) has it, without `CAP_`. `ALL` is none.
    Capability,
    "capability",
    "a capability such as NET_ADMIN, without CAP_ and in capital letters; ALL is none",
    |text| (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && !text.starts_with("CAP_")
        && text != "ALL"
);
text_id!(
    /// A sysctl, or all below one: `net.ipv4.ip_forward`, `net.ipv4.*`.
    SysctlPattern,
    "sysctl",
    "a sysctl such as net.ipv4.ip_forward, or net.ipv4.* for all below",
    |text| {
        let name = text.strip_suffix(".*").unwrap_or(text);
        (1..=256).contains(&name.len())
            && name.split('.').all(|part| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
            })
    }
);
text_id!(
    /// A path of the host, written in one way only.
    HostPath,
    "path",
    "an absolute path without '.', '..', '//' and a '/' at its end, and not the root itself",
    |text| text.len() <= 4096
        && text.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
        })
);
text_id!(
    /// An image repository, without tag or digest.
    Repository,
    "repository",
    "a repository such as registry.example/decoys/web, without tag or digest",
    |text| (1..=255).contains(&text.len())
        && text.split('/').all(|part| !part.is_empty())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':'))
        && !text.rsplit('/').next().unwrap_or_default().contains(':')
);
text_id!(
    /// A security option, to the letter.
    SecurityOption,
    "security option",
    "a security option such as apparmor=decoys, of 1 to 65536 bytes",
    |text| (1..=65_536).contains(&text.len())
);
text_id!(
    /// Any of `r` (read), `w` (write) and `m` (mknod), each once.
    DevicePermissions,
    "device permissions",
    "any of r, w and m, each once",
    |text| (1..=3).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'r' | b'w' | b'm'))
        && text.bytes().collect::<BTreeSet<_>>().len() == text.len()
);

impl SysctlPattern {
    /// Whether the sysctl of this name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self.as_str().strip_suffix('*') {
            Some(prefix) => name.len() > prefix.len() && name.starts_with(prefix),
            None => name == self.as_str(),
        }
    }
}

impl HostPath {
    /// Whether it is the other one, or lies within it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        let rest = self.as_str().strip_prefix(other.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// For fields that are left out where they say nothing.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_two_ways_is_refused() {
        for bad in ["", "/", "srv", "/srv/", "/srv//a", "/srv/./a", "/srv/../run"] {
            assert!(bad.parse::<HostPath>().is_err(), "{bad}");
        }
        for bad in ["ALL", "CAP_NET_ADMIN", "net_admin", ""] {
            assert!(bad.parse::<Capability>().is_err(), "{bad}");
        }
        for bad in ["*", "", ".*", "net..ipv4", "net.ip*", "net.*.a"] {
            assert!(bad.parse::<SysctlPattern>().is_err(), "{bad}");
        }
        for bad in ["nginx:1", "a@sha256:00", "A/b", "a//b", ""] {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
        for bad in ["", "rr", "x", "rwmr"] {
            assert!(bad.parse::<DevicePermissions>().is_err(), "{bad}");
        }
        assert!("localhost:5000/a".parse::<Repository>().is_ok());
    }

    #[test]
    fn a_pattern_means_what_is_below_it() {
        let below: SysctlPattern = "net.ipv4.*".parse().unwrap();
        assert!(below.matches("net.ipv4.ip_forward"));
        assert!(!below.matches("net.ipv4"));
        assert!(!below.matches("net.ipv4."));
        assert!(!below.matches("net.ipv40.x"));
        let one: SysctlPattern = "net.ipv4.ip_forward".parse().unwrap();
        assert!(one.matches("net.ipv4.ip_forward"));
        assert!(!one.matches("net.ipv4.ip_forward.x"));
    }

    #[test]
    fn a_writer_cannot_put_a_link_in_place_of_another_mount() {
        let mount = |path: &str| HostMount {
            path: path.parse().unwrap(),
            write: true,
        };
        let rules = |paths: &[&str]| Rules {
            mounts: paths.iter().map(|path| mount(path)).collect(),
            ..Rules::default()
        };
        assert_eq!(rules(&["/srv/a", "/srv/ab"]).check(), Ok(()));
        assert!(matches!(
            rules(&["/srv/a/b", "/srv/a"]).check(),
            Err(PolicyError::NestedMounts { .. })
        ));
    }
}
