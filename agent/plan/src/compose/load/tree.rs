//! A document while it is loaded: values that know where they were written.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::super::attributes::{Branch, Support};
use super::sink::Sink;
use super::{Position, Positions};

/// Where a node was written: a file by its number in the [`Sink`], line and column from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct At {
    pub(super) file: u32,
    pub(super) line: u32,
    pub(super) column: u32,
}

/// Compose Specification, "Merge": the two tags that change how a node meets the one below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mark {
    #[default]
    None,
    /// `!reset`: what the files before said is forgotten, and nothing takes its place.
    Reset,
    /// `!override`: this takes the place of what the files before said.
    Override,
}

/// An entry of a mapping is at its key; everything else where it starts.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) at: At,
    pub(super) mark: Mark,
    pub(super) kind: Kind,
}

pub(super) type Map = BTreeMap<String, Tree>;

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    /// All of `i64` and `u64`.
    Int(i128),
    /// Always finite.
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Map),
}

/// Nodes, bytes of text, and the levels below the top one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) nodes: usize,
    pub(super) bytes: usize,
    pub(super) depth: usize,
}

/// Two trees are equal when they say the same, wherever they say it.
impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Null, Kind::Null) => true,
            (Kind::Bool(a), Kind::Bool(b)) => a == b,
            (Kind::Int(a), Kind::Int(b)) => a == b,
            (Kind::Float(a), Kind::Float(b)) => a.total_cmp(b).is_eq(),
            (Kind::Text(a), Kind::Text(b)) => a == b,
            (Kind::List(a), Kind::List(b)) => a == b,
            (Kind::Map(a), Kind::Map(b)) => a == b,
            _ => false,
        }
    }
}

impl Tree {
    pub(super) fn new(at: At, kind: Kind) -> Self {
        Self {
            at,
            mark: Mark::None,
            kind,
        }
    }

    pub(super) fn text(at: At, text: impl Into<String>) -> Self {
        Self::new(at, Kind::Text(text.into()))
    }

    pub(super) fn map(at: At) -> Self {
        Self::new(at, Kind::Map(Map::new()))
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }

    pub(super) fn as_map(&self) -> Option<&Map> {
        match &self.kind {
            Kind::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(super) fn as_map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.kind {
            Kind::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(super) fn as_list(&self) -> Option<&[Self]> {
        match &self.kind {
            Kind::List(list) => Some(list),
            _ => None,
        }
    }

    pub(super) fn as_list_mut(&mut self) -> Option<&mut Vec<Self>> {
        match &mut self.kind {
            Kind::List(list) => Some(list),
            _ => None,
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value under a key of this mapping, if there is one that is not null.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.as_map()?.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        self.as_map_mut()?.get_mut(key).filter(|value| !value.is_null())
    }

    pub(super) fn get_text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_text()
    }

    /// The entries of a mapping under a key; none if it is not there or no mapping.
    pub(super) fn entries(&self, key: &str) -> impl Iterator<Item = (&String, &Self)> {
        self.get(key).and_then(Self::as_map).into_iter().flatten()
    }

    pub(super) fn entries_mut(&mut self, key: &str) -> impl Iterator<Item = (&String, &mut Self)> {
        self.get_mut(key).and_then(Self::as_map_mut).into_iter().flatten()
    }

    /// The items of a list under a key; none if it is not there or no list.
    pub(super) fn items(&self, key: &str) -> impl Iterator<Item = &Self> {
        self.get(key).and_then(Self::as_list).unwrap_or_default().iter()
    }

    /// What a scalar says as text, as Go's `fmt` prints it, which is what Compose does with a number in a label.
    pub(super) fn scalar(&self) -> Option<String> {
        match &self.kind {
            Kind::Bool(value) => Some(value.to_string()),
            Kind::Int(value) => Some(value.to_string()),
            Kind::Float(value) => Some(go_float(*value)),
            Kind::Text(text) => Some(text.clone()),
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// "text", "a list", …
    pub(super) fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Int(_) | Kind::Float(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// Forgets the marks: what they had to say was said, or is not for whom this goes to.
    pub(super) fn settle(&mut self) {
        self.mark = Mark::None;
        match &mut self.kind {
            Kind::List(list) => {
                list.retain(|item| item.mark != Mark::Reset);
                list.iter_mut().for_each(Self::settle);
            }
            Kind::Map(map) => {
                map.retain(|_, value| value.mark != Mark::Reset);
                map.values_mut().for_each(Self::settle);
            }
            _ => {}
        }
    }

    /// What a copy takes.
    pub(super) fn size(&self) -> Size {
        let mut size = Size {
            nodes: 1,
            bytes: 0,
            depth: 0,
        };
        let mut add = |child: &Self| {
            let inner = child.size();
            size.nodes += inner.nodes;
            size.bytes += inner.bytes;
            size.depth = size.depth.max(inner.depth + 1);
        };
        match &self.kind {
            Kind::Text(text) => size.bytes = text.len(),
            Kind::List(list) => list.iter().for_each(add),
            Kind::Map(map) => {
                map.values().for_each(&mut add);
                size.bytes += map.keys().map(String::len).sum::<usize>();
            }
            _ => {}
        }
        size
    }

    /// The plain document, and where each part of it was written.
    pub(super) fn finish(&self, sink: &Sink) -> (Value, Positions) {
        let mut places = Places {
            sink,
            found: BTreeMap::new(),
            bytes: 0,
        };
        let value = self.value(&mut String::new(), &mut places);
        (value, Positions(places.found))
    }

    fn value(&self, path: &mut String, places: &mut Places<'_>) -> Value {
        places.add(path, self.at);
        let end = path.len();
        let mut enter = |path: &mut String, key: &str, child: &Self| {
            if end > 0 {
                path.push('.');
            }
            path.push_str(key);
            let value = child.value(path, places);
            path.truncate(end);
            value
        };
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(small), _) => small.into(),
                (_, Ok(large)) => large.into(),
                _ => Value::Null,
            },
            Kind::Float(value) => (*value).into(),
            Kind::Text(text) => Value::String(text.clone()),
            Kind::List(list) => list
                .iter()
                .enumerate()
                .map(|(i, item)| enter(path, &i.to_string(), item))
                .collect(),
            Kind::Map(map) => {
                let entries = map
                    .iter()
                    .map(|(key, value)| (key.clone(), enter(path, key, value)));
                Value::Object(entries.collect())
            }
        }
    }
}

/// How long all paths together may be: with long keys far above they take more than the document. What has no place of
/// its own then has that of what is around it.
const MAX_PLACES: usize = 64 << 20;

struct Places<'a> {
    sink: &'a Sink,
    found: BTreeMap<String, Position>,
    bytes: usize,
}

impl Places<'_> {
    fn add(&mut self, path: &str, at: At) {
        self.bytes = self.bytes.saturating_add(path.len());
        if !path.is_empty()
            && self.bytes <= MAX_PLACES
            && let Some(position) = self.sink.position(at)
        {
            self.found.insert(path.to_owned(), position);
        }
    }
}

/// A path while a tree is walked, kept on the stack.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trail<'a> {
    Root,
    Key(&'a Trail<'a>, &'a str),
    Item(&'a Trail<'a>, usize),
}

impl<'a> Trail<'a> {
    pub(super) fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }

    pub(super) fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }

    /// The keys from the top down. A name may have dots in it, so no text says the same.
    pub(super) fn keys(&self) -> Vec<&'a str> {
        match self {
            Self::Root => Vec::new(),
            Self::Item(parent, _) => parent.keys(),
            Self::Key(parent, key) => {
                let mut keys = parent.keys();
                keys.push(key);
                keys
            }
        }
    }

    /// Whether this is an attribute that the table refuses, or lies in one.
    pub(super) fn is_refused(&self) -> bool {
        self.branch().1
    }

    fn branch(&self) -> (Option<&'static Branch>, bool) {
        let (branch, refused) = match self {
            Self::Root => return (Some(Branch::root()), false),
            Self::Key(parent, key) => {
                let (outer, refused) = parent.branch();
                (outer.and_then(|outer| outer.key(key)), refused)
            }
            Self::Item(parent, _) => {
                let (outer, refused) = parent.branch();
                (outer.and_then(Branch::item), refused)
            }
        };
        let refuses = matches!(branch.and_then(Branch::support), Some(Support::Refused(_)));
        (branch, refused || refuses)
    }
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A float as Go's `fmt` prints it with `%v` (`strconv`, format `g`, shortest): with an exponent of at least two digits
/// when the power of ten is below -4 or above 5.
fn go_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((digits, power)) = scientific.split_once('e') else {
        return scientific;
    };
    match power.parse::<i32>() {
        Ok(power) if !(-4..6).contains(&power) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", power.unsigned_abs())
        }
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_compose_prints_them() {
        for (value, text) in [
            (0.5, "0.5"),
            (8.0, "8"),
            (1000.0, "1000"),
            (123_456_789.5, "1.234567895e+08"),
            (1e21, "1e+21"),
            (1e-7, "1e-07"),
            (0.0001, "0.0001"),
            (1_000_000.0, "1e+06"),
            (-2.5, "-2.5"),
            (0.0, "0"),
        ] {
            assert_eq!(go_float(value), text);
        }
    }

    #[test]
    fn a_path_reads_as_the_author_thinks_of_it() {
        let root = Trail::Root;
        let services = root.key("services");
        let web = services.key("web");
        let ports = web.key("ports");
        assert_eq!(ports.item(1).to_string(), "services.web.ports[1]");
    }
}
