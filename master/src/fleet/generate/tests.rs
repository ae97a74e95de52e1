use std::collections::BTreeSet;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::{Generate, generate};
use crate::fleet::build::Built;
use crate::fleet::fixture::{CATALOGUE, Master, host, lan, master, slugs};
use crate::fleet::ini::{Document, IniClass, IniError, status};
use crate::fleet::model::{ArchetypeSlug, Decky, Interval, Minutes};

const SEED: u64 = 11;

fn wanted(deckies: u16) -> Generate {
    Generate {
        deckies: deckies.try_into().unwrap(),
        services: Vec::new(),
        archetype: None,
        randomize_services: false,
        ip_start: None,
        distros: Vec::new(),
        randomize_distros: false,
        mutate_interval: Minutes::default(),
    }
}

fn with_ssh(deckies: u16) -> Generate {
    Generate {
        services: texts(&["ssh"]),
        ..wanted(deckies)
    }
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn document(wanted: &Generate) -> Result<Document, Vec<IniError>> {
    println!("seed: {SEED}");
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    generate(wanted, &CATALOGUE, &Default::default(), &mut rng)
}

fn plan(master: &Master, wanted: &Generate, replace: bool) -> Result<Built, Vec<IniError>> {
    master.build(&document(wanted)?, replace)
}

fn built(master: &mut Master, wanted: &Generate, replace: bool) -> Vec<Decky> {
    let built = plan(master, wanted, replace).unwrap_or_else(|errors| panic!("refused: {errors:?}"));
    master.fleet = built.fleet;
    master.fleet.deckies.values().cloned().collect()
}

fn refusal(master: &Master, wanted: &Generate) -> IniError {
    let mut errors = plan(master, wanted, false).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].line, None, "there is no text: {errors:?}");
    errors.remove(0)
}

fn addresses(deckies: &[Decky]) -> Vec<String> {
    deckies.iter().map(|decky| decky.address.to_string()).collect()
}

#[test]
fn names_count_with_two_digits_and_every_decky_has_the_services_and_the_interval() {
    let mut master = master();
    let five = Generate {
        services: texts(&["ssh", " http"]),
        mutate_interval: Minutes::try_from(45).unwrap(),
        ..wanted(5)
    };
    let deckies = built(&mut master, &five, false);
    let names: Vec<&str> = deckies.iter().map(|decky| decky.name.as_str()).collect();
    assert_eq!(
        names,
        ["decky-01", "decky-02", "decky-03", "decky-04", "decky-05"]
    );
    for decky in &deckies {
        assert_eq!(slugs(&decky.services), ["ssh", "http"]);
        assert_eq!(decky.interval, Interval::Minutes(45.try_into().unwrap()));
        assert_eq!(decky.os_family.as_str(), "linux");
    }
    assert_eq!(master.fleet.mutate_interval.get(), 45);
}

#[test]
fn addresses_follow_each_other_past_network_gateway_host_and_what_is_taken() {
    let mut master = master();
    master.targets[0].addresses = vec!["192.168.50.3".parse().unwrap()];
    master.add("[web]\nip = 192.168.50.5");
    let lowest = built(&mut master, &with_ssh(3), false);
    assert_eq!(
        addresses(&lowest),
        ["192.168.50.2", "192.168.50.4", "192.168.50.6", "192.168.50.5"]
    );

    let mut master = self::master();
    master.targets[0].addresses = vec!["192.168.50.250".parse().unwrap()];
    master.add("[web]\nip = 192.168.50.252");
    let start = |address: &str, count| Generate {
        ip_start: Some(address.parse().unwrap()),
        ..with_ssh(count)
    };
    let last = built(&mut master, &start("192.168.50.249", 3), false);
    assert_eq!(
        addresses(&last)[..3],
        ["192.168.50.249", "192.168.50.251", "192.168.50.253"]
    );
    let mut master = self::master();
    let error = refusal(&master, &start("192.168.50.253", 3));
    assert_eq!((error.class, error.class.status()), (IniClass::Exhausted, 409));
    assert!(
        error
            .message
            .contains("from 192.168.50.253 on in 192.168.50.0/24"),
        "{error}"
    );
    for outside in ["10.0.0.9", "192.168.50.0", "192.168.50.255"] {
        let error = refusal(&master, &start(outside, 1));
        assert_eq!(error.class, IniClass::Address, "{error}");
        assert_eq!(error.key.as_deref(), Some("ip_start"));
    }
    master.detected = Some(lan("10.0.0.0/30", "10.0.0.1"));
    assert_eq!(refusal(&master, &with_ssh(2)).class, IniClass::Exhausted);
}

/// Deckies that keep their names would keep addresses below the start as well.
#[test]
fn a_start_holds_for_a_replaced_fleet_and_without_one_addresses_stay() {
    let mut master = master();
    let first = built(&mut master, &with_ssh(2), false);
    assert_eq!(addresses(&first), ["192.168.50.2", "192.168.50.3"]);
    let start = Generate {
        ip_start: Some("192.168.50.100".parse().unwrap()),
        ..with_ssh(3)
    };
    let moved = built(&mut master, &start, true);
    assert_eq!(
        addresses(&moved),
        ["192.168.50.100", "192.168.50.101", "192.168.50.102"]
    );
    assert_eq!((&moved[0].mac, &moved[0].seed), (&first[0].mac, &first[0].seed));
    let stayed = built(&mut master, &with_ssh(2), true);
    assert_eq!(addresses(&stayed), ["192.168.50.100", "192.168.50.101"]);
}

#[test]
fn a_start_chooses_the_hosts_of_its_lan_and_they_share_the_deckies() {
    let mut master = master();
    master.targets = vec![host(1, "alpha"), host(2, "beta"), host(3, "far")];
    master.targets[2].lan = Some(lan("10.5.0.0/24", "10.5.0.1"));
    let near = Generate {
        ip_start: Some("192.168.50.9".parse().unwrap()),
        ..with_ssh(4)
    };
    let deckies = built(&mut master, &near, false);
    assert_eq!(
        addresses(&deckies),
        ["192.168.50.9", "192.168.50.10", "192.168.50.11", "192.168.50.12"]
    );
    for target in &master.targets[..2] {
        assert_eq!(deckies.iter().filter(|decky| decky.host == target.id).count(), 2);
    }
}

#[test]
fn services_go_before_the_archetype_and_the_archetype_before_chance() {
    let all = Generate {
        services: texts(&["ftp"]),
        archetype: Some("printer".to_owned()),
        randomize_services: true,
        ..wanted(2)
    };
    for decky in built(&mut master(), &all, false) {
        assert_eq!(slugs(&decky.services), ["ftp"]);
        assert_eq!(
            decky.archetype.as_ref().map(ArchetypeSlug::as_str),
            Some("printer")
        );
        assert_eq!(decky.os_family.as_str(), "embedded");
    }
    let archetype = Generate {
        services: Vec::new(),
        ..all.clone()
    };
    for decky in built(&mut master(), &archetype, false) {
        assert_eq!(slugs(&decky.services), ["snmp", "ftp"]);
    }
    let error = refusal(&master(), &wanted(1));
    assert_eq!((error.class, error.class.status()), (IniClass::Structural, 400));
    assert!(
        error
            .message
            .contains("services, archetype or randomize_services")
    );
}

#[test]
fn drawn_services_can_run_and_hardly_ever_repeat() {
    let random = |count| Generate {
        randomize_services: true,
        ..wanted(count)
    };
    let document = document(&random(100)).unwrap();
    let combinations: Vec<Vec<&str>> = document
        .deckies
        .iter()
        .map(|spec| slugs(&spec.services.as_ref().unwrap().value))
        .collect();
    for slugs in &combinations {
        assert!((1..=3).contains(&slugs.len()), "{slugs:?}");
    }
    for spec in &document.deckies {
        let list = &spec.services.as_ref().unwrap().value;
        assert!(list.iter().all(|slug| CATALOGUE.is_deployable(slug)), "{list:?}");
    }
    // A third of the draws are of one service, of which there are about thirty: plain draws repeat in every fleet.
    let distinct: BTreeSet<&Vec<&str>> = combinations.iter().collect();
    assert_eq!(distinct.len(), combinations.len());
}

#[test]
fn distros_are_the_listed_in_turns_else_drawn_else_the_archetypes_else_all() {
    let distros = |wanted: &Generate| -> Vec<String> {
        let mut master = master();
        let deckies = built(&mut master, wanted, false);
        deckies.iter().map(|decky| decky.distro.to_string()).collect()
    };
    let listed = Generate {
        distros: texts(&["kali", "arch"]),
        randomize_distros: true,
        archetype: Some("printer".to_owned()),
        ..wanted(3)
    };
    assert_eq!(distros(&listed), ["kali", "arch", "kali"]);
    let archetype = Generate {
        archetype: Some("printer".to_owned()),
        ..wanted(3)
    };
    assert_eq!(distros(&archetype), ["alpine", "debian", "alpine"]);
    assert_eq!(distros(&with_ssh(3)), ["debian", "ubuntu22", "ubuntu20"]);
    let drawn = distros(&Generate {
        randomize_distros: true,
        ..archetype
    });
    assert_ne!(drawn, ["alpine", "debian", "alpine"], "drawn of all distros");
    let mut ten = master();
    let drawn = built(
        &mut ten,
        &Generate {
            randomize_distros: true,
            ..with_ssh(10)
        },
        false,
    );
    let kinds: BTreeSet<&str> = drawn.iter().map(|decky| decky.distro.as_str()).collect();
    assert!(kinds.len() > 3, "{kinds:?}");
}

#[test]
fn a_replaced_decky_gets_the_distro_that_is_asked_for() {
    let mut master = master();
    built(&mut master, &with_ssh(1), false);
    let other = Generate {
        distros: texts(&["arch"]),
        ..with_ssh(1)
    };
    assert_eq!(built(&mut master, &other, true)[0].distro.as_str(), "arch");
}

#[test]
fn what_the_catalogue_does_not_have_is_refused_all_at_once() {
    let wrong = Generate {
        services: texts(&["ssh", "nonsense", "ssh", ""]),
        archetype: Some("toaster".to_owned()),
        distros: texts(&["debian", "templeos"]),
        ..wanted(1)
    };
    let errors = document(&wrong).unwrap_err();
    let classes: Vec<IniClass> = errors.iter().map(|error| error.class).collect();
    assert_eq!(
        classes,
        [
            IniClass::Archetype,
            IniClass::Service,
            IniClass::Service,
            IniClass::Service,
            IniClass::Distro
        ]
    );
    assert_eq!(status(&errors), 409);
    assert!(
        errors[4]
            .to_string()
            .starts_with("[generate] distros: `templeos`")
    );
    assert!(errors.iter().all(|error| error.line.is_none()));
}

#[test]
fn generated_names_that_are_deployed_are_a_collision_and_numbering_does_not_go_on() {
    let mut master = master();
    built(&mut master, &with_ssh(2), false);
    let error = refusal(&master, &with_ssh(3));
    assert_eq!((error.class, error.class.status()), (IniClass::Collision, 409));
    assert!(
        error.message.contains("decky-01 is already deployed") && error.message.contains("replace"),
        "{error}"
    );
    assert_eq!(built(&mut master, &with_ssh(3), true).len(), 3);
    assert_eq!(refusal(&self::master(), &with_ssh(11)).class, IniClass::Limit);
}

#[test]
fn the_fleets_interval_changes_with_a_whole_fleet_only() {
    let mut master = master();
    master.add("[web]");
    let hourly = Generate {
        mutate_interval: Minutes::try_from(60).unwrap(),
        ..with_ssh(1)
    };
    built(&mut master, &hourly, false);
    assert_eq!(master.fleet.mutate_interval.get(), 30);
    assert_eq!(master.decky("web").interval, Interval::Inherit);
    built(&mut master, &hourly, true);
    assert_eq!(master.fleet.mutate_interval.get(), 60);
}

#[test]
fn an_unknown_lan_is_a_refusal_that_speaks_of_no_section_of_a_text() {
    let mut master = master();
    master.detected = None;
    let errors = plan(&master, &with_ssh(1), false).unwrap_err();
    assert!(
        errors.iter().all(|error| error.class == IniClass::Network
            && error.message.contains("describe the fleet in an INI")),
        "{errors:?}"
    );
}
