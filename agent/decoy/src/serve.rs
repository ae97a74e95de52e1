//! Accepts visitors: bounds on how many, how long and how idle, and the events every service shares.

mod connection;
mod seats;
mod session;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

pub use connection::Connection;
pub use session::Session;

use seats::{Seat, Seats};

use crate::environment::Context;
use crate::event::{Category, Outcome, TELL};
use crate::{Failure, event::EventLog};

/// Connections of one service at a time. One more ends the oldest of the address that has most, so that nobody can
/// shut others out by holding all of them.
pub const MAX_CONNECTIONS: usize = 64;

/// Tasks at a time, with those of ended connections that are not done yet.
const MAX_TASKS: usize = 2 * MAX_CONNECTIONS;

/// How long a connection may neither deliver nor take a byte.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a connection may last.
pub const SESSION_CAP: Duration = Duration::from_secs(30 * 60);

/// The longest datagram read, in bytes; the rest of a longer one is thrown away.
pub const DATAGRAM_CAP: usize = 8 * 1024;

/// Serves TCP on the context's port for ever: `handler` runs once a connection, as its own task.
///
/// What the handler returns only ends its own connection; the error's text becomes the reason of the
/// `disconnect` event.
///
/// # Errors
///
/// When the port cannot be bound.
pub async fn tcp<H, F>(context: &Context, handler: H) -> Result<(), Failure>
where
    H: Fn(Connection, Arc<Session>) -> F,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, context.port));
    let listener = TcpListener::bind(address).await.map_err(|source| Failure::Bind {
        address: format!("tcp {address}"),
        source,
    })?;
    announce(
        &context.log,
        "tcp",
        listener.local_addr().map_or(context.port, |local| local.port()),
    );

    let mut seats = Seats::default();
    let mut sessions = JoinSet::new();
    let mut tell = tokio::time::interval(TELL);
    loop {
        let (stream, peer) = tokio::select! {
            // Ended connections' tasks go within moments; until then the kernel keeps newcomers waiting.
            accepted = listener.accept(), if sessions.len() < MAX_TASKS => match accepted {
                Ok(accepted) => accepted,
                // Out of descriptors, or the peer is gone already: neither ends the service.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            // A finished session, or a panicked one, frees its memory here.
            Some(ended) = sessions.join_next_with_id() => {
                seats.leave(match ended {
                    Ok((id, ())) => id,
                    Err(error) => error.id(),
                });
                continue;
            }
            _ = tell.tick() => {
                context.log.tell_suppressed();
                continue;
            }
        };
        let session = Session::open(
            &context.log,
            context.slug,
            "tcp",
            peer,
            local_address(&stream, context),
        );
        if seats.len() >= MAX_CONNECTIONS {
            seats.make_room();
        }
        session.announce();
        let session = Arc::new(session);
        let _ = stream.set_nodelay(true);
        let handle = stream.as_fd().try_clone_to_owned();
        let seated = Arc::clone(&session);
        let work = handler(
            Connection::new(stream, IDLE_TIMEOUT, SESSION_CAP),
            Arc::clone(&session),
        );
        let task = sessions.spawn(async move {
            let reason = match tokio::time::timeout(SESSION_CAP, work).await {
                Ok(Ok(())) => "closed".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "lasted too long".to_owned(),
            };
            session.close(&reason);
        });
        seats.take(Seat {
            task: task.id(),
            session: seated,
            // Out of descriptors: it cannot be ended early, only by its time limits.
            stream: handle.ok().map(std::net::TcpStream::from),
        });
    }
}

/// Serves UDP on the context's port for ever: `handler` turns a datagram into an answer, or none.
///
/// A datagram has no connection: the handler logs what it understood through the session it is given.
/// Source addresses can be forged, so answers should not be much longer than what they answer.
///
/// # Errors
///
/// When the port cannot be bound.
pub async fn udp<H>(context: &Context, mut handler: H) -> Result<(), Failure>
where
    H: FnMut(&[u8], &Session) -> Option<Vec<u8>>,
{
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, context.port));
    let socket = UdpSocket::bind(address).await.map_err(|source| Failure::Bind {
        address: format!("udp {address}"),
        source,
    })?;
    let local = socket.local_addr().unwrap_or(address);
    announce(&context.log, "udp", local.port());

    let mut buffer = vec![0; DATAGRAM_CAP];
    let mut tell = tokio::time::interval(TELL);
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            _ = tell.tick() => {
                context.log.tell_suppressed();
                continue;
            }
        };
        // Errors are a peer's ICMP complaint about an earlier answer, or a passing lack of memory.
        let Ok((count, peer)) = received else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let session = Session::open(&context.log, context.slug, "udp", peer, local);
        if let Some(answer) = handler(&buffer[..count], &session) {
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

/// The line that says the port is bound.
fn announce(log: &EventLog, transport: &'static str, port: u16) {
    log.event("listening", Category::Process)
        .outcome(Outcome::Success)
        .field("network.transport", transport)
        .field("destination.port", port)
        .field("process.pid", json!(std::process::id()))
        .emit();
}

fn local_address(stream: &TcpStream, context: &Context) -> SocketAddr {
    stream
        .local_addr()
        .unwrap_or_else(|_| SocketAddr::from((Ipv4Addr::UNSPECIFIED, context.port)))
}

#[cfg(test)]
mod tests;
