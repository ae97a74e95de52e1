//! How each ftp server words its replies.

use crate::host::{Distro, Host, OsFamily};
use crate::identity::Identity;

pub(super) struct Software {
    /// `{ip}` stands for the decky's own address.
    pub(super) banner: String,
    /// `{user}` stands for what was sent.
    pub(super) ask_password: &'static str,
    pub(super) welcome: &'static str,
    pub(super) refusal: &'static str,
    pub(super) ask_login: &'static str,
    pub(super) system: &'static str,
    /// With its code and line end.
    pub(super) goodbye: &'static str,
}

impl Software {
    pub(super) fn of(host: &Host, identity: &Identity) -> Self {
        if host.family.is_windows() {
            return Self {
                banner: "Microsoft FTP Service".to_owned(),
                ask_password: "Password required",
                welcome: "User logged in.",
                refusal: "User cannot log in.",
                ask_login: "Please login with USER and PASS.",
                system: "Windows_NT",
                goodbye: "221 Goodbye.\r\n",
            };
        }
        let vsftpd = match (host.family, host.distro) {
            (OsFamily::Embedded | OsFamily::Cisco | OsFamily::Bsd, _) => None,
            (_, Distro::Centos7) => Some("3.0.2"),
            (_, Distro::Ubuntu20 | Distro::Debian) => Some("3.0.3"),
            _ => Some("3.0.5"),
        };
        // Half of the full-size machines run ProFTPD.
        let vsftpd = vsftpd.filter(|_| identity.number("ftp.software", 0..=1) == 0);
        match vsftpd {
            Some(version) => Self {
                banner: format!("(vsFTPd {version})"),
                ask_password: "Please specify the password.",
                welcome: "Login successful.",
                refusal: "Login incorrect.",
                ask_login: "Please login with USER and PASS.",
                system: "UNIX Type: L8",
                goodbye: "221 Goodbye.\r\n",
            },
            None => Self {
                banner: match host.family {
                    OsFamily::Embedded | OsFamily::Cisco => "FTP server ready.".to_owned(),
                    // ServerName of the packaged configuration, and the address visited.
                    _ => match host.distro {
                        Distro::Debian | Distro::Kali | Distro::Ubuntu20 | Distro::Ubuntu22 => {
                            "ProFTPD Server (Debian) [::ffff:{ip}]".to_owned()
                        }
                        _ => "ProFTPD Server (ProFTPD Default Installation) [{ip}]".to_owned(),
                    },
                },
                ask_password: "Password required for {user}",
                welcome: "User {user} logged in",
                refusal: "Login incorrect.",
                ask_login: "Please login with USER and PASS",
                system: "UNIX Type: L8",
                goodbye: "221 Goodbye.\r\n",
            },
        }
    }
}
