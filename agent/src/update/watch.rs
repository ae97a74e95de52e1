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
use decnet_wire::release::{Format, Package, Progress, ProgressState, Rollout};
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
/// What is told of an updater that does not begin.
const NOT_BEGUN: &str = "its updater has not begun; `journalctl -u decnet-updater` there says why";
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
    /// What has installed the agent; none when it came another way.
    pub(crate) format: Option<Format>,
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
        let Some(format) = self.format else {
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
        // The updater took the request and did not begin: it declines what it does not believe. It is not asked all the time.
        if let Some((asked, at)) = &self.asked
            && *asked == digest
            && at.elapsed() < ASKED
        {
            return (ProgressState::Installing, Some(NOT_BEGUN.to_owned()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::link::{self, Link};
    use crate::testing::{FixedClock, Signer, now};
    use crate::update::files::{Journal, State};
    use crate::update::health::Before;
    use crate::update::phase::Phase;
    use crate::update::testing::{digest, release};
    use decnet_wire::release::WHOLE;

    /// An enrolled host whose agent a deb has installed, and which updates itself.
    struct Scene {
        signer: Signer,
        updates: Updates,
        places: Places,
        _folder: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut config = Config::new(folder.path().join("agent"));
            config.updater = true;
            let (signer, places) = (Signer::new(), Places::of(&config));
            for path in [&config.state_dir, places.agent(), places.updater()] {
                decnet_pki::files::create_private_dir(path).unwrap();
            }
            let identity = Identity::from_stored(&signer.stored()).unwrap();
            let tls = identity.client_config().unwrap();
            // Nobody answers there: what is fetched lies here already.
            let link = Link::new("127.0.0.1:9".parse().unwrap(), link::fixed(tls)).unwrap();
            let ledger = Ledger::open(&folder.path().join("ledger.redb"), now()).unwrap();
            let updates = Updates {
                identity: Arc::new(IdentityStore::new(config.state_dir.clone(), identity).unwrap()),
                ledger: Arc::new(ledger.ledger),
                clock: FixedClock::at(now()),
                bundles: watch::channel(None).1,
                blobs: Blobs::new(places.agent().to_owned(), link, Arc::default()),
                progress: watch::Sender::new(None),
                format: Some(Format::Deb),
                asked: None,
                config,
            };
            std::fs::write(places.fetched(&digest(b"package")), b"package").unwrap();
            Self {
                signer,
                updates,
                places,
                _folder: folder,
            }
        }

        fn rollout(&self, sequence: u64, per_mille: u16) -> (SignedRelease, Rollout) {
            let release = release(&self.signer, sequence, "1.1", false, b"package");
            let release = self.signer.release(&release);
            let root = self.signer.audience().root;
            let signed = SignedRelease::admit(release.to_string().as_bytes(), &root).unwrap();
            (signed, Rollout { release, per_mille })
        }

        async fn follow(&mut self, rollout: &Rollout) -> Option<ProgressState> {
            let progress = self.updates.follow(rollout).await.unwrap();
            progress.map(|progress| progress.state)
        }

        fn is_asked(&self) -> bool {
            self.places.request().exists()
        }
    }

    #[tokio::test]
    async fn a_host_begins_when_it_is_its_turn_and_asks_once() {
        let mut scene = Scene::new();
        let (signed, mut rollout) = scene.rollout(1, 0);
        let position = signed.position(scene.signer.host);
        for per_mille in [0, position] {
            rollout.per_mille = per_mille;
            assert_eq!(scene.follow(&rollout).await, Some(ProgressState::Waiting));
            assert!(!scene.is_asked(), "{per_mille} of {position}");
        }
        rollout.per_mille = position + 1;
        assert_eq!(scene.follow(&rollout).await, Some(ProgressState::Installing));
        let request: Request = read(&scene.places.request()).unwrap().unwrap();
        assert_eq!(request, Request::new(rollout.release.clone(), digest(b"package")));
        // The updater has declined it.
        std::fs::remove_file(scene.places.request()).unwrap();
        let progress = scene.updates.follow(&rollout).await.unwrap().unwrap();
        assert_eq!(progress.state, ProgressState::Installing);
        assert_eq!(progress.detail.as_deref(), Some(NOT_BEGUN));
        assert!(!scene.is_asked(), "it is asked all the time");
    }

    #[tokio::test]
    async fn what_was_taken_before_is_not_asked_for() {
        let mut scene = Scene::new();
        let (signed, rollout) = scene.rollout(2, WHOLE);
        let mut state = State {
            taken: 2,
            ..State::default()
        };
        write(&scene.places.state(), &state).unwrap();
        assert_eq!(scene.follow(&rollout).await, Some(ProgressState::Refused));
        // What became of it is told as it was written down.
        state.last = Some(Progress {
            sequence: 2,
            version: "1.1".parse().unwrap(),
            release: wire_digest(&signed.digest()),
            state: ProgressState::Restored,
            detail: None,
        });
        write(&scene.places.state(), &state).unwrap();
        assert_eq!(scene.follow(&rollout).await, Some(ProgressState::Restored));
        assert!(!scene.is_asked());
    }

    #[tokio::test]
    async fn while_an_update_is_under_way_no_other_is_asked_for() {
        let mut scene = Scene::new();
        let (_, rollout) = scene.rollout(1, WHOLE);
        let journal = Journal {
            schema: Journal::SCHEMA,
            phase: Phase::Prepared,
            release: rollout.release.clone(),
            format: Format::Deb,
            previous: "1.0-1".to_owned(),
            before: Before::default(),
        };
        write(&scene.places.journal(), &journal).unwrap();
        assert_eq!(scene.follow(&rollout).await, Some(ProgressState::Installing));
        assert!(!scene.is_asked());
    }

    #[tokio::test]
    async fn what_is_withdrawn_before_the_updater_has_begun_is_not_begun() {
        let mut scene = Scene::new();
        let (_, rollout) = scene.rollout(1, WHOLE);
        scene.follow(&rollout).await;
        assert!(scene.is_asked());
        assert_eq!(scene.updates.nothing_ordered(), None);
        assert!(!scene.is_asked());
        // Ordered again it is asked for again.
        scene.follow(&rollout).await;
        assert!(scene.is_asked());
    }

    #[tokio::test]
    async fn a_host_without_a_package_or_without_one_for_it_says_so() {
        let mut scene = Scene::new();
        let (_, rollout) = scene.rollout(1, WHOLE);
        for format in [None, Some(Format::Rpm)] {
            scene.updates.format = format;
            assert_eq!(scene.follow(&rollout).await, Some(ProgressState::Off));
        }
        scene.updates.format = Some(Format::Deb);
        scene.updates.config.updater = false;
        assert_eq!(scene.follow(&rollout).await, Some(ProgressState::Off));
        assert!(!scene.is_asked());
    }

    #[test]
    fn a_disk_without_room_for_an_update_takes_none() {
        let folder = tempfile::tempdir().unwrap();
        has_room(folder.path(), 1).unwrap();
        let why = has_room(folder.path(), u64::MAX / ROOM).unwrap_err();
        assert!(why.contains("an update needs"), "{why}");
    }
}
