//! Looks at the engine again and again, and asks only about what may have changed.
//!
//! Flow: [`Observer::follow`] hears the engine's events and notes what each is about; [`Observer::observe`] asks about
//! that and about nothing else.
//!
//! Guarantees: events are a hint. The lists are read again after every reconnect and whenever the last time is longer
//! ago than the timer; what they, or the kernel, show to be different is inspected. So an event that was lost is made
//! up for by then. Limits and restart policies are in no list: with each list of the timer, some containers are inspected
//! in turn, those first that were longest ago. While no events are heard, every look reads the lists.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::models::{EventMessage, EventMessageTypeEnum};
use decnet_plan::labels;
use decnet_plan::step::Step;
use decnet_wire::ids::{HostId, StackName};
use decnet_wire::observed::{Observed, ObservedImage, ObservedVolume};
use futures_util::StreamExt;
use tokio::time::Instant;

use super::seen::{Seen, to_containers};
use super::{How, Networks, interfaces, read_locks};
use crate::{Engine, EngineError};

/// How long a stream of events has to be open before it counts. The engine does not say when it begins to listen.
const OPENING: Duration = Duration::from_secs(1);
/// Containers that are inspected one by one without a look at the list, which tells what has gone in one call.
const FEW: usize = 16;

/// One host's objects on one engine.
#[derive(Debug)]
pub struct Observer {
    engine: Engine,
    host: HostId,
    /// The longest time between two lists.
    timer: Duration,
    doubts: Mutex<Doubts>,
    memory: tokio::sync::Mutex<Memory>,
}

/// What may not be as it is remembered.
#[derive(Debug, Default)]
struct Doubts {
    /// Events are being heard.
    hears: bool,
    /// Every container.
    all: bool,
    /// Which containers there are.
    lists: bool,
    images: bool,
    networks: bool,
    volumes: bool,
    /// Containers of this host, by id.
    containers: BTreeSet<String>,
    /// Containers of whatever host that a network's event names, by id.
    attached: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Memory {
    listed: Option<Instant>,
    images: Vec<ObservedImage>,
    networks: Networks,
    volumes: Vec<ObservedVolume>,
    /// By id.
    containers: HashMap<String, Seen>,
    observed: Arc<Observed>,
}

impl Observer {
    /// Nothing is known at first. `timer` is the longest time that a lost event goes unnoticed.
    #[must_use]
    pub fn new(engine: Engine, host: HostId, timer: Duration) -> Self {
        Self {
            engine,
            host,
            timer,
            doubts: Mutex::default(),
            memory: tokio::sync::Mutex::default(),
        }
    }

    /// The connection that it looks through.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What [`Engine::observe`] would find. The same value as before, without a call, while nothing has happened.
    ///
    /// # Errors
    /// The engine does not answer, or the interfaces cannot be listed. Nothing is forgotten then.
    pub async fn observe(&self) -> Result<Arc<Observed>, EngineError> {
        let mut memory = self.memory.lock().await;
        let mut taken = Taken {
            observer: self,
            doubts: self.doubt(Doubts::take),
        };
        self.refresh(&mut memory, &taken.doubts).await?;
        taken.doubts = Doubts::default();
        Ok(Arc::clone(&memory.observed))
    }

    /// Whether something may have happened, since the last look, to a container that was there then and is of a stack
    /// that `concerns`, or nobody knows to which. Asks the engine nothing.
    pub async fn suspects(&self, concerns: impl Fn(&StackName) -> bool) -> bool {
        let memory = self.memory.lock().await;
        self.doubt(|doubts| {
            if doubts.all || doubts.lists {
                return true;
            }
            let ids = doubts.containers.iter().chain(&doubts.attached);
            let mut stacks = ids.filter_map(|id| memory.containers.get(id)?.stack());
            stacks.any(concerns)
        })
    }

    /// Follows the engine's events and calls `wake` for each that may concern this host, until the connection is lost.
    /// Call it again then, and wake: what happened in between went unheard.
    ///
    /// # Errors
    /// How the connection was lost.
    pub async fn follow(&self, wake: impl Fn()) -> Result<(), EngineError> {
        let _hearing = Hearing(self);
        let mut events = pin!(self.engine.events());
        let mut opened = pin!(tokio::time::sleep(OPENING));
        let mut opening = true;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => if self.note(&event) { wake() },
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                () = &mut opened, if opening => {
                    opening = false;
                    // What happened before the engine listened is seen now.
                    self.doubt(|doubts| (doubts.hears, doubts.lists) = (true, true));
                    wake();
                }
            }
        }
    }

    /// Notes that a step was applied, or was tried. Its events may come later than the next look.
    pub fn touched(&self, step: &Step) {
        let id_of = |name: &str| self.engine.known.container(name).map(|known| known.id);
        let container = match step {
            Step::LoadImage { .. }
            | Step::PullImage { .. }
            | Step::BuildImage { .. }
            | Step::RemoveImage { .. } => {
                return self.doubt(|doubts| doubts.images = true);
            }
            Step::CreateNetwork { .. } | Step::RemoveNetwork { .. } => {
                return self.doubt(|doubts| doubts.networks = true);
            }
            Step::CreateVolume { .. } | Step::RemoveVolume { .. } => {
                return self.doubt(|doubts| doubts.volumes = true);
            }
            // The host's own links are looked at every time.
            Step::CreateHostLink { .. }
            | Step::RemoveHostLink { .. }
            | Step::ProbeAddress { .. }
            | Step::WaitHealthy { .. }
            | Step::WaitCompleted { .. } => return,
            Step::LockNamespace { name, .. } => id_of(name),
            Step::UnpauseContainer { id, .. }
            | Step::StopContainer { id, .. }
            | Step::RemoveContainer { id, .. } => Some(id.clone()),
            Step::RenameContainer { id, to, .. } => id.clone().or_else(|| id_of(to)),
            Step::CreateContainer {
                container, staged, ..
            } => id_of(staged.as_ref().unwrap_or(&container.name)),
            Step::StartContainer { name, fallback, .. } => {
                self.doubt(|doubts| doubts.containers.extend(fallback.iter().cloned()));
                id_of(name)
            }
        };
        self.doubt(|doubts| match container {
            Some(id) => drop(doubts.containers.insert(id)),
            None => doubts.lists = true,
        });
    }

    fn doubt<T>(&self, change: impl FnOnce(&mut Doubts) -> T) -> T {
        change(&mut self.doubts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what an event is about; false when it is no concern of this host.
    fn note(&self, event: &EventMessage) -> bool {
        use EventMessageTypeEnum as Type;
        let Some(actor) = &event.actor else { return false };
        let attribute = |name: &str| actor.attributes.as_ref().and_then(|all| all.get(name));
        let created = || matches!(event.action.as_deref(), Some("create" | "destroy" | "remove"));
        match event.typ {
            Some(Type::CONTAINER) => {
                let ours = attribute(labels::HOST).is_some_and(|host| *host == self.host.to_string());
                if let (true, Some(id)) = (ours, &actor.id) {
                    self.doubt(|doubts| doubts.containers.insert(id.clone()));
                }
                ours
            }
            // It does not say whose it is.
            Some(Type::NETWORK) => {
                let container = attribute("container").cloned();
                self.doubt(|doubts| {
                    doubts.networks |= created();
                    doubts.attached.extend(container);
                });
                true
            }
            Some(Type::VOLUME) => {
                self.doubt(|doubts| doubts.volumes = true);
                true
            }
            Some(Type::IMAGE) => {
                self.doubt(|doubts| doubts.images = true);
                true
            }
            _ => false,
        }
    }

    async fn refresh(&self, memory: &mut Memory, doubts: &Doubts) -> Result<(), EngineError> {
        let recent = memory.listed.is_some_and(|listed| listed.elapsed() < self.timer);
        let mut suspects: BTreeSet<String> = doubts.containers.clone();
        let attached = doubts
            .attached
            .iter()
            .filter(|id| memory.containers.contains_key(*id));
        suspects.extend(attached.cloned());
        let strangers = doubts
            .attached
            .iter()
            .any(|id| !memory.containers.contains_key(id));
        let lists = !doubts.hears || !recent || doubts.all || doubts.lists || suspects.len() > FEW;
        if memory.listed.is_some() && !recent {
            suspects.extend(memory.oldest(FEW));
        }
        let (begun, since) = (Instant::now(), self.engine.known.moment());

        let images = async {
            match lists || doubts.images {
                true => self.engine.images().await.map(Some),
                false => Ok(None),
            }
        };
        let networks = async {
            // Somebody else's container, or one that is new, has joined or left one.
            match lists || doubts.networks || strangers {
                true => self.engine.networks(self.host, How::Inspect).await.map(Some),
                false => Ok(None),
            }
        };
        let volumes = async {
            match lists || doubts.volumes {
                true => self.engine.volumes(self.host).await.map(Some),
                false => Ok(None),
            }
        };
        let known = &memory.containers;
        let containers = async {
            if lists {
                let still = |id: &str| known.get(id).filter(|_| !doubts.all && !suspects.contains(id));
                return self.list_again(still).await.map(Some);
            }
            if suspects.is_empty() {
                return Ok(None);
            }
            let mut found = self
                .engine
                .inspect_all(suspects.iter().cloned().collect())
                .await?;
            // Of a network namespace nobody tells when its rules change: these are read with the lists, and with every
            // container that is new or was started again.
            read_locks(&mut found).await;
            let others = known.iter().filter(|(id, _)| !suspects.contains(*id));
            found.extend(others.map(|(id, seen)| (id.clone(), seen.clone())));
            Ok(Some(found))
        };
        let lacks = async { Ok(self.engine.lacks().await) };
        let (images, networks, volumes, containers, lacks) =
            tokio::try_join!(images, networks, volumes, containers, lacks)?;
        let interfaces = interfaces::list()?;

        if lists {
            memory.listed = Some(begun);
        }
        let changed = images.is_some() || networks.is_some() || volumes.is_some() || containers.is_some();
        memory.images = images.unwrap_or_else(|| std::mem::take(&mut memory.images));
        memory.networks = networks.unwrap_or_else(|| std::mem::take(&mut memory.networks));
        memory.volumes = volumes.unwrap_or_else(|| std::mem::take(&mut memory.volumes));
        let told = containers.map(|containers| {
            // What was ours when it was attached is no stranger's now that it has gone.
            let gone = |id: &str| memory.containers.contains_key(id) && !containers.contains_key(id);
            memory.networks.forget(gone);
            memory.containers = containers;
            to_containers(&memory.containers)
        });
        if changed || memory.observed.interfaces != interfaces || memory.observed.lacks != lacks {
            let containers = told.unwrap_or_else(|| memory.observed.containers.clone());
            self.engine.remember(self.host, since, &containers);
            let observed = Observed {
                images: memory.images.clone(),
                networks: memory.networks.told(|id| memory.containers.contains_key(id)),
                foreign_networks: memory.networks.foreign.clone(),
                volumes: memory.volumes.clone(),
                containers,
                interfaces,
                lacks,
            };
            if observed != *memory.observed {
                memory.observed = Arc::new(observed);
            }
        }
        Ok(())
    }

    /// Every container of this host. `known` gives what is remembered of one that is not suspected.
    async fn list_again<'a>(
        &self,
        known: impl Fn(&str) -> Option<&'a Seen>,
    ) -> Result<HashMap<String, Seen>, EngineError> {
        let list = self.engine.list(self.host).await?;
        let (mut all, mut ids) = (HashMap::new(), Vec::new());
        for listed in list {
            let Some(id) = &listed.id else { continue };
            match known(id).filter(|seen| seen.is_still(&listed)) {
                Some(seen) => drop(all.insert(id.clone(), seen.clone())),
                None => ids.push(id.clone()),
            }
        }
        all.extend(self.engine.inspect_all(ids).await?);
        read_locks(&mut all).await;
        Ok(all)
    }
}

impl Memory {
    /// The containers whose inspection is the longest ago.
    fn oldest(&self, most: usize) -> impl Iterator<Item = String> {
        let mut all: Vec<_> = self.containers.iter().map(|(id, seen)| (seen.at(), id)).collect();
        all.sort_unstable();
        all.into_iter().take(most).map(|(_, id)| id.clone())
    }
}

impl Doubts {
    /// All that there are, and none from now on; whether events are heard stays as it is.
    fn take(&mut self) -> Self {
        let fresh = Self {
            hears: self.hears,
            ..Self::default()
        };
        std::mem::replace(self, fresh)
    }

    fn put_back(&mut self, earlier: Self) {
        self.all |= earlier.all;
        self.lists |= earlier.lists;
        self.images |= earlier.images;
        self.networks |= earlier.networks;
        self.volumes |= earlier.volumes;
        self.containers.extend(earlier.containers);
        self.attached.extend(earlier.attached);
    }
}

/// Doubts that a look is about. Those that are left when it ends, however it does, are doubted again.
struct Taken<'a> {
    observer: &'a Observer,
    doubts: Doubts,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let left = std::mem::take(&mut self.doubts);
        self.observer.doubt(|now| now.put_back(left));
    }
}

/// While it lives, events may be heard. Afterwards nothing that is remembered is trusted.
struct Hearing<'a>(&'a Observer);

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        self.0.doubt(|doubts| (doubts.hears, doubts.all) = (false, true));
    }
}
