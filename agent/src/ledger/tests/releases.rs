//! Ledgers as released versions have written them.
//!
//! At a release: `DECNET_KEEP_LEDGER=1 cargo test -p decnet-agent --lib releases` writes this version's ledger to
//! `src/ledger/fixtures/<version>.redb`; put it under [`RELEASED`]. A file that is there is never written again. Where
//! a record has changed since, its `Record::VERSION` is higher, it is read as the older one was meant, and the
//! expectations below say so.

use decnet_plan::desired::Leases;
use decnet_plan::unused::Fetched;
use redb::ReadableTable as _;

use super::*;
use crate::ledger::records::{Merged, RefusalRecord};
use crate::ledger::tables::{ACCEPTED, MERGED, ONLY};

const RELEASED: &[(&str, &[u8])] = &[("0.1.0", include_bytes!("../fixtures/0.1.0.redb"))];

fn deploy() -> decnet_wire::bundle::Operation {
    operation(1, OperationKind::Deploy)
}

fn policy() -> PolicyRecord {
    PolicyRecord {
        envelope: "{\"payload\": \"a policy\"}".to_owned(),
        accepted_at: now(),
    }
}

fn good() -> LastGood {
    LastGood {
        decky: "mail".parse().unwrap(),
        compose: document(6, &["smtp"]).into(),
        networks: vec![crate::testing::network()],
        blobs: vec![crate::testing::blob(1)],
    }
}

fn leases() -> Leases {
    let lease = serde_json::json!({"address": "10.9.0.5", "mac": "02:00:0a:09:00:05"});
    serde_json::from_value(serde_json::json!({"web/base/decnet-lan": lease})).unwrap()
}

fn step() -> JournalEntry {
    JournalEntry {
        number: 0,
        round: 7,
        index: 2,
        stack: Some("web".parse().unwrap()),
        text: "start container web-ssh-1".to_owned(),
        step: serde_json::json!({"start-container": {"name": "web-ssh-1"}}),
        begun_at: now(),
        outcome: None,
    }
}

/// A record in every table.
async fn fill(ledger: &Ledger) {
    let wishes = acceptance(0, vec![stack("web", document(5, &["ssh"]), Some(deploy()))]).wishes;
    let acceptance = Acceptance {
        envelope: b"an envelope".to_vec(),
        record: record(3),
        stacks: vec![
            stack("web", document(5, &["ssh"]), Some(deploy())),
            stack("mail", document(6, &["smtp"]), None),
        ],
        policy: Some(policy()),
        wishes: wishes.clone(),
    };
    let change = move |tx: &Tx| {
        tx.accept(&acceptance)?;
        tx.hold(&policy())?;
        tx.begin(now(), &[deploy().id])?;
        let settled = Settled {
            stack: "mail".parse().unwrap(),
            operation: None,
            good: Some(good()),
            close_incident: false,
            close_trouble: false,
        };
        tx.settle(now(), &[settled])?;
        tx.drift(
            now(),
            &"mail".parse().unwrap(),
            &"mail".parse().unwrap(),
            "it exited",
        )?;
        tx.refuse(now(), &refusal(), "it expired", Some(4))?;
        tx.try_failed(now(), &failed(deploy().id, "no such image", Fault::Wish))?;
        tx.lease(&leases())?;
        tx.fetched(
            "decoy:1",
            Fetched {
                needed_at: 1_772_366_400,
            },
        )?;
        let number = tx.journal_intent(&step())?;
        tx.journal_outcome(number, now(), Some("no such image".to_owned()))?;
        tx.put(&MERGED, "drift mail", &merged())
    };
    ledger.write(change).await.unwrap();
}

fn refusal() -> RefusalRecord {
    RefusalRecord {
        digest: Digest::from_sha256([9; 32]),
        code: "expired".to_owned(),
        stands: true,
    }
}

fn merged() -> Merged {
    Merged {
        seq: 1_772_366_400_001,
        count: 12,
        since: now(),
    }
}

/// What a release keeps is what its successors can read, or nobody would know before the next release.
#[tokio::test]
async fn the_ledger_of_this_version_is_one_that_can_be_kept() {
    let file = File::new();
    let ledger = file.open();
    fill(&ledger).await;
    drop(ledger);
    let mut db = Database::open(file.path()).unwrap();
    while db.compact().unwrap() {}
    drop(db);
    let bytes = std::fs::read(file.path()).unwrap();
    is_read_whole(crate::VERSION, &bytes).await;
    if std::env::var_os("DECNET_KEEP_LEDGER").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/ledger/fixtures")
            .join(format!("{}.redb", crate::VERSION));
        assert!(
            !path.exists(),
            "{} is there: it is never written again",
            path.display()
        );
        std::fs::write(path, bytes).unwrap();
    }
}

#[tokio::test]
async fn a_ledger_of_every_released_version_is_read_whole() {
    for (version, bytes) in RELEASED {
        is_read_whole(version, bytes).await;
    }
}

async fn is_read_whole(version: &str, bytes: &[u8]) {
    let file = File::new();
    std::fs::write(file.path(), bytes).unwrap();
    let ledger = file.open();
    assert_eq!(ledger.accepted().unwrap(), Some(record(3)), "{version}");
    assert_eq!(ledger.envelope().unwrap().unwrap(), b"an envelope", "{version}");
    assert_eq!(ledger.policy().unwrap(), Some(policy()), "{version}");
    assert_eq!(ledger.bundle_policy().unwrap(), Some(policy()), "{version}");
    let operation = OperationRecord {
        stack: "web".parse().unwrap(),
        decky: "web".parse().unwrap(),
        kind: OperationKind::Deploy,
        state: OperationState::Running,
        attempts: 1,
        error: Some("no such image".to_owned()),
        opened_at: now(),
        changed_at: now(),
    };
    assert_eq!(
        ledger.operations().unwrap(),
        BTreeMap::from([(deploy().id, operation)]),
        "{version}"
    );
    let mail: StackName = "mail".parse().unwrap();
    assert_eq!(
        ledger.last_good().unwrap(),
        BTreeMap::from([(mail.clone(), good())])
    );
    let incident = Incident {
        since: now(),
        cause: IncidentCause::Drift,
    };
    assert_eq!(ledger.incidents().unwrap(), BTreeMap::from([(mail, incident)]));
    let trouble = &ledger.troubles().unwrap()[&"web".parse::<StackName>().unwrap()];
    assert_eq!(
        (trouble.tries, trouble.counted, trouble.quarantined),
        (1, 1, false)
    );
    assert_eq!(trouble.reason, "no such image", "{version}");
    assert_eq!(ledger.refusals().unwrap(), [refusal()], "{version}");
    assert_eq!(ledger.leases().unwrap(), leases(), "{version}");
    assert_eq!(ledger.fetched().unwrap()["decoy:1"].needed_at, 1_772_366_400);
    let outcome = StepOutcome {
        at: now(),
        error: Some("no such image".to_owned()),
    };
    let step = JournalEntry {
        number: 1,
        outcome: Some(outcome),
        ..step()
    };
    assert_eq!(ledger.journal(9).unwrap(), [step], "{version}");
    assert_eq!(
        outcomes(&ledger),
        ["running", "drift mail", "refused expired"],
        "{version}"
    );
    let numbers: Vec<u64> = ledger
        .waiting_events()
        .unwrap()
        .iter()
        .map(|event| event.seq)
        .collect();
    let first = 1_772_366_400_000;
    assert_eq!(numbers, [first, first + 1, first + 2], "{version}");
    let merged_now = ledger
        .read(|snapshot| snapshot.keyed(&MERGED, "drift mail"))
        .unwrap();
    assert_eq!(merged_now, Some(merged()), "{version}");
    // And it goes on from there.
    ledger
        .write(|tx| tx.drift(now(), &"web".parse().unwrap(), &"web".parse().unwrap(), "x"))
        .await
        .unwrap();
    assert_eq!(ledger.waiting_events().unwrap().last().unwrap().seq, first + 3);
}

/// Whoever goes back to an older agent is told so, and can go forth again.
#[tokio::test]
async fn a_record_of_a_newer_version_is_refused_by_name_and_the_file_is_left_alone() {
    let file = File::new();
    fill(&file.open()).await;
    let rewrite = |from: &str, to: &str| {
        let db = Database::open(file.path()).unwrap();
        let tx = db.begin_write().unwrap();
        {
            let mut table = tx.open_table(ACCEPTED.definition).unwrap();
            let text = String::from_utf8(table.get(ONLY).unwrap().unwrap().value().to_vec()).unwrap();
            assert!(text.starts_with(from), "{text}");
            table.insert(ONLY, text.replacen(from, to, 1).as_bytes()).unwrap();
        }
        tx.commit().unwrap();
    };
    rewrite("{\"v\":1,", "{\"v\":2,\"new\":{\"a\":[1]},");
    let error = Ledger::open(&file.path(), now()).unwrap_err();
    assert!(
        matches!(
            error,
            LedgerError::Version {
                table: "accepted",
                found: 2,
                known: 1
            }
        ),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "a record of the ledger's table accepted is of version 2, newer than this agent's 1"
    );
    assert!(!error.may_pass());
    let names: Vec<_> = std::fs::read_dir(file.0.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["ledger.redb"], "nothing is set aside");
    rewrite("{\"v\":2,\"new\":{\"a\":[1]},", "{\"v\":1,");
    assert_eq!(file.open().accepted().unwrap(), Some(record(3)));
}
