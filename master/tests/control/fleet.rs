//! Deploys, mutations, removals, rows and tokens, when everything goes as it should.

use decnet::control::deploy::DeployRequest;
use decnet::control::enrol::TOKEN_LIFETIME;
use decnet::control::hosts::DeckyState;
use decnet::records::RowStatus;
use decnet_pki::key::HostKey;
use decnet_wire::bundle::{Bundle, OperationKind};
use decnet_wire::enrol::EnrolRequest;
use decnet_wire::ids::{DeckyName, Digest, OperationId};
use decnet_wire::report::{Outcome, PendingStack};

use crate::audit::entries;
use crate::scene::{Host, Master, TWO, invitation, names, operator, request, sha, stranger};

#[test]
fn a_deploy_commits_rows_and_the_next_generation_together() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    let before = host.bundle(&master);
    assert!(before.stacks.is_empty());
    let ids = master.deploy(TWO, false).unwrap();
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| master.row(*id).status == RowStatus::Pending));
    let after = host.bundle(&master);
    assert_eq!(after.generation, before.generation + 1);
    assert_eq!(after.previous, Some(Digest::from_sha256(sha(&before))));
    assert_eq!(names(&after), ["a", "b"]);
    let carried: Vec<OperationId> = after
        .stacks
        .iter()
        .filter_map(|stack| stack.operation)
        .map(|operation| operation.id)
        .collect();
    assert_eq!(carried.len(), 2);
    assert!(carried.iter().all(|id| ids.contains(id)));
}

#[test]
fn a_refused_description_changes_nothing() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    let before = host.bundle(&master);
    for bad in [
        TWO,
        "[c]\nservices=nonsense",
        "",
        "[c]\nservices=ssh\nip=10.9.1.1",
    ] {
        assert!(master.deploy(bad, false).is_err(), "{bad}");
    }
    assert_eq!(host.bundle(&master), before);
    assert_eq!(master.control.deckies().unwrap().len(), 2);
}

#[test]
fn a_deploy_without_any_host_is_refused_with_what_to_do() {
    let master = Master::new();
    let error = master.deploy(TWO, false).unwrap_err();
    assert_eq!(error.status(), 409);
    assert!(error.to_string().contains("host enroll"), "{error}");
}

#[test]
fn a_plan_draws_what_the_deploy_after_it_draws() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    host.obey(&master);
    let ini = "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[any]\namount=5\n";
    let request = DeployRequest::of_text(ini, false);
    let planned = master.control.plan(&request).unwrap();
    assert_eq!(
        master.control.deckies().unwrap().len(),
        0,
        "a plan changes nothing"
    );
    let again = master.control.plan(&request).unwrap();
    assert_eq!(planned.hosts[0].plan, again.hosts[0].plan);
    master.deploy(ini, false).unwrap();
    let text = serde_json::to_string(&planned.hosts[0].plan).unwrap();
    for view in master.control.deckies().unwrap() {
        assert!(
            text.contains(view.record.decky.hostname.as_str()),
            "{:?}",
            view.record.decky.hostname
        );
    }
}

#[test]
fn a_report_that_comes_twice_counts_once() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    let ids = master.deploy(TWO, false).unwrap();
    let running = host.event(&master, &master.row(ids[0]), Outcome::Running);
    let done = host.event(&master, &master.row(ids[0]), Outcome::Succeeded);
    assert_eq!(host.report(&master, None, vec![running.clone(), done.clone()]), 2);
    let ended = master.row(ids[0]);
    assert_eq!(ended.status, RowStatus::Succeeded);
    master.pass(time::Duration::minutes(1));
    assert_eq!(host.report(&master, None, vec![running, done]), 2);
    assert_eq!(master.row(ids[0]), ended);
}

#[test]
fn a_host_cannot_end_another_hosts_operation() {
    let master = Master::new();
    let _owner = Host::enrol(&master, "a-host");
    let ids = master
        .deploy(
            "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[a]\nservices=ssh\n",
            false,
        )
        .unwrap();
    let mut thief = Host::enrol(&master, "b-host");
    let claim = thief.event(&master, &master.row(ids[0]), Outcome::Succeeded);
    let refused = thief.try_report(&master, None, vec![claim]).unwrap_err();
    assert_eq!(refused.status(), 403);
    assert_eq!(master.row(ids[0]).status, RowStatus::Pending);
    // Nothing of the report was taken, and there is an alarm.
    let hosts = master.control.hosts().unwrap();
    let heard = hosts.iter().find(|host| host.host.id == thief.id).unwrap();
    assert_eq!(heard.status.last_heartbeat, None);
    let alarms = entries(&master, "alarm.");
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!(alarms[0]["action"], "alarm.foreign_report");
    assert_eq!(alarms[0]["actor"]["name"], "b-host");
}

/// One such number silenced a host for ever: whatever it said later counted as known.
#[test]
fn no_event_number_takes_away_all_that_follow() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    let ids = master.deploy(TWO, false).unwrap();
    for seq in [u64::MAX, u64::MAX / 2, 1 << 42] {
        let mut event = host.event(&master, &master.row(ids[0]), Outcome::Running);
        event.seq = seq;
        let refused = host.try_report(&master, None, vec![event]).unwrap_err();
        assert_eq!(refused.status(), 422, "{seq}");
    }
    // An agent numbers by its own clock, which may be years ahead.
    let mut event = host.event(&master, &master.row(ids[0]), Outcome::Running);
    event.seq = 1 << 41;
    assert_eq!(host.report(&master, None, vec![event]), 1 << 41);
    let alarms = entries(&master, "alarm.");
    assert_eq!(alarms.len(), 1, "one for all of them: {alarms:?}");
    assert_eq!(alarms[0]["action"], "alarm.event_number");
}

#[test]
fn what_a_host_says_of_another_hosts_decky_is_not_heard() {
    let master = Master::new();
    let _owner = Host::enrol(&master, "a-host");
    master
        .deploy(
            "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[a]\nservices=ssh\n",
            false,
        )
        .unwrap();
    let mut thief = Host::enrol(&master, "b-host");
    let drift = thief.drift(&master, "a", "gone");
    thief.converged = false;
    thief.pending = vec![PendingStack {
        stack: "decnet-a".parse().unwrap(),
        decky: "a".parse().unwrap(),
        reason: "burnt".to_owned(),
        tries: 3,
        next_try_at: None,
        quarantined: true,
    }];
    assert_eq!(
        thief.report(&master, None, vec![drift]),
        1,
        "it is not sent again"
    );
    for host in master.control.hosts().unwrap() {
        assert_eq!(host.status.drifts, 0);
        assert!(host.status.pending.is_empty());
    }
    assert_eq!(entries(&master, "alarm.")[0]["action"], "alarm.foreign_report");
}

#[test]
fn a_mutation_keeps_address_mac_and_base_and_a_failed_one_is_undone() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    let name: DeckyName = "a".parse().unwrap();
    let find = |master: &Master| {
        let deckies = master.control.deckies().unwrap();
        deckies
            .into_iter()
            .find(|view| view.record.decky.name == name)
            .unwrap()
            .record
            .decky
    };
    let base = |bundle: &Bundle| bundle.stacks[0].compose.parse().unwrap()["services"]["base"].clone();
    let (before, base_before) = (find(&master), base(&host.bundle(&master)));
    let id = master.control.mutate(&operator(), &name).unwrap();
    master.control.publish_due().unwrap();
    let after = find(&master);
    assert_eq!(master.row(id).operation, OperationKind::Mutate);
    assert_ne!(after.services, before.services);
    assert_eq!((after.address, after.mac), (before.address, before.mac));
    assert_eq!(base(&host.bundle(&master)), base_before);

    host.say(
        &master,
        id,
        Outcome::Failed {
            error: "ssh exited".to_owned(),
        },
    );
    assert_eq!(master.row(id).status, RowStatus::Failed);
    assert_eq!(
        find(&master).services,
        before.services,
        "the fleet says what runs"
    );
    assert_eq!(host.bundle(&master).stacks[0].operation, None);
}

#[test]
fn a_newer_operation_supersedes_the_open_one() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    let ids = master.deploy(TWO, false).unwrap();
    let name: DeckyName = master.row(ids[0]).decky;
    let newer = master.control.mutate(&operator(), &name).unwrap();
    assert_eq!(master.row(ids[0]).status, RowStatus::Superseded);
    assert_eq!(master.row(newer).status, RowStatus::Pending);
    host.say(&master, ids[0], Outcome::Succeeded);
    assert_eq!(master.row(ids[0]).status, RowStatus::Superseded);
    assert_eq!(master.row(ids[0]).late, Some(Outcome::Succeeded));
    assert_eq!(
        master.row(newer).status,
        RowStatus::Pending,
        "the older outcome closes the older row only"
    );
}

#[test]
fn a_removed_decky_goes_when_its_host_says_so() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    let name: DeckyName = "a".parse().unwrap();
    let id = master.control.remove(&operator(), &name).unwrap();
    assert_eq!(
        master.control.remove(&operator(), &name).unwrap(),
        id,
        "asking twice is one operation"
    );
    master.control.publish_due().unwrap();
    assert_eq!(master.state("a"), Some(DeckyState::TearingDown));
    let stack = &host.bundle(&master).stacks[0];
    assert_eq!(
        stack.compose.parse().unwrap()["services"]
            .as_object()
            .unwrap()
            .len(),
        0
    );
    assert!(
        master.deploy("[a]\nservices=ssh", false).is_err(),
        "the name is taken until then"
    );
    host.obey(&master);
    assert_eq!(master.state("a"), None);
    assert_eq!(master.row(id).status, RowStatus::Succeeded);
    assert_eq!(names(&host.bundle(&master)), ["b"]);
}

#[test]
fn replacing_keeps_what_stays_and_removes_what_is_gone() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    let kept = host.bundle(&master).stacks[1].compose.clone();
    let ids = master.deploy(
        "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[b]\nservices=http\n[c]\nservices=redis\n",
        true,
    );
    assert_eq!(ids.unwrap().len(), 3, "two deploys and one removal");
    let bundle = host.bundle(&master);
    assert_eq!(names(&bundle), ["a", "b", "c"]);
    assert_eq!(
        bundle.stacks[1].compose, kept,
        "an unchanged decky compiles to the same document"
    );
    host.obey(&master);
    assert_eq!(names(&host.bundle(&master)), ["b", "c"]);
}

#[test]
fn hosts_share_the_fleet_and_one_pool_of_addresses() {
    let master = Master::new();
    let (one, two) = (Host::enrol(&master, "one"), Host::enrol(&master, "two"));
    let ini = "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[d]\namount=6\nservices=ssh\n";
    master.deploy(ini, false).unwrap();
    let (first, second) = (one.bundle(&master), two.bundle(&master));
    assert_eq!((first.stacks.len(), second.stacks.len()), (3, 3));
    let mut addresses: Vec<_> = master
        .control
        .deckies()
        .unwrap()
        .iter()
        .map(|view| view.record.decky.address)
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 6);
    assert_ne!(first.networks[0].name, second.networks[0].name);
}

#[test]
fn rows_past_their_deadline_fail_with_what_is_known() {
    let master = Master::new();
    let _silent = Host::enrol(&master, "h");
    let ids = master.deploy(TWO, false).unwrap();
    master.pass(time::Duration::minutes(14));
    assert_eq!(master.control.fail_overdue().unwrap(), 0);
    master.pass(time::Duration::minutes(2));
    assert_eq!(master.control.fail_overdue().unwrap(), 2);
    let row = master.row(ids[0]);
    assert_eq!(row.status, RowStatus::Failed);
    assert!(
        row.error.unwrap().contains("never heard of"),
        "the reason names the host's silence"
    );
}

#[test]
fn everything_is_there_after_a_restart() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    let ids = master.deploy(TWO, false).unwrap();
    host.say(&master, ids[0], Outcome::Succeeded);
    let (bundle, rows) = (host.bundle(&master), master.control.rows(&ids).unwrap());
    let master = master.restart();
    assert_eq!(host.bundle(&master), bundle);
    assert_eq!(master.control.rows(&ids).unwrap(), rows);
    host.say(&master, ids[1], Outcome::Succeeded);
    assert_eq!(master.row(ids[1]).status, RowStatus::Succeeded);
}

#[test]
fn a_bundle_is_renewed_before_it_expires_and_says_the_same() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    let before = host.bundle(&master);
    master.pass(time::Duration::hours(13));
    master.control.republish_outdated().unwrap();
    master.control.publish_due().unwrap();
    let after = host.bundle(&master);
    assert_eq!(after.generation, before.generation + 1);
    assert!(after.expires_at > before.expires_at);
    assert_eq!((after.stacks, after.networks), (before.stacks, before.networks));
}

/// Agents refuse what was issued in their future, and it stayed the newest until that future came.
#[test]
fn a_bundle_issued_by_a_clock_that_was_ahead_is_issued_anew_once_it_is_right() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    master.pass(time::Duration::days(365));
    master.deploy(TWO, false).unwrap();
    let ahead = host.bundle(&master);
    master.pass(time::Duration::days(-365));
    master.control.republish_outdated().unwrap();
    master.control.publish_due().unwrap();
    let right = host.bundle(&master);
    assert_eq!(right.generation, ahead.generation + 1);
    assert!(right.issued_at < ahead.issued_at);
}

#[test]
fn a_token_buys_one_certificate_for_one_key() {
    let master = Master::new();
    let invited = master.control.invite(&operator(), &invitation("h")).unwrap();
    let (key, thief) = (HostKey::generate().unwrap(), HostKey::generate().unwrap());
    let wrong = EnrolRequest {
        secret: decnet_pki::secret::Secret::generate()
            .unwrap()
            .reveal()
            .to_string(),
        ..request(&invited.token, &thief)
    };
    assert_eq!(
        master.control.enrol(&stranger(), &wrong).unwrap_err().status(),
        403
    );
    let first = master
        .control
        .enrol(&stranger(), &request(&invited.token, &key))
        .unwrap()
        .unwrap();
    let again = master
        .control
        .enrol(&stranger(), &request(&invited.token, &key))
        .unwrap()
        .unwrap();
    assert_eq!(
        first.certificate, again.certificate,
        "a lost answer costs a retry and nothing else"
    );
    assert_eq!(
        master
            .control
            .enrol(&stranger(), &request(&invited.token, &thief))
            .unwrap_err()
            .status(),
        403
    );
    assert_eq!(
        master
            .control
            .invite(&operator(), &invitation("h"))
            .unwrap_err()
            .status(),
        409
    );
}

#[test]
fn an_expired_token_is_worth_nothing() {
    let master = Master::new();
    let invited = master.control.invite(&operator(), &invitation("h")).unwrap();
    master.pass(TOKEN_LIFETIME + time::Duration::seconds(1));
    let key = HostKey::generate().unwrap();
    assert_eq!(
        master
            .control
            .enrol(&stranger(), &request(&invited.token, &key))
            .unwrap_err()
            .status(),
        403
    );
    let fresh = master.control.invite(&operator(), &invitation("h")).unwrap();
    assert_eq!(
        fresh.host, invited.host,
        "a name whose token was never used may be invited again"
    );
    assert!(
        master
            .control
            .enrol(&stranger(), &request(&invited.token, &key))
            .is_err(),
        "the old token stays worthless"
    );
    assert!(
        master
            .control
            .enrol(&stranger(), &request(&fresh.token, &key))
            .is_ok()
    );
}

#[test]
fn generated_deckies_reach_the_bundle_and_a_plan_draws_what_the_deploy_after_it_draws() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    let body = serde_json::json!({
        "generate": { "deckies": 4, "randomize_services": true, "randomize_distros": true, "ip_start": "10.9.0.100" },
    });
    let request = DeployRequest::from_json(&body).unwrap();
    let planned = master.control.plan(&request).unwrap();
    assert_eq!(
        master.control.deckies().unwrap().len(),
        2,
        "a plan changes nothing"
    );
    assert_eq!(
        master
            .control
            .deploy(&operator(), &request)
            .unwrap()
            .lifecycle_ids
            .len(),
        4
    );
    master.control.publish_due().unwrap();
    assert_eq!(
        names(&host.bundle(&master)),
        ["a", "b", "decky-01", "decky-02", "decky-03", "decky-04"]
    );
    let text = serde_json::to_string(&planned.hosts[0].plan).unwrap();
    let mut addresses = Vec::new();
    for view in master.control.deckies().unwrap() {
        let decky = view.record.decky;
        if decky.name.as_str().starts_with("decky-") {
            assert!(text.contains(decky.hostname.as_str()), "{:?}", decky.hostname);
            addresses.push(decky.address.to_string());
        }
    }
    assert_eq!(
        addresses,
        ["10.9.0.100", "10.9.0.101", "10.9.0.102", "10.9.0.103"]
    );
    assert_eq!(
        master.control.deploy(&operator(), &request).unwrap_err().status(),
        409
    );
}

#[test]
fn the_interval_of_a_whole_generated_fleet_is_the_fleets() {
    let master = Master::new();
    let _host = Host::enrol_on(&master, "h", 3);
    let body = serde_json::json!({
        "generate": { "deckies": 1, "services": ["ssh"], "mutate_interval": 7 },
        "replace_fleet": true,
    });
    master
        .control
        .deploy(&operator(), &DeployRequest::from_json(&body).unwrap())
        .unwrap();
    assert_eq!(master.control.settings().unwrap().mutate_interval.get(), 7);
}
