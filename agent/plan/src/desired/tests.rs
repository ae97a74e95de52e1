//! What a bundle's documents may not say.

use decnet_wire::bundle::{Blob, BlobKind, ComposeDocument, Network, NetworkDriver};
use decnet_wire::ids::{Digest, HostId, StackName};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Desired;
use crate::policy::{Policy, check};

fn networks() -> Vec<Network> {
    let network = |name: &str, driver, subnet: &str| Network {
        name: name.parse().unwrap(),
        driver,
        parent: Some("eth0".parse().unwrap()),
        subnet: subnet.parse().unwrap(),
        gateway: None,
        subnet6: None,
        gateway6: None,
        host_address: None,
        mode: None,
    };
    vec![
        network("decnet-lan", NetworkDriver::Macvlan, "10.9.0.0/24"),
        network("decnet-ipv", NetworkDriver::Ipvlan, "10.8.0.0/24"),
    ]
}

fn desire(stacks: &[(&str, Value)]) -> Result<Desired, Vec<String>> {
    let kind = BlobKind::ImageArchive {
        reference: "decoy:1".to_owned(),
        image_ids: vec![Digest::from_sha256([1; 32])],
    };
    let blob = Blob {
        digest: Digest::from_sha256([2; 32]),
        size: 1,
        kind,
    };
    let context = Blob {
        digest: Digest::from_sha256([3; 32]),
        size: 1,
        kind: BlobKind::BuildContext {},
    };
    let stacks: Vec<(StackName, &Value)> = stacks
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value))
        .collect();
    let host = HostId::new(Uuid::nil());
    Desired::new(
        host,
        &networks(),
        &[blob, context],
        stacks.iter().map(|(name, value)| (name, *value)),
    )
    .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// A document of one base at 10.9.0.5 with `more` merged into its services.
fn document(more: &Value) -> Value {
    let mut document = json!({
        "networks": {
            "lan": {"external": true, "name": "decnet-lan"},
            "ipv": {"external": true, "name": "decnet-ipv"},
        },
        "services": {"base": {"image": "decoy:1", "networks": {"lan": {"ipv4_address": "10.9.0.5"}}}},
    });
    for (service, attributes) in more.as_object().unwrap() {
        for (key, value) in attributes.as_object().unwrap() {
            document["services"][service][key] = value.clone();
        }
    }
    document
}

#[test]
fn a_document_that_is_nested_too_deep_to_be_read_is_told_as_such() {
    let text = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let document: ComposeDocument = serde_json::from_str(&text).unwrap();
    let name: StackName = "web".parse().unwrap();
    let stacks = [(&name, document)].into_iter();
    let errors = Desired::new(HostId::new(Uuid::nil()), &networks(), &[], stacks).unwrap_err();
    assert_eq!(errors.len(), 1);
    let told = errors[0].to_string();
    assert!(told.starts_with("stack web: document: recursion limit"), "{told}");
}

fn errors(more: &Value) -> Vec<String> {
    desire(&[("web", document(more))]).expect_err("this document has an error")
}

#[test]
fn every_reference_to_something_that_is_not_there_is_named() {
    let joined = |more: Value| json!({"ssh": more});
    for (more, expected) in [
        (
            joined(json!({"image": "decoy:1", "network_mode": "service:bose"})),
            "stack web: services.ssh.network_mode: there is no service bose",
        ),
        (
            joined(json!({"image": "decoy:1", "network_mode": "service:base", "depends_on": ["db"]})),
            "stack web: services.ssh.depends_on: there is no service db",
        ),
        (
            joined(json!({"image": "nginx:latest", "network_mode": "service:base"})),
            "stack web: services.ssh.image: nginx:latest is no image of this bundle; pin it as repository@sha256:…",
        ),
        (
            json!({"base": {"networks": ["wan"]}}),
            "stack web: services.base.networks: wan: is not among the document's networks",
        ),
    ] {
        assert_eq!(errors(&more), [expected]);
    }
    let mut unknown = document(&json!({}));
    unknown["networks"]["lan"]["name"] = json!("elsewhere");
    let found = desire(&[("web", unknown)]).unwrap_err();
    assert_eq!(
        found,
        ["stack web: services.base.networks: lan: elsewhere is not a network of this bundle"]
    );
}

#[test]
fn services_that_wait_for_each_other_are_an_error() {
    let found = errors(&json!({
        "base": {"depends_on": ["ssh"]},
        "ssh": {"image": "decoy:1", "network_mode": "service:base"},
        "http": {"image": "decoy:1", "network_mode": "service:base"},
    }));
    // http waits for the cycle, and is found with it; what matters is that nothing is planned.
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("the services wait for each other: base,"),
        "{found:?}"
    );
}

#[test]
fn a_namespace_can_only_be_shared_by_its_owner() {
    let found = errors(&json!({
        "ssh": {"image": "decoy:1", "network_mode": "service:base"},
        "http": {"image": "decoy:1", "network_mode": "service:ssh", "hostname": "h", "sysctls": {"net.ipv4.a": 1}},
    }));
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found[0].contains("ssh has no network of its own to share"),
        "{found:?}"
    );
}

#[test]
fn addresses_are_unique_and_inside_their_network() {
    let at = |address: &str| document(&json!({"base": {"networks": {"lan": {"ipv4_address": address}}}}));
    for bad in ["10.9.1.5", "10.9.0.0", "10.9.0.255", "10.9.0.1"] {
        assert!(desire(&[("web", at(bad))]).is_err(), "{bad}");
    }
    let found = desire(&[("db", at("10.9.0.5")), ("web", at("10.9.0.5"))]).unwrap_err();
    let expected = "stack web: services.base.networks: 10.9.0.5 on network decnet-lan is the address of db-base-1 as well";
    assert_eq!(found, [expected]);
}

#[test]
fn an_ipvlan_network_has_no_macs() {
    let found = errors(&json!({"base": {"networks": {"ipv": {"mac_address": "02:00:00:00:00:01"}}}}));
    assert!(
        found[0].contains("ipvlan network shares its parent's MAC"),
        "{found:?}"
    );
}

#[test]
fn two_stacks_cannot_make_one_container_name() {
    let lone = |name: &str| json!({"services": {name: {"image": "decoy:1", "network_mode": "none"}}});
    let found = desire(&[("a", lone("b-c")), ("a-b", lone("c"))]).unwrap_err();
    assert_eq!(
        found,
        ["stack a-b: services.c: stack a has a container of the same name, a-b-c-1"]
    );
}

#[test]
fn labels_of_ours_cannot_be_forged() {
    let found = errors(&json!({"base": {"labels": {"io.decnet.host": "x"}}}));
    assert!(
        found[0].contains("labels that start with io.decnet. are reserved"),
        "{found:?}"
    );
}

#[test]
fn an_image_may_be_pinned_by_its_digest() {
    let digest = Digest::from_sha256([3; 32]);
    let pinned = document(&json!({"base": {"image": format!("registry.example/web:1@{digest}")}}));
    let desired = desire(&[("web", pinned)]).unwrap();
    let (_, _, spec) = desired.containers().next().unwrap();
    assert_eq!(spec.image, [format!("registry.example/web@{digest}")]);
}

#[test]
fn the_built_in_policy_forbids_what_would_leave_the_container() {
    let hardened = json!({"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]});
    let rules = |more: Value| {
        let mut base = hardened.clone();
        for (key, value) in more.as_object().unwrap() {
            base[key] = value.clone();
        }
        let desired = desire(&[("web", document(&json!({"base": base})))]).unwrap();
        check(&desired, &Policy::built_in())
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert!(rules(json!({})).is_empty());
    assert!(
        rules(json!({"sysctls": {"net.ipv4.ip_default_ttl": 64, "net.ipv6.conf.all.hop_limit": 64}}))
            .is_empty()
    );
    for (more, expected) in [
        (
            json!({"cap_drop": ["NET_RAW"]}),
            "cap_drop: the policy requires ALL",
        ),
        (
            json!({"cap_add": ["cap_sys_admin"]}),
            "cap_add: the policy does not allow SYS_ADMIN",
        ),
        (
            json!({"security_opt": []}),
            "security_opt: the policy requires no-new-privileges:true",
        ),
        (
            json!({"sysctls": {"kernel.msgmax": 1}}),
            "sysctls: the policy does not allow kernel.msgmax",
        ),
        (
            json!({"sysctls": {"net.core.somaxconn": 1}}),
            "sysctls: the policy does not allow net.core.somaxconn",
        ),
        (
            json!({"logging": {"driver": "syslog"}}),
            "logging: the policy does not allow the driver syslog",
        ),
    ] {
        assert_eq!(rules(more), [format!("stack web: services.base.{expected}")]);
    }
    let found = rules(json!({"security_opt": ["no-new-privileges:false", "seccomp=unconfined"]}));
    assert_eq!(found.len(), 3, "{found:?}");
}

/// The built-in policy's promise, attribute by attribute (`docs/security.md`): nothing of the host is reached.
#[test]
fn what_leaves_the_container_is_forbidden_by_its_path() {
    for (key, value, expected) in [
        (
            "privileged",
            json!(true),
            "privileged: the policy does not allow it",
        ),
        (
            "volumes",
            json!(["/var/run/docker.sock:/s"]),
            "volumes: the policy does not allow bind_mounts",
        ),
        (
            "volumes",
            json!(["/srv:/s:ro"]),
            "volumes: the policy does not allow bind_mounts",
        ),
        ("volumes", json!(["/s"]), "volumes: the policy does not allow it"),
        (
            "devices",
            json!(["/dev/mem"]),
            "devices: the policy does not allow it",
        ),
        (
            "device_cgroup_rules",
            json!(["a *:* rwm"]),
            "device_cgroup_rules: the policy does not allow it",
        ),
        ("pid", json!("host"), "pid: the policy does not allow pid: host"),
        (
            "pid",
            json!("container:x"),
            "pid: the policy does not allow pid: container",
        ),
        ("ipc", json!("host"), "ipc: the policy does not allow ipc: host"),
        ("uts", json!("host"), "uts: the policy does not allow it"),
        (
            "userns_mode",
            json!("host"),
            "userns_mode: the policy does not allow it",
        ),
        ("cgroup", json!("host"), "cgroup: the policy does not allow it"),
        (
            "cgroup_parent",
            json!("/"),
            "cgroup_parent: the policy does not allow it",
        ),
        (
            "network_mode",
            json!("host"),
            "network_mode: the policy does not allow network_mode: host",
        ),
        (
            "network_mode",
            json!("bridge"),
            "network_mode: the policy does not allow network_mode: bridge",
        ),
        (
            "network_mode",
            json!("container:x"),
            "network_mode: the policy does not allow network_mode: container",
        ),
        ("ports", json!(["22:22"]), "ports: the policy does not allow it"),
        ("runtime", json!("other"), "runtime: the policy does not allow it"),
        (
            "security_opt",
            json!(["no-new-privileges", "systempaths=unconfined"]),
            "security_opt: the policy does not allow systempaths=unconfined",
        ),
        (
            "security_opt",
            json!(["no-new-privileges", "apparmor=unconfined"]),
            "security_opt: the policy does not allow apparmor=unconfined",
        ),
        (
            "external_links",
            json!(["x"]),
            "external_links: the policy does not allow it",
        ),
        (
            "oom_score_adj",
            json!(-1000),
            "oom_score_adj: the policy does not allow it",
        ),
        (
            "ulimits",
            json!({"memlock": -1}),
            "ulimits: the policy does not allow it",
        ),
        (
            "volumes_from",
            json!(["container:x"]),
            "volumes_from: the policy does not allow it",
        ),
        (
            "storage_opt",
            json!({"size": "1G"}),
            "storage_opt: the policy does not allow it",
        ),
    ] {
        let mut base = json!({"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]});
        base[key] = value.clone();
        let mut document = document(&json!({ "base": base }));
        if key == "network_mode" {
            document["services"]["base"]["networks"].take();
        }
        let desired = desire(&[("web", document)]).unwrap();
        let found: Vec<_> = check(&desired, &Policy::built_in())
            .iter()
            .map(ToString::to_string)
            .collect();
        let expected = format!("stack web: services.base.{expected}");
        assert!(found.contains(&expected), "{key}: {value}: {found:?}");
    }
}

#[test]
fn no_policy_at_all_hands_out_the_engine() {
    let mut policy = Policy::built_in();
    policy.attributes.insert("bind_mounts".to_owned());
    for (source, allowed) in [
        ("/srv/data", true),
        ("/var/run/docker.sock", false),
        ("/run", false),
        ("/", false),
        ("/var/lib/docker/volumes/x", false),
        ("/srv/../run/docker.sock", false),
    ] {
        let base = json!({
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "volumes": [format!("{source}:/s")],
        });
        let desired = desire(&[("web", document(&json!({ "base": base })))]).unwrap();
        assert_eq!(check(&desired, &policy).is_empty(), allowed, "{source}");
    }
}

#[test]
fn a_bundle_makes_no_networks() {
    let mut own = document(&json!({}));
    own["networks"]["lan"] = json!({"driver": "bridge"});
    let found = desire(&[("web", own)]).unwrap_err();
    assert!(
        found[0].contains("networks.lan: only external networks are supported"),
        "{found:?}"
    );
}

/// A base that is built, with `more` merged into it.
fn built(build: &Value, more: &Value) -> Value {
    let mut document = document(&json!({"base": more}));
    document["services"]["base"]["build"] = build.clone();
    if more.get("image").is_none() {
        document["services"]["base"]
            .as_object_mut()
            .unwrap()
            .remove("image");
    }
    document
}

fn context() -> String {
    format!("blob:{}", Digest::from_sha256([3; 32]))
}

#[test]
fn a_bundle_builds_from_its_own_contexts_and_from_nothing_else() {
    let other = format!("blob:{}", Digest::from_sha256([2; 32]));
    for (build, more, expected) in [
        (
            json!("/srv"),
            json!({}),
            "build.context: /srv is no build context",
        ),
        (json!("https://r.example/a.git"), json!({}), "is no build context"),
        // The blob of an image.
        (json!(other), json!({}), "is no build context"),
        (json!("blob:sha256:00"), json!({}), "is no build context"),
        (
            json!(context()),
            json!({"image": "decoy:1"}),
            "image: an image that a bundle builds has no name",
        ),
        (
            json!({"context": context(), "tags": ["nginx:latest"]}),
            json!({}),
            "build.tags: not in a bundle",
        ),
        (
            json!({"context": context(), "cache_from": ["nginx"]}),
            json!({}),
            "build.cache_from: not in a bundle",
        ),
    ] {
        let found = desire(&[("web", built(&build, &more))]).unwrap_err();
        assert!(found[0].contains(expected), "{build} {more}: {found:?}");
    }
}

/// Two services that build the same have one image; another argument is another image.
#[test]
fn what_a_bundle_builds_is_named_after_what_it_is_built_from() {
    let hardened = json!({"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]});
    let image = |build: Value| -> String {
        let desired = desire(&[("web", built(&build, &hardened))]).unwrap();
        assert_eq!(check(&desired, &Policy::built_in()), []);
        let (_, _, spec) = desired.containers().next().unwrap();
        let stack = desired.stack(&"web".parse().unwrap()).unwrap();
        assert_eq!(stack.blobs().len(), 1);
        spec.image.concat()
    };
    let plain = image(json!(context()));
    assert!(plain.starts_with("decnet-build:"), "{plain}");
    assert_eq!(
        plain,
        image(json!({"context": context(), "dockerfile": "Dockerfile"}))
    );
    assert_ne!(plain, image(json!({"context": context(), "args": {"A": "1"}})));
}

#[test]
fn a_build_reaches_no_network_unless_the_policy_says_so() {
    let hardened = json!({"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]});
    let found = |network: &str, policy: &Policy| {
        let build = json!({"context": context(), "network": network});
        let desired = desire(&[("web", built(&build, &hardened))]).unwrap();
        check(&desired, policy)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let mut policy = Policy::built_in();
    assert!(found("none", &policy).is_empty());
    assert_eq!(
        found("host", &policy),
        ["stack web: services.base.build.network: the policy does not allow it"]
    );
    policy.attributes.insert("build.network".to_owned());
    assert!(found("default", &policy).is_empty());
    policy.attributes.remove("build");
    assert_eq!(
        found("none", &policy),
        ["stack web: services.base.build: the policy does not allow it"]
    );
}
