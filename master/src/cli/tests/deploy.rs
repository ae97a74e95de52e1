//! `deploy` and `plan`.

use decnet_wire::ids::DeckyName;
use decnet_wire::report::Outcome;

use super::{Running, while_agent};
use crate::cli::client::{Client, Connection};
use crate::serve::operator::testing::FLEET;

#[tokio::test]
async fn a_refused_description_is_exit_4_with_every_reason_in_a_line() {
    let running = Running::start().await;
    running.master.enrol("edge-01");
    let bad = running.file("bad.ini", "[a]\nservices = nonsense\n[b]\narchetype = toaster\n");
    for command in ["deploy", "plan"] {
        let output = running.decnet(&[command, &bad]).await.failed(4);
        assert!(output.err.lines().count() >= 2, "{output:?}");
        assert!(
            output.err.contains("nonsense") && output.err.contains("toaster"),
            "{output:?}"
        );
        assert_eq!(output.out, "");
    }
    let missing = running.decnet(&["deploy", "/nonexistent.ini"]).await.failed(2);
    assert!(missing.err.contains("/nonexistent.ini"), "{missing:?}");
}

#[tokio::test]
async fn deploy_without_wait_ends_as_soon_as_it_is_stored() {
    let running = Running::start().await;
    running.master.enrol("edge-01");
    let plan = running.decnet_with(&["plan", "-"], FLEET).await.ok();
    assert!(plan.out.starts_with("edge-01: "), "{plan:?}");
    let json = running
        .decnet_with(&["plan", "-", "--json"], FLEET)
        .await
        .ok()
        .json();
    assert_eq!(json["hosts"][0]["host_name"], "edge-01");
    assert_eq!(
        running.decnet(&["decky", "ls", "--json"]).await.ok().json(),
        serde_json::json!([])
    );

    let output = running.decnet_with(&["deploy", "-"], FLEET).await.ok();
    assert!(
        output.out.starts_with("accepted: 2 operations (swarm)\n"),
        "{output:?}"
    );
    let output = running.decnet(&["decky", "ls"]).await.ok();
    assert!(
        output.out.contains("web") && output.out.contains("pending"),
        "{output:?}"
    );
    let again = running.decnet_with(&["deploy", "-"], FLEET).await.failed(4);
    assert_eq!(again.out, "");
    let output = running
        .decnet_with(&["deploy", "-", "--replace", "--json"], FLEET)
        .await
        .ok();
    assert_eq!(output.json()["lifecycle_ids"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn deckies_can_be_deployed_without_a_file() {
    let running = Running::start().await;
    running.master.enrol("edge-01");
    let flags = [
        "--deckies",
        "3",
        "--services",
        "ssh,http",
        "--mutate-interval",
        "45",
    ];
    let refused = running
        .decnet(&[&["deploy"], &flags[..]].concat())
        .await
        .failed(4);
    assert!(
        refused.err.contains("in an INI"),
        "no LAN is known yet: {refused:?}"
    );
    running.decnet_with(&["deploy", "-"], FLEET).await.ok();

    let plan = running.decnet(&[&["plan"], &flags[..]].concat()).await.ok();
    assert!(plan.out.contains("decnet-decky-03"), "{plan:?}");
    let output = running.decnet(&[&["deploy"], &flags[..]].concat()).await.ok();
    assert!(output.out.starts_with("accepted: 3 operations"), "{output:?}");
    let deckies = running.decnet(&["decky", "ls", "--json"]).await.ok().json();
    let made: Vec<_> = deckies
        .as_array()
        .unwrap()
        .iter()
        .filter(|decky| decky["name"].as_str().unwrap().starts_with("decky-"))
        .collect();
    assert_eq!(made.len(), 3);
    for decky in &made {
        assert_eq!(decky["services"], serde_json::json!(["ssh", "http"]));
        assert_eq!(decky["mutate_interval"], "45m");
    }

    let again = running
        .decnet(&[&["deploy"], &flags[..]].concat())
        .await
        .failed(4);
    assert!(again.err.contains("decky-01 is already deployed"), "{again:?}");
    let wrong = [
        "deploy",
        "--deckies",
        "1",
        "--archetype",
        "toaster",
        "--distro",
        "templeos",
    ];
    let wrong = running.decnet(&wrong).await.failed(4);
    assert_eq!(wrong.err.lines().count(), 2, "{wrong:?}");
    let replaced = [
        "deploy",
        "--deckies",
        "2",
        "--randomize-services",
        "--randomize-distros",
        "--replace",
    ];
    running.decnet(&replaced).await.ok();
    let deckies = running.decnet(&["decky", "ls", "--json"]).await.ok().json();
    let kept = deckies
        .as_array()
        .unwrap()
        .iter()
        .filter(|decky| decky["state"] != "tearing_down");
    assert_eq!(kept.count(), 2);
}

#[tokio::test]
async fn deploy_with_wait_ends_when_every_operation_has_and_tells_whether_all_succeeded() {
    let running = Running::start().await;
    let host = running.master.enrol("edge-01");
    let good = |_: &DeckyName| Outcome::Succeeded;
    let output = while_agent(&running, host, &["deploy", "-", "--wait"], FLEET, good)
        .await
        .ok();
    assert!(output.out.ends_with("2 succeeded\n"), "{output:?}");
    assert!(!output.out.contains('\x1b'), "{output:?}");

    let bad = |decky: &DeckyName| {
        if decky.as_str() == "web" {
            Outcome::Failed {
                error: "no space left\x1b[2J".to_owned(),
            }
        } else {
            Outcome::Succeeded
        }
    };
    let args = ["deploy", "-", "--replace", "--wait"];
    let output = while_agent(&running, host, &args, FLEET, bad).await.failed(1);
    assert!(output.out.ends_with("1 succeeded, 1 failed\n"), "{output:?}");
    assert!(
        output.err.contains("the deploy of web failed: no space left"),
        "{output:?}"
    );
    assert!(
        !format!("{}{}", output.out, output.err).contains('\x1b'),
        "{output:?}"
    );

    let args = ["deploy", "-", "--replace", "--wait", "--json"];
    let output = while_agent(&running, host, &args, FLEET, good).await.ok();
    assert_eq!(output.json()["rows"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn waiting_goes_on_when_the_streams_are_used_up() {
    let running = Running::start().await;
    let host = running.master.enrol("edge-01");
    let mut streams = Vec::new();
    for _ in 0..5 {
        let connection = Connection {
            socket: Some(running.socket.clone()),
            server: None,
            ca: None,
            token_file: None,
            token: None,
        };
        let client = Client::new(&connection).unwrap();
        streams.push(client.events(&[], None).await.unwrap());
    }
    let good = |_: &DeckyName| Outcome::Succeeded;
    while_agent(&running, host, &["deploy", "-", "--wait"], FLEET, good)
        .await
        .ok();
}
