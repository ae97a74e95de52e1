//! YAML text to trees, one for each document of a file.
//!
//! The parser gives events; this module puts them together, resolves aliases and `<<`, and bounds both: a file of a
//! kilobyte can say "a list of nine of the list of nine of …" and mean gigabytes.

use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput, Tag};

use super::scalar;
use super::sink::{Budget, TOO_LARGE};
use super::tree::{At, Kind, Map, Mark, Tree};

/// How deep values may lie in one another.
const MAX_DEPTH: usize = 64;

/// A file that is not usable YAML: where, and what is wrong.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) at: At,
    pub(super) path: String,
    pub(super) problem: String,
}

/// All documents of a file that say something. `file` is the number that goes into every [`At`].
pub(super) fn parse(text: &str, file: u32, budget: &mut Budget) -> Result<Vec<Tree>, Bad> {
    // go-yaml skips the mark; YAML 1.2 section 5.2 allows it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        file,
        anchors: BTreeMap::new(),
        open: BTreeSet::new(),
        path: Vec::new(),
        budget,
    };
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::DocumentStart(_), _) => {
                reader.anchors.clear();
                let first = reader.next()?;
                let document = reader.node(first, 0)?;
                if !document.is_null() {
                    documents.push(document);
                }
            }
            _ => {}
        }
    }
}

struct Reader<'a, 'b> {
    parser: Parser<'a, StrInput<'a>>,
    file: u32,
    anchors: BTreeMap<usize, Tree>,
    /// Anchors of the nodes that are being read.
    open: BTreeSet<usize>,
    path: Vec<String>,
    budget: &'b mut Budget,
}

type Next<'a> = (Event<'a>, At);

impl<'a> Reader<'a, '_> {
    fn next(&mut self) -> Result<Next<'a>, Bad> {
        match self.parser.next_event() {
            None => Ok((Event::StreamEnd, At::default())),
            Some(Ok((event, span))) => Ok((event, self.at(span.start))),
            Some(Err(error)) => {
                let at = self.at(*error.marker());
                Err(Bad {
                    at,
                    path: String::new(),
                    problem: format!(
                        "not valid YAML: {}: look at this line and the one before",
                        error.info()
                    ),
                })
            }
        }
    }

    fn at(&self, marker: Marker) -> At {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        At {
            file: self.file,
            line: number(marker.line()),
            column: number(marker.col().saturating_add(1)),
        }
    }

    fn bad(&self, at: At, problem: impl Into<String>) -> Bad {
        let mut path = String::new();
        for part in &self.path {
            if !path.is_empty() && !part.starts_with('[') {
                path.push('.');
            }
            path.push_str(part);
        }
        Bad {
            at,
            path,
            problem: problem.into(),
        }
    }

    fn charge(&mut self, at: At, nodes: usize, bytes: usize) -> Result<(), Bad> {
        if self.budget.take(nodes, bytes) {
            Ok(())
        } else {
            Err(self.bad(at, TOO_LARGE))
        }
    }

    fn node(&mut self, (event, at): Next<'a>, depth: usize) -> Result<Tree, Bad> {
        if depth > MAX_DEPTH {
            return Err(self.bad(at, too_deep()));
        }
        match event {
            Event::Alias(id) => {
                if self.open.contains(&id) {
                    return Err(self.bad(at, "the alias stands inside the node that it names"));
                }
                let Some(node) = self.anchors.get(&id) else {
                    return Err(self.bad(at, UNKNOWN_ANCHOR));
                };
                let size = node.size();
                if depth + size.depth > MAX_DEPTH {
                    return Err(self.bad(at, too_deep()));
                }
                self.charge(at, size.nodes, size.bytes)?;
                self.anchors
                    .get(&id)
                    .cloned()
                    .ok_or_else(|| self.bad(at, UNKNOWN_ANCHOR))
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.charge(at, 1, text.len())?;
                let tree = self.scalar(&text, style, tag.as_deref(), at)?;
                self.keep(anchor, tree, at)
            }
            Event::SequenceStart(anchor, tag) => {
                self.charge(at, 1, 0)?;
                let mark = self.mark(tag.as_deref(), "seq", at)?;
                self.open.insert(anchor);
                let mut list = Vec::new();
                loop {
                    let next = self.next()?;
                    if matches!(next.0, Event::SequenceEnd) {
                        break;
                    }
                    self.path.push(format!("[{}]", list.len()));
                    let item = self.node(next, depth + 1)?;
                    self.path.pop();
                    // Nothing lies under an item that it could take away.
                    if item.mark != Mark::Reset {
                        list.push(item);
                    }
                }
                self.open.remove(&anchor);
                let mut tree = Tree::new(at, Kind::List(list));
                tree.mark = mark;
                self.keep(anchor, tree, at)
            }
            Event::MappingStart(anchor, tag) => {
                self.charge(at, 1, 0)?;
                let mark = self.mark(tag.as_deref(), "map", at)?;
                self.open.insert(anchor);
                let map = self.mapping(depth)?;
                self.open.remove(&anchor);
                let mut tree = Tree::new(at, Kind::Map(map));
                tree.mark = mark;
                self.keep(anchor, tree, at)
            }
            _ => Err(self.bad(at, "not valid YAML: a value is missing")),
        }
    }

    /// Anchor 0 is no anchor.
    fn keep(&mut self, anchor: usize, tree: Tree, at: At) -> Result<Tree, Bad> {
        if anchor != 0 {
            let size = tree.size();
            self.charge(at, size.nodes, size.bytes)?;
            self.anchors.insert(anchor, tree.clone());
        }
        Ok(tree)
    }

    fn mapping(&mut self, depth: usize) -> Result<Map, Bad> {
        let mut map = Map::new();
        let mut merged: Option<Tree> = None;
        loop {
            let (event, at) = self.next()?;
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, ScalarStyle::Plain, 0, None) if text == "<<" => {
                    self.path.push("<<".to_owned());
                    let next = self.next()?;
                    let value = self.node(next, depth + 1)?;
                    if merged.replace(value).is_some() {
                        return Err(self.bad(at, "stands twice: write one << with a list"));
                    }
                    self.path.pop();
                    continue;
                }
                event @ (Event::Scalar(..) | Event::Alias(_)) => {
                    let key = self.node((event, at), depth + 1)?;
                    match key.kind {
                        Kind::Text(key) => key,
                        _ => {
                            let shown = key.scalar().unwrap_or_else(|| "null".to_owned());
                            return Err(self.bad(
                                at,
                                format!("the key {shown} is {}, not text: put it in quotes", key.what()),
                            ));
                        }
                    }
                }
                _ => return Err(self.bad(at, "a key must be text")),
            };
            self.path.push(key.clone());
            if let Some(before) = map.get(&key) {
                return Err(self.bad(
                    at,
                    format!("stands twice, first in line {}: remove one", before.at.line),
                ));
            }
            let next = self.next()?;
            let mut value = self.node(next, depth + 1)?;
            self.path.pop();
            value.at = at;
            map.insert(key, value);
        }
        if let Some(merged) = merged {
            self.merge(&mut map, merged)?;
        }
        Ok(map)
    }

    /// YAML 1.1, "Merge Key": what stands in the mapping itself wins, then the earlier of a list.
    fn merge(&mut self, map: &mut Map, merged: Tree) -> Result<(), Bad> {
        let at = merged.at;
        match merged.kind {
            Kind::Map(other) => {
                for (key, value) in other {
                    map.entry(key).or_insert(value);
                }
                Ok(())
            }
            Kind::List(list) if list.iter().all(|item| item.as_map().is_some()) => {
                for item in list {
                    self.merge(map, item)?;
                }
                Ok(())
            }
            _ => {
                self.path.push("<<".to_owned());
                Err(self.bad(at, "merges mappings: name one, or a list of them"))
            }
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, at: At) -> Result<Tree, Bad> {
        let plain = |text: &str| scalar::plain(text).map_err(|problem| format!("{text} {problem}"));
        let kind = match tag {
            None if style == ScalarStyle::Plain => plain(text),
            None => Ok(Kind::Text(text.to_owned())),
            Some(tag) => match (tag.handle.as_str(), tag.suffix.as_str()) {
                ("!", "reset") => {
                    let mut tree = Tree::new(at, Kind::Null);
                    tree.mark = Mark::Reset;
                    return Ok(tree);
                }
                ("!", "override") => {
                    let mut tree = self.scalar(text, style, None, at)?;
                    tree.mark = Mark::Override;
                    return Ok(tree);
                }
                (CORE, "str") | ("", "!") | ("!", "") => Ok(Kind::Text(text.to_owned())),
                (CORE, "null") if matches!(plain(text), Ok(Kind::Null)) => Ok(Kind::Null),
                (CORE, "bool") if matches!(plain(text), Ok(Kind::Bool(_))) => plain(text),
                (CORE, "int") if matches!(scalar::number(text), Ok(Some(Kind::Int(_)))) => plain(text),
                (CORE, "float") => match scalar::number(text) {
                    Ok(Some(Kind::Float(value))) => Ok(Kind::Float(value)),
                    #[allow(clippy::cast_precision_loss)] // what "as a float" asks for
                    Ok(Some(Kind::Int(value))) => Ok(Kind::Float(value as f64)),
                    _ => Err(unknown(tag)),
                },
                _ => Err(unknown(tag)),
            },
        };
        match kind {
            Ok(kind) => Ok(Tree::new(at, kind)),
            Err(problem) => Err(self.bad(at, problem)),
        }
    }

    /// The mark of a list or mapping; `core` is the tag that says no more than what it is.
    fn mark(&self, tag: Option<&Tag>, core: &str, at: At) -> Result<Mark, Bad> {
        match tag.map(|tag| (tag.handle.as_str(), tag.suffix.as_str(), tag)) {
            None => Ok(Mark::None),
            Some(("!", "reset", _)) => Ok(Mark::Reset),
            Some(("!", "override", _)) => Ok(Mark::Override),
            Some((CORE, suffix, _)) if suffix == core => Ok(Mark::None),
            Some((_, _, tag)) => Err(self.bad(at, unknown(tag))),
        }
    }
}

const UNKNOWN_ANCHOR: &str = "the alias names an anchor that was not set before";

fn too_deep() -> String {
    format!("lies more than {MAX_DEPTH} levels deep")
}

const CORE: &str = "tag:yaml.org,2002:";

fn unknown(tag: &Tag) -> String {
    let handle = if tag.handle == CORE { "!!" } else { &tag.handle };
    format!(
        "the tag {handle}{} does not fit: !reset and !override are known",
        tag.suffix
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        parse(text, 0, &mut Budget::default())
            .map(|documents| {
                let sink = super::super::sink::Sink::default();
                let documents: Vec<_> = documents.iter().map(|d| d.finish(&sink).0.to_string()).collect();
                documents.join(" ")
            })
            .map_err(|bad| format!("{}:{}: {}: {}", bad.at.line, bad.at.column, bad.path, bad.problem))
    }

    #[test]
    fn documents_anchors_and_merges_are_put_together() {
        for (text, json) in [
            ("", ""),
            ("# nothing", ""),
            ("a: 1\n---\nb: 2\n---\n", r#"{"a":1} {"b":2}"#),
            ("\u{feff}a: 1", r#"{"a":1}"#),
            ("a: &x {b: 1}\nc: *x", r#"{"a":{"b":1},"c":{"b":1}}"#),
            (
                "x: &x {a: 1, b: 1}\ny: {<<: *x, b: 2}",
                r#"{"x":{"a":1,"b":1},"y":{"a":1,"b":2}}"#,
            ),
            (
                "x: &x {a: 1}\ny: &y {a: 2, b: 2}\nz: {<<: [*x, *y]}",
                r#"{"x":{"a":1},"y":{"a":2,"b":2},"z":{"a":1,"b":2}}"#,
            ),
            (
                "a: !!str 12\nb: !!float 1\nc: ! 5\nd: '12'",
                r#"{"a":"12","b":1.0,"c":"5","d":"12"}"#,
            ),
            ("a:\nb: ''\nc: ~", r#"{"a":null,"b":"","c":null}"#),
            ("a: |\n  x\n  y\nb: >-\n  x\n  y", r#"{"a":"x\ny\n","b":"x y"}"#),
            ("'<<': 1", r#"{"<<":1}"#),
        ] {
            assert_eq!(read(text).as_deref(), Ok(json), "{text}");
        }
    }

    #[test]
    fn what_is_not_usable_is_named_with_its_place() {
        for (text, error) in [
            ("a: 1\na: 2", "2:1: a: stands twice, first in line 1: remove one"),
            (
                "a: {1: x}",
                "1:5: a: the key 1 is a number, not text: put it in quotes",
            ),
            (
                "~: x",
                "1:1: : the key null is nothing, not text: put it in quotes",
            ),
            (
                "a: {b: 2001-01-01}",
                "1:8: a.b: 2001-01-01 is a date to YAML: put it in quotes",
            ),
            (
                "a: &x [*x]",
                "1:8: a[0]: the alias stands inside the node that it names",
            ),
            (
                "a: {<<: 1}",
                "1:9: a.<<: merges mappings: name one, or a list of them",
            ),
            (
                "a: !x 1",
                "1:4: a: the tag !x does not fit: !reset and !override are known",
            ),
            (
                "a: !!int x",
                "1:4: a: the tag !!int does not fit: !reset and !override are known",
            ),
        ] {
            let found = read(text).unwrap_err();
            assert_eq!(found, error, "{text}");
        }
        assert!(read("a: [1").unwrap_err().contains("not valid YAML"));
        assert!(read("a: *x").unwrap_err().contains("1:4"));
    }

    #[test]
    fn a_billion_laughs_are_not_laughed() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
        }
        assert!(read(&text).unwrap_err().contains(TOO_LARGE));
    }

    #[test]
    fn depth_is_bounded() {
        let flow = "[".repeat(100_000);
        assert!(read(&flow).is_err());
        let mut block = String::new();
        for i in 0..200 {
            block.push_str(&format!("{}a:\n", " ".repeat(i)));
        }
        assert!(read(&block).unwrap_err().contains("levels deep"));
    }
}
