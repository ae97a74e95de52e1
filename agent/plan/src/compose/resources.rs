//! Limits and devices of a service.

use std::collections::BTreeMap;

use serde_json::Value;

use super::read::{Mapping, Node, Problems};
use super::units;
use crate::step::{Blkio, Device, DeviceRequest, Limits, Throttle, Ulimit, WeightDevice};

/// What has no attribute of its own in [`super::Service`].
pub(super) fn limits(map: &mut Mapping<'_>, p: &mut Problems) -> Limits {
    Limits {
        memory_swap: map
            .parsed("memswap_limit", p, signed_bytes)
            .filter(|bytes| *bytes != 0),
        memory_reservation: map
            .parsed("mem_reservation", p, units::bytes)
            .filter(|bytes| *bytes > 0),
        memory_swappiness: map.number::<u8>("mem_swappiness", p).filter(|n| *n > 0),
        oom_kill_disable: map.flag("oom_kill_disable", p).unwrap_or_default(),
        oom_score_adj: map.number("oom_score_adj", p).unwrap_or_default(),
        cpu_shares: count(map, "cpu_shares", p),
        cpu_period: micros(map, "cpu_period", p),
        cpu_quota: micros(map, "cpu_quota", p),
        cpu_rt_period: micros(map, "cpu_rt_period", p),
        cpu_rt_runtime: micros(map, "cpu_rt_runtime", p),
        cpuset: map.scalar("cpuset", p).filter(|text| !text.is_empty()),
        cpu_count: count(map, "cpu_count", p),
        cpu_percent: map
            .parsed("cpu_percent", p, units::nano_cpus)
            .map(|percent| percent / 10_000_000),
        ulimits: map
            .take("ulimits")
            .and_then(|node| ulimits(node, p))
            .unwrap_or_default(),
        blkio: map
            .take("blkio_config")
            .and_then(|node| blkio(node, p))
            .unwrap_or_default(),
        cgroup_parent: map.text("cgroup_parent", p),
    }
}

fn count(map: &mut Mapping<'_>, key: &str, p: &mut Problems) -> Option<i64> {
    map.number::<i64>(key, p).filter(|n| *n != 0)
}

/// Microseconds as a number, or a duration.
fn micros(map: &mut Mapping<'_>, key: &str, p: &mut Problems) -> Option<i64> {
    let parse = |text: &str| match text.parse::<i64>() {
        Ok(number) => Ok(number),
        Err(_) => units::duration_us(text),
    };
    map.parsed(key, p, parse).filter(|n| *n != 0)
}

/// -1 for no limit.
fn signed_bytes(text: &str) -> Result<i64, &'static str> {
    if text.trim() == "-1" {
        return Ok(-1);
    }
    i64::try_from(units::bytes(text)?).map_err(|_| "must be a size such as 134217728, 64m or 1.5gb")
}

/// One number for both, or `soft` and `hard`.
pub(super) fn ulimits(node: Node<'_>, problems: &mut Problems) -> Option<BTreeMap<String, Ulimit>> {
    let mut all = BTreeMap::new();
    for (name, node) in node.entries(problems)? {
        let limit = match node.value {
            Value::Object(_) => {
                let path = node.path.clone();
                let Some(mut map) = node.mapping(problems) else {
                    continue;
                };
                let soft = map.number("soft", problems);
                let hard = map.number("hard", problems);
                map.finish(problems);
                match (soft, hard) {
                    (Some(soft), Some(hard)) => Some(Ulimit { soft, hard }),
                    _ => {
                        problems.add(&path, "needs soft and hard");
                        None
                    }
                }
            }
            _ => {
                let number = |text: &str| text.parse::<i64>().map_err(|_| "must be a whole number");
                let both = node.parsed(problems, number);
                both.map(|both| Ulimit {
                    soft: both,
                    hard: both,
                })
            }
        };
        if let Some(limit) = limit {
            all.insert(name, limit);
        }
    }
    Some(all)
}

fn blkio(node: Node<'_>, p: &mut Problems) -> Option<Blkio> {
    let mut map = node.mapping(p)?;
    let mut weight_device = Vec::new();
    for (path, mut entry) in on_devices(&mut map, "weight_device", p) {
        if let Some(weight) = entry.number("weight", p) {
            weight_device.push(WeightDevice { path, weight });
        }
        entry.finish(p);
    }
    let blkio = Blkio {
        weight: map.number::<u16>("weight", p).filter(|weight| *weight > 0),
        weight_device,
        device_read_bps: throttles(&mut map, "device_read_bps", p),
        device_write_bps: throttles(&mut map, "device_write_bps", p),
        device_read_iops: throttles(&mut map, "device_read_iops", p),
        device_write_iops: throttles(&mut map, "device_write_iops", p),
    };
    map.finish(p);
    Some(blkio)
}

fn throttles(map: &mut Mapping<'_>, key: &str, p: &mut Problems) -> Vec<Throttle> {
    let mut all = Vec::new();
    for (path, mut entry) in on_devices(map, key, p) {
        if let Some(rate) = entry.parsed("rate", p, units::bytes) {
            all.push(Throttle { path, rate });
        }
        entry.finish(p);
    }
    all
}

fn on_devices<'a>(map: &mut Mapping<'a>, key: &str, p: &mut Problems) -> Vec<(String, Mapping<'a>)> {
    let mut all = Vec::new();
    let items = map.take(key).and_then(|node| node.items(p));
    for node in items.unwrap_or_default() {
        let Some(mut entry) = node.mapping(p) else {
            continue;
        };
        match entry.text("path", p) {
            Some(path) => all.push((path, entry)),
            None => p.add(entry.path(), "needs a path"),
        }
    }
    all
}

/// `HOST[:CONTAINER[:PERMISSIONS]]`, the long form, or a name of the Container Device Interface.
pub(super) fn devices(
    node: Node<'_>,
    devices: &mut Vec<Device>,
    requests: &mut Vec<DeviceRequest>,
    problems: &mut Problems,
) {
    for node in node.items(problems).unwrap_or_default() {
        let path = node.path.clone();
        let (source, target, permissions) = if let Value::Object(_) = node.value {
            let Some(mut map) = node.mapping(problems) else {
                continue;
            };
            let source = map.text("source", problems);
            let target = map.text("target", problems);
            let permissions = map.text("permissions", problems);
            map.finish(problems);
            let Some(source) = source else {
                problems.add(&path, "needs a source");
                continue;
            };
            (source, target, permissions)
        } else {
            let Some(text) = node.text(problems) else { continue };
            let mut parts = text.splitn(3, ':').map(str::to_owned);
            let source = parts.next().unwrap_or_default();
            (source, parts.next(), parts.next())
        };
        if !source.starts_with('/') && source.contains('=') {
            requests.push(DeviceRequest {
                driver: Some("cdi".to_owned()),
                device_ids: vec![source],
                ..DeviceRequest::default()
            });
            continue;
        }
        let permissions = permissions.unwrap_or_else(|| "rwm".to_owned());
        if !source.starts_with('/') || !permissions.bytes().all(|b| b"rwm".contains(&b)) {
            problems.add(
                &path,
                "must be a device such as /dev/ttyUSB0, /dev/a:/dev/b or /dev/a:/dev/b:rw",
            );
            continue;
        }
        devices.push(Device {
            target: target.unwrap_or_else(|| source.clone()),
            source,
            permissions,
        });
    }
}
