//! What kind of machine the decky pretends to be.

use std::str::FromStr;

/// The operating system family whose network behaviour the base container shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OsFamily {
    /// Any Linux distribution; [`Distro`] says which.
    Linux,
    /// A Windows workstation.
    Windows,
    /// A Windows server.
    WindowsServer,
    /// FreeBSD and its like.
    Bsd,
    /// A small device: printer, camera, controller.
    Embedded,
    /// Cisco IOS.
    Cisco,
}

impl OsFamily {
    /// True for both Windows families.
    #[must_use]
    pub fn is_windows(self) -> bool {
        matches!(self, Self::Windows | Self::WindowsServer)
    }
}

impl FromStr for OsFamily {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "linux" => Self::Linux,
            "windows" => Self::Windows,
            "windows_server" => Self::WindowsServer,
            "bsd" => Self::Bsd,
            "embedded" => Self::Embedded,
            "cisco" => Self::Cisco,
            _ => return Err("linux, windows, windows_server, bsd, embedded or cisco"),
        })
    }
}

/// The Linux distribution a decky is dressed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distro {
    /// Debian 12.
    Debian,
    /// Ubuntu 22.04.
    Ubuntu22,
    /// Ubuntu 20.04.
    Ubuntu20,
    /// Rocky Linux 9.
    Rocky9,
    /// CentOS 7.
    Centos7,
    /// Alpine 3.19.
    Alpine,
    /// Fedora 39.
    Fedora,
    /// Kali, rolling.
    Kali,
    /// Arch, rolling.
    Arch,
}

impl FromStr for Distro {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "debian" => Self::Debian,
            "ubuntu22" => Self::Ubuntu22,
            "ubuntu20" => Self::Ubuntu20,
            "rocky9" => Self::Rocky9,
            "centos7" => Self::Centos7,
            "alpine" => Self::Alpine,
            "fedora" => Self::Fedora,
            "kali" => Self::Kali,
            "arch" => Self::Arch,
            _ => {
                return Err("debian, ubuntu22, ubuntu20, rocky9, centos7, alpine, fedora, kali or arch");
            }
        })
    }
}

/// The machine a service belongs to.
#[derive(Debug, Clone)]
pub struct Host {
    /// The decky's name in the fleet; never shown to a visitor.
    pub node: String,
    /// The host name that visitors see.
    pub hostname: String,
    /// The operating system family.
    pub family: OsFamily,
    /// The distribution; it decides what services show when the family is Linux.
    pub distro: Distro,
}

impl Host {
    /// The first label of the host name, as prompts show it.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.hostname.split('.').next().unwrap_or(&self.hostname)
    }
}
