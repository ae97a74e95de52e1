//! The command line against a master in this process, over a Unix socket and over TLS.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::CommandFactory as _;
use decnet_pki::ServerName;
use decnet_pki::tls;
use decnet_wire::ids::{DeckyName, HostId, Timestamp};
use decnet_wire::report::{self, Event, EventBody, Heartbeat, Outcome, Report};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Cli, Command, Console, parse, run};
use crate::init;
use crate::serve::listen;
use crate::serve::operator::for_peer;
use crate::serve::operator::testing::{FLEET, Master};

/// A master that listens in a temporary folder.
struct Running {
    master: Master,
    socket: PathBuf,
    tls: std::net::SocketAddr,
    end: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Running {
    async fn start() -> Self {
        let master = Master::new();
        let socket = master.folder.path().join("master.sock");
        let end = CancellationToken::new();
        let (over_socket, over_tls) = (master.router.clone(), master.router.clone());
        let unix = listen::bind_unix(&socket).await.unwrap();
        tokio::spawn(listen::serve_unix(unix, end.clone(), move |remote| {
            TowerToHyperService::new(for_peer(over_socket.clone(), &remote))
        }));
        let tcp = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let tls = tcp.local_addr().unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let lifetime = time::Duration::days(1);
        let ca = &master.control.keys().ca;
        let (leaf, key) = ca.issue_server(&[name], time::OffsetDateTime::now_utc(), lifetime).unwrap();
        let config = tls::server_config(&leaf, &key).unwrap();
        tokio::spawn(listen::serve_tls(tcp, config, end.clone(), move |remote| {
            TowerToHyperService::new(for_peer(over_tls.clone(), &remote))
        }));
        Self { master, socket, tls, end }
    }

    /// Runs a command over the socket.
    async fn decnet(&self, args: &[&str]) -> Output {
        self.decnet_with(args, "").await
    }

    async fn decnet_with(&self, args: &[&str], input: &str) -> Output {
        let socket = self.socket.to_str().unwrap();
        decnet(&[args, &["--socket", socket]].concat(), input).await
    }

    /// Writes a file into the folder and gives out its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.master.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Speaks as an agent would: every open operation of the host ends so.
    async fn end_all(&self, host: HostId, seq: &mut u64, outcome: &dyn Fn(&DeckyName) -> Outcome) {
        let filter = crate::control::rows::RowFilter { open: true, host: Some(host), limit: 1000 };
        let rows = self.master.control.list_rows(filter).unwrap();
        let at = Timestamp::new(time::OffsetDateTime::now_utc());
        let events = rows.into_iter().map(|row| {
            *seq += 1;
            let outcome = outcome(&row.decky);
            let body = EventBody::Operation { id: row.id, decky: row.decky, kind: row.operation, outcome };
            Event { seq: *seq, at, body }
        });
        let heartbeat = Heartbeat {
            agent_version: "test".to_owned(),
            sent_at: at,
            accepted: None,
            converged: false,
            reason: None,
            engine: Some("20.10".to_owned()),
        };
        let report = Report { schema: report::SCHEMA, heartbeat, observed: None, events: events.collect() };
        let control = Arc::clone(&self.master.control);
        tokio::task::spawn_blocking(move || control.ingest(host, &report)).await.unwrap().unwrap();
    }
}

/// What a command printed.
#[derive(Debug)]
struct Output {
    code: u8,
    out: String,
    err: String,
}

impl Output {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Succeeded, and printed nothing of what went wrong.
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Failed with this code, with lines that say so, and nothing else on the standard output.
    #[track_caller]
    fn failed(self, code: u8) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.err.is_empty(), "{self:?}");
        for line in self.err.lines() {
            assert!(line.starts_with("decnet: "), "{self:?}");
        }
        self
    }
}

async fn decnet(args: &[&str], input: &str) -> Output {
    let args = [&["decnet"], args].concat();
    let Command::Admin(command) = parse(args.iter().copied()).unwrap().command else { panic!("no admin command") };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input = input.as_bytes();
    let mut console = Console { input: &mut input, out: &mut out, err: &mut err, terminal: false, json: false };
    let code = run(&command, &mut console).await;
    Output { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

// The definition.

#[test]
fn the_definition_is_sound_and_every_command_has_examples() {
    Cli::command().debug_assert();
    let mut root = Cli::command();
    root.build();
    let mut checked = 0;
    let mut open: Vec<clap::Command> = root.get_subcommands().cloned().collect();
    while let Some(command) = open.pop() {
        if command.get_name() == "help" {
            continue;
        }
        let subs: Vec<clap::Command> = command.get_subcommands().cloned().collect();
        if subs.is_empty() {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Examples:"), "{} has no examples", command.get_name());
            assert!(help.contains(&format!("decnet {}", command.get_name())) || help.contains(command.get_name()));
            checked += 1;
        }
        open.extend(subs);
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn help_has_the_exit_codes() {
    let help = Cli::command().render_long_help().to_string();
    for code in ["0  done", "1  the operation failed", "3  the master is not reachable", "5  no permission"] {
        assert!(help.contains(code), "{help}");
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for args in [
        vec!["decnet"],
        vec!["decnet", "deploy"],
        vec!["decnet", "nonsense"],
        vec!["decnet", "decky", "show", "Not_A_Name"],
        vec!["decnet", "decky", "rm"],
        vec!["decnet", "decky", "rm", "web", "--all"],
        vec!["decnet", "host", "enroll", "a", "--subnet", "10.0.0.0/24"],
        vec!["decnet", "host", "enroll", "a", "--ttl", "2h"],
        vec!["decnet", "system", "limit", "501"],
        vec!["decnet", "token", "create", "x", "--role", "root"],
        vec!["decnet", "lifecycle", "show", "nonsense"],
    ] {
        assert_eq!(parse(args.clone()).unwrap_err().exit_code(), 2, "{args:?}");
    }
}

#[test]
fn the_token_is_not_shown_in_help() {
    let mut root = Cli::command();
    root.build();
    let help = root.find_subcommand_mut("status").unwrap().render_long_help().to_string();
    assert!(!help.contains("--token "), "{help}");
    assert!(help.contains("--token-file") && help.contains("DECNET_TOKEN"), "{help}");
}

// Reaching the master.

#[tokio::test]
async fn a_master_that_is_not_there_is_exit_3() {
    let output = decnet(&["status", "--socket", "/nonexistent/master.sock"], "").await.failed(3);
    assert!(output.err.contains("/nonexistent/master.sock") && output.err.contains("decnet serve"), "{output:?}");
    let folder = tempfile::tempdir().unwrap();
    let dead = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    decnet(&["status", "--socket", dead.to_str().unwrap()], "").await.failed(3);
}

#[tokio::test]
async fn over_https_the_ca_is_checked_and_the_token_gives_the_role() {
    let running = Running::start().await;
    let server = format!("https://localhost:{}", running.tls.port());
    let ca = init::keys_path(&running.master.folder.path().join("master")).join("ca.crt");
    let ca = ca.to_str().unwrap();
    let admin = running.file("admin", &format!("{}\n", running.master.admin));
    let viewer = running.file("viewer", &running.master.viewer);
    let at = ["--server", &server, "--ca", ca];
    let with = |token| [at.as_slice(), &["--token-file", token]].concat();

    let output = decnet(&[&["system", "mode"], with(&viewer).as_slice()].concat(), "").await.ok();
    assert_eq!(output.out, "unihost (0 enrolled hosts)\n");
    decnet(&[&["host", "ls"], with(&admin).as_slice()].concat(), "").await.ok();

    let denied = decnet(&[&["host", "ls"], with(&viewer).as_slice()].concat(), "").await.failed(5);
    assert!(denied.err.contains("admin"), "{denied:?}");
    let denied = decnet(&[&["status"], at.as_slice()].concat(), "").await.failed(5);
    assert!(denied.err.contains("--token-file"), "{denied:?}");
    let wrong = running.file("wrong", "decnet_nonsense");
    decnet(&[&["status"], with(&wrong).as_slice()].concat(), "").await.failed(5);
    // A viewer's status is without the hosts.
    let output = decnet(&[&["status"], with(&viewer).as_slice()].concat(), "").await.ok();
    assert!(output.out.contains("shown to admins only"), "{output:?}");

    // Somebody else's CA.
    let other = Master::new();
    let foreign = init::keys_path(&other.folder.path().join("master")).join("ca.crt");
    let args = ["status", "--server", &server, "--ca", foreign.to_str().unwrap(), "--token-file", &admin];
    let output = decnet(&args, "").await.failed(3);
    assert!(output.err.contains("--ca"), "{output:?}");
    // Another name than the certificate's.
    let by_address = format!("https://127.0.0.1:{}", running.tls.port());
    decnet(&["status", "--server", &by_address, "--ca", ca, "--token-file", &admin], "").await.failed(3);

    decnet(&["status", "--server", &server], "").await.failed(2);
    decnet(&["status", "--server", &server, "--ca", "/nonexistent"], "").await.failed(2);
    decnet(&["status", "--server", &server, "--ca", &admin], "").await.failed(2);
}

// Deploying.

#[tokio::test]
async fn a_refused_description_is_exit_4_with_every_reason_in_a_line() {
    let running = Running::start().await;
    running.master.enrol("edge-01");
    let bad = running.file("bad.ini", "[a]\nservices = nonsense\n[b]\narchetype = toaster\n");
    for command in ["deploy", "plan"] {
        let output = running.decnet(&[command, &bad]).await.failed(4);
        assert!(output.err.lines().count() >= 2, "{output:?}");
        assert!(output.err.contains("nonsense") && output.err.contains("toaster"), "{output:?}");
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
    let json = running.decnet_with(&["plan", "-", "--json"], FLEET).await.ok().json();
    assert_eq!(json["hosts"][0]["host_name"], "edge-01");
    assert_eq!(running.decnet(&["decky", "ls", "--json"]).await.ok().json(), serde_json::json!([]));

    let output = running.decnet_with(&["deploy", "-"], FLEET).await.ok();
    assert!(output.out.starts_with("accepted: 2 operations (swarm)\n"), "{output:?}");
    let output = running.decnet(&["decky", "ls"]).await.ok();
    assert!(output.out.contains("web") && output.out.contains("pending"), "{output:?}");
    let again = running.decnet_with(&["deploy", "-"], FLEET).await.failed(4);
    assert_eq!(again.out, "");
    let output = running.decnet_with(&["deploy", "-", "--replace", "--json"], FLEET).await.ok();
    assert_eq!(output.json()["lifecycle_ids"].as_array().unwrap().len(), 2);
}

/// Runs a command while an agent's words come in, until the command ends.
async fn while_agent(
    running: &Running,
    host: HostId,
    args: &[&str],
    input: &str,
    outcome: impl Fn(&DeckyName) -> Outcome,
) -> Output {
    static SEQUENCE: Mutex<u64> = Mutex::new(0);
    let agent = async {
        loop {
            let mut seq = *SEQUENCE.lock().unwrap_or_else(PoisonError::into_inner);
            running.end_all(host, &mut seq, &outcome).await;
            *SEQUENCE.lock().unwrap_or_else(PoisonError::into_inner) = seq;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        output = running.decnet_with(args, input) => output,
        () = agent => unreachable!("the agent does not end"),
    }
}

#[tokio::test]
async fn deploy_with_wait_ends_when_every_operation_has_and_tells_whether_all_succeeded() {
    let running = Running::start().await;
    let host = running.master.enrol("edge-01");
    let good = |_: &DeckyName| Outcome::Succeeded;
    let output = while_agent(&running, host, &["deploy", "-", "--wait"], FLEET, good).await.ok();
    assert!(output.out.ends_with("2 succeeded\n"), "{output:?}");
    assert!(!output.out.contains('\x1b'), "{output:?}");

    let bad = |decky: &DeckyName| {
        if decky.as_str() == "web" {
            Outcome::Failed { error: "no space left\x1b[2J".to_owned() }
        } else {
            Outcome::Succeeded
        }
    };
    let args = ["deploy", "-", "--replace", "--wait"];
    let output = while_agent(&running, host, &args, FLEET, bad).await.failed(1);
    assert!(output.out.ends_with("1 succeeded, 1 failed\n"), "{output:?}");
    assert!(output.err.contains("the deploy of web failed: no space left"), "{output:?}");
    assert!(!format!("{}{}", output.out, output.err).contains('\x1b'), "{output:?}");

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
        let connection = super::client::Connection {
            socket: Some(running.socket.clone()),
            server: None,
            ca: None,
            token_file: None,
            token: None,
            json: false,
        };
        let client = super::client::Client::new(&connection).unwrap();
        streams.push(client.events().await.unwrap());
    }
    let good = |_: &DeckyName| Outcome::Succeeded;
    while_agent(&running, host, &["deploy", "-", "--wait"], FLEET, good).await.ok();
}

// Deckies, hosts, operations, the master.

#[tokio::test]
async fn deckies_are_shown_mutated_and_removed() {
    let running = Running::start().await;
    let host = running.master.enrol("edge-01");
    let good = |_: &DeckyName| Outcome::Succeeded;
    while_agent(&running, host, &["deploy", "-", "--wait"], FLEET, good).await.ok();

    let output = running.decnet(&["decky", "show", "web"]).await.ok();
    assert!(output.out.contains("edge-01") && output.out.contains("ssh"), "{output:?}");
    running.decnet(&["decky", "show", "nobody"]).await.failed(4);
    let output = while_agent(&running, host, &["decky", "mutate", "web", "--wait"], "", good).await.ok();
    assert!(output.out.contains("web  mutate  succeeded"), "{output:?}");
    running.decnet(&["decky", "mutate", "nobody"]).await.failed(4);

    let output = running.decnet(&["decky", "interval", "web", "12d"]).await.ok();
    assert_eq!(output.out, "web mutates: 17280m\n");
    running.decnet(&["decky", "interval", "web", "soon"]).await.failed(4);

    let output = running.decnet(&["decky", "rm", "web", "--json"]).await.ok();
    let id = output.json()["lifecycle_ids"][0].as_str().unwrap().to_owned();
    let output = while_agent(&running, host, &["lifecycle", "watch", &id], "", good).await.ok();
    assert!(output.out.contains("web  teardown  succeeded"), "{output:?}");
    let output = while_agent(&running, host, &["decky", "rm", "--all", "--wait"], "", good).await.ok();
    assert!(output.out.contains("printer  teardown"), "{output:?}");
}

#[tokio::test]
async fn hosts_are_invited_and_shown_by_name_and_id() {
    let running = Running::start().await;
    let output = running.decnet(&["host", "enroll", "edge-09", "--ipvlan", "--ttl", "90s"]).await.ok();
    assert!(output.out.starts_with("decnet-agent enroll decnet1."), "{output:?}");
    assert_eq!(output.out.lines().count(), 1, "{output:?}");
    let id = running.master.enrol("edge-01");
    running.decnet(&["host", "enroll", "edge-01"]).await.failed(4);
    let output = running.decnet(&["host", "ls"]).await.ok();
    assert!(output.out.contains("edge-09") && output.out.contains("invited"), "{output:?}");
    for name in ["edge-01", &id.to_string()] {
        assert_eq!(running.decnet(&["host", "show", name, "--json"]).await.ok().json()["name"], "edge-01");
    }
    running.decnet(&["host", "show", "edge-77"]).await.failed(4);
}

#[tokio::test]
async fn operations_are_listed_shown_and_streamed() {
    let running = Running::start().await;
    running.master.enrol("edge-01");
    let output = running.decnet_with(&["deploy", "-", "--json"], FLEET).await.ok();
    let id = output.json()["lifecycle_ids"][0].as_str().unwrap().to_owned();
    let output = running.decnet(&["lifecycle", "ls", "--open", "--host", "edge-01"]).await.ok();
    assert!(output.out.contains(&id) && output.out.contains("edge-01"), "{output:?}");
    let output = running.decnet(&["lifecycle", "show", &id]).await.ok();
    assert!(output.out.contains("pending"), "{output:?}");
    let unknown = "0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11";
    running.decnet(&["lifecycle", "show", unknown]).await.failed(4);
    running.decnet(&["lifecycle", "watch", unknown]).await.failed(4);

    // Printed as it comes; ends, as not reachable, when the master goes.
    let lines = Lines::default();
    let (mut out, mut err) = (lines.clone(), Vec::new());
    let socket = running.socket.to_str().unwrap();
    let args = ["decnet", "lifecycle", "watch", "--json", "--socket", socket];
    let Command::Admin(command) = parse(args).unwrap().command else { panic!() };
    let mut console =
        Console { input: &mut std::io::empty(), out: &mut out, err: &mut err, terminal: false, json: false };
    let watched = async {
        while lines.text().is_empty() {
            running.decnet(&["decky", "mutate", "web"]).await.ok();
        }
    };
    tokio::select! {
        code = run(&command, &mut console) => panic!("ended with {code}"),
        () = watched => {}
    }
    let text = lines.text();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&first["decky_name"], &first["operation"].is_string()), (&Value::from("web"), &true));
}

/// An output that can be read while it is written.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn status_health_limit_token_and_catalogue() {
    let running = Running::start().await;
    running.master.enrol("edge-01");
    let output = running.decnet(&["status"]).await.ok();
    assert!(output.out.contains("swarm (1 enrolled host)"), "{output:?}");
    let json = running.decnet(&["status", "--json"]).await.ok().json();
    assert_eq!(json["hosts"][0]["name"], "edge-01");
    let output = running.decnet(&["system", "health"]).await.ok();
    assert!(output.out.starts_with("degraded\n"), "{output:?}");
    assert_eq!(running.decnet(&["system", "limit"]).await.ok().out, "10\n");
    running.decnet(&["system", "limit", "50"]).await.ok();
    assert_eq!(running.decnet(&["system", "limit", "--json"]).await.ok().json()["deployment_limit"], 50);
    let output = running.decnet(&["token", "create", "dash", "--role", "viewer"]).await.ok();
    let token = output.out.trim().to_owned();
    assert!(token.starts_with("decnet_"), "{output:?}");
    let file = running.file("dash", &token);
    running.decnet(&["host", "ls", "--token-file", &file]).await.failed(5);
    assert!(running.decnet(&["services"]).await.ok().out.contains("ssh"));
    assert!(running.decnet(&["archetypes"]).await.ok().out.contains("web-server"));
    assert!(running.decnet(&["distros"]).await.ok().out.contains("debian"));
}
