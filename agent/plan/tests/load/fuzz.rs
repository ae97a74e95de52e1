//! The loader never panics and never takes long, whatever it reads.

use proptest::prelude::*;

use super::Project;
use super::promise;

/// Pieces that Compose files are made of, damaged or not.
fn piece() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "services",
        "web",
        "image",
        "ports",
        "volumes",
        "networks",
        "environment",
        "extends",
        "include",
        "build",
        "depends_on",
        "command",
        "healthcheck",
        "test",
        "deploy",
        "resources",
        "limits",
        "cpus",
        "configs",
        "secrets",
        "env_file",
        "labels",
        "<<",
        "name",
        "ulimits",
        "external",
        "profiles",
        "x-a",
        "default",
        "path",
        "service",
        "file",
        "target",
        "logging",
        "driver",
        "options",
        "ipam",
        "config",
        "subnet",
        "extra_hosts",
        "tmpfs",
    ]);
    let scalars = prop::sample::select(vec![
        "80:80",
        "1-3:4-6",
        "./a:/b:ro",
        "a=b",
        "${A:-b}",
        "${A",
        "$",
        "$$",
        "!reset",
        "!override",
        "~",
        "null",
        "0755",
        "1e9",
        "-1",
        "true",
        "yes",
        "\"",
        "'",
        "|",
        ">-",
        "&a",
        "*a",
        "[",
        "]",
        "{",
        "}",
        ",",
        "- ",
        "? ",
        "---",
        "...",
        "#",
        "compose.yaml",
        "64m",
        "1m30s",
        "::1",
        "é",
        "\u{feff}",
        "!!str",
        "!!binary",
        "%YAML 1.2",
        "\t",
        "\r\n",
        "99999999999999999999",
    ]);
    prop_oneof![
        words.clone().prop_map(|word| format!("{word}: ")),
        words.clone().prop_map(|word| format!("{word}:\n")),
        words.prop_map(str::to_owned),
        scalars.prop_map(str::to_owned),
        (0_usize..9).prop_map(|n| format!("\n{}", " ".repeat(n))),
        "[ -~]{0,6}",
    ]
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_that_looks_like_yaml_panics(pieces in prop::collection::vec(piece(), 0..60)) {
        let text = pieces.concat();
        let project = Project::new(&text).over(&text);
        let _ = promise::hold(&project.inputs, &project.disk);
    }

    #[test]
    fn nothing_in_a_service_panics(key in "[a-z_]{1,12}", pieces in prop::collection::vec(piece(), 0..12)) {
        let text = format!("services:\n  web:\n    image: x\n    {key}: {}\n", pieces.concat());
        let project = Project::new(&text);
        let _ = promise::hold(&project.inputs, &project.disk);
    }

    #[test]
    fn every_attribute_takes_any_kind_of_value(row in 0_usize..400, value in 0_usize..VALUES.len(), over in 0_usize..VALUES.len()) {
        let rows: Vec<_> = decnet_plan::compose::attributes::all().collect();
        let path = rows[row % rows.len()].path;
        let base = at(path, VALUES[value]);
        let project = Project::new(&base).over(&at(path, VALUES[over]));
        let _ = promise::hold(&project.inputs, &project.disk);
    }

    #[test]
    fn no_env_file_panics(text in "([A-Z=: #'\"\\\\$\\{\\}n0-9\n]|export ){0,40}") {
        let project = Project::new("services: {web: {image: x, env_file: a.env}}");
        let project = project.file("a.env", &text).file(".env", &text);
        let _ = promise::hold(&project.inputs, &project.disk);
    }
}

const VALUES: [&str; 16] = [
    "null",
    "true",
    "12",
    "-1",
    "1.5",
    "text",
    "''",
    "[]",
    "{}",
    "[a, 1, null]",
    "{a: 1, b: null}",
    "[{a: b}]",
    "[[]]",
    "\"80:80\"",
    "{a: {b: {c: d}}}",
    "!reset null",
];

/// A document with a value at a path of the table.
fn at(path: &str, value: &str) -> String {
    let mut document = value.to_owned();
    for segment in path.split('.').rev() {
        let name = segment.trim_end_matches("[]");
        if segment.ends_with("[]") {
            document = format!("[{document}]");
        }
        let name = if name == "*" { "web" } else { name };
        document = format!("{{{name}: {document}}}");
    }
    document
}

#[test]
fn including_twice_at_every_level_ends() {
    // 2 to the 30th files to read, were it not for the cap.
    let mut project = Project::new("include: [0.yaml, 0.yaml]\nservices: {a: {image: x}}");
    for i in 0..30 {
        project = project.file(
            &format!("{i}.yaml"),
            &format!("include: [{0}.yaml, {0}.yaml]", i + 1),
        );
    }
    let errors = project.file("30.yaml", "services: {b: {image: x}}").errors();
    assert!(
        errors.iter().any(|error| error.contains("reads more than")),
        "{errors:?}"
    );
}

#[test]
fn a_value_cannot_grow_without_end() {
    let word = "x".repeat(1 << 16);
    let project =
        Project::new(&format!("services: {{a: {{image: \"{}\"}}}}", "$A".repeat(1000))).env("A", &word);
    assert!(project.errors().iter().any(|error| error.contains("longer than")));
}

#[test]
fn triage() {
    let Ok(folder) = std::env::var("TRIAGE") else {
        return;
    };
    let mut kinds = std::collections::BTreeMap::<String, (usize, String)>::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        let (inputs, disk) = promise::project(&text);
        if let Err(panic) = std::panic::catch_unwind(|| {
            let _ = promise::hold(&inputs, &disk);
        }) {
            let m = panic
                .downcast_ref::<String>()
                .cloned()
                .or(panic.downcast_ref::<&str>().map(|s| s.to_string()))
                .unwrap_or_default();
            let key: String = m.split(['\n', '"']).next().unwrap().to_owned();
            let e = kinds.entry(key).or_insert((0, text.clone()));
            e.0 += 1;
            if text.len() <= e.1.len() {
                e.1 = format!("{}\n>>> {}", text, m.chars().take(1500).collect::<String>());
            }
        }
    }
    let mut kinds: Vec<_> = kinds.into_values().collect();
    kinds.sort();
    for (n, t) in kinds.iter().rev() {
        println!("=== {n}\n{t}");
    }
}
