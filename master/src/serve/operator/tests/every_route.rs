//! What every route has in common.

use axum::body::Body;
use axum::extract::Request;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::header::{ALLOW, CONTENT_TYPE};
use serde_json::Value;
use tower::ServiceExt as _;

use super::{TLS, deploy, request};
use crate::serve::operator::testing::Master;
use crate::serve::operator::{body, catch_panics};

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
        assert!(
            answer.headers[CONTENT_TYPE]
                .to_str()
                .unwrap()
                .starts_with("text/plain")
        );
    }
    let asked = request(Method::POST, "/api/v1/deckies/deploy")
        .header("authorization", format!("Bearer {}", master.admin))
        .header(CONTENT_TYPE, "application/json; charset=utf-8");
    assert_eq!(
        master
            .send(asked.body(Body::from("{}")).unwrap(), TLS)
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn a_body_beyond_the_cap_is_413_and_not_read_on() {
    let master = Master::new();
    let answer = master
        .ask(
            Method::POST,
            "/deckies/deploy",
            deploy(&"#".repeat(body::BODY_CAP)),
        )
        .await;
    assert_eq!(answer.status, 413, "{}", answer.text);
    assert!(answer.detail().contains("4194304"));
}

#[tokio::test]
async fn what_does_not_exist_is_404_and_another_method_405() {
    let master = Master::new();
    let answer = master.ask(Method::GET, "/nothing", None).await;
    assert_eq!(
        (answer.status.as_u16(), answer.detail().as_str()),
        (404, "Not Found")
    );
    let answer = master.ask(Method::PATCH, "/config", None).await;
    assert_eq!(
        (answer.status.as_u16(), answer.detail().as_str()),
        (405, "Method Not Allowed")
    );
    assert!(answer.headers[ALLOW].to_str().unwrap().contains("GET"));
}

#[tokio::test]
async fn a_defect_is_500_with_an_id_and_the_next_request_is_answered() {
    let master = Master::new();
    let broken = axum::Router::new()
        .route(
            "/",
            axum::routing::get(async || -> String { panic!("on purpose") }),
        )
        .layer(axum::middleware::from_fn(catch_panics));
    let request = Request::builder().uri("/").body(Body::empty()).unwrap();
    let response = broken.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 500);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(body["detail"], "Internal Server Error");
    let id = body["error_id"].as_str().unwrap();
    assert!(
        id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{id}"
    );
    assert!(!String::from_utf8_lossy(&bytes).contains("on purpose"));
    assert_eq!(master.ask(Method::GET, "/config", None).await.status, 200);
}
