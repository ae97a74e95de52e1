//! JSON nodes that know their path, and the sink that collects what is wrong with them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde_json::{Map, Value};

/// One thing wrong with a document: where, and what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct Problem {
    /// Dotted path of keys and list indices, such as `services.ssh.expose.0`.
    pub path: String,
    pub problem: String,
}

/// Whether the loader has been over a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// As somebody wrote it: `$$` is a dollar sign, and what the loader resolves is not resolved.
    Written,
    /// As the loader made it: texts mean what they say.
    Loaded,
}

/// Collects problems while a document is read to its end.
#[derive(Debug)]
pub(crate) struct Problems {
    found: Vec<Problem>,
    pub(crate) origin: Origin,
}

impl Problems {
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            found: Vec::new(),
            origin,
        }
    }

    pub(crate) fn add(&mut self, path: &str, problem: impl Display) {
        let path = if path.is_empty() { "document" } else { path }.to_owned();
        self.found.push(Problem {
            path,
            problem: problem.to_string(),
        });
    }

    fn knows(&self, path: &str) -> bool {
        self.found.iter().any(|problem| problem.path == path)
    }

    pub(crate) fn into_result<T>(mut self, value: T) -> Result<T, Vec<Problem>> {
        self.found.sort_by(|a, b| a.path.cmp(&b.path));
        if self.found.is_empty() {
            Ok(value)
        } else {
            Err(self.found)
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    pub(crate) path: String,
    pub(crate) value: &'a Value,
}

impl<'a> Node<'a> {
    pub(crate) fn root(value: &'a Value) -> Self {
        Self {
            path: String::new(),
            value,
        }
    }

    fn child(&self, key: impl Display, value: &'a Value) -> Self {
        let path = if self.path.is_empty() {
            key.to_string()
        } else {
            format!("{}.{key}", self.path)
        };
        Self { path, value }
    }

    /// A mapping whose keys are all taken one by one; [`Mapping::finish`] reports the rest.
    pub(crate) fn mapping(self, problems: &mut Problems) -> Option<Mapping<'a>> {
        match self.value {
            Value::Object(map) => Some(Mapping {
                rest: map.iter().collect(),
                node: self,
            }),
            _ => fail(problems, &self.path, "must be a mapping"),
        }
    }

    /// A mapping with names of the author's choice as keys. Null counts as empty.
    pub(crate) fn entries(self, problems: &mut Problems) -> Option<Vec<(String, Node<'a>)>> {
        match self.value {
            Value::Object(map) => Some(sorted(map).map(|(k, v)| (k.clone(), self.child(k, v))).collect()),
            Value::Null => Some(Vec::new()),
            _ => fail(problems, &self.path, "must be a mapping"),
        }
    }

    pub(crate) fn items(self, problems: &mut Problems) -> Option<Vec<Node<'a>>> {
        match self.value {
            Value::Array(list) => Some(list.iter().enumerate().map(|(i, v)| self.child(i, v)).collect()),
            _ => fail(problems, &self.path, "must be a list"),
        }
    }

    /// A text, with Compose's interpolation: `$$` is one dollar sign, and there are no variables to refer to.
    pub(crate) fn text(self, problems: &mut Problems) -> Option<String> {
        match self.value {
            Value::String(text) if problems.origin == Origin::Loaded => Some(text.clone()),
            Value::String(text) => match interpolate(text) {
                Some(text) => Some(text),
                None => fail(problems, &self.path, VARIABLES),
            },
            _ => fail(problems, &self.path, "must be a text"),
        }
    }

    /// A text or a number, written as text.
    pub(crate) fn scalar(self, problems: &mut Problems) -> Option<String> {
        match self.value {
            Value::Number(number) => Some(number.to_string()),
            Value::String(_) => self.text(problems),
            _ => fail(problems, &self.path, "must be a text or a number"),
        }
    }

    /// True or false, also as a text, as variables give it.
    pub(crate) fn boolean(self, problems: &mut Problems) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(*value),
            Value::String(text) if text == "true" => Some(true),
            Value::String(text) if text == "false" => Some(false),
            _ => fail(problems, &self.path, "must be true or false"),
        }
    }

    /// A text or a number that `parse` makes sense of.
    pub(crate) fn parsed<T, E: Display>(
        self,
        problems: &mut Problems,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let path = self.path.clone();
        let text = self.scalar(problems)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => fail(problems, &path, error),
        }
    }

    /// A list of texts (or of numbers, written as text).
    pub(crate) fn texts(self, problems: &mut Problems) -> Option<Vec<String>> {
        let items = self.items(problems)?;
        Some(
            items
                .into_iter()
                .filter_map(|node| node.scalar(problems))
                .collect(),
        )
    }

    /// One text, or a list of them.
    pub(crate) fn text_or_texts(self, problems: &mut Problems) -> Option<Vec<String>> {
        if self.value.is_array() {
            self.texts(problems)
        } else {
            self.text(problems).map(|text| vec![text])
        }
    }

    /// Compose's "list or dict": a mapping of scalars, or a list of `KEY=VALUE`. A key without a value gives None.
    pub(crate) fn pairs(self, problems: &mut Problems) -> Option<BTreeMap<String, Option<String>>> {
        let mut pairs = BTreeMap::new();
        if self.value.is_array() {
            for node in self.items(problems)? {
                let path = node.path.clone();
                let Some(text) = node.text(problems) else { continue };
                let (key, value) = match text.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (text, None),
                };
                if key.is_empty() {
                    problems.add(&path, "must be KEY=VALUE");
                } else if pairs.insert(key, value).is_some() {
                    problems.add(&path, "the key is set twice");
                }
            }
        } else {
            for (key, node) in self.entries(problems)? {
                let value = match node.value {
                    Value::Null => None,
                    Value::Bool(value) => Some(value.to_string()),
                    _ => match node.scalar(problems) {
                        Some(value) => Some(value),
                        None => continue,
                    },
                };
                pairs.insert(key, value);
            }
        }
        Some(pairs)
    }
}

/// A mapping with a known set of keys.
#[derive(Debug)]
pub(crate) struct Mapping<'a> {
    node: Node<'a>,
    rest: BTreeMap<&'a String, &'a Value>,
}

impl<'a> Mapping<'a> {
    /// The value of a key; null counts as absent, as it does in Compose.
    pub(crate) fn take(&mut self, key: &str) -> Option<Node<'a>> {
        let value = self.rest.remove(&key.to_owned())?;
        (!value.is_null()).then(|| self.node.child(key, value))
    }

    pub(crate) fn path(&self) -> &str {
        &self.node.path
    }

    pub(crate) fn text(&mut self, key: &str, problems: &mut Problems) -> Option<String> {
        self.take(key)?.text(problems)
    }

    /// A text or a number, written as text.
    pub(crate) fn scalar(&mut self, key: &str, problems: &mut Problems) -> Option<String> {
        self.take(key)?.scalar(problems)
    }

    pub(crate) fn flag(&mut self, key: &str, problems: &mut Problems) -> Option<bool> {
        self.take(key)?.boolean(problems)
    }

    pub(crate) fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        problems: &mut Problems,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.take(key)?.parsed(problems, parse)
    }

    /// A whole number, also as a text.
    pub(crate) fn number<T: FromStr>(&mut self, key: &str, problems: &mut Problems) -> Option<T> {
        self.parsed(key, problems, |text| {
            text.trim()
                .parse::<T>()
                .map_err(|_| "must be a whole number in range")
        })
    }

    pub(crate) fn texts(&mut self, key: &str, problems: &mut Problems) -> Vec<String> {
        self.take(key)
            .and_then(|node| node.texts(problems))
            .unwrap_or_default()
    }

    pub(crate) fn text_or_texts(&mut self, key: &str, problems: &mut Problems) -> Vec<String> {
        self.take(key)
            .and_then(|node| node.text_or_texts(problems))
            .unwrap_or_default()
    }

    /// Pairs; a key without a value has an empty one.
    pub(crate) fn filled(&mut self, key: &str, problems: &mut Problems) -> BTreeMap<String, String> {
        let pairs = self.take(key).and_then(|node| node.pairs(problems));
        let filled = |(key, value): (String, Option<String>)| (key, value.unwrap_or_default());
        pairs.unwrap_or_default().into_iter().map(filled).collect()
    }

    /// Pairs of which each must have a value.
    pub(crate) fn required(&mut self, key: &str, problems: &mut Problems) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let Some(node) = self.take(key) else { return all };
        let path = node.path.clone();
        for (key, value) in node.pairs(problems).unwrap_or_default() {
            match value {
                Some(value) => {
                    all.insert(key, value);
                }
                None => problems.add(&path, format_args!("{key} needs a value")),
            }
        }
        all
    }

    /// What only the loader resolves; in its own documents it is done with, and left over for people to see.
    pub(crate) fn resolved_by_loader(&mut self, key: &str, problems: &mut Problems) {
        if let Some(node) = self.take(key)
            && problems.origin == Origin::Written
        {
            problems.add(&node.path, "not supported here: only Compose files have it");
        }
    }

    /// Every key that nobody took is an error, except `x-*`.
    pub(crate) fn finish(self, problems: &mut Problems) {
        for (key, value) in self.rest {
            let path = self.node.child(key, value).path;
            if !key.starts_with("x-") && !problems.knows(&path) {
                problems.add(&path, "not supported");
            }
        }
    }
}

const VARIABLES: &str = "variables are not supported: write $$ for a dollar sign";

/// Compose Specification, "Interpolation". A bundle has no variables, so only the escape has a meaning.
fn interpolate(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        out.push('$');
        rest = after.strip_prefix('$')?;
    }
    out.push_str(rest);
    Some(out)
}

fn sorted(map: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    map.iter().collect::<BTreeMap<_, _>>().into_iter()
}

fn fail<T>(problems: &mut Problems, path: &str, problem: impl Display) -> Option<T> {
    problems.add(path, problem);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubled_dollar_is_one_and_a_single_one_is_refused() {
        assert_eq!(interpolate("a$$b$$$$").as_deref(), Some("a$b$$"));
        for bad in ["$HOME", "${HOME}", "a$", "$1"] {
            assert_eq!(interpolate(bad), None, "{bad}");
        }
    }
}
