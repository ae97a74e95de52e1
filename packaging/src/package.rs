//! The packages: what a package's plain files say, as a tree of files, and that as deb and as rpm.
//!
//! | module | does |
//! | --- | --- |
//! | [`table`] | reads `files`: what is installed, where to, from where |
//! | [`template`] | fills in `@NAME@` |
//! | [`tree`] | makes the tree and its manifest |
//! | [`deb`], [`rpm`] | have `dpkg-deb` and `rpmbuild` make a package of it |
//! | [`third_party`] | lists the crates that programs are linked with, and their licences |
//! | [`tool`] | runs those programs |
//!
//! Guarantee: the same inputs and the same tools give the same bytes. Owner is root, times are the recipe's, names and order
//! come from the table.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::elf::{ElfError, Weakness};

pub mod deb;
pub mod rpm;
mod table;
mod template;
mod third_party;
mod tool;
pub mod tree;

pub use table::{Format, Kind};
pub use tree::{Entry, Tree};

/// A package, and with it the program that is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// The agent of a worker host.
    DecnetAgent,
    /// The master and its command line.
    Decnet,
}

impl Name {
    /// The package's name, its program's, and that of its folder.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DecnetAgent => "decnet-agent",
            Self::Decnet => "decnet",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A version that means the same to dpkg and to rpm: digits, letters, dots and tildes, a digit first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

/// Why a text is no version.
#[derive(Debug, thiserror::Error)]
#[error(
    "a package's version has digits, letters, dots and tildes, and begins with a digit, as in 1.2.0 or 1.2.0~rc1"
)]
pub struct VersionError;

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let known = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '~');
        if !text.starts_with(|first: char| first.is_ascii_digit()) || !text.chars().all(known) {
            return Err(VersionError);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that decides what a package is.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub name: Name,
    /// The project's folder.
    pub source: PathBuf,
    /// The built program. It is asked for its manual and completions, so it has to run here.
    pub binary: PathBuf,
    /// Where units come from, in place of `systemd` in the project's folder.
    pub units: Option<PathBuf>,
    /// The decoy image's archive; its description (`.json`) lies beside it.
    pub decoy_image: PathBuf,
    /// The agent's packages, which the master hands out.
    pub agent_packages: Vec<PathBuf>,
    pub version: Version,
    /// Which packaging of this version it is.
    pub revision: u32,
    /// The time of every file, in seconds since 1970.
    pub epoch: u32,
    /// Who answers for the package: a name and an address.
    pub maintainer: String,
    /// How hard xz tries, 1 to 9; 0 compresses nothing.
    pub level: u8,
    /// Texts that must not be in the program, such as the builder's folders.
    pub forbidden: Vec<String>,
}

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {why}", path.display())]
    Table { path: PathBuf, line: usize, why: String },
    #[error("{}: @{name}@ is not known", path.display())]
    Placeholder { path: PathBuf, name: String },
    #[error("{} is not there, and the package {package} installs it; `make packages` builds what is built", path.display())]
    Missing { path: PathBuf, package: Name },
    #[error("{} cannot be packaged", path.display())]
    Binary { path: PathBuf, source: ElfError },
    #[error("{} is not hardened: {}", path.display(), list(weaknesses))]
    Weak {
        path: PathBuf,
        weaknesses: Vec<Weakness>,
    },
    #[error("{} holds the text {text}: build it with --remap-path-prefix, as `make packages` does", path.display())]
    Forbidden { path: PathBuf, text: String },
    #[error("cannot run {program}: install the Debian package {from}")]
    Start {
        program: String,
        from: &'static str,
        source: io::Error,
    },
    #[error("`{program}` failed: {said}")]
    Tool { program: String, said: String },
    #[error("crate {name} comes without {what}")]
    Licence { name: String, what: String },
    #[error("{0} is no time that a changelog can have")]
    Epoch(u32),
}

fn list(weaknesses: &[Weakness]) -> String {
    let texts: Vec<_> = weaknesses.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl Recipe {
    /// The package's own plain files.
    fn folder(&self) -> PathBuf {
        self.packaging().join(self.name.as_str())
    }

    fn packaging(&self) -> PathBuf {
        self.source.join("packaging")
    }

    /// Fails unless the program is as what is shipped has to be, but for symbols, which are removed later.
    fn check(&self, binary: &[u8]) -> Result<(), PackageError> {
        let path = || self.binary.clone();
        let weaknesses =
            crate::elf::weaknesses(binary).map_err(|source| PackageError::Binary { path: path(), source })?;
        if !weaknesses.is_empty() {
            return Err(PackageError::Weak {
                path: path(),
                weaknesses,
            });
        }
        for text in &self.forbidden {
            if binary.windows(text.len()).any(|window| window == text.as_bytes()) {
                return Err(PackageError::Forbidden {
                    path: path(),
                    text: text.clone(),
                });
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PackageError> {
    std::fs::read(path).map_err(|source| PackageError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read_text(path: &Path) -> Result<String, PackageError> {
    std::fs::read_to_string(path).map_err(|source| PackageError::Read {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), PackageError> {
    std::fs::write(path, bytes).map_err(|source| PackageError::Write {
        path: path.to_owned(),
        source,
    })
}

fn make_folder(path: &Path) -> Result<(), PackageError> {
    std::fs::create_dir_all(path).map_err(|source| PackageError::Write {
        path: path.to_owned(),
        source,
    })
}
