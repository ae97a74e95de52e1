//! A package for dpkg, by `dpkg-deb`.

use std::path::{Path, PathBuf};

use super::table::{Format, Kind};
use super::tool::{program, run};
use super::tree::{self, Tree, set_mode, temporary};
use super::{PackageError, Recipe, make_folder, template, write};

/// Besides the control file; the same for every package.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Makes the package in `folder`, which is made, and gives back its path.
///
/// # Errors
/// The tree cannot be made, or one of Debian's tools fails.
pub fn build(recipe: &Recipe, folder: &Path) -> Result<PathBuf, PackageError> {
    let work = temporary()?;
    let tree = tree::make(recipe, Format::Deb, &work.path().join("tree"))?;
    let control = tree.root.join("DEBIAN");
    make_folder(&control)?;
    set_mode(&control, 0o755)?;

    let mut values = template::common(recipe);
    values.push(("ARCHITECTURE", tree.arch.to_string()));
    values.push(("SIZE", tree.size_kib().to_string()));
    values.push(("LIBRARIES", libraries(recipe, &tree, work.path())?));
    let text = template::fill(&recipe.folder().join("control"), &values)?;
    install(&control.join("control"), text.as_bytes(), 0o644)?;

    let values = template::scripts(recipe)?;
    for script in SCRIPTS {
        let text = template::fill(&recipe.packaging().join("deb").join(script), &values)?;
        install(&control.join(script), text.as_bytes(), 0o755)?;
    }
    let paths = |wanted: fn(Kind) -> bool| {
        let found = tree.entries.iter().filter(move |entry| wanted(entry.kind));
        found.map(|entry| entry.path.as_str())
    };
    let settings: String = paths(|kind| kind == Kind::Config)
        .map(|path| format!("{path}\n"))
        .collect();
    if !settings.is_empty() {
        install(&control.join("conffiles"), settings.as_bytes(), 0o644)?;
    }
    // Of what is to stay as it was installed.
    let files = paths(|kind| !matches!(kind, Kind::Config | Kind::Folder));
    let sums = run(
        program("md5sum")
            .current_dir(&tree.root)
            .arg("--")
            .args(files.map(|path| path.trim_start_matches('/'))),
        "coreutils",
    )?;
    install(&control.join("md5sums"), &sums, 0o644)?;

    make_folder(folder)?;
    let out = folder.join(format!(
        "{}_{}-{}_{}.deb",
        recipe.name, recipe.version, recipe.revision, tree.arch
    ));
    run(
        program("dpkg-deb")
            .env("SOURCE_DATE_EPOCH", recipe.epoch.to_string())
            // One thread: with several, their number decides where blocks end.
            .args(["--root-owner-group", "--threads-max=1"])
            .args(match recipe.level {
                0 => vec!["-Znone".to_owned()],
                level => vec!["-Zxz".to_owned(), format!("-z{level}")],
            })
            .arg("--build")
            .arg(&tree.root)
            .arg(&out),
        "dpkg",
    )?;
    Ok(out)
}

/// What the program's libraries are in, and from which version on, as every Debian package says it.
fn libraries(recipe: &Recipe, tree: &Tree, work: &Path) -> Result<String, PackageError> {
    // The tool wants to stand in a package's source.
    let folder = work.join("debian");
    make_folder(&folder)?;
    let stanza = format!("Source: decnet\n\nPackage: {}\nArchitecture: any\n", recipe.name);
    write(&folder.join("control"), stanza.as_bytes())?;
    let said = run(
        program("dpkg-shlibdeps")
            .current_dir(work)
            .arg("-O")
            .arg("-e")
            .arg(&tree.program),
        "dpkg-dev",
    )?;
    let said = String::from_utf8_lossy(&said);
    said.trim()
        .strip_prefix("shlibs:Depends=")
        .map(str::to_owned)
        .ok_or_else(|| PackageError::Tool {
            program: "dpkg-shlibdeps".to_owned(),
            said: format!("it names no libraries: {said}"),
        })
}

fn install(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PackageError> {
    write(path, bytes)?;
    set_mode(path, mode)
}
