//! Variables in values: Compose Specification, "Interpolation".
//!
//! `$NAME`, `${NAME}`, `${NAME-word}`, `${NAME:-word}`, `${NAME?word}`, `${NAME:?word}`, `${NAME+word}`,
//! `${NAME:+word}`, with variables inside the words, and `$$` for a dollar. With a colon an empty value counts as none.
//! Keys are left alone.

use std::collections::{BTreeMap, BTreeSet};

use super::sink::{Sink, TOO_LARGE};
use super::tree::{Kind, Trail, Tree};

/// How deep words may nest, and how long one value may become.
const MAX_NESTING: usize = 32;
const MAX_VALUE: usize = 1 << 20;

/// Replaces the variables in every text of a document.
pub(super) fn tree(
    tree: &mut Tree,
    trail: &Trail<'_>,
    environment: &BTreeMap<String, String>,
    sink: &mut Sink,
) {
    if sink.is_full() {
        return;
    }
    match &mut tree.kind {
        Kind::Text(value) if value.contains('$') => {
            let lookup = |name: &str| environment.get(name).cloned();
            let mut unset = BTreeSet::new();
            match text(value, &lookup, &mut unset) {
                Ok(new) if sink.budget.take(0, new.len()) => *value = new,
                Ok(_) => sink.fail(tree.at, trail, TOO_LARGE),
                Err(problem) => sink.fail(tree.at, trail, problem),
            }
            for name in unset {
                sink.warn(format!(
                    "the variable {name} is not set: an empty text takes its place"
                ));
            }
        }
        Kind::List(list) => {
            for (i, item) in list.iter_mut().enumerate() {
                self::tree(item, &trail.item(i), environment, sink);
            }
        }
        Kind::Map(map) => {
            for (key, value) in map {
                self::tree(value, &trail.key(key), environment, sink);
            }
        }
        _ => {}
    }
}

/// Where a variable's value comes from.
pub(super) type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Replaces the variables in one text. Names without a value and without a word for that case go to `unset`.
///
/// # Errors
/// An open brace, a form that does not exist, a required variable without a value.
pub(super) fn text(
    template: &str,
    lookup: &Lookup<'_>,
    unset: &mut BTreeSet<String>,
) -> Result<String, String> {
    let mut out = String::with_capacity(template.len());
    expand(template, lookup, unset, &mut out, 0)?;
    Ok(out)
}

fn expand(
    template: &str,
    lookup: &Lookup<'_>,
    unset: &mut BTreeSet<String>,
    out: &mut String,
    nesting: usize,
) -> Result<(), String> {
    if nesting > MAX_NESTING {
        return Err(format!("has variables more than {MAX_NESTING} levels deep"));
    }
    let mut rest = template;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let behind = &rest[dollar + 1..];
        rest = match behind.as_bytes().first() {
            Some(b'$') => {
                out.push('$');
                &behind[1..]
            }
            Some(b'{') => {
                let end =
                    closing(behind).ok_or_else(|| format!("${behind}: the brace is not closed: add }}"))?;
                braced(&behind[1..end], lookup, unset, out, nesting)?;
                &behind[end + 1..]
            }
            _ => {
                let (name, behind) = behind.split_at(name_length(behind));
                match lookup(name) {
                    // A dollar that starts no name is one.
                    _ if name.is_empty() => out.push('$'),
                    Some(value) => out.push_str(&value),
                    None => drop(unset.insert(name.to_owned())),
                }
                behind
            }
        };
        if out.len() > MAX_VALUE {
            return Err(format!("becomes longer than {MAX_VALUE} bytes"));
        }
    }
    out.push_str(rest);
    Ok(())
}

/// What stands between `${` and `}`.
fn braced(
    inside: &str,
    lookup: &Lookup<'_>,
    unset: &mut BTreeSet<String>,
    out: &mut String,
    nesting: usize,
) -> Result<(), String> {
    let (name, tail) = inside.split_at(name_length(inside));
    let (colon, operator) = match tail.strip_prefix(':') {
        Some(tail) => (true, tail),
        None => (false, tail),
    };
    if name.is_empty() || (colon && operator.is_empty()) {
        return Err(format!(
            "${{{inside}}}: no variable is named like this: use A-Z, 0-9 and _"
        ));
    }
    if tail.is_empty() {
        match lookup(name) {
            Some(value) => out.push_str(&value),
            None => drop(unset.insert(name.to_owned())),
        }
        return Ok(());
    }
    let mut chars = operator.chars();
    let operator = chars.next();
    let mut word = String::new();
    if matches!(operator, Some('-' | '+' | '?')) {
        expand(chars.as_str(), lookup, unset, &mut word, nesting + 1)?;
    }
    let value = lookup(name);
    let counts = value.as_ref().is_some_and(|value| !colon || !value.is_empty());
    match (operator, counts) {
        (Some('-'), false) | (Some('+'), true) => out.push_str(&word),
        (Some('-' | '?'), true) | (Some('+'), false) => out.push_str(&value.unwrap_or_default()),
        (Some('?'), false) if word.is_empty() => return Err(format!("the variable {name} must be set")),
        (Some('?'), false) => return Err(format!("the variable {name} must be set: {word}")),
        _ => {
            return Err(format!(
                "${{{inside}}}: after the name comes }}, -, ? or +, or one of these behind a colon"
            ));
        }
    }
    Ok(())
}

/// `[A-Za-z_][A-Za-z0-9_]*` at the start of the text.
fn name_length(text: &str) -> usize {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(text.len())
}

/// The brace that closes the one the text starts with; braces inside come in pairs.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'{' => open += 1,
            b'}' => {
                open = open.checked_sub(1)?;
                if open == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(template: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        text(template, &lookup, &mut BTreeSet::new())
    }

    #[test]
    fn every_form_means_what_the_specification_says() {
        for (template, value) in [
            ("", ""),
            ("plain", "plain"),
            ("$A", "a"),
            ("${A}", "a"),
            ("x${A}y$A.z", "xaya.z"),
            ("$$A $${A}", "$A ${A}"),
            ("$UNSET|${UNSET}", "|"),
            ("${A:-d}", "a"),
            ("${EMPTY:-d}", "d"),
            ("${UNSET:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${UNSET-d}", "d"),
            ("${UNSET:-}", ""),
            ("${A:?e}", "a"),
            ("${EMPTY?e}", ""),
            ("${A:+r}", "r"),
            ("${EMPTY:+r}", ""),
            ("${EMPTY+r}", "r"),
            ("${UNSET+r}", ""),
            ("${UNSET:-${A}}", "a"),
            ("${UNSET:-${UNSET:-x}}-y", "x-y"),
            ("${UNSET:-x$A}", "xa"),
            ("${UNSET:-{\"k\": {}}}", "{\"k\": {}}"),
            ("${UNSET:-a-b:?c}", "a-b:?c"),
            ("${UNSET:-/path:/other}", "/path:/other"),
            ("${UNSET:-$$5}", "$5"),
            ("${A}}", "a}"),
            ("a$", "a$"),
            ("$5 $", "$5 $"),
            ("${UNSET:-$}", "$"),
            ("ä$A", "äa"),
        ] {
            assert_eq!(expand(template).as_deref(), Ok(value), "{template}");
        }
    }

    #[test]
    fn a_template_that_means_nothing_is_an_error() {
        for (template, problem) in [
            ("${UNSET:?say it}", "the variable UNSET must be set: say it"),
            ("${EMPTY:?}", "the variable EMPTY must be set"),
            ("${UNSET?$A}", "the variable UNSET must be set: a"),
            ("${A", "${A: the brace is not closed: add }"),
            ("${}", "${}: no variable is named like this: use A-Z, 0-9 and _"),
            (
                "${A:}",
                "${A:}: no variable is named like this: use A-Z, 0-9 and _",
            ),
            (
                "${A!}",
                "${A!}: after the name comes }, -, ? or +, or one of these behind a colon",
            ),
        ] {
            assert_eq!(expand(template), Err(problem.to_owned()), "{template}");
        }
        let deep = format!("{}{}", "${X:-".repeat(5000), "}".repeat(5000));
        assert!(expand(&deep).is_err());
    }
}
