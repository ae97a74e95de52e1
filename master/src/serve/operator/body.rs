//! Request bodies: read with a cap, checked key by key.
//!
//! A missing key, an unknown key and a value that is no text where one must be are 400; a value outside its
//! pattern or range, and a body that is no JSON, are 422.

use axum::extract::{FromRequest, Request};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::StatusCode;
use serde_json::{Map, Value};

use super::answer::Problem;
use crate::serve::listen::limits::BODY;

/// The most that a body may hold, in bytes: a fleet description of 524,288 characters, in JSON.
pub(super) const BODY_CAP: usize = 4 * 1024 * 1024;

/// A body that is a JSON object. Every key must be taken: what is left over is refused by [`Fields::done`].
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl<S: Sync> FromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let deploys = request.uri().path().ends_with("/deckies/deploy");
        let arriving = Limited::new(request.into_body(), BODY_CAP).collect();
        let Ok(arrived) = tokio::time::timeout(BODY, arriving).await else {
            let detail = format!("the body took longer than {} s", BODY.as_secs());
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail));
        };
        let bytes = match arrived {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let detail = format!("the body is larger than {BODY_CAP} bytes");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
            }
            Err(_) => return Err(Problem::malformed("the body did not arrive whole")),
        };
        let what = if deploys {
            "Invalid INI config"
        } else {
            "Invalid request parameters"
        };
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Problem::malformed(format!(
                "{what}: the body is not a JSON object"
            ))),
            Err(error) => Err(Problem::invalid(format!("{what}: the body is not JSON: {error}"))),
        }
    }
}

impl Fields {
    /// A text that must be there.
    pub(super) fn text(&mut self, key: &str) -> Result<String, Problem> {
        match self.0.remove(key) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(Problem::malformed(format!("{key} is not a string"))),
            None => Err(Problem::malformed(format!("{key} is missing"))),
        }
    }

    /// A text that may be left out or null.
    pub(super) fn optional_text(&mut self, key: &str) -> Result<Option<String>, Problem> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::malformed(format!("{key} is not a string"))),
        }
    }

    /// A text or null; must be there.
    pub(super) fn text_or_null(&mut self, key: &str) -> Result<Option<String>, Problem> {
        if self.0.contains_key(key) {
            self.optional_text(key)
        } else {
            Err(Problem::malformed(format!("{key} is missing")))
        }
    }

    /// A switch; off where it is left out. The words that people write for yes and no count as well.
    pub(super) fn switch(&mut self, key: &str) -> Result<bool, Problem> {
        match self.0.remove(key) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(on),
            Some(Value::Number(number)) if number.as_u64() == Some(1) => Ok(true),
            Some(Value::Number(number)) if number.as_u64() == Some(0) => Ok(false),
            Some(Value::String(word)) => match word.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(true),
                "false" | "no" | "off" | "0" => Ok(false),
                _ => Err(Problem::invalid(format!("{key} is not a boolean"))),
            },
            Some(_) => Err(Problem::invalid(format!("{key} is not a boolean"))),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn number(&mut self, key: &str) -> Result<Option<u64>, Problem> {
        match self.0.remove(key) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .map(Some)
                .ok_or_else(|| Problem::invalid(format!("{key} is not a whole number of zero or more"))),
        }
    }

    /// The whole object, for who checks it elsewhere.
    pub(super) fn whole(self) -> Value {
        Value::Object(self.0)
    }

    /// Nothing is left over.
    pub(super) fn done(self) -> Result<(), Problem> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => {
                let key: String = key.chars().take(80).collect();
                Err(Problem::malformed(format!("the key {key:?} is unknown")))
            }
        }
    }
}

/// How long a token is to live, out of `ttl_seconds`.
pub(super) fn lifetime(seconds: u64, most: time::Duration) -> Result<time::Duration, Problem> {
    let most = most.whole_seconds();
    i64::try_from(seconds)
        .ok()
        .filter(|seconds| (1..=most).contains(seconds))
        .map(time::Duration::seconds)
        .ok_or_else(|| Problem::invalid(format!("ttl_seconds is not within 1 to {most}")))
}
