//! What the fleet's tests start from.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use decnet_wire::ids::{HostId, ServiceSlug, Timestamp};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use super::build::{BuildError, Built, Deploy, Hosts, build};
use super::catalogue::Catalogue;
use super::ini::{self, Document, IniError};
use super::model::{Decky, Fleet, HostSlot, Lan};

pub(super) static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::load(&[]).unwrap());

pub(super) fn now() -> Timestamp {
    Timestamp::new(time::macros::datetime!(2026-03-01 12:00 UTC))
}

pub(super) fn lan(subnet: &str, gateway: &str) -> Lan {
    Lan {
        subnet: subnet.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
        interface: Some("eth0".parse().unwrap()),
    }
}

pub(super) fn id(number: u8) -> HostId {
    HostId::new(Uuid::from_bytes([number; 16]))
}

/// A host on the fleet's LAN.
pub(super) fn host(number: u8, name: &str) -> HostSlot {
    HostSlot {
        id: id(number),
        name: name.parse().unwrap(),
        lan: None,
        ipvlan: false,
        mode: None,
        interface: None,
        addresses: Vec::new(),
    }
}

pub(super) fn parse(text: &str) -> Result<Document, Vec<IniError>> {
    ini::parse(text, &CATALOGUE)
}

/// One deploy after another on one master.
pub(super) struct Master {
    pub(super) fleet: Fleet,
    pub(super) targets: Vec<HostSlot>,
    pub(super) known: BTreeSet<HostId>,
    pub(super) detected: Option<Lan>,
    pub(super) seed: u64,
}

/// One host, on 192.168.50.0/24.
pub(super) fn master() -> Master {
    Master {
        fleet: Fleet::default(),
        targets: vec![host(1, "alpha")],
        known: BTreeSet::new(),
        detected: Some(lan("192.168.50.0/24", "192.168.50.1")),
        seed: 7,
    }
}

impl Master {
    /// Parses and builds; the fleet stays as it was.
    pub(super) fn plan(&self, text: &str, replace: bool) -> Result<Built, Vec<BuildError>> {
        let document = ini::parse_with(text, &CATALOGUE, &self.fleet.custom_services)?;
        self.build(&document, replace)
    }

    /// Builds; the fleet stays as it was.
    pub(super) fn build(&self, document: &Document, replace: bool) -> Result<Built, Vec<BuildError>> {
        let request = Deploy {
            ini: document,
            replace,
        };
        let hosts = Hosts {
            targets: &self.targets,
            known: &self.known,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        build(
            &request,
            &self.fleet,
            &CATALOGUE,
            &hosts,
            self.detected.as_ref(),
            now(),
            &mut rng,
        )
    }

    pub(super) fn add(&mut self, text: &str) -> Built {
        self.deploy(text, false)
    }

    pub(super) fn replace(&mut self, text: &str) -> Built {
        self.deploy(text, true)
    }

    fn deploy(&mut self, text: &str, replace: bool) -> Built {
        self.seed += 1;
        let built = self
            .plan(text, replace)
            .unwrap_or_else(|errors| panic!("refused: {errors:#?}"));
        self.fleet = built.fleet.clone();
        built
    }

    pub(super) fn decky(&self, name: &str) -> &Decky {
        &self.fleet.deckies[&name.parse().unwrap()]
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.fleet
            .deckies
            .values()
            .map(|decky| decky.address.to_string())
            .collect()
    }
}

pub(super) fn slugs(list: &[ServiceSlug]) -> Vec<&str> {
    list.iter().map(ServiceSlug::as_str).collect()
}
