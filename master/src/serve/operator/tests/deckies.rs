//! Deckies.

use hyper::Method;
use serde_json::{Value, json};

use super::deploy;
use crate::serve::operator::testing::{FLEET, Master};

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
        ("Web01", 422),
        ("a.b", 422),
        ("x_y", 422),
        ("%20", 422),
        ("%ff", 422),
        (long.as_str(), 422),
        ("web", 404),
        ("-a", 404),
        (&long[..64], 404),
    ] {
        let body = Some(json!({ "mutate_interval": "1d" }));
        for (method, suffix, body) in [
            (Method::GET, "", None),
            (Method::DELETE, "", None),
            (Method::POST, "/mutate", None),
            (Method::PUT, "/mutate-interval", body),
        ] {
            let answer = master
                .ask(method.clone(), &format!("/deckies/{name}{suffix}"), body)
                .await;
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
    let rows = master
        .ask(Method::GET, &format!("/deckies/lifecycle?ids={id}"), None)
        .await
        .json();
    assert_eq!(rows["rows"][0]["operation"], "teardown");
    assert_eq!(
        master.ask(Method::GET, "/deckies/web", None).await.json()["state"],
        "tearing_down"
    );
    assert_eq!(
        master.ask(Method::POST, "/deckies/web/mutate", None).await.status,
        409
    );
}

#[tokio::test]
async fn a_decky_may_have_the_name_of_a_path() {
    let master = Master::new();
    master.enrol("edge-01");
    let ini = "[general]\nnet = 10.9.0.0/24\ngw = 10.9.0.1\ninterface = eth0\n\
               [deploy]\nservices = ssh\n[plan]\nservices = ssh\n[lifecycle]\nservices = ssh\n";
    assert_eq!(
        master
            .ask(Method::POST, "/deckies/deploy", deploy(ini))
            .await
            .status,
        202
    );
    for name in ["deploy", "plan"] {
        assert_eq!(
            master
                .ask(Method::GET, &format!("/deckies/{name}"), None)
                .await
                .json()["name"],
            name
        );
    }
    for name in ["deploy", "plan", "lifecycle"] {
        assert_eq!(
            master
                .ask(Method::POST, &format!("/deckies/{name}/mutate"), None)
                .await
                .status,
            202,
            "{name}"
        );
        let path = format!("/deckies/{name}");
        assert_eq!(
            master
                .ask_as(&master.viewer, Method::DELETE, &path, None)
                .await
                .status,
            403,
            "{name}"
        );
        assert_eq!(
            master.ask(Method::DELETE, &path, None).await.status,
            204,
            "{name}"
        );
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
        .map(|row| {
            (
                row["operation"].as_str().unwrap(),
                row["status"].as_str().unwrap(),
            )
        })
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
        let answer = master
            .ask(Method::PUT, "/deckies/web/mutate-interval", Some(body))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.json()["message"].as_str().unwrap().contains(shown));
        assert_eq!(
            master.ask(Method::GET, "/deckies/web", None).await.json()["mutate_interval"],
            shown
        );
    }
    for (body, status) in [
        (json!({}), 400),
        (json!({ "mutate_interval": 5 }), 400),
        (json!({ "mutate_interval": "1d", "x": 1 }), 400),
        (json!({ "mutate_interval": "0m" }), 422),
        (json!({ "mutate_interval": "5h" }), 422),
        (json!({ "mutate_interval": "" }), 422),
    ] {
        let answer = master
            .ask(Method::PUT, "/deckies/web/mutate-interval", Some(body.clone()))
            .await;
        assert_eq!(answer.status, status, "{body}");
    }
}
