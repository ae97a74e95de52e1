//! The audit log of a running master, checked by a program that knows nothing of ours but the documented form.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::command::{Finished, program, run_with};
use decnet_tests::scene::Scene;
use serde_json::{Value, json};

/// The program in the documentation: reads what `decnet audit --json` printed, and says how many entries follow one
/// another.
fn documented() -> Result<&'static str> {
    let page = include_str!("../../docs/audit.md");
    let (_, rest) = page.split_once("```python\n").context("no program")?;
    Ok(rest.split_once("```").context("no end of the program")?.0)
}

fn check(log: &Value) -> Result<Finished> {
    let text = log.to_string();
    run_with(
        &mut program("python3", &["-c", documented()?]),
        text.as_bytes(),
        Duration::from_secs(60),
    )
}

#[test]
fn another_program_computes_the_same_chain_and_finds_what_was_tampered_with() -> Result<()> {
    let scene = Scene::swarm("audit")?;
    let operator = &scene.operator;
    let id = operator
        .enroll("edge", None, &["--notes", "Töpfchen \"7\" \\ 日本 \u{1f980}"])?
        .0;
    operator.json(&["token", "create", "übersicht", "--role", "viewer"])?;
    operator.json(&["system", "limit", "7"])?;
    operator.json(&["host", "network", &id, "--driver", "ipvlan"])?;
    operator.json(&["host", "revoke", "edge"])?;

    let log = operator.json(&["audit", "--limit", "1000"])?;
    let entries = log["entries"].as_array().context("no entries")?;
    let actions: Vec<&str> = entries
        .iter()
        .map(|entry| entry["action"].as_str().unwrap_or_default())
        .collect();
    ensure!(
        actions
            == [
                "fleet.init",
                "token.create",
                "host.invite",
                "token.create",
                "fleet.limit",
                "host.network",
                "host.revoke",
            ],
        "{actions:?}"
    );
    ensure!(
        entries.iter().all(|entry| entry["actor"]["kind"] == "local"),
        "somebody else was here: {log:#}"
    );
    let verified = operator.json(&["audit", "--verify"])?;
    let expected = format!(
        "{} {}",
        verified["entries"],
        verified["head"].as_str().context("no head")?
    );
    ensure!(check(&log)?.ok()?.trim() == expected, "{expected}");

    // What the program is for.
    for (member, value) in [
        ("action", json!("host.invite")),
        ("after", json!({})),
        ("seq", json!(9)),
    ] {
        let mut changed = log.clone();
        changed["entries"][4][member] = value;
        ensure!(!check(&changed)?.status.success(), "{member} was changed unseen");
    }
    let mut shorter = log.clone();
    shorter["entries"].as_array_mut().context("no entries")?.remove(3);
    ensure!(
        !check(&shorter)?.status.success(),
        "an entry was taken out unseen"
    );

    // The head of before is still there after more has happened, and after a restart.
    let head = verified["head"].as_str().context("no head")?;
    let mut scene = scene;
    scene.master.stop()?;
    scene.master.start()?;
    scene.operator.json(&["system", "limit", "8"])?;
    scene
        .operator
        .command(&["audit", "--verify", "--head", head])?
        .ok()?;
    let other = format!("sha256:{}", "5".repeat(64));
    let said = scene.operator.command(&["audit", "--verify", "--head", &other])?;
    ensure!(
        said.code() == Some(1) && said.stderr.contains("cut off"),
        "{}",
        said.said()
    );
    scene.end()
}
