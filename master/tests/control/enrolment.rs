//! Tokens and keys that are asked for again.

use decnet::control::enrol::{CARRIED_LIFETIME_MAX, HostNetworking, Invitation, TOKEN_LIFETIME_MAX};
use decnet::fleet::model::Lan;
use decnet_pki::key::HostKey;
use decnet_wire::bundle::{Bundle, NetworkDriver, NetworkMode};
use decnet_wire::ids::Digest;
use decnet_wire::report::Outcome;

use crate::certificates::{revoked, serial};
use crate::scene::{Host, Master, TWO, invitation, names, operator, request, stranger};

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
        .enrol(
            &stranger(),
            &request(&embedded(&master), &HostKey::generate().unwrap()),
        )
        .unwrap()
        .unwrap();
    let mut host = Host {
        id: first.host,
        converged: true,
        pending: Vec::new(),
        seq: 1_000_000,
        update: None,
    };
    master.control.publish_due().unwrap();
    let ids = master.deploy(TWO, false).unwrap();
    host.say(&master, ids[0], Outcome::Succeeded);

    let token = embedded(&master);
    let old = host.bundle(&master);
    assert_eq!(names(&old), ["a", "b"], "it is not gone while it enrols");
    let again = master
        .control
        .enrol(&stranger(), &request(&token, &HostKey::generate().unwrap()))
        .unwrap()
        .unwrap();
    assert_eq!(again.host, first.host);
    assert_eq!(revoked(&master), [serial(&first.certificate)]);
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

/// Address and MAC in the document of one decky.
fn attachment(bundle: &Bundle, decky: &str) -> (String, Option<String>) {
    let stack = bundle.stacks.iter().find(|stack| stack.decky.as_str() == decky);
    let compose = stack.unwrap().compose.parse().unwrap();
    let lan = &compose["services"]["base"]["networks"]["lan"];
    let text = |key: &str| lan[key].as_str().map(str::to_owned);
    (text("ipv4_address").unwrap(), text("mac_address"))
}

#[test]
fn another_driver_keeps_every_address_and_going_back_brings_every_mac_back() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    let before = host.bundle(&master);
    let set = |ipvlan, mode, interface: Option<&str>| {
        let interface = interface.map(|name| name.parse().unwrap());
        let network = HostNetworking::new(ipvlan, mode, interface).unwrap();
        master
            .control
            .set_networking(&operator(), host.id, &network)
            .unwrap();
        master.control.publish_due().unwrap();
        host.bundle(&master)
    };
    let ipvlan = set(true, Some(NetworkMode::L3), Some("lan0.30"));
    assert_eq!(ipvlan.generation, before.generation + 1);
    let network = &ipvlan.networks[0];
    assert_eq!(
        (network.driver, network.mode),
        (NetworkDriver::Ipvlan, Some(NetworkMode::L3))
    );
    assert_eq!(network.parent.as_ref().unwrap().as_str(), "lan0.30");
    for decky in ["a", "b"] {
        let (address, mac) = attachment(&before, decky);
        assert!(mac.is_some());
        assert_eq!(attachment(&ipvlan, decky), (address, None));
    }
    let again = set(true, Some(NetworkMode::L3), Some("lan0.30"));
    assert_eq!(again, ipvlan, "nothing changed");
    let back = set(false, None, None);
    assert_eq!(back.networks, before.networks);
    for decky in ["a", "b"] {
        assert_eq!(attachment(&back, decky), attachment(&before, decky));
    }
}

#[test]
fn a_change_that_leaves_deckies_without_an_interface_is_refused_and_changes_nothing() {
    let master = Master::new();
    let own = Lan {
        subnet: "10.9.3.0/24".parse().unwrap(),
        gateway: Some("10.9.3.1".parse().unwrap()),
        interface: None,
    };
    let invitation = Invitation {
        network: HostNetworking::new(false, None, Some("lan9".parse().unwrap())).unwrap(),
        lan: Some(own),
        ..invitation("h")
    };
    let host = Host::invited(&master, &invitation);
    master.deploy("[a]\nservices=ssh\n", false).unwrap();
    let before = host.bundle(&master);
    let error = master
        .control
        .set_networking(&operator(), host.id, &HostNetworking::default())
        .unwrap_err();
    assert_eq!(error.status(), 409);
    assert!(error.to_string().contains("no interface"), "{error}");
    master.control.publish_due().unwrap();
    assert_eq!(host.bundle(&master), before);
}

#[test]
fn what_was_set_for_the_embedded_worker_outlives_its_enrolment() {
    let master = Master::new();
    let first = master
        .control
        .enrol(
            &stranger(),
            &request(&embedded(&master), &HostKey::generate().unwrap()),
        )
        .unwrap()
        .unwrap();
    let network = HostNetworking::new(true, Some(NetworkMode::L3s), Some("eth7".parse().unwrap())).unwrap();
    master
        .control
        .set_networking(&operator(), first.host, &network)
        .unwrap();
    let second = master
        .control
        .enrol(
            &stranger(),
            &request(&embedded(&master), &HostKey::generate().unwrap()),
        )
        .unwrap()
        .unwrap();
    assert_eq!(second.host, first.host);
    let host = master.control.host(first.host).unwrap().host;
    assert!(host.ipvlan);
    assert_eq!(
        (host.mode, host.interface.as_ref().unwrap().as_str()),
        (Some(NetworkMode::L3s), "eth7")
    );
}

#[test]
fn an_approval_is_for_the_key_that_waits_and_no_other() {
    let master = Master::new();
    let control = &master.control;
    let invitation = Invitation {
        approve: true,
        ..invitation("h")
    };
    let invited = control.invite(&operator(), &invitation).unwrap();
    let (key, thief) = (HostKey::generate().unwrap(), HostKey::generate().unwrap());
    let enrol = |key: &HostKey| control.enrol(&stranger(), &request(&invited.token, key));
    let digest = |key: &HostKey| Digest::from_sha256(*key.digest().sha256().as_bytes());
    assert!(enrol(&key).unwrap().is_none());
    assert!(enrol(&key).unwrap().is_none(), "it is asked again while it waits");
    assert_eq!(enrol(&thief).unwrap_err().status(), 403);
    let other = control.approve(&operator(), invited.host, &digest(&thief));
    assert_eq!(other.unwrap_err().status(), 409);
    assert!(enrol(&key).unwrap().is_none());

    control.approve(&operator(), invited.host, &digest(&key)).unwrap();
    assert_eq!(enrol(&thief).unwrap_err().status(), 403);
    assert_eq!(enrol(&key).unwrap().unwrap().host, invited.host);
}

#[test]
fn a_key_is_one_hosts_alone() {
    let master = Master::new();
    let control = &master.control;
    let key = HostKey::generate().unwrap();
    let [first, second] = ["h1", "h2"].map(|name| control.invite(&operator(), &invitation(name)).unwrap());
    control
        .enrol(&stranger(), &request(&first.token, &key))
        .unwrap()
        .unwrap();
    let error = control
        .enrol(&stranger(), &request(&second.token, &key))
        .unwrap_err();
    assert_eq!(error.status(), 403, "{error}");
    assert!(error.to_string().contains("already"), "{error}");
}

#[test]
fn a_token_lives_no_longer_than_tokens_may() {
    let master = Master::new();
    let second = time::Duration::seconds(1);
    let invite = |lifetime, carried| {
        let invitation = Invitation {
            lifetime,
            carried,
            ..invitation("h")
        };
        master.control.invite(&operator(), &invitation)
    };
    for (most, carried) in [(TOKEN_LIFETIME_MAX, false), (CARRIED_LIFETIME_MAX, true)] {
        for lifetime in [time::Duration::ZERO, -second, most + second] {
            assert_eq!(invite(lifetime, carried).unwrap_err().status(), 422, "{lifetime}");
        }
        invite(most, carried).unwrap();
    }
}
