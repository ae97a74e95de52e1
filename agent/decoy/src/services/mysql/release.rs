//! Which server this is.

use crate::host::{Distro, Host, OsFamily};
use crate::identity::Identity;

/// Generations whose greetings differ in more than the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    MariaDb,
    MySql5,
    MySql8,
}

/// A version string, and what goes with it in the greeting.
#[derive(Debug)]
pub(super) struct Release {
    pub(super) version: String,
    pub(super) family: Family,
}

impl Release {
    pub(super) fn new(identity: &Identity, host: &Host, version: Option<String>) -> Self {
        // A NUL would end the version early and shift everything after it.
        let version = version.map(|version| version.replace('\0', ""));
        let version = version.unwrap_or_else(|| identity.choose("mysql.version", shipped(host)).to_owned());
        let major = version
            .split('.')
            .next()
            .and_then(|number| number.parse::<u32>().ok());
        let family = match major {
            _ if version.contains("MariaDB") => Family::MariaDb,
            Some(..8) => Family::MySql5,
            _ => Family::MySql8,
        };
        Self { version, family }
    }

    /// The default authentication method.
    pub(super) fn plugin(&self) -> &'static str {
        if self.family == Family::MySql8 {
            "caching_sha2_password"
        } else {
            super::NATIVE
        }
    }

    /// Collation id of the default character set: utf8mb4_0900_ai_ci, utf8mb4_general_ci, latin1_swedish_ci.
    pub(super) fn collation(&self) -> u8 {
        match self.family {
            Family::MySql8 => 255,
            Family::MariaDb => 45,
            Family::MySql5 => 8,
        }
    }
}

/// Versions as their servers announce them. `5.5.5-` is MariaDB's prefix for old replication clients.
fn shipped(host: &Host) -> &'static [&'static str] {
    if host.family.is_windows() {
        return &[
            "8.0.36",
            "8.0.33",
            "8.0.35",
            "5.7.44-log",
            "5.5.5-10.4.32-MariaDB",
        ];
    }
    if host.family == OsFamily::Bsd {
        return &["8.0.35", "8.0.36", "5.7.44-log", "5.5.5-10.6.16-MariaDB"];
    }
    match host.distro {
        Distro::Debian => &[
            "5.5.5-10.11.6-MariaDB-0+deb12u1",
            "5.5.5-10.11.4-MariaDB-1~deb12u1",
            "5.5.5-10.11.3-MariaDB-1",
            "8.0.36",
        ],
        Distro::Ubuntu22 => &[
            "8.0.36-0ubuntu0.22.04.1",
            "8.0.35-0ubuntu0.22.04.1",
            "8.0.37-0ubuntu0.22.04.3",
            "5.5.5-10.6.16-MariaDB-0ubuntu0.22.04.1",
        ],
        Distro::Ubuntu20 => &[
            "8.0.36-0ubuntu0.20.04.1",
            "8.0.35-0ubuntu0.20.04.1",
            "8.0.37-0ubuntu0.20.04.3",
            "5.5.5-10.3.39-MariaDB-0ubuntu0.20.04.2",
        ],
        Distro::Rocky9 => &["8.0.32", "8.0.36", "5.5.5-10.5.22-MariaDB"],
        Distro::Centos7 => &["5.5.68-MariaDB", "5.7.44", "5.5.65-MariaDB"],
        Distro::Alpine => &[
            "5.5.5-10.11.6-MariaDB",
            "5.5.5-10.11.8-MariaDB-log",
            "5.5.5-10.11.5-MariaDB",
        ],
        Distro::Fedora => &["8.0.35", "8.0.36", "5.5.5-10.5.23-MariaDB"],
        Distro::Kali | Distro::Arch => &[
            "5.5.5-10.11.7-MariaDB-2",
            "5.5.5-11.4.2-MariaDB",
            "5.5.5-11.2.3-MariaDB",
        ],
    }
}
