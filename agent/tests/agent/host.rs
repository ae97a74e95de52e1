//! The whole agent as it is installed: the binary, killed and started again, on a real Docker Engine.

use decnet_wire::bundle::{Bundle, Operation, OperationKind, Stack};
use decnet_wire::ids::OperationId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::lab::Lab;
use crate::master::{Faults, Master, token_text};

fn stack(lab: &Lab, decky: &str, compose: Value, kind: OperationKind) -> Stack {
    Stack {
        name: lab.stack(decky).parse().unwrap(),
        decky: decky.parse().unwrap(),
        compose,
        operation: Some(Operation {
            id: OperationId::new(Uuid::new_v4()),
            kind,
        }),
    }
}

fn sorted(mut told: Vec<String>) -> Vec<String> {
    told.sort();
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decky_is_deployed_mutated_and_torn_down_through_kills_and_cuts() {
    let master = Master::start().await;
    let mut lab = Lab::new(master.host());
    let enrolled = lab.run(&["enroll", "-"], &token_text(&master.token())).await;
    assert!(
        enrolled.status.success(),
        "{}",
        String::from_utf8_lossy(&enrolled.stderr)
    );
    let lan = lab.macvlan();
    master.add_blob(&lab.image.blob.digest, lab.image.bytes.clone());
    master.break_next(Faults {
        // The kill may take the first of them.
        cut_blobs: 2,
        ..Faults::default()
    });
    let bundle = |master: &Master, lab: &Lab, generation: u64, stacks: Vec<Stack>| Bundle {
        networks: vec![lan.clone()],
        blobs: vec![lab.image.blob.clone()],
        stacks,
        ..master.bundle(generation)
    };

    // Deploy: the image breaks off on its way, and the agent is killed once the operations run.
    let mail = stack(
        &lab,
        "mail",
        lab.decky(&lan, 6, &[("smtp", &["idle"])]),
        OperationKind::Deploy,
    );
    let web = stack(
        &lab,
        "web",
        lab.decky(&lan, 5, &[("ssh", &["idle"])]),
        OperationKind::Deploy,
    );
    lab.start();
    master.publish(&bundle(&master, &lab, 1, vec![web, mail.clone()]));
    master.until("both run", |master| master.told().len() >= 2).await;
    lab.kill();
    lab.start();
    master.until_converged(1).await;
    assert_eq!(
        sorted(master.told()),
        [
            "mail deploy running",
            "mail deploy succeeded",
            "web deploy running",
            "web deploy succeeded"
        ]
    );
    let ranges = master.ranges();
    assert!(
        ranges.iter().flatten().any(|range| range != "bytes=0-"),
        "resumed, not begun again: {ranges:?}"
    );
    let before = lab.running();
    assert_eq!(before.len(), 4, "{before:?}");

    // While it runs, commands ask it; the ledger is its own.
    let status = lab.run(&["status", "--json"], "").await;
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["running"]["converged"], json!(true), "{status}");
    let plan = lab.run(&["plan"], "").await;
    assert!(
        String::from_utf8_lossy(&plan.stdout).contains("nothing to do"),
        "{plan:?}"
    );
    let second = lab.run(&["run"], "").await;
    assert_eq!(second.status.code(), Some(4), "{second:?}");

    // A mutate whose service ends at once, with a kill: the old service runs again.
    let broken = lab.decky(&lan, 5, &[("http", &["exit", "3", "0"])]);
    let mutate = stack(&lab, "web", broken, OperationKind::Mutate);
    master.publish(&bundle(&master, &lab, 2, vec![mutate, mail.clone()]));
    master
        .until("the mutate runs", |master| master.told().len() >= 5)
        .await;
    lab.kill();
    lab.start();
    master.until_converged(2).await;
    let told = master.told();
    let web: Vec<_> = told
        .iter()
        .filter(|told| told.starts_with("web mutate"))
        .collect();
    assert_eq!(web.len(), 2, "{told:?}");
    assert!(
        web[1].contains("failed: ") && web[1].contains("flux capacitor"),
        "{web:?}"
    );
    let after = lab.running();
    let services = |running: &[String]| -> Vec<String> {
        running
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(services(&after), ["base", "base", "smtp", "ssh"]);
    let bases = |running: &[String]| -> Vec<String> {
        running
            .iter()
            .filter(|line| line.starts_with("base") || line.starts_with("smtp"))
            .cloned()
            .collect()
    };
    assert_eq!(
        bases(&after),
        bases(&before),
        "bases and the untouched decky are the same containers"
    );

    // Teardown of one; SIGTERM leaves the other running.
    let gone = stack(&lab, "web", json!({}), OperationKind::Teardown);
    master.publish(&bundle(&master, &lab, 3, vec![gone, mail]));
    master.until_converged(3).await;
    assert_eq!(master.told().last().unwrap(), "web teardown succeeded");
    assert_eq!(lab.terminate(), Some(0));
    assert_eq!(services(&lab.running()), ["base", "smtp"]);
    assert_eq!(lab.containers(), 2);
    let journal = lab.run(&["journal", "--json", "--limit", "5"], "").await;
    let journal: Vec<Value> = serde_json::from_slice(&journal.stdout).unwrap();
    assert_eq!(journal.len(), 5);
}

#[tokio::test]
async fn commands_on_a_host_that_is_not_enrolled_say_so_with_their_own_exit_code() {
    let master = Master::start().await;
    let lab = Lab::new(master.host());
    for command in ["run", "status", "plan", "journal"] {
        let out = lab.run(&[command], "").await;
        let says = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(3), "{command}: {says}");
        assert!(
            says.contains("not enrolled") && says.contains("decnet-agent enroll"),
            "{command}: {says}"
        );
    }
    assert_eq!(lab.run(&["nonsense"], "").await.status.code(), Some(2));
    let doctor = lab.run(&["doctor", "--json"], "").await;
    assert_eq!(doctor.status.code(), Some(5));
    let findings: Vec<Value> = serde_json::from_slice(&doctor.stdout).unwrap();
    assert!(
        findings
            .iter()
            .any(|finding| finding["check"] == "identity" && finding["level"] == "fail")
    );
    assert!(
        findings
            .iter()
            .any(|finding| finding["check"] == "engine" && finding["level"] == "ok")
    );
}
