//! Pull and report over a network that loses things. No engine answers here.

use decnet_agent::config::Config;
use decnet_agent::enrol::enrol;
use decnet_agent::{Agent, RunError};
use decnet_wire::bundle::{Operation, OperationKind, Stack};
use decnet_wire::ids::OperationId;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::master::{Faults, Master, token_text};

pub(crate) struct Running {
    _dir: tempfile::TempDir,
    config: Config,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    pub(crate) async fn enrolled_at(master: &Master) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("agent"));
        config.docker_socket = dir.path().join("no-engine.sock");
        enrol(&token_text(&master.token()), &config).await.unwrap();
        let shutdown = CancellationToken::new();
        let agent = Agent::open(config.clone()).unwrap();
        let task = tokio::spawn(agent.run(shutdown.clone()));
        Self {
            _dir: dir,
            config,
            shutdown,
            task,
        }
    }

    /// Stops the agent and starts it where somebody else answers in the master's place.
    pub(crate) async fn led_astray(mut self, thief: &Master) -> Self {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
        self.config.master = Some(thief.agent_api().to_string().parse().unwrap());
        self.config.enrolment = Some(thief.enrol_at.to_string().parse().unwrap());
        self.shutdown = CancellationToken::new();
        let agent = Agent::open(self.config.clone()).unwrap();
        self.task = tokio::spawn(agent.run(self.shutdown.clone()));
        self
    }

    /// Stops the agent and opens its state once more.
    pub(crate) async fn reopen(self) -> Agent {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
        Agent::open(self.config).unwrap()
    }
}

pub(crate) fn deploy(name: &str) -> Stack {
    Stack {
        name: name.parse().unwrap(),
        decky: name.parse().unwrap(),
        compose: serde_json::json!({}).into(),
        operation: Some(Operation {
            id: OperationId::new(Uuid::new_v4()),
            kind: OperationKind::Deploy,
            traceparent: None,
        }),
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_report_costs_a_resend_under_the_same_number() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    master
        .until("a first heartbeat", |master| master.heartbeat().is_some())
        .await;
    master.break_next(Faults {
        lost_report_answers: 1,
        ..Faults::default()
    });
    let mut bundle = master.bundle(1);
    bundle.stacks = vec![deploy("web")];
    master.publish(&bundle);
    let sent_twice = |master: &Master| {
        let received = master.received();
        received.iter().filter(|numbers| !numbers.is_empty()).count() >= 2
    };
    master.until("the event came twice", sent_twice).await;
    assert_eq!(master.told(), ["web deploy running"]);
    let batches: Vec<_> = master
        .received()
        .into_iter()
        .filter(|numbers| !numbers.is_empty())
        .collect();
    assert_eq!(batches[0], batches[1]);
    let heartbeat = master.heartbeat().unwrap();
    assert!(
        !heartbeat.converged && heartbeat.engine.is_none(),
        "{heartbeat:?}"
    );
    assert!(heartbeat.reason.unwrap().contains("does not answer"));
    // What was acknowledged is forgotten, and the ledger is free again.
    let before = master.received().len();
    master
        .until("one more report", |master| master.received().len() > before)
        .await;
    let agent = running.reopen().await;
    assert!(agent.ledger().waiting_events().unwrap().is_empty());
}

#[tokio::test]
async fn a_cut_poll_and_a_bundle_that_comes_twice_change_nothing() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    master.break_next(Faults {
        cut_polls: 1,
        repeated_bundles: 2,
        ..Faults::default()
    });
    master.publish(&master.bundle(1));
    let accepted = |master: &Master, generation| {
        let accepted = master.heartbeat().and_then(|heartbeat| heartbeat.accepted);
        accepted.is_some_and(|accepted| accepted.generation == generation)
    };
    master.until("generation 1", |master| accepted(master, 1)).await;
    master.publish(&master.bundle(2));
    master.until("generation 2", |master| accepted(master, 2)).await;
    assert_eq!(master.told(), Vec::<String>::new());
    running.reopen().await;
}

// A master that was killed came back with the heartbeat of before, and showed an old state until the next
// one, half a minute later.
#[tokio::test]
async fn a_master_that_was_lost_is_told_the_state_again_before_the_next_heartbeat() {
    let master = Master::start().await;
    master.break_next(Faults {
        rare_heartbeats: true,
        ..Faults::default()
    });
    let running = Running::enrolled_at(&master).await;
    let accepted = |master: &Master| {
        let accepted = master.heartbeat().and_then(|heartbeat| heartbeat.accepted);
        accepted.is_some_and(|accepted| accepted.generation == 1)
    };
    master.publish(&master.bundle(1));
    master.until("generation 1", accepted).await;
    // What else there is to tell is told within the first poll's five seconds; its end is cut, and so is the
    // second try on a new connection.
    master.break_next(Faults {
        rare_heartbeats: true,
        cut_polls: 2,
        ..Faults::default()
    });
    master.forget_heartbeat();
    master.until("the state once more", accepted).await;
    running.reopen().await;
}

// What changed while a report was on its way was taken for told, and was told with the next heartbeat only.
#[tokio::test]
async fn what_changes_while_a_report_is_on_its_way_is_told_with_the_next() {
    let master = Master::start().await;
    master.break_next(Faults {
        rare_heartbeats: true,
        slow_report_answers: 1,
        ..Faults::default()
    });
    let running = Running::enrolled_at(&master).await;
    master
        .until("the first report is on its way", |master| {
            master.heartbeat().is_some()
        })
        .await;
    master.publish(&master.bundle(1));
    let looked_at = |master: &Master| {
        let heartbeat = master.heartbeat();
        heartbeat.is_some_and(|heartbeat| {
            let reason = heartbeat.reason.as_deref().unwrap_or_default();
            heartbeat.accepted.is_some() && reason.contains("does not answer")
        })
    };
    master.until("the bundle is looked at", looked_at).await;
    running.reopen().await;
}

#[tokio::test]
async fn a_refused_bundle_is_told_once_and_the_next_good_one_is_taken() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    let mut bad = master.bundle(1);
    bad.stacks = vec![deploy("web")];
    let privileged = serde_json::json!({"services": {"s": {"image": "a", "privileged": true}}});
    bad.stacks[0].compose = privileged.into();
    master.publish(&bad);
    master
        .until("the refusal", |master| !master.told().is_empty())
        .await;
    let mut good = master.bundle(2);
    good.stacks = vec![deploy("web")];
    master.publish(&good);
    master
        .until("the good one", |master| master.told().len() == 2)
        .await;
    assert_eq!(master.told(), ["refused document", "web deploy running"]);
    running.reopen().await;
}

#[tokio::test]
async fn a_second_agent_on_the_same_state_folder_does_not_start() {
    let master = Master::start().await;
    let running = Running::enrolled_at(&master).await;
    let error = Agent::open(running.config.clone()).unwrap_err();
    assert!(error.is_held(), "{error:?}");
    running.reopen().await;
}
