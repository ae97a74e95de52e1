//! A package's files in a folder, as they will be on a host, and the manifest of them.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::table::{self, Row};
use super::template::{self, Values};
use super::third_party;
use super::tool::{gzip, program, run};
use super::{Format, Kind, PackageError, Recipe, make_folder, read, write};
use crate::elf;
use crate::image::Arch;

/// What lies at one path of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Absolute on the host.
    pub path: String,
    pub kind: Kind,
    pub mode: u32,
    /// In bytes; 0 of a folder.
    pub size: u64,
}

/// A package's files.
#[derive(Debug)]
pub struct Tree {
    pub root: PathBuf,
    /// By path.
    pub entries: Vec<Entry>,
    /// The processor of the program.
    pub arch: Arch,
    /// Where the program lies in the tree.
    pub program: PathBuf,
}

impl Tree {
    /// One line for each entry: mode, size in bytes, SHA-256 (- of a folder), path.
    ///
    /// # Errors
    /// A file cannot be read again.
    pub fn manifest(&self) -> Result<String, PackageError> {
        let mut text = String::new();
        for entry in &self.entries {
            let digest = match entry.kind {
                Kind::Folder => "-".to_owned(),
                _ => hex::encode(Sha256::digest(read(&within(&self.root, &entry.path))?)),
            };
            // Writing to a text does not fail.
            let _ = writeln!(
                text,
                "{:04o} {:>9} {digest} {}",
                entry.mode, entry.size, entry.path
            );
        }
        Ok(text)
    }

    /// What the files take, in KiB, each rounded up.
    #[must_use]
    pub fn size_kib(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| entry.size.div_ceil(1024).max(1))
            .sum()
    }
}

/// Makes the tree in `root`, which must not be there.
///
/// # Errors
/// Something that is to be installed is not there, or not as it has to be.
pub fn make(recipe: &Recipe, format: Format, root: &Path) -> Result<Tree, PackageError> {
    let binary = read(&recipe.binary)?;
    recipe.check(&binary)?;
    let arch = elf::arch(&binary).map_err(|source| PackageError::Binary {
        path: recipe.binary.clone(),
        source,
    })?;
    let rows = table::read(&recipe.folder().join("files"), format)?;
    std::fs::create_dir(root).map_err(|source| PackageError::Write {
        path: root.to_owned(),
        source,
    })?;
    let mut tree = Tree {
        root: root.to_owned(),
        entries: Vec::new(),
        arch,
        program: root.to_owned(),
    };
    let builder = Builder {
        recipe,
        arch,
        values: values(recipe)?,
    };
    for row in &rows {
        builder.add(&mut tree, row, &binary)?;
    }
    tree.entries.sort_by(|one, other| one.path.cmp(&other.path));
    // Folders on the way to what is installed have the mode that folders have.
    set_modes_of_folders(root, &tree.entries)?;
    Ok(tree)
}

struct Builder<'a> {
    recipe: &'a Recipe,
    arch: Arch,
    values: Values,
}

impl Builder<'_> {
    fn add(&self, tree: &mut Tree, row: &Row, binary: &[u8]) -> Result<(), PackageError> {
        match row.kind {
            Kind::Folder => {
                make_folder(&within(&tree.root, &row.destination))?;
                tree.entries.push(Entry {
                    path: row.destination.clone(),
                    kind: row.kind,
                    mode: row.mode,
                    size: 0,
                });
                Ok(())
            }
            Kind::Binary => {
                tree.program = within(&tree.root, &row.destination);
                self.install(tree, row, &row.destination, &self.stripped(binary)?)
            }
            Kind::Manual => self.add_manual(tree, row),
            Kind::Packages => {
                for path in &self.recipe.agent_packages {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    self.install(tree, row, &format!("{}/{name}", row.destination), &read(path)?)?;
                }
                Ok(())
            }
            Kind::Completion => {
                let script = run(
                    program(&self.recipe.binary).args(["completions", &row.source]),
                    "itself",
                )?;
                self.install(tree, row, &row.destination, &script)
            }
            Kind::File | Kind::Config => {
                let bytes = self.content(&row.source)?;
                self.install(tree, row, &row.destination, &bytes)
            }
            Kind::Gzip => {
                let bytes = self.content(&row.source)?;
                let compressed = compressed(&bytes)?;
                self.install(tree, row, &row.destination, &compressed)
            }
        }
    }

    fn add_manual(&self, tree: &mut Tree, row: &Row) -> Result<(), PackageError> {
        let folder = temporary()?;
        run(
            program(&self.recipe.binary)
                .args(["man", "--dir"])
                .arg(folder.path()),
            "itself",
        )?;
        let listed = |source| PackageError::Read {
            path: folder.path().to_owned(),
            source,
        };
        for page in std::fs::read_dir(folder.path()).map_err(listed)? {
            let page = page.map_err(listed)?;
            let to = format!("{}/{}.gz", row.destination, page.file_name().to_string_lossy());
            self.install(tree, row, &to, &gzip(&page.path())?)?;
        }
        Ok(())
    }

    fn install(&self, tree: &mut Tree, row: &Row, to: &str, bytes: &[u8]) -> Result<(), PackageError> {
        let path = within(&tree.root, to);
        if let Some(parent) = path.parent() {
            make_folder(parent)?;
        }
        write(&path, bytes)?;
        set_mode(&path, row.mode)?;
        tree.entries.push(Entry {
            path: to.to_owned(),
            kind: row.kind,
            mode: row.mode,
            size: bytes.len() as u64,
        });
        Ok(())
    }

    /// A source's bytes; names are filled in where it is one of packaging's own plain files.
    fn content(&self, source: &str) -> Result<Vec<u8>, PackageError> {
        if source == "@THIRD_PARTY@" {
            return third_party::text(self.recipe, self.arch).map(String::into_bytes);
        }
        let path = match source.split_once('/') {
            None if source == "@DECOY_IMAGE@" => self.recipe.decoy_image.clone(),
            None if source == "@DECOY_DESCRIPTION@" => self.recipe.decoy_image.with_extension("json"),
            Some(("systemd", unit)) if self.recipe.units.is_some() => {
                self.recipe.units.clone().unwrap_or_default().join(unit)
            }
            _ => self.recipe.source.join(source),
        };
        if !path.is_file() {
            return Err(PackageError::Missing {
                path,
                package: self.recipe.name,
            });
        }
        if source.starts_with("packaging/") {
            return template::fill(&path, &self.values).map(String::into_bytes);
        }
        read(&path)
    }

    /// Without symbols and the compilers' notes, as Debian strips programs.
    fn stripped(&self, binary: &[u8]) -> Result<Vec<u8>, PackageError> {
        let has_symbols = elf::has_symbols(binary).map_err(|source| PackageError::Binary {
            path: self.recipe.binary.clone(),
            source,
        })?;
        if !has_symbols {
            return Ok(binary.to_vec());
        }
        let folder = temporary()?;
        let to = folder.path().join("stripped");
        run(
            program("strip")
                .args(["--strip-all", "--remove-section=.comment", "-o"])
                .arg(&to)
                .arg(&self.recipe.binary),
            "binutils",
        )?;
        read(&to)
    }
}

fn values(recipe: &Recipe) -> Result<Values, PackageError> {
    let mut values = template::common(recipe);
    let date = moment(recipe)?
        .format(&Rfc2822)
        .map_err(|_| PackageError::Epoch(recipe.epoch))?;
    values.push(("DATE", date));
    Ok(values)
}

pub(super) fn moment(recipe: &Recipe) -> Result<OffsetDateTime, PackageError> {
    OffsetDateTime::from_unix_timestamp(recipe.epoch.into()).map_err(|_| PackageError::Epoch(recipe.epoch))
}

pub(super) fn temporary() -> Result<tempfile::TempDir, PackageError> {
    tempfile::tempdir().map_err(|source| PackageError::Write {
        path: std::env::temp_dir(),
        source,
    })
}

fn compressed(bytes: &[u8]) -> Result<Vec<u8>, PackageError> {
    let folder = temporary()?;
    let plain = folder.path().join("plain");
    write(&plain, bytes)?;
    gzip(&plain)
}

fn within(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), PackageError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|source| {
        PackageError::Write {
            path: path.to_owned(),
            source,
        }
    })
}

/// Whatever the builder's umask is.
fn set_modes_of_folders(root: &Path, entries: &[Entry]) -> Result<(), PackageError> {
    set_mode(root, 0o755)?;
    for entry in entries {
        let mut parent = Path::new(&entry.path).parent();
        while let Some(folder) = parent.filter(|folder| folder.parent().is_some()) {
            set_mode(&within(root, &folder.to_string_lossy()), 0o755)?;
            parent = folder.parent();
        }
    }
    for folder in entries.iter().filter(|entry| entry.kind == Kind::Folder) {
        set_mode(&within(root, &folder.path), folder.mode)?;
    }
    Ok(())
}
