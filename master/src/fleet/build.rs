//! From a document and the fleet before to the fleet after. Nothing is changed unless everything fits.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use decnet_wire::ids::{DeckyName, HostId, Timestamp};
use rand::Rng;

use super::catalogue::Catalogue;
use super::ini::{Document, IniError, Warning};
use super::model::{Fleet, HostSlot, Lan};

/// A fault of a deploy: the same shape and classes as a fault of the text.
pub type BuildError = IniError;

/// What the operator asks for.
#[derive(Debug, Clone, Copy)]
pub struct Deploy<'a> {
    pub ini: &'a Document,
    /// True: the document is the whole fleet. False: it is added to the fleet.
    pub replace: bool,
}

/// Where deckies can be, and where they may stay.
#[derive(Debug, Clone, Copy)]
pub struct Hosts<'a> {
    /// New deckies go to these: the enrolled hosts, or the embedded local worker alone when there is none.
    pub targets: &'a [HostSlot],
    /// Every host that still exists, such as the local worker or one that is out of reach: what runs there stays
    /// there when deckies are added. Targets count as known in any case.
    pub known: &'a BTreeSet<HostId>,
}

/// The fleet after, and what it takes to get there.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    pub fleet: Fleet,
    /// One for each operation that was asked for, in name order: when adding, the new and the moved deckies; when
    /// replacing, every decky of the new set and every one that goes.
    pub changes: Vec<Change>,
    pub warnings: Vec<Warning>,
    /// Deckies whose host is gone, and those that a replacement moves.
    pub moved: Vec<Moved>,
}

/// What becomes of one decky.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub decky: DeckyName,
    pub kind: ChangeKind,
    /// Where the operation runs: the host after, or before for a teardown.
    pub host: HostId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Deploy,
    Teardown,
    /// Asked for, and exactly as it was before: its operation has nothing to do.
    Unchanged,
}

/// A decky that is on another host than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub decky: DeckyName,
    pub from: HostId,
    pub to: HostId,
    /// The address before, when the new host's LAN cannot have it.
    pub readdressed: Option<Ipv4Addr>,
}

/// Builds the fleet after a deploy. `detected` is the LAN of the machine's default route, used where neither the
/// document nor the fleet says one.
///
/// # Errors
///
/// Every fault found; [`super::ini::status`] gives the HTTP status.
pub fn build(
    request: &Deploy<'_>,
    before: &Fleet,
    catalogue: &Catalogue,
    hosts: &Hosts<'_>,
    detected: Option<&Lan>,
    now: Timestamp,
    rng: &mut impl Rng,
) -> Result<Built, Vec<BuildError>> {
    let _ = (request, before, catalogue, hosts, detected, now, rng);
    Err(Vec::new())
}

/// The custom services in use whose image is not pinned. A deploy refuses them; building does not.
#[must_use]
pub fn unpinned_images(fleet: &Fleet) -> Vec<BuildError> {
    let _ = fleet;
    Vec::new()
}
