//! Images that are built from what the master sends, over a line that breaks and from a master that lies.

use decnet_wire::bundle::{Blob, Bundle, Network, Operation, OperationKind, Stack};
use decnet_wire::ids::OperationId;
use decnet_wire::report::PendingStack;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::image::context;
use crate::lab::Lab;
use crate::master::{Faults, Master, token_text};

/// A decky whose every container runs the image that is built from a context.
fn deploy(lab: &Lab, lan: &Network, blob: &Blob) -> Stack {
    let mut compose = lab.decky(lan, 5, &[("http", &["idle"])]);
    for service in compose["services"].as_object_mut().unwrap().values_mut() {
        let service = service.as_object_mut().unwrap();
        service.remove("image");
        let build = json!({"context": format!("blob:{}", blob.digest), "labels": lab.build_labels()});
        service.insert("build".to_owned(), build);
    }
    Stack {
        name: lab.stack("web").parse().unwrap(),
        decky: "web".parse().unwrap(),
        compose: compose.into(),
        operation: Some(Operation {
            id: OperationId::new(Uuid::new_v4()),
            kind: OperationKind::Deploy,
            traceparent: None,
        }),
    }
}

async fn steps(lab: &Lab) -> Vec<String> {
    let journal = lab.run(&["journal", "--json", "--limit", "1000"], "").await;
    let journal: Vec<Value> = serde_json::from_slice(&journal.stdout).unwrap();
    let texts = journal.iter().map(|entry| entry["text"].as_str().unwrap());
    texts.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_that_breaks_off_is_resumed_and_one_with_false_bytes_is_never_built() {
    let master = Master::start().await;
    let mut lab = Lab::new(master.host());
    let enrolled = lab.run(&["enroll", "-"], &token_text(&master.token())).await;
    assert!(enrolled.status.success(), "{enrolled:?}");
    let lan = lab.macvlan();
    let (first, bytes) = context("first");
    master.add_blob(&first.digest, bytes.clone());
    let bundle = |master: &Master, lab: &Lab, generation: u64, blob: &Blob| Bundle {
        networks: vec![lan.clone()],
        blobs: vec![blob.clone()],
        stacks: vec![deploy(lab, &lan, blob)],
        ..master.bundle(generation)
    };

    // Cut in the middle, and the rest of it is of something else: all of it is thrown away and fetched anew.
    master.break_next(Faults {
        cut_blobs: 1,
        false_blobs: 1,
        ..Faults::default()
    });
    lab.start();
    master.publish(&bundle(&master, &lab, 1, &first));
    master.until_converged(1).await;
    let half = format!("bytes={}-", bytes.len() / 2);
    assert_eq!(master.ranges(), [None, Some(half), None]);
    assert_eq!(lab.running().len(), 2, "{:?}", lab.running());
    let built = lab.built();
    assert_eq!(built.len(), 1, "both services have one image: {built:?}");
    assert!(built[0].starts_with("decnet-build:"), "{built:?}");
    assert_eq!(lab.blobs(), [(first.digest.hex().to_owned(), first.size)]);
    let builds = |steps: Vec<String>| {
        steps
            .iter()
            .filter(|step| step.starts_with("build image"))
            .count()
    };
    assert_eq!(builds(steps(&lab).await), 1);

    // A master that sends false bytes, whatever is asked: nothing of them is kept or built, it is said why, and what
    // runs goes on. It is not what was asked that is wrong, so that nothing is given up.
    let (second, bytes) = context("second");
    master.add_blob(&second.digest, bytes);
    master.break_next(Faults {
        false_blobs: u32::MAX,
        ..Faults::default()
    });
    master.publish(&bundle(&master, &lab, 2, &second));
    let lies = |pending: &PendingStack| pending.reason.contains("another digest") && !pending.quarantined;
    master
        .until("the lie is told", |master| {
            let heartbeat = master.heartbeat();
            heartbeat.is_some_and(|heartbeat| heartbeat.pending.iter().any(lies))
        })
        .await;
    assert_eq!(lab.running().len(), 2);
    assert_eq!(lab.built(), built);
    let name = second.digest.hex();
    assert!(
        lab.blobs().iter().all(|(file, _)| file != name),
        "{:?}",
        lab.blobs()
    );

    // It was repaired there: nobody has to ask for anything again.
    master.break_next(Faults::default());
    let retried = lab.run(&["retry"], "").await;
    assert!(retried.status.success(), "{retried:?}");
    master.until_converged(2).await;
    assert_eq!(lab.built().len(), 2);
    assert!(
        lab.blobs()
            .contains(&(second.digest.hex().to_owned(), second.size))
    );

    // What nothing names any more is removed.
    master.publish(&master.bundle(3));
    master.until_converged(3).await;
    assert_eq!(lab.blobs(), []);
    assert_eq!(lab.terminate(), Some(0));
}
