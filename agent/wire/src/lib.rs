//! The documents that DECNET's master and agents exchange, and nothing else.
//!
//! Every top-level document carries `schema`, is closed (an unknown field is an error) and has golden files
//! under `tests/golden/` that are only ever added to. The crate holds no I/O, no clock and no decisions.
//!
//! | module | documents |
//! | --- | --- |
//! | [`ids`] | the names, ids and digests that cannot be wrong |
//! | [`bundle`] | one host's desired state (signed by the master's online key) |
//! | [`observed`] | what an agent sees on its engine |
//! | [`report`] | what an agent tells the master, and the answer |
//! | [`enrol`] | token, request and response of enrolment |
//! | [`trust`] | the trust root that enrolment pins |
//! | [`order`] | what a host is told about itself (signed by the operators), and its receipt |
//! | [`policy`] | what bundles may ask of hosts (signed by the operators) |
//! | [`release`] | versions of the agent that hosts may install (signed by the operators) |
//! | [`egress`] | where a decky may call |
//! | [`trace`] | which trace an operation belongs to |

pub mod bundle;
pub mod egress;
pub mod enrol;
pub mod ids;
pub mod observed;
pub mod order;
pub mod policy;
pub mod release;
pub mod report;
pub mod trace;
pub mod trust;

/// Upper bounds on what is read from the other side, in bytes. Checked before anything is parsed.
pub mod limits {
    /// A bundle's envelope. 1,000 stacks of about 4 KiB each, in base64.
    pub const BUNDLE_ENVELOPE: usize = 16 * 1024 * 1024;
    /// A batch of reports.
    pub const REPORT: usize = 16 * 1024 * 1024;
    /// The answer to a report.
    pub const REPORT_ANSWER: usize = 64 * 1024;
    /// An enrolment request or response.
    pub const ENROLMENT: usize = 256 * 1024;
    /// A policy's envelope.
    pub const POLICY: usize = 256 * 1024;
    /// A release's envelope.
    pub const RELEASE: usize = 64 * 1024;
    /// An agent's package.
    pub const PACKAGE: u64 = 256 * 1024 * 1024;
    /// An order's envelope.
    pub const ORDER: usize = 64 * 1024;
    /// A tombstone's envelope.
    pub const TOMBSTONE: usize = 1024 * 1024;
    /// Most stacks in one bundle.
    pub const STACKS: usize = 4096;
    /// Most events in one batch of reports.
    pub const EVENTS: usize = 4096;
    /// Most stacks that a heartbeat says are not as asked.
    pub const PENDING: usize = 256;
}
