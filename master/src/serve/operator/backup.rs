//! A copy of the store, as a stream; and what is to be decided after a restore.

use std::io::{self, Write};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use tokio::sync::mpsc;

use super::App;
use super::access::Admin;
use super::answer::{Problem, ask};
use super::parameters::HostPath;
use super::views::ErrorView;
use crate::text::chain;

/// What is sent at once, in bytes.
const CHUNK: usize = 256 * 1024;
/// Chunks that wait for the reader.
const CHUNKS: usize = 4;

/// Take a backup of the store
///
/// A consistent copy of everything but the keys, while the master works on: a header line, the records, a checksum.
/// `decnet backup` writes it to a file and checks it. One at a time.
#[utoipa::path(
    post, path = "/backup", tag = "system",
    responses(
        (status = 200, description = "The backup", body = String, content_type = "application/octet-stream"),
        (status = 429, description = "Somebody takes one now", body = ErrorView),
    )
)]
pub(super) async fn take(Admin(by): Admin, State(app): State<App>) -> Result<Response, Problem> {
    // A slow reader holds on to a snapshot; many of them would make the store's file grow.
    let place = Arc::clone(&app.backups).try_acquire_owned().map_err(|_| {
        Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "a backup is being taken now: try again when it is done",
        )
    })?;
    let taken_at = ask(&app, move |control| control.note_backup(&by)).await?;
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let control = Arc::clone(&app.control);
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut out = Chunks {
            sender,
            chunk: BytesMut::with_capacity(CHUNK),
        };
        let done = control.backup(taken_at, &mut out);
        if let Err(error) = done {
            tracing::warn!(error = %chain(&error), "a backup was cut off");
            // Whoever reads sees a stream that breaks off.
            let _ = out.sender.blocking_send(Err(io::ErrorKind::UnexpectedEof.into()));
        }
    });
    let stream = stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    Ok((
        [(CONTENT_TYPE, "application/octet-stream")],
        Body::from_stream(stream),
    )
        .into_response())
}

/// Hands what is written to a stream.
struct Chunks {
    sender: mpsc::Sender<io::Result<Bytes>>,
    chunk: BytesMut,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = self.chunk.split().freeze();
        self.sender
            .blocking_send(Ok(chunk))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Wait for a host no more after a restore
///
/// The master publishes nothing for it until it has said which generation it accepted last. This is for a host that will
/// not: its next generation is far beyond all that can have been published for it.
#[utoipa::path(
    post, path = "/swarm/hosts/{uuid}/accept-loss", tag = "swarm",
    params(("uuid" = String, Path, description = "The host's id")),
    responses(
        (status = 204, description = "Its bundles are published again"),
        (status = 404, description = "No such host", body = ErrorView),
        (status = 409, description = "It is not waited for", body = ErrorView),
    )
)]
pub(super) async fn accept_loss(
    Admin(by): Admin,
    State(app): State<App>,
    HostPath(host): HostPath,
) -> Result<StatusCode, Problem> {
    ask(&app, move |control| control.accept_loss(&by, host)).await?;
    Ok(StatusCode::NO_CONTENT)
}
