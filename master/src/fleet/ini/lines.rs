//! Text to sections of keys and values, with line numbers.
//!
//! The dialect: `[section]` headers (what follows the bracket is ignored), `key = value` or `key: value`, keys in
//! any case, comments on lines of their own starting with `#` or `;`, and continuation: a line indented deeper than
//! its key goes on with the value. Nothing is interpolated, so `%` is itself.

use std::collections::HashMap;

use super::error::{Faults, IniClass, IniError, shown};

/// The section whose keys every decky section inherits.
pub(super) const DEFAULT: &str = "DEFAULT";

#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) line: usize,
    /// Each key once, in file order.
    pub(super) entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// In lower case.
    pub(super) key: String,
    /// Trimmed; lines of a continued value are joined by newlines.
    pub(super) value: String,
    pub(super) line: usize,
}

impl Section {
    pub(super) fn fault(&self, class: IniClass, message: impl Into<String>) -> IniError {
        IniError::new(class, message).line(self.line).section(&self.name)
    }
}

/// Reads all sections, each name once.
pub(super) fn read(text: &str, faults: &mut Faults) -> Vec<Section> {
    let mut reader = Reader {
        sections: Vec::new(),
        names: HashMap::new(),
        keys: HashMap::new(),
        state: State::Start,
        faults,
    };
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    for (index, line) in text.split('\n').enumerate() {
        reader.line(index + 1, line);
    }
    for section in &mut reader.sections {
        for entry in &mut section.entries {
            entry.value = entry.value.trim().to_owned();
        }
    }
    reader.sections
}

/// What the next line can belong to.
enum State {
    /// Nothing: no header was seen yet.
    Start,
    /// Nothing, and that was reported.
    Lost,
    /// A section that is kept.
    Section,
    /// The value of the newest key, which is indented by so many characters.
    Value { indent: usize },
}

struct Reader<'a> {
    sections: Vec<Section>,
    /// Name to line.
    names: HashMap<String, usize>,
    /// The newest section's keys, in one spelling, to their lines.
    keys: HashMap<String, usize>,
    state: State,
    faults: &'a mut Faults,
}

impl Reader<'_> {
    fn line(&mut self, number: usize, line: &str) {
        let trimmed = line.trim();
        if trimmed.starts_with(['#', ';']) {
            return;
        }
        let indent = line.chars().take_while(|c| c.is_whitespace()).count();
        if let State::Value { indent: key_indent } = self.state {
            // An empty line belongs to the value when more of it follows; the trim at the end takes it off otherwise.
            if trimmed.is_empty() || indent > key_indent {
                if let Some(entry) = self
                    .sections
                    .last_mut()
                    .and_then(|section| section.entries.last_mut())
                {
                    entry.value.push('\n');
                    entry.value.push_str(trimmed);
                }
                return;
            }
        }
        if trimmed.is_empty() {
            return;
        }
        match trimmed.strip_prefix('[') {
            Some(rest) => self.header(number, rest),
            None => self.entry(number, indent, trimmed),
        }
    }

    fn header(&mut self, line: usize, rest: &str) {
        let fault = |message: String| IniError::new(IniClass::Syntax, message).line(line);
        self.state = State::Lost;
        match rest.split_once(']') {
            None => {
                let message = format!("[{} is not closed; write [name]", shown(rest));
                self.faults.push(fault(message));
            }
            Some(("", _)) => self.faults.push(fault("[] has no name; write [name]".to_owned())),
            Some((name, _)) => {
                if let Some(earlier) = self.names.get(name) {
                    let message =
                        format!("this section is already on line {earlier}; merge the two, or rename one");
                    self.faults.push(
                        IniError::new(IniClass::Duplicate, message)
                            .line(line)
                            .section(name),
                    );
                    return;
                }
                self.names.insert(name.to_owned(), line);
                self.keys.clear();
                self.sections.push(Section {
                    name: name.to_owned(),
                    line,
                    entries: Vec::new(),
                });
                self.state = State::Section;
            }
        }
    }

    fn entry(&mut self, line: usize, indent: usize, trimmed: &str) {
        let section = match self.state {
            State::Lost => return,
            State::Start => {
                self.state = State::Lost;
                let message = "this line stands before any section; start with a section such as [web]";
                self.faults
                    .push(IniError::new(IniClass::Syntax, message).line(line));
                return;
            }
            // Both states are entered only after a section was added.
            State::Section | State::Value { .. } => match self.sections.last_mut() {
                Some(section) => section,
                None => return,
            },
        };
        // After a line that is no key, a deeper line continues nothing.
        self.state = State::Section;
        let Some((key, value)) = trimmed.split_once(['=', ':']) else {
            let message = format!(
                "`{}` has no value; write `key = value`, or indent it to continue the line above",
                shown(trimmed)
            );
            self.faults.push(
                IniError::new(IniClass::Syntax, message)
                    .line(line)
                    .section(&section.name),
            );
            return;
        };
        let key = key.trim().to_lowercase();
        if key.is_empty() {
            let message = "there is no key before the `=` or `:`; write `key = value`";
            self.faults.push(
                IniError::new(IniClass::Syntax, message)
                    .line(line)
                    .section(&section.name),
            );
            return;
        }
        // Two spellings of one key count as one key.
        if let Some(earlier) = self.keys.insert(spelling(&key), line) {
            let message = format!("this key is already on line {earlier}; remove one of the two");
            let error = IniError::new(IniClass::Duplicate, message).line(line);
            self.faults.push(error.section(&section.name).key(&key));
        }
        section.entries.push(Entry {
            key,
            value: value.to_owned(),
            line,
        });
        self.state = State::Value { indent };
    }
}

/// `-` and `_` are the same in keys that the fleet INI knows.
pub(super) fn spelling(key: &str) -> String {
    key.replace('-', "_")
}
