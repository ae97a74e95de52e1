//! Tables and text for people.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

/// What stands where there is no value.
pub(super) const NONE: &str = "-";

/// Columns under their headings; the last one may be long. An empty list gives only the headings.
pub(super) fn table<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings);
    for row in rows {
        table.add_row(row.map(|cell| {
            if cell.is_empty() {
                NONE.to_owned()
            } else {
                printable(&cell)
            }
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names and values, one a line.
pub(super) fn facts(facts: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let facts: Vec<(&str, String)> = facts.into_iter().collect();
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in facts {
        let value = if value.is_empty() {
            NONE.to_owned()
        } else {
            printable(&value)
        };
        text.push_str(&format!("{name:width$}  {value}\n"));
    }
    text
}

/// One line without anything that a terminal would obey: some of what is shown was written by hosts, and a host
/// can be in somebody else's hands.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| *c != '\r')
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() || is_direction(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// Characters that turn the direction of text around them (Unicode Standard Annex #9, §2).
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A value or the sign for none.
pub(super) fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// `3 deckies`, `1 decky`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let text = table(
            ["NAME", "STATE"],
            [
                ["web-01".to_owned(), "running".to_owned()],
                ["a".to_owned(), String::new()],
            ],
        );
        assert_eq!(text, "NAME    STATE\nweb-01  running\na       -\n");
    }

    #[test]
    fn an_empty_list_is_its_headings() {
        assert_eq!(table(["NAME", "STATE"], []), "NAME  STATE\n");
    }

    #[test]
    fn a_host_cannot_write_to_the_terminal() {
        let hostile = "no space\x1b]0;owned\x07\r\n\u{202e}txt\u{9b}2J";
        assert_eq!(
            printable(hostile),
            "no space\u{fffd}]0;owned\u{fffd} \u{fffd}txt\u{fffd}2J"
        );
        let text = table(["ERROR"], [[hostile.to_owned()]]);
        assert!(
            !text.contains(['\x1b', '\x07', '\r', '\u{9b}', '\u{202e}']),
            "{text:?}"
        );
    }

    #[test]
    fn facts_line_up() {
        let text = facts([("mode", "swarm".to_owned()), ("deckies", String::new())]);
        assert_eq!(text, "mode     swarm\ndeckies  -\n");
    }
}
