//! Which images of ours go, because nothing has needed them for long or because the disk is getting full.
//!
//! An image is ours when we have fetched or built it and nobody else has given it a name. What a container was made
//! from, what is desired and what a failed operation would go back to stays, whatever the disk says.

use std::collections::{BTreeMap, BTreeSet};

use decnet_wire::observed::Observed;
use serde::{Deserialize, Serialize};

use crate::step::Step;

/// A name under which we have fetched or built an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetched {
    /// When something last needed it, in seconds since the epoch.
    pub needed_at: i64,
}

/// The name that a step gives to an image which was not there before; None for a step that fetches none. A pull that
/// asks the registry anyway may find an image that somebody else has fetched.
#[must_use]
pub fn fetches(step: &Step) -> Option<&str> {
    match step {
        Step::LoadImage { reference, .. }
        | Step::PullImage {
            reference,
            always: false,
            optional: false,
            ..
        } => Some(reference),
        Step::BuildImage { build } => build.tags.first().map(String::as_str),
        _ => None,
    }
}

/// The disk that the engine keeps images on. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    pub total: u64,
    pub free: u64,
}

impl Disk {
    fn is_short(self) -> bool {
        self.free < (self.total / 100 * SHORT_PERCENT).min(SHORT_BYTES)
    }
}

/// An image goes when nothing has needed it for so long. A rollout that is taken back within a week finds it there.
pub const KEEP_S: i64 = 7 * 24 * 60 * 60;
/// With a disk that is getting full, this is long enough: the decky that goes back to it now has had its chance.
pub const KEEP_WHEN_SHORT_S: i64 = 60 * 60;
/// A disk is getting full with less than this part of it, in percent, and less than [`SHORT_BYTES`] free.
const SHORT_PERCENT: u64 = 10;
const SHORT_BYTES: u64 = 10 << 30;

/// The steps that remove what is not needed any more, oldest first. `fetched` is by name; `needed` names, by id or
/// reference, what is desired or may be gone back to; `now` is in seconds since the epoch.
#[must_use]
pub fn collect(
    fetched: &BTreeMap<String, Fetched>,
    needed: &BTreeSet<String>,
    observed: &Observed,
    disk: Option<Disk>,
    now: i64,
) -> Vec<Step> {
    let keep = if disk.is_some_and(Disk::is_short) {
        KEEP_WHEN_SHORT_S
    } else {
        KEEP_S
    };
    let used: BTreeSet<&str> = observed
        .containers
        .iter()
        .map(|container| container.image.as_str())
        .collect();
    let mut going: Vec<(i64, &str, Vec<String>)> = observed
        .images
        .iter()
        .filter_map(|image| {
            // `repository@digest` comes with the name that it was pulled by and goes with it.
            let tags: Vec<&String> = image
                .references
                .iter()
                .filter(|name| !name.contains('@'))
                .collect();
            let foreign = tags.iter().any(|name| !fetched.contains_key(*name));
            let ours = image.references.iter().filter_map(|name| fetched.get(name));
            let needed_at = ours.map(|fetched| fetched.needed_at).max()?;
            let needs = |name: &String| needed.contains(name);
            let kept = used.contains(image.id.as_str())
                || needs(&image.id)
                || image.references.iter().any(needs)
                // A clock that was set back makes nothing old.
                || now.saturating_sub(needed_at) < keep;
            (!kept && !foreign).then(|| {
                let names = if tags.is_empty() {
                    image.references.clone()
                } else {
                    tags.into_iter().cloned().collect()
                };
                (needed_at, image.id.as_str(), names)
            })
        })
        .collect();
    going.sort();
    going
        .into_iter()
        .map(|(_, id, names)| Step::RemoveImage {
            id: id.to_owned(),
            names,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use decnet_wire::observed::ObservedImage;
    use proptest::prelude::{any, proptest};
    use serde_json::json;

    const NOW: i64 = 1_800_000_000;
    const DAY: i64 = 24 * 60 * 60;

    struct Host {
        fetched: BTreeMap<String, Fetched>,
        needed: BTreeSet<String>,
        observed: Observed,
    }

    /// One image for each age in seconds.
    fn host(ages: &[i64]) -> Host {
        let mut host = Host {
            fetched: BTreeMap::new(),
            needed: BTreeSet::new(),
            observed: Observed::default(),
        };
        for (n, age) in ages.iter().enumerate() {
            let name = format!("decoy:{n}");
            host.observed.images.push(ObservedImage {
                id: format!("sha256:{n}"),
                references: vec![name.clone()],
            });
            host.fetched.insert(name, Fetched { needed_at: NOW - age });
        }
        host
    }

    impl Host {
        fn going(&self, disk: Option<Disk>) -> Vec<String> {
            let steps = collect(&self.fetched, &self.needed, &self.observed, disk, NOW);
            let id = |step| match step {
                Step::RemoveImage { id, .. } => id,
                other => panic!("{other:?}"),
            };
            steps.into_iter().map(id).collect()
        }
    }

    fn full() -> Option<Disk> {
        Some(Disk {
            total: 100 << 30,
            free: 1 << 30,
        })
    }

    #[test]
    fn what_nothing_has_needed_for_a_week_goes_oldest_first() {
        let host = host(&[8 * DAY, DAY, 9 * DAY]);
        assert_eq!(host.going(None), ["sha256:2", "sha256:0"]);
    }

    #[test]
    fn a_disk_that_is_getting_full_shortens_the_time_and_a_roomy_one_does_not() {
        let host = host(&[2 * 60 * 60, 60]);
        assert_eq!(host.going(full()), ["sha256:0"]);
        // A tenth of a large disk is room enough.
        for (total, free) in [(100 << 30, 50 << 30), (4 << 40, 20 << 30)] {
            assert!(
                host.going(Some(Disk { total, free })).is_empty(),
                "{free} of {total}"
            );
        }
    }

    #[test]
    fn what_is_used_or_desired_or_gone_back_to_stays_however_full_the_disk() {
        let mut host = host(&[99 * DAY, 99 * DAY, 99 * DAY]);
        host.needed = BTreeSet::from(["sha256:0".to_owned(), "decoy:1".to_owned()]);
        let container = json!({
            "id": "c", "name": "c", "stack": "s", "service": "s", "hash": "", "image": "sha256:2",
            "state": {"status": "exited", "code": 0}, "restarts": 0, "attachments": [],
        });
        host.observed
            .containers
            .push(serde_json::from_value(container).unwrap());
        assert!(host.going(full()).is_empty());
    }

    #[test]
    fn an_image_that_is_not_ours_or_that_somebody_has_named_stays() {
        let mut host = host(&[99 * DAY, 99 * DAY]);
        host.fetched.remove("decoy:0");
        host.observed.images[1].references.push("mine:1".to_owned());
        assert!(host.going(full()).is_empty());
    }

    #[test]
    fn a_pulled_image_goes_by_its_tag_or_else_by_its_digest() {
        let mut host = host(&[99 * DAY]);
        let digest = "r/decoy@sha256:00".to_owned();
        host.observed.images[0].references.push(digest.clone());
        let names = |host: &Host| match &collect(&host.fetched, &host.needed, &host.observed, None, NOW)[..] {
            [Step::RemoveImage { names, .. }] => names.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(names(&host), ["decoy:0"]);
        host.observed.images[0].references = vec![digest.clone()];
        host.fetched.insert(digest.clone(), Fetched { needed_at: 0 });
        assert_eq!(names(&host), [digest]);
    }

    proptest! {
        #[test]
        fn no_clock_makes_a_needed_image_go(now in any::<i64>(), at in any::<i64>()) {
            let mut host = host(&[0]);
            host.fetched.values_mut().for_each(|fetched| fetched.needed_at = at);
            host.needed.insert("decoy:0".to_owned());
            assert!(collect(&host.fetched, &host.needed, &host.observed, full(), now).is_empty());
        }
    }
}
