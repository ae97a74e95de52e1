use decnet_wire::order::{DECOMMISSION_TYPE, Order};

use super::*;

fn with_order(signer: &Signer, order: &[u8]) -> Bundle {
    Bundle {
        order: Some(Order::Decommission(serde_json::from_slice(order).unwrap())),
        ..signer.bundle(1, Vec::new())
    }
}

#[test]
fn an_order_of_the_operators_is_obeyed_whatever_else_is_wrong() {
    let signer = Signer::new();
    let bundle = with_order(&signer, &signer.decommission(signer.host));
    // Long past the bundle's end: what a host finds that was away for a year.
    let late = hours(now(), 24 * 300);
    for at in [now(), late] {
        let found = examine(&signer.audience(), &Memory::default(), &signer.sign(&bundle), at);
        let Ok(Examined::Leave(order)) = found else {
            panic!("{found:?}");
        };
        assert_eq!(order.document().host, signer.host);
    }
}

#[test]
fn an_order_that_the_operators_did_not_sign_is_refused() {
    let signer = Signer::new();
    let other = Signer::new();
    let payload = br#"{"schema": 1}"#;
    for order in [
        // A stolen master's.
        signer.sign_as(DECOMMISSION_TYPE, payload),
        // Of another fleet's operators.
        other.decommission(signer.host),
        // Another host's.
        signer.decommission(HostId::new(Uuid::from_u128(77))),
        // Another document of the operators'.
        signer.sign_policy(&signer.policy(1, &json!({}))),
    ] {
        let bundle = with_order(&signer, &order);
        let (code, detail) = refused(&signer, &Memory::default(), &signer.sign(&bundle), now());
        assert_eq!(code, Code::Order, "{detail}");
    }
}

#[test]
fn an_order_for_this_host_in_another_hosts_bundle_is_not_looked_at() {
    let signer = Signer::new();
    let bundle = Bundle {
        host: HostId::new(Uuid::from_u128(77)),
        ..with_order(&signer, &signer.decommission(signer.host))
    };
    let (code, _) = refused(&signer, &Memory::default(), &signer.sign(&bundle), now());
    assert_eq!(code, Code::Audience);
}

fn admission(signer: &Signer, ledger: &Arc<Ledger>, orders: Orders) -> Admission {
    let bundles = watch::channel(None).0;
    Admission::new(
        signer.audiences(),
        Arc::clone(ledger),
        FixedClock::at(now()),
        bundles,
    )
    .ordering(orders)
}

#[tokio::test]
async fn an_order_is_in_the_ledger_before_anybody_acts_on_it() {
    let signer = Signer::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let open = || Arc::new(Ledger::open(&path, now()).unwrap().ledger);
    let (ledger, (orders, ordered)) = (open(), watch::channel(None));
    let verdict = admission(&signer, &ledger, orders)
        .admit_order(&signer.decommission(signer.host))
        .await
        .unwrap();
    assert!(matches!(verdict, Verdict::Accepted));
    assert!(ordered.borrow().is_some());
    let kept = ledger.order().unwrap().unwrap();
    drop(ledger);

    // The next life begins with it, and nothing else.
    let (ledger, (orders, ordered)) = (open(), watch::channel(None));
    admission(&signer, &ledger, orders).restore().unwrap();
    let order = ordered.borrow().clone().unwrap();
    assert_eq!(order.envelope().to_json(), kept.envelope.into_bytes());
}

#[tokio::test]
async fn an_order_that_is_not_believed_leaves_the_host_as_it_is() {
    let signer = Signer::new();
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&folder.path().join("ledger.redb"), now())
        .unwrap()
        .ledger;
    let (ledger, (orders, ordered)) = (Arc::new(ledger), watch::channel(None));
    let verdict = admission(&signer, &ledger, orders)
        .admit_order(&Signer::new().decommission(signer.host))
        .await
        .unwrap();
    assert!(matches!(verdict, Verdict::Refused));
    assert!(ordered.borrow().is_none() && ledger.order().unwrap().is_none());
    assert_eq!(ledger.refusals().unwrap().last().unwrap().code, "order");
}
