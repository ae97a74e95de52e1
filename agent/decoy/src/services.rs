//! The table of services. A new one is a module and a row.

mod telnet;

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
pub const TABLE: &[Service] = &[Service {
    slug: "telnet",
    port: 23,
    run: |context| Box::pin(telnet::run(context)),
}];

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
