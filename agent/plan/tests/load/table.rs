//! The table of attributes agrees with the specification's schema, with the page for people, and with the loader.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use decnet_plan::compose::attributes::{self, Support};
use serde_json::Value;

use super::Project;

const SCHEMA: &str = include_str!("../fixtures/compose-spec.json");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compose.md");
const BEGIN: &str = "<!-- The rows are made from agent/plan/src/compose/attributes.tsv. -->\n";

/// Every attribute path of the schema.
fn schema_paths() -> BTreeSet<String> {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let mut paths = BTreeSet::new();
    walk(&schema, &schema, "", &mut paths);
    paths
}

fn walk(schema: &Value, node: &Value, path: &str, paths: &mut BTreeSet<String>) {
    if let Some(reference) = node["$ref"].as_str() {
        let target = schema
            .pointer(reference.trim_start_matches('#'))
            .expect("a definition");
        walk(schema, target, path, paths);
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        for node in node[choice].as_array().into_iter().flatten() {
            walk(schema, node, path, paths);
        }
    }
    let below = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    for (name, node) in node["properties"].as_object().into_iter().flatten() {
        paths.insert(below(name));
        walk(schema, node, &below(name), paths);
    }
    for (pattern, node) in node["patternProperties"].as_object().into_iter().flatten() {
        if !pattern.starts_with("^x-") {
            walk(schema, node, &below("*"), paths);
        }
    }
    if node["additionalProperties"].is_object() {
        walk(schema, &node["additionalProperties"], &below("*"), paths);
    }
    if node["items"].is_object() {
        walk(schema, &node["items"], &format!("{path}[]"), paths);
    }
}

#[test]
fn every_attribute_of_the_schema_has_a_row_and_no_row_is_invented() {
    let schema = schema_paths();
    assert!(
        schema.len() > 300,
        "the walk finds {} attributes only",
        schema.len()
    );
    let table: BTreeSet<String> = attributes::all()
        .map(|attribute| attribute.path.to_owned())
        .collect();
    let missing: Vec<_> = schema.difference(&table).collect();
    let invented: Vec<_> = table.difference(&schema).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "missing {missing:?}, invented {invented:?}"
    );
}

#[test]
fn what_lies_in_a_refused_attribute_is_refused() {
    let support: BTreeMap<_, _> = attributes::all().map(|a| (a.path, a.support)).collect();
    for (path, own) in &support {
        let Some((parent, _)) = path.rsplit_once('.') else {
            continue;
        };
        if let Some(Support::Refused(_)) = support.get(parent.trim_end_matches("[]")) {
            assert!(matches!(own, Support::Refused(_)), "{path}");
        }
    }
}

/// A document that says something at the path, as far as it must be whole for that.
fn document(path: &str) -> String {
    let mut document = "1".to_owned();
    for segment in path.split('.').rev() {
        let name = segment.trim_end_matches("[]");
        if segment.ends_with("[]") {
            document = format!("[{document}]");
        }
        document = match name {
            "*" => format!("{{web: {document}}}"),
            name => format!("{{{name}: {document}}}"),
        };
    }
    document
}

#[test]
fn a_refused_attribute_is_an_error_with_the_reason_of_its_row() {
    for attribute in attributes::all() {
        let Support::Refused(reason) = attribute.support else {
            continue;
        };
        // The error is about the outermost attribute that is refused.
        let mut outer = attribute.path;
        while let Some((parent, _)) = outer.rsplit_once('.')
            && attributes::refusal(parent.trim_end_matches("[]")).is_some()
        {
            outer = parent.trim_end_matches("[]");
        }
        let problem = format!(
            ": not supported: {}",
            attributes::refusal(outer).unwrap_or(reason)
        );
        let errors = Project::new(&document(attribute.path)).errors();
        assert!(
            errors.iter().any(|error| error.ends_with(&problem)),
            "{}: expected {problem:?} in {errors:#?}",
            attribute.path
        );
    }
}

#[test]
fn a_supported_attribute_is_never_called_unsupported_or_unknown() {
    for attribute in attributes::all().filter(|attribute| attribute.support == Support::Supported) {
        let Err(errors) = Project::new(&document(attribute.path)).load() else {
            continue;
        };
        for error in errors {
            let error = error.to_string();
            assert!(
                !error.contains("not supported") && !error.contains("no such attribute"),
                "{}: {error}",
                attribute.path
            );
        }
    }
}

#[test]
fn the_page_shows_the_rows() {
    let page = fs::read_to_string(PAGE).expect("docs/compose.md");
    let (head, _) = page
        .split_once(BEGIN)
        .expect("the line before the rows of docs/compose.md");
    let mut rows = String::from("\n| attribute | | why, or what to know |\n| --- | --- | --- |\n");
    for attribute in attributes::all() {
        let (status, text) = match attribute.support {
            Support::Supported => ("supported", attribute.note),
            Support::Refused(reason) => ("**refused**", reason),
        };
        writeln!(rows, "| `{}` | {status} | {text} |", attribute.path).unwrap();
    }
    let expected = format!("{head}{BEGIN}{rows}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(PAGE, &expected).expect("docs/compose.md can be written");
    }
    assert!(
        page == expected,
        "docs/compose.md is not the table: run this test with UPDATE_DOCS=1"
    );
}
