//! Request bodies with a cap, and JSON answers, for the listeners that speak to agents.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body as HttpBody;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};

/// An answer's body: whole, or streamed from a file.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// Why a request's body was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not arrive whole")]
    Read,
    #[error("the body took longer than {} s", .0.as_secs())]
    TooSlow(Duration),
    #[error("the master has no room for one more body now; try again")]
    Busy,
    #[error("the body is not the document that is expected: {0}")]
    Parse(serde_json::Error),
}

impl BodyError {
    /// The answer that says it.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
        let status = match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Read => StatusCode::BAD_REQUEST,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Parse(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        refuse(status, &self.to_string())
    }
}

/// Memory for the bodies that are on their way at one moment: many clients with large ones cannot use up the machine's.
#[derive(Debug)]
pub struct Bodies {
    /// In units of [`UNIT`].
    room: Semaphore,
    arrival: Duration,
}

/// What room for bodies is counted in, in bytes.
const UNIT: usize = 1024;

impl Bodies {
    /// Room for `bytes` at once, each of which has to arrive in `arrival`.
    #[must_use]
    pub fn new(bytes: usize, arrival: Duration) -> Self {
        Self {
            room: Semaphore::new(bytes / UNIT),
            arrival,
        }
    }

    /// Reads a JSON document of at most `cap` bytes.
    ///
    /// # Errors
    /// It is larger, takes too long, is cut off, finds no room, or is another document.
    pub async fn read<T: DeserializeOwned>(
        &self,
        body: impl HttpBody<Data = Bytes, Error: Send> + Unpin,
        cap: usize,
    ) -> Result<T, BodyError> {
        // What it says of its length need not be waited for.
        if body.size_hint().lower() > cap as u64 {
            return Err(BodyError::TooLarge(cap));
        }
        let collected = tokio::time::timeout(self.arrival, self.collect(body, cap)).await;
        let (bytes, _room) = collected.map_err(|_| BodyError::TooSlow(self.arrival))??;
        serde_json::from_slice(&bytes).map_err(BodyError::Parse)
    }

    async fn collect(
        &self,
        mut body: impl HttpBody<Data = Bytes, Error: Send> + Unpin,
        cap: usize,
    ) -> Result<(Vec<u8>, Vec<SemaphorePermit<'_>>), BodyError> {
        let (mut bytes, mut room, mut held) = (Vec::new(), Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| BodyError::Read)?.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > cap {
                return Err(BodyError::TooLarge(cap));
            }
            let needed = (bytes.len() + data.len()).div_ceil(UNIT);
            // At least as much again at a time, so that a large body takes few permits.
            let more = u32::try_from(needed.saturating_sub(held).max(needed.min(held))).unwrap_or(u32::MAX);
            if needed > held {
                room.push(self.room.try_acquire_many(more).map_err(|_| BodyError::Busy)?);
                held += more as usize;
            }
            bytes.extend_from_slice(&data);
        }
        Ok((bytes, room))
    }
}

/// A JSON answer.
#[must_use]
pub fn json(status: StatusCode, document: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(document) {
        Ok(bytes) => whole(status, bytes),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// A JSON answer that is text already.
#[must_use]
pub fn whole(status: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(bytes.into()).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A file's bytes, so many of them.
#[must_use]
pub fn stream(size: u64, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    response
}

/// An answer without a body.
#[must_use]
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = whole(status, Bytes::new());
    response.headers_mut().remove(CONTENT_TYPE);
    response
}

/// A refusal: `{"detail": …}`.
#[must_use]
pub fn refuse(status: StatusCode, detail: &str) -> Response<Body> {
    json(status, &serde_json::json!({ "detail": detail }))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt as _, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use serde_json::Value;

    use super::*;

    const CAP: usize = 64 * 1024;
    const ARRIVAL: Duration = Duration::from_secs(60);

    fn frame(bytes: Vec<u8>) -> Result<Frame<Bytes>, Infallible> {
        Ok(Frame::data(Bytes::from(bytes)))
    }

    /// Spaces, which are JSON's, and then nothing more.
    fn spaces(length: usize) -> impl HttpBody<Data = Bytes, Error = Infallible> + Unpin {
        let begun = stream::iter((0..length / UNIT).map(|_| frame(vec![b' '; UNIT])));
        StreamBody::new(begun.chain(stream::pending()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let bodies = Bodies::new(CAP, ARRIVAL);
        let begun = tokio::time::Instant::now();
        let error = bodies.read::<Value>(spaces(UNIT), CAP).await.unwrap_err();
        assert!(matches!(error, BodyError::TooSlow(_)), "{error}");
        assert_eq!(begun.elapsed(), ARRIVAL);
        assert_eq!(bodies.room.available_permits(), CAP / UNIT);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_body_ends_at_its_cap_and_one_that_says_it_is_larger_is_not_read() {
        let bodies = Bodies::new(4 * CAP, ARRIVAL);
        let endless = StreamBody::new(stream::repeat_with(|| frame(vec![b' '; 1000])));
        let error = bodies.read::<Value>(endless, CAP).await.unwrap_err();
        assert!(matches!(error, BodyError::TooLarge(CAP)), "{error}");
        let said = Full::new(Bytes::from(vec![b' '; CAP + 1]));
        let error = bodies.read::<Value>(said, CAP).await.unwrap_err();
        assert!(matches!(error, BodyError::TooLarge(CAP)), "{error}");
        assert_eq!(bodies.room.available_permits(), 4 * CAP / UNIT);
    }

    #[tokio::test(start_paused = true)]
    async fn many_large_bodies_share_one_room_and_small_ones_find_some_again() {
        let bodies = Bodies::new(CAP, ARRIVAL);
        let slow = (0..10).map(|_| bodies.read::<Value>(spaces(CAP / 4), CAP));
        let outcomes = futures_util::future::join_all(slow).await;
        let busy = outcomes
            .iter()
            .filter(|one| matches!(one, Err(BodyError::Busy)))
            .count();
        assert!(
            (6..10).contains(&busy),
            "{busy} of 10 found no room: {outcomes:?}"
        );
        let small = Full::new(Bytes::from_static(b"{}"));
        bodies.read::<Value>(small, CAP).await.unwrap();
    }
}
