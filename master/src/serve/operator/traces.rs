//! The trace that a request begins, or goes on with.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use decnet_trace::fresh;
use decnet_wire::trace::{self, Traceparent};
use hyper::HeaderMap;

use super::App;
use super::access::Caller;
use crate::control::traces;

/// The requests that begin operations.
const BEGINS: [(&str, &str); 3] = [
    ("POST", "/api/v1/deckies/deploy"),
    ("POST", "/api/v1/deckies/{name}/mutate"),
    ("DELETE", "/api/v1/deckies/{name}"),
];

/// Makes a span of a request that begins operations. What they come to is below it.
pub(super) async fn trace(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let method = request.method().as_str();
    let path = request.extensions().get().map(MatchedPath::as_str);
    let name = BEGINS
        .into_iter()
        .find(|begins| (begins.0, Some(begins.1)) == (method, path));
    let Some(name) = name.filter(|_| app.control.tracer().is_on()) else {
        return next.run(request).await;
    };
    let above = continued(request.headers());
    let own = fresh(above);
    if let Some(caller) = request.extensions_mut().get_mut::<Caller>() {
        caller.traced(own);
    }
    let begun = app.control.now();
    let response = next.run(request).await;
    if own.sampled {
        let (status, ended) = (response.status().as_u16(), app.control.now());
        let span = traces::request(own, above, name, status, begun, ended);
        app.control.tracer().record(span);
    }
    response
}

/// The trace that the caller goes on with. What is no traceparent is none (W3C Trace Context, §4.3).
fn continued(headers: &HeaderMap) -> Option<Traceparent> {
    let mut all = headers.get_all(trace::HEADER).iter();
    let (first, None) = (all.next()?, all.next()) else {
        return None;
    };
    first.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn one_traceparent_is_continued_and_anything_else_is_none() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut headers = HeaderMap::new();
        assert_eq!(continued(&headers), None);
        headers.insert(trace::HEADER, HeaderValue::from_static(good));
        assert_eq!(continued(&headers).unwrap().to_string(), good);
        headers.append(trace::HEADER, HeaderValue::from_static(good));
        assert_eq!(continued(&headers), None, "two of them");
        headers.insert(trace::HEADER, HeaderValue::from_static("00-rubbish"));
        assert_eq!(continued(&headers), None);
    }
}
