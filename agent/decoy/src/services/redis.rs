//! Redis without a password: the server that worms look for.
//!
//! Anyone may read, write and reconfigure a small keyspace that all visitors share and that a restart
//! resets; every command is logged whole. Nothing a visitor stores is run, written to disk or fetched.

mod commands;
mod keys;
mod keyspace;
mod release;
mod reply;
mod request;
mod server;

use std::io;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use tokio::io::{AsyncWriteExt, BufReader};

use crate::Failure;
use crate::environment::Context;
use crate::event::Category;
use crate::serve::{self, Connection, Session};
use reply::{Protocol, Reply};
use request::{ReadError, Request};
use server::Server;

/// Keys of the persona.
#[derive(Debug, Default, Deserialize)]
struct Persona {
    version: Option<String>,
    os_string: Option<String>,
}

/// What one connection has set for itself.
#[derive(Debug)]
struct Client {
    id: u64,
    protocol: Protocol,
    name: Vec<u8>,
    address: String,
    local: String,
    database: usize,
    leaving: bool,
}

/// Serves for ever.
///
/// # Errors
///
/// When the persona is malformed or the port cannot be bound.
pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let persona: Persona = context.persona()?;
    let server = Server::new(
        &context.identity,
        &context.host,
        persona.version,
        persona.os_string,
        context.port,
    );
    let server = Arc::new(Mutex::new(server));
    serve::tcp(&context, move |connection, session| {
        visit(connection, session, Arc::clone(&server))
    })
    .await
}

async fn visit(connection: Connection, session: Arc<Session>, server: Arc<Mutex<Server>>) -> io::Result<()> {
    // Between commands the server is whole, so a panic elsewhere leaves nothing half-changed.
    let lock = || server.lock().unwrap_or_else(PoisonError::into_inner);
    let mut client = Client {
        id: lock().next_client(),
        protocol: Protocol::Resp2,
        name: Vec::new(),
        address: session.peer_address().to_string(),
        local: session.local_address().to_string(),
        database: 0,
        leaving: false,
    };
    let mut stream = BufReader::new(connection);
    while !client.leaving {
        let words = match request::read(&mut stream).await {
            Ok(Request::Command(words)) => words,
            Ok(Request::Nothing) => continue,
            Ok(Request::End) => return Ok(()),
            Err(ReadError::Io(error)) => return Err(error),
            Err(ReadError::Protocol(reason)) => {
                session.garbage(&reason);
                let reply = Reply::error(format!("ERR Protocol error: {reason}"));
                stream.write_all(&reply.encode(client.protocol)).await?;
                return Ok(());
            }
        };
        log(&session, &words);
        let reply = commands::execute(&mut lock(), &mut client, &session, &words);
        // Encoded afterwards: HELLO answers in the protocol it has just chosen.
        stream.write_all(&reply.encode(client.protocol)).await?;
    }
    Ok(())
}

/// One line with the command as it could be typed into a client.
fn log(session: &Session, words: &[Vec<u8>]) {
    let line = words
        .iter()
        .map(|word| quoted(word))
        .collect::<Vec<_>>()
        .join(" ");
    session
        .event("command", Category::Database)
        .text("process.command_line", line)
        .field("decnet.redis.arguments", words.len() - 1)
        .emit();
}

/// A word as `redis-cli` would print it back: bare when plain, quoted with escapes when not.
fn quoted(word: &[u8]) -> String {
    let word = &word[..word.len().min(crate::event::TEXT_CAP)];
    if !word.is_empty()
        && word
            .iter()
            .all(|byte| byte.is_ascii_graphic() && !b"\"'\\".contains(byte))
    {
        return String::from_utf8_lossy(word).into_owned();
    }
    format!("\"{}\"", word.escape_ascii())
}
