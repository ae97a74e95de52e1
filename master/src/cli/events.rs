//! `events`, and following them through cuts.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::Console;
use super::client::{Client, EventStream, ServerEvent};
use super::failure::Failure;
use super::table::printable;

/// How long a master may be away before following it ends.
const AWAY: Duration = Duration::from_secs(120);
/// How long to wait before the stream is opened again.
const AGAIN: Duration = Duration::from_secs(1);
/// A stream shows every 15 seconds that it is alive; one that does not for as long is opened again.
const SILENT: Duration = Duration::from_secs(60);

/// What `decnet events` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  decnet events                                        everything, one a line
  decnet events --topic 'host.>' --topic 'decky.*.state'
  decnet events --topic 'decky.web-01.>' --json | jq -r .topic

A topic is decky.NAME.lifecycle, decky.NAME.state, decky.NAME.mutation or host.NAME.state. * stands for one word, > at
the end for all that follow.")]
pub struct EventsArgs {
    /// Only these; may be given more than once
    #[arg(long, value_name = "TOPIC")]
    pub topic: Vec<String>,
}

pub(super) async fn run(
    args: &EventsArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let mut following = Following::open(client, args.topic.clone()).await?;
    loop {
        let event = following.next(console).await?;
        let data: Map<String, Value> = serde_json::from_str(&event.data).unwrap_or_default();
        if console.json {
            console.say(&document(&event, data))?;
        } else {
            console.say(printable(&line(&event.name, &data)).trim_end())?;
        }
    }
}

/// The event as one line of JSON, whatever the master sent.
pub(super) fn document(event: &ServerEvent, data: Map<String, Value>) -> String {
    let mut whole = Map::new();
    whole.extend(event.id.clone().map(|id| ("id".to_owned(), id.into())));
    whole.insert("topic".to_owned(), event.name.clone().into());
    whole.extend(data);
    Value::from(whole).to_string()
}

fn line(topic: &str, data: &Map<String, Value>) -> String {
    let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
    let services = |key: &str| {
        let list = data.get(key).and_then(Value::as_array);
        let names: Vec<&str> = list.into_iter().flatten().filter_map(Value::as_str).collect();
        if names.is_empty() {
            "-".to_owned()
        } else {
            names.join(",")
        }
    };
    let what = if data.contains_key("lifecycle_id") {
        [text("operation"), text("status"), text("error")].join("  ")
    } else if data.contains_key("new_services") {
        format!(
            "{} -> {}  {}  {}",
            services("old_services"),
            services("new_services"),
            text("trigger"),
            text("actor")
        )
    } else {
        let from = Some(text("from")).filter(|from| !from.is_empty());
        format!("{} -> {}  {}", from.unwrap_or("-"), text("to"), text("reason"))
    };
    [text("ts"), topic, &what].join("  ")
}

/// A stream that is opened again where it was cut.
pub(super) struct Following<'a> {
    client: &'a Client,
    topics: Vec<String>,
    stream: Option<EventStream>,
    last: Option<String>,
    away: Option<Instant>,
}

impl<'a> Following<'a> {
    /// # Errors
    /// The master is not there, or refuses.
    pub(super) async fn open(client: &'a Client, topics: Vec<String>) -> Result<Self, Failure> {
        let stream = client.events(&topics, None).await?;
        Ok(Self {
            client,
            topics,
            stream: Some(stream),
            last: None,
            away: None,
        })
    }

    /// The next event. Says what was missed.
    ///
    /// # Errors
    /// The master refuses, or none answers for [`AWAY`].
    pub(super) async fn next(&mut self, console: &mut Console<'_>) -> Result<ServerEvent, Failure> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.reopen().await?;
                continue;
            };
            let next = tokio::time::timeout(SILENT, stream.next()).await;
            if let Some(last) = stream.last() {
                self.last = Some(last.to_owned());
            }
            match next {
                Ok(Some(event)) if event.name == "lagged" => console.remark(&missed(&event.data)),
                Ok(Some(event)) => return Ok(event),
                // Cut off; or it says nothing for so long, and whether it did can be told by what came meanwhile.
                Ok(None) | Err(_) => self.stream = None,
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), Failure> {
        match self.client.events(&self.topics, self.last.as_deref()).await {
            Ok(stream) => {
                self.stream = Some(stream);
                self.away = None;
            }
            Err(failure @ Failure::Unreachable(_)) => {
                let since = *self.away.get_or_insert_with(Instant::now);
                if since.elapsed() >= AWAY {
                    return Err(failure);
                }
                tokio::time::sleep(AGAIN).await;
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

fn missed(data: &str) -> String {
    let data: Value = serde_json::from_str(data).unwrap_or_default();
    let what = match (data["missed"].as_u64(), data["reason"].as_str()) {
        (Some(1), _) => "1 event was missed".to_owned(),
        (Some(missed), _) => format!("{missed} events were missed"),
        (None, Some("restarted")) => {
            "the master was started again: what happened before it was there is not known".to_owned()
        }
        (None, _) => "some events were missed".to_owned(),
    };
    format!("decnet: {what}. `decnet lifecycle ls` and `decnet host ls` tell how things are now")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    fn shown(topic: &str, data: Value) -> String {
        let Value::Object(data) = data else {
            panic!("no object")
        };
        line(topic, &data).trim_end().to_owned()
    }

    #[test]
    fn each_kind_of_event_is_one_line_for_people() {
        let ts = "2026-01-01T00:00:00Z";
        for (topic, data, expected) in [
            (
                "decky.web.lifecycle",
                serde_json::json!({"ts": ts, "lifecycle_id": "x", "operation": "deploy", "status": "failed", "error": "no disk"}),
                "deploy  failed  no disk",
            ),
            (
                "decky.web.mutation",
                serde_json::json!({"ts": ts, "old_services": [], "new_services": ["ssh", "http"], "trigger": "creation", "actor": "root"}),
                "- -> ssh,http  creation  root",
            ),
            (
                "decky.web.state",
                serde_json::json!({"ts": ts, "from": "running", "to": "degraded"}),
                "running -> degraded",
            ),
            (
                "host.edge.state",
                serde_json::json!({"ts": ts, "from": null, "to": "invited", "reason": "why"}),
                "- -> invited  why",
            ),
        ] {
            assert_eq!(shown(topic, data), format!("{ts}  {topic}  {expected}"));
        }
    }

    #[test]
    fn what_was_missed_is_told_in_words() {
        assert!(missed(r#"{"missed":3,"reason":"slow"}"#).contains("3 events were missed"));
        assert!(missed(r#"{"missed":null,"reason":"restarted"}"#).contains("started again"));
        assert!(missed("nonsense").contains("some events were missed"));
    }

    /// Answers one request after another with these streams, cutting each off at its end. Gives out what was asked.
    async fn play(listener: UnixListener, streams: [&'static str; 2]) -> Vec<String> {
        let mut asked = Vec::new();
        for stream in streams {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await.unwrap());
            }
            asked.push(String::from_utf8(head).unwrap().to_ascii_lowercase());
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{stream}");
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    }

    #[tokio::test]
    async fn after_a_cut_it_goes_on_where_it_was_and_says_what_it_missed() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let master = tokio::spawn(play(
            listener,
            [
                ": keep-alive\nid: 4\n\nid: 5\nevent: host.a.state\ndata: {}\n\n: keep-alive\nid: 6\n\nid: 7\nevent: cut",
                "id: 9\nevent: lagged\ndata: {\"missed\":3}\n\nid: 10\nevent: host.b.state\ndata: {}\n\n",
            ],
        ));
        let connection = super::super::client::Connection {
            socket: Some(socket),
            server: None,
            ca: None,
            token_file: None,
            token: None,
        };
        let client = Client::new(&connection).unwrap();
        let mut err = Vec::new();
        let mut console = Console {
            input: &mut std::io::empty(),
            out: &mut std::io::sink(),
            err: &mut err,
            terminal: false,
            asks: false,
            json: false,
        };
        let mut following = Following::open(&client, vec!["host.>".to_owned()]).await.unwrap();
        for name in ["host.a.state", "host.b.state"] {
            assert_eq!(following.next(&mut console).await.unwrap().name, name);
        }
        let asked = master.await.unwrap();
        assert!(!asked[0].contains("last-event-id"), "{asked:?}");
        assert!(asked[1].contains("\r\nlast-event-id: 6\r\n"), "{asked:?}");
        assert!(
            asked
                .iter()
                .all(|head| head.starts_with("get /api/v1/events?topic=host.%3e ")),
            "{asked:?}"
        );
        let said = String::from_utf8(err).unwrap();
        assert!(said.starts_with("decnet: 3 events were missed"), "{said}");
    }
}
