//! The whole agent as it is installed: the binary, killed and started again, on a real Docker Engine.

use decnet_wire::bundle::{Bundle, Operation, OperationKind, Stack};
use decnet_wire::ids::OperationId;
use decnet_wire::report::PendingStack;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::lab::Lab;
use crate::master::{Faults, Master, token_text};

fn stack(lab: &Lab, decky: &str, compose: Value, kind: OperationKind) -> Stack {
    Stack {
        name: lab.stack(decky).parse().unwrap(),
        decky: decky.parse().unwrap(),
        compose: compose.into(),
        operation: Some(Operation {
            id: OperationId::new(Uuid::new_v4()),
            kind,
            traceparent: None,
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

/// Waits for a heartbeat that says of a decky what `holds` wants to hear.
async fn until_pending(
    master: &Master,
    what: &str,
    decky: &str,
    holds: impl Fn(Option<&PendingStack>) -> bool,
) {
    master
        .until(what, |master| {
            let heartbeat = master.heartbeat();
            heartbeat.is_some_and(|heartbeat| {
                let pending = heartbeat.pending.iter();
                let pending = pending.clone().find(|pending| pending.decky.as_str() == decky);
                holds(pending)
            })
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_whose_container_cannot_start_is_quarantined_and_the_others_go_on() {
    let master = Master::start().await;
    let mut lab = Lab::new(master.host());
    let enrolled = lab.run(&["enroll", "-"], &token_text(&master.token())).await;
    assert!(enrolled.status.success(), "{enrolled:?}");
    let lan = lab.macvlan();
    master.add_blob(&lab.image.blob.digest, lab.image.bytes.clone());
    let bundle = |master: &Master, lab: &Lab, generation: u64, stacks: Vec<Stack>| Bundle {
        networks: vec![lan.clone()],
        blobs: vec![lab.image.blob.clone()],
        stacks,
        ..master.bundle(generation)
    };
    let decky = |lab: &Lab, name: &str, n: u8, services: &[(&str, &[&str])]| {
        stack(lab, name, lab.decky(&lan, n, services), OperationKind::Deploy)
    };
    let services = |lab: &Lab| -> Vec<String> {
        let running = lab.running();
        let services = running.iter().map(|line| line.split(' ').next().unwrap());
        services.map(str::to_owned).collect()
    };
    let broken = decky(&lab, "web", 5, &[("http", &["exit", "3", "0"])]);
    let mail = decky(&lab, "mail", 6, &[("smtp", &["idle"])]);
    lab.start();
    master.publish(&bundle(&master, &lab, 1, vec![broken.clone(), mail.clone()]));
    master.until_converged(1).await;
    until_pending(&master, "the quarantine is told", "web", |pending| {
        pending.is_some_and(|pending| {
            pending.quarantined && pending.next_try_at.is_none() && pending.reason.contains("flux capacitor")
        })
    })
    .await;
    let told = master.told();
    let failed = told.iter().find(|told| told.starts_with("web deploy failed"));
    assert!(
        failed.is_some_and(|failed| failed.contains("quarantined after 1 try")),
        "{told:?}"
    );
    assert_eq!(services(&lab), ["base", "smtp"]);

    // A person who looks reads it as well, in words and as JSON.
    let status = lab.run(&["status", "--json"], "").await;
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let running = &status["running"];
    assert_eq!(running["converged"], json!(false), "{status}");
    assert_eq!(running["pending"][0]["quarantined"], json!(true), "{status}");
    let text = String::from_utf8(lab.run(&["status"], "").await.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("not done")).unwrap();
    for part in [
        &lab.stack("web"),
        "flux capacitor",
        "1 try failed",
        "decnet-agent retry",
    ] {
        assert!(line.contains(part), "{part}: {text}");
    }

    // No more tries, also not after a restart and with a bundle that asks the same; the neighbour is repaired and
    // changed meanwhile.
    let steps = async |lab: &Lab| {
        let journal = lab.run(&["journal", "--json", "--limit", "1000"], "").await;
        let journal: Vec<Value> = serde_json::from_slice(&journal.stdout).unwrap();
        let of_web = |entry: &&Value| entry["stack"] == json!(lab.stack("web"));
        journal.iter().filter(of_web).count()
    };
    let tried = steps(&lab).await;
    lab.kill();
    lab.start();
    let smtp = lab.running().into_iter().find(|line| line.starts_with("smtp"));
    let before = smtp.unwrap();
    lab.remove_container(before.split(' ').nth(1).unwrap());
    let more = decky(&lab, "mail", 6, &[("smtp", &["idle"]), ("imap", &["idle"])]);
    master.publish(&bundle(&master, &lab, 2, vec![broken.clone(), more.clone()]));
    master.until_converged(2).await;
    assert_eq!(services(&lab), ["base", "imap", "smtp"]);
    assert_eq!(
        steps(&lab).await,
        tried,
        "nothing was done for what is quarantined"
    );
    until_pending(&master, "it stays so", "web", |pending| {
        pending.is_some_and(|pending| pending.quarantined)
    })
    .await;

    // Whoever says so has it tried once more: in vain.
    let retried = lab.run(&["retry", "web"], "").await;
    assert!(retried.status.success(), "{retried:?}");
    let said = String::from_utf8(retried.stdout).unwrap();
    assert_eq!(said, format!("{}: tried again\n", lab.stack("web")));
    master
        .until("it was tried again", |_| {
            lab.log().matches("quarantined").count() >= 2
        })
        .await;
    assert!(steps(&lab).await > tried);
    let unknown = lab.run(&["retry", "nothing"], "").await;
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");

    // A new wish ends it.
    let whole = decky(&lab, "web", 5, &[("http", &["idle"])]);
    master.publish(&bundle(&master, &lab, 3, vec![whole, more]));
    master.until_converged(3).await;
    until_pending(&master, "nothing is pending", "web", |pending| pending.is_none()).await;
    assert_eq!(services(&lab), ["base", "base", "http", "imap", "smtp"]);
    assert_eq!(lab.terminate(), Some(0));
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
