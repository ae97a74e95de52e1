//! What stands between hyper and a service: it follows whose turn it is, and hears who a client has proven to be.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service;
use hyper::{Request, Response, StatusCode, Version};

use super::paced::Turn;
use super::places::Place;

/// What hyper serves a connection with.
pub trait HttpService:
    Service<Request<Incoming>, Response = Response<Self::Body>, Error = Self::Failure, Future: Send>
    + Send
    + 'static
{
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;
    type Failure: Into<Box<dyn std::error::Error + Send + Sync>>;
}

impl<S, B, E> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = E, Future: Send> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Body = B;
    type Failure = E;
}

/// Among an answer's extensions: the client has shown that it is this one (SHA-256 of what it has shown).
#[derive(Debug, Clone, Copy)]
pub struct Proven(pub [u8; 32]);

/// A service at its listener.
#[derive(Debug)]
pub(super) struct Gate<S> {
    service: S,
    turn: Arc<Turn>,
    place: Arc<Place>,
    only_http_1_1: bool,
}

impl<S> Gate<S> {
    pub(super) fn new(service: S, turn: Arc<Turn>, place: Arc<Place>, only_http_1_1: bool) -> Self {
        Self {
            service,
            turn,
            place,
            only_http_1_1,
        }
    }
}

impl<S: HttpService> Service<Request<Incoming>> for Gate<S> {
    type Response = Response<Answer<S::Body>>;
    type Error = S::Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.turn.asked();
        let turn = Arc::clone(&self.turn);
        if self.only_http_1_1 && request.version() != Version::HTTP_11 {
            let mut refusal = Response::new(Answer { body: None, turn });
            *refusal.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
            refusal
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            return Box::pin(async { Ok(refusal) });
        }
        let place = Arc::clone(&self.place);
        let answering = self.service.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            if let Some(Proven(owner)) = response.extensions_mut().remove() {
                // Where no place is left, the connection is cut by whoever waits for that.
                place.prove(owner);
            }
            Ok(response.map(|body| Answer {
                body: Some(Box::pin(body)),
                turn,
            }))
        })
    }
}

/// An answer's body. The turn goes to the client when it is over.
#[derive(Debug)]
pub(super) struct Answer<B> {
    body: Option<Pin<Box<B>>>,
    turn: Arc<Turn>,
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.body {
            Some(body) => body.as_mut().poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        self.turn.answered();
    }
}
