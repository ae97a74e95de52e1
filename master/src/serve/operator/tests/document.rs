//! The OpenAPI document.

use hyper::Method;
use serde_json::Value;

use super::document;
use crate::serve::operator::testing::Master;

#[tokio::test]
async fn the_document_is_openapi_3_1_and_every_reference_resolves() {
    let master = Master::new();
    let served = master
        .ask_as(&master.viewer, Method::GET, "/openapi.json", None)
        .await
        .json();
    assert_eq!(served, serde_json::to_value(document()).unwrap());
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(
        served["components"]["securitySchemes"]["token"]["scheme"],
        "bearer"
    );
    let mut references = Vec::new();
    collect_references(&served, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(served.pointer(pointer).is_some(), "{reference}");
    }
    for (path, operations) in served["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            assert!(operation["operationId"].is_string(), "{method} {path} has no id");
            for status in ["401", "500"] {
                assert!(
                    operation["responses"][status].is_object(),
                    "{method} {path} has no {status}"
                );
            }
        }
    }
}

fn collect_references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                into.push(reference.clone());
            }
            map.values().for_each(|value| collect_references(value, into));
        }
        Value::Array(list) => list.iter().for_each(|value| collect_references(value, into)),
        _ => {}
    }
}
