//! Limits and devices.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_default;

/// Limits besides memory, processes and cores, which nearly every container has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory and swap together; -1 for no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_swap: Option<i64>,
    /// Bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_reservation: Option<u64>,
    /// 0 to 100.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_swappiness: Option<u8>,
    #[serde(skip_serializing_if = "is_default")]
    pub oom_kill_disable: bool,
    /// -1000 to 1000.
    #[serde(skip_serializing_if = "is_default")]
    pub oom_score_adj: i32,
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_shares: Option<i64>,
    /// Microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_period: Option<i64>,
    /// Microseconds in each period.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_rt_period: Option<i64>,
    /// Microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_rt_runtime: Option<i64>,
    /// As `0-3,5`.
    #[serde(skip_serializing_if = "is_default")]
    pub cpuset: Option<String>,
    /// Windows only; passed on.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_count: Option<i64>,
    /// Hundredths of a percent; Windows only; passed on.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_percent: Option<i64>,
    #[serde(skip_serializing_if = "is_default")]
    pub ulimits: BTreeMap<String, Ulimit>,
    #[serde(skip_serializing_if = "is_default")]
    pub blkio: Blkio,
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup_parent: Option<String>,
}

/// -1 for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    pub soft: i64,
    pub hard: i64,
}

/// Block devices' shares and rates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blkio {
    /// 10 to 1000.
    #[serde(skip_serializing_if = "is_default")]
    pub weight: Option<u16>,
    #[serde(skip_serializing_if = "is_default")]
    pub weight_device: Vec<WeightDevice>,
    /// Bytes a second.
    #[serde(skip_serializing_if = "is_default")]
    pub device_read_bps: Vec<Throttle>,
    /// Bytes a second.
    #[serde(skip_serializing_if = "is_default")]
    pub device_write_bps: Vec<Throttle>,
    /// Operations a second.
    #[serde(skip_serializing_if = "is_default")]
    pub device_read_iops: Vec<Throttle>,
    /// Operations a second.
    #[serde(skip_serializing_if = "is_default")]
    pub device_write_iops: Vec<Throttle>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightDevice {
    pub path: String,
    pub weight: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    pub path: String,
    pub rate: u64,
}

/// A device of the host, made visible in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The host's path.
    pub source: String,
    /// The container's path.
    pub target: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// Devices that a driver finds, such as GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceRequest {
    #[serde(skip_serializing_if = "is_default")]
    pub driver: Option<String>,
    /// -1 for all; none where ids are given.
    #[serde(skip_serializing_if = "is_default")]
    pub count: Option<i64>,
    #[serde(skip_serializing_if = "is_default")]
    pub device_ids: Vec<String>,
    /// One of these lists has to be met as a whole.
    #[serde(skip_serializing_if = "is_default")]
    pub capabilities: Vec<Vec<String>>,
    #[serde(skip_serializing_if = "is_default")]
    pub options: BTreeMap<String, String>,
}
