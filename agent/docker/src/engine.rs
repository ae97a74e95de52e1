//! The connection to the engine.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{SystemInfo, SystemVersion};
use bollard::{API_DEFAULT_VERSION, Docker};
use bytes::Bytes;
use decnet_plan::unused::Disk;
use nix::sys::statvfs::statvfs;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::crash;
use crate::host::Way;
use crate::known::Known;
use crate::progress::{ProgressSink, Sink, ToLog};
use crate::{Builder, EngineError};

/// Calls that are in flight at once. Measured: an engine on two cores gains nothing beyond.
pub(crate) const CALLS: usize = 8;
/// Loads, pulls and builds that are in flight at once, besides those calls: they take minutes.
const TRANSFERS: usize = 4;
/// For a call that only looks.
pub(crate) const LOOK: Duration = Duration::from_secs(30);
/// For a call that changes an object. A start on a busy engine takes seconds; minutes mean that it hangs.
pub(crate) const CHANGE: Duration = Duration::from_secs(120);
/// For the load or pull of an image.
pub(crate) const TRANSFER: Duration = Duration::from_secs(30 * 60);

/// The oldest API that has what steps are made of: that of Docker 20.10.
const OLDEST_API: (usize, usize) = (1, 41);

/// What an engine says of itself and of the host that it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Such as `20.10.24`.
    pub version: String,
    /// The newest that it speaks, such as `1.41`.
    pub api: String,
    /// It speaks none that serves.
    pub is_too_old: bool,
    /// The folder of its images and containers.
    pub root: Option<String>,
    /// It runs in a user namespace, where it has no part in the host's networks.
    pub is_rootless: bool,
    /// A container's limit of memory is kept to.
    pub limits_memory: bool,
    /// A container's limit of processes is kept to.
    pub limits_processes: bool,
}

/// A Docker Engine on this machine, version 20.10 (API 1.41) or newer. Clones share the connection.
///
/// Guarantees: at most eight calls are in flight, and four loads, pulls and builds; each ends within its timeout. The wait of a start for its container
/// to settle counts as none, so independent steps may all be applied at once.
#[derive(Clone)]
pub struct Engine {
    pub(crate) docker: Docker,
    pub(crate) known: Known,
    pub(crate) progress: Sink,
    /// How namespaces are closed, when somebody has said so.
    pub(crate) closing: Option<Way>,
    /// What makes images, when somebody has said so.
    pub(crate) builder: Option<Builder>,
    permits: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
    socket: Arc<str>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Connects to the engine's Unix socket and agrees on an API version. When the engine is later replaced by an
    /// older one, connect again.
    ///
    /// # Errors
    /// [`EngineError::Connect`] when nothing answers there; it is worth a retry.
    pub async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let name: Arc<str> = socket.display().to_string().into();
        let lost = |source| EngineError::Connect {
            socket: name.to_string(),
            source,
        };
        // bollard's own timeout ends streams as well, so it is set beyond the longest of ours.
        let docker =
            Docker::connect_with_unix(&name, TRANSFER.as_secs() + 60, API_DEFAULT_VERSION).map_err(lost)?;
        let negotiated = tokio::time::timeout(LOOK, docker.negotiate_version()).await;
        let docker = match negotiated {
            Ok(result) => result.map_err(lost)?,
            Err(_) => {
                return Err(EngineError::Timeout {
                    what: format!("connect to {name}"),
                    seconds: LOOK.as_secs(),
                });
            }
        };
        Ok(Self {
            docker,
            known: Known::default(),
            progress: Arc::new(ToLog),
            closing: None,
            builder: None,
            permits: Arc::new(Semaphore::new(CALLS)),
            transfers: Arc::new(Semaphore::new(TRANSFERS)),
            socket: name,
        })
    }

    /// The same connection, whose pulls and builds tell `sink` how far they are. Without one they tell the log.
    #[must_use]
    pub fn with_progress(mut self, sink: Arc<dyn ProgressSink>) -> Self {
        self.progress = sink;
        self
    }

    /// The same connection, which closes namespaces in this way. Without one it is the first that the kernel has.
    #[must_use]
    pub fn closing_with(mut self, way: Way) -> Self {
        self.closing = Some(way);
        self
    }

    /// The same connection, which has images made by this builder where it can do what a build asks for. Without one it
    /// is BuildKit where the engine has it.
    #[must_use]
    pub fn building_with(mut self, builder: Builder) -> Self {
        self.builder = Some(builder);
        self
    }

    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    /// A call's path, with the version that was agreed on.
    pub(crate) fn path(&self, call: &str) -> String {
        let version = self.docker.client_version();
        format!("/v{}.{}{call}", version.major_version, version.minor_version)
    }

    /// Asks whether the engine answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), EngineError> {
        self.call(LOOK, || "ping the engine".to_owned(), self.docker.ping())
            .await
            .map(drop)
    }

    /// The engine's version, such as `20.10.24`.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn version(&self) -> Result<String, EngineError> {
        Ok(self.about().await?.version.unwrap_or_default())
    }

    /// What the engine says of itself and its parts.
    pub(crate) async fn about(&self) -> Result<SystemVersion, EngineError> {
        let what = || "read the engine's version".to_owned();
        self.call(LOOK, what, self.docker.version()).await
    }

    /// What the engine says of itself.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn facts(&self) -> Result<Facts, EngineError> {
        let about = self.about().await?;
        let info = self.info().await?;
        let options = info.security_options.unwrap_or_default();
        Ok(Facts {
            version: about.version.unwrap_or_default(),
            api: about.api_version.unwrap_or_default(),
            is_too_old: !self.api_at_least(OLDEST_API.0, OLDEST_API.1),
            root: info.docker_root_dir,
            is_rootless: options.iter().any(|option| option == "name=rootless"),
            limits_memory: info.memory_limit.unwrap_or_default(),
            limits_processes: info.pids_limit.unwrap_or_default(),
        })
    }

    async fn info(&self) -> Result<SystemInfo, EngineError> {
        let what = || "ask the engine about its host".to_owned();
        self.call(LOOK, what, self.docker.info()).await
    }

    /// The disk that the engine keeps its images on; None where its folder cannot be seen from here.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn disk(&self) -> Result<Option<Disk>, EngineError> {
        let root = self.info().await?.docker_root_dir;
        let Some(found) = root.and_then(|root| statvfs(root.as_str()).ok()) else {
            return Ok(None);
        };
        let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        Ok(Some(Disk {
            total: bytes(found.blocks()),
            free: bytes(found.blocks_available()),
        }))
    }

    /// Makes one call under a permit and a timeout.
    pub(crate) async fn call<T>(
        &self,
        limit: Duration,
        what: impl Fn() -> String,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        let permits = if limit == TRANSFER {
            &self.transfers
        } else {
            &self.permits
        };
        // Neither semaphore is ever closed.
        let _permit = permits.acquire().await;
        crash::point(crash::BEFORE_CALL);
        let answer = tokio::time::timeout(limit, call).await;
        crash::point(crash::AFTER_CALL);
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(bollard::errors::Error::RequestTimeoutError)) | Err(_) => Err(EngineError::Timeout {
                what: what(),
                seconds: limit.as_secs(),
            }),
            Ok(Err(source)) => Err(EngineError::Call { what: what(), source }),
        }
    }

    /// Whether the API that was agreed on is at least `major.minor`.
    pub(crate) fn api_at_least(&self, major: usize, minor: usize) -> bool {
        let version = self.docker.client_version();
        (version.major_version, version.minor_version) >= (major, minor)
    }

    /// An error for what only engines since API `major.minor` can do, where this one is older.
    pub(crate) fn needs_api(
        &self,
        (major, minor): (usize, usize),
        what: impl FnOnce() -> String,
        why: &'static str,
    ) -> Result<(), EngineError> {
        if self.api_at_least(major, minor) {
            return Ok(());
        }
        Err(EngineError::Unsupported { what: what(), why })
    }

    /// The connection for one call with a body that has fields which bollard's types, made for newer engines, lack.
    pub(crate) fn with_fields(
        &self,
        body: impl Serialize,
        fields: &[(&'static str, Value)],
    ) -> Result<Docker, EngineError> {
        let encode = |source: serde_json::Error| EngineError::Call {
            what: "write a request to the engine".to_owned(),
            source: source.into(),
        };
        let mut body = serde_json::to_value(body).map_err(encode)?;
        for (name, value) in fields {
            body[*name] = value.clone();
        }
        let bytes = Bytes::from(serde_json::to_vec(&body).map_err(encode)?);
        Ok(self.docker.clone().with_request_modifier(move |mut request| {
            *request.body_mut() = bollard::body_full(bytes.clone());
            request
        }))
    }
}
