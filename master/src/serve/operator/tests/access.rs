//! Who may ask what.

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::header::WWW_AUTHENTICATE;
use serde_json::json;
use tower::ServiceExt as _;

use super::{TLS, documented_routes, request};
use crate::serve::operator::Peer;
use crate::serve::operator::testing::Master;

#[tokio::test]
async fn without_a_valid_token_everything_is_401() {
    let master = Master::new();
    for header in [
        None,
        Some("Bearer "),
        Some("Bearer nonsense"),
        Some("Basic YTpi"),
        Some("decnet_x"),
    ] {
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
    assert_eq!(
        master.ask_as(&token, Method::GET, "/deckies", None).await.status,
        401
    );
    assert_eq!(master.ask(Method::GET, "/deckies", None).await.status, 200);
}

#[tokio::test]
async fn every_route_of_the_document_exists_and_is_closed_without_a_token() {
    let master = Master::new();
    let routes = documented_routes();
    assert!(routes.len() >= 20, "{routes:?}");
    for (method, path) in routes {
        let path = path
            .replace("{name}", "web")
            .replace("{uuid}", "0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11");
        let answer = master
            .send(request(method.clone(), &path).body(Body::empty()).unwrap(), TLS)
            .await;
        assert_eq!(answer.status, 401, "{method} {path}");
        let request =
            request(method.clone(), &path).header("authorization", format!("Bearer {}", master.admin));
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(TLS);
        // Streams do not end, so the body is not read.
        let response = master.router.clone().oneshot(request).await.unwrap();
        assert_ne!(response.status(), 405, "{method} {path}");
        if response.status() == 404 {
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            let detail = String::from_utf8(bytes.to_vec()).unwrap();
            assert!(
                detail.contains("there is no"),
                "{method} {path} is in the document and not served: {detail}"
            );
        }
    }
}

#[tokio::test]
async fn a_viewer_reads_and_changes_nothing() {
    let master = Master::with_fleet();
    for path in [
        "/deckies",
        "/deckies/web",
        "/lifecycle",
        "/deckies/lifecycle?ids=x",
        "/config",
        "/system/deployment-mode",
        "/health",
        "/catalogue/services",
        "/catalogue/archetypes",
        "/catalogue/distros",
        "/openapi.json",
    ] {
        assert_eq!(
            master
                .ask_as(&master.viewer, Method::GET, path, None)
                .await
                .status,
            200,
            "{path}"
        );
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
        let request = request(Method::GET, "/api/v1/swarm/hosts")
            .body(Body::empty())
            .unwrap();
        assert_eq!(
            master.send(request, Peer::Unix { uid }).await.status,
            status,
            "{uid}"
        );
    }
    // A token that is given counts.
    let asks = || request(Method::GET, "/api/v1/swarm/hosts");
    let viewer = asks().header("authorization", format!("bearer {}", master.viewer));
    assert_eq!(
        master
            .send(viewer.body(Body::empty()).unwrap(), Peer::Unix { uid: 0 })
            .await
            .status,
        403
    );
    let wrong = asks().header("authorization", "Bearer wrong");
    assert_eq!(
        master
            .send(wrong.body(Body::empty()).unwrap(), Peer::Unix { uid: 0 })
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn a_token_is_listed_without_itself_and_worth_nothing_once_it_is_revoked() {
    let master = Master::new();
    let body = json!({"name": "ci", "role": "viewer", "ttl_seconds": 3600});
    let made = master.ask(Method::POST, "/tokens", Some(body.clone())).await;
    assert_eq!(made.status, 201);
    let token = made.json()["token"].as_str().unwrap().to_owned();
    let again = master.ask(Method::POST, "/tokens", Some(body)).await;
    assert_eq!(again.status, 409);
    assert!(again.detail().contains("ci already"), "{}", again.detail());

    assert_eq!(
        master.ask_as(&token, Method::GET, "/deckies", None).await.status,
        200
    );
    let listed = master.ask(Method::GET, "/tokens", None).await;
    let text = listed.json().to_string();
    assert!(!text.contains(&token), "{text}");
    let tokens = listed.json()["tokens"].as_array().unwrap().clone();
    let names: Vec<&str> = tokens
        .iter()
        .map(|token| token["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["ci", "init", "viewer"]);
    assert!(tokens[0]["expires_at"].is_string() && tokens[0]["last_used"].is_string());
    assert!(tokens[2]["expires_at"].is_null() && tokens[2]["last_used"].is_null());

    // Who may only read may not look at them, nor end them.
    let revoke = json!({"name": "ci"});
    for (method, path, body) in [
        (Method::GET, "/tokens", None),
        (Method::POST, "/tokens/revoke", Some(revoke.clone())),
    ] {
        assert_eq!(
            master.ask_as(&token, method, path, body).await.status,
            403,
            "{path}"
        );
    }
    for (status, known) in [(200, 401), (404, 401)] {
        let revoked = master
            .ask(Method::POST, "/tokens/revoke", Some(revoke.clone()))
            .await;
        assert_eq!(revoked.status, status);
        let answer = master.ask_as(&token, Method::GET, "/deckies", None).await;
        assert_eq!(answer.status, known);
    }
}

#[tokio::test]
async fn a_token_lives_from_a_second_to_ten_years() {
    let master = Master::new();
    for ttl in [
        json!(0),
        json!(315_360_001),
        json!(u64::MAX),
        json!(-1),
        json!("1h"),
    ] {
        let body = json!({"name": "ci", "role": "viewer", "ttl_seconds": ttl});
        let answer = master.ask(Method::POST, "/tokens", Some(body)).await;
        assert_eq!(answer.status, 422, "{ttl}");
    }
    let body = json!({"name": "ci", "role": "viewer", "ttl_seconds": 315_360_000});
    assert_eq!(master.ask(Method::POST, "/tokens", Some(body)).await.status, 201);
}
