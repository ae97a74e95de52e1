//! `.env` files, and the files that `env_file` and `label_file` name, in Compose's dialect.
//!
//! One statement a line: `NAME=value`, `NAME: value`, `export NAME=value`, or `NAME` alone, which takes the value from
//! around. A value without quotes ends at the line's end or at ` #`; in double quotes it may run over lines and has
//! escapes; in single quotes it stands as written. Variables are replaced but in single quotes.

use std::collections::{BTreeMap, BTreeSet};

use super::interpolate::{self, Lookup};
use super::sink::{Budget, TOO_LARGE};

/// A statement that cannot be read: its line from 1, and what is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) line: u32,
    pub(super) problem: String,
}

/// Reads all statements into `values`, where a later one wins. Variables come from `lookup`, then from `values`.
pub(super) fn read(
    text: &str,
    values: &mut BTreeMap<String, String>,
    lookup: &Lookup<'_>,
    budget: &mut Budget,
) -> Result<(), Bad> {
    let text = text
        .strip_prefix('\u{feff}')
        .unwrap_or(text)
        .replace("\r\n", "\n");
    let mut reader = Reader { rest: &text, line: 1 };
    while let Some(name) = reader.name()? {
        let value = match name {
            Name::Inherited(name) => lookup(&name).map(|value| (name, value)),
            Name::Assigned(name) => {
                let line = reader.line;
                let expand = |value: &str| {
                    let lookup = |name: &str| lookup(name).or_else(|| values.get(name).cloned());
                    interpolate::text(value, &lookup, &mut BTreeSet::new())
                        .map_err(|problem| Bad { line, problem })
                };
                let value = match reader.value()? {
                    Value::AsWritten(value) => value,
                    Value::Template(value) => expand(&value)?,
                };
                Some((name, value))
            }
        };
        if let Some((name, value)) = value {
            if !budget.take(1, name.len() + value.len()) {
                return Err(reader.bad(TOO_LARGE));
            }
            values.insert(name, value);
        }
    }
    Ok(())
}

/// `format: raw`: everything behind `=` as it stands, `NAME` alone from around, lines with `#` first left out.
pub(super) fn read_raw(
    text: &str,
    values: &mut BTreeMap<String, String>,
    lookup: &Lookup<'_>,
    budget: &mut Budget,
) -> Result<(), Bad> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, statement) in (1..).zip(text.lines()) {
        let statement = statement.trim_start();
        if statement.is_empty() || statement.starts_with('#') {
            continue;
        }
        let (name, value) = match statement.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (statement, lookup(statement)),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            let problem = format!("{name:?} is no name of a variable");
            return Err(Bad { line, problem });
        }
        if let Some(value) = value {
            if !budget.take(1, name.len() + value.len()) {
                let problem = TOO_LARGE.to_owned();
                return Err(Bad { line, problem });
            }
            values.insert(name.to_owned(), value);
        }
    }
    Ok(())
}

enum Name {
    Assigned(String),
    Inherited(String),
}

enum Value {
    AsWritten(String),
    Template(String),
}

struct Reader<'a> {
    rest: &'a str,
    line: u32,
}

impl<'a> Reader<'a> {
    fn bad(&self, problem: impl Into<String>) -> Bad {
        Bad {
            line: self.line,
            problem: problem.into(),
        }
    }

    fn skip(&mut self, bytes: usize) -> &'a str {
        let (skipped, rest) = self.rest.split_at(bytes);
        let lines = skipped.bytes().filter(|b| *b == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.rest = rest;
        skipped
    }

    fn skip_while(&mut self, skip: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !skip(c)).unwrap_or(self.rest.len());
        self.skip(end)
    }

    /// The next statement's name, past what follows it up to the value.
    fn name(&mut self) -> Result<Option<Name>, Bad> {
        loop {
            self.skip_while(char::is_whitespace);
            if !self.rest.starts_with('#') {
                break;
            }
            self.skip_while(|c| c != '\n');
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        if let Some(behind) = self.rest.strip_prefix("export")
            && behind.starts_with(char::is_whitespace)
        {
            self.skip("export".len());
            self.skip_while(is_blank);
        }
        let name = self.skip_while(|c| is_blank(c) || c.is_alphanumeric() || "_.-[]".contains(c));
        let name = name.trim_end();
        if name.contains(is_blank) {
            return Err(self.bad(format!("{name:?} is no name of a variable: it has a space")));
        }
        let name = name.to_owned();
        match self.rest.chars().next() {
            Some('=' | ':') if !name.is_empty() => {
                self.skip(1);
                self.skip_while(is_blank);
                Ok(Some(Name::Assigned(name)))
            }
            None | Some('\n') if !name.is_empty() => Ok(Some(Name::Inherited(name))),
            None | Some('\n') => Ok(None),
            Some(c) => Err(self.bad(format!("{c:?} cannot stand in the name of a variable"))),
        }
    }

    fn value(&mut self) -> Result<Value, Bad> {
        let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            let line = self.skip_while(|c| c != '\n');
            let value = line.find(" #").map_or(line, |comment| &line[..comment]);
            return Ok(Value::Template(value.trim_end().to_owned()));
        };
        let mut value = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        let end = loop {
            let Some((i, c)) = chars.next() else {
                return Err(self.bad(format!("the quote {quote} is not closed")));
            };
            if c == quote {
                break i;
            }
            if c == '\\' {
                match chars.next() {
                    Some((_, next)) if next == quote => value.push(quote),
                    Some((_, next)) => value.extend(['\\', next]),
                    None => {}
                }
            } else {
                value.push(c);
            }
        };
        self.skip(end + 1);
        Ok(match quote {
            '\'' => Value::AsWritten(value),
            _ => Value::Template(unescape(&value)),
        })
    }
}

/// Space, but not the end of a line.
fn is_blank(c: char) -> bool {
    c != '\n' && c.is_whitespace()
}

/// `\a \b \f \n \r \t \v \\ \"`, `\0123` for a byte in octal, and `\$` for a dollar that starts no variable.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        let simple = |c| match c {
            'a' => Some("\u{7}"),
            'b' => Some("\u{8}"),
            'f' => Some("\u{c}"),
            'n' => Some("\n"),
            'r' => Some("\r"),
            't' => Some("\t"),
            'v' => Some("\u{b}"),
            '\\' => Some("\\"),
            '"' => Some("\""),
            '$' => Some("$$"),
            _ => None,
        };
        let octal = behind
            .get(..4)
            .filter(|digits| digits.starts_with('0') && digits.bytes().all(|b| (b'0'..=b'7').contains(&b)));
        if let Some(value) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            out.push(char::from(value));
            rest = &behind[4..];
        } else if let Some(value) = behind.chars().next().and_then(simple) {
            out.push_str(value);
            rest = &behind[1..];
        } else {
            out.push('\\');
            rest = behind;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Result<BTreeMap<String, String>, Bad> {
        let mut values = BTreeMap::new();
        let lookup = |name: &str| (name == "HOST").then(|| "outside".to_owned());
        read(text, &mut values, &lookup, &mut Budget::default())?;
        Ok(values)
    }

    #[test]
    fn every_kind_of_value_reads_as_compose_reads_it() {
        for (text, value) in [
            ("A=b", "b"),
            ("A = b ", "b"),
            ("A: b", "b"),
            ("export A=b", "b"),
            ("export\tA=b", "b"),
            ("A=", ""),
            ("A=b c", "b c"),
            ("A=b # c", "b"),
            ("A=b#c", "b#c"),
            ("A='b # c'", "b # c"),
            ("A=\"b # c\" # d", "b # c"),
            ("A='$HOST'", "$HOST"),
            ("A=$HOST", "outside"),
            ("A=\"${HOST}s\"", "outsides"),
            ("A=\"\\$HOST\"", "$HOST"),
            ("A=$$HOST", "$HOST"),
            ("A=\"a\\nb\\tc\"", "a\nb\tc"),
            ("A=a\\nb", "a\\nb"),
            ("A='a\\nb'", "a\\nb"),
            ("A='it\\'s'", "it's"),
            ("A=\"a \\\"b\\\"\"", "a \"b\""),
            ("A=\"\\0101\"", "A"),
            ("A=\"\\c\"", "\\c"),
            ("A=\"two\nlines\"", "two\nlines"),
            ("# x\n\n  A=b", "b"),
            ("\u{feff}A=b\r\nB=c", "b"),
            ("A=1\nA=2", "2"),
            ("B=1\nA=${B}2", "12"),
            ("A=${NONE:-d}", "d"),
            ("A={\"a\": 1}", "{\"a\": 1}"),
        ] {
            assert_eq!(
                values(text).unwrap().get("A").map(String::as_str),
                Some(value),
                "{text}"
            );
        }
    }

    #[test]
    fn a_name_alone_is_inherited() {
        let found = values("HOST\nOTHER\nA=1\nHOST").unwrap();
        assert_eq!(found.get("HOST").map(String::as_str), Some("outside"));
        assert!(!found.contains_key("OTHER"));
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_line() {
        for (text, line) in [
            ("A=b\nc d=e", 2),
            ("A=\"b", 1),
            ("\n\n!A=b", 3),
            ("=b", 1),
            ("A=\"1\n2\"\nB=${C:?no}", 3),
        ] {
            assert_eq!(values(text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn the_raw_format_takes_values_as_they_stand() {
        let mut values = BTreeMap::new();
        let lookup = |name: &str| (name == "HOST").then(|| "outside".to_owned());
        read_raw(
            "# c\nA='b' # $c\nHOST\nNONE\n",
            &mut values,
            &lookup,
            &mut Budget::default(),
        )
        .unwrap();
        assert_eq!(values["A"], "'b' # $c");
        assert_eq!(values["HOST"], "outside");
        assert_eq!(values.len(), 2);
        assert_eq!(
            read_raw("A=1\nb c=d", &mut values, &lookup, &mut Budget::default())
                .unwrap_err()
                .line,
            2
        );
    }
}
