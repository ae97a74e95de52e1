//! The API's promises, asked in process.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::Timestamp;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tower::ServiceExt as _;

use super::lifecycle::transitions;
use super::testing::{FLEET, Master, read_token};
use super::{Peer, body, document};
use crate::control::events::LifecycleEvent;
use crate::records::RowStatus;

const TLS: Peer = Peer::Tls { address: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1) };

fn request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path)
}

fn deploy(ini: &str) -> Option<Value> {
    Some(json!({ "ini_content": ini }))
}

// Access.

#[tokio::test]
async fn without_a_valid_token_everything_is_401() {
    let master = Master::new();
    for header in [None, Some("Bearer "), Some("Bearer nonsense"), Some("Basic YTpi"), Some("decnet_x")] {
        let mut request = request(Method::GET, "/api/v1/deckies");
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        let answer = master.send(request.body(Body::empty()).unwrap(), TLS).await;
        assert_eq!(answer.status, 401, "{header:?}");
        assert_eq!(answer.headers[WWW_AUTHENTICATE], "Bearer");
        assert_eq!(answer.detail(), "Could not validate credentials");
    }
}

#[tokio::test]
async fn a_token_whose_last_byte_is_changed_is_no_token() {
    let master = Master::new();
    let mut token = master.admin.clone();
    let last = token.pop().unwrap();
    token.push(if last == 'A' { 'B' } else { 'A' });
    assert_eq!(master.ask_as(&token, Method::GET, "/deckies", None).await.status, 401);
    assert_eq!(master.ask(Method::GET, "/deckies", None).await.status, 200);
}

#[tokio::test]
async fn every_route_of_the_document_exists_and_is_closed_without_a_token() {
    let master = Master::new();
    let routes = documented_routes();
    assert!(routes.len() >= 20, "{routes:?}");
    for (method, path) in routes {
        let path = path.replace("{name}", "web").replace("{uuid}", "0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11");
        let answer = master.send(request(method.clone(), &path).body(Body::empty()).unwrap(), TLS).await;
        assert_eq!(answer.status, 401, "{method} {path}");
        let request = request(method.clone(), &path).header("authorization", format!("Bearer {}", master.admin));
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(TLS);
        // Streams do not end, so the body is not read.
        let response = master.router.clone().oneshot(request).await.unwrap();
        assert_ne!(response.status(), 405, "{method} {path}");
        if response.status() == 404 {
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            let detail = String::from_utf8(bytes.to_vec()).unwrap();
            assert!(detail.contains("there is no"), "{method} {path} is in the document and not served: {detail}");
        }
    }
}

#[tokio::test]
async fn a_viewer_reads_and_changes_nothing() {
    let master = Master::with_fleet();
    for path in [
        "/deckies", "/deckies/web", "/lifecycle", "/deckies/lifecycle?ids=x", "/config", "/system/deployment-mode",
        "/health", "/catalogue/services", "/catalogue/archetypes", "/catalogue/distros", "/openapi.json",
    ] {
        assert_eq!(master.ask_as(&master.viewer, Method::GET, path, None).await.status, 200, "{path}");
    }
    for (method, path) in documented_routes() {
        let path = path.strip_prefix("/api/v1").unwrap().replace("{name}", "web");
        if method == Method::GET && !path.starts_with("/swarm") {
            continue;
        }
        let answer = master.ask_as(&master.viewer, method.clone(), &path, None).await;
        assert_eq!(answer.status, 403, "{method} {path}");
        assert_eq!(answer.detail(), "Insufficient permissions");
    }
    assert_eq!(master.control.deckies().unwrap().len(), 2);
}

#[tokio::test]
async fn on_the_socket_root_and_the_masters_user_need_no_token_and_others_do() {
    let master = Master::new();
    let own = nix::unistd::geteuid().as_raw();
    for (uid, status) in [(0, 200), (own, 200), (own + 4711, 401)] {
        let request = request(Method::GET, "/api/v1/swarm/hosts").body(Body::empty()).unwrap();
        assert_eq!(master.send(request, Peer::Unix { uid }).await.status, status, "{uid}");
    }
    // A token that is given counts.
    let asks = || request(Method::GET, "/api/v1/swarm/hosts");
    let viewer = asks().header("authorization", format!("bearer {}", master.viewer));
    assert_eq!(master.send(viewer.body(Body::empty()).unwrap(), Peer::Unix { uid: 0 }).await.status, 403);
    let wrong = asks().header("authorization", "Bearer wrong");
    assert_eq!(master.send(wrong.body(Body::empty()).unwrap(), Peer::Unix { uid: 0 }).await.status, 401);
}

// What every route has in common.

#[tokio::test]
async fn a_body_that_is_not_json_is_415_in_plain_text() {
    let master = Master::new();
    for kind in [None, Some("text/plain"), Some("multipart/form-data; boundary=x")] {
        let mut asked = request(Method::POST, "/api/v1/deckies/deploy")
            .header("authorization", format!("Bearer {}", master.admin));
        if let Some(kind) = kind {
            asked = asked.header(CONTENT_TYPE, kind);
        }
        let answer = master.send(asked.body(Body::from("{}")).unwrap(), TLS).await;
        assert_eq!(answer.status, 415, "{kind:?}");
        assert!(answer.headers[CONTENT_TYPE].to_str().unwrap().starts_with("text/plain"));
    }
    let asked = request(Method::POST, "/api/v1/deckies/deploy")
        .header("authorization", format!("Bearer {}", master.admin))
        .header(CONTENT_TYPE, "application/json; charset=utf-8");
    assert_eq!(master.send(asked.body(Body::from("{}")).unwrap(), TLS).await.status, 400);
}

#[tokio::test]
async fn a_body_beyond_the_cap_is_413_and_not_read_on() {
    let master = Master::new();
    let answer = master.ask(Method::POST, "/deckies/deploy", deploy(&"#".repeat(body::BODY_CAP))).await;
    assert_eq!(answer.status, 413, "{}", answer.text);
    assert!(answer.detail().contains("4194304"));
}

#[tokio::test]
async fn what_does_not_exist_is_404_and_another_method_405() {
    let master = Master::new();
    let answer = master.ask(Method::GET, "/nothing", None).await;
    assert_eq!((answer.status.as_u16(), answer.detail().as_str()), (404, "Not Found"));
    let answer = master.ask(Method::PATCH, "/config", None).await;
    assert_eq!((answer.status.as_u16(), answer.detail().as_str()), (405, "Method Not Allowed"));
    assert!(answer.headers[ALLOW].to_str().unwrap().contains("GET"));
}

#[tokio::test]
async fn a_defect_is_500_with_an_id_and_the_next_request_is_answered() {
    let master = Master::new();
    let broken = axum::Router::new()
        .route("/", axum::routing::get(async || -> String { panic!("on purpose") }))
        .layer(axum::middleware::from_fn(super::catch_panics));
    let request = Request::builder().uri("/").body(Body::empty()).unwrap();
    let response = broken.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 500);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(body["detail"], "Internal Server Error");
    let id = body["error_id"].as_str().unwrap();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert!(!String::from_utf8_lossy(&bytes).contains("on purpose"));
    assert_eq!(master.ask(Method::GET, "/config", None).await.status, 200);
}

// Deploy and plan.

#[tokio::test]
async fn a_deploy_is_202_with_one_pending_row_each_though_no_agent_was_ever_seen() {
    let master = Master::new();
    master.enrol("edge-01");
    let answer = master.ask(Method::POST, "/deckies/deploy", deploy(FLEET)).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let body = answer.json();
    assert_eq!(body["mode"], "swarm");
    assert_eq!(body["warnings"], json!([]));
    assert_eq!(body["message"], "accepted: 2 operations");
    let ids: Vec<&str> = body["lifecycle_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(ids.len(), 2);
    let path = format!("/deckies/lifecycle?ids={}&ids={}&ids=unknown", ids[0], ids[1]);
    let rows = master.ask(Method::GET, &path, None).await.json();
    let rows = rows["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let mut keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        let wanted = [
            "completed_at", "decky_name", "error", "host_uuid", "id", "operation", "started_at", "status",
            "updated_at",
        ];
        assert_eq!(keys, wanted);
        assert_eq!((&row["status"], &row["operation"]), (&json!("pending"), &json!("deploy")));
        assert_eq!(row["completed_at"], Value::Null);
    }
    // The same text once more adds what is there already.
    assert_eq!(master.ask(Method::POST, "/deckies/deploy", deploy(FLEET)).await.status, 409);
    let again = json!({ "ini_content": FLEET, "replace_fleet": true });
    let again = master.ask(Method::POST, "/deckies/deploy", Some(again)).await;
    assert_eq!(again.status, 202, "{}", again.text);
    assert_eq!(again.json()["lifecycle_ids"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_bad_deploy_body_is_400_or_422_and_changes_nothing() {
    let master = Master::new();
    master.enrol("edge-01");
    let cases = [
        (json!({}), 400),
        (json!({ "ini_content": {} }), 400),
        (json!({ "ini_content": null }), 400),
        (json!({ "ini_content": FLEET, "force": true }), 400),
        (json!([]), 400),
        (json!({ "ini_content": FLEET, "replace_fleet": "maybe" }), 422),
        (json!({ "ini_content": FLEET, "replace_fleet": 2 }), 422),
        (json!({ "ini_content": FLEET, "replace_fleet": null }), 422),
    ];
    for path in ["/deckies/deploy", "/deckies/plan"] {
        for (body, status) in &cases {
            let answer = master.ask(Method::POST, path, Some(body.clone())).await;
            assert_eq!(answer.status, *status, "{path} {body}: {}", answer.text);
            assert!(!answer.detail().is_empty());
        }
    }
    for text in ["{", "", "nonsense", "{\"ini_content\": \"\u{1}\"}"] {
        let request = request(Method::POST, "/api/v1/deckies/deploy")
            .header("authorization", format!("Bearer {}", master.admin))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(text));
        let answer = master.send(request.unwrap(), TLS).await;
        assert_eq!(answer.status, 422, "{text}");
        assert!(answer.detail().starts_with("Invalid INI config"), "{}", answer.text);
    }
    assert_eq!(master.control.deckies().unwrap().len(), 0);
    assert_eq!(master.ask(Method::GET, "/lifecycle", None).await.json(), json!({ "rows": [] }));
}

#[tokio::test]
async fn the_words_for_yes_and_no_count_as_booleans() {
    let master = Master::new();
    master.enrol("edge-01");
    for word in [json!("yes"), json!("on"), json!(1), json!("false"), json!(0), json!("True")] {
        let body = json!({ "ini_content": FLEET, "replace_fleet": word });
        assert_eq!(master.ask(Method::POST, "/deckies/plan", Some(body)).await.status, 200, "{word}");
    }
}

#[tokio::test]
async fn a_refused_description_lists_every_reason() {
    let master = Master::new();
    master.enrol("edge-01");
    let ini = "[general]\nnet = 10.9.0.0/24\ngw = 10.9.0.1\ninterface = eth0\n\
               [a]\nservices = nonsense\n[b]\nip = 10.9.0.400\n[c]\narchetype = toaster\n";
    for path in ["/deckies/deploy", "/deckies/plan"] {
        let answer = master.ask(Method::POST, path, deploy(ini)).await;
        assert_eq!(answer.status, 409, "{}", answer.text);
        let body = answer.json();
        let errors = body["errors"].as_array().unwrap();
        assert!(errors.len() >= 3, "{}", answer.text);
        assert_eq!(body["detail"], errors[0]["message"]);
        assert!(errors.iter().all(|error| error["class"].is_string()));
        assert!(!answer.detail().contains('\n'));
    }
    assert_eq!(master.control.deckies().unwrap().len(), 0);
}

#[tokio::test]
async fn descriptions_are_refused_with_the_status_of_their_class() {
    let master = Master::new();
    master.enrol("edge-01");
    for (ini, status) in [
        ("", 409),
        ("   \n\t", 409),
        ("services=ssh", 409),
        ("[a\nservices=ssh", 409),
        ("[DEFAULT]\nservices=ssh", 409),
        ("[general]\nnet=10.0.0.0/24", 422),
        ("[a]\namount=0", 409),
        ("[my host]\nservices=ssh", 409),
    ] {
        let answer = master.ask(Method::POST, "/deckies/deploy", deploy(ini)).await;
        assert_eq!(answer.status, status, "{ini:?}: {}", answer.text);
    }
    let large = format!("[a]\n{}", "#".repeat(524_289));
    assert_eq!(master.ask(Method::POST, "/deckies/deploy", deploy(&large)).await.status, 422);
}

#[tokio::test]
async fn without_a_host_a_deploy_is_409_and_says_what_to_do() {
    let master = Master::new();
    let answer = master.ask(Method::POST, "/deckies/deploy", deploy(FLEET)).await;
    assert_eq!(answer.status, 409);
    assert!(answer.detail().contains("decnet host enroll"), "{}", answer.text);
}

#[tokio::test]
async fn a_plan_shows_steps_in_words_and_whole_and_changes_nothing() {
    let master = Master::new();
    let host = master.enrol("edge-01");
    let answer = master.ask(Method::POST, "/deckies/plan", deploy(FLEET)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    assert_eq!(body["mode"], "swarm");
    let planned = &body["hosts"][0];
    assert_eq!(planned["host_uuid"], host.to_string());
    assert_eq!(planned["host_name"], "edge-01");
    assert_eq!(planned["observed"], false);
    let known = planned["steps"].as_array().unwrap().len() + planned["blocked"].as_array().unwrap().len();
    assert!(known > 0, "{}", answer.text);
    for step in planned["steps"].as_array().unwrap() {
        assert!(!step["describe"].as_str().unwrap().is_empty());
        assert!(step["step"]["do"].is_string());
        assert!(step.get("stack").is_some());
    }
    assert_eq!(master.control.deckies().unwrap().len(), 0);
    assert_eq!(master.ask(Method::GET, "/lifecycle", None).await.json(), json!({ "rows": [] }));
}

// Deckies.

#[tokio::test]
async fn a_decky_is_shown_without_its_secrets_to_everybody() {
    let master = Master::new();
    master.enrol("edge-01");
    let ini = format!("{FLEET}\n[web.ssh]\npassword = hunter2-is-secret\nuser = operator\n");
    let answer = master.ask(Method::POST, "/deckies/deploy", deploy(&ini)).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    for token in [&master.admin, &master.viewer] {
        for path in ["/deckies", "/deckies/web"] {
            let answer = master.ask_as(token, Method::GET, path, None).await;
            assert_eq!(answer.status, 200);
            assert!(!answer.text.contains("hunter2"), "{}", answer.text);
            assert!(!answer.text.contains("seed"), "{}", answer.text);
        }
    }
    let web = master.ask(Method::GET, "/deckies/web", None).await.json();
    assert_eq!(web["service_config"]["ssh"]["user"], "operator");
    assert_ne!(web["service_config"]["ssh"]["password"], Value::Null);
    assert_eq!(web["state"], "pending");
    assert_eq!(web["host_name"], "edge-01");
    assert_eq!(web["mutate_interval"], "inherit");
    assert_eq!(web["lifecycle"]["status"], "pending");
}

#[tokio::test]
async fn a_decky_name_outside_its_pattern_is_422_and_an_unknown_one_404() {
    let master = Master::new();
    let long = "a".repeat(65);
    for (name, status) in [
        ("Web01", 422), ("a.b", 422), ("x_y", 422), ("%20", 422), ("%ff", 422), (long.as_str(), 422),
        ("web", 404), ("-a", 404), (&long[..64], 404),
    ] {
        let body = Some(json!({ "mutate_interval": "1d" }));
        for (method, suffix, body) in [
            (Method::GET, "", None),
            (Method::DELETE, "", None),
            (Method::POST, "/mutate", None),
            (Method::PUT, "/mutate-interval", body),
        ] {
            let answer = master.ask(method.clone(), &format!("/deckies/{name}{suffix}"), body).await;
            assert_eq!(answer.status, status, "{method} {name}{suffix}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn removing_a_decky_is_204_with_the_rows_id_and_asking_again_gives_the_same() {
    let master = Master::with_fleet();
    let first = master.ask(Method::DELETE, "/deckies/web", None).await;
    assert_eq!(first.status, 204);
    assert_eq!(first.text, "");
    let id = first.headers["decnet-lifecycle-id"].to_str().unwrap().to_owned();
    let again = master.ask(Method::DELETE, "/deckies/web", None).await;
    assert_eq!(again.headers["decnet-lifecycle-id"], id.as_str());
    let rows = master.ask(Method::GET, &format!("/deckies/lifecycle?ids={id}"), None).await.json();
    assert_eq!(rows["rows"][0]["operation"], "teardown");
    assert_eq!(master.ask(Method::GET, "/deckies/web", None).await.json()["state"], "tearing_down");
    assert_eq!(master.ask(Method::POST, "/deckies/web/mutate", None).await.status, 409);
}

#[tokio::test]
async fn a_decky_may_have_the_name_of_a_path() {
    let master = Master::new();
    master.enrol("edge-01");
    let ini = "[general]\nnet = 10.9.0.0/24\ngw = 10.9.0.1\ninterface = eth0\n\
               [deploy]\nservices = ssh\n[plan]\nservices = ssh\n[lifecycle]\nservices = ssh\n";
    assert_eq!(master.ask(Method::POST, "/deckies/deploy", deploy(ini)).await.status, 202);
    for name in ["deploy", "plan"] {
        assert_eq!(master.ask(Method::GET, &format!("/deckies/{name}"), None).await.json()["name"], name);
    }
    for name in ["deploy", "plan", "lifecycle"] {
        assert_eq!(master.ask(Method::POST, &format!("/deckies/{name}/mutate"), None).await.status, 202, "{name}");
        let path = format!("/deckies/{name}");
        assert_eq!(master.ask_as(&master.viewer, Method::DELETE, &path, None).await.status, 403, "{name}");
        assert_eq!(master.ask(Method::DELETE, &path, None).await.status, 204, "{name}");
    }
}

#[tokio::test]
async fn a_mutation_is_202_with_one_row_and_supersedes_the_open_one() {
    let master = Master::with_fleet();
    let answer = master.ask(Method::POST, "/deckies/web/mutate", None).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let ids = answer.json()["lifecycle_ids"].clone();
    assert_eq!(ids.as_array().unwrap().len(), 1);
    let rows = master.ask(Method::GET, "/lifecycle?limit=10", None).await.json();
    let of_web: Vec<(&str, &str)> = rows["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["decky_name"] == "web")
        .map(|row| (row["operation"].as_str().unwrap(), row["status"].as_str().unwrap()))
        .collect();
    assert_eq!(of_web, [("mutate", "pending"), ("deploy", "superseded")]);
}

#[tokio::test]
async fn null_disables_and_inherit_inherits() {
    let master = Master::with_fleet();
    for (value, shown) in [
        (json!(null), "disabled"),
        (json!("inherit"), "inherit"),
        (json!("disabled"), "disabled"),
        (json!("2d"), "2880m"),
    ] {
        let body = json!({ "mutate_interval": value });
        let answer = master.ask(Method::PUT, "/deckies/web/mutate-interval", Some(body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.json()["message"].as_str().unwrap().contains(shown));
        assert_eq!(master.ask(Method::GET, "/deckies/web", None).await.json()["mutate_interval"], shown);
    }
    for (body, status) in [
        (json!({}), 400),
        (json!({ "mutate_interval": 5 }), 400),
        (json!({ "mutate_interval": "1d", "x": 1 }), 400),
        (json!({ "mutate_interval": "0m" }), 422),
        (json!({ "mutate_interval": "5h" }), 422),
        (json!({ "mutate_interval": "" }), 422),
    ] {
        let answer = master.ask(Method::PUT, "/deckies/web/mutate-interval", Some(body.clone())).await;
        assert_eq!(answer.status, status, "{body}");
    }
}

// Lifecycle.

#[tokio::test]
async fn rows_take_1_to_200_ids() {
    let master = Master::new();
    assert_eq!(master.ask(Method::GET, "/deckies/lifecycle", None).await.status, 400);
    assert_eq!(master.ask(Method::GET, "/deckies/lifecycle?id=x", None).await.status, 400);
    let ids = |count: usize| format!("/deckies/lifecycle?{}", vec!["ids=x"; count].join("&"));
    let answer = master.ask(Method::GET, &ids(200), None).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "rows": [] })));
    assert_eq!(master.ask(Method::GET, &ids(201), None).await.status, 422);
}

#[tokio::test]
async fn the_list_of_rows_checks_its_parameters() {
    let master = Master::with_fleet();
    let host = master.control.hosts().unwrap()[0].host.id;
    for (query, status) in [
        ("open=true", 200), ("open=maybe", 422), ("limit=0", 422), ("limit=1001", 422), ("limit=x", 422), ("host=x", 422),
    ] {
        assert_eq!(master.ask(Method::GET, &format!("/lifecycle?{query}"), None).await.status, status, "{query}");
    }
    let count = async |query: String| {
        let rows = master.ask(Method::GET, &format!("/lifecycle?{query}"), None).await.json();
        rows["rows"].as_array().unwrap().len()
    };
    assert_eq!(count(format!("open=true&host={host}")).await, 2);
    assert_eq!(count("limit=1".to_owned()).await, 1);
    assert_eq!(count("host=0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11".to_owned()).await, 0);
}

/// Opens a stream as `token` and gives out its status and body.
async fn open_stream(master: &Master, token: &str) -> (u16, Body) {
    let request = request(Method::GET, "/api/v1/deckies/lifecycle/events")
        .header("authorization", format!("Bearer {token}"))
        .body(Body::empty())
        .unwrap();
    let response = master.router.clone().oneshot(request).await.unwrap();
    (response.status().as_u16(), response.into_body())
}

async fn next_text(body: &mut Body) -> String {
    let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("no frame in 10 s");
    String::from_utf8(frame.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn the_stream_begins_with_a_comment_and_carries_every_transition() {
    let master = Master::new();
    master.enrol("edge-01");
    let (status, mut body) = open_stream(&master, &master.viewer).await;
    assert_eq!(status, 200);
    assert_eq!(next_text(&mut body).await, ": keep-alive\n\n");
    assert_eq!(master.ask(Method::POST, "/deckies/deploy", deploy(FLEET)).await.status, 202);
    let mut names = Vec::new();
    for _ in 0..2 {
        let text = next_text(&mut body).await;
        let mut lines = text.lines();
        names.push(lines.next().unwrap().to_owned());
        let data: Value = serde_json::from_str(lines.next().unwrap().strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!((&data["status"], &data["operation"]), (&json!("pending"), &json!("deploy")));
        assert!(data["lifecycle_id"].is_string());
    }
    names.sort();
    assert_eq!(names, ["event: decky.printer.lifecycle", "event: decky.web.lifecycle"]);
}

fn transition(decky: &str) -> LifecycleEvent {
    LifecycleEvent {
        topic: format!("decky.{decky}.lifecycle"),
        lifecycle_id: "0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11".parse().unwrap(),
        decky_name: decky.parse().unwrap(),
        host_uuid: None,
        operation: OperationKind::Deploy,
        status: RowStatus::Running,
        error: None,
        ts: Timestamp::new(time::macros::datetime!(2026-01-01 00:00 UTC)),
    }
}

#[tokio::test]
async fn a_slow_reader_is_told_how_much_it_missed_and_reads_on() {
    let (bus, events) = broadcast::channel(2);
    let mut body = transitions(events, ()).into_body();
    assert_eq!(next_text(&mut body).await, ": keep-alive\n\n");
    for name in ["a", "b", "c", "d", "e"] {
        bus.send(transition(name)).unwrap();
    }
    assert_eq!(next_text(&mut body).await, "event: lagged\ndata: {\"missed\":3}\n\n");
    assert!(next_text(&mut body).await.starts_with("event: decky.d.lifecycle\n"));
    assert!(next_text(&mut body).await.starts_with("event: decky.e.lifecycle\n"));
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_shows_every_15_seconds_that_it_is_alive() {
    let (_bus, events) = broadcast::channel(2);
    let mut body = transitions(events, ()).into_body();
    assert_eq!(next_text(&mut body).await, ": keep-alive\n\n");
    let begun = tokio::time::Instant::now();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&frame[..], b": keep-alive\n\n");
    assert_eq!(begun.elapsed().as_secs(), 15);
}

#[tokio::test]
async fn the_sixth_stream_of_a_caller_is_429_and_closing_one_makes_room() {
    let master = Master::new();
    let mut open = Vec::new();
    for _ in 0..5 {
        let (status, body) = open_stream(&master, &master.viewer).await;
        assert_eq!(status, 200);
        open.push(body);
    }
    let (status, body) = open_stream(&master, &master.viewer).await;
    assert_eq!(status, 429);
    let text = body.collect().await.unwrap().to_bytes();
    assert!(serde_json::from_slice::<Value>(&text).unwrap()["detail"].is_string());
    // Somebody else is not held up.
    assert_eq!(open_stream(&master, &master.admin).await.0, 200);
    drop(open.pop());
    assert_eq!(open_stream(&master, &master.viewer).await.0, 200);
}

// Hosts.

#[tokio::test]
async fn an_invitation_gives_a_token_in_one_line_and_an_enrolled_name_is_taken() {
    let master = Master::new();
    let body = json!({
        "name": "edge-01", "ipvlan": true, "interface": "eth1", "subnet": "10.20.0.7/24", "gateway": "10.20.0.1",
        "ttl_seconds": 60, "notes": "rack 4",
    });
    let answer = master.ask(Method::POST, "/swarm/hosts/enroll", Some(body)).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let invited = answer.json();
    let token = read_token(invited["token"].as_str().unwrap());
    assert_eq!(token.host.to_string(), invited["host_uuid"].as_str().unwrap());
    assert_eq!(invited["command"], format!("decnet-agent enroll {}", invited["token"].as_str().unwrap()));
    let host = master.ask(Method::GET, &format!("/swarm/hosts/{}", token.host), None).await.json();
    assert_eq!((&host["status"], &host["use_ipvlan"]), (&json!("invited"), &json!(true)));
    assert_eq!((&host["subnet"], &host["gateway"]), (&json!("10.20.0.0/24"), &json!("10.20.0.1")));
    assert_eq!((&host["interface"], &host["notes"]), (&json!("eth1"), &json!("rack 4")));

    let name = |name: &str| Some(json!({ "name": name }));
    // Nobody used the invitation: it may be repeated.
    assert_eq!(master.ask(Method::POST, "/swarm/hosts/enroll", name("edge-01")).await.status, 201);
    master.enrol("edge-02");
    assert_eq!(master.ask(Method::POST, "/swarm/hosts/enroll", name("edge-02")).await.status, 409);
    let filtered = master.ask(Method::GET, "/swarm/hosts?host_status=enrolled", None).await.json();
    assert_eq!(filtered.as_array().unwrap().len(), 1);
    assert_eq!(filtered[0]["name"], "edge-02");
    assert_eq!(master.ask(Method::GET, "/swarm/hosts", None).await.json().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_bad_invitation_is_400_or_422_and_makes_no_host() {
    let master = Master::new();
    for (body, status) in [
        (json!({}), 400),
        (json!({ "name": 5 }), 400),
        (json!({ "name": "a", "x": 1 }), 400),
        (json!({ "name": "" }), 422),
        (json!({ "name": "Edge" }), 422),
        (json!({ "name": "a", "ipvlan": "maybe" }), 422),
        (json!({ "name": "a", "interface": "no such/name" }), 422),
        (json!({ "name": "a", "subnet": "10.20.0.0/24" }), 422),
        (json!({ "name": "a", "gateway": "10.20.0.1" }), 422),
        (json!({ "name": "a", "subnet": "10.20.0.0/24", "gateway": "10.21.0.1" }), 422),
        (json!({ "name": "a", "subnet": "10.20.0.0/24", "gateway": "10.20.0.255" }), 422),
        (json!({ "name": "a", "subnet": "nonsense", "gateway": "10.20.0.1" }), 422),
        (json!({ "name": "a", "ttl_seconds": 0 }), 422),
        (json!({ "name": "a", "ttl_seconds": 3601 }), 422),
        (json!({ "name": "a", "ttl_seconds": -1 }), 422),
        (json!({ "name": "a", "ttl_seconds": "300" }), 422),
        (json!({ "name": "a", "notes": "two\nlines" }), 422),
    ] {
        let answer = master.ask(Method::POST, "/swarm/hosts/enroll", Some(body.clone())).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
    }
    assert_eq!(master.ask(Method::GET, "/swarm/hosts", None).await.json(), json!([]));
    assert_eq!(master.ask(Method::GET, "/swarm/hosts?host_status=nonsense", None).await.status, 422);
    assert_eq!(master.ask(Method::GET, "/swarm/hosts/nonsense", None).await.status, 422);
    let unknown = "/swarm/hosts/0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11";
    assert_eq!(master.ask(Method::GET, unknown, None).await.status, 404);
}

// The master itself.

#[tokio::test]
async fn mode_config_and_limit() {
    let master = Master::new();
    let mode = master.ask(Method::GET, "/system/deployment-mode", None).await.json();
    assert_eq!(mode, json!({ "mode": "unihost", "role": "master", "swarm_host_count": 0 }));
    master.enrol("edge-01");
    let mode = master.ask(Method::GET, "/system/deployment-mode", None).await.json();
    assert_eq!(mode, json!({ "mode": "swarm", "role": "master", "swarm_host_count": 1 }));
    let config = master.ask_as(&master.viewer, Method::GET, "/config", None).await.json();
    assert_eq!(config, json!({ "role": "viewer", "deployment_limit": 10, "global_mutation_interval": "30m" }));
    for (body, status) in [
        (json!({ "deployment_limit": 1 }), 200),
        (json!({ "deployment_limit": 500 }), 200),
        (json!({ "deployment_limit": 0 }), 422),
        (json!({ "deployment_limit": 501 }), 422),
        (json!({ "deployment_limit": 4_294_967_297_u64 }), 422),
        (json!({ "deployment_limit": "5" }), 422),
        (json!({}), 400),
        (json!({ "deployment_limit": 5, "x": 1 }), 400),
    ] {
        let answer = master.ask(Method::PUT, "/config/deployment-limit", Some(body.clone())).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
    }
    assert_eq!(master.ask(Method::GET, "/config", None).await.json()["deployment_limit"], 500);
}

#[tokio::test]
async fn health_names_what_is_wrong() {
    let master = Master::new();
    let answer = master.ask(Method::GET, "/health", None).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (200, &json!("healthy")), "{}", answer.text);
    // No publisher runs in this test: the host's first bundle stays due.
    master.enrol("edge-01");
    let health = master.ask(Method::GET, "/health", None).await.json();
    assert_eq!(health["status"], "degraded");
    assert!(health["components"]["publisher"]["detail"].as_str().unwrap().contains("edge-01"));
    master.control.publish_due().unwrap();
    assert_eq!(master.ask(Method::GET, "/health", None).await.json()["status"], "healthy");
}

#[tokio::test]
async fn a_new_token_works_and_has_its_role() {
    let master = Master::new();
    let answer = master.ask(Method::POST, "/tokens", Some(json!({ "name": "dash", "role": "viewer" }))).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(master.ask_as(&token, Method::GET, "/config", None).await.json()["role"], "viewer");
    for (body, status) in [
        (json!({ "name": "x" }), 400),
        (json!({ "role": "viewer" }), 400),
        (json!({ "name": "", "role": "viewer" }), 400),
        (json!({ "name": "x".repeat(65), "role": "viewer" }), 422),
        (json!({ "name": "x", "role": "root" }), 422),
    ] {
        assert_eq!(master.ask(Method::POST, "/tokens", Some(body.clone())).await.status, status, "{body}");
    }
}

#[tokio::test]
async fn the_catalogue_is_listed() {
    let master = Master::new();
    let services = master.ask_as(&master.viewer, Method::GET, "/catalogue/services", None).await.json();
    let ssh = services["services"].as_array().unwrap().iter().find(|service| service["name"] == "ssh").unwrap();
    assert_eq!(ssh["ports"], json!(["22/tcp"]));
    let archetypes = master.ask(Method::GET, "/catalogue/archetypes", None).await.json();
    assert!(archetypes["archetypes"].as_array().unwrap().iter().any(|one| one["name"] == "web-server"));
    let distros = master.ask(Method::GET, "/catalogue/distros", None).await.json();
    assert!(distros["distros"].as_array().unwrap().iter().any(|one| one["name"] == "debian"));
}

// The document.

/// Every method and path of the OpenAPI document.
fn documented_routes() -> Vec<(Method, String)> {
    let document = serde_json::to_value(document()).unwrap();
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            routes.push((method.to_uppercase().parse().unwrap(), path.clone()));
        }
    }
    routes
}

#[tokio::test]
async fn the_document_is_openapi_3_1_and_every_reference_resolves() {
    let master = Master::new();
    let served = master.ask_as(&master.viewer, Method::GET, "/openapi.json", None).await.json();
    assert_eq!(served, serde_json::to_value(document()).unwrap());
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(served["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    let mut references = Vec::new();
    collect_references(&served, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(served.pointer(pointer).is_some(), "{reference}");
    }
    for (path, operations) in served["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            assert!(operation["operationId"].is_string(), "{method} {path} has no id");
        }
    }
}

fn collect_references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                into.push(reference.clone());
            }
            map.values().for_each(|value| collect_references(value, into));
        }
        Value::Array(list) => list.iter().for_each(|value| collect_references(value, into)),
        _ => {}
    }
}
