//! How much one document may ask for: a few bytes of it can mean gigabytes.

use decnet_wire::ids::StackName;
use serde_json::Value;

use super::DocumentError;
use super::normalise::replicas;
use crate::compose::{FileReference, Project};

/// Most containers of one document. Each may wait for each other one.
const MAX_CONTAINERS: u64 = 2_000;
/// Most that the containers of one document may be told together, in bytes: a service's attributes and files, once for
/// each of its containers.
const MAX_BYTES: u64 = 256 << 20;

pub(super) fn check(stack: &StackName, document: &Value, project: &Project) -> Result<(), DocumentError> {
    let (mut containers, mut bytes) = (0_u64, 0_u64);
    for (name, service) in &project.services {
        let number = u64::from(replicas(service));
        let files = |section: &str, references: &[FileReference]| -> u64 {
            let files = references
                .iter()
                .map(|file| size(&document[section][&file.source]));
            files.fold(0, u64::saturating_add)
        };
        let one = size(&document["services"][name])
            .saturating_add(files("configs", &service.configs))
            .saturating_add(files("secrets", &service.secrets));
        containers = containers.saturating_add(number);
        bytes = bytes.saturating_add(one.saturating_mul(number));
    }
    let problem = match (containers > MAX_CONTAINERS, bytes > MAX_BYTES) {
        (true, _) => format!("asks for {containers} containers: at most {MAX_CONTAINERS} of one project"),
        (false, true) => "becomes too large: fewer containers, ports or files".to_owned(),
        (false, false) => return Ok(()),
    };
    Err(DocumentError::new(Some(stack), "services", problem))
}

/// About what it takes as values.
fn size(value: &Value) -> u64 {
    const NODE: u64 = 32;
    let text = |text: &str| u64::try_from(text.len()).unwrap_or(u64::MAX);
    NODE + match value {
        Value::String(value) => text(value),
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| text(key) + size(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(document: &Value) -> Result<(), String> {
        let project = Project::parse_loaded(document).unwrap();
        check(&"p".parse().unwrap(), document, &project).map_err(|error| error.to_string())
    }

    #[test]
    fn what_no_engine_can_have_is_refused_before_it_is_made() {
        let of = |scale: u32, ports: u32| {
            let port = |port: u32| json!({"target": port, "published": port.to_string(), "protocol": "tcp"});
            let ports: Vec<Value> = (1..=ports).map(port).collect();
            let service = json!({"image": "x", "scale": scale, "ports": ports});
            json!({"services": {"a": service, "b": {"image": "x", "configs": [{"source": "c"}], "scale": scale}},
                "configs": {"c": {"content": "x".repeat(200_000)}}})
        };
        assert_eq!(checked(&of(1, 60_000)), Ok(()));
        assert_eq!(checked(&of(1_000, 1)), Ok(()));
        assert!(checked(&of(1_001, 1)).unwrap_err().contains("2002 containers"));
        assert!(checked(&of(1_000, 60_000)).unwrap_err().contains("too large"));
    }
}
