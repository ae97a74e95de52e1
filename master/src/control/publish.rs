//! The publisher: compiles a host's whole state into a bundle, signs it, stores it, wakes that host's poll.
//!
//! Guarantees: a generation is signed once and served from the store, so no two bundles of one generation exist.
//! Whoever changes what a host should run raises its generation in the same transaction, so the bundle of a
//! generation is a function of the snapshot it was compiled from.

use std::collections::BTreeSet;
use std::sync::Arc;

use decnet_pki::envelope::Envelope;
use decnet_wire::bundle::{self, Bundle, Stack};
use decnet_wire::ids::{Digest, HostId, Timestamp};
use tokio::sync::watch;

use super::{Control, ControlError, settings, slot, touch};
use crate::fleet::compile::compile;
use crate::fleet::model::Fleet;
use crate::records::{BundleRecord, DeckyRecord, Host, Settings};
use crate::store::Reader;

/// How long a bundle is accepted. An agent that has accepted it keeps it up for as long as it must.
const BUNDLE_LIFETIME: time::Duration = time::Duration::hours(24);

/// Everything that a host is to run, before it is signed.
#[derive(Debug, Clone, PartialEq)]
pub struct HostState {
    pub networks: Vec<bundle::Network>,
    pub stacks: Vec<Stack>,
    pub blobs: Vec<bundle::Blob>,
}

impl Control {
    /// Compiles what `host` is to run. The bundle and the plan both come from here.
    pub(super) fn host_state(
        &self,
        settings: &Settings,
        host: &Host,
        records: &[DeckyRecord],
    ) -> Result<HostState, ControlError> {
        let mine: Vec<&DeckyRecord> = records
            .iter()
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
            .map(|stack| Stack {
                name: stack.name,
                decky: stack.decky,
                compose: stack.document,
                operation: None,
            })
            .collect();
        for record in &mine {
            if record.removing {
                stacks.push(Stack {
                    name: crate::fleet::compile::stack_name(&record.decky.name),
                    decky: record.decky.name.clone(),
                    compose: serde_json::json!({ "services": {} }),
                    operation: None,
                });
            }
        }
        for stack in &mut stacks {
            let record = mine.iter().find(|record| record.decky.name == stack.decky);
            stack.operation = record.and_then(|record| record.operation);
        }
        stacks.sort_by(|a, b| a.name.cmp(&b.name));
        let blobs = self
            .image
            .iter()
            .filter(|_| !fleet.deckies.is_empty())
            .map(|image| image.blob.clone());
        Ok(HostState {
            networks: compiled.networks,
            stacks,
            blobs: blobs.collect(),
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
            woken.await;
        }
    }

    /// Publishes a bundle for every host whose newest generation has none yet.
    ///
    /// # Errors
    /// The store's, or a document that cannot be signed. Other hosts' bundles are published all the same.
    pub fn publish_due(&self) -> Result<(), ControlError> {
        let due = self.db.read(|r| {
            let mut due = Vec::new();
            for host in r.all::<Host>()? {
                if host.key.is_none() || host.revoked || host.generation == 0 {
                    continue;
                }
                let bundle = r.get::<BundleRecord>(&host.id)?;
                if bundle.is_none_or(|bundle| bundle.generation < host.generation) {
                    due.push(host.id);
                }
            }
            Ok::<_, ControlError>(due)
        })?;
        let mut failed = None;
        for host in due {
            if let Err(error) = self.publish_host(host) {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn publish_host(&self, id: HostId) -> Result<(), ControlError> {
        let compiled = self.db.read(|r| {
            let Some(host) = r.get::<Host>(&id)? else {
                return Ok(None);
            };
            let Some(host_key) = host.key.clone() else {
                return Ok(None);
            };
            let settings = settings(r)?;
            let records = r.all::<DeckyRecord>()?;
            let state = self.host_state(&settings, &host, &records)?;
            Ok::<_, ControlError>(Some((host, host_key, settings.epoch, state)))
        })?;
        let Some((host, host_key, epoch, state)) = compiled else {
            return Ok(());
        };
        let now = self.now();
        let stored = self.db.update(|w| {
            let last = w.get::<BundleRecord>(&id)?;
            if last
                .as_ref()
                .is_some_and(|last| last.generation >= host.generation)
            {
                return Ok::<_, ControlError>(false);
            }
            let bundle = Bundle {
                schema: bundle::SCHEMA,
                fleet: self.fleet,
                host: id,
                host_key: host_key.clone(),
                epoch,
                generation: host.generation,
                previous: last.map(|last| last.digest),
                issued_at: now,
                expires_at: Timestamp::new(now.get() + BUNDLE_LIFETIME),
                networks: state.networks.clone(),
                stacks: state.stacks.clone(),
                blobs: state.blobs.clone(),
            };
            w.put(&id, &self.sign(&bundle)?)?;
            Ok(true)
        })?;
        if stored {
            tracing::info!(host = %host.name, generation = host.generation, "published a bundle");
            self.published_sender(id).send_replace(host.generation);
        }
        Ok(())
    }

    fn sign(&self, bundle: &Bundle) -> Result<BundleRecord, ControlError> {
        let sign = |source: Box<dyn std::error::Error + Send + Sync>| ControlError::Sign {
            what: "a bundle",
            source,
        };
        let payload = serde_json::to_vec(bundle).map_err(|error| sign(error.into()))?;
        let envelope = Envelope::sign(bundle::PAYLOAD_TYPE, payload, &[&self.keys.online]);
        Ok(BundleRecord {
            host: bundle.host,
            epoch: bundle.epoch,
            generation: bundle.generation,
            digest: Digest::from_sha256(*envelope.digest().as_bytes()),
            host_key: bundle.host_key.clone(),
            issued_at: bundle.issued_at,
            expires_at: bundle.expires_at,
            envelope: String::from_utf8(envelope.to_json()).map_err(|error| sign(error.into()))?,
            blobs: bundle.blobs.iter().map(|blob| blob.digest.clone()).collect(),
        })
    }

    /// The bundle published last for a host.
    ///
    /// # Errors
    /// The store's.
    pub fn bundle(&self, host: HostId) -> Result<Option<BundleRecord>, ControlError> {
        self.db.read(|r| Ok(r.get::<BundleRecord>(&host)?))
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

    /// Raises the generation of hosts whose bundle is past half of its life, or names another decoy image than
    /// this master has now.
    ///
    /// # Errors
    /// The store's.
    pub fn republish_outdated(&self) -> Result<(), ControlError> {
        let now = self.now();
        let image: BTreeSet<&Digest> = self.image.iter().map(|image| &image.blob.digest).collect();
        let touched = self.db.update(|w| {
            let mut touched = 0_usize;
            for bundle in w.all::<BundleRecord>()? {
                let half = bundle.issued_at.get() + (bundle.expires_at.get() - bundle.issued_at.get()) / 2;
                let other_image =
                    self.image.is_some() && bundle.blobs.iter().any(|blob| !image.contains(blob));
                let host = w.get::<Host>(&bundle.host)?;
                let published = host.is_some_and(|host| host.generation == bundle.generation);
                if published && (half <= now.get() || other_image) {
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
