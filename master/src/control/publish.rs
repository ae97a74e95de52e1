//! The publisher: compiles a host's whole state into a bundle, signs it, stores it, wakes that host's poll.
//!
//! Guarantees: a generation is signed once and served from the store, so no two bundles of one generation exist.
//! Whoever changes what a host should run raises its generation in the same transaction, so the bundle of a
//! generation is a function of the snapshot it was compiled from. Compiling and signing hold nobody up: only what is
//! signed is written in a transaction, and only where it follows the bundle that is the newest by then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use decnet_pki::envelope::Envelope;
use decnet_wire::bundle::{self, Bundle, Operation, Stack};
use decnet_wire::ids::{DeckyName, Digest, HostId, OperationId, Timestamp};
use decnet_wire::order::Order;
use decnet_wire::policy::Policy;
use tokio::sync::watch;

use super::releases::{UpdateOrder, known_packages};
use super::{Control, ControlError, settings, slot, touch, traces};
use crate::fleet::compile::compile;
use crate::fleet::model::Fleet;
use crate::keys::MasterKeys;
use crate::records::{
    AwaitedRecord, BundleRecord, DeckyRecord, Departure, EnvelopeRecord, Host, Row, Settings,
};
use crate::store::Reader;

/// How long a bundle is accepted. An agent that has accepted it keeps it up for as long as it must.
const BUNDLE_LIFETIME: time::Duration = time::Duration::hours(24);

/// How far a clock is set back when it is only corrected: nothing comes of it.
const CLOCK_STEP: time::Duration = time::Duration::minutes(5);
/// How many bundles are stored at once: every commit waits for the disk, and reports wait behind it.
const BATCH: usize = 64;
/// How long a bundle that could not be published waits for the next try, when nothing else wakes the publisher.
const RETRY: Duration = Duration::from_secs(30);

/// A host that is to get a bundle.
pub(super) struct Due {
    pub(super) host: Host,
    key: Digest,
    /// The digest of the bundle before, which the next one names.
    previous: Option<Digest>,
    /// What it is told about itself.
    order: Option<Order>,
}

/// A host's next bundle, compiled from one snapshot and signed.
struct Signed {
    host: Host,
    previous: Option<Digest>,
    record: BundleRecord,
    envelope: EnvelopeRecord,
    /// The operations in it that belong to a trace.
    traced: Vec<OperationId>,
}

/// Everything that a host is to run, before it is signed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostState {
    pub networks: Vec<bundle::Network>,
    pub stacks: Vec<Stack>,
    pub blobs: Vec<bundle::Blob>,
}

impl Control {
    /// Compiles what `host` is to run. The bundle and the plan both come from here.
    pub(super) fn host_state<'a>(
        &self,
        settings: &Settings,
        host: &Host,
        records: impl IntoIterator<Item = &'a DeckyRecord>,
    ) -> Result<HostState, ControlError> {
        let policy = self.policy_for(host.id);
        let policy = policy.as_ref().map(|policy| policy.document());
        self.state_under(policy, settings, host, records)
    }

    /// The same under a policy. Where that sets a ceiling that the compiler knows nothing of, containers get it as their
    /// limit.
    pub(super) fn state_under<'a>(
        &self,
        policy: Option<&Policy>,
        settings: &Settings,
        host: &Host,
        records: impl IntoIterator<Item = &'a DeckyRecord>,
    ) -> Result<HostState, ControlError> {
        let mine: Vec<&DeckyRecord> = records
            .into_iter()
            .filter(|record| record.decky.host == host.id && record.leaving.is_none())
            .collect();
        let running = mine.iter().filter(|record| !record.removing);
        let fleet = Fleet {
            deckies: running
                .map(|record| (record.decky.name.clone(), record.decky.clone()))
                .collect(),
            ..super::assemble(settings, &[])
        };
        let reference = self.image.as_ref().map(|image| image.reference.clone());
        if !fleet.deckies.is_empty() && reference.is_none() {
            return Err(ControlError::Conflict(
                "this master has no decoy image: start it with --decoy-image".to_owned(),
            ));
        }
        let compiled = compile(
            &fleet,
            &slot(host, None),
            &self.catalogue,
            &reference.unwrap_or_default(),
        )
        .map_err(|error| ControlError::Conflict(error.to_string()))?;
        let mut stacks: Vec<Stack> = compiled
            .stacks
            .into_iter()
            .map(|mut stack| {
                limit_cpus(policy, &mut stack.document);
                Stack {
                    name: stack.name,
                    decky: stack.decky,
                    compose: stack.document.into(),
                    operation: None,
                }
            })
            .collect();
        for record in &mine {
            if record.removing {
                stacks.push(Stack {
                    name: crate::fleet::compile::stack_name(&record.decky.name),
                    decky: record.decky.name.clone(),
                    compose: serde_json::json!({ "services": {} }).into(),
                    operation: None,
                });
            }
        }
        let operations: BTreeMap<&DeckyName, _> = mine
            .iter()
            .map(|record| (&record.decky.name, record.operation))
            .collect();
        for stack in &mut stacks {
            let operation = operations.get(&stack.decky).copied().flatten();
            // Also of what was asked for while there were traces: an agent may be too old to know of them.
            stack.operation = operation.map(|operation| Operation {
                traceparent: operation.traceparent.filter(|_| self.tracer.is_on()),
                ..operation
            });
        }
        stacks.sort_by(|a, b| a.name.cmp(&b.name));
        let image = self.image.iter().filter(|_| !fleet.deckies.is_empty());
        let mut blobs: Vec<bundle::Blob> = image.map(|image| image.blob.clone()).collect();
        let slugs = fleet.deckies.values().flat_map(|decky| &decky.services);
        for context in slugs.filter_map(|slug| self.catalogue.service(slug)?.context()) {
            if !blobs.contains(context) {
                blobs.push(context.clone());
            }
        }
        // Another order would be another bundle.
        blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        Ok(HostState {
            networks: compiled.networks,
            stacks,
            blobs,
        })
    }

    /// Publishes what is due, whenever it is woken, until the master ends.
    pub async fn run_publisher(self: Arc<Self>) {
        loop {
            let woken = self.publish.notified();
            let control = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || control.publish_due()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(error = %crate::text::chain(&error), "could not publish a bundle");
                }
                Err(error) => tracing::error!(%error, "the publisher's work was cut off"),
            }
            // Woken or not, it goes on: a failure may have passed.
            let _ = tokio::time::timeout(RETRY, woken).await;
        }
    }

    /// Publishes a bundle for every host whose newest generation has none yet.
    ///
    /// # Errors
    /// The store's, or a document that cannot be compiled. Other hosts' bundles are published all the same.
    pub fn publish_due(&self) -> Result<(), ControlError> {
        let (due, settings, mut records, update) = self.db.read(|r| {
            let due = Self::due(r)?;
            let mut records: BTreeMap<HostId, Vec<DeckyRecord>> = BTreeMap::new();
            if due.is_empty() {
                return Ok((due, None, records, None));
            }
            for record in r.all::<DeckyRecord>()? {
                records.entry(record.decky.host).or_default().push(record);
            }
            let update = UpdateOrder::read(r)?;
            Ok::<_, ControlError>((due, Some(settings(r)?), records, update))
        })?;
        let Some(settings) = settings else {
            return Ok(());
        };
        let mut failed = None;
        let mut signed = Vec::new();
        for due in due {
            let mine = records.remove(&due.host.id).unwrap_or_default();
            if let Some(order) = due.order.clone() {
                // A host that leaves runs nothing, whatever there was to say about it.
                signed.push(self.signed(due, HostState::default(), Some((order, &[])))?);
                continue;
            }
            match self.host_state(&settings, &due.host, &mine) {
                Ok(state) => {
                    let order = update.as_ref().and_then(|update| update.of(&due.host));
                    signed.push(self.signed(due, state, order)?);
                }
                Err(error) => {
                    tracing::error!(host = %due.host.name, error = %crate::text::chain(&error), "no bundle for a host");
                    failed = Some(error);
                }
            }
            if signed.len() == BATCH {
                self.publish_batch(&std::mem::take(&mut signed))?;
            }
        }
        if !signed.is_empty() {
            self.publish_batch(&signed)?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Enrolled hosts whose newest generation has no bundle; not those that are awaited after a restore.
    pub(super) fn due(r: &Reader<'_>) -> Result<Vec<Due>, ControlError> {
        let mut due = Vec::new();
        for host in r.all::<Host>()? {
            let Some(key) = host.key.clone().filter(|_| !host.revoked && host.generation > 0) else {
                continue;
            };
            if r.has::<AwaitedRecord>(&host.id)? {
                continue;
            }
            let bundle = r.get::<BundleRecord>(&host.id)?;
            if bundle
                .as_ref()
                .is_none_or(|bundle| bundle.generation < host.generation)
            {
                due.push(Due {
                    order: order(r, &host)?,
                    host,
                    key,
                    previous: bundle.map(|bundle| bundle.digest),
                });
            }
        }
        Ok(due)
    }

    /// The bundle of a host's newest generation.
    fn signed(
        &self,
        due: Due,
        state: HostState,
        order: Option<(Order, &[Digest])>,
    ) -> Result<Signed, ControlError> {
        let (now, keys) = (self.now(), self.keys());
        let Due {
            host, key, previous, ..
        } = due;
        let (order, packages) = order.unzip();
        let bundle = Bundle {
            schema: bundle::SCHEMA,
            fleet: self.fleet,
            host: host.id,
            host_key: key,
            epoch: keys.root.epoch(),
            generation: host.generation,
            previous: previous.clone(),
            issued_at: now,
            expires_at: Timestamp::new(now.get() + BUNDLE_LIFETIME),
            networks: state.networks,
            stacks: state.stacks,
            blobs: state.blobs,
            order,
        };
        let (mut record, envelope) = sign(&keys, &bundle)?;
        // Not among the bundle's own: another release is no other wish of a stack.
        record.blobs.extend_from_slice(packages.unwrap_or_default());
        let operations = bundle.stacks.iter().filter_map(|stack| stack.operation);
        let traced = operations.filter(|operation| operation.traceparent.is_some());
        Ok(Signed {
            host,
            previous,
            record,
            envelope,
            traced: traced.map(|operation| operation.id).collect(),
        })
    }

    fn publish_batch(&self, batch: &[Signed]) -> Result<(), ControlError> {
        let root_version = self.keys().root.version();
        let (published, carried, overtaken) = self.db.bookkeep(|w| {
            let (mut published, mut carried, mut overtaken) = (Vec::new(), Vec::new(), false);
            for Signed {
                host,
                previous,
                record,
                envelope,
                traced,
            } in batch
            {
                let last = w.get::<BundleRecord>(&host.id)?;
                if last
                    .as_ref()
                    .is_some_and(|last| last.generation >= host.generation)
                {
                    continue;
                }
                // It would name another bundle as the one before it than its agent has, or was signed under an earlier
                // trust root: it is made again.
                if last.map(|last| last.digest) != *previous || record.root_version != root_version {
                    overtaken = true;
                    continue;
                }
                w.put(&host.id, record)?;
                w.put(&host.id, envelope)?;
                published.push(host);
                for operation in traced {
                    let row = w.get::<Row>(operation)?;
                    carried.extend(row.map(|row| (row, host, record.issued_at)));
                }
            }
            Ok::<_, ControlError>((published, carried, overtaken))
        })?;
        if overtaken {
            self.publish.notify_one();
        }
        for (row, host, since) in carried {
            let span = traces::published(&row, host.id, host.generation, since, self.now());
            span.into_iter().for_each(|span| self.tracer.record(span));
        }
        self.metrics.bundles.inc_by(published.len() as u64);
        for host in published {
            tracing::info!(host = %host.name, generation = host.generation, "published a bundle");
            self.published_sender(host.id).send_replace(host.generation);
        }
        Ok(())
    }

    /// What is known of the bundle published last for a host. None while that one is for a key that the host has
    /// no more: its agent would refuse it.
    ///
    /// # Errors
    /// The store's.
    pub fn bundle(&self, host: HostId) -> Result<Option<BundleRecord>, ControlError> {
        self.db.read(|r| current(r, host))
    }

    /// The signed envelope of a host's bundle, as it is sent, when its generation is beyond `after`.
    ///
    /// # Errors
    /// The store's.
    pub fn envelope(&self, host: HostId, after: u64) -> Result<Option<String>, ControlError> {
        self.db.read(|r| {
            let awaited = r.has::<AwaitedRecord>(&host)?;
            if awaited || current(r, host)?.is_none_or(|bundle| bundle.generation <= after) {
                return Ok(None);
            }
            Ok(r.get::<EnvelopeRecord>(&host)?.map(|envelope| envelope.0))
        })
    }

    /// Changes when a newer bundle than the one seen is there for the host.
    #[must_use]
    pub fn watch_bundle(&self, host: HostId) -> watch::Receiver<u64> {
        self.published_sender(host).subscribe()
    }

    fn published_sender(&self, host: HostId) -> watch::Sender<u64> {
        let mut published = self
            .published
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        published
            .entry(host)
            .or_insert_with(|| watch::channel(0).0)
            .clone()
    }

    /// Raises the generation of hosts whose bundle is past half of its life, was issued by a clock that was ahead, was
    /// signed by what an earlier trust root says, or names another decoy image or build context than this master has now.
    ///
    /// # Errors
    /// The store's.
    pub fn republish_outdated(&self) -> Result<(), ControlError> {
        let now = self.now();
        let image = self.image.iter().map(|image| &image.blob);
        let known: BTreeSet<&Digest> = image
            .chain(self.catalogue.contexts())
            .map(|blob| &blob.digest)
            .collect();
        let root_version = self.keys().root.version();
        let touched = self.db.bookkeep(|w| {
            let packages = known_packages(&w.reader())?;
            let mut touched = 0_usize;
            for bundle in w.all::<BundleRecord>()? {
                let half = bundle.issued_at.get() + (bundle.expires_at.get() - bundle.issued_at.get()) / 2;
                let other_image = self.image.is_some()
                    && bundle
                        .blobs
                        .iter()
                        .any(|blob| !known.contains(blob) && !packages.contains(blob));
                let host = w.get::<Host>(&bundle.host)?;
                let published = host.is_some_and(|host| host.generation == bundle.generation);
                let ahead = bundle.issued_at.get() > now.get() + CLOCK_STEP;
                let other_root = bundle.root_version != root_version;
                if published && (half <= now.get() || ahead || other_image || other_root) {
                    touch(w, bundle.host)?;
                    touched += 1;
                }
            }
            Ok::<_, ControlError>(touched)
        })?;
        if touched > 0 {
            self.publish.notify_one();
        }
        Ok(())
    }

    /// Whether `host` may fetch the blob: its bundle names it.
    ///
    /// # Errors
    /// The store's.
    pub fn may_fetch(&self, host: HostId, blob: &Digest) -> Result<bool, ControlError> {
        Ok(self
            .bundle(host)?
            .is_some_and(|bundle| bundle.blobs.contains(blob)))
    }

    pub(super) fn read_hosts(r: &Reader<'_>) -> Result<Vec<Host>, ControlError> {
        Ok(r.all::<Host>()?)
    }
}

/// What a host is told about itself with its next bundle.
fn order(r: &Reader<'_>, host: &Host) -> Result<Option<Order>, ControlError> {
    let departure = if host.leaving {
        r.get::<Departure>(&host.id)?
    } else {
        None
    };
    let envelope = departure.map(|departure| serde_json::from_str(&departure.order));
    envelope
        .transpose()
        .map(|envelope| envelope.map(Order::Decommission))
        .map_err(|error| ControlError::Sign {
            what: "the stored order",
            source: error.into(),
        })
}

fn limit_cpus(policy: Option<&Policy>, document: &mut serde_json::Value) {
    let Some(nano) = policy.and_then(|policy| policy.rules.resources.nano_cpus) else {
        return;
    };
    // Exact to the ninth digit: ceilings are thousands of cores at most.
    #[allow(clippy::cast_precision_loss)]
    let cores = nano as f64 / 1e9;
    let services = document
        .get_mut("services")
        .and_then(serde_json::Value::as_object_mut);
    for service in services.into_iter().flat_map(serde_json::Map::values_mut) {
        if let Some(service) = service.as_object_mut() {
            service.entry("cpus").or_insert_with(|| cores.into());
        }
    }
}

fn sign(keys: &MasterKeys, bundle: &Bundle) -> Result<(BundleRecord, EnvelopeRecord), ControlError> {
    let sign = |source: Box<dyn std::error::Error + Send + Sync>| ControlError::Sign {
        what: "a bundle",
        source,
    };
    let payload = serde_json::to_vec(bundle).map_err(|error| sign(error.into()))?;
    let envelope = Envelope::sign(bundle::PAYLOAD_TYPE, payload, &[&keys.online]);
    let record = BundleRecord {
        host: bundle.host,
        root_version: keys.root.version(),
        epoch: bundle.epoch,
        generation: bundle.generation,
        digest: Digest::from_sha256(*envelope.digest().as_bytes()),
        host_key: bundle.host_key.clone(),
        issued_at: bundle.issued_at,
        expires_at: bundle.expires_at,
        blobs: bundle.blobs.iter().map(|blob| blob.digest.clone()).collect(),
    };
    let text = String::from_utf8(envelope.to_json()).map_err(|error| sign(error.into()))?;
    Ok((record, EnvelopeRecord(text)))
}

fn current(r: &Reader<'_>, id: HostId) -> Result<Option<BundleRecord>, ControlError> {
    let (Some(bundle), Some(host)) = (r.get::<BundleRecord>(&id)?, r.get::<Host>(&id)?) else {
        return Ok(None);
    };
    Ok(Some(bundle).filter(|bundle| host.key.as_ref() == Some(&bundle.host_key)))
}
