//! From Compose files to one document: merged, interpolated, canonical.
//!
//! The result is what `docker compose config` prints of the same files, as far as the specification's long forms go:
//! every short form is written out, every relative path is absolute, every variable is replaced. Nothing here reads a
//! file or the environment by itself: [`Files`] gives the texts, [`Inputs`] the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;

mod canonical;
mod check;
mod command;
mod dotenv;
mod extends;
mod folded;
mod include;
mod interpolate;
mod loader;
mod merge;
mod normalise;
mod paths;
mod project;
mod quantity;
mod scalar;
mod short;
mod sink;
mod tree;
mod values;
mod written;
mod yaml;

pub use written::to_yaml;

use loader::Loader;
use tree::Tree;

/// The largest file that is read, in bytes.
pub const MAX_FILE: usize = 4 << 20;

/// Where the loader gets the texts of files from.
pub trait Files {
    /// The text of a file. The path is absolute, or `-` for standard input.
    ///
    /// # Errors
    /// [`ReadError::NotFound`] only if there is nothing of that name: optional files are found missing by it.
    fn read(&self, path: &Path) -> Result<String, ReadError>;
}

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("there is no such file")]
    NotFound,
    #[error("it is a directory")]
    IsDirectory,
    #[error("it has more than {0} bytes")]
    TooLarge(usize),
    #[error("it is not UTF-8 text")]
    NotText,
    #[error("{0}")]
    Other(String),
}

/// What a document is made from.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The files of `-f`, in order; later ones win. Empty: `COMPOSE_FILE`, then the usual names, upwards from
    /// `current_dir`.
    pub files: Vec<PathBuf>,
    /// Absolute; what relative `files`, `env_files` and `project_directory` start from.
    pub current_dir: PathBuf,
    /// What relative paths inside the documents start from. `None`: the first file's directory.
    pub project_directory: Option<PathBuf>,
    /// The process environment.
    pub environment: BTreeMap<String, String>,
    /// The files of `--env-file`. Empty: `.env` of the project directory, if there is one.
    pub env_files: Vec<PathBuf>,
    /// `-p`.
    pub project_name: Option<String>,
    /// `--profile`, each. Empty: `COMPOSE_PROFILES`.
    pub profiles: Vec<String>,
}

/// A loaded project.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub project_name: String,
    /// Absolute.
    pub project_directory: PathBuf,
    /// The one document: `name`, `services`, `networks`, `volumes`, `configs`, `secrets` and `x-*`.
    pub document: Value,
    pub positions: Positions,
    /// One line each.
    pub warnings: Vec<String>,
}

/// A place in a file, for people: both numbers start at 1, columns count characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub file: Arc<str>,
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Where each attribute of a document was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<String, Position>);

impl Positions {
    /// The place of an attribute, such as `services.web.ports[0]` or `services.web.ports.0`, or else of the nearest
    /// thing around it that was written somewhere.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&Position> {
        let mut path = path.replace('[', ".").replace(']', "");
        loop {
            if let Some(position) = self.0.get(&path) {
                return Some(position);
            }
            let cut = path.rfind('.').unwrap_or(0);
            if path.is_empty() {
                return None;
            }
            path.truncate(cut);
        }
    }
}

/// One thing wrong, in one line: `FILE:LINE:COLUMN: services.web.ports[1]: what, why, what to do`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// `None` when no file is to blame, such as for a bad `-p`.
    pub position: Option<Position>,
    /// `services.web.ports[1]`; empty when it is about the file as a whole.
    pub path: String,
    pub problem: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = &self.position {
            write!(f, "{position}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for LoadError {}

/// Loads a project.
///
/// # Errors
/// Everything found wrong. What cannot be understood before something else is repaired shows up after that.
pub fn load(inputs: &Inputs, files: &dyn Files) -> Result<Loaded, Vec<LoadError>> {
    let mut loader = Loader::new(files, inputs.environment.get("HOME").cloned());
    let mut settings = match loader.settings(inputs) {
        Ok(settings) => settings,
        Err(error) => return Err(loader.sink.into_errors(Some(error))),
    };
    let mut sources = Vec::new();
    let mut shown = Vec::new();
    for (path, name) in std::mem::take(&mut settings.files) {
        loader.show_as(&path, &name);
        shown.push(name);
        let documents = loader.documents(&path, None).unwrap_or_default();
        sources.push((path, documents));
    }
    let names: Vec<Tree> = sources
        .iter()
        .flat_map(|(_, documents)| documents)
        .filter_map(|document| document.get("name").cloned())
        .collect();
    let project_name = match loader.name(&settings, &names) {
        Ok(name) => name,
        Err(error) => return Err(loader.sink.into_errors(Some(error))),
    };
    let mut environment = settings.environment;
    environment.insert("COMPOSE_PROJECT_NAME".to_owned(), project_name.clone());
    let environment = Rc::new(environment);
    let context = loader.context(settings.directory.clone(), Rc::clone(&environment), Vec::new());
    let mut document = loader.model(sources, &context);
    if document.as_map().is_none_or(BTreeMap::is_empty) && !loader.sink.has_errors() {
        let problem = format!("{}: says nothing: a project needs services", shown.join(", "));
        loader.sink.fail_at(None, String::new(), problem);
    }

    check::attributes(&document, &mut loader.sink);
    values::document(&mut document, &mut loader.sink);
    check::resources(&document, &mut loader.sink);
    normalise::document(&mut document, &project_name);
    if !loader.sink.has_errors() {
        let inactive = check::profiles(&mut document, &settings.profiles);
        check::references(&mut document, &inactive, &mut loader.sink);
        loader.fold_files(&mut document, &environment, &settings.directory);
        check::unused(&mut document);
        check::contents(&document, &mut loader.sink);
    }
    if loader.sink.has_errors() {
        return Err(loader.sink.into_errors(None));
    }
    let (document, positions) = document.finish(&loader.sink);
    Ok(Loaded {
        project_name,
        project_directory: PathBuf::from(settings.directory),
        document,
        positions,
        warnings: loader.sink.warnings,
    })
}

/// The document as it may be shown and loaded again: without the contents of secrets that came from variables, and
/// with a second `$` behind each in a text.
#[must_use]
pub fn printable(document: &Value) -> Value {
    let mut document = document.clone();
    if let Some(Value::Object(secrets)) = document.get_mut("secrets") {
        for secret in secrets.values_mut().filter_map(Value::as_object_mut) {
            secret.remove("content");
        }
    }
    double_dollars(&mut document);
    document
}

fn double_dollars(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('$') => *text = text.replace('$', "$$"),
        Value::Array(list) => list.iter_mut().for_each(double_dollars),
        Value::Object(map) => map.values_mut().for_each(double_dollars),
        _ => {}
    }
}
