//! Each rule lets its own through, and forbids everything else by exactly its name.

use std::collections::BTreeSet;

use decnet_wire::bundle::{Blob, BlobKind, Network};
use decnet_wire::ids::{Digest, HostId};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Policy, Rule, check};
use crate::desired::Desired;

fn digest(n: u8) -> Digest {
    Digest::from_sha256([n; 32])
}

fn network(more: &Value) -> Network {
    let mut network = json!({
        "name": "lan", "driver": "macvlan", "parent": "eth0", "subnet": "192.0.2.0/24", "subnet6": "2001:db8::/64",
    });
    merge(&mut network, more);
    serde_json::from_value(network).unwrap()
}

fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().unwrap() {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            into[key] = value.clone();
        }
    }
}

/// What a bundle of one decky asks for: the base with `more`, on a network with `lan`.
fn desire(more: &Value, lan: &Value) -> Desired {
    let mut base = json!({
        "image": "decoy:1",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "networks": {"lan": {"ipv4_address": "192.0.2.70", "ipv6_address": "2001:db8::70"}},
        "mem_limit": "64m",
        "pids_limit": 64,
        "cpus": 0.5,
    });
    merge(&mut base, more);
    let document = json!({
        "networks": {"lan": {"external": true, "name": "lan"}},
        "services": {"base": base},
    });
    let blobs = [
        Blob {
            digest: digest(1),
            size: 1,
            kind: BlobKind::ImageArchive {
                reference: "decoy:1".to_owned(),
                image_ids: vec![digest(2), digest(3)],
            },
        },
        Blob {
            digest: digest(4),
            size: 1,
            kind: BlobKind::BuildContext {},
        },
    ];
    let stacks = [("web".parse().unwrap(), document)];
    let stacks = stacks.iter().map(|(name, document)| (name, document));
    Desired::new(HostId::new(Uuid::from_u128(1)), &[network(lan)], &blobs, stacks).unwrap()
}

fn policy(rules: &Value) -> Policy {
    Policy::signed(serde_json::from_value(rules.clone()).unwrap())
}

fn broken(rules: &Value, desired: &Desired) -> Vec<(Rule, String)> {
    check(desired, &policy(rules))
        .into_iter()
        .map(|violation| (violation.rule, violation.to_string()))
        .collect()
}

/// The rule, what a bundle asks of the base and of its network, rules that allow it, and rules that do not.
type Case = (Rule, Value, Value, Value, Value);

fn cases() -> Vec<Case> {
    let plain = || (json!({}), json!({}));
    let case = |rule, (more, lan): (Value, Value), good: Value, bad: Value| (rule, more, lan, good, bad);
    let pulled = || (json!({"image": format!("nginx@{}", digest(9))}), json!({}));
    let base = |more: Value| (more, json!({}));
    let build = || {
        base(json!({"image": null, "build": {"context": format!("blob:{}", digest(4)), "network": "none"}}))
    };
    let bridge = || {
        let lan = json!({"driver": "bridge", "parent": null, "subnet6": null});
        (json!({"networks": {"lan": {"ipv4_address": "192.0.2.70"}}}), lan)
    };
    let any_address = || (json!({"networks": {"lan": {}}}), json!({"subnet6": null}));
    vec![
        case(
            Rule::ImageDigests,
            plain(),
            json!({"images": {"digests": [digest(2), digest(3)]}}),
            // The engine may have it under the other id.
            json!({"images": {"digests": [digest(2)]}}),
        ),
        case(
            Rule::ImageDigests,
            pulled(),
            json!({"images": {"digests": [digest(9)]}}),
            json!({"images": {"digests": [digest(8)], "repositories": ["other"]}}),
        ),
        case(
            Rule::ImageRepositories,
            pulled(),
            json!({"images": {"repositories": ["docker.io/library/nginx"]}}),
            json!({"images": {"repositories": ["registry.example/nginx", "docker.io/nginx/nginx"]}}),
        ),
        case(
            Rule::ImageBuilds,
            build(),
            json!({"images": {"builds": true, "digests": []}}),
            json!({"images": {"digests": []}}),
        ),
        case(
            Rule::ImageBuilds,
            build(),
            json!({}),
            json!({"images": {"builds": false}}),
        ),
        case(
            Rule::ImageArchives,
            plain(),
            json!({}),
            json!({"images": {"archives": false}}),
        ),
        case(
            Rule::Capabilities,
            base(json!({"cap_add": ["CAP_NET_ADMIN"]})),
            json!({"capabilities": ["NET_ADMIN"]}),
            json!({"capabilities": ["NET_RAW"]}),
        ),
        case(
            Rule::Capabilities,
            base(json!({"cap_add": ["ALL"]})),
            Value::Null,
            json!({"capabilities": ["NET_ADMIN", "SYS_ADMIN"]}),
        ),
        case(
            Rule::Sysctls,
            base(json!({"sysctls": {"kernel.msgmax": 1}})),
            json!({"sysctls": ["kernel.msgmax"]}),
            json!({}),
        ),
        case(
            Rule::Sysctls,
            base(json!({"sysctls": {"net.ipv4.ip_default_ttl": 64}})),
            json!({"sysctls": ["net.*"]}),
            json!({"sysctls": ["net.ipv6.*"]}),
        ),
        case(
            Rule::Mounts,
            base(json!({"volumes": ["/srv/data:/data:ro"]})),
            json!({"mounts": [{"path": "/srv/data"}]}),
            json!({"mounts": [{"path": "/srv"}, {"path": "/srv2", "write": true}]}),
        ),
        case(
            Rule::Mounts,
            base(json!({"volumes": ["/srv/data:/data"]})),
            json!({"mounts": [{"path": "/srv/data", "write": true}]}),
            json!({"mounts": [{"path": "/srv/data"}]}),
        ),
        case(
            Rule::Mounts,
            // A link that a container with /srv/data has put there leads wherever it likes.
            base(json!({"volumes": ["/srv/data/link:/data"]})),
            Value::Null,
            json!({"mounts": [{"path": "/srv/data", "write": true}]}),
        ),
        case(
            Rule::Mounts,
            base(json!({"volumes": [
                {"type": "bind", "source": "/srv/data", "target": "/data", "bind": {"propagation": "shared"}}
            ]})),
            Value::Null,
            json!({"mounts": [{"path": "/srv/data", "write": true}]}),
        ),
        case(
            Rule::Mounts,
            base(json!({"volumes": ["/srv/data:/data:z"]})),
            Value::Null,
            json!({"mounts": [{"path": "/srv/data", "write": true}]}),
        ),
        case(
            Rule::Devices,
            base(json!({"devices": ["/dev/net/tun:/dev/net/tun:rw"]})),
            json!({"devices": [{"path": "/dev/net/tun", "permissions": "rwm"}]}),
            json!({"devices": [{"path": "/dev/net/tun", "permissions": "r"}]}),
        ),
        case(
            Rule::SecurityOptions,
            base(json!({"security_opt": ["no-new-privileges", "apparmor=decoys"]})),
            json!({"security_options": ["apparmor=decoys"]}),
            json!({"security_options": ["apparmor=other"]}),
        ),
        case(
            Rule::SecurityOptions,
            base(json!({"security_opt": ["no-new-privileges", "systempaths=unconfined"]})),
            json!({"security_options": ["systempaths=unconfined"]}),
            json!({}),
        ),
        case(
            Rule::NetworkDrivers,
            plain(),
            json!({"networks": {"drivers": ["macvlan"]}}),
            json!({"networks": {"drivers": ["bridge", "ipvlan"]}}),
        ),
        case(
            Rule::NetworkParents,
            plain(),
            json!({"networks": {"parents": ["eth0"]}}),
            json!({"networks": {"parents": ["eth0.30", "eth"]}}),
        ),
        case(
            Rule::NetworkRanges,
            plain(),
            json!({"networks": {"ranges": ["192.0.2.64/26", "2001:db8::/64"]}}),
            // Nothing of IPv6.
            json!({"networks": {"ranges": ["192.0.2.64/26"]}}),
        ),
        case(
            Rule::NetworkRanges,
            plain(),
            json!({"networks": {"ranges": ["0.0.0.0/0", "::/0"]}}),
            json!({"networks": {"ranges": ["192.0.2.0/26", "2001:db8::/64"]}}),
        ),
        case(
            Rule::NetworkRanges,
            any_address(),
            json!({"networks": {"ranges": ["192.0.2.0/24"]}}),
            json!({"networks": {"ranges": ["192.0.2.64/26"]}}),
        ),
        case(
            Rule::NetworkRanges,
            bridge(),
            json!({"networks": {"ranges": ["192.0.2.0/24"]}}),
            json!({"networks": {"ranges": ["192.0.2.64/26"]}}),
        ),
        case(
            Rule::NetworkRanges,
            (json!({}), json!({"host_address": "192.0.2.1"})),
            json!({"networks": {"ranges": ["192.0.2.0/24", "::/0"]}}),
            json!({"networks": {"ranges": ["192.0.2.64/26", "::/0"]}}),
        ),
        case(
            Rule::Memory,
            plain(),
            json!({"resources": {"memory": 67_108_864}}),
            json!({"resources": {"memory": 67_108_863}}),
        ),
        case(
            Rule::Memory,
            base(json!({"mem_limit": null})),
            json!({}),
            json!({"resources": {"memory": 1_u64 << 40}}),
        ),
        case(
            Rule::Memory,
            base(json!({"memswap_limit": "1g"})),
            json!({"resources": {"memory": 1 << 29}}),
            json!({"resources": {"memory": 1 << 28}}),
        ),
        case(
            Rule::Cpus,
            plain(),
            json!({"resources": {"nano_cpus": 500_000_000}}),
            json!({"resources": {"nano_cpus": 499_999_999}}),
        ),
        case(
            Rule::Cpus,
            base(json!({"cpus": null, "cpu_quota": 200_000})),
            json!({"resources": {"nano_cpus": 2_000_000_000}}),
            json!({"resources": {"nano_cpus": 1_900_000_000}}),
        ),
        case(
            Rule::Cpus,
            base(json!({"cpus": null})),
            json!({}),
            json!({"resources": {"nano_cpus": 64_000_000_000_u64}}),
        ),
        case(
            Rule::Pids,
            plain(),
            json!({"resources": {"pids": 64}}),
            json!({"resources": {"pids": 63}}),
        ),
        case(
            Rule::Pids,
            base(json!({"pids_limit": -1})),
            json!({}),
            json!({"resources": {"pids": 1_000_000}}),
        ),
        case(
            Rule::Containers,
            plain(),
            json!({"resources": {"containers": 1}}),
            json!({"resources": {"containers": 0}}),
        ),
        case(
            Rule::Deckies,
            plain(),
            json!({"resources": {"deckies": 1}}),
            json!({"resources": {"deckies": 0}}),
        ),
        case(
            Rule::Egress,
            base(json!({"x-decnet": {"egress": ["udp/192.0.2.1:53"]}})),
            json!({"egress": ["udp/192.0.2.0/24:50-60"]}),
            json!({"egress": ["tcp/192.0.2.0/24:50-60", "udp/192.0.2.1:54", "icmp/192.0.2.1"]}),
        ),
    ]
}

#[test]
fn each_rule_allows_its_own_and_forbids_the_rest_by_its_name() {
    let mut seen = BTreeSet::new();
    for (rule, more, lan, good, bad) in cases() {
        let desired = desire(&more, &lan);
        if !good.is_null() {
            assert_eq!(broken(&good, &desired), [], "{more} {lan} by {good}");
        }
        let found = broken(&bad, &desired);
        assert!(!found.is_empty(), "{more} {lan} by {bad}");
        for (by, text) in found {
            assert_eq!(by, rule, "{text}");
            assert!(text.ends_with(&format!("(rule {})", rule.as_str())), "{text}");
        }
        seen.insert(rule);
    }
    // Of all but those two, which are no keys.
    assert_eq!(seen.len(), 18, "{seen:?}");
}

#[test]
fn some_things_no_policy_allows() {
    let all = json!({
        "capabilities": ["SYS_ADMIN"], "sysctls": ["kernel.*", "net.*"], "security_options": ["seccomp=unconfined"],
        "mounts": [{"path": "/run/docker.sock", "write": true}, {"path": "/var", "write": true}, {"path": "/dev", "write": true}],
        "devices": [{"path": "/dev/sda", "permissions": "rwm"}], "egress": ["tcp/0.0.0.0/0:1-65535"],
    });
    for (more, expected) in [
        (json!({"privileged": true}), Rule::Always),
        (json!({"volumes": ["/run/docker.sock:/s"]}), Rule::Always),
        (json!({"volumes": ["/var:/s:ro"]}), Rule::Always),
        (json!({"pid": "host"}), Rule::BuiltIn),
        (json!({"ipc": "host"}), Rule::BuiltIn),
        (json!({"uts": "host"}), Rule::BuiltIn),
        (json!({"userns_mode": "host"}), Rule::BuiltIn),
        (json!({"cgroup": "host"}), Rule::BuiltIn),
        (json!({"network_mode": "host", "networks": null}), Rule::BuiltIn),
        (
            json!({"security_opt": ["no-new-privileges:false"]}),
            Rule::SecurityOptions,
        ),
        (json!({"cap_drop": []}), Rule::BuiltIn),
        (json!({"ports": ["80:80"]}), Rule::BuiltIn),
        (json!({"device_cgroup_rules": ["a *:* rwm"]}), Rule::BuiltIn),
    ] {
        let found = broken(&all, &desire(&more, &json!({})));
        assert!(
            found.iter().any(|(rule, _)| *rule == expected),
            "{more}: {found:?}"
        );
    }
}

#[test]
fn an_empty_policy_is_the_built_in_one_without_calls_outwards() {
    let desired = desire(&json!({}), &json!({}));
    assert_eq!(broken(&json!({}), &desired), []);
    let calls = desire(&json!({"x-decnet": {"egress": ["udp/192.0.2.1:53"]}}), &json!({}));
    assert_eq!(check(&calls, &Policy::built_in()), []);
    assert_eq!(broken(&json!({}), &calls).len(), 1);
}

proptest! {
    /// What breaks several policies' rules breaks each of them, and what a policy allows it allows beside anything
    /// else that it allows.
    #[test]
    fn rules_do_not_hide_each_other(first in any::<proptest::sample::Index>(), second in any::<proptest::sample::Index>()) {
        let all = cases();
        let (first, second) = (first.get(&all), second.get(&all));
        let mut more = first.1.clone();
        more.as_object_mut().unwrap().extend(second.1.as_object().unwrap().clone());
        // Two that ask for the same thing in two ways are no pair.
        let shared = first.1.as_object().unwrap().keys().any(|key| second.1.get(key).is_some());
        let lans = !first.2.as_object().unwrap().is_empty() || !second.2.as_object().unwrap().is_empty();
        if shared || lans || first.0 == second.0 {
            return Ok(());
        }
        let desired = desire(&more, &json!({}));
        let both = |a: &Value, b: &Value| {
            let mut rules = a.clone();
            for (key, value) in b.as_object().unwrap() {
                match rules.get_mut(key) {
                    Some(Value::Object(known)) => known.extend(value.as_object().unwrap().clone()),
                    _ => rules[key] = value.clone(),
                }
            }
            rules
        };
        let rules: BTreeSet<Rule> = broken(&both(&first.4, &second.4), &desired).into_iter().map(|(rule, _)| rule).collect();
        let overlap = first.4.as_object().unwrap().keys().any(|key| second.4.get(key).is_some());
        if !overlap {
            prop_assert!(rules.contains(&first.0) && rules.contains(&second.0), "{:?}: {} {}", rules, first.4, second.4);
        }
        if !first.3.is_null() && !second.3.is_null() && !overlap {
            let good = both(&first.3, &second.3);
            // Lists of images forbid what is built unless they say so.
            if policy(&good).rules.as_ref().is_some_and(|rules| rules.images == decnet_wire::policy::Images::default()) {
                prop_assert_eq!(broken(&good, &desired), []);
            }
        }
    }
}
