//! This host's certificate over time: what is believed of one, renewal with a new key, and the way back after its end.
//!
//! ```text
//!  half of its time over, or of an older CA ─▶ new key ─▶ `POST /agent/v1/renew` ─▶ in use, the old pair beside it
//!                                                          first answer of the master ─▶ the old pair is forgotten
//!                                                          refused ─▶ the old pair is in use again
//!  ended, or of a CA that is listed no more ─▶ `POST /enroll/v1/rejoin` with the known key
//!  the server's CA is unknown ─▶ trust roots from the enrolment listener, which prove themselves
//! ```
//!
//! Guarantees: at every moment a pair is on disk that the master takes. What comes from a server that is not believed
//! is used for nothing but trust roots, which must follow the known one.

mod recovery;
mod renewal;

use decnet_pki::certificate::{CertificateError, Leaf};
use decnet_pki::key::HostKey;
use decnet_pki::peer::{PeerError, PeerIdentity};
use decnet_pki::root::Root;
use decnet_pki::tls::{self, TlsError};
use decnet_wire::ids::{HostId, Timestamp};

use crate::link;

pub(crate) use recovery::{Recovered, Recovery};
pub(crate) use renewal::Renewal;

/// A certificate that is not believed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("it cannot be read")]
    Read(#[source] CertificateError),
    #[error("it is for another key than this host's")]
    Key,
    #[error("the master's own listeners would refuse it{}", link::clock_hint(.0))]
    Leaf(#[source] TlsError),
    #[error("it is no host certificate")]
    Peer(#[source] PeerError),
    #[error("it names another host or fleet")]
    Name,
}

/// Reads a certificate for this host and this key, of a CA that the root lists.
pub(crate) fn check(
    pem: &str,
    key: &HostKey,
    host: HostId,
    root: &Root,
    now: Timestamp,
) -> Result<Leaf, CheckError> {
    let leaf = Leaf::from_pem(pem).map_err(CheckError::Read)?;
    if leaf.key_digest() != key.digest() {
        return Err(CheckError::Key);
    }
    tls::verify_client_leaf(&leaf, root.authorities(), now.get()).map_err(CheckError::Leaf)?;
    let first = leaf.chain().first().ok_or(CheckError::Name)?;
    let peer = PeerIdentity::from_leaf(first).map_err(CheckError::Peer)?;
    if peer.host != host.uuid() || peer.fleet != root.fleet().uuid() {
        return Err(CheckError::Name);
    }
    Ok(leaf)
}
