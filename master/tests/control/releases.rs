//! Releases of the agent: who may hand one in, which bundles name it, and when the master pauses by itself.

use decnet::control::ControlError;
use decnet::control::releases::RolloutChange;
use decnet::init;
use decnet::keys::{OPERATOR, signing_key};
use decnet::records::RolloutState;
use decnet_pki::digest::Sha256Digest;
use decnet_pki::envelope::Envelope;
use decnet_pki::key::{HostKey, SigningKey};
use decnet_wire::ids::{Digest, HostId};
use decnet_wire::order::Order;
use decnet_wire::release::{
    Format, PAYLOAD_TYPE, Package, Progress, ProgressState, Release, Rollout, SCHEMA, WHOLE,
};

use crate::scene::{Host, Master, invitation, operator, request, stranger};

fn release(master: &Master, sequence: u64, version: &str) -> Release {
    let package = format!("package {version}").into_bytes();
    let digest = Digest::from_sha256(*Sha256Digest::of(&package).as_bytes());
    std::fs::create_dir_all(master.control.blobs()).unwrap();
    std::fs::write(master.control.blobs().join(digest.hex()), &package).unwrap();
    Release {
        schema: SCHEMA,
        fleet: master.control.fleet_id(),
        sequence,
        version: version.parse().unwrap(),
        downgrade: false,
        issued_at: *master.now.lock().unwrap(),
        packages: vec![Package {
            format: Format::Deb,
            architecture: "x86_64".parse().unwrap(),
            digest,
            size: package.len() as u64,
        }],
    }
}

fn signed(release: &Release, key: &SigningKey) -> Vec<u8> {
    Envelope::sign(PAYLOAD_TYPE, serde_json::to_vec(release).unwrap(), &[key]).to_json()
}

fn own_key(master: &Master) -> SigningKey {
    let keys = init::keys_path(&master.folder.path().join("master"));
    signing_key(&keys.join(OPERATOR)).unwrap()
}

fn take(master: &Master, release: &Release) -> Result<u64, ControlError> {
    let envelope = signed(release, &own_key(master));
    master.control.take_release(&operator(), &envelope)
}

fn change(master: &Master, change: &RolloutChange) -> Result<(), ControlError> {
    let done = master.control.roll_out(&operator(), change);
    master.control.publish_due().unwrap();
    done
}

fn advance(sequence: u64, per_mille: u16, hosts: Option<&[HostId]>) -> RolloutChange {
    RolloutChange::Advance {
        sequence,
        per_mille,
        hosts: hosts.map(|hosts| hosts.iter().copied().collect()),
    }
}

fn ordered(master: &Master, host: &Host) -> Option<Rollout> {
    match host.bundle(master).order {
        Some(Order::Update(rollout)) => Some(rollout),
        _ => None,
    }
}

fn says(master: &Master, host: &mut Host, release: &Release, state: ProgressState) {
    let envelope = signed(release, &own_key(master));
    let envelope = Envelope::parse(&envelope, 1 << 20).unwrap();
    host.update = Some(Progress {
        sequence: release.sequence,
        version: release.version.clone(),
        release: Digest::from_sha256(*envelope.digest().as_bytes()),
        state,
        detail: Some("why".to_owned()),
    });
    host.report(master, None, Vec::new());
}

fn state(master: &Master) -> RolloutState {
    master.control.watch_rollout().unwrap();
    master.control.publish_due().unwrap();
    master.control.rollout().unwrap().unwrap().record.state
}

#[test]
fn a_release_is_taken_that_the_operators_signed_that_is_new_and_whose_packages_are_here() {
    let master = Master::new();
    let first = release(&master, 1, "1.0");
    let stranger = SigningKey::generate().unwrap();
    let refused = master
        .control
        .take_release(&operator(), &signed(&first, &stranger));
    assert_eq!(refused.unwrap_err().status(), 422);
    assert_eq!(take(&master, &first).unwrap(), 1);
    let told = take(&master, &first).unwrap_err().to_string();
    assert!(told.contains("release 1 is there already"), "{told}");

    let mut missing = release(&master, 2, "1.1");
    missing.packages[0].digest = Digest::from_sha256([9; 32]);
    let told = take(&master, &missing).unwrap_err().to_string();
    assert!(told.contains("is not on this master"), "{told}");

    let mut cut = release(&master, 2, "1.1");
    cut.packages[0].size += 1;
    let told = take(&master, &cut).unwrap_err().to_string();
    assert!(told.contains("is not on this master"), "{told}");

    let mut lower = release(&master, 2, "0.9");
    let told = take(&master, &lower).unwrap_err().to_string();
    assert!(told.contains("not signed as a downgrade"), "{told}");
    lower.downgrade = true;
    assert_eq!(take(&master, &lower).unwrap(), 2);
    // The highest counts, not the last.
    let told = take(&master, &release(&master, 3, "0.9.5"))
        .unwrap_err()
        .to_string();
    assert!(told.contains("lower than 1.0"), "{told}");
    let told = take(&master, &release(&master, u64::MAX, "2.0"))
        .unwrap_err()
        .to_string();
    assert!(told.contains("too far beyond 2"), "{told}");
    // They are there after a restart as well.
    let master = master.restart();
    assert_eq!(master.control.releases().unwrap().len(), 2);
}

#[test]
fn bundles_of_the_hosts_that_are_meant_name_it_with_the_same_number_and_they_may_fetch_it() {
    let master = Master::new();
    let (first, second) = (Host::enrol(&master, "h1"), Host::enrol(&master, "h2"));
    let release = release(&master, 1, "1.0");
    take(&master, &release).unwrap();
    let package = &release.packages[0].digest;
    assert!(ordered(&master, &first).is_none());
    assert!(!master.control.may_fetch(first.id, package).unwrap());

    change(&master, &advance(1, 100, None)).unwrap();
    for host in [&first, &second] {
        assert_eq!(ordered(&master, host).unwrap().per_mille, 100);
        assert!(master.control.may_fetch(host.id, package).unwrap());
        assert!(
            host.bundle(&master).blobs.is_empty(),
            "another release is no other wish of a stack"
        );
    }
    let told = change(&master, &advance(1, 50, None)).unwrap_err();
    assert_eq!(told.status(), 409, "{told}");
    let told = change(&master, &advance(1, WHOLE + 1, None)).unwrap_err();
    assert_eq!(told.status(), 422, "{told}");
    change(&master, &advance(1, WHOLE, None)).unwrap();
    assert_eq!(ordered(&master, &second).unwrap().per_mille, WHOLE);
    // Nothing that stays as it is makes another bundle.
    let generation = second.bundle(&master).generation;
    master.control.republish_outdated().unwrap();
    master.control.publish_due().unwrap();
    assert_eq!(second.bundle(&master).generation, generation);

    // Narrowed to one host, the other's bundle names it no more.
    change(&master, &advance(1, WHOLE, Some(&[first.id]))).unwrap();
    assert!(ordered(&master, &first).is_some());
    assert!(ordered(&master, &second).is_none());
    assert!(!master.control.may_fetch(second.id, package).unwrap());
    let told = change(
        &master,
        &advance(1, WHOLE, Some(&[HostId::new(uuid::Uuid::nil())])),
    )
    .unwrap_err();
    assert_eq!(told.status(), 422, "{told}");
}

#[test]
fn paused_or_aborted_it_is_in_no_bundle() {
    let master = Master::new();
    let host = Host::enrol(&master, "h1");
    take(&master, &release(&master, 1, "1.0")).unwrap();
    assert_eq!(change(&master, &RolloutChange::Pause).unwrap_err().status(), 409);
    change(&master, &advance(1, 500, None)).unwrap();
    change(&master, &RolloutChange::Pause).unwrap();
    assert!(ordered(&master, &host).is_none());
    assert_eq!(change(&master, &advance(1, 600, None)).unwrap_err().status(), 409);
    change(&master, &RolloutChange::Resume).unwrap();
    assert_eq!(ordered(&master, &host).unwrap().per_mille, 500);
    change(&master, &RolloutChange::Abort).unwrap();
    assert!(ordered(&master, &host).is_none());
    for next in [
        advance(1, WHOLE, None),
        RolloutChange::Resume,
        RolloutChange::Abort,
    ] {
        assert_eq!(change(&master, &next).unwrap_err().status(), 409, "{next:?}");
    }
    // Another release is another rollout; the one before it comes no more.
    take(&master, &release(&master, 2, "1.1")).unwrap();
    change(&master, &advance(2, WHOLE, None)).unwrap();
    assert!(ordered(&master, &host).is_some());
    assert_eq!(
        change(&master, &advance(1, WHOLE, None)).unwrap_err().status(),
        409
    );
}

#[test]
fn it_pauses_by_itself_when_hosts_fail_and_ends_when_all_have_it() {
    let master = Master::new();
    let mut hosts: Vec<Host> = ["h1", "h2", "h3"].map(|name| Host::enrol(&master, name)).into();
    let first = release(&master, 1, "1.0");
    take(&master, &first).unwrap();
    change(&master, &advance(1, WHOLE, None)).unwrap();
    says(&master, &mut hosts[0], &first, ProgressState::Installing);
    assert_eq!(state(&master), RolloutState::Running);
    says(&master, &mut hosts[0], &first, ProgressState::Restored);
    assert_eq!(state(&master), RolloutState::Paused);
    let status = master.control.rollout().unwrap().unwrap();
    assert_eq!(
        status.record.reason.as_deref(),
        Some("1 hosts failed, as in h1: why")
    );
    assert!(ordered(&master, &hosts[1]).is_none());
    // Who goes on knows of that one, and not of the next.
    change(&master, &RolloutChange::Resume).unwrap();
    assert_eq!(state(&master), RolloutState::Running);
    change(&master, &advance(1, WHOLE, None)).unwrap();
    assert_eq!(state(&master), RolloutState::Running);
    says(&master, &mut hosts[1], &first, ProgressState::Refused);
    assert_eq!(state(&master), RolloutState::Paused);
    assert!(!master.control.releases().unwrap()[&1].proven);

    let second = release(&master, 2, "1.1");
    take(&master, &second).unwrap();
    change(&master, &advance(2, WHOLE, None)).unwrap();
    assert_eq!(
        state(&master),
        RolloutState::Running,
        "what was said of another release is nothing"
    );
    for host in &mut hosts[..2] {
        says(&master, host, &second, ProgressState::Kept);
        assert_eq!(state(&master), RolloutState::Running);
    }
    assert!(master.control.releases().unwrap()[&2].proven);
    says(&master, &mut hosts[2], &second, ProgressState::Off);
    assert_eq!(state(&master), RolloutState::Done);
    assert!(
        ordered(&master, &hosts[0]).is_some(),
        "a host that comes back late gets it as well"
    );
}

#[test]
fn what_was_kept_just_before_the_next_release_is_one_to_go_back_to() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h1");
    let (first, second) = (release(&master, 1, "1.0"), release(&master, 2, "1.1"));
    take(&master, &first).unwrap();
    take(&master, &second).unwrap();
    change(&master, &advance(1, WHOLE, None)).unwrap();
    says(&master, &mut host, &first, ProgressState::Kept);
    change(&master, &advance(2, WHOLE, None)).unwrap();
    let releases = master.control.releases().unwrap();
    assert!(releases[&1].proven && !releases[&2].proven);
}

#[test]
fn a_host_that_is_invited_revoked_or_inside_the_master_is_never_meant() {
    let master = Master::new();
    let (known, revoked) = (Host::enrol(&master, "h1"), Host::enrol(&master, "h2"));
    let control = &master.control;
    control.revoke(&operator(), revoked.id).unwrap();
    let invited = control.invite(&operator(), &invitation("h3")).unwrap();
    let embedded = control.invite_embedded(&"local".parse().unwrap(), "127.0.0.1:8771");
    let embedded = embedded.unwrap();
    let key = HostKey::generate().unwrap();
    let enrolled = control.enrol(&stranger(), &request(&embedded.token, &key));
    assert!(enrolled.unwrap().is_some());
    take(&master, &release(&master, 1, "1.0")).unwrap();
    for other in [revoked.id, invited.host, embedded.host] {
        let told = change(&master, &advance(1, WHOLE, Some(&[known.id, other]))).unwrap_err();
        assert_eq!(told.status(), 422, "{told}");
    }
    change(&master, &advance(1, WHOLE, None)).unwrap();
    let meant = control.rollout().unwrap().unwrap().hosts;
    let meant: Vec<&str> = meant.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(meant, ["h1"]);
    assert!(ordered(&master, &known).is_some());
}

#[test]
fn how_many_may_fail_is_a_share_of_the_wave_and_not_of_the_fleet() {
    for (per_mille, most) in [(100, 1), (WHOLE, 2)] {
        let master = Master::new();
        let names = (0..21).map(|number| format!("h{number}"));
        let mut hosts: Vec<Host> = names.map(|name| Host::enrol_quietly(&master, &name)).collect();
        let release = release(&master, 1, "1.0");
        take(&master, &release).unwrap();
        change(&master, &advance(1, per_mille, None)).unwrap();
        for (failed, host) in hosts[..most].iter_mut().enumerate() {
            assert_eq!(state(&master), RolloutState::Running, "{failed} of {most}");
            says(&master, host, &release, ProgressState::Restored);
        }
        assert_eq!(state(&master), RolloutState::Paused);
    }
}
