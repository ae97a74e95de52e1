//! What is really aimed at: the accepted bundle, with the stacks that are quarantined put back to what last ran. A
//! pure function of the bundle and the ledger.

use std::collections::{BTreeMap, BTreeSet};

use decnet_plan::desired::{Desired, DocumentError};
use decnet_plan::step::NetworkMode;
use decnet_wire::bundle::{Blob, BlobKind, Bundle, ComposeDocument, Network, Operation};
use decnet_wire::ids::{DeckyName, HostId, StackName};

use crate::ledger::LastGood;

/// Where a stack's document comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Bundle,
    /// It is quarantined: the last document that was seen to run.
    LastGood,
    /// It is quarantined and there is nothing to go back to: no services.
    Nothing,
}

/// One stack as it is aimed at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Aim {
    pub(crate) decky: DeckyName,
    pub(crate) source: Source,
    pub(crate) compose: ComposeDocument,
    /// The newest operation, whatever its state.
    pub(crate) operation: Option<Operation>,
}

/// Everything that is aimed at.
#[derive(Debug)]
pub(crate) struct Effective {
    pub(crate) desired: Desired,
    pub(crate) aims: BTreeMap<StackName, Aim>,
    networks: Vec<Network>,
    blobs: Vec<Blob>,
}

impl Effective {
    /// A stack's document with the networks and blobs that it needs, to go back to later. None when it has
    /// no services.
    pub(crate) fn good(&self, name: &StackName) -> Option<LastGood> {
        let aim = self.aims.get(name)?;
        let stack = self.desired.stack(name)?;
        let mut networks = BTreeSet::new();
        let mut services = 0_usize;
        for (_, spec) in stack.containers() {
            services += 1;
            if let NetworkMode::Networks { endpoints } = &spec.network {
                networks.extend(endpoints.iter().map(|endpoint| endpoint.network.as_str()));
            }
        }
        let blobs = stack.blobs();
        (services > 0).then(|| LastGood {
            decky: aim.decky.clone(),
            compose: aim.compose.clone(),
            networks: self
                .networks
                .iter()
                .filter(|network| networks.contains(network.name.as_str()))
                .cloned()
                .collect(),
            blobs: self
                .blobs
                .iter()
                .filter(|blob| blobs.contains(&blob.digest))
                .cloned()
                .collect(),
        })
    }
}

/// Works out what is aimed at.
///
/// # Errors
/// The documents cannot be had together even without anything to go back to. A bundle that was admitted
/// never comes to that.
pub(crate) fn effective(
    host: HostId,
    bundle: &Bundle,
    quarantined: &BTreeSet<StackName>,
    last_good: &BTreeMap<StackName, LastGood>,
) -> Result<Effective, Vec<DocumentError>> {
    // Stacks whose last good document does not go together with the rest of the bundle.
    let mut given_up = BTreeSet::new();
    loop {
        let attempt = assemble(bundle, quarantined, last_good, &given_up);
        let stacks = attempt.aims.iter().map(|(name, aim)| (name, &aim.compose));
        match Desired::new(host, &attempt.networks, &attempt.blobs, stacks) {
            Ok(desired) => {
                let Assembled {
                    aims,
                    networks,
                    blobs,
                } = attempt;
                return Ok(Effective {
                    desired,
                    aims,
                    networks,
                    blobs,
                });
            }
            Err(errors) => {
                let back: BTreeSet<&StackName> = attempt
                    .aims
                    .iter()
                    .filter(|(_, aim)| aim.source == Source::LastGood)
                    .map(|(name, _)| name)
                    .collect();
                let at_fault: BTreeSet<&StackName> = errors
                    .iter()
                    .filter_map(|error| error.stack.as_ref())
                    .filter(|stack| back.contains(stack))
                    .collect();
                // A clash may be laid at the door of the other side: then all that is old gives way.
                let give_up = if at_fault.is_empty() { &back } else { &at_fault };
                if give_up.is_empty() {
                    return Err(errors);
                }
                given_up.extend(give_up.iter().map(|stack| (*stack).clone()));
            }
        }
    }
}

struct Assembled {
    aims: BTreeMap<StackName, Aim>,
    networks: Vec<Network>,
    blobs: Vec<Blob>,
}

fn assemble(
    bundle: &Bundle,
    quarantined: &BTreeSet<StackName>,
    last_good: &BTreeMap<StackName, LastGood>,
    given_up: &BTreeSet<StackName>,
) -> Assembled {
    let mut assembled = Assembled {
        aims: BTreeMap::new(),
        networks: bundle.networks.clone(),
        blobs: bundle.blobs.clone(),
    };
    for stack in &bundle.stacks {
        let back = last_good
            .get(&stack.name)
            .filter(|_| !given_up.contains(&stack.name));
        let (source, compose) = match (quarantined.contains(&stack.name), back) {
            (false, _) => (Source::Bundle, stack.compose.clone()),
            (true, None) => (Source::Nothing, serde_json::json!({}).into()),
            (true, Some(good)) => {
                add_missing(&mut assembled, good);
                (Source::LastGood, good.compose.clone())
            }
        };
        let aim = Aim {
            decky: stack.decky.clone(),
            source,
            compose,
            operation: stack.operation,
        };
        assembled.aims.insert(stack.name.clone(), aim);
    }
    assembled
}

/// Adds what the bundle has no longer. Where it has something else of the same name, the bundle's counts.
fn add_missing(assembled: &mut Assembled, good: &LastGood) {
    for network in &good.networks {
        if !assembled.networks.iter().any(|known| known.name == network.name) {
            assembled.networks.push(network.clone());
        }
    }
    for blob in &good.blobs {
        let named = |known: &Blob| match (&known.kind, &blob.kind) {
            (BlobKind::ImageArchive { reference: other, .. }, BlobKind::ImageArchive { reference, .. }) => {
                other == reference
            }
            (BlobKind::BuildContext {}, BlobKind::BuildContext {}) => known.digest == blob.digest,
            _ => false,
        };
        if !assembled.blobs.iter().any(named) {
            assembled.blobs.push(blob.clone());
        }
    }
}
