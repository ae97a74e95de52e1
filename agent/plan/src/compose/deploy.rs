//! What of `deploy` means something on one engine.

use serde_json::Value;

use super::read::{Mapping, Node, Problems};
use super::units;
use crate::step::{DeviceRequest, RestartPolicy};

/// Wins over the attributes of the service itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Deploy {
    pub replicas: Option<u32>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Billionths of a core.
    pub nano_cpus: Option<i64>,
    pub pids: Option<i64>,
    /// Bytes.
    pub memory_reservation: Option<u64>,
    pub device_requests: Vec<DeviceRequest>,
    pub restart: Option<RestartPolicy>,
}

impl Deploy {
    pub(super) fn parse(node: Node<'_>, p: &mut Problems) -> Self {
        let mut deploy = Self::default();
        let Some(mut map) = node.mapping(p) else {
            return deploy;
        };
        // One engine is one node, so that both modes come to the same.
        map.parsed("mode", p, |text| match text {
            "replicated" | "global" => Ok(()),
            _ => Err("must be replicated or global"),
        });
        deploy.replicas = map.number("replicas", p);
        if let Some(node) = map.take("resources")
            && let Some(mut resources) = node.mapping(p)
        {
            deploy.parse_resources(&mut resources, p);
            resources.finish(p);
        }
        if let Some(node) = map.take("restart_policy") {
            deploy.restart = restart_policy(node, p);
        }
        map.finish(p);
        deploy
    }

    fn parse_resources(&mut self, map: &mut Mapping<'_>, p: &mut Problems) {
        if let Some(node) = map.take("limits")
            && let Some(mut limits) = node.mapping(p)
        {
            self.memory = limits.parsed("memory", p, units::bytes).filter(|n| *n > 0);
            self.nano_cpus = limits.parsed("cpus", p, units::nano_cpus);
            self.pids = limits.number::<i64>("pids", p).filter(|n| *n > 0);
            limits.finish(p);
        }
        if let Some(node) = map.take("reservations")
            && let Some(mut reserved) = node.mapping(p)
        {
            self.memory_reservation = reserved.parsed("memory", p, units::bytes).filter(|n| *n > 0);
            if let Some(node) = reserved.take("devices") {
                self.device_requests = device_requests(node, p);
            }
            reserved.finish(p);
        }
    }
}

/// Compose Specification, "deploy", "restart_policy".
fn restart_policy(node: Node<'_>, p: &mut Problems) -> Option<RestartPolicy> {
    let mut map = node.mapping(p)?;
    let retries = map.number::<u32>("max_attempts", p).unwrap_or_default();
    let policy = map.parsed("condition", p, |text| match text {
        "none" | "no" => Ok(RestartPolicy::No),
        "on-failure" => Ok(RestartPolicy::OnFailure { retries }),
        "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
        "any" | "always" => Ok(RestartPolicy::Always),
        _ => Err("must be none, on-failure, any or unless-stopped"),
    });
    map.finish(p);
    Some(policy.unwrap_or(RestartPolicy::Always))
}

/// `all`, or a list of requests that always ask for the capability `gpu`.
pub(super) fn gpus(node: Node<'_>, p: &mut Problems) -> Vec<DeviceRequest> {
    let mut requests = match node.value {
        Value::String(text) if text == "all" => vec![DeviceRequest {
            count: Some(-1),
            ..DeviceRequest::default()
        }],
        _ => device_requests(node, p),
    };
    for request in &mut requests {
        let gpu = "gpu".to_owned();
        match request.capabilities.first_mut() {
            Some(all) if !all.contains(&gpu) => all.push(gpu),
            Some(_) => {}
            None => request.capabilities.push(vec![gpu]),
        }
    }
    requests
}

fn device_requests(node: Node<'_>, p: &mut Problems) -> Vec<DeviceRequest> {
    let mut all = Vec::new();
    for node in node.items(p).unwrap_or_default() {
        let path = node.path.clone();
        let Some(mut map) = node.mapping(p) else { continue };
        let count = map.parsed("count", p, |text| match text {
            "all" => Ok(-1),
            _ => text.parse::<i64>().map_err(|_| "must be all or a number"),
        });
        let device_ids = map.texts("device_ids", p);
        if count.is_some() && !device_ids.is_empty() {
            p.add(&path, "has either count or device_ids");
        }
        let capabilities = map.texts("capabilities", p);
        all.push(DeviceRequest {
            driver: map.text("driver", p),
            // Without either, all of them (Compose Specification, "count").
            count: if device_ids.is_empty() {
                count.or(Some(-1))
            } else {
                None
            },
            device_ids,
            capabilities: if capabilities.is_empty() {
                Vec::new()
            } else {
                vec![capabilities]
            },
            options: map.filled("options", p),
        });
        map.finish(p);
    }
    all
}
