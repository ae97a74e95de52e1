//! MySQL or MariaDB up to the refused login.
//!
//! The greeting is the one of a real release. What a client answers is a hash of the password over the
//! greeting's scramble; both are logged, so that guesses can be checked later. Nobody is let in.
//!
//! The few packets of the connection phase are written here
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html>): the server
//! crates bring a whole query engine with compression, decimals and dates, and hide the login's bytes.

mod packet;
mod release;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::Failure;
use crate::environment::Context;
use crate::event::{Category, Outcome};
use crate::serve::{self, Connection, Session};
use packet::{Login, PacketError, Refusal};
use release::Release;

/// The older method, for which accounts are made when clients of all ages must log in.
const NATIVE: &str = "mysql_native_password";

/// Keys of the persona.
#[derive(Debug, Default, Deserialize)]
struct Persona {
    version: Option<String>,
}

#[derive(Debug)]
struct Server {
    release: Release,
    connections: AtomicU32,
    random: SystemRandom,
}

/// Serves for ever.
///
/// # Errors
///
/// When the persona is malformed or the port cannot be bound.
pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let persona: Persona = context.persona()?;
    let first = u32::try_from(context.identity.number("mysql.connection", 8..=40_000)).unwrap_or(8);
    let server = Arc::new(Server {
        release: Release::new(&context.identity, &context.host, persona.version),
        connections: AtomicU32::new(first),
        random: SystemRandom::new(),
    });
    serve::tcp(&context, move |connection, session| {
        visit(connection, session, Arc::clone(&server))
    })
    .await
}

async fn visit(mut stream: Connection, session: Arc<Session>, server: Arc<Server>) -> io::Result<()> {
    let connection = server.connections.fetch_add(1, Ordering::Relaxed);
    let scramble = scramble(&server.random)?;
    packet::write(
        &mut stream,
        0,
        &packet::greeting(&server.release, connection, &scramble),
    )
    .await?;

    let (sequence, body) = match packet::read(&mut stream).await {
        Ok(packet) => packet,
        Err(PacketError::Io(error)) => return Err(error),
        Err(PacketError::TooLarge(head)) => {
            session.garbage(head);
            return refuse(&mut stream, 1, &Refusal::too_large()).await;
        }
    };
    let Some(login) = Login::parse(&body) else {
        session.garbage(&body);
        return refuse(&mut stream, sequence.wrapping_add(1), &Refusal::bad_handshake()).await;
    };

    // A server whose default method is newer than the account's asks again in the account's method. An
    // empty answer means no password; there is nothing to ask for then.
    let mut sequence = sequence.wrapping_add(1);
    let mut second = None;
    let asks_again = login
        .plugin
        .as_deref()
        .is_some_and(|plugin| plugin != NATIVE.as_bytes());
    if asks_again && !login.response.is_empty() {
        let again = packet::switch_request(NATIVE, &scramble);
        if packet::write(&mut stream, sequence, &again).await.is_ok()
            && let Ok((answered, body)) = packet::read(&mut stream).await
        {
            sequence = answered.wrapping_add(1);
            second = Some(body);
        }
    }
    log(&session, &login, &scramble, second.as_deref());
    let refusal = Refusal::access_denied(&login.user, session.peer(), !login.response.is_empty());
    refuse(&mut stream, sequence, &refusal).await
}

fn log(session: &Session, login: &Login, scramble: &[u8; 20], second: Option<&[u8]>) {
    let mut event = session
        .event("login", Category::Authentication)
        .outcome(Outcome::Failure)
        .text("user.name", &login.user)
        .maybe("decnet.mysql.database", login.database.as_ref())
        .maybe("decnet.mysql.plugin", login.plugin.as_ref())
        .field("decnet.mysql.scramble", hex::encode(scramble))
        .field("decnet.mysql.response", hex::encode(&login.response));
    if let Some(second) = second {
        event = event.field(
            "decnet.mysql.native_response",
            hex::encode(&second[..second.len().min(256)]),
        );
    }
    for (name, value) in &login.attributes {
        // The names are the visitor's: kept as values, so that they cannot become fields of their own.
        match name.as_slice() {
            b"_client_name" => event = event.text("decnet.mysql.client.name", value),
            b"_client_version" => event = event.text("decnet.mysql.client.version", value),
            b"_os" => event = event.text("decnet.mysql.client.os", value),
            b"_platform" => event = event.text("decnet.mysql.client.platform", value),
            b"program_name" => event = event.text("decnet.mysql.client.program", value),
            _ => {}
        }
    }
    event.emit();
}

async fn refuse(stream: &mut Connection, sequence: u8, refusal: &Refusal) -> io::Result<()> {
    packet::write(stream, sequence, &refusal.encode()).await?;
    stream.shutdown().await
}

/// 20 random bytes that are neither NUL nor `$` and have no high bit, as the server makes them.
fn scramble(random: &SystemRandom) -> io::Result<[u8; 20]> {
    let mut bytes = [0; 20];
    random
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gives no random bytes"))?;
    Ok(bytes.map(|byte| match byte & 0x7f {
        0 | b'$' => (byte & 0x7f) + 1,
        plain => plain,
    }))
}
