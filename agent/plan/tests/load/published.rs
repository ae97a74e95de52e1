//! Compose files that others publish: each loads, and makes what an engine can be asked for, or is refused for the
//! reasons that the table states. What is expected of each stands in `fixtures/published.tsv`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use decnet_plan::compose::attributes;
use decnet_plan::compose::load::{Files, Inputs, ReadError, load};
use decnet_plan::desired::Desired;
use decnet_wire::ids::HostId;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/published");
const LOADS: &str = "loads";

/// What an example in a text leaves out, and what it shows as wrong.
const INCOMPLETE: [&str; 7] = [
    "has neither image nor build",
    "cannot be read: there is no such file",
    "has no value",
    "there is no ",
    "stands twice",
    "is no absolute path",
    // The table says so of `pull_policy`.
    "daily, weekly and every_",
];

/// The files as they lie in the repository.
struct Checkout;

impl Files for Checkout {
    fn read(&self, path: &Path) -> Result<String, ReadError> {
        match path.is_file() {
            true => fs::read_to_string(path).map_err(|error| ReadError::Other(error.to_string())),
            false => Err(ReadError::NotFound),
        }
    }
}

#[test]
fn published_files_load_or_are_refused_for_a_reason_of_the_table() {
    let mut paths = Vec::new();
    collect(Path::new(FOLDER), &mut paths);
    paths.sort();
    assert!(paths.len() >= 170, "only {} published files", paths.len());
    let mut found = String::new();
    for path in &paths {
        let name = path.strip_prefix(FOLDER).expect("below the folder").display();
        for line in outcome(path) {
            let line = line.replace(FOLDER, "");
            writeln!(found, "{name}\t{line}").unwrap();
        }
    }
    let expected = fs::read_to_string(format!("{FOLDER}.tsv")).unwrap_or_default();
    assert!(
        found == expected,
        "fixtures/published.tsv is not what is found:\n{found}"
    );
    for line in found.lines() {
        let (_, said) = line.split_once('\t').expect("two columns");
        let stated = attributes::all().any(|attribute| {
            attributes::refusal(attribute.path)
                .is_some_and(|reason| said.ends_with(&format!("not supported: {reason}")))
        });
        let incomplete =
            line.starts_with("compose-spec/") && INCOMPLETE.iter().any(|words| said.contains(words));
        assert!(
            said == LOADS || stated || incomplete || said.contains("there is no such attribute"),
            "{line}"
        );
    }
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder of published files") {
        let path = entry.unwrap().path();
        match path.extension().and_then(|extension| extension.to_str()) {
            None if path.is_dir() => collect(&path, paths),
            Some("yaml" | "yml") => paths.push(path),
            _ => {}
        }
    }
}

/// One line: it loads. Or one for each error, without the file.
fn outcome(path: &Path) -> Vec<String> {
    let inputs = Inputs {
        files: vec![path.to_owned()],
        current_dir: path.parent().expect("a folder").to_owned(),
        profiles: vec!["*".to_owned()],
        ..Inputs::default()
    };
    match load(&inputs, &Checkout) {
        Ok(loaded) => {
            let name = loaded.project_name.parse().expect("the loader checks it");
            let host = HostId::new(uuid::Uuid::from_u128(1));
            match Desired::project(host, &name, &loaded.document) {
                Ok(_) => vec![LOADS.to_owned()],
                Err(errors) => errors.iter().map(ToString::to_string).collect(),
            }
        }
        Err(errors) => errors
            .iter()
            .map(|error| format!("{}: {}", error.path, error.problem))
            .collect(),
    }
}
