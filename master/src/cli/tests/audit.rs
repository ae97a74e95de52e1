//! The audit log as people and programs read it.

use decnet_wire::ids::Timestamp;

use super::Running;
use crate::audit::{Action, Actor, beginning};

#[tokio::test]
async fn the_log_says_who_did_what_and_its_chain_is_checked() {
    let running = Running::start().await;
    running.master.enrol("edge-01");
    running.decnet(&["system", "limit", "7"]).await.ok();

    let output = running.decnet(&["audit"]).await.ok();
    for text in [
        "root",
        "fleet.limit",
        "host edge-01",
        "host.enroll",
        "host/edge-01",
    ] {
        assert!(output.out.contains(text), "{text}: {output:?}");
    }
    let output = running
        .decnet(&["audit", "--since", "1h", "--action", "fleet.limit", "--json"])
        .await
        .ok();
    let entries = output.json()["entries"].as_array().unwrap().clone();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["after"]["deployment_limit"], 7);
    let output = running
        .decnet(&[
            "audit",
            "--subject",
            "host/edge-01",
            "--actor",
            "edge-01",
            "--json",
        ])
        .await
        .ok();
    assert_eq!(output.json()["entries"].as_array().unwrap().len(), 1);

    let output = running.decnet(&["audit", "--verify", "--json"]).await.ok();
    let head = output.json()["head"].as_str().unwrap().to_owned();
    assert_eq!(output.json()["entries"], output_head(&running).await);
    running.decnet(&["system", "limit", "8"]).await.ok();
    let output = running.decnet(&["audit", "--verify", "--head", &head]).await.ok();
    assert!(
        output
            .out
            .contains("the chain is whole. The head that was given is in it."),
        "{output:?}"
    );

    let foreign = beginning().to_string();
    let output = running.decnet(&["audit", "--verify", "--head", &foreign]).await;
    assert_eq!(output.code, 1);
    assert!(
        output.err.contains("is not in the log") && output.err.contains("cut off"),
        "{output:?}"
    );
}

async fn output_head(running: &Running) -> u64 {
    let page = running
        .decnet(&["audit", "--limit", "1", "--json"])
        .await
        .ok()
        .json();
    page["head"]["seq"].as_u64().unwrap()
}

/// More entries than one answer holds, followed page by page.
#[tokio::test]
async fn a_long_log_is_checked_to_its_end() {
    let running = Running::start().await;
    let control = &running.master.control;
    let by = Actor::local(0);
    for n in 0..2100 {
        control.set_deployment_limit(&by, 100 + n % 2).unwrap();
    }
    let output = running.decnet(&["audit", "--verify", "--json"]).await.ok();
    assert_eq!(output.json()["entries"], 2100 + 3);
    let since = Timestamp::new(time::OffsetDateTime::now_utc() + time::Duration::HOUR).to_string();
    let output = running
        .decnet(&[
            "audit",
            "--since",
            &since,
            "--action",
            Action::FleetLimit.as_str(),
        ])
        .await
        .ok();
    assert_eq!(output.out.lines().count(), 1, "only the headings: {output:?}");
}
