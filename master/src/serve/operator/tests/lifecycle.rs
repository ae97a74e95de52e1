//! Rows and their stream.

use std::time::Duration;

use axum::body::Body;
use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::Timestamp;
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{deploy, request};
use crate::audit::Actor;
use crate::control::events::LifecycleEvent;
use crate::records::{Role, RowStatus};
use crate::serve::operator::lifecycle::transitions;
use crate::serve::operator::testing::{FLEET, Master};

#[tokio::test]
async fn rows_take_1_to_200_ids() {
    let master = Master::new();
    assert_eq!(
        master.ask(Method::GET, "/deckies/lifecycle", None).await.status,
        400
    );
    assert_eq!(
        master
            .ask(Method::GET, "/deckies/lifecycle?id=x", None)
            .await
            .status,
        400
    );
    let ids = |count: usize| format!("/deckies/lifecycle?{}", vec!["ids=x"; count].join("&"));
    let answer = master.ask(Method::GET, &ids(200), None).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()),
        (200, json!({ "rows": [] }))
    );
    assert_eq!(master.ask(Method::GET, &ids(201), None).await.status, 422);
}

#[tokio::test]
async fn the_list_of_rows_checks_its_parameters() {
    let master = Master::with_fleet();
    let host = master.control.hosts().unwrap()[0].host.id;
    for (query, status) in [
        ("open=true", 200),
        ("open=maybe", 422),
        ("limit=0", 422),
        ("limit=1001", 422),
        ("limit=x", 422),
        ("host=x", 422),
    ] {
        assert_eq!(
            master
                .ask(Method::GET, &format!("/lifecycle?{query}"), None)
                .await
                .status,
            status,
            "{query}"
        );
    }
    let count = async |query: String| {
        let rows = master
            .ask(Method::GET, &format!("/lifecycle?{query}"), None)
            .await
            .json();
        rows["rows"].as_array().unwrap().len()
    };
    assert_eq!(count(format!("open=true&host={host}")).await, 2);
    assert_eq!(count("limit=1".to_owned()).await, 1);
    assert_eq!(
        count("host=0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11".to_owned()).await,
        0
    );
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
    let frame = tokio::time::timeout(Duration::from_secs(10), body.frame())
        .await
        .expect("no frame in 10 s");
    String::from_utf8(frame.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn the_stream_begins_with_a_comment_and_carries_every_transition() {
    let master = Master::new();
    master.enrol("edge-01");
    let (status, mut body) = open_stream(&master, &master.viewer).await;
    assert_eq!(status, 200);
    assert_eq!(next_text(&mut body).await, ": keep-alive\n\n");
    assert_eq!(
        master
            .ask(Method::POST, "/deckies/deploy", deploy(FLEET))
            .await
            .status,
        202
    );
    let mut names = Vec::new();
    for _ in 0..2 {
        let text = next_text(&mut body).await;
        let mut lines = text.lines();
        names.push(lines.next().unwrap().to_owned());
        let data: Value =
            serde_json::from_str(lines.next().unwrap().strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(
            (&data["status"], &data["operation"]),
            (&json!("pending"), &json!("deploy"))
        );
        assert!(data["lifecycle_id"].is_string());
    }
    names.sort();
    assert_eq!(
        names,
        ["event: decky.printer.lifecycle", "event: decky.web.lifecycle"]
    );
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
    let mut body = transitions(events, std::future::pending(), ()).into_body();
    assert_eq!(next_text(&mut body).await, ": keep-alive\n\n");
    for name in ["a", "b", "c", "d", "e"] {
        bus.send(transition(name)).unwrap();
    }
    assert_eq!(
        next_text(&mut body).await,
        "event: lagged\ndata: {\"missed\":3}\n\n"
    );
    assert!(
        next_text(&mut body)
            .await
            .starts_with("event: decky.d.lifecycle\n")
    );
    assert!(
        next_text(&mut body)
            .await
            .starts_with("event: decky.e.lifecycle\n")
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_shows_every_15_seconds_that_it_is_alive() {
    let (_bus, events) = broadcast::channel(2);
    let mut body = transitions(events, std::future::pending(), ()).into_body();
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

#[tokio::test]
async fn the_streams_end_with_the_master() {
    let (_bus, events) = broadcast::channel(2);
    let end = CancellationToken::new();
    let mut body = transitions(events, end.clone().cancelled_owned(), ()).into_body();
    assert_eq!(next_text(&mut body).await, ": keep-alive\n\n");
    end.cancel();
    let rest = tokio::time::timeout(Duration::from_secs(10), body.frame())
        .await
        .expect("it goes on");
    assert!(rest.is_none());
}

/// What is left of a stream, when it ends within ten seconds.
async fn rest(mut body: Body) -> String {
    let mut text = String::new();
    let read = async {
        while let Some(frame) = body.frame().await {
            text += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .expect("it goes on");
    text
}

/// A stream that was open went on for as long as its reader liked.
#[tokio::test]
async fn the_streams_of_a_token_end_when_it_is_revoked_and_no_others() {
    let master = Master::new();
    let somebody = Actor::master();
    let create = |name| master.control.create_token(&somebody, name, Role::Viewer, None);
    let (revoked, kept) = (create("revoked").unwrap(), create("kept").unwrap());
    let (_, mut first) = open_stream(&master, &revoked).await;
    let (_, second) = open_stream(&master, &revoked).await;
    let (_, mut other) = open_stream(&master, &kept).await;
    for body in [&mut first, &mut other] {
        assert_eq!(next_text(body).await, ": keep-alive\n\n");
    }
    master.control.revoke_token(&somebody, "revoked").unwrap();
    assert_eq!(rest(first).await, "");
    rest(second).await;
    assert_eq!(open_stream(&master, &revoked).await.0, 401);
    // The other one hears of what happens next.
    master.enrol("edge-01");
    master.ask(Method::POST, "/deckies/deploy", deploy(FLEET)).await;
    assert!(next_text(&mut other).await.starts_with("event: decky."));
}

#[tokio::test]
async fn the_streams_of_a_token_end_when_it_expires() {
    let master = Master::new();
    let lifetime = Some(time::Duration::SECOND);
    let token = master
        .control
        .create_token(&Actor::master(), "brief", Role::Viewer, lifetime)
        .unwrap();
    let (status, body) = open_stream(&master, &token).await;
    assert_eq!(status, 200);
    rest(body).await;
    assert_eq!(open_stream(&master, &token).await.0, 401);
}
