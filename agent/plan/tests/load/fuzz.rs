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

/// Each broke a promise once: a place in a file that is not there, an error of two lines, a document that `config`
/// printed and that did not load, or loaded as another.
#[test]
fn what_the_fuzzer_has_found_stays_mended() {
    let long = "a".repeat(90);
    for text in [
        "services: {a.b: {image: x, networks: {default: }}}",
        "services: {a: {image: x, extra_hosts: {one: '192,0.2.1'}}}",
        "services: {a: {image: x, security_opt: ['seccomp:./p.json']}}\n##### p.json\n0\n",
        "name: \"${A:-\\x01\"\nservices: {a: {image: x}}",
        "services: {a: {image: x, command: [\"$$A\"], labels: {b: $$}}}",
        &format!("services: {{\"{}\\x01\": {{image: x}}}}", "a".repeat(800)),
        &format!("name: {long}\nservices: {{a: {{image: x}}}}"),
        &format!(
            "services: {{a: {{image: x}}}}\n##### .env\nCOMPOSE_FILE={}\n",
            long.repeat(20)
        ),
    ] {
        let (inputs, disk) = promise::project(text);
        let _ = promise::hold(&inputs, &disk);
    }
    let mut project = Project::new("");
    project.inputs.files.push("a\nb.yaml".into());
    let project = project.file("a\nb.yaml", "service: {}");
    assert!(promise::hold(&project.inputs, &project.disk).is_err());
}

#[test]
fn a_long_error_still_says_what_is_wrong() {
    let errors = Project::new(&format!("services: {{a: {{image: x, {}: 1}}}}", "b".repeat(5000))).errors();
    assert!(
        errors[0].len() < 2_500 && errors[0].contains("no such attribute"),
        "{errors:?}"
    );
}

#[test]
fn a_folder_whose_name_is_too_long_for_a_project_does_not_name_one() {
    let mut project = Project::new("services: {a: {image: x}}");
    project.inputs.current_dir = format!("/srv/{}", "a".repeat(90)).into();
    project.inputs.files.push("/srv/app/compose.yaml".into());
    project.inputs.project_directory = Some(project.inputs.current_dir.clone());
    assert!(
        project.errors()[0].contains("has no name"),
        "{:?}",
        project.errors()
    );
}

/// Sixteen of these make gigabytes of a few kilobytes.
#[test]
fn what_becomes_too_large_is_refused_before_it_is_made() {
    let refused = |project: Project, what: &str| {
        let errors = project.errors();
        let said = errors
            .iter()
            .any(|error| error.contains("too large") || error.contains("longer than"));
        assert!(said, "{what}: {errors:?}");
    };
    let mut ports = String::from("services:\n");
    for i in 0..16 {
        ports.push_str(&format!("  a{i}: {{image: x, ports: ['1-65535:1-65535']}}\n"));
    }
    refused(Project::new(&ports), "ranges of ports");

    let mut doubled = format!("A0={}\n", "x".repeat(1000));
    for i in 1..40 {
        doubled.push_str(&format!("A{i}=$A{0}$A{0}\n", i - 1));
    }
    let project = Project::new("services: {a: {image: x, env_file: a.env}}").file("a.env", &doubled);
    refused(project, "variables that double");

    let mut wide = format!("A={}\n", "x".repeat(1 << 19));
    for i in 0..200 {
        wide.push_str(&format!("B{i}=$A\n"));
    }
    refused(
        Project::new("services: {a: {image: x}}").file(".env", &wide),
        "many long variables",
    );

    let mut anchors = format!(
        "x-a: {}\"{}\"{}",
        "[&a ".repeat(50),
        "x".repeat(1 << 20),
        "]".repeat(50)
    );
    anchors = anchors.replacen("&a", "", 1);
    let mut named = String::new();
    for (i, part) in anchors.split("&a").enumerate() {
        named.push_str(&if i == 0 {
            part.to_owned()
        } else {
            format!("&a{i}{part}")
        });
    }
    refused(
        Project::new(&format!("{named}\nservices: {{a: {{image: x}}}}")),
        "anchors in anchors",
    );
}

/// What is quadratic takes minutes of this.
#[test]
fn many_services_in_a_row_and_in_a_ring_are_told_apart_in_time() {
    let mut row = String::from("services:\n  a0: {image: x}\n");
    for i in 1..20_000 {
        row.push_str(&format!(
            "  a{i}: {{image: x, depends_on: [a{}], extra_hosts: ['h{i}=10.0.0.1']}}\n",
            i - 1
        ));
    }
    Project::new(&row).document();
    let ring = row.replacen("a0: {image: x}", "a0: {image: x, depends_on: [a19999]}", 1);
    assert!(Project::new(&ring).errors()[0].contains("wait for each other"));
}
