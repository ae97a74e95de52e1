//! The hash label: SHA-256 over a canonical form of a specification.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// SHA-256 (hex) over the specification's canonical JSON: keys sorted, no blanks. Specifications leave fields at
/// their default out, so a field that a later version adds changes no hash where it is not used, and no container is
/// recreated because the agent was updated.
pub(super) fn of<T: Serialize>(spec: &T) -> String {
    hex::encode(Sha256::digest(canonical(spec)))
}

/// Specifications hold texts, numbers, and maps with text keys: all of that has a JSON form.
pub(crate) fn canonical<T: Serialize>(spec: &T) -> String {
    let mut text = String::new();
    write(&serde_json::to_value(spec).unwrap_or_default(), &mut text);
    text
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Array(list) => {
            out.push('[');
            for (i, value) in list.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(value, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::ContainerSpec;

    /// A change here recreates every container of every host at the next update of the agent.
    #[test]
    fn the_hash_of_a_specification_never_changes_between_versions() {
        let spec = ContainerSpec {
            name: "web-ssh-1".to_owned(),
            pids: Some(64),
            ..ContainerSpec::default()
        };
        let canonical = r#"{"name":"web-ssh-1","pids":64}"#;
        assert_eq!(of(&spec), hex::encode(Sha256::digest(canonical)));
    }
}
