use decnet_docker::EngineError;
use decnet_plan::step::Step;
use decnet_trace::Tracer;
use decnet_wire::bundle::{Bundle, OperationKind, Stack};
use decnet_wire::ids::Timestamp;
use decnet_wire::observed::ContainerState;
use decnet_wire::report::{EventBody, Outcome as Reported};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::task::JoinHandle;

use super::*;
use crate::admit::{Admission, Verdict};
use crate::clock::Clock as _;
use crate::testing::{FixedClock, Signer, SimMachine, document, now, operation, stack};

/// A host: a ledger on disk, an engine, and a loop that can be killed and started again.
struct Lab {
    dir: tempfile::TempDir,
    signer: Signer,
    machine: Arc<SimMachine>,
}

struct Loop {
    ledger: Arc<Ledger>,
    admission: Arc<Admission>,
    condition: watch::Receiver<Condition>,
    wake: Arc<Notify>,
    clock: Arc<FixedClock>,
    retries: Arc<Retries>,
    task: JoinHandle<Result<(), LedgerError>>,
}

impl Lab {
    fn new() -> Self {
        let signer = Signer::new();
        let machine = SimMachine::new(signer.host);
        Self {
            dir: tempfile::tempdir().unwrap(),
            signer,
            machine,
        }
    }

    fn start(&self) -> Loop {
        self.start_watched(Pulse::default())
    }

    fn start_watched(&self, pulse: Pulse) -> Loop {
        let ledger = Arc::new(Ledger::open(&self.dir.path().join("l"), now()).unwrap().ledger);
        let (bundles, receiver) = watch::channel(None);
        let (condition, watching) = watch::channel(Condition::default());
        let wake = Arc::new(Notify::new());
        let clock = FixedClock::at(now());
        let retries = Arc::new(Retries::default());
        let admission = Arc::new(Admission::new(
            self.signer.audiences(),
            Arc::clone(&ledger),
            clock.clone(),
            bundles,
        ));
        admission.restore().unwrap();
        let reconciler = Reconciler {
            host: self.signer.host,
            machine: Arc::clone(&self.machine),
            ledger: Arc::clone(&ledger),
            clock: clock.clone(),
            bundles: receiver,
            wake: Arc::clone(&wake),
            condition,
            engine_backoff: Backoff::for_the_engine(SmallRng::seed_from_u64(1)),
            retries: Arc::clone(&retries),
            idle_round: Arc::default(),
            relist: TIMER,
            tracer: Tracer::off(),
            pulse,
        };
        let task = tokio::spawn(reconciler.run());
        Loop {
            ledger,
            admission,
            condition: watching,
            wake,
            clock,
            retries,
            task,
        }
    }

    fn bundle(&self, generation: u64, stacks: Vec<Stack>) -> Bundle {
        self.signer.bundle(generation, stacks)
    }

    /// Two deckies, each with its operation.
    fn web_and_mail(&self) -> Bundle {
        let deploy = |number| Some(operation(number, OperationKind::Deploy));
        let mail = stack("mail", document(6, &["smtp"]), deploy(2));
        self.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy), mail])
    }

    fn container(&self, service: &str) -> String {
        let engine = self.machine.engine.lock().unwrap();
        let found = engine.containers.keys().find(|name| name.contains(service));
        found
            .unwrap_or_else(|| panic!("no container of {service}"))
            .clone()
    }
}

impl Loop {
    /// A bundle comes while the engine is looked at.
    fn admit_meanwhile(&self, lab: &Lab, bundle: &Bundle) {
        let envelope = lab.signer.sign(bundle);
        let admission = Arc::clone(&self.admission);
        *lab.machine.meanwhile.lock().unwrap() = Some(Box::pin(async move {
            let verdict = admission.admit(envelope).await.unwrap();
            assert!(matches!(verdict, Verdict::Accepted), "{verdict:?}");
        }));
    }

    async fn admit(&self, lab: &Lab, bundle: &Bundle) {
        let verdict = self.admission.admit(lab.signer.sign(bundle)).await.unwrap();
        assert!(matches!(verdict, Verdict::Accepted), "{verdict:?}");
    }

    /// Waits until the bundle of that generation is what is to be there.
    async fn accepted(&self, generation: u64) {
        let newest = || Some(self.ledger.accepted().unwrap()?.generation);
        while newest() != Some(generation) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing is left to do for what was accepted last.
    async fn converged(&mut self) {
        let digest = self.ledger.accepted().unwrap().map(|accepted| accepted.digest);
        self.condition
            .wait_for(|condition| condition.converged && condition.digest == digest)
            .await
            .unwrap();
    }

    /// What happened to operations, in order.
    fn told(&self) -> Vec<String> {
        let events = self.ledger.waiting_events().unwrap();
        events
            .into_iter()
            .map(|event| match event.body {
                EventBody::Operation {
                    decky, kind, outcome, ..
                } => {
                    let outcome = match outcome {
                        Reported::Running => "running",
                        Reported::Succeeded => "succeeded",
                        Reported::Failed { .. } => "failed",
                    };
                    format!("{decky} {} {outcome}", kind.as_str())
                }
                EventBody::Drift { decky, .. } => format!("{decky} drift"),
                EventBody::Refused { code, .. } => format!("refused {code}"),
            })
            .collect()
    }

    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn web(services: &[&str], number: u128, kind: OperationKind) -> Stack {
    stack("web", document(5, services), Some(operation(number, kind)))
}

#[tokio::test(start_paused = true)]
async fn a_deploy_runs_and_its_operation_succeeds_once() {
    let lab = Lab::new();
    let mut running = lab.start();
    running.admit(&lab, &lab.web_and_mail()).await;
    running.converged().await;
    let mut told = running.told();
    told.sort();
    assert_eq!(
        told,
        [
            "mail deploy running",
            "mail deploy succeeded",
            "web deploy running",
            "web deploy succeeded"
        ]
    );
    assert_eq!(lab.machine.running().len(), 4);
    assert!(
        running
            .ledger
            .journal(100)
            .unwrap()
            .iter()
            .all(|entry| entry.outcome.is_some())
    );
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn what_leaves_its_state_while_another_stack_is_worked_on_is_an_incident_at_once() {
    let lab = Lab::new();
    let mut running = lab.start();
    running.admit(&lab, &lab.web_and_mail()).await;
    running.converged().await;

    let kill = |service: &str| {
        let name = lab.container(service);
        let mut engine = lab.machine.engine.lock().unwrap();
        engine.containers.get_mut(&name).unwrap().state = ContainerState::Exited { code: 137 };
    };
    let applied = lab.machine.applied.load(Ordering::SeqCst);
    lab.machine.hang_at.store(applied, Ordering::SeqCst);
    kill("ssh");
    running.wake.notify_one();
    lab.machine.hung.notified().await;
    kill("smtp");
    let grown = running.ledger.outbox_grew();
    running.wake.notify_one();
    while !running.told().contains(&"mail drift".to_owned()) {
        grown.notified().await;
    }
    let drifts = |running: &Loop| {
        let told = running.told();
        told.iter().filter(|told| told.ends_with("drift")).count()
    };
    assert_eq!(drifts(&running), 2);

    // Both are repaired, also by an agent that has to begin again in the middle of it, and told no more than once.
    lab.machine.hang_at.store(usize::MAX, Ordering::SeqCst);
    running.kill().await;
    let mut running = lab.start();
    running.converged().await;
    for service in ["ssh", "smtp"] {
        let name = lab.container(service);
        let engine = lab.machine.engine.lock().unwrap();
        assert_eq!(engine.containers[&name].state, ContainerState::Running);
    }
    assert_eq!(drifts(&running), 2);
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_mutate_whose_service_ends_at_once_fails_and_the_old_service_runs_again() {
    let lab = Lab::new();
    let mut running = lab.start();
    running
        .admit(
            &lab,
            &lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]),
        )
        .await;
    running.converged().await;
    let ssh = lab.container("ssh");
    let broken = ssh.replace("ssh", "http");
    let base_name = lab.container("base");
    let base = lab.machine.engine.lock().unwrap().containers[&base_name]
        .id
        .clone();
    lab.machine.engine.lock().unwrap().broken.insert(broken, 3);

    running
        .admit(
            &lab,
            &lab.bundle(2, vec![web(&["http"], 2, OperationKind::Mutate)]),
        )
        .await;
    running.converged().await;
    assert_eq!(
        running.told(),
        [
            "web deploy running",
            "web deploy succeeded",
            "web mutate running",
            "web mutate failed"
        ]
    );
    assert!(
        lab.machine.running().contains(&ssh),
        "{:?}",
        lab.machine.running()
    );
    assert_eq!(lab.machine.running().len(), 2);
    let base_now = lab.machine.engine.lock().unwrap().containers[&base_name]
        .id
        .clone();
    assert_eq!(
        base_now, base,
        "the base container stays, and with it address and MAC"
    );
    let record = &running.ledger.operations().unwrap()[&operation(2, OperationKind::Mutate).id];
    assert!(record.error.as_deref().unwrap().contains("http"), "{record:?}");

    // The next mutate works: nothing of the failure stays behind.
    running
        .admit(
            &lab,
            &lab.bundle(3, vec![web(&["dns"], 3, OperationKind::Mutate)]),
        )
        .await;
    running.converged().await;
    assert_eq!(running.told().last().unwrap(), "web mutate succeeded");
    assert!(lab.machine.running().contains(&lab.container("dns")));
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_first_deploy_that_fails_leaves_nothing_behind() {
    let lab = Lab::new();
    let mut running = lab.start();
    *lab.machine.hook.lock().unwrap() = Some(Box::new(|step| match step {
        Step::CreateContainer { container, .. } if container.name.contains("ssh") => {
            Some(EngineError::Foreign {
                what: "create container".to_owned(),
                object: container.name.clone(),
                id: "x".to_owned(),
                why: "is not ours",
            })
        }
        _ => None,
    }));
    running
        .admit(
            &lab,
            &lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]),
        )
        .await;
    running.converged().await;
    assert_eq!(running.told(), ["web deploy running", "web deploy failed"]);
    let record = &running.ledger.operations().unwrap()[&operation(1, OperationKind::Deploy).id];
    assert_eq!(record.attempts, 3);
    assert_eq!(lab.machine.engine.lock().unwrap().containers.len(), 0);
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_done_at_all_fails_its_operation_with_the_reason() {
    let lab = Lab::new();
    lab.machine.engine.lock().unwrap().interfaces.clear();
    let mut running = lab.start();
    running
        .admit(
            &lab,
            &lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]),
        )
        .await;
    let id = operation(1, OperationKind::Deploy).id;
    let ledger = Arc::clone(&running.ledger);
    while !ledger.operations().unwrap()[&id].state.is_terminal() {
        running.condition.changed().await.unwrap();
    }
    let record = &ledger.operations().unwrap()[&id];
    assert_eq!(record.state, OperationState::Failed);
    assert!(record.error.as_deref().unwrap().contains("eth0"), "{record:?}");
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_teardown_succeeds_when_nothing_is_left() {
    let lab = Lab::new();
    let mut running = lab.start();
    running
        .admit(
            &lab,
            &lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]),
        )
        .await;
    running.converged().await;
    let gone = stack(
        "web",
        serde_json::json!({}),
        Some(operation(2, OperationKind::Teardown)),
    );
    running.admit(&lab, &lab.bundle(2, vec![gone])).await;
    running.converged().await;
    assert_eq!(running.told().last().unwrap(), "web teardown succeeded");
    assert!(lab.machine.engine.lock().unwrap().containers.is_empty());
    assert!(running.ledger.last_good().unwrap().is_empty());
    running.kill().await;
}

/// A look is as old as its bundle: what it saw would be written down as if the newer one had asked for it.
#[tokio::test(start_paused = true)]
async fn what_was_seen_under_an_older_bundle_is_not_written_down_under_the_newer_one() {
    let lab = Lab::new();
    let mut running = lab.start();
    let first = lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]);
    running.admit(&lab, &first).await;
    running.converged().await;
    let ssh = lab.container("ssh");
    lab.machine.engine.lock().unwrap().containers.remove(&ssh);
    let second = lab.bundle(2, vec![web(&["http"], 2, OperationKind::Mutate)]);
    running.admit_meanwhile(&lab, &second);
    running.wake.notify_one();
    running.accepted(second.generation).await;
    running.converged().await;
    assert_eq!(
        running.told(),
        [
            "web deploy running",
            "web deploy succeeded",
            "web mutate running",
            "web mutate succeeded"
        ],
        "it did not leave its state: something else was asked"
    );
    assert!(running.ledger.incidents().unwrap().is_empty());
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn what_an_older_bundle_had_running_is_not_kept_as_good_under_one_that_does_not_name_it() {
    let lab = Lab::new();
    let mut running = lab.start();
    let first = lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]);
    running.admit(&lab, &first).await;
    running.converged().await;
    // Asked once more: the next look has nothing to do but to write down that it is so.
    running.admit_meanwhile(&lab, &lab.bundle(3, vec![]));
    let second = lab.bundle(2, vec![web(&["ssh"], 2, OperationKind::Deploy)]);
    running.admit(&lab, &second).await;
    running.accepted(3).await;
    running.converged().await;
    assert!(running.ledger.last_good().unwrap().is_empty());
    assert_eq!(lab.machine.running().len(), 0);
    running.kill().await;
}

/// A decky that was moved within a second of its deploy was let go of by an observation that was older than the
/// bundle: the host had not begun to make it, so it was not there.
#[tokio::test(start_paused = true)]
async fn what_was_seen_before_a_bundle_was_accepted_is_not_told_as_seen_under_it() {
    let lab = Lab::new();
    let mut running = lab.start();
    let first = lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]);
    running.admit(&lab, &first).await;
    running.converged().await;
    let accepted = |running: &Loop| running.ledger.accepted().unwrap().map(|accepted| accepted.digest);
    let before = accepted(&running);
    assert!(
        running
            .condition
            .borrow()
            .observed_under(before.as_ref())
            .is_some()
    );

    lab.machine.away.store(true, Ordering::SeqCst);
    let second = lab.bundle(2, vec![web(&["http"], 2, OperationKind::Mutate)]);
    running.admit(&lab, &second).await;
    let now = accepted(&running);
    running
        .condition
        .wait_for(|condition| condition.digest == now)
        .await
        .unwrap();
    assert!(running.condition.borrow().observed.is_some(), "it is still known");
    assert!(running.condition.borrow().observed_under(now.as_ref()).is_none());

    lab.machine.away.store(false, Ordering::SeqCst);
    running.wake.notify_one();
    running.converged().await;
    assert!(running.condition.borrow().observed_under(now.as_ref()).is_some());
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_away_fails_nothing_and_the_row_ends_when_it_is_back() {
    let lab = Lab::new();
    let mut running = lab.start();
    lab.machine.away.store(true, Ordering::SeqCst);
    running
        .admit(
            &lab,
            &lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]),
        )
        .await;
    running
        .condition
        .wait_for(|condition| condition.reason.is_some() && condition.digest.is_some())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(running.told(), ["web deploy running"]);
    lab.machine.away.store(false, Ordering::SeqCst);
    running.converged().await;
    assert_eq!(running.told(), ["web deploy running", "web deploy succeeded"]);
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_goes_away_in_the_middle_is_waited_for() {
    let lab = Lab::new();
    let mut running = lab.start();
    let machine = Arc::clone(&lab.machine);
    *lab.machine.hook.lock().unwrap() = Some(Box::new(move |step| {
        if matches!(step, Step::StartContainer { .. }) {
            machine.away.store(true, Ordering::SeqCst);
        }
        let source = bollard::errors::Error::RequestTimeoutError;
        machine.away.load(Ordering::SeqCst).then(|| EngineError::Connect {
            socket: "/sim".to_owned(),
            source,
        })
    }));
    running
        .admit(
            &lab,
            &lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]),
        )
        .await;
    running
        .condition
        .wait_for(|condition| condition.digest.is_some() && condition.engine.is_none())
        .await
        .unwrap();
    *lab.machine.hook.lock().unwrap() = None;
    lab.machine.away.store(false, Ordering::SeqCst);
    running.converged().await;
    assert_eq!(running.told(), ["web deploy running", "web deploy succeeded"]);
    running.kill().await;
}

/// What an operator has loaded by hand is none of ours, whatever its age.
#[tokio::test(start_paused = true)]
async fn an_image_that_was_fetched_goes_a_week_after_nothing_needs_it() {
    let lab = Lab::new();
    let theirs = decnet_wire::observed::ObservedImage {
        id: "sha256:theirs".to_owned(),
        references: vec!["theirs:1".to_owned()],
    };
    lab.machine.engine.lock().unwrap().images.push(theirs.clone());
    let mut running = lab.start();
    let deploy = lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]);
    running.admit(&lab, &deploy).await;
    running.converged().await;
    let fetched = running.ledger.fetched().unwrap();
    assert!(!fetched.is_empty());
    let images = || lab.machine.engine.lock().unwrap().images.clone();
    let there = images().len();
    assert_eq!(there, fetched.len() + 1);

    let week = Duration::from_secs(8 * 24 * 60 * 60);
    let pass = async |running: &Loop, time: Duration| {
        running
            .clock
            .set(Timestamp::new(running.clock.now().get() + time));
        tokio::time::sleep(images::EVERY + TIMER * 2).await;
    };
    let nothing = lab.bundle(2, vec![]);
    running.admit(&lab, &nothing).await;
    running.converged().await;
    pass(&running, Duration::ZERO).await;
    assert_eq!(images().len(), there, "a week has not passed");
    pass(&running, week).await;
    assert_eq!(images(), [theirs]);
    pass(&running, Duration::ZERO).await;
    assert!(
        running.ledger.fetched().unwrap().is_empty(),
        "and what has gone is forgotten"
    );
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_getting_full_is_given_room_within_hours() {
    let lab = Lab::new();
    let mut running = lab.start();
    let deploy = lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]);
    running.admit(&lab, &deploy).await;
    running.converged().await;
    running.admit(&lab, &lab.bundle(2, vec![])).await;
    running.converged().await;
    running.clock.set(crate::testing::hours(now(), 2));
    tokio::time::sleep(images::EVERY + TIMER * 2).await;
    assert!(
        !lab.machine.engine.lock().unwrap().images.is_empty(),
        "there is room"
    );
    *lab.machine.disk.lock().unwrap() = Some(decnet_plan::unused::Disk {
        total: 100 << 30,
        free: 1 << 30,
    });
    tokio::time::sleep(images::EVERY + TIMER * 2).await;
    assert_eq!(lab.machine.engine.lock().unwrap().images, []);
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn what_dies_is_brought_back_and_told_once() {
    let lab = Lab::new();
    let mut running = lab.start();
    running
        .admit(
            &lab,
            &lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]),
        )
        .await;
    running.converged().await;
    let ssh = lab.container("ssh");
    for _ in 0..3 {
        lab.machine
            .engine
            .lock()
            .unwrap()
            .containers
            .get_mut(&ssh)
            .unwrap()
            .state = ContainerState::Exited { code: 1 };
        running.wake.notify_one();
        // The look that the wake brings finds it gone; the next ones bring it back.
        running
            .condition
            .wait_for(|condition| !condition.converged)
            .await
            .unwrap();
        running.converged().await;
    }
    assert!(lab.machine.running().contains(&ssh));
    assert_eq!(
        running.told(),
        ["web deploy running", "web deploy succeeded", "web drift"]
    );
    // An hour of peace closes the incident; the next one is told again.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(running.ledger.incidents().unwrap().is_empty());
    lab.machine.engine.lock().unwrap().containers.remove(&ssh);
    running.wake.notify_one();
    running
        .condition
        .wait_for(|condition| !condition.converged)
        .await
        .unwrap();
    running.converged().await;
    assert_eq!(
        running.told().iter().filter(|told| *told == "web drift").count(),
        2
    );
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_decky_that_does_not_stay_up_is_repaired_ever_more_slowly() {
    let lab = Lab::new();
    let mut running = lab.start();
    running
        .admit(
            &lab,
            &lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy)]),
        )
        .await;
    running.converged().await;
    let ssh = lab.container("ssh");
    {
        let mut engine = lab.machine.engine.lock().unwrap();
        engine.broken.insert(ssh.clone(), 1);
        engine.containers.get_mut(&ssh).unwrap().state = ContainerState::Exited { code: 1 };
    }
    let before = lab.machine.applied.load(Ordering::SeqCst);
    running.wake.notify_one();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let steps = lab.machine.applied.load(Ordering::SeqCst) - before;
    // 1 + 2 + 4 + … s, then every five minutes: about twenty tries an hour.
    assert!((10..60).contains(&steps), "{steps} steps in an hour");
    assert_eq!(running.told().last().unwrap(), "web drift");
    assert_eq!(running.told().len(), 3, "no operation is open, so none fails");
    // That the container does not run is seen; why it cannot is what somebody who looks wants to know.
    let condition = running.condition.borrow().clone();
    let reason = condition.reason.clone().unwrap();
    assert!(reason.contains("start container"), "{reason}");
    assert_eq!(condition.pending.len(), 1);
    let told = &condition.pending_stacks(now())[0];
    assert!(told.next_try_at.is_some() && told.tries > 5, "{told:?}");
    assert!(!told.quarantined, "what has run is never given up");
    assert!(
        reason.contains(&condition.pending.values().next().unwrap().reason),
        "{reason}"
    );
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_after_any_step_ends_in_the_same_state_and_tells_nothing_twice() {
    // Deploy of two deckies, then a mutate of one whose new service is broken: with a kill after every step.
    for kill_at in 0..40 {
        let lab = Lab::new();
        let mail = stack(
            "mail",
            document(6, &["smtp"]),
            Some(operation(9, OperationKind::Deploy)),
        );
        let first = lab.bundle(1, vec![web(&["ssh"], 1, OperationKind::Deploy), mail.clone()]);
        let second = lab.bundle(2, vec![web(&["http"], 2, OperationKind::Mutate), mail]);
        lab.machine.hang_at.store(kill_at, Ordering::SeqCst);
        let mut killed = false;
        let mut running = lab.start();
        for bundle in [&first, &second] {
            if bundle.generation == 2 {
                let broken = lab.container("ssh").replace("ssh", "http");
                lab.machine.engine.lock().unwrap().broken.insert(broken, 3);
            }
            running.admit(&lab, bundle).await;
            let hung = tokio::select! {
                biased;
                () = lab.machine.hung.notified() => true,
                () = running.converged() => false,
            };
            if hung {
                killed = true;
                lab.machine.hang_at.store(usize::MAX, Ordering::SeqCst);
                running.kill().await;
                running = lab.start();
                running.converged().await;
            }
        }
        let mut told = running.told();
        told.sort();
        assert_eq!(
            told,
            [
                "mail deploy running",
                "mail deploy succeeded",
                "web deploy running",
                "web deploy succeeded",
                "web mutate failed",
                "web mutate running",
            ],
            "kill after step {kill_at}"
        );
        let mut up = lab.machine.running();
        up.sort();
        assert_eq!(up.len(), 4, "kill after step {kill_at}: {up:?}");
        assert!(
            up.iter().any(|name| name.contains("ssh")),
            "kill after step {kill_at}: {up:?}"
        );
        assert_eq!(
            lab.machine.engine.lock().unwrap().containers.len(),
            4,
            "kill after step {kill_at}"
        );
        running.kill().await;
        if !killed {
            assert!(
                kill_at > 10,
                "the scenario has only {kill_at} steps: it tests too little"
            );
            return;
        }
    }
    panic!("the scenario never ran to its end without a kill");
}

/// Lets a stack's container end whenever it is started.
fn break_start(lab: &Lab, service: &'static str) {
    *lab.machine.hook.lock().unwrap() = Some(Box::new(move |step| match step {
        Step::StartContainer { name, .. } if name.contains(service) => Some(EngineError::Unsettled {
            name: name.clone(),
            how: "exited with code 3".to_owned(),
            logs: String::new(),
        }),
        _ => None,
    }));
}

fn steps_for(running: &Loop, stack: &str) -> usize {
    let journal = running.ledger.journal(1000).unwrap();
    let of_stack =
        |step: &&crate::ledger::JournalEntry| step.stack.as_ref().is_some_and(|name| name.as_str() == stack);
    journal.iter().filter(of_stack).count()
}

#[tokio::test(start_paused = true)]
async fn what_cannot_run_is_quarantined_and_the_others_go_on() {
    let lab = Lab::new();
    let mut running = lab.start();
    let mail = |services: &[&str]| {
        stack(
            "mail",
            document(6, services),
            Some(operation(2, OperationKind::Deploy)),
        )
    };
    break_start(&lab, "web-ssh");
    let web_stack = web(&["ssh"], 1, OperationKind::Deploy);
    running
        .admit(&lab, &lab.bundle(1, vec![web_stack.clone(), mail(&["smtp"])]))
        .await;
    running.converged().await;
    let condition = running.condition.borrow().clone();
    let pending = &condition.pending[&web_stack.name];
    assert!(pending.quarantined && pending.next_try.is_none(), "{pending:?}");
    assert!(pending.reason.contains("exited with code 3"), "{pending:?}");
    assert!(condition.reason.unwrap().contains("quarantined"));
    assert_eq!(lab.machine.running().len(), 2, "mail runs");
    let tried = steps_for(&running, "web");

    // Neither time, nor a restart of the agent, nor a bundle that asks the same of it is a reason to try again; the
    // neighbour is repaired and changed meanwhile.
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    running.kill().await;
    running = lab.start();
    running.converged().await;
    let smtp = lab.container("smtp");
    lab.machine.engine.lock().unwrap().containers.remove(&smtp);
    running.wake.notify_one();
    running
        .condition
        .wait_for(|condition| !condition.converged)
        .await
        .unwrap();
    running.converged().await;
    assert!(lab.machine.running().contains(&smtp));
    running
        .admit(
            &lab,
            &lab.bundle(2, vec![web_stack.clone(), mail(&["smtp", "imap"])]),
        )
        .await;
    running.converged().await;
    assert_eq!(lab.machine.running().len(), 3);
    assert_eq!(steps_for(&running, "web"), tried);
    assert!(running.condition.borrow().pending[&web_stack.name].quarantined);

    // Something else is asked: it is tried, although nothing else has changed.
    *lab.machine.hook.lock().unwrap() = None;
    let again = web(&["ssh"], 3, OperationKind::Deploy);
    running
        .admit(&lab, &lab.bundle(3, vec![again, mail(&["smtp", "imap"])]))
        .await;
    running.converged().await;
    assert!(running.condition.borrow().pending.is_empty());
    assert!(running.ledger.troubles().unwrap().is_empty());
    assert_eq!(lab.machine.running().len(), 5);
    assert_eq!(running.told().last().unwrap(), "web deploy succeeded");
    running.kill().await;
}

/// An image that a newer master brings asks for no operation: nobody would fail, and it was tried for ever.
#[tokio::test(start_paused = true)]
async fn a_change_that_nobody_waits_for_is_quarantined_and_what_ran_before_runs_again() {
    let lab = Lab::new();
    let mut running = lab.start();
    let first = web(&["ssh"], 1, OperationKind::Deploy);
    running.admit(&lab, &lab.bundle(1, vec![first.clone()])).await;
    running.converged().await;
    let before = lab.machine.running();
    let mut changed = first.clone();
    let mut compose = changed.compose.parse().unwrap();
    compose["services"]["ssh"]["environment"] = serde_json::json!({"VERSION": "2"});
    compose["services"]["http"] = compose["services"]["ssh"].clone();
    compose["services"]["http"]["expose"] = serde_json::json!([80]);
    changed.compose = compose.into();
    break_start(&lab, "http");
    running.admit(&lab, &lab.bundle(2, vec![changed])).await;
    running.converged().await;
    let troubles = running.ledger.troubles().unwrap();
    let trouble = &troubles[&first.name];
    assert!(trouble.quarantined, "{trouble:?}");
    assert_eq!(trouble.counted, 3);
    assert_eq!(lab.machine.running(), before);
    assert_eq!(
        running.told(),
        ["web deploy running", "web deploy succeeded"],
        "nothing left by itself"
    );
    // What it went back to is repaired.
    let ssh = lab.container("ssh");
    lab.machine.engine.lock().unwrap().containers.remove(&ssh);
    running.wake.notify_one();
    running
        .condition
        .wait_for(|condition| !condition.converged)
        .await
        .unwrap();
    running.converged().await;
    assert_eq!(lab.machine.running(), before);
    assert!(running.condition.borrow().pending[&first.name].quarantined);
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_says_retry_has_it_tried_at_once_and_the_master_learns_that_it_worked() {
    let lab = Lab::new();
    let mut running = lab.start();
    break_start(&lab, "ssh");
    let web = web(&["ssh"], 1, OperationKind::Deploy);
    running.admit(&lab, &lab.bundle(1, vec![web.clone()])).await;
    running.converged().await;
    assert_eq!(lab.machine.running().len(), 0);
    let stacks = [web.name.clone()];
    let retry = async |running: &mut Loop| {
        let stacks = stacks.clone();
        running.retries.add(stacks.clone());
        running
            .ledger
            .write(move |tx| tx.forget_troubles(&stacks))
            .await
            .unwrap();
        running.wake.notify_one();
        running
            .condition
            .wait_for(|condition| !condition.converged)
            .await
            .unwrap();
        running.converged().await;
    };
    // In vain.
    retry(&mut running).await;
    assert!(running.condition.borrow().pending[&web.name].quarantined);
    *lab.machine.hook.lock().unwrap() = None;
    retry(&mut running).await;
    assert!(running.condition.borrow().pending.is_empty());
    assert_eq!(lab.machine.running().len(), 2);
    assert_eq!(
        running.told(),
        ["web deploy running", "web deploy failed", "web deploy succeeded"]
    );
    running.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_fails_the_row_and_is_asked_until_it_is_back() {
    let lab = Lab::new();
    let mut running = lab.start();
    *lab.machine.hook.lock().unwrap() = Some(Box::new(|step| {
        let image = matches!(step, Step::LoadImage { .. } | Step::PullImage { .. });
        image.then(|| EngineError::Call {
            what: "pull image r.example/a".to_owned(),
            source: bollard::errors::Error::DockerStreamError {
                error: "dial tcp: lookup r.example: no such host".to_owned(),
            },
        })
    }));
    let begun = Instant::now();
    let web = web(&["ssh"], 1, OperationKind::Deploy);
    running.admit(&lab, &lab.bundle(1, vec![web.clone()])).await;
    running
        .condition
        .wait_for(|condition| {
            condition
                .pending
                .get(&web.name)
                .is_some_and(|pending| pending.tries >= 6)
        })
        .await
        .unwrap();
    assert!(begun.elapsed() > Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(running.told(), ["web deploy running", "web deploy failed"]);
    // Half a day later, still: at most once in five minutes.
    tokio::time::sleep(Duration::from_secs(12 * 3600)).await;
    let tries = running.condition.borrow().pending[&web.name].tries;
    assert!((140..160).contains(&tries), "{tries}");
    *lab.machine.hook.lock().unwrap() = None;
    running.converged().await;
    assert!(running.condition.borrow().pending.is_empty());
    assert_eq!(running.told().last().unwrap(), "web deploy succeeded");
    running.kill().await;
}

/// A kill while a start is waited for: the engine restarts the broken container meanwhile, so that the next
/// agent's first looks may meet it in moments in which it runs.
#[tokio::test(start_paused = true)]
async fn a_service_that_only_seems_to_run_after_a_kill_does_not_make_its_operation_succeed() {
    let lab = Lab::new();
    let mut running = lab.start();
    let stack = web(&["ssh"], 1, OperationKind::Deploy);
    let bundle = lab.bundle(1, vec![stack.clone()]);
    running.admit(&lab, &bundle).await;
    running.converged().await;
    let effective = effective(bundle.host, &bundle, &BTreeSet::new(), &BTreeMap::new()).unwrap();
    let mut observed = lab.machine.engine.lock().unwrap().observe(bundle.host);
    let mut unproven = BTreeMap::from([(stack.operation.unwrap().id, None)]);
    let mut holds_back = |observed: &Observed| {
        let mut pending = BTreeMap::new();
        let proving = prove(&mut unproven, &effective, observed, &mut pending);
        assert_eq!(proving, pending.contains_key(&stack.name));
        proving
    };
    assert!(holds_back(&observed));
    tokio::time::advance(PROOF / 2).await;
    assert!(holds_back(&observed));
    // It was restarted in between: what was seen before proves nothing.
    observed.containers[0].restarts += 1;
    tokio::time::advance(PROOF).await;
    assert!(holds_back(&observed));
    tokio::time::advance(PROOF).await;
    assert!(!holds_back(&observed));
    // Proven once is enough: from here on it would be drift.
    observed.containers[0].restarts += 1;
    assert!(!holds_back(&observed));
    running.kill().await;
}

mod effective_state {
    use std::collections::{BTreeMap, BTreeSet};

    use decnet_wire::bundle::OperationKind::{Deploy, Mutate};

    use super::*;
    use crate::ledger::LastGood;

    fn given_up(of: &Stack) -> BTreeSet<StackName> {
        BTreeSet::from([of.name.clone()])
    }

    fn good(services: &[&str]) -> BTreeMap<StackName, LastGood> {
        let good = LastGood {
            decky: "web".parse().unwrap(),
            compose: document(5, services).into(),
            networks: vec![crate::testing::network()],
            blobs: vec![crate::testing::blob(1), crate::testing::blob(2)],
        };
        BTreeMap::from([("web".parse().unwrap(), good)])
    }

    fn source(
        bundle: &Bundle,
        quarantined: &BTreeSet<StackName>,
        last: &BTreeMap<StackName, LastGood>,
    ) -> (Source, usize) {
        let effective = effective(bundle.host, bundle, quarantined, last).unwrap();
        let name: StackName = "web".parse().unwrap();
        (
            effective.aims[&name].source,
            effective.desired.stack(&name).unwrap().containers().count(),
        )
    }

    #[test]
    fn only_what_is_quarantined_goes_back() {
        let signer = Signer::new();
        let new = web(&["http", "dns"], 2, Mutate);
        let bundle = signer.bundle(1, vec![new.clone()]);
        assert_eq!(
            source(&bundle, &BTreeSet::new(), &good(&["ssh"])),
            (Source::Bundle, 3)
        );
        assert_eq!(
            source(&bundle, &given_up(&new), &good(&["ssh"])),
            (Source::LastGood, 2)
        );
    }

    #[test]
    fn what_is_quarantined_without_a_document_before_it_comes_to_nothing() {
        let signer = Signer::new();
        let deploy = web(&["ssh"], 1, Deploy);
        let bundle = signer.bundle(1, vec![deploy.clone()]);
        assert_eq!(
            source(&bundle, &given_up(&deploy), &BTreeMap::new()),
            (Source::Nothing, 0)
        );
    }

    #[test]
    fn a_last_good_document_brings_its_network_and_images_along() {
        let signer = Signer::new();
        let new = stack(
            "web",
            serde_json::json!({"services": {}}),
            Some(operation(1, Mutate)),
        );
        let mut bundle = signer.bundle(1, vec![new.clone()]);
        bundle.networks.clear();
        bundle.blobs.clear();
        assert_eq!(
            source(&bundle, &given_up(&new), &good(&["ssh"])),
            (Source::LastGood, 2)
        );
    }

    #[test]
    fn a_last_good_document_that_clashes_with_the_new_fleet_gives_way() {
        let signer = Signer::new();
        let new = web(&["http"], 1, Mutate);
        // Another decky has the address by now.
        let mut moved = new.clone();
        moved.compose = document(7, &["http"]).into();
        let other = stack("other", document(5, &["smtp"]), None);
        let bundle = signer.bundle(1, vec![moved, other]);
        assert_eq!(
            source(&bundle, &given_up(&new), &good(&["ssh"])),
            (Source::Nothing, 0)
        );
    }
}

mod pulse;
