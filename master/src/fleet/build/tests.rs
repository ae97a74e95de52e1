use decnet_wire::ids::DeckyName;

use super::*;
use crate::fleet::fixture::{CATALOGUE, Master, host, id, lan, master, slugs};
use crate::fleet::ini::{self, status};
use crate::fleet::model::{DeploymentLimit, Interval};

/// Which host a decky is on, and what a later deploy leaves alone.
mod hosts;

fn refusal(master: &Master, text: &str, replace: bool) -> BuildError {
    let mut errors = master.plan(text, replace).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.remove(0)
}

fn kinds(built: &Built) -> Vec<(&str, ChangeKind)> {
    built
        .changes
        .iter()
        .map(|change| (change.decky.as_str(), change.kind))
        .collect()
}

fn roomy() -> Master {
    let mut master = master();
    master.fleet.deployment_limit = DeploymentLimit::try_from(500).unwrap();
    master
}

#[test]
fn explicit_and_automatic_addresses_and_distros_in_turn() {
    let mut master = master();
    master.targets[0].addresses = vec!["10.20.30.2".parse().unwrap()];
    master.add(
        "; lab segment\n[general]\nnet = 10.20.30.7/24\ngw = 10.20.30.1\ninterface = eth1\n\n\
         [front]\nip: 10.20.30.3\nservices = ssh, http\n\n[back]\nservices = postgres\n[third]\n",
    );
    // .1 is the gateway, .2 the host, .3 another section's.
    assert_eq!(master.decky("front").address.to_string(), "10.20.30.3");
    assert_eq!(master.decky("back").address.to_string(), "10.20.30.4");
    let distros = ["front", "back", "third"].map(|name| master.decky(name).distro.as_str().to_owned());
    assert_eq!(distros, ["debian", "ubuntu22", "ubuntu20"]);
    let lan = master.fleet.lan.as_ref().unwrap();
    assert_eq!(
        (lan.subnet.to_string(), lan.interface.as_ref().unwrap().as_str()),
        ("10.20.30.0/24".to_owned(), "eth1")
    );
}

#[test]
fn an_archetype_gives_services_distro_and_family_to_every_member_of_an_amount() {
    let mut master = master();
    master.add("[cam]\narchetype = iot-device\namount = 3\n[cam.telnet]\npassword = camera1\n[cam-02.telnet]\npassword = other\nuser = svc");
    for name in ["cam-01", "cam-02", "cam-03"] {
        let decky = master.decky(name);
        assert_eq!(slugs(&decky.services), ["mqtt", "snmp", "telnet"]);
        assert_eq!(
            (decky.distro.as_str(), decky.os_family.as_str()),
            ("alpine", "embedded")
        );
    }
    let persona = |name| &master.decky(name).service_config[&"telnet".parse().unwrap()].0;
    assert_eq!((persona("cam-01").len(), persona("cam-02").len()), (1, 2));
}

#[test]
fn services_and_family_of_the_section_go_before_the_archetypes() {
    let mut master = master();
    master.add("[print1]\narchetype = printer\nnmap-os = windows\n[print2]\narchetype = printer\nservices = ftp\nmutate_interval = 120");
    let (one, two) = (master.decky("print1"), master.decky("print2"));
    assert_eq!(
        (slugs(&one.services), one.os_family.as_str(), one.distro.as_str()),
        (vec!["snmp", "ftp"], "windows", "alpine")
    );
    assert_eq!(
        (slugs(&two.services), two.os_family.as_str(), two.distro.as_str()),
        (vec!["ftp"], "embedded", "debian")
    );
    assert_eq!(
        (one.interval, two.interval),
        (Interval::Inherit, Interval::Minutes(120.try_into().unwrap()))
    );
}

#[test]
fn inherited_intervals_reach_the_deckies() {
    let mut master = master();
    master.add("[DEFAULT]\nmutate-interval = 60\n[a]\nservices = ssh,\n    ftp\n[b]\nmutate-interval = 15\nservices = redis\n[b.redis]\nversion = 7.2.4");
    assert_eq!(
        master.decky("a").interval,
        Interval::Minutes(60.try_into().unwrap())
    );
    assert_eq!(
        master.decky("b").interval,
        Interval::Minutes(15.try_into().unwrap())
    );
    assert_eq!(slugs(&master.decky("a").services), ["ssh", "ftp"]);
}

/// Custom services worked from the command line only and were gone after a restart.
#[test]
fn custom_services_are_kept_with_the_fleet_and_an_unpinned_image_is_a_refusal_of_its_own() {
    let mut master = master();
    let text = "[custom-relay]\nbinary = registry.example.test/relay:2\nexec = /srv/relay --port 9100\nports = 9100, 9101\n\
                [gw1]\nservices = relay, ssh\n[any]\namount = 2\n";
    master.add(text);
    assert_eq!(slugs(&master.decky("gw1").services), ["relay", "ssh"]);
    for name in ["any-01", "any-02"] {
        let decky = master.decky(name);
        assert!((1..=3).contains(&decky.services.len()));
        assert!(decky.services.iter().all(|slug| CATALOGUE.is_deployable(slug)));
    }
    let refused = unpinned_images(&master.fleet);
    assert_eq!(
        (refused.len(), refused[0].class, status(&refused)),
        (1, IniClass::Service, 409)
    );
    assert!(
        refused[0]
            .to_string()
            .contains("pin the image as repository@sha256:"),
        "{}",
        refused[0]
    );

    master.add("[gw2]\nservices = relay");
    let other = "[custom-relay]\nbinary = other\n[gw3]\nservices = relay";
    assert_eq!(refusal(&master, other, false).class, IniClass::Collision);
    // A text that is the whole fleet has to bring its own.
    assert_eq!(
        refusal(&master, "[gw2]\nservices = relay", true).class,
        IniClass::Service
    );

    let pinned = text.replace(":2", &format!("@sha256:{}", "a".repeat(64)));
    let fleet = master.plan(&pinned, true).unwrap().fleet;
    assert_eq!(unpinned_images(&fleet), []);
}

#[test]
fn an_empty_text_is_422_before_the_first_deploy() {
    for text in [
        "[general]\nnet=10.0.0.0/24",
        "[a.ssh]\npassword=x",
        "[custom-x]\nbinary=x",
    ] {
        let error = refusal(&master(), text, false);
        assert_eq!(
            (error.class, error.class.status()),
            (IniClass::EmptyFleet, 422),
            "{text}"
        );
    }
}

/// Replacing by a text without deckies stored a fleet that could never be loaded again; adding one without deckies
/// deployed everything anew.
#[test]
fn an_empty_text_is_409_while_deckies_run() {
    let mut master = master();
    master.add("[a]");
    for replace in [false, true] {
        let error = refusal(&master, "[general]\ngw=192.168.50.1", replace);
        assert_eq!(
            (error.class, error.class.status()),
            (IniClass::NothingToDeploy, 409)
        );
    }
}

#[test]
fn no_free_address_is_a_refusal() {
    let error = refusal(
        &master(),
        "[general]\nnet=10.0.0.0/30\ngw=10.0.0.1\n[a]\namount=3\nservices=ssh",
        false,
    );
    assert_eq!(
        (error.class, error.class.status(), error.line),
        (IniClass::Exhausted, 409, Some(4))
    );
    assert!(error.message.contains("10.0.0.0/30"), "{error}");
}

/// An explicit address outside the subnet, or the gateway's, the network's or the host's, was accepted.
#[test]
fn an_explicit_address_must_be_one_that_a_decky_can_have() {
    let mut master = master();
    master.targets[0].addresses = vec!["10.0.0.5".parse().unwrap()];
    for bad in ["10.0.1.9", "10.0.0.0", "10.0.0.255", "10.0.0.1", "10.0.0.5"] {
        let error = refusal(
            &master,
            &format!("[general]\nnet=10.0.0.0/24\ngw=10.0.0.1\n[a]\nip={bad}"),
            false,
        );
        assert_eq!(
            (error.class, error.class.status(), error.line),
            (IniClass::Address, 409, Some(5)),
            "{bad}"
        );
        assert_eq!(error.key.as_deref(), Some("ip"));
    }
}

#[test]
fn a_name_or_address_that_is_deployed_cannot_be_added_again() {
    let mut master = master();
    master.add("[a]\nip=192.168.50.9");
    assert_eq!(
        refusal(&master, "[a]\nservices=ssh", false).class,
        IniClass::Collision
    );
    let error = refusal(&master, "[b]\nip=192.168.50.9", false);
    assert_eq!((error.class, error.class.status()), (IniClass::Collision, 409));
    assert!(error.message.contains("decky a"), "{error}");
}

#[test]
fn the_deployment_limit_counts_the_whole_fleet() {
    let mut master = master();
    master.add("[a]\namount=8");
    let error = refusal(&master, "[b]\namount=3", false);
    assert_eq!((error.class, error.class.status()), (IniClass::Limit, 409));
    assert!(
        error.message.contains("11 deckies and its limit is 10"),
        "{error}"
    );
    assert!(master.plan("[b]\namount=10", true).is_ok());
}

#[test]
fn a_network_that_is_neither_said_nor_detected_is_a_refusal() {
    let mut master = master();
    master.detected = None;
    assert_eq!(refusal(&master, "[a]", false).key.as_deref(), Some("net"));
    let errors = master.plan("[general]\nnet=10.0.0.0/24\n[a]", false).unwrap_err();
    assert!(
        errors
            .iter()
            .all(|error| error.class == IniClass::Network && error.class.status() == 409)
    );
    assert_eq!(
        refusal(&master, "[general]\nnet=10.0.0.0/24\ngw=10.0.0.1\n[a]", false)
            .key
            .as_deref(),
        Some("interface")
    );
    assert!(
        master
            .plan(
                "[general]\nnet=10.0.0.0/24\ngw=10.0.0.1\ninterface=eth9\n[a]",
                false
            )
            .is_ok()
    );
    // The detected gateway is of no use on another subnet.
    master.detected = Some(lan("192.168.50.0/24", "192.168.50.1"));
    assert_eq!(
        refusal(&master, "[general]\nnet=10.0.0.0/24\n[a]", false)
            .key
            .as_deref(),
        Some("gw")
    );
    assert_eq!(
        refusal(&master, "[general]\ngw=10.0.0.1\n[a]", false).class,
        IniClass::Address
    );
}

/// A later `net` gave out addresses of a network that the running deckies were not on; `interface` was ignored.
#[test]
fn the_network_does_not_change_under_running_deckies() {
    let mut master = master();
    master.add("[a]");
    for (line, old) in [
        ("net=10.0.0.0/24", "192.168.50.0/24"),
        ("gw=192.168.50.2", "192.168.50.1"),
        ("interface=eth1", "eth0"),
    ] {
        let error = refusal(&master, &format!("[general]\n{line}\n[b]"), false);
        assert_eq!(
            (error.class, error.class.status(), error.line),
            (IniClass::Network, 409, Some(2))
        );
        let new = line.split_once('=').unwrap().1;
        assert!(
            error.message.contains(old) && error.message.contains(new),
            "{error}"
        );
    }
    assert!(
        master
            .plan(
                "[general]\nnet=192.168.50.0/24\ngw=192.168.50.1\ninterface=eth0\n[b]",
                false
            )
            .is_ok()
    );
    master.replace("[general]\nnet=10.0.0.0/24\ngw=10.0.0.1\ninterface=eth1\n[a]");
    assert_eq!(master.decky("a").address.to_string(), "10.0.0.2");
}

#[test]
fn no_host_is_a_refusal() {
    let mut master = master();
    master.targets.clear();
    assert_eq!(refusal(&master, "[a]", false).class, IniClass::Host);
}

#[test]
fn settings_for_a_service_that_the_decky_does_not_run_are_left_out_with_a_warning() {
    let built = master()
        .plan("[a]\nservices=ssh\n[a.http]\nfake_app=none", false)
        .unwrap();
    assert_eq!(built.warnings.len(), 1);
    assert_eq!(
        built.warnings[0].to_string(),
        "line 3: [a.http] left out: decky a does not run http"
    );
    assert!(
        built.fleet.deckies[&"a".parse::<DeckyName>().unwrap()]
            .service_config
            .is_empty()
    );
}

#[test]
fn a_big_fleet_has_no_two_alike() {
    let mut master = roomy();
    let text: String = (0..5).map(|n| format!("[a{n}]\namount=100\n")).collect();
    master.add(&format!(
        "[general]\nnet=10.0.0.0/16\ngw=10.0.0.1\ninterface=eth0\n{text}"
    ));
    let distinct = |show: fn(&Decky) -> String| {
        master
            .fleet
            .deckies
            .values()
            .map(show)
            .collect::<BTreeSet<String>>()
            .len()
    };
    assert_eq!(distinct(|decky| decky.address.to_string()), 500);
    assert_eq!(distinct(|decky| decky.hostname.as_str().to_lowercase()), 500);
    assert_eq!(distinct(|decky| decky.mac.to_string()), 500);
    assert_eq!(distinct(|decky| decky.seed.hex()), 500);
}

#[test]
fn host_names_have_the_shape_of_their_distro() {
    let mut master = roomy();
    master.add("[a]\namount=90");
    let word = |text: &str| CATALOGUE.words().iter().any(|word| word == text);
    let number = |text: &str| text.len() == 2 && text.parse::<u8>().is_ok_and(|number| number >= 10);
    for decky in master.fleet.deckies.values() {
        let name = decky.hostname.as_str();
        let fits = match decky.distro.as_str() {
            "debian" | "ubuntu22" | "ubuntu20" => name
                .strip_prefix("SRV-")
                .and_then(|rest| rest.split_once('-'))
                .is_some_and(|(w, n)| {
                    word(&w.to_lowercase()) && w.chars().all(char::is_uppercase) && number(n)
                }),
            "rocky9" | "centos7" | "fedora" => name
                .strip_suffix(".localdomain")
                .is_some_and(|rest| word(&rest[..rest.len() - 2]) && number(&rest[rest.len() - 2..])),
            "alpine" => name.split_once('-').is_some_and(|(w, n)| word(w) && number(n)),
            _ => name.split_once('-').is_some_and(|(a, b)| word(a) && word(b)),
        };
        assert!(fits, "{name} on {}", decky.distro);
    }
}

#[test]
fn a_mac_is_of_a_maker_of_such_machines() {
    let mut master = master();
    master.add("[p]\narchetype=printer\namount=5\n[c]\nnmap_os=cisco\namount=3");
    let of = |name: &str, vendors: &[&str]| {
        let [a, b, c, ..] = master.decky(name).mac.bytes();
        vendors
            .iter()
            .any(|slug| CATALOGUE.vendor(slug).unwrap().ouis.contains(&[a, b, c]))
    };
    assert!(of("p-01", &["hp", "brother", "lexmark", "canon", "epson"]));
    assert!(of("p-05", &["hp", "brother", "lexmark", "canon", "epson"]));
    assert!(of("c-02", &["cisco"]));
}

#[test]
fn every_archetype_and_every_os_family_gives_macs_of_its_own_makers() {
    let ouis = |vendors: &[String]| -> BTreeSet<[u8; 3]> {
        let vendors = vendors.iter().map(|slug| CATALOGUE.vendor(slug).unwrap());
        vendors.flat_map(|vendor| vendor.ouis.clone()).collect()
    };
    let check = |key: &str, slug: &str, vendors: &[String]| {
        let mut master = roomy();
        // Without services of its own, since some archetypes have none that can be deployed.
        master.add(&format!("[a]\namount=20\nservices=ssh\n{key}={slug}"));
        let allowed = ouis(vendors);
        let mut seen = BTreeSet::new();
        for decky in master.fleet.deckies.values() {
            let [a, b, c, ..] = decky.mac.bytes();
            assert_eq!(a & 0b11, 0, "{slug}: {} is not a maker's address", decky.mac);
            assert!(allowed.contains(&[a, b, c]), "{slug}: {}", decky.mac);
            seen.insert(decky.mac);
        }
        assert_eq!(seen.len(), 20, "{slug}: a MAC twice");
    };
    for archetype in CATALOGUE.archetypes() {
        assert!(!archetype.vendors.is_empty(), "{}", archetype.slug);
        check("archetype", archetype.slug.as_str(), &archetype.vendors);
    }
    for family in CATALOGUE.os_families() {
        check("nmap_os", family.slug.as_str(), &family.vendors);
    }
}

#[test]
fn a_mac_stays_when_the_archetype_changes() {
    let mut master = master();
    master.add("[a]\narchetype=printer");
    let before = master.decky("a").mac;
    master.replace("[a]\narchetype=linux-server");
    assert_eq!(master.decky("a").mac, before);
}

#[test]
fn one_seed_builds_the_same_fleet_again_and_another_one_differs() {
    let text = "[a]\namount=4\n[b]\narchetype=iot-device\namount=4";
    let mut master = master();
    let first = master.plan(text, false).unwrap();
    assert_eq!(master.plan(text, false).unwrap(), first);
    master.seed += 1;
    assert_ne!(master.plan(text, false).unwrap().fleet, first.fleet);
}
