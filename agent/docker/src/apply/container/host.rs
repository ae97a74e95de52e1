//! What a container gets of the host, in the engine's words.

use std::collections::HashMap;

use bollard::models::{
    DeviceMapping, DeviceRequest as EngineDeviceRequest, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, PortBinding, PortMap, ResourcesBlkioWeightDevice, ResourcesUlimits,
    RestartPolicy as EngineRestartPolicy, RestartPolicyNameEnum, ThrottleDevice,
};
use decnet_plan::step::{
    ContainerSpec, Device, DeviceRequest, Limits, Namespace, NetworkMode, Port, RestartPolicy, Throttle,
};

use super::body::links;
use super::{Resolved, mounts};

pub(super) fn to_host_config(spec: &ContainerSpec, resolved: &Resolved) -> HostConfig {
    let has_log = spec.log_driver.is_some() || !spec.log_options.is_empty();
    let namespaces = &spec.namespaces;
    let without = |paths: bool| paths.then(Vec::new);
    let (binds, mounts) = mounts::to_mounts(spec, resolved);
    let config = HostConfig {
        network_mode: Some(network_mode(spec, resolved)),
        port_bindings: Some(port_bindings(&spec.ports)),
        links: links(spec),
        dns: some(&spec.dns),
        dns_search: some(&spec.dns_search),
        dns_options: some(&spec.dns_opt),
        extra_hosts: some(&spec.extra_hosts),
        restart_policy: Some(to_restart(spec.restart)),
        init: spec.init,
        runtime: spec.runtime.clone(),
        annotations: map(&spec.annotations),
        log_config: has_log.then(|| HostConfigLogConfig {
            typ: spec.log_driver.clone(),
            config: Some(spec.log_options.clone().into_iter().collect()),
        }),

        privileged: Some(spec.privileged),
        cap_add: some(&spec.cap_add),
        cap_drop: some(&spec.cap_drop),
        security_opt: some(&spec.security_opt),
        masked_paths: without(spec.unmasked),
        readonly_paths: without(spec.unmasked),
        group_add: some(&spec.group_add),
        sysctls: map(&spec.sysctls),
        pid_mode: namespace(&namespaces.pid, resolved),
        ipc_mode: namespace(&namespaces.ipc, resolved),
        uts_mode: namespaces.uts.clone(),
        userns_mode: namespaces.user.clone(),
        cgroupns_mode: namespaces.cgroup.as_deref().map(|mode| match mode {
            "host" => HostConfigCgroupnsModeEnum::HOST,
            "private" => HostConfigCgroupnsModeEnum::PRIVATE,
            _ => HostConfigCgroupnsModeEnum::EMPTY,
        }),
        devices: some(&spec.devices.iter().map(to_device).collect::<Vec<_>>()),
        device_cgroup_rules: some(&spec.device_cgroup_rules),
        device_requests: some(&spec.device_requests.iter().map(to_request).collect::<Vec<_>>()),

        readonly_rootfs: Some(spec.read_only),
        binds: some(&binds),
        mounts: some(&mounts),
        volumes_from: some(&mounts::volumes_from(spec, resolved)),
        tmpfs: map(&spec.tmpfs),
        shm_size: spec.shm_size.map(signed),
        storage_opt: map(&spec.storage_opt),

        memory: spec.memory.map(signed),
        pids_limit: spec.pids,
        nano_cpus: spec.nano_cpus,
        ..HostConfig::default()
    };
    limited(config, &spec.limits)
}

fn limited(config: HostConfig, limits: &Limits) -> HostConfig {
    let ulimits: Vec<_> = limits
        .ulimits
        .iter()
        .map(|(name, limit)| ResourcesUlimits {
            name: Some(name.clone()),
            soft: Some(limit.soft),
            hard: Some(limit.hard),
        })
        .collect();
    let weights: Vec<_> = limits
        .blkio
        .weight_device
        .iter()
        .map(|device| ResourcesBlkioWeightDevice {
            path: Some(device.path.clone()),
            weight: Some(device.weight.into()),
        })
        .collect();
    HostConfig {
        memory_swap: limits.memory_swap,
        memory_reservation: limits.memory_reservation.map(signed),
        memory_swappiness: limits.memory_swappiness.map(i64::from),
        oom_kill_disable: Some(limits.oom_kill_disable),
        oom_score_adj: Some(limits.oom_score_adj.into()),
        cpu_shares: limits.cpu_shares,
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpu_realtime_period: limits.cpu_rt_period,
        cpu_realtime_runtime: limits.cpu_rt_runtime,
        cpuset_cpus: limits.cpuset.clone(),
        cpu_count: limits.cpu_count,
        cpu_percent: limits.cpu_percent,
        ulimits: some(&ulimits),
        blkio_weight: limits.blkio.weight,
        blkio_weight_device: some(&weights),
        blkio_device_read_bps: throttles(&limits.blkio.device_read_bps),
        blkio_device_write_bps: throttles(&limits.blkio.device_write_bps),
        blkio_device_read_iops: throttles(&limits.blkio.device_read_iops),
        blkio_device_write_iops: throttles(&limits.blkio.device_write_iops),
        cgroup_parent: limits.cgroup_parent.clone(),
        ..config
    }
}

fn network_mode(spec: &ContainerSpec, resolved: &Resolved) -> String {
    match &spec.network {
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Bridge => "bridge".to_owned(),
        NetworkMode::Container { name } => format!("container:{}", resolved.id(name)),
        NetworkMode::Foreign { name } => format!("container:{name}"),
        NetworkMode::Networks { .. } => {
            let first = spec.endpoints().first();
            first.map_or_else(|| "none".to_owned(), |endpoint| endpoint.network.clone())
        }
    }
}

fn namespace(namespace: &Namespace, resolved: &Resolved) -> Option<String> {
    match namespace {
        Namespace::Default => None,
        Namespace::Private => Some("private".to_owned()),
        Namespace::Shareable => Some("shareable".to_owned()),
        Namespace::None => Some("none".to_owned()),
        Namespace::Host => Some("host".to_owned()),
        Namespace::Container { name } => Some(format!("container:{}", resolved.id(name))),
        Namespace::Foreign { name } => Some(format!("container:{name}")),
    }
}

/// The container's end of a published port, as `80/tcp`.
pub(super) fn port_name(port: &Port) -> String {
    let protocol = if port.protocol.is_empty() {
        "tcp"
    } else {
        &port.protocol
    };
    format!("{}/{protocol}", port.target)
}

fn port_bindings(ports: &[Port]) -> PortMap {
    let mut bindings: PortMap = HashMap::new();
    for port in ports {
        let binding = PortBinding {
            host_ip: Some(port.host_ip.clone().unwrap_or_default()),
            host_port: Some(port.published.clone().unwrap_or_default()),
        };
        let all = bindings
            .entry(port_name(port))
            .or_insert_with(|| Some(Vec::new()));
        all.get_or_insert_default().push(binding);
    }
    bindings
}

fn to_restart(policy: RestartPolicy) -> EngineRestartPolicy {
    let (name, retries) = match policy {
        RestartPolicy::No => (RestartPolicyNameEnum::NO, None),
        RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, None),
        RestartPolicy::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        RestartPolicy::OnFailure { retries } => (RestartPolicyNameEnum::ON_FAILURE, Some(i64::from(retries))),
    };
    EngineRestartPolicy {
        name: Some(name),
        maximum_retry_count: retries,
    }
}

fn to_device(device: &Device) -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(device.source.clone()),
        path_in_container: Some(device.target.clone()),
        cgroup_permissions: Some(device.permissions.clone()),
    }
}

fn to_request(request: &DeviceRequest) -> EngineDeviceRequest {
    EngineDeviceRequest {
        driver: request.driver.clone(),
        count: request.count,
        device_ids: some(&request.device_ids),
        capabilities: some(&request.capabilities),
        options: map(&request.options),
    }
}

fn throttles(devices: &[Throttle]) -> Option<Vec<ThrottleDevice>> {
    let to_engine = |device: &Throttle| ThrottleDevice {
        path: Some(device.path.clone()),
        rate: Some(signed(device.rate)),
    };
    some(&devices.iter().map(to_engine).collect::<Vec<_>>())
}

/// The engine tells an empty list from none in what it shows, and Compose sends none.
fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn map(entries: &std::collections::BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    (!entries.is_empty()).then(|| entries.clone().into_iter().collect())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
