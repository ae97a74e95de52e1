//! A document as YAML, for people and for the loader.

use std::fmt::Write as _;

use serde_json::Value;

/// YAML 1.2, 7.4: a key that stands before its colon has no more than 1024 characters.
const MAX_IMPLICIT_KEY: usize = 1_000;

/// Writes a document in block style. Text that YAML could take for something else stands in double quotes.
pub fn to_yaml(document: &Value) -> String {
    let mut out = String::new();
    block(document, 0, &mut out);
    out
}

fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let key = scalar(key);
                let _ = match key.len() < MAX_IMPLICIT_KEY {
                    true => write!(out, "{:indent$}{key}:", ""),
                    false => write!(out, "{:indent$}? {key}\n{:indent$}:", "", ""),
                };
                below(value, indent + 2, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                let _ = write!(out, "{:indent$}-", "");
                // The first key of a map stands beside the dash.
                match value {
                    Value::Object(map) if !map.is_empty() => {
                        let mut inner = String::new();
                        block(value, indent + 2, &mut inner);
                        out.push(' ');
                        out.push_str(inner.trim_start_matches(' '));
                    }
                    value => below(value, indent + 2, out),
                }
            }
        }
        value => {
            let _ = writeln!(out, "{:indent$}{}", "", leaf(value));
        }
    }
}

fn below(value: &Value, indent: usize, out: &mut String) {
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    if nested {
        out.push('\n');
        block(value, indent, out);
    } else {
        let _ = writeln!(out, " {}", leaf(value));
    }
}

fn leaf(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// Plain where nothing but text can be meant, or else as JSON writes it, which YAML reads the same.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_'))
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '$' | '@' | '=' | '+'))
        && !is_word(text);
    match plain {
        true => text.to_owned(),
        false => Value::from(text).to_string(),
    }
}

/// Words that some version of YAML reads as something else.
fn is_word(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "y" | "n" | "yes" | "no" | "true" | "false" | "on" | "off" | "null"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_reads_as_people_would_write_it() {
        let document = json!({
            "services": {"a": {"image": "a:1", "ports": [{"target": 80, "mode": "host"}], "tty": true, "list": ["x", [1]]}},
            "empty": {}, "none": null,
        });
        let expected = "empty: {}\nnone: null\nservices:\n  a:\n    image: \"a:1\"\n    list:\n      - x\n      -\n        - 1\n    \
             ports:\n      - mode: host\n        target: 80\n    tty: true\n";
        assert_eq!(to_yaml(&document), expected);
    }

    #[test]
    fn a_key_too_long_to_stand_before_its_colon_stands_in_a_line_of_its_own() {
        let key = "a".repeat(2_000);
        let written = to_yaml(&json!({&key: {"b": 1}}));
        assert_eq!(written, format!("? {key}\n:\n  b: 1\n"));
    }

    #[test]
    fn text_stays_text() {
        for text in [
            "true", "No", "1", "1.5", "~", "", "a: b", "- a", "#x", "a\nb", "0x1", ".5", "é", " a", "{}",
        ] {
            assert!(scalar(text).starts_with('"'), "{text:?}");
        }
        assert_eq!(scalar("nginx-1.2/x"), "nginx-1.2/x");
    }
}
