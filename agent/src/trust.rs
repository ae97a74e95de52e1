//! The trust root as this host believes it, and how it follows the chain of them.
//!
//! Guarantees: a root is believed when the token pinned it, or when it follows one that is believed, every version in
//! between checked; it is on disk before anything is decided by it.

use decnet_pki::digest::Sha256Digest;
use decnet_pki::envelope::{Envelope, ParseError};
use decnet_pki::root::{Root, RootError};
use decnet_wire::ids::Digest;
use decnet_wire::limits;
use http::StatusCode;

use crate::ledger::digest_of;
use crate::link::{self, Link, LinkError, Wait};

/// Trust roots that are followed at once: a bound on what a master can make a host do. The rest comes with the next
/// occasion.
pub(crate) const ROOTS_AT_ONCE: usize = 64;

/// A trust root cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("the trust root is not a signed document")]
    Parse(#[source] ParseError),
    #[error(transparent)]
    Root(#[from] RootError),
}

/// Why the next trust root is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NextError {
    #[error("it cannot be fetched")]
    Fetch(#[from] LinkError),
    #[error("it is refused")]
    Refused {
        digest: Digest,
        #[source]
        source: TrustError,
    },
}

/// Fetches the root that follows `known` from under `folder`, and checks it; none when the master has none.
pub(crate) async fn fetch_next(
    link: &mut Link,
    folder: &str,
    known: &Root,
    wait: Wait,
) -> Result<Option<Root>, NextError> {
    let request = link::get(&format!("{folder}{}", known.version().saturating_add(1)))?;
    let accepted = [StatusCode::OK, StatusCode::NOT_FOUND];
    let (status, body) = link
        .exchange(&request, &accepted, limits::ENROLMENT, wait)
        .await?;
    if status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let root = next(known, &body).map_err(|source| NextError::Refused {
        digest: digest_of(&body),
        source,
    })?;
    Ok(Some(root))
}

/// The first root that this host sees: the one that the token pins.
pub(crate) fn pinned(envelope: &serde_json::Value, pin: &Digest) -> Result<Root, TrustError> {
    // A wire digest is 64 hexadecimal digits; were it not, the digest of nothing is no root's.
    let pin = pin.as_str().parse().unwrap_or_else(|_| Sha256Digest::of(b""));
    Ok(Root::pinned(read(envelope)?, &pin)?)
}

/// The root that was believed before, out of this host's own file.
pub(crate) fn stored(envelope: &serde_json::Value) -> Result<Root, TrustError> {
    Ok(Root::stored(read(envelope)?)?)
}

/// The root that follows `known`, as it came from the master.
pub(crate) fn next(known: &Root, envelope: &[u8]) -> Result<Root, TrustError> {
    let envelope = Envelope::parse(envelope, limits::ENROLMENT).map_err(TrustError::Parse)?;
    Ok(known.next(envelope)?)
}

fn read(envelope: &serde_json::Value) -> Result<Envelope, TrustError> {
    // Writing a JSON value that was just read cannot fail; an empty text is no envelope.
    let bytes = serde_json::to_vec(envelope).unwrap_or_default();
    Envelope::parse(&bytes, limits::ENROLMENT).map_err(TrustError::Parse)
}

/// The same digest in the wire's form.
pub(crate) fn wire_digest(digest: &Sha256Digest) -> Digest {
    Digest::from_sha256(*digest.as_bytes())
}
