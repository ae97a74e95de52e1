//! What is being fetched: pulls layer by layer, builds line by line, blobs byte by byte. For people who look; nothing
//! is decided by it, but that an agent whose transfers go on is not stuck.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use decnet_docker::{Progress, ProgressSink};
use decnet_plan::step::Step;
use decnet_wire::ids::Digest;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How often the log is told how far something is.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Everything that is under way, by the name of its image or blob.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    under_way: Mutex<BTreeMap<String, Transfer>>,
    told: AtomicU64,
}

#[derive(Debug)]
struct Transfer {
    parts: BTreeMap<String, Part>,
    line: Option<String>,
    told_at: Instant,
}

/// How far one thing is that is being fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetching {
    /// The image or blob.
    pub name: String,
    /// Its layers, in order of their ids; of a blob the whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// The newest line of a build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub id: String,
    /// The engine's word, such as `Downloading`.
    pub state: String,
    /// Bytes, where they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

impl Part {
    fn is_done(&self) -> bool {
        matches!(self.state.as_str(), "Pull complete" | "Already exists")
    }
}

impl Fetching {
    /// One line for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        if let Some(line) = &self.line {
            return format!("{}: {line}", self.name);
        }
        let bytes = |of: fn(&Part) -> Option<u64>| self.parts.iter().filter_map(of).sum::<u64>();
        let bytes = match bytes(|part| part.total) {
            0 => String::new(),
            total => format!(", {} of {} kB", bytes(|part| part.done) / 1000, total / 1000),
        };
        let done = self.parts.iter().filter(|part| part.is_done()).count();
        match &self.parts[..] {
            [one] if one.id.is_empty() => format!("{}{bytes}", self.name),
            all => format!("{}: {done} of {} layers{bytes}", self.name, all.len()),
        }
    }
}

impl Transfers {
    /// What is under way now.
    pub(crate) fn list(&self) -> Vec<Fetching> {
        let all = self.lock();
        all.iter()
            .map(|(name, transfer)| transfer.to_fetching(name))
            .collect()
    }

    /// So many bytes of a blob are there.
    pub(crate) fn tell_blob(&self, digest: &Digest, done: u64, total: u64) {
        let whole = Part {
            id: String::new(),
            state: "Downloading".to_owned(),
            done: Some(done),
            total: Some(total),
        };
        self.change(&format!("blob {digest}"), |transfer| {
            transfer.parts.insert(String::new(), whole);
        });
    }

    /// The transfer of a blob has ended, one way or another.
    pub(crate) fn end_blob(&self, digest: &Digest) {
        self.lock().remove(&format!("blob {digest}"));
    }

    /// The step has ended, one way or another.
    pub(crate) fn end(&self, step: &Step) {
        let name = match step {
            Step::PullImage { reference, .. } => Some(reference),
            Step::BuildImage { build } => build.tags.first(),
            _ => None,
        };
        if let Some(name) = name {
            self.lock().remove(name);
        }
    }

    /// How often anything has told how far it is. Who sees the number change sees that something goes on.
    pub(crate) fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Transfer)) {
        self.told.fetch_add(1, Ordering::Relaxed);
        let mut all = self.lock();
        let transfer = all.entry(name.to_owned()).or_insert_with(|| Transfer {
            parts: BTreeMap::new(),
            line: None,
            told_at: Instant::now(),
        });
        change(transfer);
        if transfer.told_at.elapsed() >= LOG_EVERY {
            transfer.told_at = Instant::now();
            tracing::info!("fetching {}", transfer.to_fetching(name).to_text());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Transfer>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transfer {
    fn to_fetching(&self, name: &str) -> Fetching {
        Fetching {
            name: name.to_owned(),
            parts: self.parts.values().cloned().collect(),
            line: self.line.clone(),
        }
    }
}

impl ProgressSink for Transfers {
    fn tell(&self, progress: Progress) {
        match progress {
            // Without a layer, or with its tag in the place of one, it is about the whole.
            Progress::Layer { layer: None, .. } => {}
            Progress::Layer { state, .. } if state.starts_with("Pulling from") => {}
            Progress::Layer {
                image,
                layer: Some(id),
                state,
                done,
                total,
            } => self.change(&image, |transfer| {
                let known = transfer.parts.get(&id).and_then(|part| part.total);
                // A layer that is complete is told without its size.
                let total = total.filter(|total| *total > 0).or(known);
                let part = Part {
                    id: id.clone(),
                    state,
                    done,
                    total,
                };
                let done = if part.is_done() { part.total } else { part.done };
                transfer.parts.insert(id, Part { done, ..part });
            }),
            Progress::Build { image, line } => {
                tracing::debug!(image, line, "build");
                self.change(&image, |transfer| transfer.line = Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_shown_layer_by_layer_until_its_step_has_ended() {
        let transfers = Transfers::default();
        let layer = |layer: Option<&str>, state: &str, done, total| {
            transfers.tell(Progress::Layer {
                image: "r.example/a:1".to_owned(),
                layer: layer.map(str::to_owned),
                state: state.to_owned(),
                done,
                total,
            });
        };
        layer(Some("1"), "Pulling from a", None, None);
        layer(Some("aa"), "Pulling fs layer", None, None);
        layer(Some("bb"), "Already exists", None, None);
        layer(Some("aa"), "Downloading", Some(3_000), Some(9_000));
        layer(None, "Digest: sha256:00", None, None);
        let shown = transfers.list();
        assert_eq!(shown.len(), 1);
        assert_eq!(shown[0].to_text(), "r.example/a:1: 1 of 2 layers, 3 of 9 kB");
        layer(Some("aa"), "Pull complete", None, None);
        assert_eq!(
            transfers.list()[0].to_text(),
            "r.example/a:1: 2 of 2 layers, 9 of 9 kB"
        );
        transfers.end(&Step::PullImage {
            reference: "r.example/a:1".to_owned(),
            platform: None,
            always: false,
            optional: false,
        });
        assert_eq!(transfers.list(), []);
    }

    #[test]
    fn a_build_shows_its_newest_line_and_a_blob_its_bytes() {
        let transfers = Transfers::default();
        for line in ["Step 1/2 : FROM scratch", "Step 2/2 : COPY a /a"] {
            transfers.tell(Progress::Build {
                image: "a:1".to_owned(),
                line: line.to_owned(),
            });
        }
        let digest = Digest::from_sha256([0; 32]);
        transfers.tell_blob(&digest, 2_000, 4_000);
        let shown: Vec<String> = transfers.list().iter().map(Fetching::to_text).collect();
        assert_eq!(
            shown,
            [
                "a:1: Step 2/2 : COPY a /a".to_owned(),
                format!("blob {digest}, 2 of 4 kB")
            ]
        );
        transfers.end_blob(&digest);
        assert_eq!(transfers.list().len(), 1);
    }
}
