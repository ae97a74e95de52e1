//! The site one decky shows: its persona, and the answer to each request.

use http::request::Parts;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName, HeaderValue, SERVER,
};
use hyper::{Method, Response, StatusCode, Version};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;

use super::apps::{App, Header};
use super::software::{self, Slot};
use crate::environment::{Context, EnvironmentError};
use crate::identity::Identity;

/// The status of every page when the persona names none.
const DEFAULT_STATUS: StatusCode = StatusCode::FORBIDDEN;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Persona {
    server_header: Option<String>,
    response_code: Option<u16>,
    fake_app: App,
    /// A JSON object, that object as text, or `Name: value` lines.
    extra_headers: Option<Value>,
    custom_body: Option<String>,
}

/// A decky's web site.
#[derive(Debug)]
pub(in crate::services) struct Site {
    app: App,
    identity: Identity,
    server: String,
    status: Option<StatusCode>,
    headers: HeaderMap,
    body: Option<String>,
}

impl Site {
    pub(in crate::services) fn new(context: &Context) -> Result<Self, EnvironmentError> {
        let persona: Persona = context.persona()?;
        let own = persona
            .fake_app
            .server()
            .unwrap_or_else(|| software::server_header(&context.host, &context.identity));
        let server = persona
            .server_header
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| own.to_owned());
        let mut headers = HeaderMap::new();
        if !server.is_empty() {
            let value = HeaderValue::from_str(&server).map_err(|_| EnvironmentError::PersonaValue {
                key: "server_header",
                problem: "holds characters that a header cannot carry".to_owned(),
            })?;
            headers.insert(SERVER, value);
        }
        for (name, value) in extra_headers(persona.extra_headers)? {
            headers.insert(name, value);
        }
        Ok(Self {
            app: persona.fake_app,
            identity: context.identity.clone(),
            server,
            status: persona.response_code.map(status).transpose()?,
            headers,
            body: persona.custom_body.filter(|text| !text.is_empty()),
        })
    }

    /// The answer to a request; `tried` says that it carried credentials, `place` to which host and port it was sent.
    pub(super) fn answer(&self, head: &Parts, tried: bool, place: (&str, u16)) -> Response<Full<Bytes>> {
        if let Some(refused) = self.refusal(head, place) {
            return refused;
        }
        let path = head.uri.path();
        if let Some(page) = self.app.page(&self.identity, &head.method, path, tried) {
            // The persona's own words win on the front page.
            let front = path == "/";
            let status = self.status.filter(|_| front).unwrap_or(page.status);
            let body = self.body.clone().filter(|_| front).unwrap_or(page.body);
            return self.response(status, PAGE, &page.headers, body);
        }
        match &self.body {
            Some(body) if self.app == App::None => self.response(self.status(), PAGE, &[], body.clone()),
            _ => self.failure(self.status(), place),
        }
    }

    /// What no server of this kind would serve, whatever the persona.
    fn refusal(&self, head: &Parts, place: (&str, u16)) -> Option<Response<Full<Bytes>>> {
        // RFC 9112 §3.2: exactly one Host, since HTTP/1.1.
        let hosts = head.headers.get_all(HOST).iter().count();
        if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
            let mut refused = self.failure(StatusCode::BAD_REQUEST, place);
            refused
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            return Some(refused);
        }
        // Servers as distributions configure them neither trace nor tunnel.
        matches!(head.method, Method::TRACE | Method::CONNECT).then(|| {
            let mut refused = self.failure(StatusCode::METHOD_NOT_ALLOWED, place);
            refused
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET,POST,OPTIONS,HEAD"));
            refused
        })
    }

    /// The status of what has no page of its own.
    fn status(&self) -> StatusCode {
        match self.app {
            App::None => self.status.unwrap_or(DEFAULT_STATUS),
            _ => StatusCode::NOT_FOUND,
        }
    }

    /// The web server's own page for a status.
    pub(super) fn failure(&self, status: StatusCode, place: (&str, u16)) -> Response<Full<Bytes>> {
        let reason = status.canonical_reason().unwrap_or("Unknown");
        self.response(
            status,
            software::page_kind(&self.server),
            &[],
            software::status_page(&self.server, status.as_u16(), reason, place),
        )
    }

    /// The whole answer, as sent, to what is no HTTP/1 request; `status` is the protocol library's.
    pub(super) fn malformed(&self, status: u16, place: (&str, u16)) -> Vec<u8> {
        let (status, reason, server) = software::malformed(&self.server, status);
        let body = software::status_page(server, status, reason, place);
        let mut text = format!("HTTP/1.1 {status} {reason}\r\n");
        for slot in software::order(server) {
            match slot {
                Slot::Date => text.push_str(&format!("Date: {}\r\n", date())),
                Slot::Server if server.is_empty() => {}
                Slot::Server => text.push_str(&format!("Server: {server}\r\n")),
                Slot::Kind => text.push_str(&format!("Content-Type: {}\r\n", software::page_kind(server))),
                Slot::Length => text.push_str(&format!("Content-Length: {}\r\n", body.len())),
                Slot::Others => {}
            }
        }
        text.push_str("Connection: close\r\n\r\n");
        text.push_str(&body);
        text.into_bytes()
    }

    /// The whole answer to a request of HTTP/0.9, `GET /path` and nothing else: a page without a head.
    pub(super) fn bare(&self, place: (&str, u16)) -> Vec<u8> {
        let page = self.body.clone().unwrap_or_else(|| {
            let status = self.status();
            let reason = status.canonical_reason().unwrap_or("Unknown");
            software::status_page(&self.server, status.as_u16(), reason, place)
        });
        page.into_bytes()
    }

    fn response(
        &self,
        status: StatusCode,
        kind: &'static str,
        headers: &[Header],
        body: String,
    ) -> Response<Full<Bytes>> {
        let kind = if body.trim_start().starts_with(['{', '[']) {
            "application/json"
        } else {
            kind
        };
        let length = body.len();
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let all = response.headers_mut();
        let mut others = self.headers.clone();
        let server = others.remove(SERVER);
        for slot in software::order(&self.server) {
            match slot {
                Slot::Date => {
                    if let Ok(value) = HeaderValue::try_from(date()) {
                        all.insert(DATE, value);
                    }
                }
                Slot::Server => all.extend(server.clone().map(|value| (SERVER, value))),
                Slot::Kind => {
                    all.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                }
                // RFC 9110 §8.6: these two have none.
                Slot::Length if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => {}
                Slot::Length => {
                    all.insert(CONTENT_LENGTH, HeaderValue::from(length));
                }
                Slot::Others => {
                    for (name, value) in headers {
                        // Apps' headers are constants and hexadecimal ids, so each is a valid value.
                        if let Ok(value) = HeaderValue::from_str(value) {
                            all.append(HeaderName::from_static(name), value);
                        }
                    }
                }
            }
        }
        // The persona's own win over all of these but the length, which has to be true.
        others.remove(CONTENT_LENGTH);
        all.extend(others);
        response
    }
}

/// The media type of applications' pages and the persona's body.
const PAGE: &str = "text/html; charset=UTF-8";

/// Now, as RFC 9110 §5.6.7 writes it.
fn date() -> String {
    let now = OffsetDateTime::now_utc();
    let (day, month) = (now.weekday().to_string(), now.month().to_string());
    format!(
        "{}, {:02} {} {} {:02}:{:02}:{:02} GMT",
        &day[..3],
        now.day(),
        &month[..3],
        now.year(),
        now.hour(),
        now.minute(),
        now.second()
    )
}

fn status(code: u16) -> Result<StatusCode, EnvironmentError> {
    // RFC 9110 §15: 1xx answers come before the final one.
    StatusCode::from_u16(code)
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| EnvironmentError::PersonaValue {
            key: "response_code",
            problem: format!("is {code}; a final HTTP status is 200 to 599"),
        })
}

fn extra_headers(key: Option<Value>) -> Result<Vec<(HeaderName, HeaderValue)>, EnvironmentError> {
    let pairs: Vec<(String, String)> = match key {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(fields)) => object_pairs(fields),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(Value::Object(fields)) => object_pairs(fields),
            _ => text
                .lines()
                .filter(|line| !line.trim().is_empty())
                .map(line_pair)
                .collect(),
        },
        Some(_) => vec![(String::new(), String::new())],
    };
    let header = |(name, value): (String, String)| {
        let parsed = name
            .trim()
            .parse()
            .ok()
            .zip(HeaderValue::from_str(value.trim()).ok());
        parsed.ok_or_else(|| EnvironmentError::PersonaValue {
            key: "extra_headers",
            problem: format!("has no valid header at {name:?}; write a JSON object of strings, or one \"Name: value\" a line"),
        })
    };
    pairs.into_iter().map(header).collect()
}

fn line_pair(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or(("", line));
    (name.to_owned(), value.to_owned())
}

fn object_pairs(fields: serde_json::Map<String, Value>) -> Vec<(String, String)> {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    fields
        .into_iter()
        .map(|(name, value)| (name, text(value)))
        .collect()
}
