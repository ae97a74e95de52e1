//! Who is connected, and who makes room for one more.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;

use tokio::task::Id;

use super::Session;

/// An open connection.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) task: Id,
    pub(super) session: Arc<Session>,
    /// A second handle of the visitor's stream, whatever protocol crate has the first.
    pub(super) stream: Option<TcpStream>,
}

/// Every open connection, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Seats(Vec<Seat>);

impl Seats {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn take(&mut self, seat: Seat) {
        self.0.push(seat);
    }

    /// The connection of `task` has ended by itself; nothing happens when it was ended here.
    pub(super) fn leave(&mut self, task: Id) {
        self.0.retain(|seat| seat.task != task);
    }

    /// Ends the oldest connection of the address that has most of them.
    pub(super) fn make_room(&mut self) {
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for seat in &self.0 {
            *held.entry(seat.session.peer()).or_default() += 1;
        }
        let most = held.values().max().copied().unwrap_or(0);
        let oldest = self.0.iter().position(|seat| held[&seat.session.peer()] == most);
        if let Some(oldest) = oldest {
            let seat = self.0.remove(oldest);
            seat.session.close("made room for another");
            if let Some(stream) = seat.stream {
                // Its task reads the end of the stream, and ends. A visitor who hung up already makes this fail.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}
