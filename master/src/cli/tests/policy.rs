//! `policy`: from the operator's file to what hosts are handed.

use decnet_pki::key::SigningKey;
use serde_json::json;

use super::{Output, Running};
use crate::serve::operator::testing::FLEET;

/// A master with one host and its deckies, whose operator's key lies beside it.
async fn start() -> (Running, String) {
    let running = Running::start().await;
    running.master.enrol("edge-01");
    running.decnet_with(&["deploy", "-"], FLEET).await.ok();
    let state_dir = running.master.folder.path().join("master");
    (running, state_dir.to_str().unwrap().to_owned())
}

async fn sign(running: &Running, state_dir: &str, file: &str, more: &[&str]) -> Output {
    let args = [&["policy", "sign", file, "--state-dir", state_dir], more].concat();
    running.decnet(&args).await
}

#[tokio::test]
async fn check_and_explain_tell_what_is_forbidden_and_which_line_does_it() {
    let (running, _) = start().await;
    let good = running.file("good.toml", "[resources]\npids = 64\ncpus = 0.5\n");
    let said = running.decnet(&["policy", "check", &good]).await.ok();
    assert!(said.out.contains("it would forbid none of them"), "{said:?}");

    let bad = running.file(
        "bad.toml",
        "# too little\n[resources]\npids = 16\nmemory = \"64m\"\n[networks]\nranges = [\"203.0.113.0/24\"]\n",
    );
    let said = running.decnet(&["policy", "check", &bad]).await.ok();
    assert!(said.out.contains("it would forbid 2 of them"), "{said:?}");
    assert!(said.out.contains("resources.pids"), "{said:?}");
    let said = running.decnet(&["policy", "explain", &bad]).await.ok();
    let pids = format!("    {bad}:3: pids = 16\n");
    assert!(said.out.contains(&pids), "{said:?}");
    assert!(
        said.out.contains("pids_limit: the policy allows 16, not 64"),
        "{said:?}"
    );
    assert!(
        said.out
            .contains(&format!("{bad}:6: ranges = [\"203.0.113.0/24\"]")),
        "{said:?}"
    );
    let rows = running
        .decnet(&["policy", "explain", &bad, "--json"])
        .await
        .ok()
        .json();
    let rows = rows["forbidden"].as_array().unwrap();
    assert!(
        rows.iter()
            .any(|row| row["rule"] == "resources.pids" && row["line"] == 3 && row["text"] == "pids = 16"),
        "{rows:?}"
    );

    // What nothing allows has no line.
    let none = running.file("none.toml", "[images]\nrepositories = [\"registry.example/a\"]\n");
    let said = running
        .decnet(&["policy", "explain", &none, "--json"])
        .await
        .ok()
        .json();
    assert_eq!(said["forbidden"][0]["rule"], "images.repositories", "{said}");
    let odd = running.file("odd.toml", "days = 3\nhost = []\n");
    let said = running.decnet(&["policy", "check", &odd]).await.failed(4);
    assert!(said.err.contains("odd.toml:2: unknown field `host`"), "{said:?}");
    // Nothing of all that was kept.
    let shown = running.decnet(&["policy", "show", "--json"]).await.ok().json();
    assert_eq!(
        (&shown["newest"], &shown["built_in"]),
        (&json!(0), &json!(["edge-01"]))
    );
}

#[tokio::test]
async fn a_signed_policy_holds_deploys_at_once_and_names_its_rule() {
    let (running, state_dir) = start().await;
    let file = running.file("policy.toml", "[resources]\ndeckies = 2\ncpus = 0.25\n");
    let shown = sign(&running, &state_dir, &file, &["--json"]).await.ok().json();
    assert_eq!(shown["newest"], 1);
    assert_eq!(shown["policies"][0]["hosts"], json!(["edge-01"]));
    let control = &running.master.control;
    let host = control.hosts().unwrap()[0].host.id;
    assert_eq!(control.policy_for(host).unwrap().version(), 1);

    // Compiled within the ceiling.
    control.publish_due().unwrap();
    let envelope = control.envelope(host, 0).unwrap().unwrap();
    let envelope = decnet_pki::envelope::Envelope::parse(envelope.as_bytes(), 1 << 24).unwrap();
    let bundle = String::from_utf8(envelope.unverified_payload().to_vec()).unwrap();
    assert!(bundle.contains("\"cpus\":0.25"), "{bundle}");

    let more = FLEET.replace("[web", "[more").replace("[printer", "[moreprinter");
    let before = running.decnet(&["decky", "ls", "--json"]).await.ok().json();
    for command in ["deploy", "plan"] {
        let said = running.decnet_with(&[command, "-"], &more).await.failed(4);
        assert!(said.err.contains("(rule resources.deckies)"), "{said:?}");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
    }
    assert_eq!(
        running.decnet(&["decky", "ls", "--json"]).await.ok().json(),
        before
    );
    let shown = running.decnet(&["policy", "show"]).await.ok();
    assert!(
        shown.out.contains("every host (1)") && shown.out.contains("in force"),
        "{shown:?}"
    );
}

#[tokio::test]
async fn what_forbids_the_present_fleet_is_signed_only_when_told_to() {
    let (running, state_dir) = start().await;
    let file = running.file("policy.toml", "[resources]\npids = 1\n");
    let said = sign(&running, &state_dir, &file, &[]).await.failed(4);
    assert!(said.err.contains("--force"), "{said:?}");
    sign(&running, &state_dir, &file, &["--force"]).await.ok();
    let said = running.decnet(&["policy", "explain"]).await.ok();
    assert!(said.out.contains("by the key resources.pids"), "{said:?}");
}

#[tokio::test]
async fn a_policy_is_signed_elsewhere_and_nobody_elses_is_taken() {
    let (running, state_dir) = start().await;
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
    let file = running.file("policy.toml", "hosts = [\"edge-01\"]\ndays = 3\n");
    let (key, draft) = (path("operator.pem"), path("policy.json"));
    running
        .decnet(&["key", "offline", &key, "--state-dir", &state_dir])
        .await
        .ok();
    let said = sign(&running, &state_dir, &file, &[]).await.failed(2);
    assert!(said.err.contains("--key FILE"), "{said:?}");
    let thief = running.file("thief.pem", "");
    std::fs::remove_file(&thief).unwrap();
    let stolen = SigningKey::generate().unwrap();
    decnet_pki::files::write_private(std::path::Path::new(&thief), stolen.to_pkcs8_pem().as_bytes()).unwrap();
    let said = sign(&running, &state_dir, &file, &["--key", &thief])
        .await
        .failed(4);
    assert!(said.err.contains("0 of 1 operators have signed"), "{said:?}");

    sign(&running, &state_dir, &file, &["--out", &draft]).await.ok();
    let said = running.decnet(&["policy", "import", &draft]).await.failed(4);
    assert!(said.err.contains("not signed by the operators"), "{said:?}");
    let mut out = Vec::new();
    let mut console = super::Console {
        input: &mut std::io::empty(),
        out: &mut out,
        err: &mut Vec::new(),
        terminal: false,
        asks: false,
        json: false,
    };
    let args = crate::cli::SignArgs {
        file: draft.clone().into(),
        key: Some(key.clone().into()),
    };
    assert_eq!(crate::cli::sign(&args, &mut console), 0);
    assert!(String::from_utf8(out).unwrap().contains("version 1"));
    let shown = running
        .decnet(&["policy", "import", &draft, "--json"])
        .await
        .ok()
        .json();
    assert_eq!(shown["policies"][0]["every_host"], false);
    // Once is enough.
    let said = running.decnet(&["policy", "import", &draft]).await.failed(4);
    assert!(said.err.contains("there already"), "{said:?}");
    let said = sign(&running, &state_dir, &file, &["--key", &key, "--require"])
        .await
        .failed(2);
    assert!(said.err.contains("leave out hosts"), "{said:?}");
    let file = running.file("policy.toml", "hosts = [\"nobody\"]\n");
    let said = sign(&running, &state_dir, &file, &["--key", &key])
        .await
        .failed(4);
    assert!(said.err.contains("there is no host nobody"), "{said:?}");
}

#[tokio::test]
async fn a_required_policy_stands_in_the_trust_root_and_a_rotation_asks_for_a_new_signature() {
    let (running, state_dir) = start().await;
    let said = running
        .decnet(&["key", "rotate", "policy", "--state-dir", &state_dir])
        .await
        .failed(4);
    assert!(said.err.contains("no policy names every host"), "{said:?}");
    let file = running.file("policy.toml", "days = 3\n");
    sign(&running, &state_dir, &file, &["--require"]).await.ok();
    let keys = running.decnet(&["key", "ls", "--json"]).await.ok().json();
    assert_eq!((&keys["policy"], &keys["version"]), (&json!(1), &json!(2)));
    let shown = running.decnet(&["policy", "show", "--json"]).await.ok().json();
    assert_eq!(
        (&shown["required"], &shown["policies"][0]["present_operators"]),
        (&json!(1), &json!(true))
    );

    running
        .decnet(&["key", "rotate", "operator", "--state-dir", &state_dir])
        .await
        .ok();
    let shown = running.decnet(&["policy", "show"]).await.ok();
    assert!(shown.out.contains("sign it again"), "{shown:?}");
    sign(&running, &state_dir, &file, &[]).await.ok();
    let shown = running.decnet(&["policy", "show", "--json"]).await.ok().json();
    assert_eq!(
        (&shown["newest"], &shown["policies"][0]["present_operators"]),
        (&json!(2), &json!(true))
    );
}
