//! Who asks, what they may do, and how many streams they have open.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use decnet_wire::trace::Traceparent;
use hyper::StatusCode;
use hyper::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};

use super::answer::{Problem, ask};
use super::{App, Peer};
use crate::audit::Actor;
use crate::control::Control;
use crate::records::Role;
use crate::serve::listen::Proven;

/// Event streams that one caller may have open.
pub(super) const STREAMS_PER_CALLER: usize = 5;

/// Somebody with a role.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    role: Role,
    identity: Identity,
    actor: Actor,
    /// The hash that the token is stored under.
    token: Option<String>,
}

impl Caller {
    /// Waits until the caller may see nothing more: its token is revoked, or has expired.
    pub(super) fn ended(&self, control: &Arc<Control>) -> impl Future<Output = ()> + Send + 'static {
        let (control, token) = (Arc::clone(control), self.token.clone());
        async move {
            match token {
                Some(token) => control.token_ended(token).await,
                None => std::future::pending().await,
            }
        }
    }

    /// The span of its request, which what it asks for is below.
    pub(super) fn traced(&mut self, request: Traceparent) {
        self.actor = self.actor.clone().traced(request);
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }
}

/// What one caller is told from another by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Identity {
    User(u32),
    /// SHA-256 of the token.
    Token([u8; 32]),
}

impl Identity {
    /// What the listener tells callers from each other by.
    fn proven(&self) -> Proven {
        match self {
            Self::Token(digest) => Proven(*digest),
            Self::User(uid) => Proven(Sha256::digest(uid.to_be_bytes()).into()),
        }
    }
}

/// Lets nobody pass without a role, and notes the [`Caller`] for the handlers.
///
/// On the socket, root and the user that the master runs as are admins: they could read the store as well. A
/// token that is given all the same counts, so that its role can be tried.
pub(super) async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let unauthorized = || Problem::new(StatusCode::UNAUTHORIZED, "Could not validate credentials");
    let caller = match request.headers().get(AUTHORIZATION) {
        Some(header) => {
            let Some(token) = header.to_str().ok().and_then(bearer).map(str::to_owned) else {
                return unauthorized().into_response();
            };
            let identity = Identity::Token(Sha256::digest(token.as_bytes()).into());
            match ask(&app, move |control| control.operator(&token)).await {
                Ok(Some(known)) => Caller {
                    role: known.role,
                    identity,
                    actor: Actor::token(&known.name, known.role, address(request.extensions().get())),
                    token: Some(known.hash),
                },
                Ok(None) => return unauthorized().into_response(),
                Err(problem) => return problem.into_response(),
            }
        }
        None => match request.extensions().get::<Peer>() {
            Some(Peer::Unix { uid }) if *uid == 0 || *uid == nix::unistd::geteuid().as_raw() => Caller {
                role: Role::Admin,
                identity: Identity::User(*uid),
                actor: Actor::local(*uid),
                token: None,
            },
            _ => return unauthorized().into_response(),
        },
    };
    let proven = caller.identity.proven();
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    response.extensions_mut().insert(proven);
    response
}

fn address(peer: Option<&Peer>) -> Option<IpAddr> {
    match peer {
        Some(Peer::Tls { address }) => Some(address.ip()),
        Some(Peer::Unix { .. }) | None => None,
    }
}

/// RFC 6750 §2.1; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "Could not validate credentials"))
    }
}

/// Proof that the caller may change things, and who it is. A handler that takes it is refused to everybody else.
#[derive(Debug)]
pub(super) struct Admin(pub(super) Actor);

impl<S: Sync> FromRequestParts<S> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        match caller.role {
            Role::Admin => Ok(Self(caller.actor)),
            Role::Viewer => Err(Problem::new(StatusCode::FORBIDDEN, "Insufficient permissions")),
        }
    }
}

/// The event streams that are open.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<HashMap<Identity, usize>>);

impl Streams {
    /// A place for one more stream of this caller. Taken before anything is answered.
    pub(super) fn open(self: &Arc<Self>, caller: &Caller) -> Result<StreamPlace, Problem> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(caller.identity.clone()).or_insert(0);
        if *count >= STREAMS_PER_CALLER {
            let detail = format!("{STREAMS_PER_CALLER} event streams are open already: close one first");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
        }
        *count += 1;
        Ok(StreamPlace {
            streams: Arc::clone(self),
            identity: caller.identity.clone(),
        })
    }
}

/// A place among the streams; free again when it is dropped.
#[derive(Debug)]
pub(super) struct StreamPlace {
    streams: Arc<Streams>,
    identity: Identity,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut open = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.identity) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.identity);
            }
        }
    }
}
