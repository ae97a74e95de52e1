//! The mail that pop3 and imap show after a login: the same on both, and the seed's choice.

use crate::host::Host;
use crate::identity::Identity;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) from: String,
    pub(super) subject: String,
    /// RFC 5322 §3.3.
    pub(super) date: String,
    pub(super) id: String,
    /// Headers, an empty line and the body; CR LF line ends.
    pub(super) source: String,
}

impl Message {
    /// Headers with the empty line after them, and the body.
    pub(super) fn parts(&self) -> (&str, &str) {
        let at = self
            .source
            .find("\r\n\r\n")
            .map_or(self.source.len(), |at| at + 4);
        self.source.split_at(at)
    }
}

const SUBJECTS: &[(&str, &str)] = &[
    (
        "VPN access from Monday",
        "The new gateway replaces the old one on Monday. Your account is moved already.",
    ),
    (
        "Backup report",
        "All jobs ended without errors. 412 GB were written, 3 files were skipped.",
    ),
    (
        "Re: invoice",
        "Please find the corrected amount in the shared folder, under Finance.",
    ),
    (
        "Password will expire",
        "Your password expires in 7 days. Change it on any machine of the domain.",
    ),
    (
        "Maintenance window",
        "File server and mail are restarted on Saturday between 22:00 and 23:00.",
    ),
    (
        "Minutes",
        "We agreed on the second offer. Who sends the contract?",
    ),
    (
        "Printer on floor 2",
        "It takes jobs again. The driver on the print server was updated.",
    ),
    (
        "Access to the wiki",
        "You can log in with your mail address and the password you use here.",
    ),
];

const SENDERS: &[&str] = &[
    "it", "helpdesk", "backup", "office", "accounts", "admin", "no-reply", "printer",
];

/// The mailbox of `user`: three to eight messages, oldest first.
pub(super) fn of(host: &Host, identity: &Identity, user: &str) -> Vec<Message> {
    let domain = domain(host);
    let user = user.split('@').next().unwrap_or(user);
    let count = identity.number("mailbox.count", 3..=8);
    let first = identity.number("mailbox.first", 0..=7);
    let mut day = identity.number("mailbox.day", 1..=20);
    (0..count)
        .map(|n| {
            let pick = |what: &str, range| identity.number(&format!("mailbox.{n}.{what}"), range);
            let (subject, body) = SUBJECTS[usize::try_from((first + n) % 8).unwrap_or(0)];
            let sender = SENDERS[usize::try_from(pick("sender", 0..=7)).unwrap_or(0)];
            day += pick("gap", 0..=1);
            let (hour, minute, second) = (
                pick("hour", 7..=18),
                pick("minute", 0..=59),
                pick("second", 0..=59),
            );
            // March 2024 began on a Friday.
            let weekday =
                ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][usize::try_from(day % 7).unwrap_or(0)];
            let date = format!("{weekday}, {day:02} Mar 2024 {hour:02}:{minute:02}:{second:02} +0000");
            let id = format!("{}@{domain}", identity.hex::<8>(&format!("mailbox.{n}.id")));
            let from = format!("{sender}@{domain}");
            let source = format!(
                "Date: {date}\r\nFrom: {from}\r\nTo: {user}@{domain}\r\nSubject: {subject}\r\n\
                 Message-ID: <{id}>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
                 {body}\r\n"
            );
            Message {
                from,
                subject: subject.to_owned(),
                date,
                id,
                source,
            }
        })
        .collect()
}

/// The mail domain of a machine: its own, or one of its name.
pub(super) fn domain(host: &Host) -> String {
    match host.hostname.split_once('.') {
        Some((_, domain)) if !domain.is_empty() => domain.to_lowercase(),
        _ => format!("{}.local", host.hostname.to_lowercase()),
    }
}
