//! Compose files to try, each in a folder of its own:
//!
//! - `compose.yaml` and whatever it refers to;
//! - `arguments`: options before the command, in one line;
//! - `environment`: variables of the process, one a line.
//!
//! Beside the folders lie the tables, with columns between tabs: `edits.tsv`, `differences.tsv` and
//! `config-differences.tsv`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// Names of projects begin with it, and so do those of everything that belongs to no project.
pub const PREFIX: &str = "oracle-";

/// A change of one attribute. The edits of a fixture are made one after the other.
#[derive(Debug, Clone)]
pub struct Edit {
    pub file: String,
    pub before: String,
    pub after: String,
    /// Why fewer containers than under Docker Compose are recreated; empty where they are the same.
    pub fewer: String,
}

/// One project.
#[derive(Debug, Clone)]
pub struct Fixture {
    pub name: String,
    folder: PathBuf,
    /// `-f`, `--profile` and the like.
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub edits: Vec<Edit>,
    /// Pointers into a snapshot (see [`super::snapshot`]) at which the two differ, with the reason. A segment may be
    /// `*`.
    pub differences: BTreeMap<String, String>,
    /// The same for what `config` prints.
    pub config_differences: BTreeMap<String, String>,
}

/// A fixture's files in a place where they may be changed.
#[derive(Debug)]
pub struct Copy {
    _parent: TempDir,
    /// Named as the project.
    pub folder: PathBuf,
}

static MADE: AtomicU32 = AtomicU32::new(0);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/compose")
}

/// Every fixture, by name.
///
/// # Errors
///
/// When a file or table cannot be read, or a table names what is not there.
pub fn all() -> Result<Vec<Fixture>> {
    let root = root();
    let mut fixtures = BTreeMap::new();
    for entry in fs::read_dir(&root).with_context(|| format!("cannot list {}", root.display()))? {
        let folder = entry?.path();
        if folder.is_dir() {
            let name = folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            fixtures.insert(name.clone(), read(name, folder)?);
        }
    }
    for [name, file, before, after, fewer] in table(&root.join("edits.tsv"))? {
        let fixture = fixtures
            .get_mut(&name)
            .with_context(|| format!("edits.tsv: there is no fixture {name}"))?;
        fixture.edits.push(Edit {
            file,
            before: unescape(&before),
            after: unescape(&after),
            fewer,
        });
    }
    for file in ["differences.tsv", "config-differences.tsv"] {
        for [name, pointer, reason] in table(&root.join(file))? {
            ensure!(!reason.is_empty(), "{file}: {name} {pointer}: no reason");
            let fixture = fixtures
                .get_mut(&name)
                .with_context(|| format!("{file}: there is no fixture {name}"))?;
            let known = match file {
                "differences.tsv" => &mut fixture.differences,
                _ => &mut fixture.config_differences,
            };
            known.insert(pointer, reason);
        }
    }
    Ok(fixtures.into_values().collect())
}

fn read(name: String, folder: PathBuf) -> Result<Fixture> {
    let text = |file: &str| match fs::read_to_string(folder.join(file)) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("fixture {name}: cannot read {file}")),
    };
    let arguments = text("arguments")?.split_whitespace().map(str::to_owned).collect();
    let environment = text("environment")?;
    let environment = environment.lines().filter_map(|line| line.split_once('='));
    Ok(Fixture {
        arguments,
        environment: environment
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        edits: Vec::new(),
        differences: BTreeMap::new(),
        config_differences: BTreeMap::new(),
        name,
        folder,
    })
}

fn table<const N: usize>(path: &Path) -> Result<Vec<[String; N]>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rows = lines.map(|line| {
        let mut row = line.split('\t').map(str::to_owned);
        std::array::from_fn(|_| row.next().unwrap_or_default())
    });
    Ok(rows.collect())
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => {}
            },
            (c, false) => out.push(c),
        }
    }
    out
}

impl Fixture {
    /// Copies the files.
    ///
    /// # Errors
    ///
    /// When they cannot be read or written.
    pub fn copy(&self) -> Result<Copy> {
        let parent = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        // The folder names the project: one of its own, whatever an earlier one has left.
        let (run, number) = (std::process::id(), MADE.fetch_add(1, Ordering::SeqCst));
        let folder = parent
            .path()
            .join(format!("{PREFIX}{}-{run}-{number}", self.name));
        copy_folder(&self.folder, &folder)?;
        Ok(Copy {
            _parent: parent,
            folder,
        })
    }

    /// The reason for which the two may differ at a pointer.
    #[must_use]
    pub fn difference(&self, pointer: &str) -> Option<&str> {
        known(&self.differences, pointer).map(|(_, reason)| reason)
    }

    /// The row of `config-differences.tsv` that allows a difference at a pointer: its own pointer.
    #[must_use]
    pub fn config_difference(&self, pointer: &str) -> Option<&str> {
        known(&self.config_differences, pointer).map(|(row, _)| row)
    }
}

/// The row whose pointer leads to this one or to what is around it.
fn known<'a>(rows: &'a BTreeMap<String, String>, pointer: &str) -> Option<(&'a str, &'a str)> {
    let leads_there = |pattern: &str| {
        let (pattern, mut pointer) = (pattern.split('/'), pointer.split('/'));
        let mut parts = pattern.zip(std::iter::from_fn(|| Some(pointer.next())));
        parts.all(|(part, have)| have.is_some_and(|have| part == "*" || part == have))
    };
    let (row, reason) = rows.iter().find(|(row, _)| leads_there(row))?;
    Some((row, reason))
}

impl Copy {
    /// Puts the original files back.
    ///
    /// # Errors
    ///
    /// When they cannot be read or written.
    pub fn restore(&self, fixture: &Fixture) -> Result<()> {
        copy_folder(&fixture.folder, &self.folder)
    }

    /// Makes an edit.
    ///
    /// # Errors
    ///
    /// When the text before it is not there exactly once.
    pub fn edit(&self, edit: &Edit) -> Result<()> {
        let path = self.folder.join(&edit.file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let found = text.matches(&edit.before).count();
        ensure!(
            found == 1,
            "{}: {:?} is there {found} times",
            path.display(),
            edit.before
        );
        // In place: a file that is mounted into a container is not to become another file.
        fs::write(&path, text.replace(&edit.before, &edit.after))?;
        Ok(())
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}
