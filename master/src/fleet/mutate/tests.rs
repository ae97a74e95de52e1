use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use time::Duration;

use super::*;
use crate::fleet::catalogue::Catalogue;
use crate::fleet::fixture::{CATALOGUE, master, now, slugs};

fn decky(section: &str) -> Decky {
    let mut master = master();
    master.add(&format!("[a]\n{section}"));
    master.decky("a").clone()
}

#[test]
fn a_draw_is_one_to_three_services_of_the_archetype_and_never_the_current_set() {
    let mut decky = decky("archetype=database-server");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..500 {
        let drawn = choose_services(&decky, &CATALOGUE, &mut rng).unwrap();
        assert!((1..=3).contains(&drawn.len()));
        assert!(
            drawn
                .iter()
                .all(|slug| ["mysql", "postgres", "redis"].contains(&slug.as_str())),
            "{drawn:?}"
        );
        let (mut one, mut other) = (drawn.clone(), decky.services.clone());
        one.sort();
        other.sort();
        assert_ne!(one, other);
        decky.services = drawn;
    }
}

#[test]
fn a_decky_without_archetype_draws_from_everything_that_has_a_decoy() {
    let decky = decky("services=ssh");
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..1_000 {
        let drawn = choose_services(&decky, &CATALOGUE, &mut rng).unwrap();
        assert!(
            drawn.windows(2).all(|pair| pair[0] < pair[1]),
            "in catalogue order, none twice: {drawn:?}"
        );
        seen.extend(drawn);
    }
    assert_eq!(seen.len(), CATALOGUE.deployable().count());
}

/// `deaddeck` "mutated" to the only set it can have, with all the work and an event.
#[test]
fn a_pool_of_one_that_is_shown_already_has_nothing_to_change() {
    let mut decky = decky("archetype=deaddeck");
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    assert_eq!(choose_services(&decky, &CATALOGUE, &mut rng), None);
    decky.services = vec!["http".parse().unwrap()];
    assert_eq!(
        slugs(&choose_services(&decky, &CATALOGUE, &mut rng).unwrap()),
        ["ssh"]
    );
}

#[test]
fn an_archetype_without_any_decoy_has_nothing_to_change() {
    let decky = decky("archetype=voip-server\nservices=ssh");
    assert_eq!(
        choose_services(&decky, &CATALOGUE, &mut ChaCha8Rng::seed_from_u64(4)),
        None
    );
}

/// `smtp` and `smtp_relay` could be drawn together, and both bind port 25.
#[test]
fn services_on_one_port_are_never_drawn_together() {
    let image = format!("registry.example.test/x@sha256:{}", "0".repeat(64));
    let extra = format!(
        "[[service]]\nslug = \"relay\"\nname = \"Relay\"\nports = [\"25/tcp\"]\nimage = \"{image}\"\n\
         [[service]]\nslug = \"syslog\"\nname = \"Syslog\"\nports = [\"25/udp\"]\nimage = \"{image}\"\n"
    );
    let catalogue = Catalogue::load(&[("mine.toml".to_owned(), extra)]).unwrap();
    let decky = decky("services=ssh");
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut both = 0;
    for _ in 0..5_000 {
        let drawn = choose_services(&decky, &catalogue, &mut rng).unwrap();
        let has = |slug: &str| drawn.iter().any(|drawn| drawn.as_str() == slug);
        assert!(!(has("smtp") && has("relay")), "{drawn:?}");
        both += u32::from(has("smtp") && has("syslog"));
    }
    assert!(both > 0, "one port of two protocols is no clash");
}

/// A null interval inherited the fleet's, so rotation could not be stopped.
#[test]
fn disabled_never_comes_due_and_inherit_follows_the_fleet() {
    let mut fleet = Fleet::default();
    let mut decky = decky("services=ssh");
    let at = |minutes: i64| Timestamp::new(now().get() + Duration::minutes(minutes));
    assert!(!due(&fleet, &decky, at(29)) && due(&fleet, &decky, at(30)));
    fleet.mutate_interval = Minutes::try_from(90).unwrap();
    assert!(!due(&fleet, &decky, at(30)) && due(&fleet, &decky, at(90)));
    decky.interval = Interval::Minutes(Minutes::try_from(5).unwrap());
    assert!(due(&fleet, &decky, at(5)));
    decky.interval = Interval::Disabled;
    assert!(!due(&fleet, &decky, at(1_000_000)));
    assert_eq!(next_due(&fleet, &decky), None);
}

#[test]
fn a_clock_that_went_back_makes_nothing_due() {
    let decky = decky("services=ssh");
    assert!(!due(
        &Fleet::default(),
        &decky,
        Timestamp::new(now().get() - Duration::days(400))
    ));
}

#[test]
fn durations_have_a_number_and_a_unit() {
    for (text, minutes) in [
        ("1m", 1),
        ("30m", 30),
        ("2d", 2_880),
        ("1M", 43_200),
        ("1y", 525_600),
        ("10Y", 5_256_000),
    ] {
        assert_eq!(parse_duration(text).map(Minutes::get), Ok(minutes), "{text}");
    }
    for bad in [
        "",
        "m",
        "0m",
        "05m",
        "-1m",
        "+1m",
        "1h",
        "1",
        "1.5d",
        "1 m",
        "11y",
        "99999999999d",
        "1mm",
        "é",
        "1é",
    ] {
        assert_eq!(parse_duration(bad), Err(DurationError), "{bad}");
    }
}
