//! What the loader promises of any input, held by the tests here and by the fuzz target in `agent/plan/fuzz`.
//!
//! An input is one text: files, each behind a line with its name.
//!
//! ```text
//! ##### compose.yaml
//! services: {web: {image: "x:$TAG"}}
//! ##### environment
//! TAG=1
//! ```
//!
//! `environment` has variables of the process, `profiles` what is enabled. The files whose name begins with `compose`
//! or `over` are loaded, in the order in which they stand; others are there to be referred to.

use std::collections::BTreeMap;
use std::path::Path;

use decnet_plan::compose::load::{self, Files, Inputs, LoadError, Loaded, ReadError, load};
use decnet_plan::desired::Desired;
use decnet_plan::planner::{self, Refresh};
use decnet_plan::policy::Policy;
use decnet_wire::ids::HostId;
use decnet_wire::observed::Observed;

const HEADER: &str = "##### ";
const FOLDER: &str = "/srv/app";

/// Files in memory, by absolute path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(pub(crate) BTreeMap<String, String>);

impl Files for Disk {
    fn read(&self, path: &Path) -> Result<String, ReadError> {
        let path = path.to_str().expect("a test's path");
        self.0.get(path).cloned().ok_or(ReadError::NotFound)
    }
}

/// Reads the text of an input.
pub(crate) fn project(text: &str) -> (Inputs, Disk) {
    let mut disk = Disk::default();
    let mut inputs = Inputs {
        current_dir: FOLDER.into(),
        ..Inputs::default()
    };
    inputs.environment.insert("HOME".to_owned(), "/root".to_owned());
    let mut add = |name: &str, text: &str| match name {
        "environment" => {
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            inputs
                .environment
                .extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        "profiles" => inputs.profiles = text.split_whitespace().map(str::to_owned).collect(),
        name => {
            if (name.starts_with("compose") || name.starts_with("over"))
                && !inputs.files.contains(&name.into())
            {
                inputs.files.push(name.into());
            }
            disk.0.insert(format!("{FOLDER}/{name}"), text.to_owned());
        }
    };
    let mut name = "compose.yaml";
    let mut start = 0;
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        if let Some(next) = line.strip_prefix(HEADER).filter(|name| is_name(name.trim_end())) {
            if end > start {
                add(name, &text[start..end]);
            }
            name = next.trim_end();
            start = end + line.len();
        }
        end += line.len();
    }
    add(name, &text[start..]);
    (inputs, disk)
}

/// Others are lines like any, lest the fuzzer tries names for want of something better.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
}

/// Loads, normalises, plans, writes, and loads again. Panics where a promise is broken.
pub(crate) fn hold(inputs: &Inputs, disk: &Disk) -> Result<Loaded, Vec<LoadError>> {
    let loaded = load(inputs, disk);
    match &loaded {
        Ok(loaded) => plans_and_comes_back(loaded, inputs),
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason");
            for error in errors {
                one_line_with_a_place(error, disk);
            }
        }
    }
    loaded
}

/// File, line, column and path, but for what is about no line: a file that cannot be read, the project's name.
fn one_line_with_a_place(error: &LoadError, disk: &Disk) {
    let text = error.to_string();
    assert!(!text.contains(char::is_control), "more than a line: {text:?}");
    assert!(!error.problem.is_empty(), "no reason: {error:?}");
    let Some(position) = &error.position else {
        let without = [
            "cannot be read",
            "says nothing",
            "project name",
            "project has no name",
            "there is no compose.yaml",
        ];
        assert!(
            without.iter().any(|known| error.problem.contains(known)),
            "no place: {text:?}"
        );
        return;
    };
    // It is shown as it was given, but for what would break the line: the name at the end is enough.
    let file = position
        .file
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let shown = |path: &String| path.replace(char::is_control, " ").ends_with(file);
    let found = disk.0.iter().filter(|(path, _)| shown(path));
    // YAML has more ends of a line than `lines` knows.
    let lines = found.map(|(_, text)| text.lines().count() + text.matches('\r').count());
    let lines = lines.max().unwrap_or_else(|| panic!("no such file: {text:?}"));
    assert!((1..=lines + 1).contains(&position.line), "no such line: {text:?}");
    assert!(position.column > 0, "no such column: {text:?}");
}

fn plans_and_comes_back(loaded: &Loaded, inputs: &Inputs) {
    let name = loaded.project_name.parse().expect("the loader checks the name");
    let host = HostId::new(uuid::Uuid::from_u128(1));
    match Desired::project(host, &name, &loaded.document) {
        Ok(desired) => {
            let observed = Observed::default();
            drop(planner::plan(&desired, &observed, &Policy::built_in()));
            drop(planner::refresh(
                &desired,
                Refresh {
                    build: true,
                    pull: true,
                },
            ));
        }
        Err(errors) => {
            for error in errors {
                let path = &error.problem.path;
                assert!(
                    loaded.positions.find(path).is_some(),
                    "no place for {path:?}: {error}"
                );
                assert!(!error.to_string().contains('\n'), "more than a line: {error}");
            }
        }
    }
    // What an included file's own variables say of a secret is not printed, and lost.
    let secrets = loaded.document["secrets"].as_object().into_iter().flatten();
    let lost = |secret: &serde_json::Value| {
        let outside = secret["environment"]
            .as_str()
            .map(|name| inputs.environment.get(name).map(String::as_str));
        outside.is_some_and(|outside| outside != secret["content"].as_str())
    };
    if secrets.map(|(_, secret)| secret).any(lost) {
        return;
    }
    let shown = load::printable(&loaded.document);
    // JSON is YAML but for the length of keys, which is bounded there.
    let json = shown.to_string();
    let json = (json.len() < 1_000).then_some(json);
    for text in std::iter::once(load::to_yaml(&shown)).chain(json) {
        let again = Inputs {
            files: vec!["compose.yaml".into()],
            project_name: Some(loaded.project_name.clone()),
            ..inputs.clone()
        };
        let disk = Disk([(format!("{FOLDER}/compose.yaml"), text.clone())].into());
        match load(&again, &disk) {
            Ok(again) => assert_eq!(
                again.document, loaded.document,
                "what `config` prints is another project:\n{text}"
            ),
            Err(errors) => panic!("what `config` prints does not load: {errors:#?}\n{text}"),
        }
    }
}
