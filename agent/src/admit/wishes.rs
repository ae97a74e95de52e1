//! What a bundle asks of each of its stacks, as one digest.

use std::collections::BTreeMap;

use decnet_wire::bundle::{Bundle, Operation};
use decnet_wire::ids::{Digest, StackName};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// SHA-256 over the stack's document and operation and over what any document may name: networks and blobs. Two
/// bundles that ask the same of a stack give the same, whatever their numbers and their other stacks.
pub(crate) fn wishes(bundle: &Bundle) -> BTreeMap<StackName, Digest> {
    let mut shared = Sha256::new();
    add(&mut shared, &(&bundle.networks, &bundle.blobs));
    let stacks = bundle.stacks.iter().map(|stack| {
        let mut hash = shared.clone();
        // Whether it is traced is no part of what it asks.
        let operation = stack.operation.map(|operation| Operation {
            traceparent: None,
            ..operation
        });
        add(&mut hash, &(&stack.decky, &stack.compose, operation));
        (stack.name.clone(), Digest::from_sha256(hash.finalize().into()))
    });
    stacks.collect()
}

fn add(hash: &mut Sha256, part: &impl Serialize) {
    // What was read from JSON can be written as JSON.
    hash.update(serde_json::to_vec(part).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use decnet_wire::bundle::OperationKind;

    use super::*;
    use crate::testing::{Signer, document, operation, stack};

    #[test]
    fn a_bundle_that_asks_the_same_of_a_stack_is_no_new_wish_and_every_other_is() {
        let signer = Signer::new();
        let web = |services: &[&str], number| {
            stack(
                "web",
                document(5, services),
                Some(operation(number, OperationKind::Deploy)),
            )
        };
        let wish = |bundle: &Bundle| wishes(bundle)[&"web".parse().unwrap()].clone();
        let first = wish(&signer.bundle(1, vec![web(&["ssh"], 1)]));
        let neighbour = stack("mail", document(6, &["smtp"]), None);
        assert_eq!(wish(&signer.bundle(2, vec![neighbour, web(&["ssh"], 1)])), first);
        assert_ne!(wish(&signer.bundle(2, vec![web(&["http"], 1)])), first);
        assert_ne!(
            wish(&signer.bundle(2, vec![web(&["ssh"], 2)])),
            first,
            "asked again"
        );
        let mut traced = web(&["ssh"], 1);
        traced.operation = traced.operation.map(|operation| Operation {
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
                .parse()
                .ok(),
            ..operation
        });
        assert!(traced.operation.unwrap().traceparent.is_some());
        assert_eq!(wish(&signer.bundle(2, vec![traced])), first, "it is only traced");
        let mut image = signer.bundle(2, vec![web(&["ssh"], 1)]);
        image.blobs.pop();
        assert_ne!(wish(&image), first, "another image");
        let mut lan = signer.bundle(2, vec![web(&["ssh"], 1)]);
        lan.networks[0].gateway = Some("10.9.0.1".parse().unwrap());
        assert_ne!(wish(&lan), first, "another LAN");
    }
}
