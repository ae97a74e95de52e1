//! How each mail server greets and acknowledges.

use std::net::IpAddr;

use serde::Deserialize;

use crate::host::{Distro, Host, OsFamily};
use crate::identity::Identity;

/// The persona's `mta`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mta {
    #[default]
    Postfix,
    Exim,
    Sendmail,
}

pub(super) struct Software {
    mta: Mta,
    windows: bool,
    name: String,
    banner: String,
    identity: Identity,
}

impl Software {
    pub(super) fn new(host: &Host, identity: &Identity, mta: Mta, banner: Option<String>) -> Self {
        let name = host.hostname.to_lowercase();
        let windows = host.family.is_windows();
        let own = match (mta, windows) {
            (_, true) => format!("{name} Microsoft ESMTP MAIL Service ready"),
            (Mta::Postfix, _) => format!("{name} ESMTP Postfix{}", postfix_suffix(host)),
            (Mta::Exim, _) => format!(
                "{name} ESMTP Exim {}",
                identity.choose("smtp.exim", &["4.94.2", "4.96", "4.97.1"])
            ),
            (Mta::Sendmail, _) => {
                format!(
                    "{name} ESMTP Sendmail {}",
                    identity.choose("smtp.sendmail", &["8.15.2/8.15.2", "8.17.1/8.17.1"])
                )
            }
        };
        // One line: a persona's line feeds would start a reply of their own.
        let banner = banner.filter(|text| !text.trim().is_empty());
        let banner = banner.map_or(own, |text| text.replace(['\r', '\n'], " "));
        let banner = banner.strip_prefix("220 ").map(str::to_owned).unwrap_or(banner);
        Self {
            mta,
            windows,
            name,
            banner,
            identity: identity.clone(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn banner(&self) -> &str {
        &self.banner
    }

    pub(super) fn ehlo(&self, peer: IpAddr, size: usize) -> String {
        let (first, extensions) = match (self.mta, self.windows) {
            (_, true) => (
                format!("{} Hello [{peer}]", self.name),
                vec![
                    "SIZE",
                    "PIPELINING",
                    "DSN",
                    "ENHANCEDSTATUSCODES",
                    "AUTH LOGIN PLAIN",
                    "8BITMIME",
                    "OK",
                ],
            ),
            (Mta::Postfix, _) => (
                self.name.clone(),
                vec![
                    "PIPELINING",
                    "SIZE",
                    "VRFY",
                    "ETRN",
                    "AUTH PLAIN LOGIN",
                    "ENHANCEDSTATUSCODES",
                    "8BITMIME",
                    "DSN",
                    "SMTPUTF8",
                ],
            ),
            (Mta::Exim, _) => (
                format!("{} Hello [{peer}]", self.name),
                vec!["SIZE", "8BITMIME", "PIPELINING", "AUTH PLAIN LOGIN", "HELP"],
            ),
            (Mta::Sendmail, _) => (
                format!("{} Hello [{peer}], pleased to meet you", self.name),
                vec![
                    "ENHANCEDSTATUSCODES",
                    "PIPELINING",
                    "8BITMIME",
                    "SIZE",
                    "DSN",
                    "AUTH LOGIN PLAIN",
                    "HELP",
                ],
            ),
        };
        let mut reply = format!("250-{first}\r\n");
        for (left, extension) in (0..extensions.len()).rev().zip(extensions) {
            let dash = if left == 0 { ' ' } else { '-' };
            let size = if extension == "SIZE" {
                format!(" {size}")
            } else {
                String::new()
            };
            reply.push_str(&format!("250{dash}{extension}{size}\r\n"));
        }
        reply
    }

    /// The acknowledgement of a message; its queue id depends on the message.
    pub(super) fn queued(&self, head: &[u8]) -> String {
        let label = format!("smtp.queue.{}", String::from_utf8_lossy(head));
        let id = self.identity.hex::<5>(&label).to_uppercase();
        match (self.mta, self.windows) {
            (_, true) => format!("250 2.6.0 <{id}@{}> Queued mail for delivery\r\n", self.name),
            (Mta::Postfix, _) => format!("250 2.0.0 Ok: queued as {id}\r\n"),
            (Mta::Exim, _) => format!("250 OK id=1r{}-000{}-{}\r\n", &id[..4], &id[4..7], &id[8..]),
            (Mta::Sendmail, _) => format!("250 2.0.0 {id} Message accepted for delivery\r\n"),
        }
    }

    pub(super) fn goodbye(&self) -> String {
        match (self.mta, self.windows) {
            (_, true) => format!("221 2.0.0 {} Service closing transmission channel\r\n", self.name),
            (Mta::Postfix, _) => "221 2.0.0 Bye\r\n".to_owned(),
            (Mta::Exim | Mta::Sendmail, _) => format!("221 2.0.0 {} closing connection\r\n", self.name),
        }
    }
}

/// Debian's and Ubuntu's `smtpd_banner` name the distribution.
fn postfix_suffix(host: &Host) -> &'static str {
    match (host.family, host.distro) {
        (OsFamily::Linux, Distro::Debian | Distro::Kali) => " (Debian/GNU)",
        (OsFamily::Linux, Distro::Ubuntu22 | Distro::Ubuntu20) => " (Ubuntu)",
        _ => "",
    }
}
