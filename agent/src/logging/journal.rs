//! Logs for the systemd journal, with fields of their own.
//!
//! | field | value |
//! | --- | --- |
//! | `MESSAGE` | the line that people read: what happened, and all that was said of it |
//! | `PRIORITY` | 3 error, 4 warning, 6 info, 7 debug and trace (syslog(3)) |
//! | `SYSLOG_IDENTIFIER` | the program |
//! | `DECNET_HOST` | the host that it is about: an agent's own, or the one that a master's line names |
//! | `DECNET_DECKY`, `DECNET_STACK`, `DECNET_OPERATION` | likewise |
//! | `DECNET_TARGET` | the part of the program |
//!
//! The protocol is one datagram an entry, `NAME=value` a line; a value with line breaks stands behind its length (systemd's
//! "Native Journal Protocol").

use std::fmt;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::OnceLock;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The longest message, in bytes: a datagram has to hold it, and nothing is logged that is longer for a reason.
const LONGEST: usize = 48 * 1024;
/// Names of fields in lines, and what they are called in the journal.
const FIELDS: [(&str, &str); 4] = [
    ("host", "DECNET_HOST"),
    ("decky", "DECNET_DECKY"),
    ("stack", "DECNET_STACK"),
    ("operation", "DECNET_OPERATION"),
];

static HOST: OnceLock<String> = OnceLock::new();

/// Says which host every line of this process concerns that names no other one. The first call counts.
pub fn concerns_host(host: impl fmt::Display) {
    // A second call is an agent that opened its state again: the host is the same.
    let _ = HOST.set(host.to_string());
}

/// The journal as a destination.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    program: &'static str,
}

impl Journal {
    /// The journal, where it is what standard error leads to: systemd says which file that is, and only then it is so
    /// (systemd.exec(5), `JOURNAL_STREAM`).
    pub(super) fn behind_standard_error(program: &'static str) -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let file = nix::sys::stat::fstat(std::io::stderr()).ok()?;
        if stream != format!("{}:{}", file.st_dev, file.st_ino) {
            return None;
        }
        Self::at(Path::new(SOCKET), program).ok()
    }

    fn at(path: &Path, program: &'static str) -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self { socket, program })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let metadata = event.metadata();
        let message = line.text();
        let mut entry = Vec::with_capacity(message.len() + 256);
        let priority = match *metadata.level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            Level::DEBUG | Level::TRACE => "7",
        };
        put(&mut entry, "PRIORITY", priority);
        put(&mut entry, "SYSLOG_IDENTIFIER", self.program);
        put(&mut entry, "DECNET_TARGET", metadata.target());
        let own = HOST.get().filter(|_| !line.names("DECNET_HOST"));
        if let Some(host) = own {
            put(&mut entry, "DECNET_HOST", host);
        }
        for (name, value) in &line.fields {
            put(&mut entry, name, value);
        }
        put(&mut entry, "MESSAGE", &message);
        if self.socket.send(&entry).is_err() {
            // The journal is away or its queue is full; what it makes of standard error is better than nothing.
            let _ = writeln!(std::io::stderr(), "{message}");
        }
    }
}

fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// What one event says.
#[derive(Default)]
struct Line {
    message: String,
    /// ` name=value` of every field, as people read them.
    said: String,
    fields: Vec<(&'static str, String)>,
}

impl Line {
    fn text(&self) -> String {
        let mut text = format!("{}{}", self.message, self.said);
        if text.len() > LONGEST {
            text.truncate(text.floor_char_boundary(LONGEST));
            text.push('…');
        }
        text
    }

    fn names(&self, wanted: &str) -> bool {
        self.fields.iter().any(|(name, _)| *name == wanted)
    }

    fn add(&mut self, field: &Field, value: &str, shown: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
            return;
        }
        self.said.push_str(&format!(" {}={shown}", field.name()));
        let known = FIELDS.iter().find(|(name, _)| *name == field.name());
        if let Some((_, name)) = known {
            self.fields.push((name, value.to_owned()));
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value, &format!("{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.add(field, &text, &text);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What a journal gets of what `say` logs, one text an entry.
    fn entries(say: impl FnOnce()) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_nonblocking(true).unwrap();
        let layer = Journal::at(&path, "decnet-test").unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), say);
        let mut buffer = vec![0; 1 << 17];
        let mut entries = Vec::new();
        while let Ok(length) = journal.recv(&mut buffer) {
            entries.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        entries
    }

    fn has(entry: &str, line: &str) -> bool {
        entry.lines().any(|found| found == line)
    }

    #[test]
    fn a_line_has_its_decky_operation_and_host_as_fields_and_reads_as_before() {
        let entries = entries(|| {
            let (stack, decky, operation) = ("decnet-web", "web", 7);
            tracing::info!(%stack, %decky, %operation, "operation succeeded");
            tracing::warn!(host = "h1", decky = %"mail", error = "no room", tries = 2, "not yet");
            tracing::error!("broken");
        });
        assert_eq!(entries.len(), 3);
        for line in [
            "PRIORITY=6",
            "SYSLOG_IDENTIFIER=decnet-test",
            "DECNET_STACK=decnet-web",
            "DECNET_DECKY=web",
            "DECNET_OPERATION=7",
            "MESSAGE=operation succeeded stack=decnet-web decky=web operation=7",
        ] {
            assert!(has(&entries[0], line), "{line}: {}", entries[0]);
        }
        for line in [
            "PRIORITY=4",
            "DECNET_HOST=h1",
            "DECNET_DECKY=mail",
            "MESSAGE=not yet host=\"h1\" decky=mail error=\"no room\" tries=2",
        ] {
            assert!(has(&entries[1], line), "{line}: {}", entries[1]);
        }
        assert!(has(&entries[2], "PRIORITY=3") && has(&entries[2], "MESSAGE=broken"));
        assert!(!entries[2].contains("DECNET_DECKY"));
    }

    /// A value from outside that holds a line break must not become a field, such as another priority or decky.
    #[test]
    fn a_line_break_begins_no_field() {
        let entries = entries(|| {
            let decky = "web\nDECNET_HOST=forged";
            tracing::info!(%decky, "x\nPRIORITY=0");
        });
        let value = "web\nDECNET_HOST=forged";
        let framed = [
            b"DECNET_DECKY\n".as_slice(),
            &(value.len() as u64).to_le_bytes(),
            value.as_bytes(),
        ]
        .concat();
        assert!(
            entries[0].contains(&*String::from_utf8_lossy(&framed)),
            "{:?}",
            entries[0]
        );
        assert!(!entries[0].contains("MESSAGE=x"), "{:?}", entries[0]);
    }

    #[test]
    fn an_endless_line_is_cut_to_what_a_datagram_holds() {
        let entries = entries(|| tracing::info!("{}", "é".repeat(1 << 20)));
        assert_eq!(entries.len(), 1);
        assert!(entries[0].len() < LONGEST + 1024 && entries[0].trim_end().ends_with('…'));
    }
}
