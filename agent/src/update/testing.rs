//! Releases for the tests of both sides.

use decnet_pki::digest::Sha256Digest;
use decnet_wire::ids::Digest;
use decnet_wire::release::{Format, Package, Release, SCHEMA};

use crate::testing::{Signer, now};

pub(super) fn digest(package: &[u8]) -> Digest {
    Digest::from_sha256(*Sha256Digest::of(package).as_bytes())
}

/// A release with one deb of these bytes, for this processor.
pub(super) fn release(
    signer: &Signer,
    sequence: u64,
    version: &str,
    downgrade: bool,
    package: &[u8],
) -> Release {
    Release {
        schema: SCHEMA,
        fleet: signer.fleet,
        sequence,
        version: version.parse().unwrap(),
        downgrade,
        issued_at: now(),
        packages: vec![Package {
            format: Format::Deb,
            architecture: super::package::architecture().parse().unwrap(),
            digest: digest(package),
            size: package.len() as u64,
        }],
    }
}
