//! The small database all visitors share.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::identity::Identity;

/// Databases of a Redis with its default configuration.
pub(super) const DATABASES: usize = 16;
/// Memory for all keys, in bytes; a write beyond it is refused as Redis does at `maxmemory`.
const MEMORY_CAP: usize = 4 * 1024 * 1024;
/// What an element costs beside its bytes, so that many tiny ones are bounded too.
const OVERHEAD: usize = 64;
/// Longest glob that is matched; a longer one matches nothing.
const PATTERN_CAP: usize = 128;

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(Vec<u8>),
    List(VecDeque<Vec<u8>>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
}

impl Value {
    /// The name the TYPE command uses.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::List(_) => "list",
            Self::Hash(_) => "hash",
            Self::Set(_) => "set",
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::List(items) => items.iter().map(|item| item.len() + OVERHEAD).sum(),
            Self::Set(items) => items.iter().map(|item| item.len() + OVERHEAD).sum(),
            Self::Hash(fields) => fields
                .iter()
                .map(|(name, value)| name.len() + value.len() + OVERHEAD)
                .sum(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) expires: Option<Instant>,
}

/// One numbered database.
#[derive(Debug, Default, Clone)]
pub(super) struct Database {
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Database {
    /// Forgets what has expired. Everything else may then take presence as life.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        self.entries
            .retain(|_, entry| entry.expires.is_none_or(|at| at > now));
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    /// The value at `key`, made by `new` when there is none.
    pub(super) fn value_or(&mut self, key: &[u8], new: fn() -> Value) -> &mut Value {
        let entry = self.entries.entry(key.to_vec());
        &mut entry
            .or_insert_with(|| Entry {
                value: new(),
                expires: None,
            })
            .value
    }

    pub(super) fn set(&mut self, key: &[u8], value: Value, expires: Option<Instant>) {
        self.entries.insert(key.to_vec(), Entry { value, expires });
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        self.entries.remove(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (&Vec<u8>, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn expiring(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.expires.is_some())
            .count()
    }

    fn size(&self) -> usize {
        self.entries
            .iter()
            .map(|(key, entry)| key.len() + entry.value.size() + OVERHEAD)
            .sum()
    }
}

/// All databases.
#[derive(Debug)]
pub(super) struct Keyspace {
    pub(super) databases: Vec<Database>,
}

impl Keyspace {
    /// What an application seems to have left there; the identity chooses it.
    pub(super) fn new(identity: &Identity) -> Self {
        let mut databases = vec![Database::default(); DATABASES];
        let Some(first) = databases.first_mut() else {
            return Self { databases };
        };
        let application = identity.choose(
            "redis.application",
            &["shop", "portal", "crm", "billing", "api", "intranet"],
        );
        let sessions = identity.number("redis.sessions", 5..=30);
        for index in 0..sessions {
            let user = identity.number(&format!("redis.session.{index}.user"), 1..=900);
            let id = identity.hex::<16>(&format!("redis.session.{index}.id"));
            let text = format!(
                "{{\"user_id\":{user},\"role\":\"user\",\"csrf\":\"{}\"}}",
                &id[..12]
            );
            let left = identity.number(&format!("redis.session.{index}.left"), 3600..=86_400);
            let expires = Instant::now().checked_add(Duration::from_secs(left));
            first.set(
                format!("{application}:session:{id}").as_bytes(),
                Value::Text(text.into_bytes()),
                expires,
            );
        }
        let token = identity.hex::<20>("redis.token");
        let settings = [
            (
                "db_host",
                format!(
                    "10.{}.{}.{}",
                    identity.number("redis.a", 0..=60),
                    identity.number("redis.b", 0..=250),
                    identity.number("redis.c", 5..=250)
                ),
            ),
            ("db_user", application.to_owned()),
            ("db_password", identity.hex::<8>("redis.password")),
            ("api_token", token),
        ];
        let settings = settings
            .into_iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes()));
        first.set(
            format!("{application}:config").as_bytes(),
            Value::Hash(settings.collect()),
            None,
        );
        let visits = identity.number("redis.visits", 1000..=900_000).to_string();
        first.set(
            format!("{application}:visits").as_bytes(),
            Value::Text(visits.into_bytes()),
            None,
        );
        let jobs = (0..identity.number("redis.jobs", 0..=6)).map(|index| {
            format!(
                "{{\"job\":\"send_mail\",\"id\":{}}}",
                identity.number(&format!("redis.job.{index}"), 1000..=99_999)
            )
            .into_bytes()
        });
        let jobs: VecDeque<_> = jobs.collect();
        if !jobs.is_empty() {
            first.set(
                format!("{application}:queue:default").as_bytes(),
                Value::List(jobs),
                None,
            );
        }
        Self { databases }
    }

    /// Whether another write would be too much.
    pub(super) fn full(&self) -> bool {
        self.size() > MEMORY_CAP
    }

    pub(super) fn size(&self) -> usize {
        self.databases.iter().map(Database::size).sum()
    }
}

/// Glob match as Redis does it: `*`, `?`, `[a-z]`, `[^a]`, `\` escapes. Linear memory, and time bounded by
/// the product of both lengths: only the last `*` is ever tried again.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if pattern.len() > PATTERN_CAP {
        return false;
    }
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
        } else if let Some(next) = match_one(pattern, p, text[t]) {
            p = next;
            t += 1;
        } else if let Some((after_star, from)) = retry {
            p = after_star;
            t = from + 1;
            retry = Some((after_star, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Matches one byte against the element of `pattern` at `at`; the index after the element when it does.
fn match_one(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'[' => {
            let end = at + 1 + pattern[at + 1..].iter().position(|byte| *byte == b']')?;
            let inside = &pattern[at + 1..end];
            let (inverted, mut rest) = match inside.split_first() {
                Some((b'^', rest)) => (true, rest),
                _ => (false, inside),
            };
            let mut found = false;
            while let Some((first, after)) = rest.split_first() {
                match after {
                    [b'-', last, more @ ..] => {
                        found |= (*first.min(last)..=*first.max(last)).contains(&byte);
                        rest = more;
                    }
                    _ => {
                        found |= *first == byte;
                        rest = after;
                    }
                }
            }
            (found != inverted).then_some(end + 1)
        }
        b'\\' if at + 1 < pattern.len() => (pattern[at + 1] == byte).then_some(at + 2),
        plain => (plain == byte).then_some(at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_redis_matches_them() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbb", false),
            ("h?llo", "hello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[", "x", false),
            ("*:*:x", "a:b:c:x", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn a_hostile_glob_ends_soon() {
        let text = "a".repeat(1_000_000);
        let started = Instant::now();
        assert!(!matches(("a*".repeat(60) + "b").as_bytes(), text.as_bytes()));
        assert!(!matches("a*".repeat(500_000).as_bytes(), text.as_bytes()));
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn many_tiny_elements_fill_the_keyspace_too() {
        let mut keyspace = Keyspace::new(&Identity::from_seed(&[1; 32]));
        assert!(!keyspace.full());
        let tiny = (0..MEMORY_CAP / OVERHEAD).map(|_| Vec::new()).collect();
        keyspace.databases[3].set(b"k", Value::List(tiny), None);
        assert!(keyspace.full());
    }
}
