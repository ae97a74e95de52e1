//! The engine as the loop needs it: made when it is first asked, and again after it was away.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use decnet_docker::{Engine, EngineError};
use decnet_plan::step::Step;
use decnet_wire::bundle::Blob;
use decnet_wire::ids::HostId;
use decnet_wire::observed::Observed;
use futures_util::StreamExt as _;
use tokio::sync::{Mutex, Notify};

use crate::backoff::Backoff;
use crate::blobs::SharedBlobs;

/// What the loop asks of an engine.
pub(crate) trait Machine: Send + Sync + 'static {
    /// What there is, and the engine's version.
    fn observe(&self) -> impl Future<Output = Result<(Observed, String), EngineError>> + Send;
    /// One step.
    fn apply(&self, step: &Step) -> impl Future<Output = Result<(), EngineError>> + Send;
    /// From now on, steps may name these blobs.
    fn expect(&self, blobs: Vec<Blob>) -> impl Future<Output = ()> + Send;
}

/// The Docker Engine behind a socket.
#[derive(Debug)]
pub(crate) struct DockerMachine {
    socket: PathBuf,
    host: HostId,
    blobs: SharedBlobs,
    engine: Mutex<Option<(Engine, String)>>,
    reach: Arc<Reach>,
}

/// What was found about the way of containers to their LAN, by their id; None while it is being found out. Each is
/// looked at once.
type Reach = std::sync::Mutex<BTreeMap<String, Option<Vec<String>>>>;

impl DockerMachine {
    pub(crate) fn new(socket: PathBuf, host: HostId, blobs: SharedBlobs) -> Self {
        Self {
            socket,
            host,
            blobs,
            engine: Mutex::new(None),
            reach: Arc::default(),
        }
    }

    async fn engine(&self) -> Result<(Engine, String), EngineError> {
        let mut known = self.engine.lock().await;
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let engine = Engine::connect(&self.socket).await?;
        let version = engine.version().await?;
        tracing::info!(version, socket = %self.socket.display(), "connected to the Docker Engine");
        Ok(known.insert((engine, version)).clone())
    }

    /// Adds what is known to be suspicious, and begins to look at containers that are new.
    fn add_warnings(&self, engine: &Engine, observed: &mut Observed) {
        let mut known = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id, _| observed.containers.iter().any(|container| container.id == *id));
        for container in &mut observed.containers {
            // A container without a namespace of its own has nothing closed.
            if !container.state.is_running() || container.lock.is_none() {
                continue;
            }
            match known.get(&container.id) {
                Some(Some(warnings)) => container.warnings.clone_from(warnings),
                Some(None) => {}
                None => {
                    known.insert(container.id.clone(), None);
                    let (engine, reach) = (engine.clone(), Arc::clone(&self.reach));
                    let (id, name) = (container.id.clone(), container.name.clone());
                    tokio::spawn(async move {
                        let warnings = engine.check_reach(&id).await.unwrap_or_default();
                        for warning in &warnings {
                            tracing::warn!(container = name, warning, "suspicious");
                        }
                        let mut known = reach.lock().unwrap_or_else(PoisonError::into_inner);
                        known.insert(id, Some(warnings));
                    });
                }
            }
        }
    }

    /// Passes the engine's events on as wakes, and wakes after every reconnect: what happened in between
    /// went unheard.
    pub(crate) async fn wake_on_events(&self, wake: &Notify, mut backoff: Backoff) {
        loop {
            if let Ok((engine, _)) = self.engine().await {
                wake.notify_one();
                let mut events = std::pin::pin!(engine.events(self.host));
                while let Some(Ok(())) = events.next().await {
                    backoff.reset();
                    wake.notify_one();
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

impl Machine for DockerMachine {
    async fn observe(&self) -> Result<(Observed, String), EngineError> {
        let (engine, version) = self.engine().await?;
        match engine.observe(self.host).await {
            Ok(mut observed) => {
                self.add_warnings(&engine, &mut observed);
                Ok((observed, version))
            }
            Err(error) => {
                if error.retryable() {
                    // It may come back as another version.
                    *self.engine.lock().await = None;
                }
                Err(error)
            }
        }
    }

    async fn apply(&self, step: &Step) -> Result<(), EngineError> {
        let (engine, _) = self.engine().await?;
        engine.apply(step, &*self.blobs).await
    }

    async fn expect(&self, blobs: Vec<Blob>) {
        self.blobs.expect(blobs.into_iter()).await;
    }
}
