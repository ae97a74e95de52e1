//! `decnet-agent compose config` against `docker compose config`: what the files mean, without an engine.
//!
//! Nothing (null, an empty list, an empty mapping) counts as if it were not there, but where it says something: see
//! [`SAYS`].

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use decnet_tests::oracle::contender::Contender;
use decnet_tests::oracle::fixture::{self, Fixture};
use decnet_tests::oracle::{none_differ, snapshot};
use serde_json::{Value, json};

/// Where nothing is a value: an empty command is not the image's, a variable without a value takes that of the image
/// away, and a network is joined without saying more.
const SAYS: [&str; 4] = ["command", "entrypoint", "environment", "networks"];

#[test]
fn the_same_files_make_the_same_document_under_docker_compose() -> Result<()> {
    let environment = BTreeMap::from([
        ("PARENT".to_owned(), "lan0".to_owned()),
        ("LAN".to_owned(), "10.99.7".to_owned()),
    ]);
    let fixtures = fixture::all()?;
    ensure!(fixtures.len() >= 60, "only {} fixtures", fixtures.len());
    let mut failures = Vec::new();
    for fixture in &fixtures {
        let found = examine(fixture, &environment).unwrap_or_else(|error| vec![format!("{error:#}")]);
        failures.extend(found.into_iter().map(|line| format!("{}: {line}", fixture.name)));
    }
    none_differ(&failures)
}

fn examine(fixture: &Fixture, environment: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let copy = fixture.copy()?;
    let config = |contender: Contender| -> Result<Value> {
        let mut document = contender.config(fixture, &copy.folder, environment)?;
        tidy(&mut document, false);
        Ok(document)
    };
    let (compose, ours) = (config(Contender::Compose)?, config(Contender::Ours)?);
    let mut found = Vec::new();
    let mut used = BTreeSet::new();
    for snapshot::Difference { at, one, other } in snapshot::differences(&compose, &ours) {
        match fixture.config_difference(&at) {
            Some(row) => drop(used.insert(row)),
            None => found.push(format!("{at}: compose has {one}, ours {other}")),
        }
    }
    let stale = fixture
        .config_differences
        .keys()
        .filter(|row| !used.contains(row.as_str()));
    found.extend(stale.map(|row| format!("{row} is in config-differences.tsv, and is the same now")));
    Ok(found)
}

/// Takes out what says nothing.
fn tidy(value: &mut Value, says: bool) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                tidy(value, SAYS.contains(&key.as_str()));
            }
            // Docker Compose prints a command that no file has as null.
            if says {
                map.values_mut()
                    .filter(|value| value.is_null())
                    .for_each(|value| *value = json!("nothing"));
            }
            map.retain(|key, value| match value {
                Value::Null => false,
                Value::Array(list) => !list.is_empty() || SAYS.contains(&key.as_str()),
                Value::Object(map) => !map.is_empty(),
                _ => true,
            });
        }
        Value::Array(list) => list.iter_mut().for_each(|item| tidy(item, false)),
        _ => {}
    }
}
