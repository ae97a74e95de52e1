//! The master's catalogue and the decoy program describe the same services. Neither depends on the other, so only a
//! third party can hold them to it.

#![allow(clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use decnet::fleet::catalogue::{Catalogue, Runs};
use decnet_decoy::services::TABLE;

/// Ports and persona keys of each service.
type Services = BTreeMap<String, (Vec<String>, BTreeSet<String>)>;

static CATALOGUE: LazyLock<Services> = LazyLock::new(|| {
    let catalogue = Catalogue::load(&[]).expect("the built-in catalogue is sound");
    let decoys = catalogue.services().filter(|service| service.runs == Runs::Decoy);
    decoys
        .map(|service| {
            let ports = service.ports.iter().map(ToString::to_string).collect();
            let keys = service.fields.iter().map(|field| field.key.clone()).collect();
            (service.slug.to_string(), (ports, keys))
        })
        .collect()
});

static DECOYS: LazyLock<Services> = LazyLock::new(|| {
    let row = |service: &decnet_decoy::services::Service| {
        let ports = vec![format!("{}/{}", service.port, service.transport)];
        let keys = service.persona.iter().map(|key| (*key).to_owned()).collect();
        (service.slug.to_owned(), (ports, keys))
    };
    TABLE.iter().map(row).collect()
});

/// A slug without a decoy made containers that ended at once; a decoy without a slug could never be deployed.
#[test]
fn what_can_be_deployed_is_what_there_are_decoys_for() {
    let names = |services: &Services| services.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&CATALOGUE), names(&DECOYS));
}

#[test]
fn a_service_is_said_to_listen_where_its_decoy_listens() {
    for (slug, (ports, _)) in DECOYS.iter() {
        assert_eq!(CATALOGUE[slug].0, *ports, "{slug}");
    }
}

/// A setting that is accepted and read by nothing is a promise broken in silence.
#[test]
fn every_setting_is_read_by_the_decoy_and_every_key_it_reads_can_be_set() {
    for (slug, (_, keys)) in DECOYS.iter() {
        assert_eq!(CATALOGUE[slug].1, *keys, "{slug}");
    }
}
