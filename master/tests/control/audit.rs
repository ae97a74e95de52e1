//! The audit log of what nobody asked for by a route.

use decnet::audit::{Actor, Chain};
use decnet::control::audit::AuditFilter;
use decnet::fleet::model::{Interval, Minutes};
use decnet::init;
use decnet::keys::{MasterKeys, OPERATOR, signing_key};
use decnet_pki::csr;
use decnet_pki::envelope::Envelope;
use decnet_pki::key::HostKey;
use decnet_wire::enrol::{RejoinRequest, RenewRequest};
use decnet_wire::ids::Digest;
use decnet_wire::trust;
use serde_json::{Value, json};

use crate::scene::{Host, Master, TWO, invitation, operator, request, stranger};

pub(crate) fn entries(master: &Master, action: &str) -> Vec<Value> {
    let filter = AuditFilter {
        action: Some(action.to_owned()),
        after: Some(0),
        limit: usize::MAX,
        ..AuditFilter::default()
    };
    master.control.audit(&filter).unwrap().entries
}

/// The root is a file: a master that ends between the file and its entry has an entry too few.
#[test]
fn a_trust_root_that_the_log_does_not_know_is_noted_at_the_next_start() {
    let master = Master::new();
    let folder = init::keys_path(&master.folder.path().join("master"));
    let keys = MasterKeys::load(&folder).unwrap();
    let mut document = keys.root.document().clone();
    document.version += 1;
    document.epoch += 1;
    let payload = serde_json::to_vec(&document).unwrap();
    let key = signing_key(&folder.join(OPERATOR)).unwrap();
    let envelope = Envelope::sign(trust::PAYLOAD_TYPE, payload, &[&key]);
    keys.follow(&envelope.to_json()).unwrap();
    assert!(entries(&master, "trust.").is_empty());

    let mut master = master;
    for _ in 0..2 {
        master = master.restart();
        let noted = entries(&master, "trust.");
        assert_eq!(noted.len(), 1, "{noted:#?}");
        assert_eq!(noted[0]["actor"], json!({ "kind": "master" }));
        assert_eq!(noted[0]["before"]["trust_root"], 1);
        assert_eq!(noted[0]["after"]["epoch"], 2);
    }
}

#[test]
fn what_the_timer_changes_is_one_entry_of_the_master() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    let ini = "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[db]\narchetype=database-server\namount=3\n";
    master.deploy(ini, false).unwrap();
    host.obey(&master);
    let deckies = master.control.deckies().unwrap();
    let ten = Interval::Minutes(Minutes::try_from(10).unwrap());
    for decky in &deckies {
        let name = &decky.record.decky.name;
        master.control.set_interval(&operator(), name, ten).unwrap();
    }
    master.control.mutate_due().unwrap();
    assert!(entries(&master, "decky.mutate").is_empty(), "nothing was due");
    master.pass(time::Duration::minutes(11));
    host.report(&master, None, Vec::new());
    let count = master.control.mutate_due().unwrap();
    assert!(count > 1, "{count}");
    let mutated = entries(&master, "decky.mutate");
    assert_eq!(mutated.len(), 1);
    assert_eq!(mutated[0]["actor"], json!({ "kind": "master" }));
    assert_eq!(mutated[0]["after"]["deckies"], count);
    let before = mutated[0]["before"]["services"].as_object().unwrap();
    let after = mutated[0]["after"]["services"].as_object().unwrap();
    assert!(before.keys().eq(after.keys()) && before.len() == count);
    assert!(before.iter().all(|(name, services)| after[name] != *services));
}

/// Who holds one host's key and another's token would be both.
#[test]
fn a_key_is_one_hosts_alone() {
    let master = Master::new();
    let key = HostKey::generate().unwrap();
    let first = master.control.invite(&operator(), &invitation("first")).unwrap();
    master
        .control
        .enrol(&stranger(), &request(&first.token, &key))
        .unwrap();
    let second = master.control.invite(&operator(), &invitation("second")).unwrap();
    let refused = master.control.enrol(&stranger(), &request(&second.token, &key));
    assert_eq!(refused.unwrap_err().status(), 403);
    let alarms = entries(&master, "alarm.");
    assert_eq!(alarms.len(), 1);
    assert_eq!(alarms[0]["action"], "alarm.foreign_token");
    assert_eq!(alarms[0]["actor"]["name"], "first");
    assert_eq!(alarms[0]["subject"], "host/second");
    // The token is as good as before.
    let own = HostKey::generate().unwrap();
    master
        .control
        .enrol(&stranger(), &request(&second.token, &own))
        .unwrap();
}

/// Heartbeats, reports, bundles and rows come all the time, and are nobody's change.
#[test]
fn what_hosts_report_and_what_follows_from_it_leaves_no_entries() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    let before = entries(&master, "").len();
    host.obey(&master);
    host.report(&master, None, Vec::new());
    master.pass(time::Duration::hours(13));
    master.control.flush_status().unwrap();
    master.control.release_from_gone().unwrap();
    master.control.fail_overdue().unwrap();
    master.control.republish_outdated().unwrap();
    master.control.publish_due().unwrap();
    master.control.tell_alarms().unwrap();
    let after = entries(&master, "");
    assert_eq!(after.len(), before, "{after:#?}");
    let mut chain = Chain::new(None);
    after.iter().try_for_each(|entry| chain.follow(entry)).unwrap();
    chain.end().unwrap();
}

/// A host that changed its key may finish what it began with the one before; a copy of the old key that shows up later
/// is somebody else's.
#[test]
fn a_key_that_was_replaced_is_an_alarm_only_when_the_change_is_long_over() {
    let master = Master::new();
    let (old, new) = (HostKey::generate().unwrap(), HostKey::generate().unwrap());
    let digest = |key: &HostKey| Digest::from_sha256(*key.digest().sha256().as_bytes());
    let token = master.control.invite(&operator(), &invitation("h")).unwrap();
    let control = &master.control;
    control.enrol(&stranger(), &request(&token.token, &old)).unwrap();
    let from = Some("192.0.2.9".parse().unwrap());
    let by = Actor::host(token.host, "h".parse().unwrap(), from);
    let renewal = RenewRequest {
        schema: 1,
        csr: csr::create(&new).unwrap(),
    };
    control.renew(&by, token.host, &renewal).unwrap();
    control.authorize(token.host, &digest(&new), from).unwrap();
    assert_eq!(
        control
            .authorize(token.host, &digest(&old), from)
            .unwrap_err()
            .status(),
        403
    );
    assert!(entries(&master, "alarm.").is_empty());
    let changes: Vec<Value> = entries(&master, "host.re");
    assert_eq!(changes.len(), 2, "{changes:#?}");
    assert_eq!(changes[0]["action"], "host.renew");
    assert_eq!(changes[1]["action"], "host.rekey");
    assert_eq!(changes[1]["before"]["key"], json!(digest(&old)));
    assert_eq!(changes[1]["after"]["key"], json!(digest(&new)));

    master.pass(time::Duration::hours(2));
    for _ in 0..100 {
        control.authorize(token.host, &digest(&old), from).unwrap_err();
    }
    let alarms = entries(&master, "alarm.");
    assert_eq!(alarms.len(), 1, "{alarms:#?}");
    assert_eq!(alarms[0]["action"], "alarm.foreign_key");
    assert_eq!(alarms[0]["from"], "192.0.2.9");
    assert_eq!(alarms[0]["subject"], "host/h");
    // What was kept back is told of when its time has come.
    master.pass(time::Duration::minutes(11));
    control.tell_alarms().unwrap();
    assert_eq!(entries(&master, "alarm.")[1]["after"]["not_told_before"], 98);
}

#[test]
fn a_refused_renewal_and_the_return_of_a_revoked_host_are_alarms() {
    let master = Master::new();
    let key = HostKey::generate().unwrap();
    let token = master.control.invite(&operator(), &invitation("h")).unwrap();
    let control = &master.control;
    control.enrol(&stranger(), &request(&token.token, &key)).unwrap();
    let csr = csr::create(&key).unwrap();
    let by = Actor::host(token.host, "h".parse().unwrap(), None);
    let same = RenewRequest {
        schema: 1,
        csr: csr.clone(),
    };
    assert_eq!(control.renew(&by, token.host, &same).unwrap_err().status(), 422);
    control.revoke(&operator(), token.host).unwrap();
    let back = RejoinRequest {
        schema: 1,
        host: token.host,
        csr,
    };
    assert_eq!(control.rejoin(&stranger(), &back).unwrap_err().status(), 403);
    let told: Vec<_> = entries(&master, "alarm.")
        .iter()
        .map(|entry| (entry["action"].clone(), entry["subject"].clone()))
        .collect();
    assert_eq!(
        told,
        [
            (json!("alarm.renewal_refused"), json!("host/h")),
            (json!("alarm.revoked_host"), json!("host/h")),
        ]
    );
}
