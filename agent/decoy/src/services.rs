//! The table of services. A new one is a module, a row, and an entry of the catalogue that says the same.

mod ftp;
mod http;
mod https;
mod imap;
mod mailbox;
mod mqtt;
mod mysql;
mod pop3;
mod postgres;
mod redis;
mod sasl;
mod smtp;
mod snmp;
mod ssh;
mod telnet;
mod vnc;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::Failure;
use crate::environment::Context;

/// What a service's `run` returns: it ends only when the service cannot start.
type Running = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// What carries a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One task a connection.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// The persona of services that give a shell.
const SHELL: &[&str] = &["password", "user", "user_password", "hostname"];

/// A row of the table.
#[derive(Debug)]
pub struct Service {
    /// The name it is started by, and the catalogue's.
    pub slug: &'static str,
    /// The port it listens on.
    pub port: u16,
    /// The transport of that port.
    pub transport: Transport,
    /// The persona keys it reads. It is shown no others.
    pub persona: &'static [&'static str],
    /// Serves until dropped.
    pub run: fn(Context) -> Running,
}

/// Every service, by slug.
pub const TABLE: &[Service] = &[
    Service {
        slug: "ftp",
        port: 21,
        transport: Transport::Tcp,
        persona: &[],
        run: |context| Box::pin(ftp::run(context)),
    },
    Service {
        slug: "http",
        port: 80,
        transport: Transport::Tcp,
        persona: &[
            "server_header",
            "response_code",
            "fake_app",
            "extra_headers",
            "custom_body",
            "http_versions",
        ],
        run: |context| Box::pin(http::run(context)),
    },
    Service {
        slug: "https",
        port: 443,
        transport: Transport::Tcp,
        persona: &[
            "server_header",
            "response_code",
            "fake_app",
            "extra_headers",
            "custom_body",
            "http_versions",
            "tls_cn",
            "tls_cert",
            "tls_key",
        ],
        run: |context| Box::pin(https::run(context)),
    },
    Service {
        slug: "imap",
        port: 143,
        transport: Transport::Tcp,
        persona: &[],
        run: |context| Box::pin(imap::run(context)),
    },
    Service {
        slug: "mqtt",
        port: 1883,
        transport: Transport::Tcp,
        persona: &[],
        run: |context| Box::pin(mqtt::run(context)),
    },
    Service {
        slug: "mysql",
        port: 3306,
        transport: Transport::Tcp,
        persona: &["version"],
        run: |context| Box::pin(mysql::run(context)),
    },
    Service {
        slug: "pop3",
        port: 110,
        transport: Transport::Tcp,
        persona: &[],
        run: |context| Box::pin(pop3::run(context)),
    },
    Service {
        slug: "postgres",
        port: 5432,
        transport: Transport::Tcp,
        persona: &[],
        run: |context| Box::pin(postgres::run(context)),
    },
    Service {
        slug: "redis",
        port: 6379,
        transport: Transport::Tcp,
        persona: &["version", "os_string"],
        run: |context| Box::pin(redis::run(context)),
    },
    Service {
        slug: "smtp",
        port: 25,
        transport: Transport::Tcp,
        persona: &["banner", "mta"],
        run: |context| Box::pin(smtp::run(context, smtp::Relaying::Closed)),
    },
    Service {
        slug: "smtp_relay",
        port: 25,
        transport: Transport::Tcp,
        persona: &["banner", "mta"],
        run: |context| Box::pin(smtp::run(context, smtp::Relaying::Open)),
    },
    Service {
        slug: "snmp",
        port: 161,
        transport: Transport::Udp,
        persona: &[],
        run: |context| Box::pin(snmp::run(context)),
    },
    Service {
        slug: "ssh",
        port: 22,
        transport: Transport::Tcp,
        persona: SHELL,
        run: |context| Box::pin(ssh::run(context)),
    },
    Service {
        slug: "telnet",
        port: 23,
        transport: Transport::Tcp,
        persona: SHELL,
        run: |context| Box::pin(telnet::run(context)),
    },
    Service {
        slug: "vnc",
        port: 5900,
        transport: Transport::Tcp,
        persona: &[],
        run: |context| Box::pin(vnc::run(context)),
    },
];

/// The service called `slug`.
#[must_use]
pub fn find(slug: &str) -> Option<&'static Service> {
    TABLE.iter().find(|service| service.slug == slug)
}

/// All slugs, for a message.
#[must_use]
pub fn slugs() -> String {
    TABLE
        .iter()
        .map(|service| service.slug)
        .collect::<Vec<_>>()
        .join(", ")
}
