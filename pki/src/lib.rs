//! Keys, certificates and signed envelopes.
//!
//! This crate knows signed bytes, not what they mean: it has no idea of a bundle or a report. It reads two documents: the
//! trust root, which says whose signatures count, and of the policy whom it is for and for how long.
//! It reads no clock. Whatever depends on the time takes `now`; only a TLS handshake asks the system,
//! through rustls' default time provider.
//!
//! | module | holds |
//! | --- | --- |
//! | [`key`] | Ed25519 keys that sign documents, P-256 keys that hosts and servers speak TLS with |
//! | [`digest`] | SHA-256 values written `sha256:<hex>` |
//! | [`envelope`] | DSSE envelopes and the proof that one was verified |
//! | [`root`] | trust roots, and how each follows the one before |
//! | [`policy`] | policies, and when one is believed |
//! | [`order`] | orders to hosts, and their receipts |
//! | [`csr`] | certificate requests: made on the host, verified by the master |
//! | [`certificate`] | CA certificates, their pins, and leaves as they lie on disk |
//! | [`ca`] | the issuing authority |
//! | [`peer`] | who a client certificate says it is |
//! | [`tls`] | rustls configurations, TLS 1.3 only, `ring` named explicitly |
//! | [`secret`] | one-shot token secrets |
//! | [`files`] | private files and capped reads |
//!
//! Order of calls is kept by proof types: [`csr::VerifiedCsr`] exists only for a request whose own
//! signature holds, [`envelope::VerifiedPayload`] only for bytes that enough keys signed.

pub mod ca;
pub mod certificate;
pub mod csr;
pub mod digest;
pub mod envelope;
pub mod files;
pub mod key;
pub mod order;
pub mod peer;
pub mod policy;
pub mod release;
pub mod root;
pub mod secret;
pub mod tls;

mod document;
mod pem_text;

pub use rustls_pki_types::ServerName;
