use super::*;

#[test]
fn deckies_go_round_the_hosts_by_name() {
    let mut master = master();
    master.targets = vec![host(2, "beta"), host(3, "gamma"), host(1, "alpha")];
    master.add("[a]\namount=4");
    let hosts: Vec<HostId> = master.fleet.deckies.values().map(|decky| decky.host).collect();
    assert_eq!(hosts, [id(1), id(2), id(3), id(1)]);
}

/// Every single addition landed on the first host, because the round began anew each time.
#[test]
fn single_additions_go_to_the_least_loaded_host() {
    let mut master = master();
    master.targets = vec![host(1, "alpha"), host(2, "beta")];
    for name in ["a", "b", "c", "d"] {
        master.add(&format!("[{name}]"));
    }
    assert_eq!(
        ["a", "b", "c", "d"].map(|name| master.decky(name).host),
        [id(1), id(2), id(1), id(2)]
    );
}

/// Two workers on one LAN gave their deckies the same addresses, each counting from the first free one.
#[test]
fn hosts_on_one_lan_share_its_addresses_and_a_host_elsewhere_has_its_own() {
    let mut master = roomy();
    let far = lan("10.9.0.0/24", "10.9.0.1");
    master.targets = vec![
        host(1, "alpha"),
        host(2, "beta"),
        HostSlot {
            lan: Some(far.clone()),
            ..host(3, "gamma")
        },
    ];
    master.add("[a]\namount=9");
    let mut addresses = master.addresses();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 9);
    for decky in master.fleet.deckies.values() {
        assert_eq!(
            far.subnet.contains(&decky.address),
            decky.host == id(3),
            "{decky:?}"
        );
    }
    // An explicit address goes where its LAN is.
    master.add("[b]\nip=10.9.0.77");
    assert_eq!(master.decky("b").host, id(3));
    assert_eq!(
        refusal(&master, "[c]\nip=10.8.0.1", false).class,
        IniClass::Address
    );
}

#[test]
fn a_fleet_whose_hosts_have_their_own_lans_needs_none_itself() {
    let mut master = master();
    master.detected = None;
    master.targets = vec![HostSlot {
        lan: Some(lan("10.9.0.0/24", "10.9.0.1")),
        ..host(3, "gamma")
    }];
    master.add("[a]");
    assert!(master.fleet.lan.is_none());
    assert_eq!(master.decky("a").address.to_string(), "10.9.0.2");
    // Without a gateway the engine takes the first address itself.
    master.targets[0].lan.as_mut().unwrap().gateway = None;
    master.fleet.deckies.clear();
    assert_eq!(
        refusal(&master, "[a]\nip=10.9.0.1", false).class,
        IniClass::Address
    );
}

#[test]
fn a_full_lan_sends_deckies_to_a_host_with_room() {
    let mut master = master();
    let small = HostSlot {
        lan: Some(lan("10.9.0.0/30", "10.9.0.1")),
        ..host(3, "aaa")
    };
    master.targets = vec![small, host(1, "bbb")];
    master.add("[a]\namount=5");
    assert_eq!(master.fleet.deckies_on(id(3)).count(), 1);
    assert_eq!(master.fleet.deckies_on(id(1)).count(), 4);
}

#[test]
fn adding_changes_no_decky_that_is_there() {
    let mut master = master();
    master.add("[a]\narchetype=linux-server\n[b]");
    let before = master.fleet.clone();
    // The local worker is no target any more, but it still exists.
    master.targets = vec![host(2, "beta")];
    master.known = BTreeSet::from([id(1)]);
    let built = master.add("[c]\n[d]");
    for (name, decky) in &before.deckies {
        assert_eq!(&built.fleet.deckies[name], decky);
    }
    assert_eq!(
        kinds(&built),
        [("c", ChangeKind::Deploy), ("d", ChangeKind::Deploy)]
    );
    assert_eq!((built.moved.len(), master.decky("c").host), (0, id(2)));
}

/// A host that was briefly out of reach lost its deckies to another one while they still ran.
#[test]
fn only_a_host_that_is_gone_loses_its_deckies() {
    let mut master = master();
    master.targets = vec![host(1, "alpha"), host(2, "beta")];
    master.add("[a]\n[b]");
    let (a, b) = (master.decky("a").clone(), master.decky("b").clone());
    master.targets = vec![host(2, "beta")];
    let built = master.add("[c]");
    assert_eq!(
        built.moved,
        [Moved {
            decky: a.name.clone(),
            from: id(1),
            to: id(2),
            readdressed: None
        }]
    );
    assert_eq!(
        kinds(&built),
        [("a", ChangeKind::Deploy), ("c", ChangeKind::Deploy)]
    );
    assert_eq!(*master.decky("a"), Decky { host: id(2), ..a });
    assert_eq!(*master.decky("b"), b);

    // Onto another LAN it cannot take its address along.
    let far = HostSlot {
        lan: Some(lan("10.9.0.0/24", "10.9.0.1")),
        ..host(4, "delta")
    };
    master.targets = vec![far];
    master.known = BTreeSet::new();
    let built = master.add("[d]");
    assert_eq!(built.moved.len(), 3);
    assert!(built.moved.iter().all(|moved| moved.readdressed.is_some()));
    assert!(built.fleet.deckies.values().all(|decky| decky.host == id(4)));
}

#[test]
fn replacing_by_the_same_text_changes_nothing_and_still_answers_for_every_decky() {
    let mut master = master();
    master.targets = vec![host(1, "alpha"), host(2, "beta")];
    let text = "[web]\narchetype=web-server\namount=3\n[any]\n[web.http]\nfake_app=tomcat";
    master.add(text);
    let before = master.fleet.clone();
    let built = master.replace(text);
    assert_eq!(built.fleet, before);
    let unchanged = ["any", "web-01", "web-02", "web-03"].map(|name| (name, ChangeKind::Unchanged));
    assert_eq!(kinds(&built), unchanged);
}

#[test]
fn replacing_keeps_who_a_decky_is_and_tears_down_who_is_left_out() {
    let mut master = master();
    master.targets = vec![host(1, "alpha"), host(2, "beta")];
    master.add("[a]\nservices=ssh\n[b]\nservices=ssh\n[c]\nservices=ssh");
    let (b, c) = (master.decky("b").clone(), master.decky("c").clone());
    let built =
        master.replace("[new]\nservices=ssh\n[b]\nservices=http\n[c]\nservices=ssh\nip=192.168.50.77");
    assert_eq!(
        kinds(&built),
        [
            ("a", ChangeKind::Teardown),
            ("b", ChangeKind::Deploy),
            ("c", ChangeKind::Deploy),
            ("new", ChangeKind::Deploy)
        ]
    );
    let kept = Decky {
        services: vec!["http".parse().unwrap()],
        ..b
    };
    assert_eq!(*master.decky("b"), kept);
    let moved = Decky {
        address: "192.168.50.77".parse().unwrap(),
        ..c
    };
    assert_eq!(*master.decky("c"), moved);
    // The address of the one that goes is free at once; the new one is placed where there is room.
    assert_eq!(master.decky("new").address.to_string(), "192.168.50.2");
}

#[test]
fn replacing_moves_deckies_from_the_local_worker_to_the_enrolled_hosts() {
    let mut master = master();
    master.add("[a]\n[b]");
    master.targets = vec![host(2, "beta")];
    master.known = BTreeSet::from([id(1)]);
    let built = master.replace("[a]\n[b]");
    assert_eq!(built.moved.len(), 2);
    assert!(built.fleet.deckies.values().all(|decky| decky.host == id(2)));
    assert_eq!(built.moved[0].readdressed, None);
}

#[test]
fn an_address_that_a_text_gives_to_another_decky_is_given_up() {
    let mut master = master();
    master.add("[a]\n[b]");
    let address = master.decky("a").address;
    master.replace(&format!("[a]\n[b]\n[c]\nip={address}"));
    assert_eq!(master.decky("c").address, address);
    assert_ne!(master.decky("a").address, address);
}

#[test]
fn random_histories_keep_addresses_unique_and_inside_their_lan() {
    use rand::{RngExt as _, SeedableRng as _};
    for seed in 0..300 {
        println!("seed: {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut master = roomy();
        master.seed = seed;
        let all = [
            host(1, "alpha"),
            host(2, "beta"),
            HostSlot {
                lan: Some(lan("10.9.0.0/29", "10.9.0.1")),
                ..host(3, "gamma")
            },
            HostSlot {
                lan: Some(lan("10.9.0.0/29", "10.9.0.1")),
                ..host(4, "delta")
            },
            HostSlot {
                lan: Some(lan("192.168.0.0/16", "192.168.0.1")),
                ..host(5, "wide")
            },
        ];
        for step in 0..12 {
            master.targets = all.iter().filter(|_| rng.random_bool(0.6)).cloned().collect();
            master.known = all
                .iter()
                .filter(|_| rng.random_bool(0.5))
                .map(|host| host.id)
                .collect();
            let mut text = String::new();
            for n in 0..rng.random_range(1..4) {
                let name = if rng.random_bool(0.5) {
                    format!("k{n}")
                } else {
                    format!("s{step}n{n}")
                };
                text += &format!("[{name}]\n");
                match rng.random_range(0..4) {
                    0 => text += &format!("amount={}\n", rng.random_range(2..5)),
                    1 => text += &format!("ip=192.168.50.{}\n", rng.random_range(0..=40)),
                    _ => {}
                }
            }
            let replace = rng.random_bool(0.3);
            let before = master.fleet.clone();
            let Ok(built) = master.plan(&text, replace) else {
                continue;
            };
            master.fleet = built.fleet.clone();
            let addresses: BTreeSet<Ipv4Addr> =
                built.fleet.deckies.values().map(|decky| decky.address).collect();
            assert_eq!(addresses.len(), built.fleet.deckies.len(), "an address twice");
            for decky in built.fleet.deckies.values() {
                let host = all.iter().find(|host| host.id == decky.host).unwrap();
                let lan = host.lan.as_ref().or(built.fleet.lan.as_ref()).unwrap();
                assert!(
                    ini::is_host(&lan.subnet, decky.address) && Some(decky.address) != lan.gateway,
                    "{decky:?}"
                );
                let moved = built.moved.iter().any(|moved| moved.decky == decky.name);
                if let Some(old) = before.deckies.get(&decky.name) {
                    assert_eq!(
                        (&old.mac, &old.seed, &old.hostname),
                        (&decky.mac, &decky.seed, &decky.hostname)
                    );
                    assert!(
                        replace || moved || old == decky,
                        "an addition changed {}",
                        decky.name
                    );
                    assert_eq!(moved, old.host != decky.host);
                }
            }
        }
    }
}
