//! A typed model of Compose documents.
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
//! | `closed` | whether the table knows everything that a document says |
//! | `service` | one entry of `services` |
//! | `deploy`, `resources`, `build` | the parts of a service of that name |
//! | `mounts` | what is mounted into a service, and the top-level `volumes`, `configs` and `secrets` |
//! | `egress` | what a service may call: `x-decnet` |
//! | `network` | how a service is attached, and the top-level `networks` |
//! | `units` | byte sizes, durations, CPU shares, ports |
//! | `words` | command lines |

use std::collections::BTreeMap;

use serde_json::Value;

pub mod attributes;
mod build;
mod closed;
mod deploy;
mod egress;
pub mod load;
mod mounts;
mod network;
mod read;
mod resources;
mod service;
mod units;
mod words;

pub use build::Build;
pub(crate) use build::is_remote;
pub use decnet_wire::egress::{Destination, Protocol};
pub use deploy::Deploy;
pub use egress::Egress;
pub use mounts::{FileReference, MountSource, ServiceMount, SharedVolumes, TopFile, TopVolume};
pub use network::{Attachment, NetworkMode, TopNetwork};
pub use read::Problem;
pub use service::{Condition, Dependency, PullPolicy, Service, Share};
pub use units::bytes;

use read::{Node, Origin, Problems};

/// One Compose document: names are not resolved yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Project {
    pub name: Option<String>,
    pub services: BTreeMap<String, Service>,
    pub networks: BTreeMap<String, TopNetwork>,
    pub volumes: BTreeMap<String, TopVolume>,
    pub configs: BTreeMap<String, TopFile>,
    pub secrets: BTreeMap<String, TopFile>,
}

impl Project {
    /// Reads a document that no loader has been over, as a bundle carries it: `$$` is a dollar sign, there are no
    /// variables, and nothing that only a loader can resolve.
    ///
    /// # Errors
    /// Every problem of the document, sorted by path.
    pub fn parse(document: &Value) -> Result<Self, Vec<Problem>> {
        Self::read(document, Origin::Written)
    }

    /// Reads a document that the loader has made of Compose files: its texts mean what they say.
    ///
    /// # Errors
    /// Every problem of the document, sorted by path.
    pub fn parse_loaded(document: &Value) -> Result<Self, Vec<Problem>> {
        Self::read(document, Origin::Loaded)
    }

    fn read(document: &Value, origin: Origin) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::new(origin);
        closed::check(document, &mut problems);
        let p = &mut problems;
        let mut project = Self::default();
        if let Some(mut top) = Node::root(document).mapping(p) {
            // It has had no meaning since the specification left versions behind.
            top.take("version");
            top.resolved_by_loader("include", p);
            project.name = top.text("name", p);
            for (name, node) in entries(top.take("services"), p) {
                if !is_service_name(&name) {
                    p.add(
                        &node.path,
                        "a service name is 1 to 128 of a-z, A-Z, 0-9, '.', '_' and '-'",
                    );
                }
                let service = Service::parse(node, p);
                project.services.insert(name, service);
            }
            for (name, node) in entries(top.take("networks"), p) {
                project
                    .networks
                    .extend(TopNetwork::parse(node, p).map(|found| (name, found)));
            }
            for (name, node) in entries(top.take("volumes"), p) {
                project
                    .volumes
                    .extend(TopVolume::parse(node, p).map(|found| (name, found)));
            }
            for (name, node) in entries(top.take("configs"), p) {
                project
                    .configs
                    .extend(TopFile::parse(node, p).map(|found| (name, found)));
            }
            for (name, node) in entries(top.take("secrets"), p) {
                project
                    .secrets
                    .extend(TopFile::parse(node, p).map(|found| (name, found)));
            }
            top.finish(p);
        }
        problems.into_result(project)
    }
}

fn entries<'a>(node: Option<Node<'a>>, problems: &mut Problems) -> Vec<(String, Node<'a>)> {
    node.and_then(|node| node.entries(problems)).unwrap_or_default()
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
            "services": {"ssh": {
                "image": "a", "network_mode": "none", "devize": [], "develop": {},
                "volumes": [{"type": "tmpfs", "target": "/a", "tmpfs": {"siz": 1}}],
            }},
            "volume": {},
        });
        assert_eq!(
            problems(&document),
            [
                "services.ssh.develop: not supported: it serves `docker compose watch` only: remove it",
                "services.ssh.devize: not supported",
                "services.ssh.volumes.0.tmpfs.siz: not supported",
                "volume: not supported",
            ]
        );
    }

    /// The table and the model are written apart: what the table calls supported, the model must read.
    #[test]
    fn every_attribute_that_the_table_supports_is_read() {
        for attribute in attributes::all() {
            if attribute.support != attributes::Support::Supported {
                continue;
            }
            let value = place(attribute.path);
            let found = Project::parse_loaded(&value).err().unwrap_or_default();
            let unread = found
                .iter()
                .find(|problem| problem.problem.starts_with("not supported"));
            assert!(unread.is_none(), "{}: {unread:?}", attribute.path);
        }
    }

    /// A document with nothing but this attribute, whose value is of no kind that anybody expects.
    fn place(path: &str) -> Value {
        let mut value = json!(false);
        for segment in path.rsplit('.') {
            let name = segment.trim_end_matches("[]");
            if segment.ends_with("[]") {
                value = json!([value]);
            }
            value = json!({ if name == "*" { "any" } else { name }: value });
        }
        value
    }

    #[test]
    fn what_only_a_loader_resolves_is_an_error_without_one() {
        for (key, value) in [
            ("extends", json!("a")),
            ("env_file", json!(["a.env"])),
            ("build", json!(".")),
            ("volumes", json!(["./a:/b"])),
        ] {
            let document = json!({"services": {"a": {"image": "a", "network_mode": "none", key: value}}});
            let found = problems(&document);
            assert!(found[0].starts_with(&format!("services.a.{key}")), "{found:?}");
            assert!(found[0].contains("only Compose files have"), "{found:?}");
        }
        let document = json!({"services": {"a": {"image": "$HOME"}}});
        assert!(Project::parse(&document).is_err());
        assert_eq!(
            Project::parse_loaded(&document).unwrap().services["a"]
                .image
                .as_deref(),
            Some("$HOME")
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
