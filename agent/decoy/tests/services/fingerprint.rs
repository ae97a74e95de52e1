//! No two deckies share what a scanner could match on, and each keeps its own.

use std::collections::BTreeSet;

use crate::decoy::{Decoy, Start};
use crate::{https, mqtt, snmp, ssh};

/// Deckies compared.
const DECKIES: u64 = 50;

/// Of these, how many are started a second time.
const AGAIN: u64 = 5;

fn decky(slug: &str, number: u64) -> Decoy {
    Start::new(slug)
        .with("DECNET_SEED", format!("{:064x}", number + 1))
        .run()
}

/// Holds `seen` to the promise: one value for each decky, the same again after a restart.
fn is_every_deckys_own(slug: &str, seen: impl Fn(&Decoy) -> String) {
    let show = |number| seen(&decky(slug, number));
    let all: Vec<String> = (0..DECKIES).map(show).collect();
    let distinct: BTreeSet<&String> = all.iter().collect();
    assert_eq!(
        distinct.len(),
        all.len(),
        "{slug}: two deckies show the same: {all:#?}"
    );
    for (number, first) in (0..AGAIN).zip(&all) {
        assert_eq!(show(number), *first, "{slug}: a restart shows something else");
    }
}

#[test]
fn no_two_deckies_share_an_ssh_host_key() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    is_every_deckys_own("ssh", |decoy| runtime.block_on(ssh::connect(decoy)).1);
}

#[test]
fn no_two_deckies_share_a_certificate() {
    is_every_deckys_own("https", |decoy| {
        https::visit(decoy, &[])
            .0
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    });
}

#[test]
fn no_two_deckies_share_an_snmp_engine() {
    is_every_deckys_own("snmp", |decoy| {
        let answer = snmp::ask(&decoy.udp(), &snmp::version_3(b"", ""));
        // Net-SNMP's enterprise, and its format of four random bytes and eight of time.
        let start = [0x80, 0, 0x1f, 0x88, 0x80];
        let at = answer
            .windows(start.len())
            .position(|window| window == start)
            .unwrap();
        format!("{:02x?}", &answer[at..at + 17])
    });
}

#[test]
fn no_two_deckies_share_a_redis_run_id() {
    is_every_deckys_own("redis", |decoy| {
        let mut visitor = decoy.connect();
        visitor.ask("INFO server", "run_id:");
        let id = visitor.expect("\r\n");
        assert_eq!(id.len(), 40 + 2, "{id}");
        id
    });
}

#[test]
fn no_two_deckies_share_the_devices_of_a_broker() {
    is_every_deckys_own("mqtt", |decoy| {
        let mut visitor = decoy.connect();
        mqtt::enter(&mut visitor);
        mqtt::subscribe(&mut visitor, "the/end");
        mqtt::subscribe(&mut visitor, "#");
        visitor.send(mqtt::publish("the/end", "x", false));
        visitor.expect("the/end")
    });
}

/// Services without a key or an id of their own still are not all of one version.
#[test]
fn deckies_of_one_distribution_run_more_than_one_version() {
    for (slug, end) in [("ftp", "\r\n"), ("mysql", "\0"), ("ssh", "\r\n")] {
        let shown: BTreeSet<String> = (0..DECKIES)
            .map(|number| {
                let decoy = decky(slug, number);
                let mut visitor = decoy.connect();
                visitor.expect(end)
            })
            .collect();
        assert!(shown.len() > 1, "{slug}: all show {shown:?}");
    }
    let shown: BTreeSet<String> = (0..DECKIES)
        .map(|number| {
            let decoy = decky("http", number);
            let mut visitor = decoy.connect();
            visitor.send("GET / HTTP/1.0\r\n\r\n");
            visitor.expect("Server: ");
            visitor.expect("\r\n")
        })
        .collect();
    assert!(shown.len() > 1, "http: all show {shown:?}");
}
