//! The hash label: SHA-256 over a canonical form of a specification.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// SHA-256 (hex) over the specification's canonical JSON: keys sorted, no blanks, and without the top-level fields
/// that are what `default` has. So a field that a later version adds changes no hash where it is not used, and no
/// container is recreated because the agent was updated.
pub(super) fn of<T: Serialize>(spec: &T, default: Option<&T>) -> String {
    let mut value = to_value(spec);
    if let (Value::Object(fields), Some(Value::Object(defaults))) = (&mut value, default.map(to_value)) {
        fields.retain(|key, value| defaults.get(key) != Some(value));
    }
    let mut text = String::new();
    write(&value, &mut text);
    hex::encode(Sha256::digest(text))
}

/// Specifications hold texts, numbers, and maps with text keys: all of that has a JSON form.
fn to_value<T: Serialize>(spec: &T) -> Value {
    serde_json::to_value(spec).unwrap_or_default()
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
        assert_eq!(
            of(&spec, Some(&ContainerSpec::default())),
            hex::encode(Sha256::digest(canonical))
        );
    }
}
