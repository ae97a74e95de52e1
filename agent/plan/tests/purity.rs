//! The crates that decide have no way to do anything: none of the crates that reach the outside is below them.

// A test may panic; only its `#[test]` functions are known to be tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::process::Command;

const FORBIDDEN: [&str; 7] = ["tokio", "bollard", "nix", "redb", "mio", "hyper", "socket2"];

fn dependencies(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .args([
            "--format",
            "{p}",
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("cargo tree writes UTF-8");
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_planner_and_the_wire_reach_nothing_outside() {
    for package in ["decnet-plan", "decnet-wire"] {
        let found = dependencies(package);
        assert!(
            found.contains("serde"),
            "cargo tree lists no dependencies of {package}: {found:?}"
        );
        let forbidden: Vec<_> = FORBIDDEN.iter().filter(|name| found.contains(**name)).collect();
        assert!(forbidden.is_empty(), "{package} depends on {forbidden:?}");
    }
}
