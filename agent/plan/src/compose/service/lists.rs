//! Lists with a syntax of their own.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::compose::read::{Node, Problems};

/// `NAME` or `NAME:ALIAS`.
pub(super) fn links(list: Vec<String>) -> Vec<(String, String)> {
    let link = |text: String| match text.split_once(':') {
        Some((name, alias)) => (name.to_owned(), alias.to_owned()),
        None => (text.clone(), text),
    };
    list.into_iter().map(link).collect()
}

pub(super) fn capabilities(list: Vec<String>) -> BTreeSet<String> {
    let plain = |name: String| {
        let name = name.to_ascii_uppercase();
        name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name)
    };
    list.into_iter().map(plain).collect()
}

/// The engine takes three spellings of the one option that decoys use; they become one. For the others it wants `=`.
pub(super) fn security_option(text: String) -> String {
    match text.as_str() {
        "no-new-privileges" | "no-new-privileges=true" => "no-new-privileges:true".to_owned(),
        _ => text,
    }
}

/// A list of `NAME=ADDRESS` or `NAME:ADDRESS`, or a mapping of names to an address or a list of them.
pub(crate) fn extra_hosts(node: Node<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    let mut all = BTreeSet::new();
    let mut add = |name: &str, address: &str| {
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        all.insert(format!("{name}:{}", bare.unwrap_or(address)));
    };
    if node.value.is_array() {
        for node in node.items(problems)? {
            let path = node.path.clone();
            let Some(text) = node.text(problems) else { continue };
            match text.split_once('=').or_else(|| text.split_once(':')) {
                Some((name, addresses)) if !name.is_empty() && !addresses.is_empty() => {
                    for address in addresses.split(',') {
                        add(name, address);
                    }
                }
                _ => problems.add(&path, "must be NAME=ADDRESS"),
            }
        }
    } else {
        for (name, node) in node.entries(problems)? {
            let addresses = match node.value {
                Value::Array(_) => node.texts(problems),
                _ => node.text(problems).map(|text| vec![text]),
            };
            for address in addresses.unwrap_or_default() {
                add(&name, &address);
            }
        }
    }
    Some(all.into_iter().collect())
}
