//! What is asked of a host while things go wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use decnet_plan::sim;
use decnet_wire::bundle::{Bundle, NetworkDriver, OperationKind, Stack};
use decnet_wire::ids::OperationId;
use serde_json::{Value, json};

use super::host::Host;
use crate::testing::{Signer, blob, document, operation, stack};

/// A change of a host that is at rest.
pub(super) struct Script {
    pub(super) signer: Arc<Signer>,
    /// What it had before, if anything.
    pub(super) before: Option<Bundle>,
    pub(super) change: Bundle,
    /// What becomes of the engine in between.
    pub(super) meanwhile: fn(&mut sim::Engine),
    /// Which operations succeed.
    pub(super) ends: BTreeMap<OperationId, bool>,
}

impl Script {
    /// A host that is about to be changed.
    pub(super) async fn host(&self) -> Host {
        let host = Host::new(Arc::clone(&self.signer));
        if let Some(before) = &self.before {
            let mut life = host.boot().unwrap();
            life.poll(&host, before).await.unwrap();
            life.rests().await.unwrap();
            life.end().await;
        }
        (self.meanwhile)(&mut host.machine.engine.lock().unwrap());
        host
    }

    /// Changes it, without anything in the way.
    pub(super) async fn change(&self, host: &Host) {
        let mut life = host.boot().unwrap();
        life.poll(host, &self.change).await.unwrap();
        life.rests().await.unwrap();
        life.end().await;
    }
}

fn web(services: &[&str], number: u128, kind: OperationKind) -> Stack {
    stack("web", document(5, services), Some(operation(number, kind)))
}

fn mail(number: u128) -> Stack {
    let kind = OperationKind::Deploy;
    stack("mail", document(6, &["smtp"]), Some(operation(number, kind)))
}

fn script(before: Option<Vec<Stack>>, change: Vec<Stack>, fails: &[u128]) -> Script {
    let signer = Arc::new(Signer::new());
    let before = before.map(|stacks| signer.bundle(1, stacks));
    let change = signer.bundle(2, change);
    let stacks = before.iter().chain([&change]).flat_map(|bundle| &bundle.stacks);
    let fails: Vec<_> = fails
        .iter()
        .map(|number| operation(*number, OperationKind::Deploy).id)
        .collect();
    let ends = stacks
        .filter_map(|stack| stack.operation)
        .map(|operation| (operation.id, !fails.contains(&operation.id)))
        .collect();
    Script {
        signer,
        before,
        change,
        meanwhile: |_| {},
        ends,
    }
}

fn there() -> Option<Vec<Stack>> {
    Some(vec![web(&["ssh"], 1, OperationKind::Deploy), mail(2)])
}

pub(super) fn deploy() -> Script {
    script(
        None,
        vec![web(&["ssh", "http"], 1, OperationKind::Deploy), mail(2)],
        &[],
    )
}

pub(super) fn mutate() -> Script {
    script(
        there(),
        vec![web(&["http"], 3, OperationKind::Mutate), mail(2)],
        &[],
    )
}

/// Its service ends at once.
pub(super) fn mutate_in_vain() -> Script {
    Script {
        meanwhile: |engine| {
            let ssh = engine
                .containers
                .keys()
                .find(|name| name.contains("ssh"))
                .unwrap();
            let http = ssh.replace("ssh", "http");
            engine.broken.insert(http, 3);
        },
        ..script(
            there(),
            vec![web(&["http"], 3, OperationKind::Mutate), mail(2)],
            &[3],
        )
    }
}

/// Another image and another environment, in one decky.
pub(super) fn update() -> Script {
    let mut changed: Value = document(5, &["ssh"]);
    changed["services"]["ssh"]["image"] = json!("decoy:3");
    changed["services"]["ssh"]["environment"] = json!({"BANNER": "8.2"});
    let changed = stack("web", changed, Some(operation(3, OperationKind::Mutate)));
    let mut script = script(there(), vec![changed, mail(2)], &[]);
    script.change.blobs.push(blob(3));
    script
}

pub(super) fn teardown() -> Script {
    let gone = stack("web", json!({}), Some(operation(3, OperationKind::Teardown)));
    script(there(), vec![gone, mail(2)], &[])
}

/// From macvlan to ipvlan, under all deckies.
pub(super) fn driver() -> Script {
    let again = web(&["ssh"], 3, OperationKind::Deploy);
    let mut script = script(there(), vec![again, mail(4)], &[]);
    for network in &mut script.change.networks {
        network.driver = NetworkDriver::Ipvlan;
    }
    script
}
