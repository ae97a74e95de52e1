//! The updater's program. It believes nothing that the agent says: release and package are verified here once more.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use decnet_docker::Engine;
use decnet_pki::files;
use decnet_pki::release::{ReleaseError, SignedRelease};
use decnet_wire::ids::Digest;
use decnet_wire::release::{Format, Package, Progress, ProgressState, Version};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};

use super::files::{Journal, Places, Request, State, read, write};
use super::health::{Before, Health, judge};
use super::package::{self, remove_all};
use super::phase::{Event, Phase, next};
use crate::config::Config;
use crate::control;
use crate::error::{error_chain, one_line};
use crate::identity::Identity;
use crate::trust::wire_digest;

/// How long a new version has until it is good. With going back, that has to be less than a minute.
const JUDGED_WITHIN: Duration = Duration::from_secs(30);
/// How long it has to stay good, as one process.
const STEADY: Duration = Duration::from_secs(4);
/// How long an answer of the agent's or of the engine's is waited for.
const ANSWER: Duration = Duration::from_secs(6);
/// A new version that ends so often is not waited for.
const ENDS: u32 = 3;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long the agent of before may take until it answers; then the next thing is done.
const BACK: Duration = Duration::from_secs(15);
/// Between two tries of going back.
const AGAIN: Duration = Duration::from_secs(5);
const PROGRAM: &str = "/usr/bin/decnet-agent";

/// The updater cannot do its work.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UpdateError(String);

/// Does what is asked for, or goes on with what was cut off; nothing to do is fine.
///
/// # Errors
/// The updater's folder cannot be used. It is tried again by whoever started it.
pub async fn run(config: &Config) -> Result<(), UpdateError> {
    let places = Places::of(config);
    files::create_private_dir(places.updater()).map_err(|error| UpdateError(error_chain(&error)))?;
    let lock = File::create(places.updater().join("lock")).map_err(|error| UpdateError(error.to_string()))?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        return Err(UpdateError("another updater is at work".to_owned()));
    };
    let updater = Updater { config, places };
    match updater.work().await {
        Ok(()) => Ok(()),
        Err(error) => Err(UpdateError(error)),
    }
}

struct Updater<'a> {
    config: &'a Config,
    places: Places,
}

/// A request that is not carried out.
#[derive(Debug, PartialEq, Eq)]
enum Declined {
    /// It is wrong, whenever it is looked at.
    Refused(String),
    /// There is nothing to do: the version is there.
    Here,
    /// Something of this host's is in the way, which may pass.
    Failed(String),
}

impl From<String> for Declined {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl Updater<'_> {
    async fn work(&self) -> Result<(), String> {
        let journal = match read::<Journal>(&self.places.journal())? {
            Some(journal) => {
                tracing::warn!(phase = ?journal.phase, "an update was cut off: going on");
                journal
            }
            None => match self.take_request().await? {
                Some(journal) => journal,
                None => return Ok(()),
            },
        };
        self.drive(journal).await
    }

    /// Looks at what the agent asks for, and prepares it.
    async fn take_request(&self) -> Result<Option<Journal>, String> {
        let path = self.places.request();
        let request = match read::<Request>(&path) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(None),
            Err(error) => {
                remove(&path)?;
                return Err(error);
            }
        };
        let release = match self.verified(&request) {
            Ok(release) => release,
            Err(error) => {
                tracing::error!("refused: {error}");
                remove(&path)?;
                return Ok(None);
            }
        };
        let prepared = self.prepare(&release, &request).await;
        let (state, detail) = match prepared {
            Ok(journal) => {
                remove(&path)?;
                return Ok(Some(journal));
            }
            Err(Declined::Here) => (ProgressState::Kept, Some("it was installed already".to_owned())),
            Err(Declined::Refused(why)) => (ProgressState::Refused, Some(why)),
            Err(Declined::Failed(why)) => (
                ProgressState::Refused,
                Some(format!("it could not be prepared: {why}")),
            ),
        };
        self.conclude(&release, state, detail)?;
        remove(&path)?;
        Ok(None)
    }

    /// The release, as the operators of the trust root have signed it.
    fn verified(&self, request: &Request) -> Result<SignedRelease, String> {
        if !self.config.updater {
            return Err("this host does not update itself: [agent] updater is not true".to_owned());
        }
        let identity = Identity::load(&self.config.state_dir).map_err(|error| error_chain(&error))?;
        let envelope = serde_json::to_vec(&request.release).unwrap_or_default();
        SignedRelease::admit(&envelope, &identity.root).map_err(|error| error_chain(&error))
    }

    /// Saves all that is needed to install and to go back. Whatever cuts it off, it is begun anew.
    async fn prepare(&self, release: &SignedRelease, request: &Request) -> Result<Journal, Declined> {
        let format = package::format().ok_or_else(|| "it was not installed from a package".to_owned())?;
        let previous = package::installed(format).await?;
        let version = package::upstream(&previous)?;
        let taken = self.places.read_state().taken;
        let wanted = chosen(release, taken, &version, format, &request.package)?;
        let document = release.document();
        let file = self.places.package(format);
        self.take_package(wanted, &file)?;
        package::check(format, &file, &document.version)
            .await
            .map_err(Declined::Refused)?;
        package::save(format, &self.places.previous()).await?;
        let record = self.places.record(format);
        package::remember(format, &self.places.previous(), &previous, &record).await?;
        package::keep_program(Path::new(PROGRAM), &self.places.program()).await?;
        let before = self.asked().await.as_ref().map(Before::from).unwrap_or_default();
        let journal = Journal {
            schema: Journal::SCHEMA,
            phase: Phase::Prepared,
            release: request.release.clone(),
            format,
            previous,
            before,
        };
        self.keep(&journal)?;
        tracing::info!(version = %document.version, sequence = document.sequence, from = journal.previous, "an update begins");
        Ok(journal)
    }

    /// Copies the package to where only the updater writes, and looks at that copy.
    fn take_package(&self, wanted: &Package, to: &Path) -> Result<(), Declined> {
        let failed = |error: io::Error| Declined::Failed(format!("the package cannot be read: {error}"));
        let from = File::open(self.places.fetched(&wanted.digest)).map_err(failed)?;
        remove_all(to).map_err(failed)?;
        let mut file = File::create(to).map_err(failed)?;
        let mut from = from.take(wanted.size + 1);
        let (mut hash, mut size, mut piece) = (Sha256::new(), 0, vec![0; 256 * 1024]);
        loop {
            let read = from.read(&mut piece).map_err(failed)?;
            if read == 0 {
                break;
            }
            hash.update(&piece[..read]);
            size += read as u64;
            file.write_all(&piece[..read]).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        if size == wanted.size && Digest::from_sha256(hash.finalize().into()) == wanted.digest {
            Ok(())
        } else {
            Err(Declined::Refused(
                "the package is not the one that was signed".to_owned(),
            ))
        }
    }

    /// Goes through the phases until the end.
    async fn drive(&self, mut journal: Journal) -> Result<(), String> {
        let envelope = serde_json::to_vec(&journal.release).unwrap_or_default();
        let release = SignedRelease::stored(&envelope).map_err(|error| error_chain(&error))?;
        let mut event = Event::Begun;
        loop {
            journal.phase = next(&journal.phase, event);
            self.keep(&journal)?;
            tracing::info!(phase = ?journal.phase, "update");
            event = match &journal.phase {
                Phase::Prepared => Event::Done,
                Phase::Installing { .. } => outcome(self.install(&journal, &release).await),
                Phase::Judging { .. } => outcome(self.start_and_judge(journal.before).await),
                Phase::Restoring { .. } => match self.restore(&journal).await {
                    Ok(()) => Event::Done,
                    Err(error) => {
                        tracing::error!("the previous version is not back yet: {error}");
                        tokio::time::sleep(AGAIN).await;
                        Event::Failed(error)
                    }
                },
                Phase::Ended { state, detail } => {
                    self.conclude(&release, *state, detail.clone())?;
                    return self.forget(&journal);
                }
            };
        }
    }

    async fn install(&self, journal: &Journal, release: &SignedRelease) -> Result<(), String> {
        package::install(journal.format, &self.places.package(journal.format)).await?;
        let found = package::upstream(&package::installed(journal.format).await?)?;
        if found == release.document().version {
            Ok(())
        } else {
            Err(format!("version {found} is installed after that"))
        }
    }

    /// Starts what is installed, and waits until it is good and stays so.
    async fn start_and_judge(&self, before: Before) -> Result<(), String> {
        let begun = Instant::now();
        package::restart().await?;
        let mut why = "it does not answer".to_owned();
        let mut good: Option<(u32, Instant)> = None;
        while begun.elapsed() < JUDGED_WITHIN {
            let judged = match self.asked().await {
                None => Err("it does not answer".to_owned()),
                Some(health) => judge(before, &health, self.engine_answers().await).map(|()| health.process),
            };
            match (judged, good) {
                (Ok(process), Some((known, since))) if process == known => {
                    if since.elapsed() >= STEADY {
                        return Ok(());
                    }
                }
                (Ok(process), _) => {
                    why = "it does not stay as it is".to_owned();
                    good = Some((process, Instant::now()));
                }
                (Err(missing), _) => (why, good) = (missing, None),
            }
            if good.is_none() && package::restarts().await.is_some_and(|restarts| restarts >= ENDS) {
                return Err(format!("the new version ended {ENDS} times"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(format!(
            "the new version was not good within {} s: {}",
            JUDGED_WITHIN.as_secs(),
            one_line(&why)
        ))
    }

    /// Puts the files of before back and starts them; then tells the package manager, which may take longer.
    async fn restore(&self, journal: &Journal) -> Result<(), String> {
        package::kill().await?;
        package::put_back(&self.places.previous()).await?;
        package::restart().await?;
        let begun = Instant::now();
        while self.asked().await.is_none() && begun.elapsed() < BACK {
            tokio::time::sleep(LOOK).await;
        }
        tracing::warn!(version = journal.previous, "the previous version runs again");
        let record = self.places.record(journal.format);
        // What runs is the previous version; a package manager that does not say so is told again by the next update.
        match package::recall(journal.format, &journal.previous, &record).await {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::error!("the package manager goes on naming the new version: {error}");
                package::put_back(&self.places.previous()).await
            }
        }
    }

    /// What the agent says of itself; none when it does not.
    async fn asked(&self) -> Option<Health> {
        let socket = self.config.socket_path();
        timeout(ANSWER, control::ask(&socket, "/health")).await.ok()?.ok()
    }

    async fn engine_answers(&self) -> bool {
        let engine = Engine::connect(&self.config.docker_socket);
        matches!(timeout(ANSWER, engine).await, Ok(Ok(_)))
    }

    fn keep(&self, journal: &Journal) -> Result<(), String> {
        write(&self.places.journal(), journal).map_err(|error| error_chain(&error))
    }

    /// Writes down what became of a release.
    fn conclude(
        &self,
        release: &SignedRelease,
        state: ProgressState,
        detail: Option<String>,
    ) -> Result<(), String> {
        let document = release.document();
        let known = self.places.read_state();
        let acted_on = state != ProgressState::Refused;
        let said = State {
            taken: if acted_on {
                known.taken.max(document.sequence)
            } else {
                known.taken
            },
            last: Some(Progress {
                sequence: document.sequence,
                version: document.version.clone(),
                release: wire_digest(&release.digest()),
                state,
                detail: detail.as_deref().map(one_line),
            }),
            ..State::default()
        };
        write(&self.places.state(), &said).map_err(|error| error_chain(&error))?;
        let version = &document.version;
        if state == ProgressState::Kept {
            tracing::info!(%version, "the update is kept");
        } else {
            let why = detail.unwrap_or_default();
            tracing::error!(%version, state = state.as_str(), "no update: {why}");
        }
        Ok(())
    }

    /// Removes what only an update under way needs; the journal first, so that nothing is taken up without it.
    fn forget(&self, journal: &Journal) -> Result<(), String> {
        remove(&self.places.journal())?;
        let left = [
            self.places.package(journal.format),
            self.places.record(journal.format),
            self.places.previous(),
            self.places.program(),
        ];
        for path in left {
            if let Err(error) = remove_all(&path) {
                tracing::warn!("{} is left: {error}", path.display());
            }
        }
        Ok(())
    }
}

/// The package of a release that takes the place of `version`; `asked` is the one that was fetched. `taken` is as in
/// [`SignedRelease::may_follow`].
fn chosen<'r>(
    release: &'r SignedRelease,
    taken: u64,
    version: &Version,
    format: Format,
    asked: &Digest,
) -> Result<&'r Package, Declined> {
    let may_follow = release.may_follow(taken, version);
    may_follow.map_err(|error: ReleaseError| Declined::Refused(error.to_string()))?;
    let document = release.document();
    if document.version == *version {
        return Err(Declined::Here);
    }
    document
        .package(format, package::architecture())
        .filter(|package| package.digest == *asked)
        .ok_or_else(|| Declined::Refused("it has no such package for this host".to_owned()))
}

fn outcome(result: Result<(), String>) -> Event {
    match result {
        Ok(()) => Event::Done,
        Err(why) => Event::Failed(one_line(&why)),
    }
}

fn remove(path: &Path) -> Result<(), String> {
    remove_all(path).map_err(|error| format!("{} cannot be removed: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Signer;
    use crate::update::testing::{digest, release};

    /// An enrolled host that updates itself.
    struct Scene {
        signer: Signer,
        config: Config,
        _folder: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut config = Config::new(folder.path().join("agent"));
            config.updater = true;
            let signer = Signer::new();
            for path in [
                &config.state_dir,
                Places::of(&config).agent(),
                Places::of(&config).updater(),
            ] {
                files::create_private_dir(path).unwrap();
            }
            Identity::store(&config.state_dir, &signer.stored()).unwrap();
            Self {
                signer,
                config,
                _folder: folder,
            }
        }

        fn updater(&self) -> Updater<'_> {
            Updater {
                config: &self.config,
                places: Places::of(&self.config),
            }
        }

        fn signed(&self, sequence: u64, version: &str, downgrade: bool) -> SignedRelease {
            let release = release(&self.signer, sequence, version, downgrade, b"package");
            let envelope = self.signer.release(&release).to_string();
            SignedRelease::admit(envelope.as_bytes(), &self.signer.audience().root).unwrap()
        }

        /// What the updater says to a request that is not to be believed: nothing, but that it is gone.
        async fn ignores(&self, request: &Request) {
            let updater = self.updater();
            write(&updater.places.request(), request).unwrap();
            assert!(updater.take_request().await.unwrap().is_none());
            assert!(
                !updater.places.request().exists(),
                "it is looked at again and again"
            );
            assert_eq!(updater.places.read_state(), State::default());
            assert!(!updater.places.journal().exists());
        }
    }

    #[test]
    fn only_a_release_that_follows_is_installed_and_only_its_package() {
        let scene = Scene::new();
        let asked = digest(b"package");
        let choose = |release: &SignedRelease, taken, asked: &Digest| {
            let version = "1.0".parse().unwrap();
            chosen(release, taken, &version, Format::Deb, asked).cloned()
        };
        let refused = |declined: Result<Package, Declined>| match declined {
            Err(Declined::Refused(why)) => why,
            other => panic!("{other:?}"),
        };
        let next = scene.signed(2, "1.1", false);
        assert_eq!(choose(&next, 1, &asked).unwrap(), next.document().packages[0]);
        let why = refused(choose(&next, 2, &asked));
        assert!(why.contains("sequence 2 was taken before"), "{why}");
        let why = refused(choose(&next, 1, &digest(b"another")));
        assert!(why.contains("no such package"), "{why}");
        let version = "1.0".parse().unwrap();
        let why = refused(chosen(&next, 1, &version, Format::Rpm, &asked).cloned());
        assert!(why.contains("no such package"), "{why}");
        let why = refused(choose(&scene.signed(2, "0.9", false), 1, &asked));
        assert!(why.contains("not signed as a downgrade"), "{why}");
        choose(&scene.signed(2, "0.9", true), 1, &asked).unwrap();
        let here = choose(&scene.signed(2, "1.0", false), 1, &asked);
        assert_eq!(here, Err(Declined::Here));
    }

    #[test]
    fn tampering_a_package_is_taken_with_the_signed_bytes_and_size_alone() {
        let scene = Scene::new();
        let updater = scene.updater();
        let release = scene.signed(1, "1.1", false);
        let wanted = &release.document().packages[0];
        let (fetched, to) = (
            updater.places.fetched(&wanted.digest),
            updater.places.package(Format::Deb),
        );
        let missing = updater.take_package(wanted, &to);
        assert!(matches!(missing, Err(Declined::Failed(_))), "{missing:?}");
        for other in ["packagE", "package and more", "pack", ""] {
            std::fs::write(&fetched, other).unwrap();
            let taken = updater.take_package(wanted, &to);
            assert!(matches!(taken, Err(Declined::Refused(_))), "{other}: {taken:?}");
        }
        std::fs::write(&fetched, "package").unwrap();
        let longer = Package {
            size: wanted.size + 1,
            ..wanted.clone()
        };
        let taken = updater.take_package(&longer, &to);
        assert!(matches!(taken, Err(Declined::Refused(_))), "{taken:?}");
        updater.take_package(wanted, &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"package");
    }

    #[tokio::test]
    async fn arbitrary_software_a_stolen_agent_has_nothing_installed() {
        let scene = Scene::new();
        let thief = Signer::new();
        let document = release(&thief, 1, "9.0", false, b"package");
        let package = digest(b"package");
        scene
            .ignores(&Request::new(thief.release(&document), package.clone()))
            .await;
        // Nor where the host does not update itself.
        let mut scene = scene;
        scene.config.updater = false;
        let signed = scene.signer.release(&document);
        scene.ignores(&Request::new(signed, package)).await;
        let updater = scene.updater();
        std::fs::write(updater.places.request(), "{").unwrap();
        assert!(updater.take_request().await.is_err());
        assert!(
            !updater.places.request().exists(),
            "it is looked at again and again"
        );
    }

    #[test]
    fn what_was_acted_on_is_not_taken_again_and_what_was_refused_may_be() {
        let scene = Scene::new();
        let updater = scene.updater();
        let taken = |state: ProgressState, sequence: u64| {
            let release = scene.signed(sequence, "1.1", false);
            updater
                .conclude(&release, state, Some("why\nor not".to_owned()))
                .unwrap();
            let known = updater.places.read_state();
            let last = known.last.unwrap();
            assert_eq!((last.state, last.sequence), (state, sequence));
            assert!(!last.detail.unwrap().contains('\n'));
            known.taken
        };
        assert_eq!(taken(ProgressState::Refused, 3), 0);
        assert_eq!(taken(ProgressState::Restored, 3), 3);
        assert_eq!(taken(ProgressState::Refused, 5), 3);
        assert_eq!(taken(ProgressState::Kept, 4), 4);
        assert_eq!(taken(ProgressState::Kept, 2), 4);
    }

    #[tokio::test]
    async fn one_updater_works_at_a_time_and_what_is_over_is_not_begun_again() {
        let scene = Scene::new();
        let updater = scene.updater();
        let journal = Journal {
            schema: Journal::SCHEMA,
            phase: Phase::Ended {
                state: ProgressState::Kept,
                detail: None,
            },
            release: serde_json::from_slice(&scene.signed(1, "1.1", false).envelope().to_json()).unwrap(),
            format: Format::Deb,
            previous: "1.0-1".to_owned(),
            before: Before::default(),
        };
        updater.keep(&journal).unwrap();
        let lock = File::create(updater.places.updater().join("lock")).unwrap();
        // However it is held: nobody else's lock goes together with an updater's.
        let lock = Flock::lock(lock, FlockArg::LockSharedNonblock).unwrap();
        let error = run(&scene.config).await.unwrap_err();
        assert!(error.to_string().contains("another updater"), "{error}");
        assert!(updater.places.journal().exists());
        drop(lock);
        run(&scene.config).await.unwrap();
        assert_eq!(updater.places.read_state().taken, 1);
        assert!(!updater.places.journal().exists());
    }
}
