//! What a request tells the log: its line, telling headers, body, and any credentials in it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, REFERER, USER_AGENT};

use crate::event::Category;
use crate::serve::Session;

/// Headers kept besides those with a field of their own.
const TELLING: &[&str] = &[
    "accept",
    "accept-language",
    "authorization",
    "cookie",
    "forwarded",
    "origin",
    "proxy-authorization",
    "x-api-key",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-original-url",
    "x-real-ip",
    "x-requested-with",
];

/// Field names of login forms, user and password.
const FORMS: &[(&str, &str)] = &[
    ("log", "pwd"),
    ("pma_username", "pma_password"),
    ("j_username", "j_password"),
    ("username", "password"),
    ("user", "password"),
    ("user", "pass"),
    ("email", "password"),
    ("login", "password"),
    ("uname", "psw"),
    ("name", "pass"),
];

/// Fields of a form looked at.
const FIELDS: usize = 64;

pub(super) fn request(session: &Session, head: &Parts, body: &[u8], status: StatusCode) {
    let header = |name: &HeaderName| head.headers.get(name).map(http::HeaderValue::as_bytes);
    let mut event = session
        .event("request", Category::Web)
        .outcome(status.is_success() || status.is_redirection())
        .text("http.request.method", head.method.as_str())
        .field("http.version", version(head.version))
        .field("http.response.status_code", status.as_u16())
        .text("url.path", head.uri.path())
        .maybe("url.query", head.uri.query())
        .maybe("url.domain", head.uri.host().map(str::as_bytes).or(header(&HOST)))
        .maybe("user_agent.original", header(&USER_AGENT))
        .maybe("http.request.referrer", header(&REFERER))
        .maybe("http.request.mime_type", header(&CONTENT_TYPE));
    for name in TELLING {
        event = event.maybe(&format!("decnet.headers.{name}"), head.headers.get(*name));
    }
    if !body.is_empty() {
        event = event
            .field("http.request.body.bytes", body.len())
            .text("http.request.body.content", body);
    }
    event.emit();
}

/// Every user and password the request carries.
pub(super) fn credentials(head: &Parts, body: &[u8]) -> Vec<(String, String)> {
    basic(&head.headers)
        .into_iter()
        .chain(form(&head.headers, body))
        .collect()
}

/// RFC 7617 §2.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8_lossy(&STANDARD.decode(token.trim()).ok()?).into_owned();
    let (user, password) = pair.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn form(headers: &HeaderMap, body: &[u8]) -> Option<(String, String)> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    if !kind.starts_with("application/x-www-form-urlencoded") {
        return None;
    }
    let fields: Vec<_> = form_urlencoded::parse(body).take(FIELDS).collect();
    let value = |name: &str| {
        fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.clone())
    };
    FORMS
        .iter()
        .find_map(|(user, password)| Some((value(user)?.into_owned(), value(password)?.into_owned())))
}

fn version(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "1.0",
        http::Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
