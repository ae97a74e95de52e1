//! Which services a decky shows next, and when.

use decnet_wire::ids::{ServiceSlug, Timestamp};
use rand::seq::SliceRandom as _;
use rand::{Rng, RngExt as _};
use time::Duration;

use super::catalogue::Catalogue;
use super::model::{Decky, Fleet, Interval, Minutes};

/// Most services of one random draw.
const MOST: usize = 3;
/// Draws before one is made by hand that is sure to differ.
const DRAWS: usize = 20;

/// The services that `decky` shows next: 1 to 3 of its archetype's, or of all, that can be deployed, do not share
/// a port, and are not the set it shows now. None: nothing else is possible.
#[must_use]
pub fn choose_services(decky: &Decky, catalogue: &Catalogue, rng: &mut impl Rng) -> Option<Vec<ServiceSlug>> {
    let pool = pool(decky, catalogue);
    let mut current = decky.services.clone();
    current.sort();
    let differs = |drawn: &[ServiceSlug]| {
        let mut drawn = drawn.to_vec();
        drawn.sort();
        drawn != current
    };
    for _ in 0..DRAWS {
        let drawn = draw(&pool, catalogue, rng);
        if !drawn.is_empty() && differs(&drawn) {
            return Some(drawn);
        }
    }
    // Chance may have failed; a single service other than the current set is certain where any change is possible.
    pool.iter()
        .map(|slug| vec![slug.clone()])
        .find(|single| differs(single))
}

/// 1 to 3 services of `pool` that do not share a port, in the pool's order; none when the pool is empty.
pub(in crate::fleet) fn draw(
    pool: &[ServiceSlug],
    catalogue: &Catalogue,
    rng: &mut impl Rng,
) -> Vec<ServiceSlug> {
    if pool.is_empty() {
        return Vec::new();
    }
    let count = rng.random_range(1..=pool.len().min(MOST));
    let mut order: Vec<usize> = (0..pool.len()).collect();
    order.shuffle(rng);
    let mut taken: Vec<usize> = Vec::new();
    for index in order {
        if taken.len() == count {
            break;
        }
        if taken
            .iter()
            .all(|&other| catalogue.clash(&pool[index], &pool[other]).is_none())
        {
            taken.push(index);
        }
    }
    taken.sort_unstable();
    taken.into_iter().map(|index| pool[index].clone()).collect()
}

fn pool(decky: &Decky, catalogue: &Catalogue) -> Vec<ServiceSlug> {
    match decky
        .archetype
        .as_ref()
        .and_then(|slug| catalogue.archetype(slug))
    {
        Some(archetype) => archetype
            .services
            .iter()
            .filter(|slug| catalogue.is_deployable(slug))
            .cloned()
            .collect(),
        None => catalogue
            .deployable()
            .map(|service| service.slug.clone())
            .collect(),
    }
}

/// The minutes between two changes of `decky`; none: it never changes by itself.
#[must_use]
pub fn effective_interval(fleet: &Fleet, decky: &Decky) -> Option<Minutes> {
    match decky.interval {
        Interval::Inherit => Some(fleet.mutate_interval),
        Interval::Disabled => None,
        Interval::Minutes(minutes) => Some(minutes),
    }
}

/// When `decky` changes next by itself; none: never.
#[must_use]
pub fn next_due(fleet: &Fleet, decky: &Decky) -> Option<Timestamp> {
    let minutes = effective_interval(fleet, decky)?;
    let wait = Duration::minutes(minutes.get().into());
    decky.last_mutated.get().checked_add(wait).map(Timestamp::new)
}

/// Whether `decky` is to change now.
#[must_use]
pub fn due(fleet: &Fleet, decky: &Decky, now: Timestamp) -> bool {
    next_due(fleet, decky).is_some_and(|at| at <= now)
}

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a duration: write a whole number from 1 and a unit, m (minutes), d (days), M (30 days) or y (365 days), \
     at most 10y, such as 30m"
)]
pub struct DurationError;

/// Reads `[1-9][0-9]*[mdMyY]`: minutes, days, 30 days, 365 days.
///
/// # Errors
///
/// When the text has another form or is more than [`Minutes::MAX`].
pub fn parse_duration(text: &str) -> Result<Minutes, DurationError> {
    let unit = match text.as_bytes().last() {
        Some(b'm') => 1,
        Some(b'd') => 1_440,
        Some(b'M') => 43_200,
        Some(b'y' | b'Y') => 525_600,
        _ => return Err(DurationError),
    };
    // The last byte is ASCII, so the cut is on a character boundary.
    let digits = &text[..text.len() - 1];
    if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(DurationError);
    }
    let minutes = digits
        .parse::<u32>()
        .ok()
        .and_then(|count| count.checked_mul(unit));
    minutes
        .and_then(|minutes| Minutes::try_from(minutes).ok())
        .ok_or(DurationError)
}

#[cfg(test)]
mod tests;
