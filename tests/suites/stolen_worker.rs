//! Somebody has copied a worker's key and certificate, and tries with them whatever is not that worker's: all of it is
//! refused, the other host does not notice, and the audit log tells the operator.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use decnet_tests::command::{program, run, run_with};
use decnet_tests::engine;
use decnet_tests::lan::Lan;
use decnet_tests::processes::{Agent, tail};
use decnet_tests::scene::Scene;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// What came back; none where the connection was refused before there was an answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Who holds a copy of a worker's identity, on any machine that reaches the master.
struct Thief {
    folder: PathBuf,
    agent_api: String,
    enrolment: String,
    operator_api: String,
    host: String,
}

impl Thief {
    /// Copies the identity of an agent.
    fn of(agent: &Agent, host: &str, scene: &Scene) -> Result<Self> {
        let folder = scene.folder().join("thief");
        std::fs::create_dir(&folder)?;
        let identity: Value = serde_json::from_slice(&std::fs::read(agent.state_dir.join("identity.json"))?)?;
        for (member, file) in [("certificate", "host.crt"), ("key", "host.key")] {
            let text = identity[member].as_str().context("no identity")?;
            std::fs::write(folder.join(file), text)?;
        }
        std::fs::copy(scene.master.state_dir.join("keys/ca.crt"), folder.join("ca.crt"))?;
        let at = |port: u16| format!("https://127.0.0.1:{port}");
        Ok(Self {
            folder,
            agent_api: at(scene.master.agent_port),
            enrolment: at(scene.master.enrol_port),
            operator_api: at(scene.master.api_port),
            host: host.to_owned(),
        })
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Asks with the stolen certificate.
    fn ask(&self, method: &str, url: &str, body: Option<&[u8]>) -> Result<Answer> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--path-as-is", "--max-time", "30", "-X", method]);
        command.args(["--cacert", &self.file("ca.crt")]);
        command.args(["--cert", &self.file("host.crt"), "--key", &self.file("host.key")]);
        command.args(["-w", "\n%{http_code}"]);
        if body.is_some() {
            command.args(["-H", "Content-Type: application/json", "-H", "Expect:"]);
            command.args(["--data-binary", "@-"]);
        }
        command.arg(url);
        let finished = run_with(&mut command, body.unwrap_or_default(), LIMIT)?;
        // Whoever is refused while he still sends may get no further than that; the figures are printed all the same.
        let (body, status) = finished
            .stdout
            .rsplit_once('\n')
            .with_context(|| format!("curl printed no status: {}", finished.said()))?;
        Ok(Answer {
            status: status.trim().parse()?,
            body: body.to_owned(),
        })
    }

    fn get(&self, path: &str) -> Result<Answer> {
        self.ask("GET", &format!("{}{path}", self.agent_api), None)
    }

    fn report(&self, report: &Value) -> Result<Answer> {
        let url = format!("{}/agent/v1/report", self.agent_api);
        self.ask("POST", &url, Some(report.to_string().as_bytes()))
    }

    /// A certificate request for a key of the thief's, made by OpenSSL; for the stolen one where `key` names it.
    fn request(&self, key: &str) -> Result<String> {
        let path = self.file(key);
        if !self.folder.join(key).exists() {
            let make = [
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-out",
                &path,
            ];
            run(&mut program("openssl", &make), LIMIT)?.ok()?;
        }
        let ask = ["req", "-new", "-key", &path, "-subj", "/CN=worker"];
        run(&mut program("openssl", &ask), LIMIT)?.ok()
    }
}

/// A report that an agent could have sent, with these events.
fn report(events: &[Value]) -> Value {
    json!({
        "schema": 1,
        "heartbeat": {
            "agent_version": "9.9.9",
            "sent_at": "2026-01-01T00:00:00Z",
            "converged": true,
            "engine": "20.10",
        },
        "events": events,
    })
}

fn event(seq: u64, body: &Value) -> Value {
    json!({ "seq": seq, "at": "2026-01-01T00:00:00Z", "body": body })
}

/// Numbers beyond those that the agent has used so far.
fn fresh(nth: u64) -> Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())? + 1_000_000 + nth)
}

fn operation(row: &str, decky: &str, kind: &str, status: &str) -> Value {
    let mut outcome = json!({ "status": status });
    if status == "failed" {
        outcome["error"] = json!("burnt down");
    }
    json!({ "type": "operation", "id": row, "decky": decky, "kind": kind, "outcome": outcome })
}

/// What an enrolment token says.
fn token(text: &str) -> Result<Value> {
    let script = "import base64,sys; t=sys.argv[1].split('.',1)[1]; \
                  sys.stdout.buffer.write(base64.urlsafe_b64decode(t + '=' * (-len(t) % 4)))";
    let said = run(&mut program("python3", &["-c", script, text]), LIMIT)?.ok()?;
    Ok(serde_json::from_str(&said)?)
}

/// Everything that the master knows of a host and its deckies, but for when it was last heard.
fn known(scene: &Scene, host: &str) -> Result<Value> {
    let mut view = scene.operator.json(&["host", "show", host])?;
    if let Some(view) = view.as_object_mut() {
        view.remove("last_heartbeat");
        // It says nothing while it is held, and that alone may show.
        if view["status"] == "unreachable" {
            view["status"] = json!("active");
        }
    }
    let mut deckies = scene.operator.json(&["decky", "ls"])?;
    if let Some(deckies) = deckies.as_array_mut() {
        deckies.retain(|decky| decky["host_name"] == host);
        for decky in deckies {
            if let Some(decky) = decky.as_object_mut() {
                decky.remove("seen_at");
            }
        }
    }
    let rows = scene.operator.json(&["lifecycle", "ls", "--host", host])?;
    Ok(json!({ "host": view, "deckies": deckies, "rows": rows }))
}

/// The alarms in the audit log, as (action, who, about what).
fn alarms(scene: &Scene) -> Result<Vec<(String, String, String)>> {
    let page = scene
        .operator
        .json(&["audit", "--action", "alarm.", "--limit", "1000"])?;
    let entries = page["entries"].as_array().context("no entries")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(entries
        .iter()
        .map(|entry| {
            let who = match text(&entry["actor"]["name"]) {
                name if name.is_empty() => text(&entry["actor"]["kind"]),
                name => name,
            };
            (text(&entry["action"]), who, text(&entry["subject"]))
        })
        .collect())
}

#[test]
fn a_stolen_worker_reaches_nothing_that_is_not_its_own() -> Result<()> {
    let mut scene = Scene::swarm("stolen worker")?;
    let lans = (Lan::create(&scene.seed)?, Lan::create(&scene.seed)?);
    let (good, good_id) = scene.agent("good", &lans.0, None)?;
    let mut stolen = Agent::new(scene.folder(), "stolen");
    let (stolen_id, used_token) = scene.operator.enroll("stolen", Some(&lans.1), &[])?;
    scene.owns(&stolen_id);
    stolen.enrol(&used_token)?;
    stolen.start()?;
    for host in ["good", "stolen"] {
        scene.explained(scene.operator.active(host))?;
    }
    let name = format!("{}-a", scene.prefix);
    let text = format!(
        "{}\n[{name}]\narchetype = database-server\namount = 2\n",
        scene.lan.general()
    );
    let rows = scene.operator.deploy(&scene.describe("a.ini", &text)?, false)?;
    let rows = scene.explained(scene.operator.succeeded(&rows))?;
    let row_of = |host: &str| rows.iter().find(|row| row.host_uuid.as_deref() == Some(host));
    let (theirs, own) = row_of(&good_id)
        .zip(row_of(&stolen_id))
        .context("a host has no decky")?;
    let (theirs, own) = (theirs.clone(), own.clone());
    // The stolen worker's decky goes: its bundle names no image any more, and the other one's does.
    scene.operator.remove(&[&own.decky_name])?;
    scene.explained(scene.operator.settled("stolen"))?;

    stolen.stop()?;
    scene.expects_alarms()?;
    let thief = Thief::of(&stolen, &stolen_id, &scene)?;
    let outcome = good.frozen(|| {
        // An operation of the other host is open while all this happens.
        let open = scene.operator.mutate(&theirs.decky_name)?;
        let before = known(&scene, "good")?;
        ensure!(before["rows"]["rows"][0]["status"] == "pending", "{before:#}");
        bundles(&thief, &good_id)?;
        blobs(&thief, &scene)?;
        for row in [&theirs.id, &open] {
            reports(&thief, row, &theirs.decky_name, &own.id, &own.decky_name)?;
        }
        malformed(&thief, &own.id, &own.decky_name)?;
        certificates(&thief, &scene, &good_id, &used_token)?;
        others(&thief)?;
        let after = known(&scene, "good")?;
        ensure!(before == after, "before: {before:#}\nafter: {after:#}");
        Ok(open)
    });
    let open =
        outcome.with_context(|| format!("the master's log ends with:\n{}", tail(&scene.master.log)))?;

    // Once the worker is revoked, the copy of its key is worth nothing.
    scene.operator.json(&["host", "revoke", "stolen"])?;
    for path in ["/agent/v1/bundle?after=0", "/agent/v1/trust-root/1"] {
        let answer = thief.get(path)?;
        ensure!(answer.status == 403, "{path}: {answer:?}");
    }
    let answer = thief.report(&report(&[]))?;
    ensure!(answer.status == 403, "{answer:?}");

    let told = alarms(&scene)?;
    for (action, who, subject) in [
        ("alarm.foreign_report", "stolen", "host/stolen"),
        ("alarm.event_number", "stolen", "host/stolen"),
        ("alarm.token_reuse", "stranger", "host/stolen"),
        ("alarm.foreign_token", "stolen", "host/third"),
        ("alarm.renewal_refused", "stranger", "host/good"),
        ("alarm.renewal_refused", "stolen", "host/stolen"),
        ("alarm.revoked_host", "stolen", "host/stolen"),
    ] {
        ensure!(
            told.iter()
                .any(|(a, w, s)| a == action && w == who && s == subject),
            "no {action} of {who} about {subject} in {told:#?}"
        );
    }
    // Some forty tries are a handful of entries.
    ensure!(told.len() <= 12, "{told:#?}");
    scene.operator.command(&["audit", "--verify"])?.ok()?;

    // The other host goes on as if nothing had been.
    scene.explained(scene.operator.succeeded(&[open]))?;
    engine::purge(&stolen_id)?;
    let ended = scene.end();
    drop((good, stolen, lans));
    ended
}

/// Another host's bundle, wherever a host can be named.
fn bundles(thief: &Thief, other: &str) -> Result<()> {
    for path in [
        "/agent/v1/bundle?after=0".to_owned(),
        format!("/agent/v1/bundle?after=0&host={other}"),
        format!("/agent/v1/bundle?host={other}&host_id={other}&after=0"),
    ] {
        let answer = thief.get(&path)?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
        let payload = answer.json()["payload"]
            .as_str()
            .context("no envelope")?
            .to_owned();
        let script = "import base64,sys; sys.stdout.buffer.write(base64.b64decode(sys.stdin.read()))";
        let decoded = run_with(
            &mut program("python3", &["-c", script]),
            payload.as_bytes(),
            LIMIT,
        )?
        .ok()?;
        let bundle: Value = serde_json::from_str(&decoded)?;
        ensure!(
            bundle["host"] == thief.host.as_str(),
            "{path} gives the bundle of {}",
            bundle["host"]
        );
        ensure!(
            !decoded.contains(other),
            "{path}: its bundle names the other host"
        );
    }
    for path in [
        format!("/agent/v1/bundle/{other}"),
        format!("/agent/v1/hosts/{other}/bundle"),
        format!("/agent/v1/{other}/bundle?after=0"),
        format!("/agent/v1/trust-root/{other}"),
        "/agent/v1/trust-root/999".to_owned(),
        "/agent/v1/trust-root/../../keys/operator.pem".to_owned(),
        "/agent/v1/trust-root/..%2f..%2foperator.pem".to_owned(),
        "/api/v1/deckies".to_owned(),
    ] {
        let answer = thief.get(&path)?;
        ensure!(answer.status == 404, "{path}: {answer:?}");
    }
    Ok(())
}

/// The image that the other host's bundle names, and files that are no blobs.
fn blobs(thief: &Thief, scene: &Scene) -> Result<()> {
    let mut tried = 0;
    for entry in std::fs::read_dir(scene.master.state_dir.join("blobs"))? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.len() != 64 {
            continue;
        }
        let answer = thief.get(&format!("/agent/v1/blobs/sha256/{name}"))?;
        ensure!(answer.status == 404, "the blob {name}: {}", answer.status);
        tried += 1;
    }
    ensure!(tried > 0, "the master has no blob that could be asked for");
    for path in [
        "../../store.redb",
        "..%2f..%2fkeys%2fonline.pem",
        "../../keys/ca.key",
        "",
        "0000000000000000000000000000000000000000000000000000000000000000",
    ] {
        let answer = thief.get(&format!("/agent/v1/blobs/sha256/{path}"))?;
        ensure!(answer.status == 404, "{path}: {}", answer.status);
    }
    Ok(())
}

/// Reports about another host's decky, in every way that one can be named.
fn reports(thief: &Thief, their_row: &str, their_decky: &str, own_row: &str, own_decky: &str) -> Result<()> {
    let mut nth = 0;
    let mut refused = |body: Value, with: Option<Value>| -> Result<()> {
        nth += 1;
        let mut events: Vec<Value> = with
            .iter()
            .map(|body| event(fresh(nth * 10).unwrap_or(0), body))
            .collect();
        events.push(event(fresh(nth * 10 + 1)?, &body));
        let answer = thief.report(&report(&events))?;
        ensure!(answer.status == 403, "{body}: {answer:?}");
        ensure!(!answer.body.contains("acked"), "{answer:?}");
        Ok(())
    };
    for status in ["running", "succeeded", "failed"] {
        for kind in ["deploy", "mutate", "teardown"] {
            refused(operation(their_row, their_decky, kind, status), None)?;
        }
        refused(operation(their_row, own_decky, "deploy", status), None)?;
        // Its own operation, about the other's decky.
        refused(operation(own_row, their_decky, "deploy", status), None)?;
    }
    let own = operation(own_row, own_decky, "deploy", "succeeded");
    refused(operation(their_row, their_decky, "deploy", "failed"), Some(own))?;

    // What is said of the other's decky beside operations is taken and not heard.
    let drift = json!({ "type": "drift", "decky": their_decky, "detail": "it is gone" });
    let mut claims = report(&[event(fresh(1000)?, &drift)]);
    claims["heartbeat"]["converged"] = json!(false);
    claims["heartbeat"]["pending"] = json!([{
        "stack": format!("decnet-{their_decky}"), "decky": their_decky, "reason": "burnt", "tries": 9,
        "quarantined": true,
    }]);
    let answer = thief.report(&claims)?;
    ensure!(answer.status == 200, "{answer:?}");
    // A host cannot be named but by its certificate.
    for member in ["host", "host_id"] {
        let mut named = report(&[]);
        named[member] = json!(thief.host);
        let answer = thief.report(&named)?;
        ensure!(answer.status == 422, "{member}: {answer:?}");
    }
    Ok(())
}

/// Reports that no agent sends.
fn malformed(thief: &Thief, own_row: &str, own_decky: &str) -> Result<()> {
    let url = format!("{}/agent/v1/report", thief.agent_api);
    let large = vec![b' '; 17 * 1024 * 1024];
    let answer = thief.ask("POST", &url, Some(&large))?;
    ensure!(answer.status == 413, "17 MiB: {answer:?}");
    let whole = report(&[]).to_string();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for bytes in [
        &b""[..],
        b"null",
        b"\xff\xfe\x00",
        &whole.as_bytes()[..whole.len() / 2],
        deep.as_bytes(),
    ] {
        let answer = thief.ask("POST", &url, Some(bytes))?;
        ensure!(answer.status == 422, "{} bytes: {answer:?}", bytes.len());
    }
    let mut newer = report(&[]);
    newer["schema"] = json!(2);
    ensure!(thief.report(&newer)?.status == 422, "another schema is taken");
    let drift = json!({ "type": "drift", "decky": own_decky, "detail": "x" });
    let many: Vec<Value> = (0..4097).map(|n| event(n + 1, &drift)).collect();
    ensure!(
        thief.report(&report(&many))?.status == 422,
        "4097 events are taken"
    );

    // Numbers of the future would silence the rightful agent for ever; those of the past are known.
    let own = operation(own_row, own_decky, "deploy", "failed");
    for seq in [u64::MAX, u64::MAX - 1, u64::MAX / 2, 1 << 60, 1 << 50] {
        let answer = thief.report(&report(&[event(seq, &own)]))?;
        ensure!(answer.status == 422, "{seq}: {answer:?}");
    }
    let acked = thief.report(&report(&[]))?.json()["acked"].clone();
    for seq in [0, 1, 1000] {
        let answer = thief.report(&report(&[event(seq, &own)]))?;
        ensure!(
            answer.status == 200 && answer.json()["acked"] == acked,
            "{seq}: {answer:?}"
        );
    }
    Ok(())
}

/// Enrolment tokens and certificates of others.
fn certificates(thief: &Thief, scene: &Scene, good: &str, used: &str) -> Result<()> {
    let enrol = |host: &Value, secret: &Value, csr: &str| -> Result<u16> {
        let body = json!({
            "schema": 1, "host": host, "secret": secret, "csr": csr, "agent_version": "9.9.9",
        });
        let url = format!("{}/enroll/v1", thief.enrolment);
        Ok(thief.ask("POST", &url, Some(body.to_string().as_bytes()))?.status)
    };
    let (own, other) = (thief.request("host.key")?, thief.request("other.key")?);
    let used = token(used)?;
    let status = enrol(&used["host"], &used["secret"], &other)?;
    ensure!(status == 403, "a used token with another key: {status}");
    for csr in [&own, &other] {
        let status = enrol(&json!(good), &used["secret"], csr)?;
        ensure!(
            status == 403,
            "another host's name with this one's token: {status}"
        );
    }
    let (third, fresh) = scene.operator.enroll("third", None, &[])?;
    let fresh = token(&fresh)?;
    let status = enrol(&fresh["host"], &fresh["secret"], &own)?;
    ensure!(status == 403, "another's token with its own key: {status}");
    ensure!(
        scene.operator.hosts()?["third"].status == "invited",
        "the host {third} is enrolled"
    );

    let post = |url: String, body: Value| thief.ask("POST", &url, Some(body.to_string().as_bytes()));
    let renew = || format!("{}/agent/v1/renew", thief.agent_api);
    let rejoin = || format!("{}/enroll/v1/rejoin", thief.enrolment);
    for csr in [&own, &other] {
        let answer = post(rejoin(), json!({ "schema": 1, "host": good, "csr": csr }))?;
        ensure!(answer.status == 403, "to come back as another host: {answer:?}");
    }
    let named = json!({ "schema": 1, "host": good, "csr": other });
    let answer = post(renew(), named)?;
    ensure!(answer.status == 422, "a renewal for another host: {answer:?}");
    let again = json!({ "schema": 1, "csr": own });
    let answer = post(renew(), again)?;
    ensure!(answer.status == 422, "a renewal for the same key: {answer:?}");
    Ok(())
}

/// A host's certificate is nobody to operators, and another CA's is nobody to the master.
fn others(thief: &Thief) -> Result<()> {
    for (method, path) in [
        ("GET", "/api/v1/deckies"),
        ("GET", "/api/v1/audit"),
        ("GET", "/api/v1/swarm/hosts"),
        ("POST", "/api/v1/tokens"),
    ] {
        let answer = thief.ask(method, &format!("{}{path}", thief.operator_api), None)?;
        ensure!(answer.status == 401, "{path}: {answer:?}");
    }
    // The same key under a certificate of its own making.
    let (key, certificate) = (thief.file("host.key"), thief.file("made.crt"));
    let make = [
        "req",
        "-x509",
        "-key",
        &key,
        "-subj",
        "/CN=worker",
        "-out",
        &certificate,
    ];
    run(&mut program("openssl", &make), LIMIT)?.ok()?;
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "30", "--cacert", &thief.file("ca.crt")]);
    command.args(["--cert", &certificate, "--key", &key]);
    command.arg(format!("{}/agent/v1/bundle?after=0", thief.agent_api));
    let finished = run(&mut command, LIMIT)?;
    ensure!(
        !finished.status.success() && finished.stdout.is_empty(),
        "a certificate of its own making: {}",
        finished.said()
    );
    Ok(())
}
