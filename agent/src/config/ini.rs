//! A strict reader for small INI files: sections, `key = value`, comments on lines of their own.

use std::io::Read as _;
use std::path::Path;

use super::ConfigError;

/// The longest settings file, in bytes.
const MAX_LEN: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Settings(Vec<(String, Entry)>);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) line: usize,
    pub(super) key: String,
    pub(super) value: String,
}

impl Settings {
    pub(super) fn section<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.0
            .iter()
            .filter(move |(section, _)| section == name)
            .map(|(_, entry)| entry)
    }
}

/// Reads a file; none when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Settings>, ConfigError> {
    let Some(text) = read_text(path)? else {
        return Ok(None);
    };
    parse(&text).map(Some).map_err(|(line, why)| ConfigError::Syntax {
        path: path.to_owned(),
        line,
        why,
    })
}

/// A file's text; none when there is no such file.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, ConfigError> {
    let read = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read(error)),
    };
    let mut text = String::new();
    file.take(MAX_LEN as u64 + 1)
        .read_to_string(&mut text)
        .map_err(read)?;
    if text.len() > MAX_LEN {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
            most: MAX_LEN,
        });
    }
    Ok(Some(text))
}

/// The name of the section that a line without spaces at its ends begins.
pub(super) fn header(line: &str) -> Option<&str> {
    let name = line.strip_prefix('[')?.strip_suffix(']').map(str::trim)?;
    Some(name).filter(|name| !name.is_empty())
}

/// Reads a text. Lines are counted from 1.
///
/// # Errors
/// The line that is not understood, and why.
pub(super) fn parse(text: &str) -> Result<Settings, (usize, &'static str)> {
    let mut entries: Vec<(String, Entry)> = Vec::new();
    let mut section: Option<String> = None;
    for (index, raw) in text.lines().enumerate() {
        let number = index + 1;
        let line = raw.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with(';') {
            continue;
        }
        if line.starts_with('[') {
            let name = header(line).ok_or((number, "a section's name ends with ']'"))?;
            section = Some(name.to_owned());
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or((number, "expected [section] or key = value"))?;
        let (key, value) = (key.trim(), value.trim());
        let section = section
            .clone()
            .ok_or((number, "a setting stands before the first [section]"))?;
        if key.is_empty() {
            return Err((number, "a setting without a name"));
        }
        if entries
            .iter()
            .any(|(known, entry)| *known == section && entry.key == key)
        {
            return Err((number, "the same setting stands twice in its section"));
        }
        entries.push((
            section,
            Entry {
                line: number,
                key: key.to_owned(),
                value: value.to_owned(),
            },
        ));
    }
    Ok(Settings(entries))
}
