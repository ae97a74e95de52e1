//! Commands on keys.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::keyspace::{Database, Entry, Value, matches};
use super::reply::Reply;

/// Most bytes of values in one answer: asking for one large key a thousand times must not fill memory.
const ANSWER_CAP: usize = 8 * 1024 * 1024;

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const NOT_INTEGER: &str = "ERR value is not an integer or out of range";
const SYNTAX: &str = "ERR syntax error";
const NO_KEY: &str = "ERR no such key";

/// Commands that add data, refused when memory is full.
pub(super) fn writes(name: &str) -> bool {
    matches!(
        name,
        "set"
            | "setex"
            | "psetex"
            | "setnx"
            | "getset"
            | "mset"
            | "append"
            | "incr"
            | "decr"
            | "incrby"
            | "decrby"
            | "lpush"
            | "rpush"
            | "hset"
            | "hmset"
            | "sadd"
    )
}

/// Runs a command whose number of arguments has been checked; `None` when it is not one on keys.
pub(super) fn execute(database: &mut Database, name: &str, args: &[Vec<u8>]) -> Option<Reply> {
    database.expire();
    let outcome = match (name, args) {
        ("get", [key]) => text(database, key).map(|value| value.map_or(Reply::Null, Reply::bulk)),
        ("strlen", [key]) => text(database, key).map(|value| Reply::count(value.map_or(0, <[u8]>::len))),
        ("set", [key, value, options @ ..]) => set(database, key, value, options),
        ("setex", [key, seconds, value]) => set_for(database, key, seconds, 1000, value),
        ("psetex", [key, millis, value]) => set_for(database, key, millis, 1, value),
        ("setnx", [key, value]) => {
            let absent = database.get(key).is_none();
            if absent {
                database.set(key, Value::Text(value.clone()), None);
            }
            Ok(Reply::Integer(i64::from(absent)))
        }
        ("getset", [key, value]) => text(database, key)
            .map(|old| old.map_or(Reply::Null, Reply::bulk))
            .inspect(|_| {
                database.set(key, Value::Text(value.clone()), None);
            }),
        ("getdel", [key]) => text(database, key)
            .map(|old| old.map_or(Reply::Null, Reply::bulk))
            .inspect(|_| {
                database.remove(key);
            }),
        ("mget", keys) => mget(database, keys),
        ("mset", pairs) => mset(database, pairs),
        ("append", [key, more]) => edit_text(database, key, |text| {
            text.extend_from_slice(more);
            Ok(Reply::count(text.len()))
        }),
        ("incr", [key]) => add(database, key, Some(1)),
        ("decr", [key]) => add(database, key, Some(-1)),
        ("incrby", [key, by]) => add(database, key, integer(by).ok()),
        ("decrby", [key, by]) => add(database, key, integer(by).ok().and_then(i64::checked_neg)),
        ("del" | "unlink", keys) => Ok(Reply::count(
            keys.iter().filter_map(|key| database.remove(key)).count(),
        )),
        ("exists" | "touch", keys) => Ok(Reply::count(
            keys.iter().filter_map(|key| database.get(key)).count(),
        )),
        ("type", [key]) => Ok(Reply::Status(
            database.get(key).map_or("none", |entry| entry.value.kind()),
        )),
        ("keys", [pattern]) => Ok(Reply::bulks(
            database
                .keys()
                .map(|(key, _)| key)
                .filter(|key| matches(pattern, key)),
        )),
        ("scan", [_, options @ ..]) => scan(database, options),
        ("randomkey", []) => Ok(database
            .keys()
            .next()
            .map_or(Reply::Null, |(key, _)| Reply::bulk(key))),
        ("dbsize", []) => Ok(Reply::count(database.len())),
        ("ttl", [key]) => Ok(left(database, key, 1000)),
        ("pttl", [key]) => Ok(left(database, key, 1)),
        ("expire", [key, seconds, ..]) => expire(database, key, seconds, 1000),
        ("pexpire", [key, millis, ..]) => expire(database, key, millis, 1),
        ("persist", [key]) => {
            let had = database.get_mut(key).and_then(|entry| entry.expires.take());
            Ok(Reply::Integer(i64::from(had.is_some())))
        }
        ("rename", [from, to]) => match database.remove(from) {
            Some(Entry { value, expires }) => {
                database.set(to, value, expires);
                Ok(Reply::OK)
            }
            None => Err(NO_KEY),
        },
        ("flushdb", _) => {
            *database = Database::default();
            Ok(Reply::OK)
        }
        _ => return collections(database, name, args),
    };
    Some(outcome.unwrap_or_else(Reply::error))
}

/// Lists, hashes and sets.
fn collections(database: &mut Database, name: &str, args: &[Vec<u8>]) -> Option<Reply> {
    let outcome = match (name, args) {
        ("lpush", [key, items @ ..]) => edit_list(database, key, |list| {
            items.iter().for_each(|item| list.push_front(item.clone()));
            Reply::count(list.len())
        }),
        ("rpush", [key, items @ ..]) => edit_list(database, key, |list| {
            list.extend(items.iter().cloned());
            Reply::count(list.len())
        }),
        ("lpop", [key]) => edit_list(database, key, |list| {
            list.pop_front().map_or(Reply::Null, Reply::Bulk)
        }),
        ("rpop", [key]) => edit_list(database, key, |list| {
            list.pop_back().map_or(Reply::Null, Reply::Bulk)
        }),
        ("llen", [key]) => list(database, key).map(|list| Reply::count(list.map_or(0, VecDeque::len))),
        ("lrange", [key, start, stop]) => lrange(database, key, start, stop),
        ("hset" | "hmset", [key, pairs @ ..]) => hset(database, name, key, pairs),
        ("hget", [key, field]) => hash(database, key).map(|fields| {
            fields
                .and_then(|fields| fields.get(field))
                .map_or(Reply::Null, Reply::bulk)
        }),
        ("hgetall", [key]) => hash(database, key).map(|fields| {
            let pairs = fields
                .into_iter()
                .flatten()
                .map(|(name, value)| (Reply::bulk(name), Reply::bulk(value)));
            Reply::Map(pairs.collect())
        }),
        ("hkeys", [key]) => {
            hash(database, key).map(|fields| Reply::bulks(fields.into_iter().flatten().map(|(name, _)| name)))
        }
        ("hvals", [key]) => hash(database, key)
            .map(|fields| Reply::bulks(fields.into_iter().flatten().map(|(_, value)| value))),
        ("hlen", [key]) => hash(database, key).map(|fields| Reply::count(fields.map_or(0, BTreeMap::len))),
        ("sadd", [key, members @ ..]) => match database.value_or(key, || Value::Set(BTreeSet::new())) {
            Value::Set(set) => Ok(Reply::count(
                members
                    .iter()
                    .filter(|member| set.insert((*member).clone()))
                    .count(),
            )),
            _ => Err(WRONG_TYPE),
        },
        ("smembers", [key]) => match database.get(key).map(|entry| &entry.value) {
            Some(Value::Set(set)) => Ok(Reply::Set(set.iter().map(Reply::bulk).collect())),
            None => Ok(Reply::Set(vec![])),
            Some(_) => Err(WRONG_TYPE),
        },
        ("scard", [key]) => match database.get(key).map(|entry| &entry.value) {
            Some(Value::Set(set)) => Ok(Reply::count(set.len())),
            None => Ok(Reply::Integer(0)),
            Some(_) => Err(WRONG_TYPE),
        },
        _ => return None,
    };
    Some(outcome.unwrap_or_else(Reply::error))
}

/// A hash's fields.
type Fields = BTreeMap<Vec<u8>, Vec<u8>>;

type Outcome = Result<Reply, &'static str>;

fn text<'a>(database: &'a Database, key: &[u8]) -> Result<Option<&'a [u8]>, &'static str> {
    match database.get(key).map(|entry| &entry.value) {
        Some(Value::Text(text)) => Ok(Some(text)),
        None => Ok(None),
        Some(_) => Err(WRONG_TYPE),
    }
}

fn list<'a>(database: &'a Database, key: &[u8]) -> Result<Option<&'a VecDeque<Vec<u8>>>, &'static str> {
    match database.get(key).map(|entry| &entry.value) {
        Some(Value::List(list)) => Ok(Some(list)),
        None => Ok(None),
        Some(_) => Err(WRONG_TYPE),
    }
}

fn hash<'a>(database: &'a Database, key: &[u8]) -> Result<Option<&'a Fields>, &'static str> {
    match database.get(key).map(|entry| &entry.value) {
        Some(Value::Hash(fields)) => Ok(Some(fields)),
        None => Ok(None),
        Some(_) => Err(WRONG_TYPE),
    }
}

fn edit_text(database: &mut Database, key: &[u8], edit: impl FnOnce(&mut Vec<u8>) -> Outcome) -> Outcome {
    match database.value_or(key, || Value::Text(Vec::new())) {
        Value::Text(text) => edit(text),
        _ => Err(WRONG_TYPE),
    }
}

/// Lists that become empty are gone, as in Redis.
fn edit_list(
    database: &mut Database,
    key: &[u8],
    edit: impl FnOnce(&mut VecDeque<Vec<u8>>) -> Reply,
) -> Outcome {
    let Value::List(list) = database.value_or(key, || Value::List(VecDeque::new())) else {
        return Err(WRONG_TYPE);
    };
    let reply = edit(list);
    if list.is_empty() {
        database.remove(key);
    }
    Ok(reply)
}

fn set(database: &mut Database, key: &[u8], value: &[u8], options: &[Vec<u8>]) -> Outcome {
    let (mut expires, mut keep, mut old) = (None, false, None);
    let (mut only_new, mut only_old) = (false, false);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match option.to_ascii_lowercase().as_slice() {
            b"nx" => only_new = true,
            b"xx" => only_old = true,
            b"keepttl" => keep = true,
            b"get" => old = Some(text(database, key)?.map_or(Reply::Null, Reply::bulk)),
            b"ex" => expires = Some(deadline(options.next().ok_or(SYNTAX)?, 1000)?),
            b"px" => expires = Some(deadline(options.next().ok_or(SYNTAX)?, 1)?),
            _ => return Err(SYNTAX),
        }
    }
    if only_new && only_old {
        return Err(SYNTAX);
    }
    let present = database.get(key);
    if (only_new && present.is_some()) || (only_old && present.is_none()) {
        return Ok(old.unwrap_or(Reply::Null));
    }
    let expires = if keep {
        present.and_then(|entry| entry.expires)
    } else {
        expires
    };
    database.set(key, Value::Text(value.to_vec()), expires);
    Ok(old.unwrap_or(Reply::OK))
}

fn set_for(database: &mut Database, key: &[u8], time: &[u8], unit: u64, value: &[u8]) -> Outcome {
    let expires = deadline(time, unit)?;
    database.set(key, Value::Text(value.to_vec()), Some(expires));
    Ok(Reply::OK)
}

fn mget(database: &Database, keys: &[Vec<u8>]) -> Outcome {
    let values = keys.iter().map(|key| text(database, key).ok().flatten());
    let total: usize = values.clone().flatten().map(<[u8]>::len).sum();
    if total > ANSWER_CAP {
        return Err("OOM command not allowed when used memory > 'maxmemory'.");
    }
    Ok(Reply::Array(
        values
            .map(|value| value.map_or(Reply::Null, Reply::bulk))
            .collect(),
    ))
}

fn mset(database: &mut Database, pairs: &[Vec<u8>]) -> Outcome {
    let (pairs, []) = pairs.as_chunks::<2>() else {
        return Err("ERR wrong number of arguments for 'mset' command");
    };
    for [key, value] in pairs {
        database.set(key, Value::Text(value.clone()), None);
    }
    Ok(Reply::OK)
}

fn add(database: &mut Database, key: &[u8], by: Option<i64>) -> Outcome {
    let by = by.ok_or(NOT_INTEGER)?;
    let current = text(database, key)?.map_or(Ok(0), integer)?;
    let sum = current
        .checked_add(by)
        .ok_or("ERR increment or decrement would overflow")?;
    edit_text(database, key, |text| {
        *text = sum.to_string().into_bytes();
        Ok(Reply::Integer(sum))
    })
}

/// The keyspace is small, so one call gives everything and the cursor is always at its end.
fn scan(database: &Database, options: &[Vec<u8>]) -> Outcome {
    let (options, []) = options.as_chunks::<2>() else {
        return Err(SYNTAX);
    };
    let named = |name: &[u8]| {
        options
            .iter()
            .find(|[option, _]| option.eq_ignore_ascii_case(name))
            .map(|[_, value]| value)
    };
    let (pattern, kind) = (named(b"match"), named(b"type"));
    let wanted = database.keys().filter(|(key, entry)| {
        pattern.is_none_or(|pattern| matches(pattern, key))
            && kind.is_none_or(|kind| kind.eq_ignore_ascii_case(entry.value.kind().as_bytes()))
    });
    Ok(Reply::Array(vec![
        Reply::bulk("0"),
        Reply::bulks(wanted.map(|(key, _)| key)),
    ]))
}

fn left(database: &Database, key: &[u8], unit: u128) -> Reply {
    Reply::Integer(match database.get(key) {
        None => -2,
        Some(Entry { expires: None, .. }) => -1,
        Some(Entry {
            expires: Some(at), ..
        }) => {
            let left = at.saturating_duration_since(Instant::now()).as_millis();
            i64::try_from(left.div_ceil(unit)).unwrap_or(i64::MAX)
        }
    })
}

fn expire(database: &mut Database, key: &[u8], time: &[u8], unit: u64) -> Outcome {
    let gone = integer(time)? <= 0;
    if database.get(key).is_none() {
        return Ok(Reply::Integer(0));
    }
    if gone {
        database.remove(key);
    } else {
        let expires = deadline(time, unit)?;
        if let Some(entry) = database.get_mut(key) {
            entry.expires = Some(expires);
        }
    }
    Ok(Reply::Integer(1))
}

fn lrange(database: &Database, key: &[u8], start: &[u8], stop: &[u8]) -> Outcome {
    let (start, stop) = (integer(start)?, integer(stop)?);
    let Some(items) = list(database, key)? else {
        return Ok(Reply::Array(vec![]));
    };
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let index = |at: i64| {
        if at < 0 {
            at.saturating_add(length).max(0)
        } else {
            at
        }
    };
    let (start, stop) = (index(start), if stop < -length { -1 } else { index(stop) });
    let wanted = (0..length)
        .zip(items)
        .filter(|(at, _)| (start..=stop).contains(at));
    Ok(Reply::bulks(wanted.map(|(_, item)| item)))
}

fn hset(database: &mut Database, name: &str, key: &[u8], pairs: &[Vec<u8>]) -> Outcome {
    let (pairs, []) = pairs.as_chunks::<2>() else {
        return Err("ERR wrong number of arguments for 'hset' command");
    };
    let Value::Hash(fields) = database.value_or(key, || Value::Hash(BTreeMap::new())) else {
        return Err(WRONG_TYPE);
    };
    let new = pairs
        .iter()
        .filter(|[field, value]| fields.insert(field.clone(), value.clone()).is_none())
        .count();
    Ok(if name == "hset" {
        Reply::count(new)
    } else {
        Reply::OK
    })
}

fn integer(digits: &[u8]) -> Result<i64, &'static str> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(NOT_INTEGER)
}

fn deadline(time: &[u8], unit: u64) -> Result<Instant, &'static str> {
    let time = u64::try_from(integer(time)?).ok().filter(|time| *time > 0);
    time.and_then(|time| time.checked_mul(unit))
        .and_then(|millis| Instant::now().checked_add(Duration::from_millis(millis)))
        .ok_or("ERR invalid expire time in 'set' command")
}
