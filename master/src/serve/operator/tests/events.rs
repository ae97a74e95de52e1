//! The streams of events.

use std::time::Duration;

use axum::body::Body;
use decnet_wire::bundle::OperationKind;
use decnet_wire::ids::{DeckyName, Timestamp};
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{deploy, request};
use crate::audit::Actor;
use crate::control::events::topic::Filter;
use crate::control::events::{Event, Events, LifecycleEvent};
use crate::records::{Role, RowStatus};
use crate::serve::operator::events::told;
use crate::serve::operator::testing::{FLEET, Master};

/// A comment with the reader's place.
fn assert_alive(text: &str) {
    let id = text
        .strip_prefix(": keep-alive\nid: ")
        .and_then(|rest| rest.strip_suffix("\n\n"));
    assert_eq!(id.map(str::len), Some(33), "{text:?}");
}

/// What stands behind a field of a block.
fn field<'a>(block: &'a str, name: &str) -> &'a str {
    block
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .unwrap_or_else(|| panic!("no {name} in {block:?}"))
}

fn data(block: &str) -> Value {
    serde_json::from_str(field(block, "data")).unwrap()
}

/// Opens a stream as `token` and gives out its status and body.
async fn open_stream(master: &Master, token: &str) -> (u16, Body) {
    open(master, token, "/deckies/lifecycle/events", None).await
}

async fn open(master: &Master, token: &str, path: &str, last: Option<&str>) -> (u16, Body) {
    let mut request =
        request(Method::GET, &format!("/api/v1{path}")).header("authorization", format!("Bearer {token}"));
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    let request = request.body(Body::empty()).unwrap();
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
    assert_alive(&next_text(&mut body).await);
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
        assert!(lines.next().unwrap().starts_with("id: "), "{text}");
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

fn transition(decky: &str) -> Event {
    let decky_name: DeckyName = decky.parse().unwrap();
    Event::Lifecycle(LifecycleEvent {
        lifecycle_id: "0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11".parse().unwrap(),
        decky_name,
        host_uuid: None,
        operation: OperationKind::Deploy,
        status: RowStatus::Running,
        error: None,
        ts: Timestamp::new(time::macros::datetime!(2026-01-01 00:00 UTC)),
    })
}

#[tokio::test]
async fn a_slow_reader_is_told_how_much_it_missed_and_reads_on() {
    let bus = Events::bounded(2, 1 << 20);
    let mut body = told(bus.subscribe(Filter::all()), std::future::pending(), ()).into_body();
    let begun = next_text(&mut body).await;
    assert_alive(&begun);
    for name in ["a", "b", "c", "d", "e"] {
        bus.publish([transition(name)]);
    }
    let gap = next_text(&mut body).await;
    assert_eq!(field(&gap, "event"), "lagged");
    let until = field(&gap, "id");
    assert_eq!(
        data(&gap),
        json!({ "missed": 3, "reason": "slow", "after": field(&begun, "id"), "until": until })
    );
    for (name, before) in [("d", until.to_owned()), ("e", String::new())] {
        let block = next_text(&mut body).await;
        assert_eq!(field(&block, "event"), format!("decky.{name}.lifecycle"));
        assert!(field(&block, "id") > before.as_str());
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_shows_every_15_seconds_that_it_is_alive() {
    let bus = Events::bounded(2, 1 << 20);
    let filter = Filter::new(["host.>"]).unwrap();
    let mut body = told(bus.subscribe(filter), std::future::pending(), ()).into_body();
    let first = next_text(&mut body).await;
    assert_alive(&first);
    let begun = tokio::time::Instant::now();
    bus.publish([transition("a")]);
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let text = std::str::from_utf8(&frame).unwrap();
    assert_alive(text);
    assert_eq!(begun.elapsed().as_secs(), 15);
    // Its place goes on with what it does not want to hear of.
    assert!(field(text, "id") > field(&first, "id"));
}

#[tokio::test]
async fn a_reader_who_was_cut_off_gets_exactly_what_it_missed() {
    let master = Master::new();
    let (_, mut body) = open(&master, &master.viewer, "/events", None).await;
    let mut last = field(&next_text(&mut body).await, "id").to_owned();
    // At any moment, also before the first event, and also many times.
    let names: Vec<String> = (0..20).map(|n| format!("d{n}")).collect();
    let mut heard = Vec::new();
    for (n, name) in names.iter().enumerate() {
        master.control.events().publish([transition(name)]);
        if n % 3 == 0 {
            drop(body);
            let missed = format!("m{n}");
            master.control.events().publish([transition(&missed)]);
            let (status, again) = open(&master, &master.viewer, "/events", Some(&last)).await;
            assert_eq!(status, 200);
            body = again;
            assert_eq!(field(&next_text(&mut body).await, "id"), last);
        }
    }
    let expected: Vec<String> = (0..20)
        .flat_map(|n| [Some(format!("d{n}")), (n % 3 == 0).then(|| format!("m{n}"))])
        .flatten()
        .collect();
    // Nothing was read in between: all of it comes now, once and in order.
    for _ in &expected {
        let block = next_text(&mut body).await;
        assert!(field(&block, "id") > last.as_str());
        field(&block, "id").clone_into(&mut last);
        heard.push(data(&block)["decky_name"].as_str().unwrap().to_owned());
    }
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn what_cannot_be_told_after_a_cut_is_said_with_its_reason() {
    let bus = Events::bounded(3, 1 << 20);
    let names = ["a", "b", "c", "d", "e"];
    let mut reader = told(bus.subscribe(Filter::all()), std::future::pending(), ()).into_body();
    let begun = next_text(&mut reader).await;
    let begun = field(&begun, "id");
    for name in names {
        bus.publish([transition(name)]);
    }
    let other = format!("{}-{:016x}", "0123456789abcdef", 3);
    let beyond = format!("{}-{:016x}", &begun[..16], 99);
    for (last, expected, then) in [
        (begun, json!([2, "away", begun]), Some("c")),
        (&other, json!([null, "restarted", other]), Some("c")),
        (&beyond, json!([null, "unknown", beyond]), None),
        ("nonsense", json!([null, "unknown", null]), None),
    ] {
        let resumed = bus.resume(Filter::all(), last);
        let mut body = told(resumed, std::future::pending(), ()).into_body();
        assert_eq!(next_text(&mut body).await, ": keep-alive\n\n", "{last}");
        let gap = next_text(&mut body).await;
        let said = data(&gap);
        assert_eq!(json!([said["missed"], said["reason"], said["after"]]), expected);
        assert_eq!(said["until"], field(&gap, "id"));
        bus.publish([]);
        if let Some(name) = then {
            assert_eq!(data(&next_text(&mut body).await)["decky_name"], name);
        }
        // Resumed from the gap itself, there is none.
        let resumed = bus.resume(Filter::all(), field(&gap, "id"));
        let mut body = told(resumed, std::future::pending(), ()).into_body();
        assert_alive(&next_text(&mut body).await);
    }
}

#[tokio::test]
async fn a_stream_carries_the_topics_that_are_asked_for_and_no_others() {
    let master = Master::new();
    let path = "/events?topic=decky.web.%3E&topic=host.*.state";
    let (status, mut body) = open(&master, &master.viewer, path, None).await;
    assert_eq!(status, 200);
    assert_alive(&next_text(&mut body).await);
    master.enrol("edge-01");
    master.ask(Method::POST, "/deckies/deploy", deploy(FLEET)).await;
    let mut said = Vec::new();
    for _ in 0..4 {
        let block = next_text(&mut body).await;
        let data = data(&block);
        assert_eq!(data["topic"], field(&block, "event"));
        said.push((
            field(&block, "event").to_owned(),
            data["to"].clone(),
            data["new_services"].clone(),
        ));
    }
    let event = |topic: &str, to, services| (topic.to_owned(), to, services);
    assert_eq!(
        said,
        [
            event("host.edge-01.state", json!("invited"), json!(null)),
            event("host.edge-01.state", json!("enrolled"), json!(null)),
            event("decky.web.mutation", json!(null), json!(["ssh"])),
            event("decky.web.lifecycle", json!(null), json!(null)),
        ]
    );
    let (status, _) = open(&master, &master.viewer, "/events?topic=decky..x", None).await;
    assert_eq!(status, 422);
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
    let bus = Events::bounded(2, 1 << 20);
    let end = CancellationToken::new();
    let reader = bus.subscribe(Filter::all());
    let mut body = told(reader, end.clone().cancelled_owned(), ()).into_body();
    assert_alive(&next_text(&mut body).await);
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
        assert_alive(&next_text(body).await);
    }
    master.control.revoke_token(&somebody, "revoked").unwrap();
    assert_eq!(rest(first).await, "");
    rest(second).await;
    assert_eq!(open_stream(&master, &revoked).await.0, 401);
    // The other one hears of what happens next.
    master.enrol("edge-01");
    master.ask(Method::POST, "/deckies/deploy", deploy(FLEET)).await;
    assert!(next_text(&mut other).await.contains("\nevent: decky."));
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
