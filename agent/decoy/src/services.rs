//! The table of services. A new one is a module and a row.

mod mqtt;
mod mysql;
mod postgres;
mod redis;
mod snmp;
mod telnet;
mod vnc;

use std::future::Future;
use std::pin::Pin;

use crate::Failure;
use crate::environment::Context;

/// What a service's `run` returns: it ends only when the service cannot start.
type Running = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// A row of the table.
#[derive(Debug)]
pub struct Service {
    /// The name it is started by, and the catalogue's.
    pub slug: &'static str,
    /// The port it listens on.
    pub port: u16,
    /// Serves until dropped.
    pub run: fn(Context) -> Running,
}

/// Every service, by slug.
pub const TABLE: &[Service] = &[
    Service {
        slug: "mqtt",
        port: 1883,
        run: |context| Box::pin(mqtt::run(context)),
    },
    Service {
        slug: "mysql",
        port: 3306,
        run: |context| Box::pin(mysql::run(context)),
    },
    Service {
        slug: "postgres",
        port: 5432,
        run: |context| Box::pin(postgres::run(context)),
    },
    Service {
        slug: "redis",
        port: 6379,
        run: |context| Box::pin(redis::run(context)),
    },
    Service {
        slug: "snmp",
        port: 161,
        run: |context| Box::pin(snmp::run(context)),
    },
    Service {
        slug: "telnet",
        port: 23,
        run: |context| Box::pin(telnet::run(context)),
    },
    Service {
        slug: "vnc",
        port: 5900,
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
