//! The audit log's documents.

use std::net::IpAddr;

use decnet_wire::ids::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A part of the audit log, in the order of its numbers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// As they are stored: `digest` can be computed from the rest.
    #[schema(value_type = Vec<AuditEntryView>)]
    pub entries: Vec<Value>,
    /// What to give as `after` for what comes next; null at the end of the log.
    pub next: Option<u64>,
    /// The newest entry of the whole log; null while there is none.
    pub head: Option<AuditHeadView>,
}

/// The end of the audit log: whoever keeps it elsewhere can tell later whether the log was cut off or rewritten.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditHeadView {
    pub seq: u64,
    /// As in `sha256:…`.
    pub digest: String,
}

/// One entry of the audit log.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEntryView {
    /// The version of this form: 1.
    pub schema: u32,
    /// From 1 on, without a gap.
    pub seq: u64,
    #[schema(value_type = String, format = "date-time")]
    pub at: Timestamp,
    /// `kind` is `token` (with `name` and `role`), `local` (a process of this `uid` on the master's machine), `host`
    /// (with `name` and `id`), `master` (by its timers) or `stranger`.
    #[schema(value_type = Object)]
    pub actor: Value,
    /// The address that it came from.
    #[schema(value_type = Option<String>)]
    pub from: Option<IpAddr>,
    /// Such as `decky.deploy`; those of alarms begin with `alarm.`.
    pub action: String,
    /// `fleet`, `trust-root`, or a kind and a name as in `host/edge-01`.
    pub subject: String,
    /// What of it was so before; null where there was nothing.
    #[schema(value_type = Object)]
    pub before: Value,
    /// What of it is so since.
    #[schema(value_type = Object)]
    pub after: Value,
    /// The digest of the entry before; of the first one, 64 zeros.
    pub previous: String,
    /// SHA-256 of the entry's canonical form (RFC 8785) without this member, as in `sha256:…`.
    pub digest: String,
}
