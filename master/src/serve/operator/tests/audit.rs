//! The audit log: every change, by whom, once.

use axum::body::Body;
use decnet_pki::digest::Sha256Digest;
use decnet_pki::envelope::Envelope;
use decnet_wire::ids::{Digest, Timestamp};
use decnet_wire::order::{self, Decommission, Nonce};
use decnet_wire::policy::{self, Policy};
use decnet_wire::release;
use hyper::Method;
use serde_json::{Value, json};

use super::{TLS, deploy, documented_routes, request};
use crate::audit::Chain;
use crate::serve::operator::Peer;
use crate::serve::operator::testing::{FLEET, Master};
use crate::serve::operator::tests::trust::{draft, operator, signed};

/// What came into the log after the entry of this number.
async fn since(master: &Master, after: u64) -> Vec<Value> {
    let answer = master
        .ask(Method::GET, &format!("/audit?after={after}&limit=1000"), None)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["entries"].as_array().unwrap().clone()
}

async fn head(master: &Master) -> u64 {
    let page = master.ask(Method::GET, "/audit?limit=1", None).await.json();
    page["head"]["seq"].as_u64().unwrap()
}

/// A request that changes something, and the entry that it leaves.
struct Case {
    method: Method,
    /// As the document has it.
    route: &'static str,
    path: String,
    body: Option<Value>,
    action: &'static str,
    subject: &'static str,
}

fn case(
    method: Method,
    route: &'static str,
    fill: &str,
    body: Option<Value>,
    entry: (&'static str, &'static str),
) -> Case {
    Case {
        method,
        route,
        path: route.replace("{name}", fill).replace("{uuid}", fill),
        body,
        action: entry.0,
        subject: entry.1,
    }
}

/// One of every route, in an order in which each has something to change.
async fn every_change(master: &Master) -> Vec<Case> {
    let host = master.enrol("edge-01");
    master.control.await_host(host);
    let order = Decommission {
        schema: order::SCHEMA,
        fleet: master.control.fleet_id(),
        host,
        nonce: Nonce::from_random([7; 16]),
        issued_at: Timestamp::new(time::OffsetDateTime::now_utc()),
    };
    let order = serde_json::to_vec(&order).unwrap();
    let order = Envelope::sign(order::DECOMMISSION_TYPE, order, &[&operator(master)]).to_json();
    let order: Value = serde_json::from_slice(&order).unwrap();
    let host = host.to_string();
    let (waiting, fingerprint) = master.waiting("edge-03");
    let root = signed(&draft(master, json!({"online": true})).await, &operator(master));
    let now = time::OffsetDateTime::now_utc();
    let policy = Policy {
        schema: policy::SCHEMA,
        fleet: master.control.fleet_id(),
        version: 1,
        issued_at: Timestamp::new(now),
        expires_at: Timestamp::new(now + time::Duration::days(1)),
        hosts: None,
        rules: policy::Rules::default(),
    };
    let policy = serde_json::to_vec(&policy).unwrap();
    let policy = Envelope::sign(policy::PAYLOAD_TYPE, policy, &[&operator(master)]).to_json();
    let policy = serde_json::from_slice(&policy).unwrap();
    let release = release(master);
    let (post, put) = (Method::POST, Method::PUT);
    let entry = |action, subject| (action, subject);
    vec![
        case(
            post.clone(),
            "/deckies/deploy",
            "",
            deploy(FLEET),
            entry("decky.deploy", "fleet"),
        ),
        case(
            post.clone(),
            "/deckies/{name}/mutate",
            "web",
            None,
            entry("decky.mutate", "decky/web"),
        ),
        case(
            put.clone(),
            "/deckies/{name}/mutate-interval",
            "web",
            Some(json!({"mutate_interval": "30m"})),
            entry("decky.interval", "decky/web"),
        ),
        case(
            Method::DELETE,
            "/deckies/{name}",
            "printer",
            None,
            entry("decky.remove", "decky/printer"),
        ),
        case(
            post.clone(),
            "/swarm/hosts/enroll",
            "",
            Some(json!({"name": "edge-02"})),
            entry("host.invite", "host/edge-02"),
        ),
        case(
            put.clone(),
            "/swarm/hosts/{uuid}/network",
            &host,
            Some(json!({"ipvlan": true})),
            entry("host.network", "host/edge-01"),
        ),
        case(
            post.clone(),
            "/swarm/hosts/{uuid}/approve",
            &waiting.to_string(),
            Some(json!({ "fingerprint": fingerprint })),
            entry("host.approve", "host/edge-03"),
        ),
        case(
            post.clone(),
            "/swarm/hosts/{uuid}/accept-loss",
            &host,
            None,
            entry("host.accept_loss", "host/edge-01"),
        ),
        case(
            post.clone(),
            "/swarm/hosts/{uuid}/teardown",
            &host,
            Some(json!({})),
            entry("host.teardown", "host/edge-01"),
        ),
        case(
            post.clone(),
            "/swarm/hosts/{uuid}/revoke",
            &host,
            None,
            entry("host.revoke", "host/edge-01"),
        ),
        case(
            Method::DELETE,
            "/swarm/hosts/{uuid}",
            &host,
            Some(json!({ "order": order })),
            entry("host.decommission", "host/edge-01"),
        ),
        case(
            post.clone(),
            "/swarm/releases",
            "",
            Some(release),
            entry("release.sign", "release/1"),
        ),
        case(
            put.clone(),
            "/swarm/rollout",
            "",
            Some(json!({"action": "advance", "sequence": 1, "per_mille": 1000})),
            entry("release.rollout", "release/1"),
        ),
        case(post.clone(), "/backup", "", None, entry("fleet.backup", "fleet")),
        case(
            put,
            "/config/deployment-limit",
            "",
            Some(json!({"deployment_limit": 7})),
            entry("fleet.limit", "fleet"),
        ),
        case(
            post.clone(),
            "/tokens",
            "",
            Some(json!({"name": "ci", "role": "admin"})),
            entry("token.create", "token/ci"),
        ),
        case(
            post.clone(),
            "/tokens/revoke",
            "",
            Some(json!({"name": "ci"})),
            entry("token.revoke", "token/ci"),
        ),
        case(
            post.clone(),
            "/lifecycle/purge",
            "",
            Some(json!({"keep": 1})),
            entry("lifecycle.purge", "lifecycle"),
        ),
        case(
            post.clone(),
            "/policy",
            "",
            Some(policy),
            entry("policy.sign", "policy"),
        ),
        case(
            post,
            "/trust/root",
            "",
            Some(root),
            entry("trust.rotate", "trust-root"),
        ),
    ]
}

/// A signed release whose package is there.
fn release(master: &Master) -> Value {
    let package = b"a package";
    let digest = Digest::from_sha256(*Sha256Digest::of(package).as_bytes());
    std::fs::create_dir_all(master.control.blobs()).unwrap();
    std::fs::write(master.control.blobs().join(digest.hex()), package).unwrap();
    let release = release::Release {
        schema: release::SCHEMA,
        fleet: master.control.fleet_id(),
        sequence: 1,
        version: "1.0".parse().unwrap(),
        downgrade: false,
        issued_at: Timestamp::new(time::OffsetDateTime::now_utc()),
        packages: vec![release::Package {
            format: release::Format::Deb,
            architecture: "x86_64".parse().unwrap(),
            digest,
            size: package.len() as u64,
        }],
    };
    let payload = serde_json::to_vec(&release).unwrap();
    let envelope = Envelope::sign(release::PAYLOAD_TYPE, payload, &[&operator(master)]);
    serde_json::from_slice(&envelope.to_json()).unwrap()
}

/// Routes that are asked with a body and change nothing: a package alone is installed nowhere.
const HARMLESS: [&str; 4] = [
    "/deckies/plan",
    "/policy/check",
    "/trust/draft",
    "/swarm/packages/{digest}",
];

#[tokio::test]
async fn every_route_that_changes_something_leaves_one_entry_with_who_it_was() {
    let master = Master::new();
    let cases = every_change(&master).await;
    // A route that is added needs a case above.
    for (method, path) in documented_routes() {
        let route = path.strip_prefix("/api/v1").unwrap();
        let known = cases
            .iter()
            .any(|case| case.method == method && case.route == route);
        assert!(
            known || method == Method::GET || HARMLESS.contains(&route),
            "{method} {route} is in no case"
        );
    }
    for Case {
        method,
        route,
        path,
        body,
        action,
        subject,
    } in cases
    {
        let before = head(&master).await;
        let answer = master.ask(method, &path, body).await;
        assert!(answer.status.is_success(), "{route}: {}", answer.text);
        let entries = since(&master, before).await;
        let [entry] = entries.as_slice() else {
            panic!("{route} left {entries:#?}");
        };
        assert_eq!(
            entry["actor"],
            json!({"kind": "token", "name": "init", "role": "admin"}),
            "{route}"
        );
        assert_eq!(entry["from"], "192.0.2.7", "{route}");
        assert_eq!(
            (&entry["action"], &entry["subject"]),
            (&json!(action), &json!(subject))
        );
        assert!(
            entry["after"].is_object() || entry["before"].is_object(),
            "{entry}"
        );
        // What is shown once is not shown here.
        for secret in ["token", "secret"] {
            if let Some(shown) =
                serde_json::from_str::<Value>(&answer.text).unwrap_or_default()[secret].as_str()
            {
                assert!(!entry.to_string().contains(shown), "{route}");
            }
        }
    }
    let mut chain = Chain::new(None);
    for entry in since(&master, 0).await {
        chain.follow(&entry).unwrap();
    }
    chain.end().unwrap();
}

#[tokio::test]
async fn a_request_that_is_refused_leaves_no_entry() {
    let master = Master::new();
    let cases = every_change(&master).await;
    let before = head(&master).await;
    for case in &cases {
        // By the role, by the token, by the body, by what is there.
        let answer = master
            .ask_as(&master.viewer, case.method.clone(), &case.path, case.body.clone())
            .await;
        assert_eq!(answer.status, 403, "{}", case.route);
        let answer = master
            .ask_as("decnet_x", case.method.clone(), &case.path, case.body.clone())
            .await;
        assert_eq!(answer.status, 401, "{}", case.route);
        if case.body.is_some() {
            let body = Some(json!({"nonsense": 1}));
            let answer = master.ask(case.method.clone(), &case.path, body).await;
            assert!(answer.status.is_client_error(), "{}: {}", case.route, answer.text);
        }
    }
    let nobody = "0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11";
    for (method, path, body) in [
        (Method::POST, "/deckies/nobody/mutate".to_owned(), None),
        (Method::DELETE, "/deckies/nobody".to_owned(), None),
        (
            Method::PUT,
            "/deckies/nobody/mutate-interval".to_owned(),
            Some(json!({"mutate_interval": "30m"})),
        ),
        (Method::POST, format!("/swarm/hosts/{nobody}/revoke"), None),
        (
            Method::PUT,
            format!("/swarm/hosts/{nobody}/network"),
            Some(json!({"ipvlan": true})),
        ),
        (
            Method::POST,
            "/swarm/hosts/enroll".to_owned(),
            Some(json!({"name": "edge-01"})),
        ),
        (
            Method::POST,
            "/tokens".to_owned(),
            Some(json!({"name": "init", "role": "admin"})),
        ),
        (
            Method::POST,
            "/tokens/revoke".to_owned(),
            Some(json!({"name": "nobody"})),
        ),
        (
            Method::PUT,
            "/config/deployment-limit".to_owned(),
            Some(json!({"deployment_limit": 0})),
        ),
        (
            Method::POST,
            "/deckies/deploy".to_owned(),
            deploy("[a]\nservices=nonsense\n"),
        ),
    ] {
        let answer = master.ask(method, &path, body).await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.text);
    }
    let harmless = [
        ("/deckies/plan", deploy(FLEET)),
        ("/trust/draft", Some(json!({"epoch": true}))),
    ];
    for (path, body) in harmless {
        let answer = master.ask(Method::POST, path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }
    assert_eq!(since(&master, before).await, Vec::<Value>::new());
}

/// Asking again for what is so already is no change.
#[tokio::test]
async fn a_request_that_changes_nothing_leaves_no_entry() {
    let master = Master::with_fleet();
    let host = master.control.hosts().unwrap()[0].host.id;
    let requests = [
        (
            Method::PUT,
            "/config/deployment-limit".to_owned(),
            Some(json!({"deployment_limit": 9})),
        ),
        (
            Method::PUT,
            "/deckies/web/mutate-interval".to_owned(),
            Some(json!({"mutate_interval": "9m"})),
        ),
        (
            Method::PUT,
            format!("/swarm/hosts/{host}/network"),
            Some(json!({"ipvlan": true})),
        ),
        (Method::DELETE, "/deckies/web".to_owned(), None),
        (Method::POST, format!("/swarm/hosts/{host}/revoke"), None),
    ];
    for (method, path, body) in requests {
        let before = head(&master).await;
        for _ in 0..2 {
            let answer = master.ask(method.clone(), &path, body.clone()).await;
            assert!(answer.status.is_success(), "{path}: {}", answer.text);
        }
        assert_eq!(since(&master, before).await.len(), 1, "{path}");
    }
}

#[tokio::test]
async fn on_the_socket_the_user_is_noted_and_a_host_by_its_id() {
    let master = Master::new();
    let before = head(&master).await;
    let asked = request(Method::PUT, "/api/v1/config/deployment-limit")
        .header("content-type", "application/json")
        .body(Body::from(r#"{"deployment_limit":9}"#))
        .unwrap();
    assert_eq!(master.send(asked, Peer::Unix { uid: 0 }).await.status, 200);
    let host = master.enrol("edge-01");
    let entries = since(&master, before).await;
    assert_eq!(
        entries[0]["actor"],
        json!({"kind": "local", "name": "root", "uid": 0})
    );
    assert_eq!(entries[0]["from"], Value::Null);
    assert_eq!(entries[0]["after"], json!({"deployment_limit": 9}));
    assert_eq!(
        entries[2]["actor"],
        json!({"kind": "host", "name": "edge-01", "id": host})
    );
    assert_eq!(entries[2]["action"], "host.enroll");
}

#[tokio::test]
async fn the_log_is_for_admins_and_is_read_by_conditions_and_page_by_page() {
    let master = Master::with_fleet();
    assert_eq!(
        master
            .ask_as(&master.viewer, Method::GET, "/audit", None)
            .await
            .status,
        403
    );
    let asked = request(Method::GET, "/api/v1/audit").body(Body::empty()).unwrap();
    assert_eq!(master.send(asked, TLS).await.status, 401);
    for wrong in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "after=-1",
        "since=yesterday",
        "until=1",
    ] {
        let answer = master.ask(Method::GET, &format!("/audit?{wrong}"), None).await;
        assert_eq!(answer.status, 422, "{wrong}");
    }
    let actions = async |query: &str| -> Vec<String> {
        let page = master
            .ask(Method::GET, &format!("/audit?{query}"), None)
            .await
            .json();
        let entries = page["entries"].as_array().unwrap().clone();
        entries
            .iter()
            .map(|entry| entry["action"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = actions("").await;
    assert_eq!(
        all,
        [
            "fleet.init",
            "token.create",
            "token.create",
            "host.invite",
            "host.enroll",
            "decky.deploy"
        ]
    );
    for (query, expected) in [
        ("limit=2", &all[4..]),
        ("action=host.", &all[3..5]),
        ("subject=host/edge-01", &all[3..5]),
        ("subject=edge-01", &all[3..5]),
        ("actor=edge-01", &all[4..5]),
        ("actor=nobody", &[]),
        ("since=2026-01-01T00:00:00Z&action=decky", &all[5..]),
        ("until=2020-01-01T00:00:00Z", &[]),
        ("after=4", &all[4..]),
        ("after=6", &[]),
        ("after=18446744073709551615", &[]),
    ] {
        assert_eq!(actions(query).await, expected, "{query}");
    }
    let mut pages = Vec::new();
    let mut after = Some(0);
    while let Some(from) = after {
        let page = master
            .ask(Method::GET, &format!("/audit?limit=4&after={from}"), None)
            .await
            .json();
        after = page["next"].as_u64();
        pages.push(page["entries"].as_array().unwrap().len());
    }
    assert_eq!(pages, [4, 2]);
}
