//! The streams of events: server-sent events (WHATWG HTML, §9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hyper::HeaderMap;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

use super::App;
use super::access::Caller;
use super::answer::Problem;
use super::parameters::Pairs;
use super::views::ErrorView;
use crate::control::events::topic::Filter;
use crate::control::events::{Gap, Heard, Reader};

/// What a reader who was cut off sends.
const LAST_EVENT_ID: &str = "last-event-id";
/// How often a stream with nothing to say shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The topics of the stream of transitions.
const TRANSITIONS: &str = "decky.*.lifecycle";

/// Follow what happens
///
/// Server-sent events named by their topics: `decky.<name>.lifecycle`, `decky.<name>.state`, `decky.<name>.mutation`,
/// `host.<name>.state`. A reader who was cut off sends the id of the last event that it has, and gets what it missed.
/// What of it cannot be told, or what a reader was too slow for, is an event `lagged` with
/// `{"missed": n or null, "reason": …, "after": id, "until": id}`: the reader reads the rows again. A comment comes
/// first, and every 15 seconds. The stream ends at once when the caller's token is revoked or expires.
#[utoipa::path(
    get, path = "/events", tag = "events",
    params(
        ("topic" = Option<Vec<String>>, Query, explode = true,
            description = "Only these, at most 16: `*` is one word, `>` at the end all that follow, as in `decky.*.state` or `host.>`"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that the reader has"),
    ),
    responses(
        (status = 200, description = "The stream", body = String, content_type = "text/event-stream"),
        (status = 422, description = "A topic that is none", body = ErrorView),
        (status = 429, description = "The caller has too many streams open", body = ErrorView),
    )
)]
pub(super) async fn events(
    caller: Caller,
    State(app): State<App>,
    pairs: Pairs,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let filter = Filter::new(pairs.all("topic")).map_err(|error| Problem::invalid(error.to_string()))?;
    follow(&caller, &app, filter, &headers)
}

/// Follow the transitions of deckies
///
/// The stream `/events` with the topics `decky.*.lifecycle`.
#[utoipa::path(
    get, path = "/deckies/lifecycle/events", tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that the reader has")),
    responses(
        (status = 200, description = "The stream", body = String, content_type = "text/event-stream"),
        (status = 429, description = "The caller has too many streams open", body = ErrorView),
    )
)]
pub(super) async fn transitions(
    caller: Caller,
    State(app): State<App>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let filter = Filter::new([TRANSITIONS]).map_err(|error| Problem::invalid(error.to_string()))?;
    follow(&caller, &app, filter, &headers)
}

fn follow(caller: &Caller, app: &App, filter: Filter, headers: &HeaderMap) -> Result<Response, Problem> {
    let place = app.streams.open(caller)?;
    let (end, ended) = (app.end.clone(), caller.ended(&app.control));
    let over = async move {
        tokio::select! {
            () = end.cancelled_owned() => {}
            () = ended => {}
        }
    };
    let events = app.control.events();
    let last = headers.get(LAST_EVENT_ID).filter(|last| !last.is_empty());
    let reader = match last {
        // What is no text is no id that was given out.
        Some(last) => events.resume(filter, last.to_str().unwrap_or_default()),
        None => events.subscribe(filter),
    };
    Ok(told(reader, over, place))
}

/// The stream of what `reader` gets until `over`. Holds `place` until it ends or its reader goes.
pub(super) fn told(
    reader: Reader,
    over: impl Future<Output = ()> + Send + 'static,
    place: impl Send + 'static,
) -> Response {
    // A first comment sends the headers at once and says that nothing from here on is missed.
    let stream = stream::unfold((true, reader, place), async |(first, mut reader, place)| {
        let frame = if first {
            alive(&reader)
        } else {
            match tokio::time::timeout(KEEP_ALIVE, reader.next()).await {
                Ok(Heard::Event(event)) => event.frame(),
                Ok(Heard::Gap(gap)) => lagged(&gap),
                Err(_) => alive(&reader),
            }
        };
        Some((Ok::<_, Infallible>(frame), (false, reader, place)))
    });
    let mut response = Response::new(Body::from_stream(stream.take_until(Box::pin(over))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// A comment, and where the reader is: one who hears of few topics would otherwise resume from long ago. A block without
/// data is no event, its id counts all the same.
fn alive(reader: &Reader) -> Bytes {
    match reader.position() {
        Some(id) => format!(": keep-alive\nid: {id}\n\n").into(),
        None => Bytes::from_static(b": keep-alive\n\n"),
    }
}

fn lagged(gap: &Gap) -> Bytes {
    // Numbers and ids: all of it can be written as JSON, in one line.
    let data = serde_json::to_string(gap).unwrap_or_else(|_| "{}".to_owned());
    format!("id: {}\nevent: lagged\ndata: {data}\n\n", gap.until).into()
}
