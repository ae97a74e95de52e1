//! The crates that a package's programs are linked with, and their licences.
//!
//! Cargo knows the crates, and each comes with its licences' texts. A crate that may be had under the Apache License 2.0 is,
//! which is this project's own; of every other one all texts are repeated, as those licences ask for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::tool::{program, run};
use super::{Name, PackageError, Recipe, read};
use crate::image::Arch;

/// The licence that is chosen where a crate offers several, as SPDX names it.
const CHOSEN: &str = "Apache-2.0";
/// What files with licences and notices are called, in lower case, at least at the beginning.
const TEXTS: [&str; 6] = [
    "licence",
    "license",
    "copying",
    "copyright",
    "notice",
    "unlicense",
];

/// What `cargo metadata` says, as far as it is of use here.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    /// An SPDX expression.
    license: Option<String>,
    /// None of the project's own crates.
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    /// None of what is linked; `dev` and `build` of the others.
    kind: Option<String>,
}

/// The list of crates and the texts of their licences.
///
/// # Errors
/// Cargo fails, which has to know all crates without a network; or a crate names no licence, or comes without its text.
pub(super) fn text(recipe: &Recipe, arch: Arch) -> Result<String, PackageError> {
    let target = match arch {
        Arch::Amd64 => "x86_64-unknown-linux-gnu",
        Arch::Arm64 => "aarch64-unknown-linux-gnu",
    };
    let said = run(
        program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["metadata", "--format-version", "1", "--locked", "--offline"])
            .args(["--filter-platform", target, "--manifest-path"])
            .arg(recipe.source.join("Cargo.toml")),
        "cargo",
    )?;
    let metadata: Metadata = serde_json::from_slice(&said).map_err(|error| PackageError::Tool {
        program: "cargo metadata".to_owned(),
        said: format!("something else than was expected: {error}"),
    })?;
    let programs: &[&str] = match recipe.name {
        Name::DecnetAgent => &["decnet-agent"],
        // The decoy's is in the image.
        Name::Decnet => &["decnet", "decnet-decoy"],
    };
    written(&linked(&metadata, programs), programs)
}

/// The crates that programs are linked with, sorted. What only runs while they are built is left out.
fn linked<'a>(metadata: &'a Metadata, programs: &[&str]) -> Vec<&'a Package> {
    let packages: HashMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package))
        .collect();
    let nodes: HashMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node))
        .collect();
    let is_program =
        |package: &&Package| package.source.is_none() && programs.contains(&package.name.as_str());
    let mut open: Vec<&str> = metadata
        .packages
        .iter()
        .filter(is_program)
        .map(|package| package.id.as_str())
        .collect();
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !found.insert(id) {
            continue;
        }
        let needs = nodes.get(id).map(|node| node.deps.as_slice()).unwrap_or_default();
        let links = |need: &&Dependency| {
            need.dep_kinds.iter().any(|kind| kind.kind.is_none())
                && packages
                    .get(need.pkg.as_str())
                    .is_some_and(|package| !package.is_macro())
        };
        open.extend(needs.iter().filter(links).map(|need| need.pkg.as_str()));
    }
    let mut crates: Vec<&Package> = found
        .into_iter()
        .filter_map(|id| packages.get(id).copied())
        .filter(|package| package.source.is_some())
        .collect();
    crates.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    crates
}

fn written(crates: &[&Package], programs: &[&str]) -> Result<String, PackageError> {
    let mut list = String::new();
    // By text: whose it is, and under which name.
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in crates {
        let expression = package
            .license
            .as_deref()
            .ok_or_else(|| package.lacks("a licence"))?;
        let chosen = if offers(expression, CHOSEN) {
            format!(", used under {CHOSEN}")
        } else {
            String::new()
        };
        // Writing to a text does not fail.
        let _ = writeln!(list, "{} {}: {expression}{chosen}", package.name, package.version);
        let mut own = package.texts()?;
        if !chosen.is_empty() {
            own.retain(|(name, _)| name.to_lowercase().starts_with("notice"));
        } else if own.is_empty() {
            return Err(package.lacks("the text of its licence"));
        }
        for (name, text) in own {
            let whose = format!("{} {}, {name}", package.name, package.version);
            texts.entry(text).or_default().push(whose);
        }
    }
    let mut text = format!(
        "Crates that {} {} linked with, by name, version and licences (SPDX). The text of {CHOSEN} is that of this\n\
         package's own licence; the texts of the others follow. With them comes Rust's standard library, of the Rust\n\
         project's developers: MIT OR Apache-2.0, used under {CHOSEN}.\n\n{list}",
        programs.join(" and "),
        if programs.len() == 1 { "is" } else { "are" },
    );
    let mut texts: Vec<_> = texts.into_iter().map(|(text, whose)| (whose, text)).collect();
    texts.sort();
    for (whose, own) in texts {
        let _ = write!(text, "\n{}\n{}\n\n{own}\n", "-".repeat(80), whose.join("\n"));
    }
    Ok(text)
}

/// Whether an SPDX expression lets one choose this licence and no other. Crates from before SPDX write `/` for OR.
fn offers(expression: &str, licence: &str) -> bool {
    !expression.contains(" AND ")
        && expression
            .split(" OR ")
            .flat_map(|part| part.split('/'))
            .any(|part| part.trim_matches([' ', '(', ')']) == licence)
}

impl Package {
    fn is_macro(&self) -> bool {
        let mut kinds = self.targets.iter().flat_map(|target| &target.kind);
        kinds.any(|kind| kind == "proc-macro")
    }

    fn lacks(&self, what: &str) -> PackageError {
        PackageError::Licence {
            name: format!("{} {}", self.name, self.version),
            what: what.to_owned(),
        }
    }

    /// The files with licences and notices beside its manifest, by name: without the blanks at lines' ends, which are all
    /// that many differ in.
    fn texts(&self) -> Result<Vec<(String, String)>, PackageError> {
        let folder = self.manifest_path.parent().unwrap_or(Path::new("/"));
        let listed = |source| PackageError::Read {
            path: folder.to_owned(),
            source,
        };
        let mut texts = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(listed)? {
            let path = entry.map_err(listed)?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let lower = name.to_lowercase();
            if TEXTS.iter().any(|begin| lower.starts_with(begin)) && path.is_file() {
                let text = String::from_utf8_lossy(&read(&path)?).into_owned();
                let lines: Vec<_> = text.trim_end().lines().map(str::trim_end).collect();
                texts.push((name, lines.join("\n")));
            }
        }
        texts.sort();
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Crates by name, licence and whether they are a macro, each with a LICENSE of its own; what needs what, and how.
    fn metadata(folder: &Path, crates: &[(&str, &str, bool)], needs: &[(&str, &str, Value)]) -> Metadata {
        let packages = crates.iter().map(|(name, licence, is_macro)| {
            let own = folder.join(name);
            std::fs::create_dir_all(&own).unwrap();
            std::fs::write(own.join("LICENSE"), format!("of {licence} \r\n\n")).unwrap();
            json!({
                "id": name, "name": name, "version": "1.0.0", "license": licence,
                "source": if name.starts_with("decnet") { Value::Null } else { json!("registry") },
                "manifest_path": own.join("Cargo.toml"),
                "targets": [{"kind": [if *is_macro { "proc-macro" } else { "lib" }]}],
            })
        });
        let nodes = crates.iter().map(|(name, ..)| {
            let own = needs.iter().filter(|(whose, ..)| whose == name);
            let own: Vec<_> = own
                .map(|(_, what, kind)| json!({"pkg": what, "dep_kinds": [{"kind": kind}]}))
                .collect();
            json!({"id": name, "deps": own})
        });
        let packages: Vec<_> = packages.collect();
        let nodes: Vec<_> = nodes.collect();
        serde_json::from_value(json!({"packages": packages, "resolve": {"nodes": nodes}})).unwrap()
    }

    #[test]
    fn what_is_linked_is_listed_with_the_texts_that_have_to_be_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let crates = [
            ("decnet-agent", "Apache-2.0", false),
            ("deep", "MIT", false),
            ("direct", "MIT/Apache-2.0", false),
            ("helper", "MIT", true),
            ("of-helper", "ISC", false),
            ("of-others", "Zlib", false),
            ("of-tests", "BSD-3-Clause", false),
            ("second", "MIT", false),
        ];
        let needs = [
            ("decnet-agent", "direct", Value::Null),
            ("decnet-agent", "helper", Value::Null),
            ("decnet-agent", "of-tests", json!("dev")),
            ("direct", "deep", Value::Null),
            ("direct", "second", Value::Null),
            ("deep", "direct", Value::Null),
            ("helper", "of-helper", Value::Null),
        ];
        let metadata = metadata(folder.path(), &crates, &needs);
        let text = written(&linked(&metadata, &["decnet-agent"]), &["decnet-agent"]).unwrap();
        let (head, texts) = text.split_once("\n\n").unwrap();
        assert!(
            head.starts_with("Crates that decnet-agent is linked with"),
            "{head}"
        );
        let line = "-".repeat(80);
        assert_eq!(
            texts,
            format!(
                "deep 1.0.0: MIT\ndirect 1.0.0: MIT/Apache-2.0, used under Apache-2.0\nsecond 1.0.0: MIT\n\n\
                 {line}\ndeep 1.0.0, LICENSE\nsecond 1.0.0, LICENSE\n\nof MIT\n"
            )
        );
    }

    #[test]
    fn a_crate_without_the_text_of_its_licence_stops_the_build() {
        let folder = tempfile::tempdir().unwrap();
        let crates = [("decnet-agent", "Apache-2.0", false), ("bare", "MIT", false)];
        let metadata = metadata(folder.path(), &crates, &[("decnet-agent", "bare", Value::Null)]);
        std::fs::remove_file(folder.path().join("bare/LICENSE")).unwrap();
        let refused = written(&linked(&metadata, &["decnet-agent"]), &["decnet-agent"]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "crate bare 1.0.0 comes without the text of its licence"
        );
    }

    #[test]
    fn a_licence_is_chosen_only_where_it_is_offered_alone() {
        for expression in [
            "Apache-2.0",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "Apache-2.0 / MIT",
            "(MIT OR Apache-2.0)",
        ] {
            assert!(offers(expression, CHOSEN), "{expression}");
        }
        for expression in [
            "MIT",
            "Apache-2.0 AND ISC",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(!offers(expression, CHOSEN), "{expression}");
        }
    }
}
