//! What all connections share: the retained topics, and messages on their way.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::broadcast;

use crate::host::{Host, OsFamily};
use crate::identity::Identity;

/// Messages kept for slow readers.
const QUEUE: usize = 64;
/// Retained messages of visitors, all together, and the longest payload and topic kept.
const RETAINED_CAP: usize = 256;
const PAYLOAD_CAP: usize = 16 * 1024;
const TOPIC_CAP: usize = 512;

/// A message on its way to subscribers.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// Who published it; unspecified when the broker itself did.
    pub(super) from: IpAddr,
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Broker {
    version: &'static str,
    started: Instant,
    /// How long it seems to have run before this process began.
    ran_before: Duration,
    devices: Vec<(String, String)>,
    visitors: Mutex<BTreeMap<(IpAddr, String), Vec<u8>>>,
    sender: broadcast::Sender<Arc<Message>>,
}

impl Broker {
    pub(super) fn new(identity: &Identity, host: &Host) -> Self {
        let versions = &["2.0.11", "2.0.15", "2.0.18", "1.6.12", "2.0.14", "1.6.9"];
        Self {
            version: identity.choose("mqtt.version", versions),
            started: Instant::now(),
            ran_before: Duration::from_secs(identity.number("mqtt.uptime", 40_000..=9_000_000)),
            devices: devices(identity, host),
            visitors: Mutex::default(),
            sender: broadcast::channel(QUEUE).0,
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Message>> {
        self.sender.subscribe()
    }

    /// Passes a message on to subscribers at its own address, and keeps it there when asked to.
    pub(super) fn publish(&self, message: Message, retain: bool) {
        if retain && message.payload.len() <= PAYLOAD_CAP && message.topic.len() <= TOPIC_CAP {
            // Inserting and removing are single steps, so the map is whole after any panic.
            let mut visitors = self.visitors.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (message.from, message.topic.clone());
            if message.payload.is_empty() {
                visitors.remove(&key);
            } else if visitors.len() < RETAINED_CAP || visitors.contains_key(&key) {
                visitors.insert(key, message.payload.clone());
            }
        }
        // No subscriber is no error.
        let _ = self.sender.send(Arc::new(message));
    }

    /// Every retained message that visitors at `from` may see.
    pub(super) fn retained(&self, from: IpAddr) -> Vec<Message> {
        let mine: BTreeMap<String, Vec<u8>> = {
            let visitors = self.visitors.lock().unwrap_or_else(PoisonError::into_inner);
            let mine = visitors.iter().filter(|((owner, _), _)| *owner == from);
            mine.map(|((_, topic), payload)| (topic.clone(), payload.clone()))
                .collect()
        };
        let uptime = (self.ran_before + self.started.elapsed()).as_secs();
        let system = [
            (
                "$SYS/broker/version".to_owned(),
                format!("mosquitto version {}", self.version),
            ),
            ("$SYS/broker/uptime".to_owned(), format!("{uptime} seconds")),
            (
                "$SYS/broker/clients/total".to_owned(),
                (self.devices.len() / 2 + 1).to_string(),
            ),
            (
                "$SYS/broker/clients/connected".to_owned(),
                (self.sender.receiver_count() + 2).to_string(),
            ),
            (
                "$SYS/broker/messages/received".to_owned(),
                (uptime / 4).to_string(),
            ),
            ("$SYS/broker/messages/sent".to_owned(), (uptime / 3).to_string()),
            (
                "$SYS/broker/retained messages/count".to_owned(),
                (self.devices.len() + 45).to_string(),
            ),
        ];
        let own = self
            .devices
            .iter()
            .cloned()
            .chain(system)
            .map(|(topic, text)| (topic, text.into_bytes()));
        // A visitor's own message hides the device's under the same topic.
        let mut seen: BTreeMap<String, Vec<u8>> = own.collect();
        seen.extend(mine);
        seen.into_iter()
            .map(|(topic, payload)| Message { from, topic, payload })
            .collect()
    }
}

/// Retained topics of the devices behind this broker.
fn devices(identity: &Identity, host: &Host) -> Vec<(String, String)> {
    let tenth = |label: &str, range| format!("{:.1}", identity.number(label, range) as f64 / 10.0);
    let industrial = host.family != OsFamily::Embedded && identity.number("mqtt.theme", 0..=1) == 1;
    let mut topics = Vec::new();
    let count = identity.number("mqtt.devices", 3..=7);
    if industrial {
        let site = identity.choose(
            "mqtt.site",
            &["plant1", "plant2", "hall-a", "hall-b", "north", "werk3"],
        );
        for index in 0..count {
            let at = |what: &str| format!("mqtt.device.{index}.{what}");
            let kind = identity.choose(
                &at("kind"),
                &["pump", "conveyor", "boiler", "mixer", "compressor", "valve"],
            );
            let base = format!("{site}/{kind}-{:02}", identity.number(&at("number"), 1..=24));
            let state = identity.choose(&at("state"), &["RUN", "RUN", "RUN", "IDLE", "FAULT"]);
            topics.push((format!("{base}/state"), state.to_owned()));
            topics.push((
                format!("{base}/temperature"),
                tenth(&at("temperature"), 180..=840),
            ));
            topics.push((
                format!("{base}/hours"),
                identity.number(&at("hours"), 120..=31_000).to_string(),
            ));
            topics.push((
                format!("{base}/serial"),
                identity.hex::<5>(&at("serial")).to_uppercase(),
            ));
        }
    } else {
        for index in 0..count {
            let at = |what: &str| format!("mqtt.device.{index}.{what}");
            let room = identity.choose(
                &at("room"),
                &[
                    "livingroom",
                    "kitchen",
                    "garage",
                    "office",
                    "hall",
                    "bedroom",
                    "attic",
                ],
            );
            let id = identity.hex::<3>(&at("id")).to_uppercase();
            if identity.number(&at("kind"), 0..=1) == 0 {
                let base = format!("tele/tasmota_{id}");
                let power = identity.choose(&at("power"), &["ON", "OFF"]);
                topics.push((format!("{base}/LWT"), "Online".to_owned()));
                let state = format!(
                    "{{\"Uptime\":\"{}T04:12:33\",\"Heap\":{},\"POWER\":\"{power}\",\"Wifi\":{{\"SSId\":\"{room}\",\"RSSI\":{}}}}}",
                    identity.number(&at("uptime"), 1..=90),
                    identity.number(&at("heap"), 18..=28),
                    identity.number(&at("signal"), 40..=100),
                );
                topics.push((format!("{base}/STATE"), state));
            } else {
                let base = format!("zigbee2mqtt/{room}_{}", id.to_lowercase());
                let state = format!(
                    "{{\"battery\":{},\"humidity\":{},\"linkquality\":{},\"temperature\":{}}}",
                    identity.number(&at("battery"), 20..=100),
                    tenth(&at("humidity"), 300..=650),
                    identity.number(&at("quality"), 20..=255),
                    tenth(&at("temperature"), 150..=260),
                );
                topics.push((base, state));
            }
        }
        topics.push((
            "zigbee2mqtt/bridge/state".to_owned(),
            "{\"state\":\"online\"}".to_owned(),
        ));
    }
    topics
}

/// The id Mosquitto gives a client that brings none.
pub(super) fn assigned_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gives no random bytes"))?;
    let hex = hex::encode_upper(bytes);
    Ok(format!(
        "auto-{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    ))
}
