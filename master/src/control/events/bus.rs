//! The ring of what was announced, and readers of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Notify;

use super::Event;
use super::topic::{Filter, Topic};
use crate::metrics::{Metrics, Ongoing};

/// Events that are kept for readers who resume: 20 seconds of 100,000 a minute, days of a quiet fleet.
const EVENTS: usize = 32_768;
/// Bytes of them at most. One is about 350, with the longest error 2,500.
const BYTES: usize = 16 * 1024 * 1024;
/// Events that a reader takes at once.
const BATCH: usize = 64;

/// Digits of the number in an id. Fixed, so that it is written into a frame that is there already, and so that ids of one
/// start sort as texts.
const DIGITS: usize = 16;
/// How a frame begins.
const ID: &str = "id: ";

/// An event on the bus.
#[derive(Debug)]
pub struct Announced {
    number: u64,
    topic: Topic,
    frame: Bytes,
}

impl Announced {
    /// As it is sent (WHATWG HTML, §9.2): `id`, `event` and `data`. Cloning shares the bytes.
    #[must_use]
    pub fn frame(&self) -> Bytes {
        self.frame.clone()
    }
}

/// Events that a reader is not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// How many, of all topics. None: that is not known.
    pub missed: Option<u64>,
    pub reason: GapReason,
    /// The id of the last event before the gap, as far as it is known.
    pub after: Option<String>,
    /// The id of the last event in the gap: what follows is told.
    pub until: String,
}

/// Why events are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// The reader was too slow.
    Slow,
    /// It was away for too long.
    Away,
    /// The master was started again meanwhile, and has no memory of what it announced before.
    Restarted,
    /// The id is none that this master gave out.
    Unknown,
}

impl GapReason {
    pub(crate) const ALL: [Self; 4] = [Self::Slow, Self::Away, Self::Restarted, Self::Unknown];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Away => "away",
            Self::Restarted => "restarted",
            Self::Unknown => "unknown",
        }
    }
}

/// What a reader gets.
#[derive(Debug, Clone)]
pub enum Heard {
    Event(Arc<Announced>),
    Gap(Gap),
}

/// Takes events and keeps the newest.
#[derive(Debug)]
pub(super) struct Bus(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Drawn at every start: ids of another start are told from this one's.
    boot: u64,
    ring: Mutex<Ring>,
    grew: Notify,
    events: usize,
    bytes: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Ring {
    /// How many were announced: the number of the newest.
    last: u64,
    /// The newest ones, without a hole.
    kept: VecDeque<Arc<Announced>>,
    bytes: usize,
}

impl Ring {
    /// The number of the oldest that is kept, or of the next one.
    fn first(&self) -> u64 {
        self.last - self.kept.len() as u64 + 1
    }
}

impl Bus {
    pub(super) fn new(boot: u64, metrics: Arc<Metrics>) -> Self {
        Self::bounded(boot, EVENTS, BYTES, metrics)
    }

    pub(super) fn bounded(boot: u64, events: usize, bytes: usize, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shared {
            boot,
            ring: Mutex::default(),
            grew: Notify::new(),
            events,
            bytes,
            metrics,
        }))
    }

    pub(super) fn publish(&self, events: impl IntoIterator<Item = Event>) {
        let frames: Vec<(Topic, Vec<u8>)> = events
            .into_iter()
            .map(|event| {
                let topic = event.topic();
                self.0.metrics.announced(topic.class());
                let frame = self.0.frame(&topic, &event);
                (topic, frame)
            })
            .collect();
        if frames.is_empty() {
            return;
        }
        let mut ring = self.0.ring();
        for (topic, mut frame) in frames {
            ring.last += 1;
            let number = ring.last;
            write_number(&mut frame, number);
            ring.bytes += frame.len();
            ring.kept.push_back(Arc::new(Announced {
                number,
                topic,
                frame: frame.into(),
            }));
            while ring.kept.len() > self.0.events || ring.bytes > self.0.bytes {
                let Some(oldest) = ring.kept.pop_front() else {
                    break;
                };
                ring.bytes -= oldest.frame.len();
            }
        }
        drop(ring);
        self.0.grew.notify_waiters();
    }

    pub(super) fn subscribe(&self, filter: Filter) -> Reader {
        let next = self.0.ring().last + 1;
        self.reader(filter, next, None)
    }

    pub(super) fn resume(&self, filter: Filter, last: &str) -> Reader {
        let ring = self.0.ring();
        let (newest, first) = (ring.last, ring.first());
        drop(ring);
        let known = parse(last);
        let gap = |missed, reason, until| Gap {
            missed,
            reason,
            after: known.map(|(boot, number)| id(boot, number)),
            until: self.0.id(until),
        };
        let (next, gap) = match known {
            Some((boot, number)) if boot == self.0.boot && number <= newest => {
                if number + 1 < first {
                    let missed = first - 1 - number;
                    (first, Some(gap(Some(missed), GapReason::Away, first - 1)))
                } else {
                    (number + 1, None)
                }
            }
            // What happened since this start is told as far as it is kept.
            Some((boot, _)) if boot != self.0.boot => {
                (first, Some(gap(None, GapReason::Restarted, first - 1)))
            }
            _ => (newest + 1, Some(gap(None, GapReason::Unknown, newest))),
        };
        self.reader(filter, next, gap)
    }

    fn reader(&self, filter: Filter, next: u64, gap: Option<Gap>) -> Reader {
        Reader {
            shared: Arc::clone(&self.0),
            filter,
            next,
            gap,
            batch: VecDeque::new(),
            _open: Ongoing::begin(&self.0.metrics.readers),
        }
    }
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing panics while it is held.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self, number: u64) -> String {
        id(self.boot, number)
    }

    /// An event as it is sent, but for its number.
    fn frame(&self, topic: &Topic, event: &Event) -> Vec<u8> {
        let topic = topic.to_string();
        let data = Data { topic: &topic, event };
        let mut frame = format!("{ID}{}\nevent: {topic}\ndata: ", self.id(0)).into_bytes();
        let head = frame.len();
        // Names, numbers and texts: all of it can be written as JSON, in one line.
        if let Err(error) = serde_json::to_writer(&mut frame, &data) {
            tracing::error!(%error, %topic, "an event is not JSON");
            frame.truncate(head);
            frame.extend_from_slice(b"{}");
        }
        frame.extend_from_slice(b"\n\n");
        frame
    }

    /// Up to [`BATCH`] events from this number on; and how many before them are gone.
    fn read(&self, next: u64, batch: &mut VecDeque<Arc<Announced>>) -> u64 {
        let ring = self.ring();
        let gone = ring.first().saturating_sub(next);
        // A place in memory, however far the numbers have come.
        let skip = usize::try_from(next.saturating_sub(ring.first())).unwrap_or(usize::MAX);
        batch.extend(ring.kept.iter().skip(skip).take(BATCH).cloned());
        gone
    }
}

/// An event's data.
#[derive(Serialize)]
struct Data<'a> {
    topic: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

fn id(boot: u64, number: u64) -> String {
    format!("{boot:016x}-{number:0DIGITS$x}")
}

fn parse(id: &str) -> Option<(u64, u64)> {
    let (boot, number) = id.split_once('-')?;
    let hex = |text: &str| {
        let plain = text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    Some((hex(boot)?, hex(number)?))
}

/// Writes the number into the id with which a frame begins.
fn write_number(frame: &mut [u8], number: u64) {
    let at = ID.len() + 16 + 1;
    if let Some(place) = frame.get_mut(at..at + DIGITS) {
        for (digit, shift) in place.iter_mut().zip((0..DIGITS).rev()) {
            *digit = b"0123456789abcdef"[usize::from((number >> (4 * shift)) as u8 & 0xf)];
        }
    }
}

/// A place in the ring. Holds up nobody.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    filter: Filter,
    /// The number of the next event to take from the ring.
    next: u64,
    gap: Option<Gap>,
    batch: VecDeque<Arc<Announced>>,
    _open: Ongoing,
}

impl Reader {
    /// The next event that passes the filter, or what of them cannot be told. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Heard {
        let shared = Arc::clone(&self.shared);
        loop {
            if let Some(gap) = self.gap.take() {
                shared.metrics.gap(gap.reason);
                return Heard::Gap(gap);
            }
            while let Some(event) = self.batch.pop_front() {
                if self.filter.takes(&event.topic) {
                    return Heard::Event(event);
                }
            }
            let grew = shared.grew.notified();
            let mut grew = std::pin::pin!(grew);
            // From here on nothing that is announced goes unnoticed.
            grew.as_mut().enable();
            let gone = shared.read(self.next, &mut self.batch);
            if gone > 0 {
                let after = self.next - 1;
                self.next += gone;
                self.gap = Some(Gap {
                    missed: Some(gone),
                    reason: GapReason::Slow,
                    after: Some(shared.id(after)),
                    until: shared.id(self.next - 1),
                });
            }
            self.next += self.batch.len() as u64;
            if self.batch.is_empty() && self.gap.is_none() {
                grew.await;
            }
        }
    }

    /// The id from which a reader who has read everything until now would resume. None while it has a gap to be told.
    #[must_use]
    pub fn position(&self) -> Option<String> {
        let next = self.batch.front().map_or(self.next, |event| event.number);
        self.gap.is_none().then(|| self.shared.id(next - 1))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use decnet_wire::bundle::OperationKind;
    use decnet_wire::ids::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::control::events::LifecycleEvent;
    use crate::records::RowStatus;

    fn event(error: usize) -> Event {
        Event::Lifecycle(LifecycleEvent {
            lifecycle_id: "0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11".parse().unwrap(),
            decky_name: "web".parse().unwrap(),
            host_uuid: None,
            operation: OperationKind::Deploy,
            status: RowStatus::Running,
            error: (error > 0).then(|| "x".repeat(error)),
            ts: Timestamp::new(time::macros::datetime!(2026-01-01 00:00 UTC)),
        })
    }

    #[test]
    fn a_frame_is_an_id_a_name_and_one_line_of_data() {
        let bus = Bus::new(0xfeed, Metrics::new());
        bus.publish((0..300).map(|_| event(0)));
        let ring = bus.0.ring();
        for (n, kept) in (1..).zip(&ring.kept) {
            let text = std::str::from_utf8(&kept.frame).unwrap();
            let expected = format!(
                "id: 000000000000feed-{n:016x}\nevent: decky.web.lifecycle\ndata: {{\"topic\":\"decky.web.lifecycle\","
            );
            assert!(text.starts_with(&expected), "{text}");
            assert!(
                text.ends_with("}\n\n") && text.matches('\n').count() == 4,
                "{text:?}"
            );
            assert_eq!(parse(&text[4..37]), Some((0xfeed, n)));
        }
    }

    #[test]
    fn the_ring_is_bounded_by_number_and_by_bytes() {
        let bus = Bus::bounded(1, 100, 50_000, Metrics::new());
        bus.publish((0..1000).map(|_| event(0)));
        assert_eq!(bus.0.ring().kept.len(), 100);
        bus.publish((0..1000).map(|_| event(2000)));
        let ring = bus.0.ring();
        let bytes: usize = ring.kept.iter().map(|kept| kept.frame.len()).sum();
        assert_eq!(bytes, ring.bytes);
        assert!((40_000..=50_000).contains(&bytes), "{bytes}");
        assert_eq!(ring.first(), 2000 - ring.kept.len() as u64 + 1);
    }

    /// What a reader gets until there is nothing more: numbers, and how many it missed before each.
    fn read_all(reader: &mut Reader) -> Vec<Result<u64, u64>> {
        let mut heard = Vec::new();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            let next = std::pin::pin!(reader.next());
            match next.poll(&mut context) {
                std::task::Poll::Ready(Heard::Event(event)) => heard.push(Ok(event.number)),
                std::task::Poll::Ready(Heard::Gap(gap)) => heard.push(Err(gap.missed.unwrap())),
                std::task::Poll::Pending => return heard,
            }
        }
    }

    proptest! {
        /// However events and reads follow each other: each is told once and in order, or counted as missed.
        #[test]
        fn every_event_is_told_or_counted(
            keeps in 1..200_usize,
            steps in prop::collection::vec((0..150_usize, 0..100_usize, any::<bool>()), 1..30),
        ) {
            let bus = Bus::bounded(7, keeps, 1 << 30, Metrics::new());
            let mut reader = bus.subscribe(Filter::all());
            let mut expected = 1;
            for (announced, read, cut) in steps {
                bus.publish((0..announced).map(|_| event(0)));
                let mut heard = read_all(&mut reader);
                if read < heard.len() && cut {
                    // It stopped in the middle, and comes back with what it last had.
                    heard.truncate(read);
                    let mut had = expected - 1;
                    for step in &heard {
                        had = match step { Ok(number) => *number, Err(missed) => had + missed };
                    }
                    reader = bus.resume(Filter::all(), &id(7, had));
                }
                for step in heard {
                    match step {
                        Ok(number) => {
                            prop_assert_eq!(number, expected);
                            expected += 1;
                        }
                        Err(missed) => expected += missed,
                    }
                }
            }
            for step in read_all(&mut reader) {
                match step {
                    Ok(number) => {
                        prop_assert_eq!(number, expected);
                        expected += 1;
                    }
                    Err(missed) => expected += missed,
                }
            }
            prop_assert_eq!(expected, bus.0.ring().last + 1);
        }
    }

    /// Readers who never read cost no memory beyond the ring, and hold up nobody: 100,000 events go through in far less
    /// than the minute that they may take, with ten readers and two who sleep.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_minutes_worth_of_transitions_reaches_ten_readers_in_seconds() {
        const ALL: u64 = 100_000;
        let bus = Bus::new(1, Metrics::new());
        let _asleep = [bus.subscribe(Filter::all()), bus.subscribe(Filter::all())];
        let readers: Vec<_> = (0..10)
            .map(|_| {
                let mut reader = bus.subscribe(Filter::all());
                tokio::spawn(async move {
                    let (mut told, mut missed) = (0, 0);
                    while told + missed < ALL {
                        match reader.next().await {
                            Heard::Event(_) => told += 1,
                            Heard::Gap(gap) => missed += gap.missed.unwrap(),
                        }
                    }
                    (told, missed)
                })
            })
            .collect();
        let begun = Instant::now();
        for _ in 0..ALL / 10 {
            bus.publish((0..10).map(|_| event(0)));
            tokio::task::yield_now().await;
        }
        let published = begun.elapsed();
        for reader in readers {
            let (told, missed) = reader.await.unwrap();
            assert_eq!(told + missed, ALL);
        }
        let took = begun.elapsed();
        println!("published in {published:?}, read by ten in {took:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert!(bus.0.ring().kept.len() <= EVENTS);
    }
}
