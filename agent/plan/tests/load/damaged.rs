//! Hand-damaged files and the lines that people see for them.

use std::fmt::Write as _;
use std::fs;

use super::Project;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/damaged");

#[test]
fn every_damaged_file_gives_its_line_with_file_place_path_and_remedy() {
    let mut names: Vec<String> = fs::read_dir(FOLDER)
        .expect("the folder of damaged files")
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 20, "only {} damaged files", names.len());
    let mut found = String::new();
    for name in &names {
        let text = fs::read_to_string(format!("{FOLDER}/{name}")).unwrap();
        let mut project = Project::new("").file(name, &text);
        project.inputs.files.push(name.into());
        for error in project.errors() {
            assert!(!error.contains('\n'), "{error:?}");
            writeln!(found, "{error}").unwrap();
        }
    }
    let expected = fs::read_to_string(format!("{FOLDER}.txt")).expect("what is expected of damaged files");
    assert_eq!(found, expected, "\nfound:\n{found}");
}
