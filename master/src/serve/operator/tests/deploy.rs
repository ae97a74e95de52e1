//! Deploying and planning.

use axum::body::Body;
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::{TLS, deploy, request};
use crate::serve::operator::testing::{FLEET, Master};

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
    let ids: Vec<&str> = body["lifecycle_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 2);
    let path = format!("/deckies/lifecycle?ids={}&ids={}&ids=unknown", ids[0], ids[1]);
    let rows = master.ask(Method::GET, &path, None).await.json();
    let rows = rows["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let mut keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        let wanted = [
            "cause",
            "completed_at",
            "decky_name",
            "error",
            "host_uuid",
            "id",
            "operation",
            "started_at",
            "status",
            "transitions",
            "updated_at",
        ];
        assert_eq!(keys, wanted);
        assert_eq!(row["transitions"][0]["by"], "init (admin)");
        assert_eq!(
            (&row["status"], &row["operation"]),
            (&json!("pending"), &json!("deploy"))
        );
        assert_eq!(row["completed_at"], Value::Null);
    }
    // The same text once more adds what is there already.
    assert_eq!(
        master
            .ask(Method::POST, "/deckies/deploy", deploy(FLEET))
            .await
            .status,
        409
    );
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
        (
            json!({ "ini_content": FLEET, "generate": { "deckies": 1, "services": ["ssh"] } }),
            400,
        ),
        (json!({ "generate": { "deckies": 1 } }), 400),
        (json!({ "generate": { "deckies": 1, "services": "ssh" } }), 400),
        (json!({ "generate": { "deckies": 0, "services": ["ssh"] } }), 422),
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
        assert!(
            answer.detail().starts_with("Invalid INI config"),
            "{}",
            answer.text
        );
    }
    assert_eq!(master.control.deckies().unwrap().len(), 0);
    assert_eq!(
        master.ask(Method::GET, "/lifecycle", None).await.json(),
        json!({ "rows": [] })
    );
}

#[tokio::test]
async fn the_words_for_yes_and_no_count_as_booleans() {
    let master = Master::new();
    master.enrol("edge-01");
    for word in [
        json!("yes"),
        json!("on"),
        json!(1),
        json!("false"),
        json!(0),
        json!("True"),
    ] {
        let body = json!({ "ini_content": FLEET, "replace_fleet": word });
        assert_eq!(
            master.ask(Method::POST, "/deckies/plan", Some(body)).await.status,
            200,
            "{word}"
        );
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
    assert_eq!(
        master
            .ask(Method::POST, "/deckies/deploy", deploy(&large))
            .await
            .status,
        422
    );
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
    assert_eq!(
        master.ask(Method::GET, "/lifecycle", None).await.json(),
        json!({ "rows": [] })
    );
}
