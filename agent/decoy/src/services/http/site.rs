//! The site one decky shows: its persona, and the answer to each request.

use http::request::Parts;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, SERVER};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::apps::{App, Header};
use super::software;
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

    /// The answer to a request; `tried` says that it carried credentials.
    pub(super) fn answer(&self, head: &Parts, tried: bool) -> Response<Full<Bytes>> {
        let path = head.uri.path();
        if let Some(page) = self.app.page(&self.identity, &head.method, path, tried) {
            // The persona's own words win on the front page.
            let front = path == "/";
            let status = self.status.filter(|_| front).unwrap_or(page.status);
            let body = self.body.clone().filter(|_| front).unwrap_or(page.body);
            return self.response(status, &page.headers, body);
        }
        let status = match self.app {
            App::None => self.status.unwrap_or(DEFAULT_STATUS),
            _ => StatusCode::NOT_FOUND,
        };
        match &self.body {
            Some(body) if self.app == App::None => self.response(status, &[], body.clone()),
            _ => self.failure(status),
        }
    }

    /// The web server's own page for a status.
    pub(super) fn failure(&self, status: StatusCode) -> Response<Full<Bytes>> {
        let reason = status.canonical_reason().unwrap_or("Unknown");
        self.response(
            status,
            &[],
            software::status_page(&self.server, status.as_u16(), reason),
        )
    }

    fn response(&self, status: StatusCode, headers: &[Header], body: String) -> Response<Full<Bytes>> {
        let kind = if body.trim_start().starts_with(['{', '[']) {
            "application/json"
        } else {
            "text/html; charset=UTF-8"
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let all = response.headers_mut();
        all.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        for (name, value) in headers {
            // Apps' headers are constants and hexadecimal ids, so each is a valid value.
            if let Ok(value) = HeaderValue::from_str(value) {
                all.append(HeaderName::from_static(name), value);
            }
        }
        all.extend(self.headers.clone());
        response
    }
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
