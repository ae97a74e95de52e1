//! The store: every record of the master, behind one trait.
//!
//! [`Store`] is a key-value store with ordered tables, snapshot reads and serialised all-or-nothing writes: small
//! enough for a replicated store to take redb's place. [`Db`] adds types: a [`Record`] knows its table, its key
//! and its version. All writes of one request happen in one [`Db::change`],
//! which takes the entry for the audit log as well; [`Db::bookkeep`] writes what nobody decided.

mod embedded;
mod measured;
mod typed;

use std::fmt;

pub use embedded::RedbStore;
pub use typed::{Db, Reader, Record, Writer};

/// The tables. A table's name on disk never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    Settings,
    Deckies,
    Hosts,
    HostStatus,
    Bundles,
    Envelopes,
    Observed,
    Rows,
    EnrolTokens,
    ApiTokens,
    Policies,
    Audit,
    Certificates,
    RevocationLists,
    Awaited,
    Departures,
    Releases,
    Rollout,
}

impl Table {
    /// Every table, so that a store can make them all before the first read.
    pub const ALL: [Self; 18] = [
        Self::Settings,
        Self::Deckies,
        Self::Hosts,
        Self::HostStatus,
        Self::Bundles,
        Self::Envelopes,
        Self::Observed,
        Self::Rows,
        Self::EnrolTokens,
        Self::ApiTokens,
        Self::Policies,
        Self::Audit,
        Self::Certificates,
        Self::RevocationLists,
        Self::Awaited,
        Self::Departures,
        Self::Releases,
        Self::Rollout,
    ];

    /// The name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Deckies => "deckies",
            Self::Hosts => "hosts",
            Self::HostStatus => "host-status",
            Self::Bundles => "bundles",
            Self::Envelopes => "envelopes",
            Self::Observed => "observed",
            Self::Rows => "lifecycle-rows",
            Self::EnrolTokens => "enrol-tokens",
            Self::ApiTokens => "api-tokens",
            Self::Policies => "policies",
            Self::Audit => "audit",
            Self::Certificates => "certificates",
            Self::RevocationLists => "revocation-lists",
            Self::Awaited => "awaited-hosts",
            Self::Departures => "departures",
            Self::Releases => "releases",
            Self::Rollout => "rollout",
        }
    }
}

/// What went wrong between the master and its store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("could not open the store {path}")]
    Open {
        path: String,
        #[source]
        source: redb::Error,
    },
    #[error("another master holds the store {path}")]
    Held { path: String },
    #[error("the store {path} is damaged: put a copy of it in its place, the keys beside it are still good")]
    Damaged {
        path: String,
        #[source]
        source: redb::Error,
    },
    #[error("could not {action} the store")]
    Access {
        action: &'static str,
        #[source]
        source: redb::Error,
    },
    #[error("the record {key} of the table {table} has version {found}; this master reads up to {known}")]
    Version {
        table: &'static str,
        key: String,
        found: u8,
        known: u8,
    },
    #[error("the record {key} of the table {table} is damaged")]
    Decode {
        table: &'static str,
        key: String,
        #[source]
        source: serde_json::Error,
    },
    /// A defect of this program: nothing was changed.
    #[error("the table {table} would have been changed, and the audit log not told")]
    Unaudited { table: &'static str },
    /// A defect of this program: nothing was changed.
    #[error("the record {key} of the table {table} stays as it is: {why}")]
    Immutable {
        table: &'static str,
        key: String,
        why: &'static str,
    },
    #[error("the audit log has an entry that none can follow: put a copy of the store in its place")]
    Chain,
    #[error("a record of the table {table} could not be written as JSON")]
    Encode {
        table: &'static str,
        #[source]
        source: serde_json::Error,
    },
}

/// In which order a table is read, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order<'a> {
    Ascending,
    Descending,
    /// Ascending, from this key on.
    From(&'a [u8]),
}

/// A snapshot of all tables.
pub trait View {
    /// The value under a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Calls `visit` for every entry in this order of keys, until it returns `false`.
    fn scan(
        &self,
        table: Table,
        order: Order<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError>;
    /// How many entries a table has, without reading them.
    fn count(&self, table: Table) -> Result<u64, StoreError>;
}

/// A write in progress. Reads see what was written before in the same transaction.
pub trait Transaction: View {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError>;
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError>;
}

/// Whether a transaction's writes are to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Commit,
    Abort,
}

/// An ordered, transactional key-value store.
///
/// Guarantees: a view never changes; a committed transaction is durable when `transact` returns; transactions
/// happen one after another.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    fn view(&self) -> Result<Box<dyn View + '_>, StoreError>;
    fn transact(&self, work: &mut dyn FnMut(&mut dyn Transaction) -> Decision) -> Result<(), StoreError>;
}
