//! One JSON line on stdout for everything a visitor does, in the Elastic Common Schema's field names.

mod budget;
mod queue;

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::host::Host;
use budget::Ledger;
pub(crate) use budget::{Purse, TELL};
use queue::Queue;

/// The schema version the field names are taken from.
const ECS_VERSION: &str = "8.17";

/// The most that is kept of any one string, in bytes.
pub const TEXT_CAP: usize = 4096;

/// The longest line, newline included. Docker's log drivers cut longer ones in two.
pub const LINE_CAP: usize = 16 * 1024;

/// RFC 3339 with milliseconds, always UTC.
const TIMESTAMP: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// ECS `event.category`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// Connections, and requests of protocols that no other category covers.
    Network,
    /// Logins.
    Authentication,
    /// Commands run, and the service's own start.
    Process,
    /// HTTP requests.
    Web,
    /// Files offered, asked for or listed.
    File,
    /// Mail submitted or read.
    Email,
    /// Queries.
    Database,
    /// Settings read or changed.
    Configuration,
}

impl Category {
    /// The ECS name, and the `event.type` that fits it most often.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Network => ("network", "protocol"),
            Self::Authentication => ("authentication", "start"),
            Self::Process => ("process", "start"),
            Self::Web => ("web", "access"),
            Self::File => ("file", "access"),
            Self::Email => ("email", "info"),
            Self::Database => ("database", "access"),
            Self::Configuration => ("configuration", "access"),
        }
    }
}

/// ECS `event.outcome`, as the visitor saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was let through.
    Success,
    /// It was refused.
    Failure,
    /// It cannot be said.
    Unknown,
}

impl From<bool> for Outcome {
    fn from(admitted: bool) -> Self {
        if admitted { Self::Success } else { Self::Failure }
    }
}

/// Writes events of one service of one decky. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    out: Option<Arc<Queue>>,
    ledger: Mutex<Ledger>,
    slug: &'static str,
    node: String,
    hostname: String,
}

/// Who an event is charged to.
#[derive(Debug, Clone)]
pub(crate) struct Payer {
    pub(crate) address: IpAddr,
    pub(crate) connection: Arc<Mutex<Purse>>,
}

impl EventLog {
    /// A log on the process's standard output.
    #[must_use]
    pub fn to_stdout(slug: &'static str, host: &Host) -> Self {
        // An own descriptor: std's buffer would split a long line into several writes. Without a
        // standard output there is nobody to tell, and the decoy still serves.
        let out = std::io::stdout().as_fd().try_clone_to_owned();
        Self::to(slug, host, out.and_then(|out| Queue::to(File::from(out))).ok())
    }

    fn to(slug: &'static str, host: &Host, out: Option<Arc<Queue>>) -> Self {
        let (node, hostname) = (host.node.clone(), host.hostname.clone());
        Self {
            inner: Arc::new(Inner {
                out,
                ledger: Mutex::new(Ledger::new(Instant::now())),
                slug,
                node,
                hostname,
            }),
        }
    }

    /// Logs how many events were left out since the last call, because a visitor caused too many or
    /// because nobody read them. To be called every [`TELL`].
    pub(crate) fn tell_suppressed(&self) {
        let counts = self.with_ledger(Ledger::settle);
        for (address, count) in counts {
            let event = self.event("suppressed", Category::Network).of_type("info");
            let event = match address {
                Some(address) => event.field("source.ip", address.to_string()),
                None => event,
            };
            event
                .field("event.reason", "too many events")
                .field("decnet.suppressed", count)
                .emit();
        }
        match self.inner.out.as_ref().map_or(0, |out| out.dropped()) {
            0 => {}
            dropped => self
                .event("suppressed", Category::Network)
                .of_type("info")
                .field("event.reason", "the log was not read")
                .field("decnet.suppressed", dropped)
                .emit(),
        }
    }

    /// Tells what is left to tell, and waits until everything is written, but not longer than `patience`.
    pub fn finish(&self, patience: Duration) {
        self.tell_suppressed();
        if let Some(out) = &self.inner.out {
            out.flush(patience);
        }
    }

    fn with_ledger<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        // Numbers only: after a panic they are at worst a line off.
        work(&mut self.inner.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins an event; [`Event::emit`] writes it.
    pub fn event(&self, action: &str, category: Category) -> Event {
        let (category, kind) = category.names();
        let mut event = Event {
            log: self.clone(),
            payer: None,
            fields: Vec::with_capacity(24),
        };
        event.fields.push(("ecs.version".into(), json!(ECS_VERSION)));
        event.fields.push(("event.kind".into(), json!("event")));
        event.fields.push((
            "event.dataset".into(),
            json!(format!("decnet.{}", self.inner.slug)),
        ));
        event.fields.push(("event.module".into(), json!("decnet")));
        event.fields.push(("event.category".into(), json!([category])));
        event.fields.push(("event.type".into(), json!([kind])));
        event.fields.push(("event.action".into(), json!(action)));
        event
            .fields
            .push(("host.name".into(), json!(self.inner.hostname)));
        event
            .fields
            .push(("observer.name".into(), json!(self.inner.node)));
        event
    }

    fn write(&self, line: &[u8]) {
        if let Some(out) = &self.inner.out {
            // What finds no room is counted there.
            out.push(line);
        }
    }
}

/// One event being put together. Field names are dotted ECS names; the line nests them.
#[derive(Debug)]
#[must_use = "an event is written by `emit`"]
pub struct Event {
    log: EventLog,
    payer: Option<Payer>,
    fields: Vec<(String, Value)>,
}

impl Event {
    /// Charges the event to a visitor, who may have no more events coming.
    pub(crate) fn charged_to(mut self, payer: &Payer) -> Self {
        self.payer = Some(payer.clone());
        self
    }

    /// Sets a field to a value of the program's own making. The last value of a name counts.
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self
    }

    /// Sets a field to what a visitor sent: made valid UTF-8, and cut at [`TEXT_CAP`] bytes.
    pub fn text(self, name: &str, sent: impl AsRef<[u8]>) -> Self {
        let sent = sent.as_ref();
        // Cutting the bytes first bounds the work; lossy decoding may triple the length.
        let text = String::from_utf8_lossy(&sent[..sent.len().min(TEXT_CAP)]).into_owned();
        self.field(name, text)
    }

    /// As [`Event::text`], when there is something.
    pub fn maybe(self, name: &str, sent: Option<impl AsRef<[u8]>>) -> Self {
        match sent {
            Some(sent) => self.text(name, sent),
            None => self,
        }
    }

    /// Sets `event.type` to another than the category's usual one.
    pub fn of_type(self, kind: &str) -> Self {
        self.field("event.type", json!([kind]))
    }

    /// Sets `event.outcome`.
    pub fn outcome(self, outcome: impl Into<Outcome>) -> Self {
        let word = match outcome.into() {
            Outcome::Success => "success",
            Outcome::Failure => "failure",
            Outcome::Unknown => "unknown",
        };
        self.field("event.outcome", word)
    }

    /// Writes the event as one line, unless its visitor has caused too many: then it is counted.
    pub fn emit(self) {
        let Some(payer) = &self.payer else {
            return self.log.write(&self.render(OffsetDateTime::now_utc()));
        };
        let now = Instant::now();
        let mut connection = payer.connection.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked before the line is put together: most of a flood's work is that.
        if !self
            .log
            .with_ledger(|ledger| ledger.admits(payer.address, &mut connection, now))
        {
            return;
        }
        let line = self.render(OffsetDateTime::now_utc());
        self.log
            .with_ledger(|ledger| ledger.charge(payer.address, &mut connection, line.len(), now));
        self.log.write(&line);
    }

    /// The line, newline included, never longer than [`LINE_CAP`].
    fn render(&self, now: OffsetDateTime) -> Vec<u8> {
        let mut cap = TEXT_CAP;
        loop {
            let mut root = Map::new();
            root.insert(
                "@timestamp".into(),
                json!(now.format(TIMESTAMP).unwrap_or_default()),
            );
            for (name, value) in &self.fields {
                insert(&mut root, name, cut(value, cap));
            }
            let mut line = Value::Object(root).to_string().into_bytes();
            line.push(b'\n');
            // Escapes can make a line several times its text. Halving ends: at 0 only names are left.
            if line.len() <= LINE_CAP || cap == 0 {
                return line;
            }
            cap /= 2;
        }
    }
}

fn insert(map: &mut Map<String, Value>, name: &str, value: Value) {
    let Some((parent, rest)) = name.split_once('.') else {
        map.insert(name.to_owned(), value);
        return;
    };
    let child = map.entry(parent).or_insert_with(|| Value::Object(Map::new()));
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    if let Value::Object(child) = child {
        insert(child, rest, value);
    }
}

fn cut(value: &Value, cap: usize) -> Value {
    match value {
        Value::String(text) => Value::String(text[..text.floor_char_boundary(cap)].to_owned()),
        Value::Array(items) => {
            Value::Array(items.iter().take(cap.max(1)).map(|item| cut(item, cap)).collect())
        }
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, value)| (name.clone(), cut(value, cap)))
                .collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
impl EventLog {
    /// A log that keeps its lines.
    pub(crate) fn kept(slug: &'static str, host: &Host) -> Self {
        Self::to(slug, host, Some(Arc::default()))
    }

    /// The events kept so far, taken away.
    pub(crate) fn taken(&self) -> Vec<Value> {
        let lines = self.inner.out.as_ref().map(|out| out.take()).unwrap_or_default();
        lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Distro, OsFamily};

    fn log() -> EventLog {
        let host = Host {
            node: "web-01".into(),
            hostname: "SRV-01".into(),
            family: OsFamily::Linux,
            distro: Distro::Debian,
        };
        EventLog::kept("telnet", &host)
    }

    fn line(event: &Event) -> Value {
        let line = event.render(OffsetDateTime::UNIX_EPOCH);
        assert!(line.len() <= LINE_CAP, "{} bytes", line.len());
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn dotted_names_become_nested_objects() {
        let event = log()
            .event("login", Category::Authentication)
            .outcome(false)
            .text("user.name", "root");
        let value = line(&event);
        assert_eq!(value["@timestamp"], "1970-01-01T00:00:00.000Z");
        assert_eq!(value["event"]["category"], json!(["authentication"]));
        assert_eq!(value["event"]["outcome"], "failure");
        assert_eq!(value["event"]["dataset"], "decnet.telnet");
        assert_eq!(value["user"]["name"], "root");
        assert_eq!(value["observer"]["name"], "web-01");
    }

    #[test]
    fn a_visitor_cannot_break_the_line_or_make_it_long() {
        let hostile: Vec<u8> = [b"\n\x00\xff\"".as_slice()].concat().repeat(100_000);
        let mut event = log().event("command", Category::Process);
        for name in ["a", "b.c", "b.d", "e"] {
            event = event.text(name, &hostile);
        }
        let value = line(&event);
        assert_eq!(value["event"]["action"], "command");
        assert!(value["a"].as_str().unwrap().len() > 100);
    }
}
