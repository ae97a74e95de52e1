//! A package for rpm, by `rpmbuild`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use time::macros::format_description;

use super::table::{Format, Kind};
use super::tool::{program, run};
use super::tree::{self, Tree, temporary};
use super::{PackageError, Recipe, make_folder, template, write};
use crate::image::Arch;

/// Makes the package in `folder`, which is made, and gives back its path.
///
/// # Errors
/// The tree cannot be made, or `rpmbuild` fails.
pub fn build(recipe: &Recipe, folder: &Path) -> Result<PathBuf, PackageError> {
    let work = temporary()?;
    let tree = tree::make(recipe, Format::Rpm, &work.path().join("tree"))?;
    let date = tree::moment(recipe)?
        .format(format_description!(
            "[weekday repr:short] [month repr:short] [day] [year]"
        ))
        .map_err(|_| PackageError::Epoch(recipe.epoch))?;

    let mut values = template::scripts(recipe)?;
    values.push(("DATE", date));
    values.push(("TREE", tree.root.display().to_string()));
    values.push(("FILES", files(&tree)));
    let payload = match recipe.level {
        0 => "w.ufdio".to_owned(),
        level => format!("w{level}.xzdio"),
    };
    values.push(("PAYLOAD", payload));
    let mut text = template::fill(&recipe.folder().join("spec"), &values)?;
    text.push('\n');
    text.push_str(&template::fill(&recipe.packaging().join("rpm/rest"), &values)?);
    let spec = work.path().join(format!("{}.spec", recipe.name));
    write(&spec, text.as_bytes())?;
    let macros = template::fill(&recipe.packaging().join("rpm/macros"), &values)?;

    let arch = match tree.arch {
        Arch::Amd64 => "x86_64",
        Arch::Arm64 => "aarch64",
    };
    let file = format!(
        "{}-{}-{}.{arch}.rpm",
        recipe.name, recipe.version, recipe.revision
    );
    make_folder(folder)?;
    let built = work.path().join("built");
    let mut rpmbuild = program("rpmbuild");
    // Not as a file with --load, which --target makes it forget.
    for line in macros.lines().filter_map(|line| line.strip_prefix('%')) {
        rpmbuild.args(["--define", line]);
    }
    run(
        rpmbuild
            .env("SOURCE_DATE_EPOCH", recipe.epoch.to_string())
            // The caller's own macros have no say.
            .env("HOME", work.path())
            .arg("-bb")
            .arg("--define")
            .arg(format!("_topdir {}", work.path().display()))
            .arg("--define")
            .arg(format!("_rpmdir {}", built.display()))
            .arg("--define")
            .arg(format!("_rpmfilename {file}"))
            .arg("--target")
            .arg(format!("{arch}-linux"))
            .arg(&spec),
        "rpm",
    )?;
    let out = folder.join(&file);
    std::fs::copy(built.join(&file), &out).map_err(|source| PackageError::Write {
        path: out.clone(),
        source,
    })?;
    Ok(out)
}

/// The list of files, in rpm's words.
fn files(tree: &Tree) -> String {
    let mut list = String::new();
    for entry in &tree.entries {
        let what = match entry.kind {
            Kind::Folder => "%dir ",
            Kind::Config => "%config(noreplace) ",
            _ if entry.path.starts_with("/usr/share/licenses/") => "%license ",
            _ => "",
        };
        // Writing to a text does not fail.
        let _ = writeln!(list, "{what}%attr({:04o}, root, root) {}", entry.mode, entry.path);
    }
    list
}
