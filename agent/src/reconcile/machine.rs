//! The engine as the loop needs it: made when it is first asked, and again after it was away.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use decnet_docker::{Engine, EngineError, Observer, ProgressSink};
use decnet_plan::step::Step;
use decnet_plan::unused::Disk;
use decnet_wire::bundle::Blob;
use decnet_wire::ids::{HostId, StackName};
use decnet_wire::observed::Observed;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::suspicions::Suspicions;
use crate::backoff::Backoff;
use crate::blobs::SharedBlobs;
use crate::transfers::Transfers;

/// A stream of events that lasted so long was no failure.
const STEADY: Duration = Duration::from_secs(10);

/// What the loop asks of an engine.
pub(crate) trait Machine: Send + Sync + 'static {
    /// What there is, and the engine's version.
    fn observe(&self) -> impl Future<Output = Result<(Arc<Observed>, String), EngineError>> + Send;
    /// Whether something may have happened, since the last look, to a container of a stack that `concerns`. Asks the
    /// engine nothing.
    fn suspects(
        &self,
        concerns: impl Fn(&StackName) -> bool + Send + Sync,
    ) -> impl Future<Output = bool> + Send;
    /// One step. `turn` is dropped once it only waits.
    fn apply(&self, step: &Step, turn: impl Send) -> impl Future<Output = Result<(), EngineError>> + Send;
    /// The disk that the engine keeps images on, where that can be seen.
    fn disk(&self) -> impl Future<Output = Option<Disk>> + Send;
    /// How often a pull, a build or a blob's download has told how far it is.
    fn told(&self) -> u64;
    /// From now on, steps may name these blobs.
    fn expect(&self, blobs: Vec<Blob>) -> impl Future<Output = ()> + Send;
}

/// The Docker Engine behind a socket.
#[derive(Debug)]
pub(crate) struct DockerMachine {
    socket: PathBuf,
    host: HostId,
    blobs: SharedBlobs,
    /// The longest time that a lost event goes unnoticed.
    relist: Duration,
    transfers: Arc<Transfers>,
    observer: Mutex<Option<(Arc<Observer>, String)>>,
    /// The observer was given up.
    given_up: Notify,
    suspicions: Suspicions,
}

impl DockerMachine {
    pub(crate) fn new(
        socket: PathBuf,
        host: HostId,
        blobs: SharedBlobs,
        transfers: Arc<Transfers>,
        relist: Duration,
    ) -> Self {
        Self {
            socket,
            host,
            blobs,
            relist,
            transfers,
            observer: Mutex::new(None),
            given_up: Notify::new(),
            suspicions: Suspicions::default(),
        }
    }

    async fn observer(&self) -> Result<(Arc<Observer>, String), EngineError> {
        let mut known = self.observer.lock().await;
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let sink: Arc<dyn ProgressSink> = Arc::<Transfers>::clone(&self.transfers);
        let engine = Engine::connect(&self.socket).await?.with_progress(sink);
        let version = engine.version().await?;
        tracing::info!(version, socket = %self.socket.display(), "connected to the Docker Engine");
        let observer = Arc::new(Observer::new(engine, self.host, self.relist));
        Ok(known.insert((observer, version)).clone())
    }

    /// Passes the engine's events on as wakes, and wakes after every reconnect: what happened in between
    /// went unheard.
    pub(crate) async fn wake_on_events(&self, wake: &Notify, mut backoff: Backoff) {
        loop {
            if let Ok((observer, _)) = self.observer().await {
                wake.notify_one();
                let begun = Instant::now();
                tokio::select! {
                    _ = observer.follow(|| wake.notify_one()) => {}
                    () = self.given_up.notified() => {}
                }
                if begun.elapsed() > STEADY {
                    backoff.reset();
                }
                wake.notify_one();
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

impl Machine for DockerMachine {
    async fn observe(&self) -> Result<(Arc<Observed>, String), EngineError> {
        let (observer, version) = self.observer().await?;
        match observer.observe().await {
            Ok(observed) => Ok((self.suspicions.add_to(observer.engine(), observed), version)),
            Err(error) => {
                if error.retryable() {
                    // It may come back as another version.
                    *self.observer.lock().await = None;
                    self.given_up.notify_one();
                }
                Err(error)
            }
        }
    }

    async fn suspects(&self, concerns: impl Fn(&StackName) -> bool + Send + Sync) -> bool {
        match self.observer().await {
            Ok((observer, _)) => observer.suspects(concerns).await,
            Err(_) => false,
        }
    }

    async fn apply(&self, step: &Step, turn: impl Send) -> Result<(), EngineError> {
        let (observer, _) = self.observer().await?;
        let result = observer.engine().apply_in_turn(step, &*self.blobs, turn).await;
        self.transfers.end(step);
        // A step that failed may have changed something as well.
        observer.touched(step);
        result
    }

    async fn disk(&self) -> Option<Disk> {
        let (observer, _) = self.observer().await.ok()?;
        observer.engine().disk().await.ok().flatten()
    }

    fn told(&self) -> u64 {
        self.transfers.told()
    }

    async fn expect(&self, blobs: Vec<Blob>) {
        let sizes = blobs.into_iter().map(|blob| (blob.digest, blob.size));
        self.blobs.expect(sizes).await;
    }
}
