//! Backup and restore: an older store in the place of a newer one, and hosts that know more than it.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use decnet::backup::{Backup, BackupError, Restored, restore};
use decnet::init::{self, InitArgs};
use decnet::keys::MasterKeys;
use decnet::records::{Cause, Role, RowStatus};
use decnet_pki::key::HostKey;
use decnet_wire::bundle::Bundle;
use decnet_wire::ids::{DeckyName, Digest};
use decnet_wire::observed::Observed;
use decnet_wire::report::{Accepted, Outcome};

use crate::scene::{Host, Master, TWO, invitation, names, operator, parts, request, sha, stranger};

const MORE: &str = "[c]\nservices=redis\n";

fn name(text: &str) -> DeckyName {
    text.parse().unwrap()
}

fn backup(master: &Master) -> PathBuf {
    let path = master.folder.path().join("backup");
    let taken_at = master.control.note_backup(&operator()).unwrap();
    master
        .control
        .backup(taken_at, File::create(&path).unwrap())
        .unwrap();
    path
}

fn state_dir(master: &Master) -> PathBuf {
    master.folder.path().join("master")
}

/// Stops the master, restores, starts it again.
fn restored(master: Master, file: &std::path::Path) -> (Master, Restored) {
    let mut told = None;
    let now = *master.now.lock().unwrap();
    let master = master.restart_from(|folder| {
        told = Some(restore(file, folder, &operator(), now).unwrap());
        parts(folder)
    });
    (master, told.unwrap())
}

/// What an agent remembers, and the order in which it takes bundles (`check_order` of the agent's admission).
struct Agent {
    accepted: Option<Accepted>,
}

impl Agent {
    fn admit(&mut self, bundle: &Bundle) {
        let digest = Digest::from_sha256(sha(bundle));
        if let Some(accepted) = &self.accepted {
            assert!(
                bundle.generation > accepted.generation || digest == accepted.digest,
                "generation {} after {}",
                bundle.generation,
                accepted.generation
            );
            if bundle.generation == accepted.generation + 1 {
                assert_eq!(bundle.previous.as_ref(), Some(&accepted.digest), "a fork");
            }
            assert!(bundle.generation - accepted.generation <= 1 << 20, "a jump");
        }
        self.accepted = Some(Accepted {
            epoch: bundle.epoch,
            generation: bundle.generation,
            digest,
        });
    }
}

#[test]
fn a_restored_master_goes_on_after_what_its_hosts_have_accepted() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    let mut agent = Agent { accepted: None };
    master.deploy(TWO, false).unwrap();
    agent.admit(&host.bundle(&master));
    host.obey(&master);
    let open = master.control.mutate(&operator(), &name("a")).unwrap();
    master.control.publish_due().unwrap();
    let file = backup(&master);

    agent.admit(&host.bundle(&master));
    host.say(&master, open, Outcome::Succeeded);
    for round in 0..5 {
        master
            .deploy(&MORE.replace("[c]", &format!("[c{round}]")), false)
            .unwrap();
        agent.admit(&host.bundle(&master));
        host.obey(&master);
    }
    let known = agent.accepted.clone().unwrap();

    let (master, told) = restored(master, &file);
    assert_eq!(told.awaited.len(), 1);
    assert!(told.replaced.unwrap().exists());
    let published = master.control.bundle(host.id).unwrap();
    // It says nothing of itself before it has heard.
    let request = decnet::control::deploy::DeployRequest::of_text(MORE, false);
    master.control.deploy(&operator(), &request).unwrap();
    master.control.publish_due().unwrap();
    master.control.republish_outdated().unwrap();
    master.control.publish_due().unwrap();
    assert_eq!(master.control.envelope(host.id, 0).unwrap(), None);
    let signed = master.control.bundle(host.id).unwrap();
    assert_eq!(
        signed, published,
        "its host may have seen another one of that number"
    );
    assert_eq!(master.control.awaited().unwrap().len(), 1);
    // Also not after another start.
    let master = master.restart();
    master.control.publish_due().unwrap();
    assert_eq!(master.control.envelope(host.id, 0).unwrap(), None);

    let answer = host.report_accepted(&master, agent.accepted.clone(), None, vec![]);
    assert!(answer.resync, "what the store saw is older");
    let bundle = host.bundle(&master);
    assert!(bundle.generation > known.generation);
    assert_eq!(bundle.previous, Some(known.digest));
    agent.admit(&bundle);
    assert_eq!(names(&bundle), ["a", "b", "c"]);
    assert!(master.control.awaited().unwrap().is_empty());

    // The row that was open then, and of which nobody will say a word, ends as the host is.
    assert_eq!(master.row(open).status, RowStatus::Pending);
    master.pass(time::Duration::minutes(16));
    host.report_accepted(&master, agent.accepted.clone(), Some(Observed::default()), vec![]);
    master.control.fail_overdue().unwrap();
    assert_eq!(master.row(open).status, RowStatus::Succeeded);
    // Its events go on under the numbers that it has.
    let next = master.control.mutate(&operator(), &name("b")).unwrap();
    master.control.publish_due().unwrap();
    agent.admit(&host.bundle(&master));
    host.say(&master, next, Outcome::Succeeded);
    assert_eq!(master.row(next).status, RowStatus::Succeeded);
}

#[test]
fn a_backup_of_now_changes_nothing_but_the_next_number() {
    let master = Master::new();
    let mut host = Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    host.obey(&master);
    let before = host.bundle(&master);
    let file = backup(&master);
    let (master, _) = restored(master, &file);
    let accepted = Accepted {
        epoch: before.epoch,
        generation: before.generation,
        digest: Digest::from_sha256(sha(&before)),
    };
    host.report_accepted(&master, Some(accepted.clone()), None, vec![]);
    let after = host.bundle(&master);
    assert_eq!(after.generation, before.generation + 1);
    assert_eq!(after.previous, Some(accepted.digest));
    assert_eq!(
        (&after.stacks, &after.networks),
        (&before.stacks, &before.networks)
    );
}

#[test]
fn a_host_that_lags_behind_the_backup_is_not_sent_back() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    let old = host.bundle(&master);
    master.deploy(TWO, false).unwrap();
    let file = backup(&master);
    let (master, _) = restored(master, &file);
    let mut agent = Agent { accepted: None };
    agent.admit(&old);
    host.report_accepted(&master, agent.accepted.clone(), None, vec![]);
    agent.admit(&host.bundle(&master));
    // One that has nothing at all gets a number beyond everything.
    let file = backup(&master);
    let before = host.bundle(&master).generation;
    let (master, _) = restored(master, &file);
    host.report_accepted(&master, None, None, vec![]);
    assert!(host.bundle(&master).generation > before + 60_000);
}

#[test]
fn an_operator_may_give_a_silent_host_up() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    let before = host.bundle(&master).generation;
    let file = backup(&master);
    let (master, _) = restored(master, &file);
    master.control.accept_loss(&operator(), host.id).unwrap();
    master.control.publish_due().unwrap();
    let after = host.bundle(&master).generation;
    assert!(after > before + 60_000 && after < before + (1 << 20));
    let again = master.control.accept_loss(&operator(), host.id).unwrap_err();
    assert_eq!(again.status(), 409);
}

/// Whatever a host says, it can use up no numbers but those that its agent would follow.
#[test]
fn a_host_that_says_it_is_far_ahead_is_not_believed() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    let file = backup(&master);
    let (master, _) = restored(master, &file);
    let accepted = Accepted {
        epoch: 1,
        generation: u64::MAX,
        digest: Digest::from_sha256([9; 32]),
    };
    host.report_accepted(&master, Some(accepted), None, vec![]);
    assert_eq!(master.control.awaited().unwrap().len(), 1);
}

#[test]
fn what_was_used_up_or_revoked_since_stays_so() {
    let master = Master::new();
    let revoked = Host::enrol(&master, "revoked");
    let invited = master.control.invite(&operator(), &invitation("late")).unwrap();
    let lost = master
        .control
        .create_token(&operator(), "lost", Role::Admin, None)
        .unwrap();
    let open = { master.deploy(TWO, false).unwrap()[0] };
    let file = backup(&master);
    let key = HostKey::generate().unwrap();
    let used = master
        .control
        .enrol(&stranger(), &request(&invited.token, &key))
        .unwrap();
    assert!(used.is_some());
    master.control.revoke(&operator(), revoked.id).unwrap();
    master.control.revoke_token(&operator(), "lost").unwrap();
    master.control.invite(&operator(), &invitation("newer")).unwrap();

    let (master, told) = restored(master, &file);
    let since = told.since.unwrap();
    assert_eq!(since.revoked, ["revoked".parse().unwrap()]);
    assert_eq!(since.unknown, ["newer".parse().unwrap()]);
    assert_eq!(since.tokens, ["lost"]);
    assert_eq!(told.voided, 2, "that of the host that had used its own as well");
    assert!(told.awaited.is_empty());
    let other = HostKey::generate().unwrap();
    for key in [&key, &other] {
        let again = master.control.enrol(&stranger(), &request(&invited.token, key));
        assert!(!matches!(again, Ok(Some(_))), "a token was used twice");
    }
    assert!(master.control.host(revoked.id).unwrap().host.revoked);
    assert!(master.control.operator(&lost).unwrap().is_none());
    master.control.fail_overdue().unwrap();
    assert_eq!(master.row(open).cause, Some(Cause::HostGone));
    // The log tells of it.
    let page = master
        .control
        .audit(&decnet::control::audit::AuditFilter {
            action: Some("fleet.restore".to_owned()),
            limit: 10,
            ..Default::default()
        })
        .unwrap();
    assert_eq!(page.entries.len(), 1);
    assert_eq!(page.entries[0]["after"]["stay_revoked"]["names"][0], "revoked");
    let mut chain = decnet::audit::Chain::new(None);
    let all = decnet::control::audit::AuditFilter {
        after: Some(0),
        limit: 1000,
        ..Default::default()
    };
    for entry in master.control.audit(&all).unwrap().entries {
        chain.follow(&entry).unwrap();
    }
    chain.end().unwrap();
}

#[test]
fn a_damaged_backup_or_anothers_changes_nothing() {
    let master = Master::new();
    Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    let file = backup(&master);
    let folder = state_dir(&master);
    let now = *master.now.lock().unwrap();
    let held = restore(&file, &folder, &operator(), now);
    assert!(matches!(held, Err(BackupError::Held(_))), "{held:?}");
    drop(master.control);
    let store = init::store_path(&folder);
    let before = std::fs::read(&store).unwrap();
    let whole = std::fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 97) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        for bytes in [&whole[..at], &changed[..]] {
            std::fs::write(&file, bytes).unwrap();
            let refused = restore(&file, &folder, &operator(), now);
            assert!(refused.is_err(), "{at}");
        }
    }
    assert!(std::fs::read(&store).unwrap() == before);

    std::fs::write(&file, &whole).unwrap();
    let other = master.folder.path().join("other");
    let args = InitArgs {
        state_dir: other.clone(),
        advertise: vec!["m".to_owned()],
    };
    init::run(&args, now).unwrap();
    let refused = restore(&file, &other, &operator(), now);
    assert!(
        matches!(refused, Err(BackupError::OtherFleet { .. })),
        "{refused:?}"
    );
    let bare = master.folder.path().join("bare");
    let refused = restore(&file, &bare, &operator(), now);
    assert!(matches!(refused, Err(BackupError::NoKeys(_))), "{refused:?}");
}

#[test]
fn a_backup_with_keys_makes_a_master_anywhere_and_a_damaged_store_is_replaced() {
    let master = Master::new();
    let host = Host::enrol(&master, "h");
    let file = backup(&master);
    {
        let before = BufReader::new(File::open(&file).unwrap());
        let more = File::options().append(true).open(&file).unwrap();
        let mut sealing = decnet::backup::Sealing::resume(more, before).unwrap();
        assert!(sealing.add_files(&init::keys_path(&state_dir(&master))).unwrap() >= 5);
    }
    let (header, keys) = Backup::open(BufReader::new(File::open(&file).unwrap()))
        .unwrap()
        .check()
        .unwrap();
    assert!(keys);
    assert_eq!(header.tables["hosts"], 1);
    let elsewhere = master.folder.path().join("elsewhere");
    let now = *master.now.lock().unwrap();
    let told = restore(&file, &elsewhere, &operator(), now).unwrap();
    assert!(told.keys && told.replaced.is_none() && told.since.is_none());
    assert_eq!(told.believed.len(), 1);
    MasterKeys::load(&init::keys_path(&elsewhere)).unwrap();

    // A store that does not read is no reason to have none.
    std::fs::write(init::store_path(&elsewhere), b"no store").unwrap();
    let told = restore(&file, &elsewhere, &operator(), now).unwrap();
    assert!(!told.keys && told.since.is_none());
    assert_eq!(std::fs::read(told.replaced.unwrap()).unwrap(), b"no store");
    drop(host);
}

/// Root restored; the master, which runs as another user, could not open its store.
#[test]
fn nobody_restores_what_the_masters_user_could_not_open() {
    let master = Master::new();
    let file = backup(&master);
    let now = *master.now.lock().unwrap();
    // A folder of another user: root's for everybody else, and for root one that was given away.
    let folder = if nix::unistd::geteuid().is_root() {
        let folder = master.folder.path().join("other");
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::chown(&folder, Some(12_345), None).unwrap();
        folder
    } else {
        PathBuf::from("/")
    };
    let refused = restore(&file, &folder, &operator(), now);
    assert!(matches!(refused, Err(BackupError::Owner { .. })), "{refused:?}");
}

/// Writers go on while a backup is read slowly, and it has nothing of what they write.
#[test]
fn a_backup_is_of_one_moment_and_nobody_waits_for_it() {
    struct Slow<'a>(&'a Master, Vec<u8>, u32);
    impl std::io::Write for Slow<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.2 < 5 {
                self.2 += 1;
                let master = self.0;
                master.control.mutate(&operator(), &name("a")).unwrap();
            }
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let master = Master::new();
    Host::enrol(&master, "h");
    master.deploy(TWO, false).unwrap();
    let now = *master.now.lock().unwrap();
    let mut slow = Slow(&master, Vec::new(), 0);
    master.control.backup(now, &mut slow).unwrap();
    assert_eq!(slow.2, 5);
    let (header, _) = Backup::open(slow.1.as_slice()).unwrap().check().unwrap();
    assert_eq!(header.tables["lifecycle-rows"], 2);
}
