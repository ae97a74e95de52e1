use decnet_plan::desired::Desired;
use decnet_plan::planner::plan;
use decnet_plan::policy::Policy;
use decnet_wire::ids::HostId;
use decnet_wire::observed::Observed;
use uuid::Uuid;

use super::*;
use crate::fleet::fixture::{CATALOGUE, host, id, lan, master};

const IMAGE: &str = "registry.example.test/decoy@sha256:abc";
const TEXT: &str = "[general]\nnet=10.0.0.0/24\ngw=10.0.0.1\ninterface=eth1\n\
                    [a]\nip=10.0.0.9\nservices=ssh,snmp\nnmap_os=windows\n[a.ssh]\npassword=pa$$word\nuser=x\n[b]\nservices=http";

fn stack(compiled: &Compiled, name: &str) -> Value {
    compiled
        .stacks
        .iter()
        .find(|stack| stack.decky.as_str() == name)
        .unwrap()
        .document
        .clone()
}

#[test]
fn a_decky_becomes_a_base_container_and_one_for_each_service() {
    let mut master = master();
    master.add(TEXT);
    let compiled = compile(&master.fleet, &master.targets[0], &CATALOGUE, IMAGE).unwrap();
    let names: Vec<&str> = compiled.stacks.iter().map(|stack| stack.name.as_str()).collect();
    assert_eq!(names, ["decnet-a", "decnet-b"]);
    let decky = master.decky("a");
    let logging = json!({ "driver": "json-file", "options": { "max-size": "10m", "max-file": "5" } });
    assert_eq!(
        stack(&compiled, "a"),
        json!({
            "networks": { "lan": { "external": true, "name": "decnet-01010101-lan" } },
            "services": {
                "base": {
                    "image": IMAGE, "command": ["pause"], "hostname": decky.hostname, "user": "65534:65534",
                    "networks": { "lan": { "ipv4_address": "10.0.0.9", "mac_address": decky.mac } },
                    "sysctls": {
                        "net.ipv4.ip_default_ttl": "128", "net.ipv4.tcp_syn_retries": "2",
                        "net.ipv4.tcp_timestamps": "1", "net.ipv4.tcp_window_scaling": "1", "net.ipv4.tcp_sack": "1",
                        "net.ipv4.tcp_ecn": "0", "net.ipv4.ip_no_pmtu_disc": "0", "net.ipv4.tcp_fin_timeout": "30",
                        "net.ipv4.icmp_ratelimit": "0", "net.ipv4.icmp_ratemask": "0",
                        "net.ipv4.ip_unprivileged_port_start": "0",
                    },
                    "restart": "unless-stopped", "read_only": true, "cap_drop": ["ALL"],
                    "security_opt": ["no-new-privileges:true"], "mem_limit": "16m", "pids_limit": 16,
                    "stop_grace_period": "2s", "logging": logging,
                },
                "ssh": {
                    "image": IMAGE, "command": ["ssh"], "network_mode": "service:base", "depends_on": ["base"],
                    "expose": ["22/tcp"], "user": "65534:65534",
                    "environment": {
                        "DECNET_NODE": "a", "HOSTNAME": decky.hostname, "DECNET_SEED": decky.seed.hex(),
                        "DECNET_OS_FAMILY": "windows", "DECNET_DISTRO": "debian",
                        "DECNET_PERSONA": "{\"password\":\"pa$$$$word\",\"user\":\"x\"}",
                    },
                    "restart": "unless-stopped", "read_only": true, "cap_drop": ["ALL"],
                    "security_opt": ["no-new-privileges:true"], "mem_limit": "64m", "pids_limit": 64,
                    "stop_grace_period": "2s", "logging": logging,
                },
                "snmp": {
                    "image": IMAGE, "command": ["snmp"], "network_mode": "service:base", "depends_on": ["base"],
                    "expose": ["161/udp"], "user": "65534:65534",
                    "environment": {
                        "DECNET_NODE": "a", "HOSTNAME": decky.hostname, "DECNET_SEED": decky.seed.hex(),
                        "DECNET_OS_FAMILY": "windows", "DECNET_DISTRO": "debian",
                    },
                    "restart": "unless-stopped", "read_only": true, "cap_drop": ["ALL"],
                    "security_opt": ["no-new-privileges:true"], "mem_limit": "64m", "pids_limit": 64,
                    "stop_grace_period": "2s", "logging": logging,
                },
            },
        })
    );
    let network = &compiled.networks[0];
    assert_eq!(
        (network.driver, network.parent.as_ref().unwrap().as_str()),
        (NetworkDriver::Macvlan, "eth1")
    );
    assert_eq!(
        (network.subnet.to_string(), network.gateway),
        ("10.0.0.0/24".to_owned(), "10.0.0.1".parse().ok())
    );
}

#[test]
fn what_a_decky_may_call_reaches_its_base_and_a_change_leaves_the_rest_as_it_was() {
    let mut master = master();
    master.add(TEXT);
    let before = compile(&master.fleet, &master.targets[0], &CATALOGUE, IMAGE).unwrap();
    let text = TEXT.replace(
        "nmap_os=windows",
        "nmap_os=windows\negress=tcp/10.0.0.7:80,icmp/10.0.0.7",
    );
    master.replace(&text);
    let after = compile(&master.fleet, &master.targets[0], &CATALOGUE, IMAGE).unwrap();
    let mut expected = stack(&before, "a");
    expected["services"]["base"]["x-decnet"] = json!({ "egress": ["tcp/10.0.0.7:80", "icmp/10.0.0.7"] });
    assert_eq!(stack(&after, "a"), expected);
    assert_eq!(stack(&after, "b"), stack(&before, "b"));
}

/// A host marked ipvlan got macvlan: the mark never reached the code that made the network.
#[test]
fn a_host_marked_ipvlan_gets_ipvlan_and_no_mac() {
    let mut master = master();
    master.targets[0].ipvlan = true;
    master.targets[0].interface = Some("bond0".parse().unwrap());
    master.add(TEXT);
    let compiled = compile(&master.fleet, &master.targets[0], &CATALOGUE, IMAGE).unwrap();
    assert_eq!(compiled.networks[0].driver, NetworkDriver::Ipvlan);
    assert_eq!(compiled.networks[0].parent.as_ref().unwrap().as_str(), "bond0");
    let attachment = &stack(&compiled, "a")["services"]["base"]["networks"]["lan"];
    assert_eq!(*attachment, json!({ "ipv4_address": "10.0.0.9" }));
}

#[test]
fn a_hosts_mode_and_vlan_reach_its_network_and_a_usual_mode_is_not_said() {
    let mut master = master();
    master.add(TEXT);
    let mut target = master.targets[0].clone();
    target.interface = Some("eth0.30".parse().unwrap());
    for (ipvlan, mode, expected) in [
        (false, None, None),
        (false, Some(NetworkMode::Bridge), None),
        (false, Some(NetworkMode::Private), Some(NetworkMode::Private)),
        (true, Some(NetworkMode::L2), None),
        (true, Some(NetworkMode::L3s), Some(NetworkMode::L3s)),
        // A mode that was kept from the other driver would be refused by every agent.
        (true, Some(NetworkMode::Vepa), None),
    ] {
        (target.ipvlan, target.mode) = (ipvlan, mode);
        let compiled = compile(&master.fleet, &target, &CATALOGUE, IMAGE).unwrap();
        assert_eq!(compiled.networks[0].mode, expected, "{ipvlan} {mode:?}");
        assert_eq!(compiled.networks[0].parent.as_ref().unwrap().as_str(), "eth0.30");
    }
}

/// The agent of a host that already runs one driver, told the other one.
#[test]
fn another_driver_is_a_new_network_and_new_base_containers_with_the_same_addresses() {
    let mut master = master();
    master.add(TEXT);
    let desired = |ipvlan: bool| {
        let target = HostSlot {
            ipvlan,
            ..master.targets[0].clone()
        };
        let compiled = compile(&master.fleet, &target, &CATALOGUE, &pinned()).unwrap();
        let stacks = compiled.stacks.iter().map(|stack| (&stack.name, &stack.document));
        Desired::new(target.id, &compiled.networks, &[], stacks).unwrap()
    };
    let name = network_name(&master.targets[0]);
    let (macvlan, ipvlan) = (desired(false), desired(true));
    let observed: Observed = serde_json::from_value(json!({
        "images": [],
        "networks": [{
            "id": "n1", "name": name,
            "hash": macvlan.networks()[name.as_str()].labels[decnet_plan::labels::HASH],
        }],
        "containers": [],
        "interfaces": [{ "name": "eth1", "up": true, "addresses": [] }],
    }))
    .unwrap();
    let steps = |desired: &Desired| -> Vec<Value> {
        let plan = plan(desired, &observed, &Policy::built_in());
        assert!(plan.blocked.is_empty(), "{:?}", plan.blocked);
        plan.steps
            .iter()
            .map(|planned| serde_json::to_value(&planned.step).unwrap())
            .collect()
    };
    let is = |step: &Value, what: &str| step["do"] == what;
    assert!(!steps(&macvlan).iter().any(|step| is(step, "remove-network")));
    let steps = steps(&ipvlan);
    let at = |what| steps.iter().position(|step| is(step, what)).unwrap();
    assert!(at("remove-network") < at("create-network"));
    assert_eq!(steps[at("remove-network")]["id"], "n1");
    assert_eq!(steps[at("create-network")]["network"]["driver"], "ipvlan");
    for name in ["a", "b"] {
        let base = steps
            .iter()
            .find(|step| {
                is(step, "create-container") && step["container"]["name"] == format!("decnet-{name}-base-1")
            })
            .unwrap()
            .to_string();
        let decky = master.decky(name);
        assert!(base.contains(&decky.address.to_string()), "{base}");
        assert!(!base.contains(&decky.mac.to_string()), "{base}");
    }
}

fn pinned() -> String {
    format!("registry.example.test/decoy@sha256:{}", "a".repeat(64))
}

#[test]
fn a_host_with_its_own_lan_uses_that_and_then_the_fleets_interface() {
    let mut master = master();
    let far = HostSlot {
        lan: Some(lan("10.9.0.0/24", "10.9.0.1")),
        ..host(3, "gamma")
    };
    master.targets = vec![host(1, "alpha"), far.clone()];
    master.add("[a]\namount=2");
    let network = &compile(&master.fleet, &far, &CATALOGUE, IMAGE).unwrap().networks[0];
    assert_eq!(network.subnet.to_string(), "10.9.0.0/24");
    let mut bare = far;
    bare.lan.as_mut().unwrap().interface = None;
    let network = &compile(&master.fleet, &bare, &CATALOGUE, IMAGE).unwrap().networks[0];
    assert_eq!(network.parent.as_ref().unwrap().as_str(), "eth0");
}

#[test]
fn a_host_without_deckies_has_neither_stacks_nor_networks() {
    let mut master = master();
    master.add(TEXT);
    let compiled = compile(&master.fleet, &host(9, "idle"), &CATALOGUE, IMAGE).unwrap();
    assert_eq!(
        compiled,
        Compiled {
            networks: Vec::new(),
            stacks: Vec::new()
        }
    );
}

/// Adding one decky interrupted every decky of the host.
#[test]
fn a_document_depends_on_its_own_decky_alone() {
    let mut master = master();
    master.add("[a]\narchetype=mail-server\n[b]\narchetype=printer");
    let target = master.targets[0].clone();
    let bytes = |master: &crate::fleet::fixture::Master| {
        let compiled = compile(&master.fleet, &target, &CATALOGUE, IMAGE).unwrap();
        serde_json::to_string(&stack(&compiled, "a")).unwrap()
    };
    let before = bytes(&master);
    assert_eq!(bytes(&master), before);
    master.add("[c]\namount=5");
    assert_eq!(bytes(&master), before);
    master.replace("[z]\n[a]\narchetype=mail-server");
    assert_eq!(bytes(&master), before);
}

#[test]
fn a_custom_service_runs_its_own_image_and_never_sees_the_seed() {
    let mut master = master();
    let image = format!("registry.example.test/relay@sha256:{}", "a".repeat(64));
    master.add(&format!(
        "[custom-relay]\nbinary={image}\nexec=/srv/relay --user $USER\nports=9100,53/udp\n[a]\nservices=relay"
    ));
    let compiled = compile(&master.fleet, &master.targets[0], &CATALOGUE, IMAGE).unwrap();
    let relay = &stack(&compiled, "a")["services"]["relay"];
    assert_eq!(relay["image"], json!(image));
    assert_eq!(relay["command"], json!(["/srv/relay", "--user", "$$USER"]));
    assert_eq!(relay["expose"], json!(["9100/tcp", "53/udp"]));
    assert_eq!(relay["cap_drop"], json!(["ALL"]));
    assert!(!relay.to_string().contains(&master.decky("a").seed.hex()));
}

#[test]
fn what_was_taken_away_since_the_build_is_named() {
    let mut master = master();
    master.add(TEXT);
    let target = &master.targets[0];
    let error =
        |fleet: &Fleet, target: &HostSlot| compile(fleet, target, &CATALOGUE, IMAGE).unwrap_err().to_string();
    let mut fleet = master.fleet.clone();
    fleet.lan = None;
    assert!(error(&fleet, target).starts_with("host alpha has deckies but no LAN"));
    let mut fleet = master.fleet.clone();
    fleet.lan.as_mut().unwrap().interface = None;
    assert!(error(&fleet, target).starts_with("host alpha has deckies but no interface"));
    let mut fleet = master.fleet.clone();
    fleet
        .deckies
        .get_mut(&"a".parse().unwrap())
        .unwrap()
        .services
        .push("smb".parse().unwrap());
    assert!(error(&fleet, target).starts_with("service smb of decky a cannot be run"));
}

#[test]
fn debug_shows_no_secret() {
    let mut master = master();
    let built = master.add(TEXT);
    let compiled = compile(&master.fleet, &master.targets[0], &CATALOGUE, IMAGE).unwrap();
    let shown = format!("{built:?} {:?} {compiled:?}", master.fleet);
    assert!(
        !shown.contains("pa$$") && !shown.contains(&master.decky("a").seed.hex()),
        "{shown}"
    );
}

#[test]
fn the_fleet_reads_back_from_json() {
    let mut master = master();
    master.add(TEXT);
    let json = serde_json::to_string(&master.fleet).unwrap();
    assert_eq!(serde_json::from_str::<Fleet>(&json).unwrap(), master.fleet);
    assert_eq!(serde_json::from_str::<Fleet>("{}").unwrap(), Fleet::default());
}

#[test]
fn the_longest_names_fit() {
    let decky: DeckyName = "a".repeat(63).parse().unwrap();
    assert_eq!(stack_name(&decky).as_str().len(), 70);
    let slot = HostSlot {
        id: HostId::new(Uuid::max()),
        ..host(1, "x")
    };
    assert_eq!(network_name(&slot).as_str(), "decnet-ffffffff-lan");
    assert_eq!(
        network_name(&HostSlot { id: id(2), ..slot }).as_str(),
        "decnet-02020202-lan"
    );
}
