//! How each mail server greets and acknowledges.

use std::net::IpAddr;

use serde::Deserialize;
use time::OffsetDateTime;

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
            (_, true) => format!("{name} Microsoft ESMTP MAIL Service ready at {{date}}"),
            (Mta::Postfix, _) => format!("{name} ESMTP Postfix{}", postfix_suffix(host)),
            (Mta::Exim, _) => format!(
                "{name} ESMTP Exim {} {{date}}",
                identity.choose("smtp.exim", &["4.94.2", "4.96", "4.97.1"])
            ),
            (Mta::Sendmail, _) => {
                format!(
                    "{name} ESMTP Sendmail {}; {{date}}",
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

    /// The greeting without its code. `{date}` in it is now, as RFC 5322 §3.3 writes it.
    pub(super) fn banner(&self) -> String {
        self.banner.replace("{date}", &date())
    }

    /// Whether it is Postfix, whose other words are the ones used where no more is known.
    pub(super) fn is_postfix(&self) -> bool {
        self.mta == Mta::Postfix && !self.windows
    }

    /// The largest message the packaged configuration takes, in bytes (RFC 1870).
    fn size(&self) -> Option<u32> {
        match (self.mta, self.windows) {
            (_, true) => Some(37_748_736),
            (Mta::Postfix, _) => Some(10_240_000),
            (Mta::Exim, _) => Some(52_428_800),
            (Mta::Sendmail, _) => None,
        }
    }

    /// What an unknown command is told.
    pub(super) fn unknown(&self) -> &'static str {
        match (self.mta, self.windows) {
            (_, true) => "500 5.3.3 Unrecognized command\r\n",
            (Mta::Postfix, _) => "502 5.5.2 Error: command not recognized\r\n",
            (Mta::Exim, _) => "500 unrecognized command\r\n",
            (Mta::Sendmail, _) => "500 5.5.1 Command unrecognized\r\n",
        }
    }

    /// What STARTTLS is told, which nobody here offers.
    pub(super) fn no_tls(&self) -> &'static str {
        match (self.mta, self.windows) {
            (Mta::Postfix, false) => "502 5.5.1 Error: command not implemented\r\n",
            (Mta::Exim, false) => "503 STARTTLS command used when not advertised\r\n",
            _ => self.unknown(),
        }
    }

    /// What a recipient is told whose mail is not taken here.
    pub(super) fn no_relay(&self, address: &str) -> String {
        match (self.mta, self.windows) {
            (_, true) => "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain\r\n".to_owned(),
            (Mta::Postfix, _) => format!("554 5.7.1 <{address}>: Relay access denied\r\n"),
            (Mta::Exim, _) => "550 relay not permitted\r\n".to_owned(),
            (Mta::Sendmail, _) => format!("550 5.7.1 <{address}>... Relaying denied\r\n"),
        }
    }

    /// What wrong credentials are told.
    pub(super) fn denied(&self) -> &'static str {
        match (self.mta, self.windows) {
            (_, true) => "535 5.7.3 Authentication unsuccessful\r\n",
            (Mta::Postfix, _) => "535 5.7.8 Error: authentication failed: authentication failure\r\n",
            (Mta::Exim, _) => "535 Incorrect authentication data\r\n",
            (Mta::Sendmail, _) => "535 5.7.0 authentication failed\r\n",
        }
    }

    pub(super) fn ehlo(&self, peer: IpAddr) -> String {
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
            let size = match self.size().filter(|_| extension == "SIZE") {
                Some(size) => format!(" {size}"),
                None => String::new(),
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

fn date() -> String {
    let now = OffsetDateTime::now_utc();
    let (day, month) = (now.weekday().to_string(), now.month().to_string());
    format!(
        "{}, {} {} {} {:02}:{:02}:{:02} +0000",
        &day[..3],
        now.day(),
        &month[..3],
        now.year(),
        now.hour(),
        now.minute(),
        now.second()
    )
}

/// Debian's and Ubuntu's `smtpd_banner` name the distribution.
fn postfix_suffix(host: &Host) -> &'static str {
    match (host.family, host.distro) {
        (OsFamily::Linux, Distro::Debian | Distro::Kali) => " (Debian/GNU)",
        (OsFamily::Linux, Distro::Ubuntu22 | Distro::Ubuntu20) => " (Ubuntu)",
        _ => "",
    }
}
