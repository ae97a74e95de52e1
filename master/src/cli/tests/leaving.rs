//! `host decommission`, `host teardown` and `host departures`.

use decnet_wire::ids::HostId;
use serde_json::json;

use super::Running;
use crate::control::hosts::HostState;
use crate::serve::operator::testing::FLEET;

/// A host with two deckies, and one without; the operator's key lies in the state folder.
async fn start() -> (Running, [HostId; 2], String) {
    let running = Running::start().await;
    let first = running.master.enrol("edge-01");
    running.decnet_with(&["deploy", "-"], FLEET).await.ok();
    let second = running.master.enrol("edge-02");
    let state_dir = running.master.folder.path().join("master");
    (running, [first, second], state_dir.to_str().unwrap().to_owned())
}

fn state(running: &Running, host: HostId) -> Option<HostState> {
    let mut hosts = running.master.control.hosts().unwrap().into_iter();
    hosts.find(|view| view.host.id == host).map(|view| view.state)
}

/// What `host decommission` says with `--yes` and `--json`.
async fn decommission(running: &Running, state_dir: &str, host: &str, more: &[&str]) -> serde_json::Value {
    let args = [
        "host",
        "decommission",
        host,
        "--yes",
        "--json",
        "--state-dir",
        state_dir,
    ];
    running.decnet(&[&args, more].concat()).await.ok().json()
}

#[tokio::test]
async fn a_host_is_told_to_leave_and_stays_known_until_it_has() {
    let (running, [first, second], state_dir) = start().await;
    let begun = decommission(&running, &state_dir, "edge-01", &[]).await;
    assert_eq!(begun["departure"]["status"], "decommissioning", "{begun}");
    assert_eq!(begun["lifecycle_ids"].as_array().unwrap().len(), 2, "{begun}");
    assert_eq!(state(&running, first), Some(HostState::Decommissioning));
    assert_ne!(state(&running, second), Some(HostState::Decommissioning));

    let again = decommission(&running, &state_dir, "edge-01", &[]).await;
    assert_eq!(again["departure"]["nonce"], begun["departure"]["nonce"]);
    let list = running.decnet(&["host", "departures"]).await.ok();
    assert!(
        list.out.contains("edge-01") && !list.out.contains("edge-02"),
        "{list:?}"
    );
    running.decnet(&["host", "departures", "edge-02"]).await.failed(4);
}

#[tokio::test]
async fn a_host_is_forgotten_only_with_force_and_can_be_ordered_once_more() {
    let (running, [first, second], state_dir) = start().await;
    let begun = decommission(&running, &state_dir, &first.to_string(), &["--force"]).await;
    assert_eq!(begun["departure"]["status"], "forgotten", "{begun}");
    assert_eq!(state(&running, first), None);
    assert!(state(&running, second).is_some());
    running.decnet(&["host", "show", "edge-01"]).await.failed(4);

    // Where the operators have changed since, it has to be signed anew.
    let again = decommission(&running, &state_dir, "edge-01", &[]).await;
    assert_eq!(again["departure"]["host_uuid"], json!(first), "{again}");
    let args = ["host", "decommission", "edge-77", "--yes", "--state-dir"];
    let said = running
        .decnet(&[&args[..], &[&state_dir]].concat())
        .await
        .failed(4);
    assert!(said.err.contains("edge-77"), "{said:?}");
    assert!(state(&running, second).is_some());
}

#[tokio::test]
async fn an_order_that_was_signed_elsewhere_is_for_the_host_that_it_names() {
    let (running, [first, second], state_dir) = start().await;
    let path = |name: &str| {
        running
            .master
            .folder
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    };
    let (key, order) = (path("operator.pem"), path("order.json"));
    let order = order.as_str();
    running
        .decnet(&["key", "offline", &key, "--state-dir", &state_dir])
        .await
        .ok();
    let draft = ["host", "decommission", "edge-01", "--out", order];
    running
        .decnet(&[&draft[..], &["--state-dir", &state_dir]].concat())
        .await
        .ok();
    let before = state(&running, first);
    assert_ne!(
        before,
        Some(HostState::Decommissioning),
        "it is only written down"
    );

    let unsigned = ["host", "decommission", "edge-01", "--yes", "--order", order];
    let said = running.decnet(&unsigned).await.failed(4);
    assert!(said.err.contains("sign"), "{said:?}");
    let mut console = super::Console {
        input: &mut std::io::empty(),
        out: &mut Vec::new(),
        err: &mut Vec::new(),
        terminal: false,
        asks: false,
        json: false,
    };
    let args = crate::cli::SignArgs {
        file: order.into(),
        key: Some(key.into()),
    };
    assert_eq!(crate::cli::sign(&args, &mut console), 0);
    let other = ["host", "decommission", "edge-02", "--yes", "--order", order];
    let said = running.decnet(&other).await.failed(4);
    assert!(said.err.contains("would be refused"), "{said:?}");
    assert_ne!(state(&running, second), Some(HostState::Decommissioning));
    running.decnet(&unsigned).await.ok();
    assert_eq!(state(&running, first), Some(HostState::Decommissioning));
}

#[tokio::test]
async fn a_teardown_of_one_decky_leaves_the_others() {
    let (running, [first, _], _) = start().await;
    let args = ["host", "teardown", "edge-01", "--yes", "--json"];
    let one = running
        .decnet(&[&args[..], &["--decky", "web"]].concat())
        .await
        .ok()
        .json();
    assert_eq!(one["decky_names"], json!(["web"]), "{one}");
    let all = running.decnet(&args).await.ok().json();
    assert_eq!(all["decky_names"].as_array().unwrap().len(), 2, "{all}");
    let said = running
        .decnet(&["host", "teardown", "edge-02", "--yes", "--decky", "web"])
        .await
        .failed(4);
    assert!(said.err.contains("web"), "{said:?}");
    assert!(state(&running, first).is_some());
}

#[tokio::test]
async fn nothing_is_removed_that_nobody_said_yes_to() {
    let (running, [first, _], state_dir) = start().await;
    let before = state(&running, first);
    let commands: [&[&str]; 3] = [
        &["host", "decommission", "edge-01", "--state-dir", &state_dir],
        &[
            "host",
            "decommission",
            "edge-01",
            "--force",
            "--state-dir",
            &state_dir,
        ],
        &["host", "teardown", "edge-01"],
    ];
    for command in commands {
        let said = running.decnet(command).await.failed(2);
        assert!(said.err.contains("say --yes"), "{said:?}");
        for answer in ["", "\n", "n\n", "no, yes\n"] {
            let said = running.decnet_asking(command, answer).await;
            assert_eq!(said.code, 4, "{said:?}");
            assert!(said.err.contains("Go on? [y/N]"), "{said:?}");
            assert!(said.err.contains("nothing was done"), "{said:?}");
        }
        assert_eq!(state(&running, first), before);
        let departures = running.master.control.departures().unwrap();
        assert_eq!(departures, []);
    }
    let said = running.decnet_asking(commands[1], "y\n").await;
    assert_eq!((said.code, state(&running, first)), (0, None), "{said:?}");
}
