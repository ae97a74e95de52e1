//! A typed model of the Compose documents that a bundle may carry.
//!
//! The model is closed: an attribute that it does not know is an error that names its path, such as
//! `services.ssh.devices: not supported`. Nothing is silently ignored but `x-*` extensions, which the Compose
//! Specification reserves for that. All problems of a document are reported at once.
//!
//! | module | what it reads |
//! | --- | --- |
//! | [`attributes`] | the table of every attribute of the specification |
//! | [`load`] | from Compose files to one canonical document |
//! | `read` | JSON nodes with their path, and the sink for problems |
//! | `service` | one entry of `services` |
//! | `network` | how a service is attached, and the top-level `networks` |
//! | `units` | byte sizes, durations, CPU shares, ports |
//! | `words` | command lines |

use std::collections::BTreeMap;

use serde_json::Value;

pub mod attributes;
pub mod load;
mod network;
mod read;
mod service;
mod units;
mod words;

pub use network::{Attachment, NetworkMode, TopNetwork};
pub use read::Problem;
pub use service::{Condition, Service};

use read::{Node, Problems};

/// One Compose document, as written: names are not resolved yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Project {
    pub name: Option<String>,
    pub services: BTreeMap<String, Service>,
    pub networks: BTreeMap<String, TopNetwork>,
}

impl Project {
    /// Reads a document.
    ///
    /// # Errors
    /// Every problem of the document, in document order of sorted keys.
    pub fn parse(document: &Value) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        let mut project = Self::default();
        if let Some(mut top) = Node::root(document).mapping(&mut problems) {
            project.name = top.take("name").and_then(|node| node.text(&mut problems));
            if let Some(services) = top.take("services").and_then(|node| node.entries(&mut problems)) {
                for (name, node) in services {
                    if !is_service_name(&name) {
                        problems.add(
                            &node.path,
                            "a service name is 1 to 128 of a-z, A-Z, 0-9, '.', '_' and '-'",
                        );
                    }
                    let service = Service::parse(node, &mut problems);
                    project.services.insert(name, service);
                }
            }
            if let Some(networks) = top.take("networks").and_then(|node| node.entries(&mut problems)) {
                for (name, node) in networks {
                    if let Some(network) = TopNetwork::parse(&name, node, &mut problems) {
                        project.networks.insert(name, network);
                    }
                }
            }
            top.finish(&mut problems);
        }
        problems.into_result(project)
    }
}

/// Compose Specification, "services": the pattern of the schema's `services` keys.
fn is_service_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problems(document: &Value) -> Vec<String> {
        Project::parse(document)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn an_attribute_that_is_not_supported_is_named_by_its_path() {
        let document = json!({
            "version": "3",
            "services": {"ssh": {"image": "a", "network_mode": "none", "devices": ["/dev/kvm"], "privileged": true}},
            "volumes": {},
        });
        assert_eq!(
            problems(&document),
            [
                "services.ssh.devices: not supported",
                "services.ssh.privileged: not supported",
                "version: not supported",
                "volumes: not supported",
            ]
        );
    }

    #[test]
    fn extensions_are_allowed_everywhere_that_compose_allows_them() {
        let document =
            json!({"x-a": 1, "services": {"s": {"image": "a", "network_mode": "none", "x-b": []}}});
        assert!(Project::parse(&document).is_ok());
    }

    #[test]
    fn a_document_that_is_no_mapping_is_an_error() {
        for bad in [json!(null), json!([]), json!("services")] {
            assert_eq!(problems(&bad), ["document: must be a mapping"]);
        }
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let document = json!({"services": {"a": {"mem_limit": "much"}, "b": {"restart": "sometimes"}}});
        let found = problems(&document);
        assert!(
            found.iter().any(|p| p.starts_with("services.a.mem_limit: ")),
            "{found:?}"
        );
        assert!(
            found.iter().any(|p| p.starts_with("services.b.restart: ")),
            "{found:?}"
        );
    }
}
