//! Tokens and keys that are asked for again.

use decnet_pki::key::HostKey;
use decnet_wire::report::Outcome;

use crate::scene::{Host, Master, TWO, names, request};

fn embedded(master: &Master) -> String {
    let name = "local".parse().unwrap();
    master
        .control
        .invite_embedded(&name, "127.0.0.1:8771")
        .unwrap()
        .token
}

/// The worker inside the master lost its folder. While it enrolled again it counted as gone; its new agent numbered
/// its events from its clock, below what was known, and none of them counted.
#[test]
fn the_embedded_worker_enrols_again_under_its_old_identity() {
    let master = Master::new();
    let first = master
        .control
        .enrol(&request(&embedded(&master), &HostKey::generate().unwrap()))
        .unwrap();
    let mut host = Host {
        id: first.host,
        seq: 1_000_000,
    };
    master.control.publish_due().unwrap();
    let ids = master.deploy(TWO, false).unwrap();
    host.say(&master, ids[0], Outcome::Succeeded);

    let token = embedded(&master);
    let old = host.bundle(&master);
    assert_eq!(names(&old), ["a", "b"], "it is not gone while it enrols");
    let again = master
        .control
        .enrol(&request(&token, &HostKey::generate().unwrap()))
        .unwrap();
    assert_eq!(again.host, first.host);
    assert!(
        master.control.envelope(host.id, 0).unwrap().is_none(),
        "the bundle for the old key is not for the new one"
    );
    master.control.publish_due().unwrap();
    let new = host.bundle(&master);
    assert_eq!(new.generation, old.generation + 1);
    assert_ne!(new.host_key, old.host_key);
    host.seq = 10;
    host.say(&master, ids[1], Outcome::Succeeded);
    assert!(master.row(ids[1]).status.is_terminal());
}
