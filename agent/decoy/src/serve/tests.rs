//! Time is paused: it moves on to the next timer whenever every task waits, so the real limits are met at
//! once.

use std::ffi::OsString;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::*;

fn context() -> Context {
    let service = crate::services::find("telnet").unwrap();
    let lookup = |name: &str| {
        let value = match name {
            "DECNET_SEED" => "01".repeat(32),
            "DECNET_OS_FAMILY" => "linux".to_owned(),
            "DECNET_DISTRO" => "debian".to_owned(),
            "DECNET_PORT" => "0".to_owned(),
            "DECNET_PERSONA" => return None,
            _ => "web-01".to_owned(),
        };
        Some(OsString::from(value))
    };
    let mut context = Context::from_lookup(service, lookup).unwrap();
    context.log = EventLog::kept(context.slug, &context.host);
    context
}

/// Waits for the next event with this action.
async fn event(log: &EventLog, action: &str) -> Value {
    let begun = Instant::now();
    while begun.elapsed() < 2 * SESSION_CAP {
        let found = log
            .taken()
            .into_iter()
            .find(|event| event["event"]["action"] == action);
        if let Some(event) = found {
            return event;
        }
        // Paused time stands still while any task is busy, so this must rest.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no {action} event");
}

/// Serves with `handler`, and connects.
async fn connected<H, F>(handler: H) -> (TcpStream, EventLog)
where
    H: Fn(Connection, Arc<Session>) -> F + Send + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let context = context();
    let log = context.log.clone();
    tokio::spawn(async move { tcp(&context, handler).await.map_err(|error| error.to_string()) });
    let port = event(&log, "listening").await["destination"]["port"]
        .as_u64()
        .unwrap();
    let stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap()))
        .await
        .unwrap();
    event(&log, "connection").await;
    (stream, log)
}

async fn echo(mut connection: Connection, _session: Arc<Session>) -> io::Result<()> {
    let mut byte = [0];
    while connection.read(&mut byte).await? > 0 {
        connection.write_all(&byte).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_silent_visitor_is_let_go_after_the_idle_timeout() {
    let begun = Instant::now();
    let (mut visitor, log) = connected(echo).await;
    assert_eq!(visitor.read(&mut [0]).await.unwrap(), 0);
    assert!(begun.elapsed() >= IDLE_TIMEOUT && begun.elapsed() < 2 * IDLE_TIMEOUT);
    let reason = format!("idle for {} s", IDLE_TIMEOUT.as_secs());
    assert_eq!(event(&log, "disconnect").await["event"]["reason"], reason);
}

#[tokio::test(start_paused = true)]
async fn a_visitor_who_never_rests_is_let_go_at_the_cap() {
    let begun = Instant::now();
    let (mut visitor, log) = connected(echo).await;
    // Each byte comes before the idle timeout and starts it afresh.
    while visitor.write_all(b"x").await.is_ok() {
        if visitor.read(&mut [0]).await.unwrap_or(0) == 0 {
            break;
        }
        assert!(begun.elapsed() < 2 * SESSION_CAP, "still served");
        tokio::time::sleep(IDLE_TIMEOUT / 2).await;
    }
    assert!(begun.elapsed() >= SESSION_CAP);
    assert_eq!(
        event(&log, "disconnect").await["event"]["reason"],
        "lasted too long"
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_nothing_with_its_stream_ends_at_the_cap() {
    let begun = Instant::now();
    let (_visitor, log) = connected(|connection, _session| async move {
        let _kept = connection.into_stream();
        std::future::pending().await
    })
    .await;
    assert_eq!(
        event(&log, "disconnect").await["event"]["reason"],
        "lasted too long"
    );
    assert!(begun.elapsed() >= SESSION_CAP);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_commands_is_counted_instead_of_written() {
    let (_visitor, log) = connected(|_connection, session| async move {
        for _ in 0..100_000 {
            session.command("PING");
        }
        session.login("root", "toor", false);
        std::future::pending().await
    })
    .await;
    let told = event(&log, "suppressed").await;
    assert_eq!(told["source"]["ip"], "127.0.0.1");
    assert!(told["decnet"]["suppressed"].as_u64().unwrap() > 99_000);
}
