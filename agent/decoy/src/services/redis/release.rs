//! Which Redis this is: the version a distribution ships, on the kernel it ships.

use crate::host::{Distro, Host, OsFamily};
use crate::identity::Identity;

/// A release and the machine it was built for.
#[derive(Debug, Clone)]
pub(super) struct Release {
    pub(super) version: String,
    /// First number of the version; 7 when the persona's text has none.
    pub(super) major: u32,
    pub(super) os: String,
    pub(super) gcc: &'static str,
    pub(super) build_id: String,
}

impl Release {
    pub(super) fn new(identity: &Identity, host: &Host, version: Option<String>, os: Option<String>) -> Self {
        let (versions, kernels, gcc): (&[&str], &[&str], &str) = shipped(host);
        let version = version.unwrap_or_else(|| identity.choose("redis.version", versions).to_owned());
        let major = version
            .split('.')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(7);
        let os = os.unwrap_or_else(|| identity.choose("redis.kernel", kernels).to_owned());
        Self {
            version,
            major,
            os,
            gcc,
            build_id: identity.hex::<8>("redis.build"),
        }
    }

    pub(super) fn is_windows(&self) -> bool {
        self.os.starts_with("Windows")
    }
}

/// Versions, kernels as `uname -srm` prints them, and the compiler.
fn shipped(host: &Host) -> (&'static [&'static str], &'static [&'static str], &'static str) {
    if host.family.is_windows() {
        return (&["3.0.504", "5.0.14.1", "5.0.10"], &["Windows  "], "0.0.0");
    }
    if host.family == OsFamily::Bsd {
        let kernels = &["FreeBSD 13.2-RELEASE amd64", "FreeBSD 14.0-RELEASE amd64"];
        return (&["7.0.15", "7.2.4", "6.2.14"], kernels, "4.2.1");
    }
    match host.distro {
        Distro::Debian => (
            &["7.0.15", "7.0.11", "6.0.16"],
            &[
                "Linux 6.1.0-18-amd64 x86_64",
                "Linux 6.1.0-21-amd64 x86_64",
                "Linux 6.1.0-13-amd64 x86_64",
            ],
            "12.2.0",
        ),
        Distro::Ubuntu22 => (
            &["6.0.16", "7.0.12", "7.2.4"],
            &[
                "Linux 5.15.0-91-generic x86_64",
                "Linux 5.15.0-105-generic x86_64",
                "Linux 5.15.0-78-generic x86_64",
            ],
            "11.2.0",
        ),
        Distro::Ubuntu20 => (
            &["5.0.7", "6.2.14", "6.0.20"],
            &[
                "Linux 5.4.0-169-generic x86_64",
                "Linux 5.4.0-182-generic x86_64",
                "Linux 5.4.0-150-generic x86_64",
            ],
            "9.3.0",
        ),
        Distro::Rocky9 => (
            &["6.2.7", "6.2.17", "7.0.12"],
            &[
                "Linux 5.14.0-362.8.1.el9_3.x86_64 x86_64",
                "Linux 5.14.0-427.16.1.el9_4.x86_64 x86_64",
            ],
            "11.4.1",
        ),
        Distro::Centos7 => (
            &["3.2.12", "5.0.14", "6.2.6"],
            &[
                "Linux 3.10.0-1160.el7.x86_64 x86_64",
                "Linux 3.10.0-1160.105.1.el7.x86_64 x86_64",
            ],
            "4.8.5",
        ),
        Distro::Alpine => (
            &["7.2.4", "7.2.5", "7.0.15"],
            &[
                "Linux 6.6.14-0-lts x86_64",
                "Linux 6.6.31-0-lts x86_64",
                "Linux 6.6.8-0-virt x86_64",
            ],
            "13.2.1",
        ),
        Distro::Fedora => (
            &["7.2.4", "7.2.3", "7.0.15"],
            &[
                "Linux 6.5.6-300.fc39.x86_64 x86_64",
                "Linux 6.8.9-200.fc39.x86_64 x86_64",
            ],
            "13.2.1",
        ),
        Distro::Kali | Distro::Arch => (
            &["7.2.5", "7.0.15", "7.2.4"],
            &[
                "Linux 6.6.9-amd64 x86_64",
                "Linux 6.8.11-amd64 x86_64",
                "Linux 6.9.7-arch1-1 x86_64",
            ],
            "13.2.0",
        ),
    }
}
