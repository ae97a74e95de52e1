//! The master itself.

use hyper::Method;
use serde_json::json;

use crate::serve::operator::testing::Master;

#[tokio::test]
async fn mode_config_and_limit() {
    let master = Master::new();
    let mode = master
        .ask(Method::GET, "/system/deployment-mode", None)
        .await
        .json();
    assert_eq!(
        mode,
        json!({ "mode": "unihost", "role": "master", "swarm_host_count": 0 })
    );
    master.enrol("edge-01");
    let mode = master
        .ask(Method::GET, "/system/deployment-mode", None)
        .await
        .json();
    assert_eq!(
        mode,
        json!({ "mode": "swarm", "role": "master", "swarm_host_count": 1 })
    );
    let config = master
        .ask_as(&master.viewer, Method::GET, "/config", None)
        .await
        .json();
    assert_eq!(
        config,
        json!({ "role": "viewer", "deployment_limit": 10, "global_mutation_interval": "30m" })
    );
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
        let answer = master
            .ask(Method::PUT, "/config/deployment-limit", Some(body.clone()))
            .await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
    }
    assert_eq!(
        master.ask(Method::GET, "/config", None).await.json()["deployment_limit"],
        500
    );
}

#[tokio::test]
async fn health_names_what_is_wrong() {
    let master = Master::new();
    let answer = master.ask(Method::GET, "/health", None).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["status"]),
        (200, &json!("healthy")),
        "{}",
        answer.text
    );
    // No publisher runs in this test: the host's first bundle stays due.
    master.enrol("edge-01");
    let health = master.ask(Method::GET, "/health", None).await.json();
    assert_eq!(health["status"], "degraded");
    assert!(
        health["components"]["publisher"]["detail"]
            .as_str()
            .unwrap()
            .contains("edge-01")
    );
    master.control.publish_due().unwrap();
    assert_eq!(
        master.ask(Method::GET, "/health", None).await.json()["status"],
        "healthy"
    );
}

#[tokio::test]
async fn a_new_token_works_and_has_its_role() {
    let master = Master::new();
    let answer = master
        .ask(
            Method::POST,
            "/tokens",
            Some(json!({ "name": "dash", "role": "viewer" })),
        )
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(
        master.ask_as(&token, Method::GET, "/config", None).await.json()["role"],
        "viewer"
    );
    for (body, status) in [
        (json!({ "name": "x" }), 400),
        (json!({ "role": "viewer" }), 400),
        (json!({ "name": "", "role": "viewer" }), 400),
        (json!({ "name": "x".repeat(65), "role": "viewer" }), 422),
        (json!({ "name": "x", "role": "root" }), 422),
    ] {
        assert_eq!(
            master
                .ask(Method::POST, "/tokens", Some(body.clone()))
                .await
                .status,
            status,
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_catalogue_is_listed() {
    let master = Master::new();
    let services = master
        .ask_as(&master.viewer, Method::GET, "/catalogue/services", None)
        .await
        .json();
    let ssh = services["services"]
        .as_array()
        .unwrap()
        .iter()
        .find(|service| service["name"] == "ssh")
        .unwrap();
    assert_eq!(ssh["ports"], json!(["22/tcp"]));
    let archetypes = master
        .ask(Method::GET, "/catalogue/archetypes", None)
        .await
        .json();
    assert!(
        archetypes["archetypes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["name"] == "web-server")
    );
    let distros = master.ask(Method::GET, "/catalogue/distros", None).await.json();
    assert!(
        distros["distros"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["name"] == "debian")
    );
}
