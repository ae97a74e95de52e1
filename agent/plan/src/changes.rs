//! What has changed between two specifications of a container, field by field.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::desired::canonical;
use crate::labels;
use crate::step::ContainerSpec;

/// One field that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldChange {
    /// Such as `environment.MODE`, in Compose's words where it has one.
    pub field: String,
    /// None when it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// None when it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

/// The value of [`labels::SPEC`]. What a file says may be a secret, so only its digest is in it.
pub(crate) fn record(spec: &ContainerSpec) -> String {
    let mut spec = spec.clone();
    for file in &mut spec.files {
        file.content.0 = format!("sha256:{}", hex::encode(Sha256::digest(&file.content.0)));
    }
    spec.labels.retain(|label, _| !label.starts_with(labels::PREFIX));
    canonical(&spec)
}

/// What has changed between the specification that a container was made from, as its [`labels::SPEC`] tells it, and
/// a newer one. Empty when the old one cannot be read.
#[must_use]
pub fn changes(old: &str, new: &ContainerSpec) -> Vec<FieldChange> {
    let Ok(Value::Object(old)) = serde_json::from_str::<Value>(old) else {
        return Vec::new();
    };
    let Ok(Value::Object(new)) = serde_json::from_str::<Value>(&record(new)) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    compare("", &old, &new, &mut found);
    found
}

fn compare(path: &str, old: &Map<String, Value>, new: &Map<String, Value>, found: &mut Vec<FieldChange>) {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let field = match path {
            "" => compose_name(key).to_owned(),
            "namespaces" if key == "user" => "userns_mode".to_owned(),
            // Groups of this program, not of a Compose file.
            "limits" | "namespaces" => compose_name(key).to_owned(),
            path => format!("{path}.{key}"),
        };
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) if old == new => {}
            (Some(Value::Object(old)), Some(Value::Object(new))) => compare(&field, old, new, found),
            (Some(Value::Object(old)), None) => compare(&field, old, &Map::new(), found),
            (None, Some(Value::Object(new))) => compare(&field, &Map::new(), new, found),
            (old, new) => found.push(FieldChange {
                field,
                old: old.map(text),
                new: new.map(text),
            }),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) if list.len() == 1 && list[0].is_string() => text(&list[0]),
        other => other.to_string(),
    }
}

/// Compose's name of a field.
fn compose_name(field: &str) -> &str {
    match field {
        "memory" => "mem_limit",
        "nano_cpus" => "cpus",
        "pids" => "pids_limit",
        "stop_timeout_s" => "stop_grace_period",
        "mounts" => "volumes",
        "files" => "configs",
        "device_requests" => "gpus",
        "network" => "networks",
        "mac" => "mac_address",
        "log_driver" => "logging.driver",
        "log_options" => "logging.options",
        "memory_swap" => "memswap_limit",
        "memory_reservation" => "mem_reservation",
        "memory_swappiness" => "mem_swappiness",
        "blkio" => "blkio_config",

        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::{FileContent, FileSpec};

    #[test]
    fn every_changed_field_is_named_with_both_values() {
        let mut old = ContainerSpec {
            name: "a".to_owned(),
            image: vec!["nginx:1".to_owned()],
            memory: Some(1),
            ..ContainerSpec::default()
        };
        old.environment.insert("A".to_owned(), Some("1".to_owned()));
        old.environment.insert("B".to_owned(), Some("1".to_owned()));
        old.limits.cpu_shares = Some(5);
        let mut new = old.clone();
        new.image = vec!["nginx:2".to_owned()];
        new.memory = None;
        new.environment.insert("B".to_owned(), Some("2".to_owned()));
        new.environment.insert("C".to_owned(), None);
        new.limits.cpu_shares = Some(6);
        let found: Vec<_> = changes(&record(&old), &new)
            .into_iter()
            .map(|change| (change.field, change.old, change.new))
            .collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            found,
            [
                ("environment.B".to_owned(), some("1"), some("2")),
                ("environment.C".to_owned(), None, some("null")),
                ("image".to_owned(), some("nginx:1"), some("nginx:2")),
                ("cpu_shares".to_owned(), some("5"), some("6")),
                ("mem_limit".to_owned(), some("1"), None),
            ]
        );
        assert!(changes(&record(&old), &old).is_empty());
    }

    #[test]
    fn what_a_secret_says_is_in_no_record() {
        let spec = ContainerSpec {
            files: vec![FileSpec {
                path: "/run/secrets/a".to_owned(),
                content: FileContent("hunter2".to_owned()),
                uid: 0,
                gid: 0,
                mode: 0o444,
            }],
            ..ContainerSpec::default()
        };
        assert!(!record(&spec).contains("hunter2"));
        assert!(!format!("{spec:?}").contains("hunter2"));
    }
}
