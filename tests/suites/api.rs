//! The operator API as programs meet it: over HTTPS, with a token, while the engine is away.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::command::{SHORT, run_with};
use decnet_tests::engine_proxy::{EngineProxy, Mode};
use decnet_tests::processes::Master;
use decnet_tests::scene::Scene;
use serde_json::{Value, json};

/// An answer, and how long it took to come.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
    took: Duration,
}

impl Answer {
    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {self:?}"))
    }
}

/// Asks over HTTPS; the master's own CA is the only one that is trusted.
fn ask(master: &Master, method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> Result<Answer> {
    let url = format!("https://127.0.0.1:{}{path}", master.api_port);
    let ca = ca_file(&master.state_dir)?;
    let mut arguments = vec![
        "-sS".to_owned(),
        "--cacert".to_owned(),
        ca,
        "--max-time".to_owned(),
        "20".to_owned(),
        "-X".to_owned(),
        method.to_owned(),
        "-w".to_owned(),
        "\n%{http_code} %{time_total}".to_owned(),
    ];
    if let Some(token) = token {
        arguments.extend(["-H".to_owned(), format!("Authorization: Bearer {token}")]);
    }
    if body.is_some() {
        let rest = [
            "-H",
            "Content-Type: application/json",
            "-H",
            "Expect:",
            "--data-binary",
            "@-",
        ];
        arguments.extend(rest.map(str::to_owned));
    }
    arguments.push(url);
    let mut command = std::process::Command::new("curl");
    command.args(&arguments);
    let said = run_with(&mut command, body.unwrap_or_default().as_bytes(), SHORT)?.ok()?;
    let (body, figures) = said.rsplit_once('\n').context("curl printed no figures")?;
    let (status, seconds) = figures.split_once(' ').context("curl printed no figures")?;
    Ok(Answer {
        status: status.parse()?,
        body: body.to_owned(),
        took: Duration::from_secs_f64(seconds.parse()?),
    })
}

fn ca_file(state_dir: &Path) -> Result<String> {
    let path = state_dir.join("keys").join("ca.crt");
    ensure!(path.exists(), "no CA certificate at {}", path.display());
    Ok(path.display().to_string())
}

fn deploy_body(ini: &str) -> String {
    json!({ "ini_content": ini }).to_string()
}

#[test]
fn a_deploy_is_accepted_in_milliseconds_while_the_engine_hangs() -> Result<()> {
    let mut proxy = None;
    let mut scene = Scene::prepare("api, hanging engine", |master, folder| {
        let socket = folder.join("engine.sock");
        proxy = Some(EngineProxy::listen(&socket, Mode::Pass)?);
        Ok(master.with_engine(&socket))
    })?;
    let proxy = proxy.context("no proxy")?;
    scene.master.start()?;
    let host = scene.local()?;
    proxy.set(Mode::Hang);

    let name = format!("{}-n", scene.prefix);
    let ini = format!(
        "{}\n[{name}]\narchetype = database-server\namount = 10\n",
        scene.lan.general()
    );
    let answer = ask(
        &scene.master,
        "POST",
        "/api/v1/deckies/deploy",
        Some(&scene.master.token),
        Some(&deploy_body(&ini)),
    )?;
    println!("202 after {:?} with an engine that does not answer", answer.took);
    ensure!(answer.status == 202, "{answer:?}");
    // TLS, ten deckies and a transaction on disk; nothing in it waits for an engine.
    ensure!(
        answer.took < Duration::from_millis(1000),
        "it took {:?}",
        answer.took
    );
    let ids: Vec<String> = answer.json()?["lifecycle_ids"]
        .as_array()
        .context("no lifecycle_ids")?
        .iter()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect();
    ensure!(ids.len() == 10, "ten deckies, {} rows", ids.len());
    let rows = scene.operator.rows_of(&ids)?;
    ensure!(
        rows.iter().all(|row| !row.is_terminal()),
        "a row ended without an engine: {rows:?}"
    );
    let read = ask(
        &scene.master,
        "GET",
        "/api/v1/deckies",
        Some(&scene.master.token),
        None,
    )?;
    ensure!(
        read.status == 200 && read.took < Duration::from_millis(1000),
        "{read:?}"
    );

    // The engine comes back, and what was accepted is done.
    proxy.set(Mode::Refuse);
    proxy.set(Mode::Pass);
    scene.explained(scene.operator.succeeded(&ids))?;
    let containers = decnet_tests::engine::containers(&host)?;
    ensure!(
        containers.len() == 40,
        "10 deckies of 1+3 are {} containers",
        containers.len()
    );
    scene.end()
}

#[test]
fn nobody_gets_in_without_a_role_and_viewers_change_nothing() -> Result<()> {
    let scene = Scene::swarm("api, roles")?;
    let admin = scene.master.token.clone();
    let viewer = scene
        .operator
        .json(&["token", "create", "reader", "--role", "viewer"])?;
    let viewer = viewer["token"].as_str().context("no token")?.to_owned();
    let ask = |method: &str, path: &str, token: Option<&str>, body: Option<&str>| {
        ask(&scene.master, method, path, token, body)
    };

    let reads = [
        "/api/v1/deckies",
        "/api/v1/lifecycle",
        "/api/v1/openapi.json",
        "/api/v1/config",
        "/api/v1/nothing-here",
    ];
    for path in reads {
        for token in [
            None,
            Some("decnet_"),
            Some("decnet_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            Some(""),
        ] {
            let answer = ask("GET", path, token, None)?;
            ensure!(answer.status == 401, "GET {path} with {token:?}: {answer:?}");
            ensure!(answer.json()?["detail"].is_string(), "no reason: {answer:?}");
        }
    }
    for (method, path, body) in [
        (
            "POST",
            "/api/v1/deckies/deploy",
            Some(deploy_body("[a]\nservices=ssh\n")),
        ),
        (
            "POST",
            "/api/v1/deckies/plan",
            Some(deploy_body("[a]\nservices=ssh\n")),
        ),
        ("POST", "/api/v1/deckies/a/mutate", None),
        (
            "PUT",
            "/api/v1/deckies/a/mutate-interval",
            Some(json!({ "mutate_interval": "5m" }).to_string()),
        ),
        ("DELETE", "/api/v1/deckies/a", None),
        ("GET", "/api/v1/swarm/hosts", None),
        (
            "POST",
            "/api/v1/swarm/hosts/enroll",
            Some(json!({ "name": "edge" }).to_string()),
        ),
        (
            "PUT",
            "/api/v1/config/deployment-limit",
            Some(json!({ "deployment_limit": 20 }).to_string()),
        ),
        (
            "POST",
            "/api/v1/tokens",
            Some(json!({ "name": "x", "role": "admin" }).to_string()),
        ),
    ] {
        let answer = ask(method, path, Some(&viewer), body.as_deref())?;
        ensure!(answer.status == 403, "{method} {path} as viewer: {answer:?}");
        let answer = ask(method, path, None, body.as_deref())?;
        ensure!(answer.status == 401, "{method} {path} as nobody: {answer:?}");
    }
    for path in [
        "/api/v1/deckies",
        "/api/v1/lifecycle",
        "/api/v1/openapi.json",
        "/api/v1/system/deployment-mode",
    ] {
        for token in [&viewer, &admin] {
            let answer = ask("GET", path, Some(token), None)?;
            ensure!(answer.status == 200, "GET {path}: {answer:?}");
        }
    }
    ensure!(scene.operator.hosts()?.is_empty(), "a viewer made a host");
    scene.end()
}

#[test]
fn the_served_description_lists_the_routes_and_their_roles() -> Result<()> {
    let scene = Scene::swarm("api, OpenAPI")?;
    let answer = ask(
        &scene.master,
        "GET",
        "/api/v1/openapi.json",
        Some(&scene.master.token),
        None,
    )?;
    let document = answer.json()?;
    let version = document["openapi"].as_str().unwrap_or_default();
    ensure!(version.starts_with("3."), "it is OpenAPI {version:?}");
    for (path, method) in [
        ("/api/v1/deckies/deploy", "post"),
        ("/api/v1/deckies/plan", "post"),
        ("/api/v1/deckies/lifecycle", "get"),
        ("/api/v1/deckies/{name}/mutate", "post"),
        ("/api/v1/deckies/{name}/mutate-interval", "put"),
        ("/api/v1/deckies/{name}", "delete"),
        ("/api/v1/swarm/hosts", "get"),
    ] {
        ensure!(
            document["paths"][path][method].is_object(),
            "{method} {path} is not described"
        );
    }
    scene.end()
}

#[test]
fn each_invalid_description_is_refused_with_its_status_and_changes_nothing() -> Result<()> {
    let mut scene = Scene::unihost("api, invalid descriptions")?;
    scene.local()?;
    let text = |ini: &str| deploy_body(ini);
    let cases: Vec<(&str, String, u16)> = vec![
        ("no key", "{}".to_owned(), 400),
        (
            "an object for a text",
            json!({ "ini_content": {} }).to_string(),
            400,
        ),
        (
            "a key too many",
            json!({ "ini_content": "[a]\nservices=ssh", "force": true }).to_string(),
            400,
        ),
        ("empty", text(""), 409),
        ("white space", text("   \n\t"), 409),
        ("too large", text(&format!("[a]\n{}", "#".repeat(524_289))), 422),
        ("no section header", text("services=ssh"), 409),
        ("an unclosed header", text("[a\nservices=ssh"), 409),
        ("only DEFAULT", text("[DEFAULT]\nservices=ssh"), 409),
        ("only general", text("[general]\nnet=10.0.0.0/24"), 422),
        ("only a persona", text("[a.ssh]\npassword=x"), 422),
        ("amount 0", text("[a]\namount=0"), 409),
        ("amount 101", text("[a]\namount=101"), 409),
        ("an address for two", text("[a]\nip=10.0.0.9\namount=2"), 409),
        ("an interval with a unit", text("[a]\nmutate_interval=5m"), 409),
        ("a name with a space", text("[my host]\nservices=ssh"), 409),
        ("an unknown archetype", text("[a]\narchetype=toaster"), 409),
        ("an empty list item", text("[a]\nservices=ssh,"), 409),
        (
            "a comment after a value",
            text("[a]\nip=10.0.0.9 # web\nservices=ssh"),
            409,
        ),
        (
            "no address left",
            text("[general]\nnet=10.0.0.0/30\ngw=10.0.0.1\n[a]\namount=3\nservices=ssh"),
            409,
        ),
        // Refused here, beyond the twenty.
        ("no JSON", "[a]".to_owned() + "\nservices=ssh", 422),
        (
            "two of one address",
            text(
                "[general]\nnet=10.0.0.0/24\ngw=10.0.0.1\n[a]\nip=10.0.0.9\nservices=ssh\n[b]\nip=10.0.0.9\nservices=ssh",
            ),
            409,
        ),
        (
            "an address outside",
            text("[general]\nnet=10.0.0.0/24\ngw=10.0.0.1\n[a]\nip=10.0.1.9\nservices=ssh"),
            409,
        ),
        (
            "the gateway's address",
            text("[general]\nnet=10.0.0.0/24\ngw=10.0.0.1\n[a]\nip=10.0.0.1\nservices=ssh"),
            409,
        ),
        (
            "a service without a decoy",
            text("[general]\nnet=10.0.0.0/24\ngw=10.0.0.1\n[a]\nservices=sip"),
            409,
        ),
        ("a lone singleton", text("[a]\nservices=sniffer"), 409),
    ];
    let mut wrong = Vec::new();
    for (what, body, status) in &cases {
        let answer = ask(
            &scene.master,
            "POST",
            "/api/v1/deckies/deploy",
            Some(&scene.master.token),
            Some(body),
        )?;
        let detail = answer
            .json()
            .ok()
            .and_then(|body| body["detail"].as_str().map(str::to_owned))
            .unwrap_or_default();
        println!("{status} {what}: {detail}");
        if answer.status != *status || detail.is_empty() || detail.contains('\n') {
            wrong.push(format!(
                "{what}: expected {status} with a line of reason, got {} {}",
                answer.status, answer.body
            ));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} are wrong:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    ensure!(
        scene.operator.deckies()?.is_empty(),
        "a refused description changed the fleet"
    );
    ensure!(
        scene.operator.rows()?.is_empty(),
        "a refused description left a row"
    );
    scene.end()
}
