//! The way of a file: read, variables replaced, long forms, `extends`, `include`, merged.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use super::paths::Base;
use super::sink::{Sink, one_line};
use super::tree::{At, Trail, Tree};
use super::{Files, MAX_FILE, ReadError, canonical, dotenv, interpolate, merge, normalise, yaml};

/// How many files one project may read. Files that include one another twice double with each level.
const MAX_READS: usize = 2_000;
/// How many bytes they may have together: a large `env_file` may be that of every service.
const MAX_BYTES_READ: usize = 64 << 20;

/// What a set of files is read with: the project's own, or an included one's.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) id: usize,
    pub(super) directory: String,
    pub(super) environment: Rc<BTreeMap<String, String>>,
    /// The files that led here by `include`.
    pub(super) included: Vec<String>,
}

pub(super) struct Loader<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) home: Option<String>,
    pub(super) sink: Sink,
    /// The services of other files that are extended, by context and path.
    pub(super) bases: BTreeMap<(usize, String), Tree>,
    /// How to name a file in messages, by its path.
    pub(super) names: BTreeMap<String, String>,
    pub(super) contexts: usize,
    pub(super) reads: usize,
    pub(super) bytes_read: usize,
}

impl<'a> Loader<'a> {
    pub(super) fn new(files: &'a dyn Files, home: Option<String>) -> Self {
        Self {
            files,
            home,
            sink: Sink::default(),
            bases: BTreeMap::new(),
            names: BTreeMap::new(),
            contexts: 0,
            reads: 0,
            bytes_read: 0,
        }
    }

    pub(super) fn context(
        &mut self,
        directory: String,
        environment: Rc<BTreeMap<String, String>>,
        included: Vec<String>,
    ) -> Context {
        self.contexts += 1;
        Context {
            id: self.contexts,
            directory,
            environment,
            included,
        }
    }

    pub(super) fn base<'b>(&'b self, directory: &'b str) -> Base<'b> {
        Base {
            directory,
            home: self.home.as_deref(),
        }
    }

    /// Merges the documents of a set of files, and settles what depends on where and with what they are read.
    pub(super) fn model(&mut self, sources: Vec<(String, Vec<Tree>)>, context: &Context) -> Tree {
        let mut model: Option<Tree> = None;
        for (path, documents) in sources {
            let mut including = self.context(
                context.directory.clone(),
                Rc::clone(&context.environment),
                context.included.clone(),
            );
            including.id = context.id;
            including.included.push(path.clone());
            for mut document in documents {
                self.prepare(&mut document, context);
                self.extend(&mut document, &path, context);
                self.include(&mut document, &including);
                match &mut model {
                    Some(model) => merge::documents(model, document, &mut self.sink),
                    None => {
                        let mut empty = Tree::map(document.at);
                        merge::documents(&mut empty, document, &mut self.sink);
                        model = Some(empty);
                    }
                }
            }
        }
        let mut model = model.unwrap_or_else(|| Tree::map(At::default()));
        model.settle();
        normalise::defaults(&mut model);
        self.base(&context.directory).document(&mut model);
        normalise::environment(&mut model, &context.environment);
        model
    }

    /// Variables, then long forms.
    pub(super) fn prepare(&mut self, document: &mut Tree, context: &Context) {
        interpolate::tree(document, &Trail::Root, &context.environment, &mut self.sink);
        canonical::document(document, &mut self.sink);
        if document
            .as_map_mut()
            .and_then(|map| map.remove("version"))
            .is_some()
        {
            let file = self
                .sink
                .position(document.at)
                .map_or_else(String::new, |p| p.file.to_string());
            self.sink
                .warn(format!("{file}: version has no meaning: remove it"));
        }
    }

    /// The documents of a file; nothing, and an error, if it cannot be read.
    pub(super) fn documents(&mut self, path: &str, from: Option<(At, &Trail<'_>)>) -> Option<Vec<Tree>> {
        let text = self.text_of(path, true, from)?;
        let file = self.file(path);
        match yaml::parse(&text, file, &mut self.sink.budget) {
            Ok(documents) => Some(documents),
            Err(bad) => {
                self.sink
                    .fail_at(self.sink.position(bad.at), bad.path, bad.problem);
                None
            }
        }
    }

    /// The text of a file that something refers to. One that is not required may be missing.
    pub(super) fn text_of(
        &mut self,
        path: &str,
        required: bool,
        from: Option<(At, &Trail<'_>)>,
    ) -> Option<String> {
        match self.read(path) {
            Ok(text) => Some(text),
            Err(ReadError::NotFound) if !required => None,
            Err(error) => {
                let problem = format!("{}: cannot be read: {error}", self.shown(path));
                match from {
                    Some((at, trail)) => self.sink.fail(at, trail, problem),
                    None => self.sink.fail_at(None, String::new(), problem),
                }
                None
            }
        }
    }

    pub(super) fn read(&mut self, path: &str) -> Result<String, ReadError> {
        self.reads += 1;
        if self.reads > MAX_READS {
            return Err(ReadError::Other(format!(
                "the project reads more than {MAX_READS} files"
            )));
        }
        let text = self.files.read(Path::new(path))?;
        if text.len() > MAX_FILE {
            return Err(ReadError::TooLarge(MAX_FILE));
        }
        self.bytes_read = self.bytes_read.saturating_add(text.len());
        match self.bytes_read > MAX_BYTES_READ {
            true => Err(ReadError::Other(format!(
                "the project reads more than {MAX_BYTES_READ} bytes"
            ))),
            false => Ok(text),
        }
    }

    pub(super) fn exists(&mut self, path: &str) -> bool {
        !matches!(self.read(path), Err(ReadError::NotFound | ReadError::IsDirectory))
    }

    pub(super) fn bad_env(&mut self, path: &str, bad: &dotenv::Bad) {
        let file = self.file(path);
        let at = At {
            file,
            line: bad.line,
            column: 1,
        };
        self.sink.fail(at, &Trail::Root, bad.problem.clone());
    }

    /// The number of a file, by how it is shown.
    fn file(&mut self, path: &str) -> u32 {
        let shown = one_line(self.shown(path).to_owned());
        let known = self.sink.files.iter().position(|file| **file == *shown);
        let number = known.unwrap_or_else(|| {
            self.sink.files.push(shown.into());
            self.sink.files.len() - 1
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// Names the file in messages as the user did.
    pub(super) fn show_as(&mut self, path: &str, shown: &str) {
        self.names.insert(path.to_owned(), shown.to_owned());
    }

    pub(super) fn shown<'b>(&'b self, path: &'b str) -> &'b str {
        self.names.get(path).map_or(path, String::as_str)
    }
}
