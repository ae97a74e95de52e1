//! Every document as it was once sent. The files are only added to: a change that breaks one breaks agents or
//! masters that are already out there.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use decnet_wire::bundle::{Bundle, ComposeDocument, Network, Operation};
use decnet_wire::enrol::{
    EnrolRequest, EnrolResponse, EnrolWaiting, LeafResponse, RejoinRequest, RenewRequest, Token,
};
use decnet_wire::order::{Decommission, Tombstone, TombstoneRequest};
use decnet_wire::policy::Policy;
use decnet_wire::release::Release;
use decnet_wire::report::{Report, ReportAnswer};
use decnet_wire::trust::TrustRoot;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads the file as `T`, writes it again, and compares the two as JSON values.
fn holds<T: DeserializeOwned + Serialize>(name: &str) {
    let text = read(name);
    let document: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let before: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_value(&document).unwrap(), before, "{name}");
}

/// Adds a field that nobody knows, at the top, and expects a refusal.
fn is_closed<T: DeserializeOwned>(name: &str) {
    let mut value: serde_json::Value = serde_json::from_str(&read(name)).unwrap();
    value["surprise"] = serde_json::json!(1);
    assert!(
        serde_json::from_value::<T>(value).is_err(),
        "{name} takes an unknown field"
    );
}

#[test]
fn documents_of_schema_1_read_and_write_as_they_did() {
    holds::<Bundle>("bundle-1.json");
    holds::<Bundle>("bundle-1-modes.json");
    holds::<Bundle>("bundle-1-build.json");
    holds::<Bundle>("bundle-1-host-address.json");
    holds::<Bundle>("bundle-1-ipv6.json");
    holds::<Bundle>("bundle-1-traceparent.json");
    holds::<Bundle>("bundle-1-order.json");
    holds::<Bundle>("bundle-1-update.json");
    holds::<Decommission>("decommission-1.json");
    holds::<Release>("release-1.json");
    holds::<Release>("release-1-downgrade.json");
    holds::<Report>("report-1-update.json");
    holds::<Tombstone>("tombstone-1.json");
    holds::<TombstoneRequest>("tombstone-request-1.json");
    holds::<Report>("report-1.json");
    holds::<Report>("report-1-network.json");
    holds::<Report>("report-1-pending.json");
    holds::<ReportAnswer>("report-answer-1.json");
    holds::<ReportAnswer>("report-answer-1-renew.json");
    holds::<Token>("token-1.json");
    holds::<EnrolRequest>("enrol-request-1.json");
    holds::<EnrolResponse>("enrol-response-1.json");
    holds::<EnrolWaiting>("enrol-waiting-1.json");
    holds::<RenewRequest>("renew-request-1.json");
    holds::<RejoinRequest>("rejoin-request-1.json");
    holds::<LeafResponse>("leaf-response-1.json");
    holds::<TrustRoot>("trust-root-1.json");
    holds::<TrustRoot>("trust-root-1-policy.json");
    holds::<Policy>("policy-1.json");
    holds::<Policy>("policy-1-bare.json");
}

#[test]
fn an_unknown_field_is_an_error_in_every_document() {
    is_closed::<Bundle>("bundle-1.json");
    is_closed::<Decommission>("decommission-1.json");
    is_closed::<Release>("release-1.json");
    is_closed::<Tombstone>("tombstone-1.json");
    is_closed::<TombstoneRequest>("tombstone-request-1.json");
    is_closed::<Report>("report-1.json");
    is_closed::<ReportAnswer>("report-answer-1.json");
    is_closed::<Token>("token-1.json");
    is_closed::<EnrolRequest>("enrol-request-1.json");
    is_closed::<EnrolResponse>("enrol-response-1.json");
    is_closed::<EnrolWaiting>("enrol-waiting-1.json");
    is_closed::<RenewRequest>("renew-request-1.json");
    is_closed::<RejoinRequest>("rejoin-request-1.json");
    is_closed::<LeafResponse>("leaf-response-1.json");
    is_closed::<TrustRoot>("trust-root-1.json");
    is_closed::<Policy>("policy-1.json");
}

/// Agents of the first version know no traces: an operation without one has to look to them as it always did.
#[test]
fn an_operation_without_a_trace_is_written_byte_for_byte_as_before_there_were_traces() {
    let text = r#"{"id":"0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11","kind":"deploy"}"#;
    let operation: Operation = serde_json::from_str(text).unwrap();
    assert_eq!(operation.traceparent, None);
    assert_eq!(serde_json::to_string(&operation).unwrap(), text);
}

#[test]
fn a_bundle_with_a_traceparent_that_is_none_is_refused() {
    let text = read("bundle-1-traceparent.json");
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for bad in [
        "",
        "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-state",
    ] {
        assert!(
            serde_json::from_str::<Bundle>(&text.replace(good, bad)).is_err(),
            "{bad:?}"
        );
    }
}

/// Agents of the first version know no modes: a network without one has to look to them as it always did.
#[test]
fn a_network_without_a_mode_is_written_byte_for_byte_as_before_there_were_modes() {
    let text = r#"{"name":"decnet-1a2b3c4d-lan","driver":"macvlan","parent":"eth0","subnet":"10.77.0.0/24","gateway":"10.77.0.1"}"#;
    let network: Network = serde_json::from_str(text).unwrap();
    assert_eq!(network.mode_option(), Some(("macvlan_mode", "bridge")));
    assert_eq!(serde_json::to_string(&network).unwrap(), text);
}

#[test]
fn a_network_has_no_mode_of_another_driver_and_no_unknown_field() {
    let network = |driver: &str, mode: &str| {
        let text = format!(
            r#"{{"name":"n","driver":"{driver}","parent":"eth0.30","subnet":"10.77.0.0/24","mode":"{mode}"}}"#
        );
        serde_json::from_str::<Network>(&text)
    };
    for (driver, modes) in [
        ("macvlan", &["bridge", "private", "vepa", "passthru"][..]),
        ("ipvlan", &["l2", "l3", "l3s"]),
    ] {
        for mode in modes {
            let option = network(driver, mode).unwrap().mode_option();
            assert_eq!(option, Some((&*format!("{driver}_mode"), *mode)));
        }
    }
    for (driver, mode) in [
        ("macvlan", "l2"),
        ("ipvlan", "bridge"),
        ("bridge", "bridge"),
        ("ipvlan", "l4"),
    ] {
        assert!(network(driver, mode).is_err(), "{driver} {mode}");
    }
    let unknown = r#"{"name":"n","driver":"bridge","subnet":"10.77.0.0/24","colour":"red"}"#;
    assert!(serde_json::from_str::<Network>(unknown).is_err());
}

#[test]
fn a_secret_is_not_part_of_a_debug_text() {
    let token: Token = serde_json::from_str(&read("token-1.json")).unwrap();
    assert!(!format!("{token:?}").contains(&token.secret));
    let request: EnrolRequest = serde_json::from_str(&read("enrol-request-1.json")).unwrap();
    assert!(!format!("{request:?}").contains(&request.secret));
}

#[test]
fn a_compose_document_is_kept_to_the_letter() {
    let text = r#"{"services": {"b":{"x":1.50},"a":{}}}"#;
    let document: ComposeDocument = serde_json::from_str(text).unwrap();
    assert_eq!(document.as_str(), text);
    assert_eq!(serde_json::to_string(&document).unwrap(), text);
    let value = document.parse().unwrap();
    assert_eq!(value["services"]["b"]["x"], 1.5);
    let written = ComposeDocument::from(&value);
    assert_ne!(written, document);
    assert_eq!(written.parse().unwrap(), value);
}
