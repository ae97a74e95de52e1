//! Parameters in paths and queries.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use decnet_wire::ids::{DeckyName, HostId};
use hyper::StatusCode;

use super::answer::Problem;

/// A decky's name in a path.
#[derive(Debug)]
pub(super) struct DeckyPath(pub(super) DeckyName);

impl DeckyPath {
    /// `[a-z0-9-]{1,64}`, else 422. What matches and still cannot be a decky's name is the name of none: 404.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if !(1..=64).contains(&text.len()) || !text.bytes().all(allowed) {
            return Err(Problem::invalid(
                "the decky's name is not 1 to 64 of a-z, 0-9 and '-'",
            ));
        }
        text.parse()
            .map(Self)
            .map_err(|_| Problem::new(StatusCode::NOT_FOUND, format!("there is no decky {text}")))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for DeckyPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Self::parse(&text(parts, state).await?)
    }
}

/// A host's id in a path.
#[derive(Debug)]
pub(super) struct HostPath(pub(super) HostId);

impl<S: Send + Sync> FromRequestParts<S> for HostPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = text(parts, state).await?.parse();
        id.map(Self)
            .map_err(|error: decnet_wire::ids::ParseError| Problem::invalid(error.to_string()))
    }
}

async fn text<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, Problem> {
    let Path(text) = Path::<String>::from_request_parts(parts, state)
        .await
        .map_err(|_| Problem::invalid("Invalid request parameters"))?;
    Ok(text)
}

/// A query as the pairs it is made of. Parameters may repeat.
#[derive(Debug)]
pub(super) struct Pairs(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Pairs {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::invalid("Invalid request parameters"))?;
        Ok(Self(pairs))
    }
}

impl Pairs {
    /// Every value of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of a parameter; the last one counts.
    pub(super) fn last(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}
