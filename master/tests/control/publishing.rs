//! Bundles: one content for each generation, whoever asks for them and however often.

use std::time::{Duration, Instant};

use decnet::control::deploy::DeployRequest;
use decnet::control::{Control, Parts};
use decnet::init;
use decnet_wire::ids::{Digest, HostId};
use decnet_wire::observed::Observed;

use crate::scene::{Host, Master, TWO, clock, lan0, names, parts};

#[test]
fn publishers_at_once_sign_a_generation_once() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    master.control.set_deployment_limit(50).unwrap();
    for round in 0..10 {
        let ini = TWO
            .replace("[a]", &format!("[a{round}]"))
            .replace("[b]", &format!("[b{round}]"));
        let request = DeployRequest { ini, replace: false };
        master.control.deploy(&request).unwrap();
        let sent: Vec<Option<String>> = std::thread::scope(|scope| {
            let publish = || {
                master.control.publish_due().unwrap();
                master.control.envelope(host.id, 0).unwrap()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(publish)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(sent.iter().all(|one| *one == sent[0]), "round {round}");
    }
}

/// Without a decoy image a deploy was committed, answered 202, and its rows ran into their deadline.
#[test]
fn a_deploy_that_cannot_be_compiled_is_refused_before_it_is_stored() {
    let master = Master::new();
    Host::enrol(&master, "h");
    let Master { control, now, folder } = master;
    drop(control);
    let parts = Parts {
        image: None,
        ..parts(&folder.path().join("master"))
    };
    let control = Control::new(parts, clock(&now)).unwrap();
    let request = DeployRequest {
        ini: TWO.to_owned(),
        replace: false,
    };
    let error = control.deploy(&request).unwrap_err();
    assert_eq!(error.status(), 409, "{error}");
    assert!(control.plan(&request).is_err());
    assert!(control.deckies().unwrap().is_empty());
    assert!(control.unpublished().unwrap().is_empty());
}

/// A crash between the commit and the publisher: the next start publishes what was decided.
#[test]
fn a_generation_that_was_decided_before_a_crash_is_published_after_it() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    let request = DeployRequest {
        ini: TWO.to_owned(),
        replace: false,
    };
    master.control.deploy(&request).unwrap();
    let master = master.restart();
    assert_eq!(master.control.unpublished().unwrap(), ["h"]);
    master.control.publish_due().unwrap();
    assert_eq!(names(&host.bundle(&master)), ["a", "b"]);
}

/// A pass that finds nothing to do waits for no disk: an idle master would write for ever.
#[test]
fn an_idle_pass_writes_nothing() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    host.report(&master, None, vec![]);
    master.control.flush_status().unwrap();
    let store = init::store_path(&master.folder.path().join("master"));
    let before = std::fs::read(&store).unwrap();
    master.control.flush_status().unwrap();
    master.control.release_from_gone().unwrap();
    master.control.fail_overdue().unwrap();
    master.control.republish_outdated().unwrap();
    master.control.mutate_due().unwrap();
    assert!(std::fs::read(&store).unwrap() == before);
}

/// A thousand hosts, each with a heartbeat every thirty seconds, leave the master most of its time. The bounds are
/// far above what it takes, and far below what reading everything for everyone would.
#[test]
fn a_thousand_hosts_are_no_burden() {
    let master = Master::new();
    let hosts: Vec<Host> = (0..1000)
        .map(|n| Host::enrol_quietly(&master, &format!("h{n}")))
        .collect();
    master.control.publish_due().unwrap();
    let groups: String = (0..5)
        .map(|n| format!("[d{n}]\namount=100\nservices=ssh\n"))
        .collect();
    let ini = format!("[general]\nnet=10.8.0.0/16\ngw=10.8.0.1\ninterface=lan0\n{groups}");
    let timed = |what: &str, most: u64, work: &mut dyn FnMut()| {
        let begun = Instant::now();
        work();
        let took = begun.elapsed();
        println!("{what}: {took:?}");
        assert!(took < Duration::from_secs(most), "{what} took {took:?}");
    };
    master.control.set_deployment_limit(500).unwrap();
    timed("deploy and publish 500 deckies", 60, &mut || {
        master.deploy(&ini, false).unwrap();
    });
    let views = master.control.hosts().unwrap();
    let key = |host: &Host| {
        let view = views.iter().find(|view| view.host.id == host.id);
        view.and_then(|view| view.host.key.clone()).unwrap()
    };
    let keys: Vec<Digest> = hosts.iter().map(key).collect();
    for round in ["the first 1,000 heartbeats", "1,000 heartbeats"] {
        timed(round, 20, &mut || {
            for (host, key) in hosts.iter().zip(&keys) {
                host.heartbeat(&master, key);
            }
        });
    }
    timed("20 reports with 1,000 containers", 30, &mut || {
        for host in &hosts[..20] {
            host.report(&master, Some(crowd(host.id)), vec![]);
        }
    });
    timed("a sweep", 15, &mut || {
        master.control.flush_status().unwrap();
        master.control.release_from_gone().unwrap();
        master.control.fail_overdue().unwrap();
        master.control.republish_outdated().unwrap();
        master.control.mutate_due().unwrap();
    });
    timed("the lists of hosts and deckies", 10, &mut || {
        assert_eq!(master.control.hosts().unwrap().len(), 1000);
        assert_eq!(master.control.deckies().unwrap().len(), 500);
    });
}

fn crowd(host: HostId) -> Observed {
    let containers =
        (0..1000).map(|n| crate::scene::container(&format!("decnet-{}{n}", host.short()), "base"));
    Observed {
        containers: containers.collect(),
        interfaces: vec![lan0()],
        ..Observed::default()
    }
}
