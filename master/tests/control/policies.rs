//! Signed policies, and what goes on beside them.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use decnet::init;
use decnet::keys::{OPERATOR, signing_key};
use decnet::store::{Db, Decision, RedbStore, Store, StoreError, Transaction, View};
use decnet_pki::envelope::Envelope;
use decnet_wire::ids::Timestamp;
use decnet_wire::policy::{PAYLOAD_TYPE, Policy, Rules, SCHEMA};

use crate::scene::{Host, Master, operator, parts_over};

const ONE: &str = "[general]\nnet=10.9.0.0/24\ngw=10.9.0.1\ninterface=lan0\n[a]\nservices=ssh\n";

/// A store to which, once it is asked to, the first who comes is let in when another one waits for it.
#[derive(Debug)]
struct Crossing {
    store: RedbStore,
    door: Arc<Door>,
}

#[derive(Debug, Default)]
struct Door {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    watched: bool,
    came: u32,
    /// The first has the store.
    inside: bool,
}

impl Door {
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait_until(&self, holds: impl Fn(&Seen) -> bool) {
        let seen = self.seen.lock().unwrap();
        drop(self.changed.wait_while(seen, |seen| !holds(seen)).unwrap());
    }
}

impl Store for Crossing {
    fn view(&self) -> Result<Box<dyn View + '_>, StoreError> {
        self.store.view()
    }

    fn transact(&self, work: &mut dyn FnMut(&mut dyn Transaction) -> Decision) -> Result<(), StoreError> {
        let mut place = 0;
        self.door.note(|seen| {
            seen.came += u32::from(seen.watched);
            place = seen.came;
        });
        match place {
            1 => {
                self.door.wait_until(|seen| seen.came == 2);
                self.store.transact(&mut |transaction| {
                    self.door.note(|seen| seen.inside = true);
                    work(transaction)
                })
            }
            2 => {
                self.door.wait_until(|seen| seen.inside);
                self.store.transact(work)
            }
            _ => self.store.transact(work),
        }
    }
}

fn policy(master: &Master, state: &Path, version: u64) -> Vec<u8> {
    let now = *master.now.lock().unwrap();
    let policy = Policy {
        schema: SCHEMA,
        fleet: master.control.fleet_id(),
        version,
        issued_at: now,
        expires_at: Timestamp::new(now.get() + time::Duration::days(30)),
        hosts: None,
        rules: Rules::default(),
    };
    let key = signing_key(&init::keys_path(state).join(OPERATOR)).unwrap();
    Envelope::sign(PAYLOAD_TYPE, serde_json::to_vec(&policy).unwrap(), &[&key]).to_json()
}

/// A change asks for its host's policy while it has the store, and a policy that is taken waits for the store.
#[test]
fn a_policy_is_taken_while_a_decky_changes() {
    let door = Arc::<Door>::default();
    let master = Master::new().restart_from(|folder| {
        let store = RedbStore::open(&init::store_path(folder)).unwrap();
        let door = Arc::clone(&door);
        parts_over(folder, Db::new(Crossing { store, door }))
    });
    let state = master.folder.path().join("master");
    let mut host = Host::enrol(&master, "h1");
    master.deploy(ONE, false).unwrap();
    host.obey(&master);
    let envelope = policy(&master, &state, 1);
    let (done, is_done) = std::sync::mpsc::channel();
    door.note(|seen| seen.watched = true);
    let (control, said) = (Arc::clone(&master.control), done.clone());
    std::thread::spawn(move || {
        let answer = control.mutate(&operator(), &"a".parse().unwrap()).map(drop);
        said.send(("mutate", answer)).unwrap();
    });
    door.wait_until(|seen| seen.came == 1);
    let control = Arc::clone(&master.control);
    std::thread::spawn(move || {
        let answer = control.take_policy(&operator(), &envelope).map(drop);
        done.send(("sign", answer)).unwrap();
    });
    for _ in 0..2 {
        let (what, answer) = is_done
            .recv_timeout(Duration::from_secs(60))
            .expect("they wait for each other");
        answer.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    assert_eq!(master.control.fleet_wide_policy(), Some(1));
}
