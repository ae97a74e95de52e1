//! `host releases`, `host update` and `host rollback`.

use std::sync::Arc;

use decnet_wire::ids::{Digest, HostId, Timestamp};
use decnet_wire::release::{Progress, ProgressState};
use decnet_wire::report::{self, Heartbeat, Report};
use serde_json::{Value, json};

use super::Running;

/// Two hosts; the operator's key lies in the state folder.
async fn start() -> (Running, [HostId; 2], String) {
    let running = Running::start().await;
    let hosts = ["edge-01", "edge-02"].map(|name| running.master.enrol(name));
    let state_dir = running.master.folder.path().join("master");
    (running, hosts, state_dir.to_str().unwrap().to_owned())
}

/// Signs a package of this version and hands both in.
async fn add(running: &Running, state_dir: &str, version: &str) {
    let file = running.file(&format!("decnet-agent_{version}-1_amd64.deb"), version);
    let args = ["host", "releases", "add", &file, "--state-dir", state_dir];
    running.decnet(&args).await.ok();
}

/// The rollout after a command that succeeds.
async fn rollout(running: &Running, args: &[&str]) -> Value {
    let shown = running.decnet(&[&["host"], args, &["--json"]].concat()).await;
    shown.ok().json()["rollout"].clone()
}

/// A host's word about a release.
async fn says(running: &Running, host: HostId, sequence: u64, state: ProgressState) {
    let heartbeat = Heartbeat {
        update: Some(Progress {
            sequence,
            version: "1.0".parse().unwrap(),
            release: Digest::from_sha256([1; 32]),
            state,
            detail: None,
        }),
        agent_version: "test".to_owned(),
        sent_at: Timestamp::new(time::OffsetDateTime::now_utc()),
        accepted: None,
        converged: false,
        reason: None,
        engine: None,
        pending: Vec::new(),
    };
    let report = Report {
        schema: report::SCHEMA,
        heartbeat,
        observed: None,
        events: Vec::new(),
    };
    let control = Arc::clone(&running.master.control);
    let told = tokio::task::spawn_blocking(move || {
        control.ingest(host, &report).unwrap();
        control.watch_rollout().unwrap();
    });
    told.await.unwrap();
}

#[tokio::test]
async fn a_rollout_goes_as_far_as_it_is_told_and_stands_still_when_it_is_told() {
    let (running, _, state_dir) = start().await;
    running.decnet(&["host", "update", "--all"]).await.failed(4);
    add(&running, &state_dir, "0.2.0").await;
    add(&running, &state_dir, "0.3.0").await;
    let shown = rollout(&running, &["update", "--all", "--percent", "10"]).await;
    assert_eq!(
        (&shown["version"], &shown["per_mille"], &shown["state"]),
        (&json!("0.3.0"), &json!(100), &json!("running"))
    );
    assert_eq!(shown["every_host"], json!(true), "{shown}");
    for (step, state) in [
        ("--pause", "paused"),
        ("--resume", "running"),
        ("--abort", "aborted"),
    ] {
        let shown = rollout(&running, &["update", step]).await;
        assert_eq!(shown["state"], state, "{step}: {shown}");
    }
    running.decnet(&["host", "update", "--resume"]).await.failed(4);
}

#[tokio::test]
async fn only_the_hosts_that_are_named_are_meant() {
    let (running, _, state_dir) = start().await;
    add(&running, &state_dir, "0.2.0").await;
    let shown = rollout(&running, &["update", "edge-02"]).await;
    let hosts = shown["hosts"].as_array().unwrap();
    assert_eq!(
        (hosts.len(), &hosts[0]["name"]),
        (1, &json!("edge-02")),
        "{shown}"
    );
    running.decnet(&["host", "update", "edge-77"]).await.failed(4);
}

#[tokio::test]
async fn a_rollback_goes_to_the_newest_lower_version_that_hosts_have_kept() {
    let (running, [first, second], state_dir) = start().await;
    for version in ["0.2.0", "0.2.5", "0.3.0"] {
        add(&running, &state_dir, version).await;
    }
    let back = |more: &[&str]| {
        let args = [
            &["host", "rollback"],
            more,
            &["--json", "--state-dir", &state_dir],
        ]
        .concat();
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let rolled_back = async |more: &[&str]| {
        let args = back(more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        running.decnet(&args).await
    };
    // Nothing was rolled out; then nothing before it was kept.
    rolled_back(&["--all"]).await.failed(4);
    rollout(&running, &["update", "--all", "--release", "0.2.0"]).await;
    rolled_back(&["--all"]).await.failed(4);
    says(&running, first, 1, ProgressState::Kept).await;
    says(&running, second, 1, ProgressState::Kept).await;
    rollout(&running, &["update", "--all"]).await;
    says(&running, first, 3, ProgressState::Kept).await;

    let shown = rolled_back(&["edge-01"]).await.ok().json();
    let newest = &shown["releases"][0];
    assert_eq!(
        (&newest["sequence"], &newest["version"], &newest["downgrade"]),
        (&json!(4), &json!("0.2.0"), &json!(true)),
        "{shown}"
    );
    let hosts = shown["rollout"]["hosts"].as_array().unwrap();
    assert_eq!(
        (hosts.len(), &hosts[0]["name"]),
        (1, &json!("edge-01")),
        "{shown}"
    );
    assert_eq!(shown["rollout"]["sequence"], 4, "{shown}");
}
