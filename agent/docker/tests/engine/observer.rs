//! What is remembered is what the engine has, and costs no call while nothing happens.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::query_parameters::{KillContainerOptions, RemoveContainerOptions, RenameContainerOptions};
use decnet_docker::{Engine, Observer};
use decnet_plan::step::Step;
use decnet_wire::ids::StackName;
use decnet_wire::observed::{ContainerState, Observed};
use futures_util::FutureExt as _;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::RwLock;

use crate::lab::{Lab, SOCKET};
use crate::lifecycle::until;

/// Between an observer and the engine: writes down what is asked, and can go away.
struct Line {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    /// Whoever writes to it keeps the engine's answers back.
    answers: Arc<RwLock<()>>,
    /// New connections are refused, and the ones that are open are cut.
    cut: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Line {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (asked, cut) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let answers = Arc::new(RwLock::new(()));
        let (log, gone, passes) = (Arc::clone(&asked), Arc::clone(&cut), Arc::clone(&answers));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (log, gone, passes) = (Arc::clone(&log), Arc::clone(&gone), Arc::clone(&passes));
                tokio::spawn(async move {
                    let Ok(engine) = UnixStream::connect(SOCKET).await else {
                        return;
                    };
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_engine, mut to_engine) = engine.into_split();
                    let up = async {
                        let mut buffer = vec![0; 1 << 16];
                        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                            let lines = text.lines().filter(|line| line.ends_with(" HTTP/1.1"));
                            log.lock().unwrap().extend(lines.map(str::to_owned));
                            if to_engine.write_all(&buffer[..read]).await.is_err() {
                                break;
                            }
                        }
                    };
                    let down = async {
                        let mut buffer = vec![0; 1 << 16];
                        while let Ok(read @ 1..) = from_engine.read(&mut buffer).await {
                            let _passes = passes.read().await;
                            if to_client.write_all(&buffer[..read]).await.is_err() {
                                break;
                            }
                        }
                    };
                    let cut = async {
                        while !gone.load(Ordering::SeqCst) {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    };
                    tokio::select! { () = up => {}, () = down => {}, () = cut => {} }
                });
            }
        });
        Self {
            _folder: folder,
            socket,
            asked,
            answers,
            cut,
            task,
        }
    }

    /// What was asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// The containers that were asked about one by one.
fn inspected(asked: &[String]) -> usize {
    let one = |line: &&String| line.contains("/containers/") && !line.contains("/containers/json");
    asked.iter().filter(one).count()
}

struct Watch {
    lab: Lab,
    line: Line,
    observer: Arc<Observer>,
    wakes: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// A decky with two services, and an observer that hears.
    async fn new(timer: Duration) -> Self {
        let lab = Lab::new().await;
        let lan = lab.bridge();
        let services = [("ssh", json!({})), ("http", json!({}))];
        lab.converge(&lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &services))]))
            .await;
        let line = Line::new();
        let engine = Engine::connect(&line.socket).await.unwrap();
        let observer = Arc::new(Observer::new(engine, lab.host, timer));
        let wakes = Arc::new(AtomicUsize::new(0));
        let (follower, counter) = (Arc::clone(&observer), Arc::clone(&wakes));
        let task = tokio::spawn(async move {
            loop {
                let wake = || {
                    counter.fetch_add(1, Ordering::SeqCst);
                };
                let _ = follower.follow(wake).await;
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let watch = Self {
            lab,
            line,
            observer,
            wakes,
            task,
        };
        watch.quiet().await;
        watch
    }

    /// Waits until a look needs no call.
    async fn quiet(&self) {
        until("a look costs no call", || async {
            self.observer.observe().await.unwrap();
            self.line.asked();
            self.observer.observe().await.unwrap();
            self.line.asked().is_empty()
        })
        .await;
    }

    /// What is remembered is what a whole look finds, within a second of a change.
    async fn agrees(&self, what: &str) -> Arc<Observed> {
        until(what, || async {
            let (seen, there) = (self.observer.observe().await.unwrap(), self.lab.observe().await);
            // Images, volumes and interfaces are those of the whole machine, which others use as well.
            seen.containers == there.containers && seen.networks == there.networks
        })
        .await;
        self.observer.observe().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_seen_and_nothing_else_is_asked_about() {
    let watch = Watch::new(Duration::from_secs(600)).await;
    let (lab, docker) = (&watch.lab, &watch.lab.docker);
    let ssh = lab.name("web", "ssh");
    let before = watch.agrees("at first").await;
    assert_eq!(before.containers.len(), 3);

    let woken = watch.wakes.load(Ordering::SeqCst);
    docker.pause_container(&ssh).await.unwrap();
    until("it wakes", || async {
        watch.wakes.load(Ordering::SeqCst) > woken
    })
    .await;
    watch.line.asked();
    let seen = watch.observer.observe().await.unwrap();
    let of_ssh = seen
        .containers
        .iter()
        .find(|container| container.name == ssh)
        .unwrap();
    assert_eq!(of_ssh.state, ContainerState::Paused);
    let asked = watch.line.asked();
    let whole = |line: &&String| line.contains("/containers/json");
    assert!(!asked.iter().any(|line| whole(&line)), "{asked:?}");
    docker.unpause_container(&ssh).await.unwrap();
    watch.agrees("after the unpause").await;

    let options = RenameContainerOptions {
        name: format!("{ssh}-moved"),
    };
    docker.rename_container(&ssh, options).await.unwrap();
    watch.agrees("after a rename").await;
    let force = RemoveContainerOptions {
        force: true,
        ..RemoveContainerOptions::default()
    };
    docker
        .remove_container(&format!("{ssh}-moved"), Some(force))
        .await
        .unwrap();
    let seen = watch.agrees("after a removal").await;
    assert_eq!(seen.containers.len(), 2);
    watch.quiet().await;
}

/// Whoever looks may have something better to do before the engine has answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_that_is_given_up_leaves_what_it_was_about_to_the_next() {
    let watch = Watch::new(Duration::from_secs(600)).await;
    let ssh = watch.lab.name("web", "ssh");
    let web = |stack: &StackName| stack.as_str().ends_with("web");
    assert!(!watch.observer.suspects(web).await);
    let docker = &watch.lab.docker;
    docker
        .kill_container(&ssh, None::<KillContainerOptions>)
        .await
        .unwrap();
    until("its event was heard", || watch.observer.suspects(web)).await;
    assert!(!watch.observer.suspects(|stack| !web(stack)).await, "of no other");
    let held = watch.line.answers.write().await;
    let mut asked = 0;
    while watch.observer.suspects(web).await && asked < 3 {
        // Polled once: the question is sent, or waits for its turn, and nobody waits for the answer.
        assert!(watch.observer.observe().now_or_never().is_none(), "no answer yet");
        asked += 1;
    }
    drop(held);
    assert_eq!(asked, 3, "what was suspected is suspected still");
    let seen = watch.observer.observe().await.unwrap();
    let seen = seen.containers.iter().find(|container| container.name == ssh);
    assert!(!seen.unwrap().state.is_running(), "{seen:?}");
}

/// The base gets a new namespace; the service, of which no event speaks, is cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_that_was_restarted_is_seen_by_its_own_event() {
    let watch = Watch::new(Duration::from_secs(600)).await;
    let base = watch.lab.name("web", "base");
    watch
        .lab
        .docker
        .restart_container(&base, None::<bollard::query_parameters::RestartContainerOptions>)
        .await
        .unwrap();
    let seen = watch.agrees("after the restart").await;
    let ssh = watch.lab.name("web", "ssh");
    let ssh = seen
        .containers
        .iter()
        .find(|container| container.name == ssh)
        .unwrap();
    assert_eq!(ssh.joined, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_was_lost_is_made_up_for_by_the_timer() {
    let watch = Watch::new(Duration::from_millis(1500)).await;
    // Nobody follows from here on, as if every event were lost; and nobody says so.
    let deaf = Observer::new(
        watch.observer.engine().clone(),
        watch.lab.host,
        Duration::from_secs(600),
    );
    deaf.observe().await.unwrap();
    let http = watch.lab.name("web", "http");
    watch
        .lab
        .docker
        .kill_container(&http, None::<KillContainerOptions>)
        .await
        .unwrap();
    let state = |observed: &Observed| {
        let found = observed
            .containers
            .iter()
            .find(|container| container.name == http);
        found.unwrap().state.clone()
    };
    // An observer that hears nothing reads the lists every time.
    until("the deaf one sees it", || async {
        matches!(
            state(&deaf.observe().await.unwrap()),
            ContainerState::Exited { code: 137 }
        )
    })
    .await;
    watch.line.asked();
    until("the timer is over", || async {
        watch.observer.observe().await.unwrap();
        watch
            .line
            .asked()
            .iter()
            .any(|line| line.contains("/containers/json"))
    })
    .await;
    watch.agrees("in the end").await;
}

/// Restarted without a word, a container looks the same in the list. Its process does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_restart_is_seen_at_the_next_list() {
    let lab = Lab::new().await;
    let lan = lab.bridge();
    lab.converge(&lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[("ssh", json!({}))]))]))
        .await;
    let line = Line::new();
    let engine = Engine::connect(&line.socket).await.unwrap();
    let observer = Observer::new(engine, lab.host, Duration::from_secs(600));
    observer.observe().await.unwrap();
    assert_eq!(inspected(&line.asked()), 2);
    // The engine's list may lag behind what an inspection says for as long as the engine is busy.
    let quiet = async {
        loop {
            observer.observe().await.unwrap();
            if inspected(&line.asked()) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), quiet)
        .await
        .expect("what has not changed is inspected again and again");
    let base = lab.name("web", "base");
    lab.docker
        .restart_container(&base, None::<bollard::query_parameters::RestartContainerOptions>)
        .await
        .unwrap();
    let seen = observer.observe().await.unwrap();
    assert_eq!(seen.containers, lab.observe().await.containers);
    let ssh = lab.name("web", "ssh");
    assert!(
        seen.containers
            .iter()
            .any(|container| container.name == ssh && container.joined.is_none())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_while_the_line_is_cut_is_seen_after_it() {
    let watch = Watch::new(Duration::from_secs(600)).await;
    watch.line.cut.store(true, Ordering::SeqCst);
    let http = watch.lab.name("web", "http");
    watch
        .lab
        .docker
        .kill_container(&http, None::<KillContainerOptions>)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    watch.line.cut.store(false, Ordering::SeqCst);
    watch.agrees("after the line is back").await;
    watch.quiet().await;
}

/// The next look may come before the events of a step do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_step_did_is_seen_at_once() {
    let watch = Watch::new(Duration::from_secs(600)).await;
    let seen = watch.observer.observe().await.unwrap();
    let ssh = seen
        .containers
        .iter()
        .find(|container| container.name == watch.lab.name("web", "ssh"))
        .unwrap();
    let (name, id) = (ssh.name.clone(), ssh.id.clone());
    let stop = Step::StopContainer {
        name: name.clone(),
        id: id.clone(),
        timeout_s: 5,
    };
    let remove = Step::RemoveContainer { name, id: id.clone() };
    for step in [&stop, &remove] {
        watch.observer.engine().apply(step, &watch.lab).await.unwrap();
        watch.observer.touched(step);
        let seen = watch.observer.observe().await.unwrap();
        assert_eq!(seen.containers, watch.lab.observe().await.containers);
    }
}

/// A project that stands alone is looked at once, and the list is enough for what runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_glance_sees_what_a_look_sees_with_fewer_calls() {
    let lab = Lab::new().await;
    lab.load().await;
    let spec = |name: &str| {
        let mut spec = lab.spec(name);
        spec.labels
            .insert(decnet_plan::labels::SPEC.to_owned(), "{}".to_owned());
        spec
    };
    let (base, mut joins, ended) = (spec("base"), spec("joins"), spec("ended"));
    joins.network = decnet_plan::step::NetworkMode::Container {
        name: base.name.clone(),
    };
    for spec in [&base, &joins, &ended] {
        lab.create(spec).await;
    }
    for spec in [&base, &joins] {
        lab.apply(&crate::lab::start(&spec.name, 0)).await.unwrap();
    }
    let line = Line::new();
    let engine = Engine::connect(&line.socket).await.unwrap();
    line.asked();
    let seen = engine.glance(lab.host).await.unwrap();
    let mut looked = lab.observe().await.containers;
    // What the list does not tell of containers that run.
    for container in looked.iter_mut().filter(|container| container.state.is_running()) {
        container.tuning = None;
    }
    assert_eq!(seen.containers, looked);
    assert_eq!(inspected(&line.asked()), 1);
    let mut joined = seen
        .containers
        .iter()
        .filter_map(|container| container.joined.as_ref());
    assert!(joined.next().is_some());
}
