//! The agent's side: which release this host is told to install, whether it is its turn, and the package.
//!
//! An order that is not believed is refused by itself: the rest of the bundle is carried out all the same. It would else be
//! a way to keep a host from changing its deckies, and a host whose operators were just replaced would stand still.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use decnet_pki::release::SignedRelease;
use decnet_wire::ids::{Digest, Timestamp};
use decnet_wire::order::Order;
use decnet_wire::release::{Package, Progress, ProgressState, Rollout};
use tokio::sync::watch;
use tokio::time::Instant;

use super::files::{Places, Request, read, write};
use super::package;
use crate::admit::{AdmittedBundle, Code};
use crate::blobs::Blobs;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::error::{error_chain, one_line};
use crate::identity::IdentityStore;
use crate::ledger::{Ledger, LedgerError, RefusalRecord, digest_of};
use crate::trust::wire_digest;

/// How often the updater's folder is looked at, and what did not work is tried again.
const LOOK: Duration = Duration::from_secs(5);
/// How long the updater has before it is asked again.
const ASKED: Duration = Duration::from_secs(600);
/// Room that is left beside the package: for its copy, what is unpacked of it, and what is saved of the one before.
const ROOM: u64 = 6;

pub(crate) struct Updates {
    pub(crate) config: Config,
    pub(crate) identity: Arc<IdentityStore>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) clock: SharedClock,
    pub(crate) bundles: watch::Receiver<Option<Arc<AdmittedBundle>>>,
    /// A cache of its own.
    pub(crate) blobs: Blobs,
    /// What the master is told.
    pub(crate) progress: watch::Sender<Option<Progress>>,
    /// The release that the updater was asked for, and when.
    pub(crate) asked: Option<(Digest, Instant)>,
}

impl Updates {
    /// Where packages are fetched to.
    pub(crate) fn folder(config: &Config) -> std::path::PathBuf {
        Places::of(config).agent().to_owned()
    }

    /// Runs for ever; ends only when the ledger fails.
    pub(crate) async fn run(mut self) -> Result<(), LedgerError> {
        loop {
            let admitted = self.bundles.borrow_and_update().clone();
            let order = admitted
                .as_ref()
                .and_then(|admitted| admitted.bundle().order.clone());
            let progress = match order {
                Some(Order::Update(rollout)) => self.follow(&rollout).await?,
                _ => self.nothing_ordered(),
            };
            self.progress.send_if_modified(|known| {
                let differs = *known != progress;
                if differs {
                    if let Some(progress) = &progress {
                        tracing::info!("update: {}", super::files::progress_text(progress));
                    }
                    known.clone_from(&progress);
                }
                differs
            });
            let is_under_way = self.is_under_way();
            let look = async {
                if is_under_way {
                    tokio::time::sleep(LOOK).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                changed = self.bundles.changed() => if changed.is_err() {
                    // Nobody admits bundles any more: the agent ends.
                    return std::future::pending().await;
                },
                () = look => {}
            }
        }
    }

    /// Whether something may change without another bundle.
    fn is_under_way(&self) -> bool {
        let state = self.progress.borrow().as_ref().map(|progress| progress.state);
        matches!(state, Some(ProgressState::Fetching | ProgressState::Installing))
            || Places::of(&self.config).journal().exists()
    }

    /// What became of the last release is told also when its order was withdrawn. What the updater has not begun is not begun.
    fn nothing_ordered(&mut self) -> Option<Progress> {
        let places = Places::of(&self.config);
        let request = places.request();
        if request.exists()
            && let Err(error) = std::fs::remove_file(&request)
        {
            tracing::debug!("the request is not withdrawn: {error}");
        }
        self.asked = None;
        places.read_state().last
    }

    async fn follow(&mut self, rollout: &Rollout) -> Result<Option<Progress>, LedgerError> {
        let envelope = serde_json::to_vec(&rollout.release).unwrap_or_default();
        let root = self.identity.current().root.clone();
        let release = match SignedRelease::admit(&envelope, &root) {
            Ok(release) => release,
            Err(error) => {
                self.refuse(&envelope, &one_line(&error_chain(&error))).await?;
                return Ok(Places::of(&self.config).read_state().last);
            }
        };
        let (state, detail) = self.look(&release, rollout).await;
        let digest = wire_digest(&release.digest());
        let document = release.document();
        Ok(Some(Progress {
            sequence: document.sequence,
            version: document.version.clone(),
            release: digest,
            state,
            detail,
        }))
    }

    /// How far this host is with a release, and does the next thing about it.
    async fn look(&mut self, release: &SignedRelease, rollout: &Rollout) -> (ProgressState, Option<String>) {
        let places = Places::of(&self.config);
        let digest = wire_digest(&release.digest());
        let known = places.read_state();
        if let Some(last) = known.last.filter(|last| last.release == digest) {
            return (last.state, last.detail);
        }
        if release.sequence() <= known.taken {
            let detail = format!("release {} was taken before", known.taken);
            return (ProgressState::Refused, Some(detail));
        }
        let off = |detail: &str| (ProgressState::Off, Some(detail.to_owned()));
        if !self.config.updater {
            return off("[agent] updater is not true in this host's decnet.ini");
        }
        let Some(format) = package::format() else {
            return off("this host's agent was not installed from a package");
        };
        let Some(package) = release
            .document()
            .package(format, package::architecture())
            .cloned()
        else {
            let architecture = package::architecture();
            return off(&format!("the release has no {format} for {architecture}"));
        };
        if places.journal().exists() {
            return (ProgressState::Installing, None);
        }
        let is_begun = matches!(read::<Request>(&places.request()), Ok(Some(request)) if request.package == package.digest);
        if is_begun {
            return (ProgressState::Installing, None);
        }
        if release.position(self.identity.current().host) >= rollout.per_mille {
            return (ProgressState::Waiting, None);
        }
        // The updater declines what it does not believe, and says why in its journal: it is not asked all the time.
        if let Some((asked, at)) = &self.asked
            && *asked == digest
            && at.elapsed() < ASKED
        {
            return (ProgressState::Installing, None);
        }
        match self.hand_over(&places, rollout, &package).await {
            Ok(()) => {
                self.asked = Some((digest, Instant::now()));
                (ProgressState::Installing, None)
            }
            Err(error) => {
                tracing::warn!("the update's package is not here yet: {error}");
                (ProgressState::Fetching, Some(one_line(&error)))
            }
        }
    }

    /// Fetches the package and asks the updater, whose unit waits for the file.
    async fn hand_over(&self, places: &Places, rollout: &Rollout, package: &Package) -> Result<(), String> {
        let folder = places.agent();
        decnet_pki::files::create_private_dir(folder).map_err(|error| error_chain(&error))?;
        has_room(folder, package.size)?;
        self.blobs
            .expect([(package.digest.clone(), package.size)].into_iter())
            .await;
        self.blobs
            .have(&package.digest)
            .await
            .map_err(|error| error_chain(&error))?;
        let request = Request::new(rollout.release.clone(), package.digest.clone());
        write(&places.request(), &request).map_err(|error| error_chain(&error))
    }

    async fn refuse(&self, envelope: &[u8], detail: &str) -> Result<(), LedgerError> {
        let record = RefusalRecord {
            digest: digest_of(envelope),
            code: Code::Release.as_str().to_owned(),
            stands: false,
        };
        tracing::error!(code = record.code, "ALARM, refused: {detail}");
        let (at, detail): (Timestamp, String) = (self.clock.now(), detail.to_owned());
        self.ledger
            .write(move |tx| tx.refuse(at, &record, &detail, None))
            .await
    }
}

/// Whether the disk has room for what an update makes.
fn has_room(folder: &Path, size: u64) -> Result<(), String> {
    let Ok(disk) = nix::sys::statvfs::statvfs(folder) else {
        return Ok(());
    };
    // Their types differ between platforms.
    #[allow(clippy::useless_conversion)]
    let free = u64::from(disk.blocks_available()).saturating_mul(u64::from(disk.fragment_size()));
    let needed = size.saturating_mul(ROOM);
    if free >= needed {
        Ok(())
    } else {
        Err(format!(
            "{} has room for {free} bytes, an update needs {needed}",
            folder.display()
        ))
    }
}
