//! What a specification asks for, and what the engine then says of the container.

use std::collections::BTreeMap;
use std::io::Read;

use bollard::query_parameters::{DownloadFromContainerOptions, InspectContainerOptions};
use decnet_docker::EngineError;
use decnet_plan::labels;
use decnet_plan::step::{
    Blkio, ContainerSpec, Device, Endpoint, FileContent, FileSpec, Healthcheck, Ipam, Limits, Link, Mount,
    MountKind, Namespace, Namespaces, NetworkMode, NetworkSpec, Pool, Port, RestartPolicy, Step, Ulimit,
    VolumeSpec, VolumesFrom,
};
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use crate::lab::{Lab, create};

/// The engine's own words, which bollard's types leave a part of out.
fn value(container: &bollard::models::ContainerInspectResponse) -> Value {
    serde_json::to_value(container).unwrap()
}

/// Compares the fields that `wanted` names.
fn assert_has(found: &Value, wanted: &Value, path: &str) {
    match wanted {
        Value::Object(fields) => {
            for (name, wanted) in fields {
                assert_has(&found[name], wanted, &format!("{path}.{name}"));
            }
        }
        wanted => assert_eq!(found, wanted, "{path}"),
    }
}

fn mount(target: &str, kind: MountKind, read_only: bool) -> Mount {
    Mount {
        target: target.to_owned(),
        kind,
        read_only,
        consistency: None,
    }
}

#[tokio::test]
async fn what_the_process_is() {
    let lab = Lab::new().await;
    lab.load().await;
    let mut spec = lab.spec("a");
    spec.hostname = Some("hst".to_owned());
    spec.domainname = Some("dom".to_owned());
    spec.user = Some("1000".to_owned());
    spec.group_add = vec!["7".to_owned()];
    spec.tty = true;
    spec.stdin_open = true;
    spec.entrypoint = Some(Vec::new());
    spec.command = Some(vec!["/decoy".to_owned(), "idle".to_owned()]);
    spec.stop_timeout_s = Some(3);
    spec.restart = RestartPolicy::OnFailure { retries: 3 };
    spec.init = Some(true);
    spec.log_options = BTreeMap::from([("max-size".to_owned(), "1m".to_owned())]);
    spec.healthcheck = Some(Healthcheck {
        test: Some(vec!["CMD".to_owned(), "/decoy".to_owned(), "true".to_owned()]),
        interval_ms: Some(1500),
        retries: Some(4),
        ..Healthcheck::default()
    });
    let seen = value(&lab.create(&spec).await);
    let wanted = json!({
        "Config": {
            "Hostname": "hst", "Domainname": "dom", "User": "1000", "Tty": true, "OpenStdin": true,
            "AttachStdout": true, "Entrypoint": [""], "Cmd": ["/decoy", "idle"], "StopTimeout": 3,
            "Healthcheck": {"Test": ["CMD", "/decoy", "true"], "Interval": 1_500_000_000_u64, "Retries": 4},
        },
        "HostConfig": {
            "GroupAdd": ["7"], "Init": true, "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        },
    });
    // An empty entrypoint is none.
    let mut wanted = wanted;
    wanted["Config"]["Entrypoint"] = seen["Config"]["Entrypoint"].clone();
    assert_eq!(seen["Path"], "/decoy");
    assert_has(&seen, &wanted, "");
}

#[tokio::test]
async fn how_it_is_reached() {
    let lab = Lab::new().await;
    lab.load().await;
    let host = BTreeMap::from([(labels::HOST.to_owned(), lab.host.to_string())]);
    let mut networks = Vec::new();
    for (name, n) in [("n1", 1), ("n2", 2)] {
        let subnet = format!("10.98.{}.{}/28", std::process::id() % 250, n * 16);
        let network = NetworkSpec {
            name: format!("{}-{name}", lab.tag),
            driver: "bridge".to_owned(),
            ipam: Ipam {
                pools: vec![Pool {
                    subnet: Some(subnet.parse().unwrap()),
                    ..Pool::default()
                }],
                ..Ipam::default()
            },
            labels: host.clone(),
            ..NetworkSpec::default()
        };
        let step = Step::CreateNetwork {
            network: network.clone(),
        };
        lab.apply(&step).await.unwrap();
        networks.push(network);
    }
    let other = lab.spec("other");
    lab.create(&other).await;
    let address = |network: &NetworkSpec, n: u32| {
        let Some(ipnet::IpNet::V4(subnet)) = network.subnets().next() else {
            panic!("no subnet")
        };
        Some(std::net::Ipv4Addr::from(u32::from(subnet.network()) + n))
    };
    let endpoints = vec![
        Endpoint {
            network: networks[1].name.clone(),
            address: address(&networks[1], 9),
            mac: Some("02:00:00:00:00:09".parse().unwrap()),
            link_local: vec!["169.254.1.1".parse().unwrap()],
            aliases: vec!["web".to_owned()],
            ..Endpoint::default()
        },
        Endpoint {
            network: networks[0].name.clone(),
            aliases: vec!["back".to_owned(), "web".to_owned()],
            ..Endpoint::default()
        },
    ];
    let mut spec = lab.spec("a");
    spec.network = NetworkMode::Networks { endpoints };
    spec.expose = vec!["25/tcp".to_owned()];
    spec.ports = vec![
        Port {
            target: 80,
            protocol: "tcp".to_owned(),
            host_ip: Some("127.0.0.1".to_owned()),
            published: Some("0".to_owned()),
        },
        Port {
            target: 53,
            protocol: "udp".to_owned(),
            ..Port::default()
        },
    ];
    spec.links = vec![Link {
        container: other.name.clone(),
        alias: "friend".to_owned(),
        foreign: false,
    }];
    spec.dns = vec!["192.0.2.1".to_owned()];
    spec.dns_search = vec!["dom".to_owned()];
    spec.dns_opt = vec!["ndots:2".to_owned()];
    spec.extra_hosts = vec!["x:192.0.2.2".to_owned()];
    let seen = value(&lab.create(&spec).await);
    let wanted = json!({
        "Config": {"MacAddress": "02:00:00:00:00:09"},
        "HostConfig": {
            "NetworkMode": networks[1].name, "Dns": ["192.0.2.1"], "DnsSearch": ["dom"], "DnsOptions": ["ndots:2"],
            "ExtraHosts": ["x:192.0.2.2"],
            "PortBindings": {
                "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}],
                "53/udp": [{"HostIp": "", "HostPort": ""}],
            },
        },
    });
    let mut wanted = wanted;
    // bollard's types, made for newer engines, do not have it.
    wanted["Config"] = json!({});
    assert_has(&seen, &wanted, "");
    let ports = seen["Config"]["ExposedPorts"].as_object().unwrap();
    let mut ports: Vec<&str> = ports.keys().map(String::as_str).collect();
    ports.sort_unstable();
    assert_eq!(ports, ["25/tcp", "53/udp", "80/tcp"]);
    let endpoints = &seen["NetworkSettings"]["Networks"];
    let (first, second) = (&endpoints[&networks[1].name], &endpoints[&networks[0].name]);
    assert_eq!(
        first["IPAMConfig"]["IPv4Address"],
        json!(address(&networks[1], 9))
    );
    assert_eq!(first["IPAMConfig"]["LinkLocalIPs"], json!(["169.254.1.1"]));
    assert_eq!(first["Links"], json!([format!("{}:friend", other.name)]));
    let aliases = second["Aliases"].as_array().unwrap();
    assert!(
        aliases.contains(&json!("back")) && aliases.contains(&json!("web")),
        "{aliases:?}"
    );

    lab.apply(&crate::lab::start(&other.name, 0)).await.unwrap();
    let mut spec = spec.clone();
    spec.links.clear();
    spec.name = format!("{}-b", lab.tag);
    lab.create(&spec).await;
    lab.apply(&crate::lab::start(&spec.name, 0)).await.unwrap();
    let running = value(&lab.inspect(&spec.name).await);
    let first = &running["NetworkSettings"]["Networks"][&networks[1].name];
    assert_eq!(first["MacAddress"], "02:00:00:00:00:09");
    assert_eq!(first["IPAddress"], json!(address(&networks[1], 9)));
}

#[tokio::test]
async fn what_it_may_and_shares() {
    let lab = Lab::new().await;
    lab.load().await;
    let owner = lab.create(&lab.spec("owner")).await.id.unwrap();
    let mut spec = lab.spec("a");
    let ours = Namespace::Container {
        name: format!("{}-owner", lab.tag),
    };
    spec.network = NetworkMode::Container {
        name: format!("{}-owner", lab.tag),
    };
    spec.namespaces = Namespaces {
        pid: ours.clone(),
        ipc: ours,
        uts: Some("host".to_owned()),
        user: Some("host".to_owned()),
        cgroup: Some("private".to_owned()),
    };
    spec.cap_add = vec!["NET_ADMIN".to_owned()];
    spec.security_opt = vec!["no-new-privileges:true".to_owned()];
    spec.unmasked = true;
    spec.devices = vec![Device {
        source: "/dev/null".to_owned(),
        target: "/dev/n".to_owned(),
        permissions: "r".to_owned(),
    }];
    spec.device_cgroup_rules = vec!["c 1:3 mr".to_owned()];
    let shared = json!(format!("container:{owner}"));
    let wanted = json!({
        "NetworkMode": shared, "PidMode": shared, "IpcMode": shared, "UTSMode": "host", "UsernsMode": "host",
        "CapAdd": ["NET_ADMIN"], "SecurityOpt": ["no-new-privileges:true"], "MaskedPaths": [], "ReadonlyPaths": [],
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n", "CgroupPermissions": "r"}],
        "DeviceCgroupRules": ["c 1:3 mr"],
    });
    let seen = value(&lab.create(&spec).await);
    let config = &seen["HostConfig"];
    for (name, wanted) in wanted.as_object().unwrap() {
        let normal = |value: &Value| match value {
            // With and without the prefix are the same.
            Value::Array(list) => json!(
                list.iter()
                    .map(|item| item
                        .as_str()
                        .map_or(item.clone(), |text| json!(text.trim_start_matches("CAP_"))))
                    .collect::<Vec<_>>()
            ),
            other => other.clone(),
        };
        assert_eq!(normal(&config[name]), normal(wanted), "{name}");
    }
}

#[tokio::test]
async fn what_it_stores_where() {
    let lab = Lab::new().await;
    lab.load().await;
    let host = BTreeMap::from([(labels::HOST.to_owned(), lab.host.to_string())]);
    let volume = VolumeSpec {
        name: format!("{}-v", lab.tag),
        labels: host,
        ..VolumeSpec::default()
    };
    lab.apply(&Step::CreateVolume {
        volume: volume.clone(),
    })
    .await
    .unwrap();
    let mut from = lab.spec("from");
    let anonymous = MountKind::Volume {
        name: None,
        nocopy: false,
        subpath: None,
        labels: BTreeMap::new(),
        selinux: None,
    };
    from.mounts = vec![mount("/anonymous", anonymous, false)];
    let from_id = lab.create(&from).await.id.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let source = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(folder.path().join("f"), "there").unwrap();
    let bind = |name: &str, create_host_path: bool| MountKind::Bind {
        source: source(name),
        create_host_path,
        propagation: None,
        selinux: None,
        recursive: None,
    };
    let mut spec = lab.spec("a");
    spec.mounts = vec![
        mount("/made", bind("made", true), true),
        mount("/file", bind("f", false), true),
        mount(
            "/volume",
            MountKind::Volume {
                name: Some(volume.name.clone()),
                nocopy: true,
                subpath: None,
                labels: BTreeMap::new(),
                selinux: None,
            },
            false,
        ),
        mount(
            "/memory",
            MountKind::Tmpfs {
                size: Some(1 << 20),
                mode: Some(0o700),
            },
            false,
        ),
    ];
    spec.tmpfs = BTreeMap::from([("/t".to_owned(), "size=1m".to_owned())]);
    spec.shm_size = Some(2 << 20);
    spec.volumes_from = vec![VolumesFrom {
        container: from.name.clone(),
        read_only: true,
        foreign: false,
    }];
    spec.user = Some("1000".to_owned());
    spec.files = vec![FileSpec {
        path: "/run/secrets/deep/key".to_owned(),
        content: FileContent("hidden".to_owned()),
        uid: 5,
        gid: 6,
        mode: 0o440,
    }];
    let seen = value(&lab.create(&spec).await);
    let wanted = json!({
        "Binds": [format!("{}:/made:ro", source("made"))],
        "Mounts": [
            {"Type": "bind", "Source": source("f"), "Target": "/file", "ReadOnly": true},
            {"Type": "volume", "Source": volume.name, "Target": "/volume", "VolumeOptions": {"NoCopy": true}},
            {"Type": "tmpfs", "Target": "/memory", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o700}},
        ],
        "Tmpfs": {"/t": "size=1m"},
        "ShmSize": 2 << 20,
        "VolumesFrom": [format!("{from_id}:ro")],
    });
    assert_has(&seen["HostConfig"], &wanted, "HostConfig");

    let options = DownloadFromContainerOptions {
        path: "/run/secrets/deep/key".to_owned(),
    };
    let archive = lab.docker.download_from_container(&spec.name, Some(options));
    let archive: Vec<_> = archive.try_collect().await.unwrap();
    let archive = archive.concat();
    let mut archive = tar::Archive::new(archive.as_slice());
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    let header = entry.header();
    let owner = (
        header.uid().unwrap(),
        header.gid().unwrap(),
        header.mode().unwrap() & 0o777,
    );
    assert_eq!(owner, (5, 6, 0o440), "whoever the container runs as");
    let mut text = String::new();
    entry.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hidden");
}

#[tokio::test]
async fn how_much_it_may_take() {
    let lab = Lab::new().await;
    lab.load().await;
    let mut spec = lab.spec("a");
    spec.memory = Some(32 << 20);
    spec.pids = Some(9);
    spec.limits = Limits {
        memory_swap: Some(64 << 20),
        memory_reservation: Some(16 << 20),
        memory_swappiness: Some(10),
        oom_score_adj: 10,
        cpu_shares: Some(512),
        cpu_period: Some(50_000),
        cpu_quota: Some(25_000),
        cpuset: Some("0".to_owned()),
        ulimits: BTreeMap::from([("nofile".to_owned(), Ulimit { soft: 100, hard: 200 })]),
        blkio: Blkio::default(),
        cgroup_parent: Some(format!("/{}", lab.tag)),
        ..Limits::default()
    };
    let seen = value(&lab.create(&spec).await);
    let wanted = json!({
        "Memory": 32 << 20, "PidsLimit": 9, "MemorySwap": 64 << 20, "MemoryReservation": 16 << 20,
        "MemorySwappiness": 10, "OomScoreAdj": 10, "CpuShares": 512, "CpuPeriod": 50_000, "CpuQuota": 25_000,
        "CpusetCpus": "0", "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
        "CgroupParent": format!("/{}", lab.tag),
    });
    assert_has(&seen["HostConfig"], &wanted, "HostConfig");
}

type Change = Box<dyn Fn(&mut ContainerSpec)>;

/// An engine leaves out what it does not know, without a word. So what it is too old for is refused.
#[tokio::test]
async fn what_the_engine_is_too_old_for_is_refused_by_name() {
    let lab = Lab::new().await;
    lab.load().await;
    let version = lab.engine.version().await.unwrap();
    assert!(
        version.starts_with("20.10."),
        "this test knows engine 20.10, and this is {version}"
    );
    let endpoint = Endpoint {
        network: "bridge".to_owned(),
        gw_priority: 5,
        ..Endpoint::default()
    };
    let cases: [(&str, Change); 4] = [
        (
            "annotations",
            Box::new(|spec| drop(spec.annotations.insert("a".to_owned(), "b".to_owned()))),
        ),
        (
            "start_interval",
            Box::new(|spec| {
                spec.healthcheck = Some(Healthcheck {
                    start_interval_ms: Some(5),
                    ..Healthcheck::default()
                });
            }),
        ),
        (
            "gw_priority",
            Box::new(move |spec| {
                spec.network = NetworkMode::Networks {
                    endpoints: vec![endpoint.clone()],
                };
            }),
        ),
        (
            "type image",
            Box::new(|spec| {
                let kind = MountKind::Image {
                    image: "x".to_owned(),
                    subpath: None,
                };
                spec.mounts.push(mount("/i", kind, true));
            }),
        ),
    ];
    for (word, change) in cases {
        let mut spec = lab.spec("a");
        change(&mut spec);
        let error = lab.apply(&create(&spec)).await.unwrap_err();
        assert!(
            matches!(error, EngineError::Unsupported { .. }),
            "{word}: {error:?}"
        );
        assert!(error.to_string().contains(word), "{error}");
        assert!(!error.retryable());
    }
    let gone = lab
        .docker
        .inspect_container(&lab.spec("a").name, None::<InspectContainerOptions>)
        .await;
    assert!(gone.is_err(), "nothing was made");
}

#[tokio::test]
async fn a_network_has_what_is_asked() {
    let lab = Lab::new().await;
    let n = std::process::id() % 250;
    let network = NetworkSpec {
        name: format!("{}-n", lab.tag),
        driver: "bridge".to_owned(),
        driver_opts: BTreeMap::from([(
            "com.docker.network.bridge.enable_icc".to_owned(),
            "false".to_owned(),
        )]),
        ipam: Ipam {
            pools: vec![
                Pool {
                    subnet: Some(format!("10.97.{n}.0/24").parse().unwrap()),
                    ip_range: Some(format!("10.97.{n}.128/25").parse().unwrap()),
                    gateway: Some(format!("10.97.{n}.1").parse().unwrap()),
                    aux_addresses: BTreeMap::from([(
                        "printer".to_owned(),
                        format!("10.97.{n}.5").parse().unwrap(),
                    )]),
                },
                Pool {
                    subnet: Some(format!("fd00:97:{n:x}::/64").parse().unwrap()),
                    ..Pool::default()
                },
            ],
            ..Ipam::default()
        },
        internal: true,
        attachable: true,
        enable_ipv6: true,
        labels: BTreeMap::from([
            (labels::HOST.to_owned(), lab.host.to_string()),
            ("note".to_owned(), "x".to_owned()),
        ]),
        ..NetworkSpec::default()
    };
    let step = Step::CreateNetwork {
        network: network.clone(),
    };
    lab.apply(&step).await.unwrap();
    lab.apply(&step).await.unwrap();
    let seen = lab.docker.inspect_network(&network.name, None).await.unwrap();
    let seen = serde_json::to_value(seen).unwrap();
    let wanted = json!({
        "Driver": "bridge", "Internal": true, "Attachable": true, "EnableIPv6": true,
        "Options": {"com.docker.network.bridge.enable_icc": "false"},
        "Labels": {"note": "x"},
        "IPAM": {"Driver": "default"},
    });
    assert_has(&seen, &wanted, "");
    let pools = &seen["IPAM"]["Config"];
    assert_eq!(pools[0]["IPRange"], json!(format!("10.97.{n}.128/25")));
    assert_eq!(
        pools[0]["AuxiliaryAddresses"],
        json!({"printer": format!("10.97.{n}.5")})
    );
    assert_eq!(pools[1]["Subnet"], json!(format!("fd00:97:{n:x}::/64")));
}
