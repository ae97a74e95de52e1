//! Nothing that the table of attributes does not know, or refuses, stands in a document.

use serde_json::Value;

use super::attributes::{Branch, Support};
use super::read::{Origin, Problems};

/// Walks the table beside a document. Values are not looked at: the model reads them.
pub(super) fn check(document: &Value, problems: &mut Problems) {
    walk(Branch::root(), document, "", problems);
}

fn walk(branch: &Branch, value: &Value, path: &str, problems: &mut Problems) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                if branch.names_attributes() && (key.starts_with("x-") || value.is_null()) {
                    continue;
                }
                match branch.key(key) {
                    Some(next) => visit(next, value, &path, problems),
                    None if is_resolved_secret(&path, problems) => {}
                    None if branch.names_attributes() => problems.add(&path, "not supported"),
                    // Names and values of the author's choice.
                    None => {}
                }
            }
        }
        Value::Array(list) => {
            if let Some(next) = branch.item() {
                for (index, value) in list.iter().enumerate() {
                    walk(next, value, &format!("{path}.{index}"), problems);
                }
            }
        }
        _ => {}
    }
}

fn visit(branch: &Branch, value: &Value, path: &str, problems: &mut Problems) {
    match branch.support() {
        Some(Support::Refused(reason)) => problems.add(path, format_args!("not supported: {reason}")),
        _ => walk(branch, value, path, problems),
    }
}

/// The loader puts the value of a secret's variable into the document.
fn is_resolved_secret(path: &str, problems: &Problems) -> bool {
    let mut parts = path.split('.');
    problems.origin == Origin::Loaded
        && parts.next() == Some("secrets")
        && parts.next_back() == Some("content")
}
