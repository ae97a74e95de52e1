//! What is found out while a project is loaded, and how much it may become.

use std::sync::Arc;

use super::tree::{At, Trail};
use super::{LoadError, Position};

pub(super) const TOO_LARGE: &str = "becomes too large: fewer or smaller aliases, variables or files";

/// No more than this many errors are of use to anyone.
const MAX_ERRORS: usize = 100;

/// What of a text that a file has is shown in an error, in bytes.
const MAX_TEXT: usize = 1_000;

/// How much a project may become, whatever it is written with: files, aliases, variables, inheritance.
#[derive(Debug)]
pub(super) struct Budget {
    nodes: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            nodes: 500_000,
            bytes: 32 << 20,
        }
    }
}

impl Budget {
    /// Whether that much was left.
    pub(super) fn take(&mut self, nodes: usize, bytes: usize) -> bool {
        match (self.nodes.checked_sub(nodes), self.bytes.checked_sub(bytes)) {
            (Some(nodes), Some(bytes)) => {
                *self = Self { nodes, bytes };
                true
            }
            _ => {
                *self = Self { nodes: 0, bytes: 0 };
                false
            }
        }
    }
}

/// What was found out on the way: errors, warnings, the names of the files that places refer to, and what is left of
/// the budget.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pub(super) files: Vec<Arc<str>>,
    errors: Vec<LoadError>,
    pub(super) warnings: Vec<String>,
    pub(super) budget: Budget,
}

impl Sink {
    pub(super) fn position(&self, at: At) -> Option<Position> {
        let file = self.files.get(usize::try_from(at.file).ok()?)?;
        Some(Position {
            file: Arc::clone(file),
            line: usize::try_from(at.line).ok().filter(|line| *line > 0)?,
            column: usize::try_from(at.column).ok()?,
        })
    }

    pub(super) fn fail(&mut self, at: At, trail: &Trail<'_>, problem: impl Into<String>) {
        // What is wrong inside an attribute that is refused anyway is of no interest.
        if !trail.is_refused() {
            self.fail_at(self.position(at), trail.to_string(), problem.into());
        }
    }

    /// An attribute that is refused.
    pub(super) fn refuse(&mut self, at: At, trail: &Trail<'_>, reason: &str) {
        let problem = format!("not supported: {reason}");
        self.fail_at(self.position(at), trail.to_string(), problem);
    }

    /// One error for one place and path: the first is the cause.
    pub(super) fn fail_at(&mut self, position: Option<Position>, path: String, problem: String) {
        let known = |error: &LoadError| error.position == position && error.path == path && !path.is_empty();
        if self.is_full() || self.errors.iter().any(known) {
            return;
        }
        self.errors.push(LoadError {
            position,
            path,
            problem,
        });
    }

    pub(super) fn warn(&mut self, warning: String) {
        let warning = one_line(warning);
        if self.warnings.len() < MAX_ERRORS && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Whether nothing more is kept, so that looking for more is of no use.
    pub(super) fn is_full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// All errors, each in one line.
    pub(super) fn into_errors(mut self, last: Option<LoadError>) -> Vec<LoadError> {
        self.errors.extend(last);
        for error in &mut self.errors {
            error.path = one_line(std::mem::take(&mut error.path));
            error.problem = one_line(std::mem::take(&mut error.problem));
        }
        self.errors.sort_by(|a, b| a.position.cmp(&b.position));
        self.errors
    }
}

/// What may be shown of a text from a file or of a file's name.
pub(super) fn one_line(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        // What is wrong stands behind what it is about.
        let (head, tail) = (
            text.floor_char_boundary(MAX_TEXT / 2),
            text.ceil_char_boundary(text.len() - MAX_TEXT / 2),
        );
        text.replace_range(head..tail, "…");
    }
    match text.contains(char::is_control) {
        true => text.replace(char::is_control, " "),
        false => text,
    }
}
