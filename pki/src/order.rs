//! Orders to hosts: signed by the operators of the trust root, checked in the same way by hosts and by the master; and
//! the tombstone, with which a host says that it carried its last one out.
//!
//! An order counts when a threshold of the operators of the root in force has signed it, as the type of order that it
//! is, for this fleet and this host. That an order is kept from a host is not answered here: a master that does so can
//! as well switch the host off from everything it sends.

use decnet_wire::ids::{FleetId, HostId};
use decnet_wire::limits;
use decnet_wire::order::{DECOMMISSION_TYPE, Decommission, SCHEMA, TOMBSTONE_TYPE, Tombstone};

use crate::digest::Sha256Digest;
use crate::document::{self, ReadError};
use crate::envelope::{Envelope, ParseError, VerifyError};
use crate::key::{HostKey, HostPublicKey, KeyError};
use crate::root::Root;

/// A decommission that the operators signed.
#[derive(Debug, Clone)]
pub struct SignedDecommission {
    envelope: Envelope,
    document: Decommission,
}

impl SignedDecommission {
    /// Believes an order, or says why not.
    ///
    /// # Errors
    /// [`OrderError`]: nothing is to be done then.
    pub fn admit(bytes: &[u8], root: &Root, host: HostId) -> Result<Self, OrderError> {
        let envelope = Envelope::parse(bytes, limits::ORDER).map_err(OrderError::Envelope)?;
        root.operators()
            .verify(&envelope, DECOMMISSION_TYPE)
            .map_err(OrderError::Signatures)?;
        let found = Self::read(envelope)?;
        check(found.document.fleet, root.fleet(), found.document.host, host)?;
        Ok(found)
    }

    /// An order that was believed before and has been kept where nobody else writes.
    ///
    /// # Errors
    /// It is damaged.
    pub fn stored(bytes: &[u8]) -> Result<Self, OrderError> {
        Self::read(Envelope::parse(bytes, limits::ORDER).map_err(OrderError::Envelope)?)
    }

    fn read(envelope: Envelope) -> Result<Self, OrderError> {
        let document = document::read(envelope.unverified_payload(), SCHEMA)?;
        Ok(Self { envelope, document })
    }

    /// The signed document.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// What it says.
    #[must_use]
    pub fn document(&self) -> &Decommission {
        &self.document
    }

    /// Of what was signed.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.envelope.digest()
    }
}

/// Signs a tombstone with the host's own key.
///
/// # Errors
/// The key cannot sign.
pub fn sign_tombstone(tombstone: &Tombstone, key: &HostKey) -> Result<Envelope, KeyError> {
    let payload = serde_json::to_vec(tombstone).unwrap_or_default();
    Envelope::sign_by_host(TOMBSTONE_TYPE, payload, key)
}

/// Believes a tombstone, or says why not. Whether it answers the order that was given is for the caller to say.
///
/// # Errors
/// [`OrderError`].
pub fn admit_tombstone(
    bytes: &[u8],
    fleet: FleetId,
    host: HostId,
    keys: &[HostPublicKey],
) -> Result<Tombstone, OrderError> {
    let envelope = Envelope::parse(bytes, limits::TOMBSTONE).map_err(OrderError::Envelope)?;
    envelope
        .verify_by_host(TOMBSTONE_TYPE, keys)
        .map_err(OrderError::Signatures)?;
    let found: Tombstone = document::read(envelope.unverified_payload(), SCHEMA)?;
    check(found.fleet, fleet, found.host, host)?;
    Ok(found)
}

fn check(fleet: FleetId, own: FleetId, host: HostId, wanted: HostId) -> Result<(), OrderError> {
    if fleet != own {
        return Err(OrderError::Fleet { own, found: fleet });
    }
    if host != wanted {
        return Err(OrderError::Host {
            own: wanted,
            found: host,
        });
    }
    Ok(())
}

/// An order or a tombstone that cannot be believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// Too long, or no envelope.
    #[error("it is not a signed document")]
    Envelope(#[source] ParseError),
    /// Too few of those who have to sign did, or it is a document of another kind.
    #[error("it is not signed by whom it has to be")]
    Signatures(#[source] VerifyError),
    /// The payload is another document.
    #[error("it is not a document that this version knows")]
    Malformed(#[source] serde_json::Error),
    /// Of another form.
    #[error("it is of form {0}, this version knows form {SCHEMA}")]
    Schema(u32),
    /// Another fleet's.
    #[error("it is of fleet {found}, this is {own}")]
    Fleet {
        /// The fleet that it should be of.
        own: FleetId,
        /// The fleet that it is of.
        found: FleetId,
    },
    /// Another host's.
    #[error("it is for host {found}, this is {own}")]
    Host {
        /// The host that it should be for.
        own: HostId,
        /// The host that it is for.
        found: HostId,
    },
}

impl From<ReadError> for OrderError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Malformed(error) => Self::Malformed(error),
            ReadError::Schema(found) => Self::Schema(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use decnet_wire::ids::Digest;
    use serde_json::json;

    fn tombstone() -> Tombstone {
        serde_json::from_value(json!({
            "schema": 1,
            "fleet": "6d2f7d0a-53a4-4f7d-8a35-0c9f5f5a1111",
            "host": "1a2b3c4d-53a4-4f7d-8a35-0c9f5f5a2222",
            "nonce": "0123456789abcdef0123456789abcdef",
            "order": Digest::from_sha256([7; 32]),
            "finished_at": "2026-01-02T03:04:05.678Z",
            "removed": ["package decnet-agent"],
            "left": [],
        }))
        .unwrap()
    }

    #[test]
    fn a_tombstone_is_believed_from_its_own_host_only() {
        let (own, other) = (HostKey::generate().unwrap(), HostKey::generate().unwrap());
        let sent = tombstone();
        let bytes = sign_tombstone(&sent, &own).unwrap().to_json();
        let admit = |keys: &[HostPublicKey], fleet, host| admit_tombstone(&bytes, fleet, host, keys);
        let found = admit(&[*other.public(), *own.public()], sent.fleet, sent.host).unwrap();
        assert_eq!(found, sent);
        let error = admit(&[*other.public()], sent.fleet, sent.host).unwrap_err();
        assert!(matches!(error, OrderError::Signatures(_)), "{error}");
        let error = admit(&[*own.public()], sent.fleet, HostId::new(uuid::Uuid::nil())).unwrap_err();
        assert!(matches!(error, OrderError::Host { .. }), "{error}");
        let error = admit(&[*own.public()], FleetId::new(uuid::Uuid::nil()), sent.host).unwrap_err();
        assert!(matches!(error, OrderError::Fleet { .. }), "{error}");
    }

    #[test]
    fn another_document_of_the_host_is_no_tombstone() {
        let key = HostKey::generate().unwrap();
        let sent = tombstone();
        let payload = serde_json::to_vec(&sent).unwrap();
        let other = Envelope::sign_by_host(DECOMMISSION_TYPE, payload, &key).unwrap();
        let error = admit_tombstone(&other.to_json(), sent.fleet, sent.host, &[*key.public()]).unwrap_err();
        assert!(
            matches!(error, OrderError::Signatures(VerifyError::PayloadType { .. })),
            "{error}"
        );
    }
}
