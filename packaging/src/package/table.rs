//! A package's table of files: one line for each, in five columns.

use std::path::Path;

use super::{PackageError, read_text};

/// What a package is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Deb,
    Rpm,
}

/// What is made of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    /// A file whose changes by the administrator stay.
    Config,
    Gzip,
    Binary,
    Manual,
    Completion,
    Folder,
    /// The agent's packages, in a folder.
    Packages,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    /// Absolute.
    pub(super) destination: String,
    /// Empty where the kind needs none.
    pub(super) source: String,
}

/// Reads the rows of one format, in the table's order.
///
/// # Errors
/// [`PackageError::Table`] with the line that is wrong.
pub(super) fn read(path: &Path, format: Format) -> Result<Vec<Row>, PackageError> {
    let mut rows = Vec::new();
    for (index, line) in read_text(path)?.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let row = parse(line).map_err(|why| PackageError::Table {
            path: path.to_owned(),
            line: index + 1,
            why,
        })?;
        let (of, row) = row;
        if of.is_none_or(|of| of == format) {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The format, none for both, and the row.
fn parse(line: &str) -> Result<(Option<Format>, Row), String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (format, kind, mode, destination, source) = match *words {
        [format, kind, mode, destination] => (format, kind, mode, destination, ""),
        [format, kind, mode, destination, source] => (format, kind, mode, destination, source),
        _ => return Err("wanted: format, kind, mode, destination and, but for folders, a source".to_owned()),
    };
    let format = match format {
        "both" => None,
        "deb" => Some(Format::Deb),
        "rpm" => Some(Format::Rpm),
        other => return Err(format!("{other} is none of both, deb, rpm")),
    };
    let (kind, wants_source) = match kind {
        "file" => (Kind::File, true),
        "config" => (Kind::Config, true),
        "gzip" => (Kind::Gzip, true),
        "binary" => (Kind::Binary, false),
        "manual" => (Kind::Manual, false),
        "completion" => (Kind::Completion, true),
        "folder" => (Kind::Folder, false),
        "packages" => (Kind::Packages, false),
        other => return Err(format!("{other} is no kind of file")),
    };
    if wants_source == source.is_empty() {
        return Err(format!(
            "a {} {} a source",
            words[1],
            if wants_source { "needs" } else { "has not" }
        ));
    }
    let mode = u32::from_str_radix(mode, 8)
        .ok()
        .filter(|bits| *bits <= 0o777)
        .ok_or_else(|| format!("{mode} is no mode: wanted as in 0644"))?;
    if !destination.starts_with('/') || destination.split('/').any(|part| part == "..") {
        return Err(format!("{destination} is no absolute path"));
    }
    let row = Row {
        kind,
        mode,
        destination: destination.to_owned(),
        source: source.to_owned(),
    };
    Ok((format, row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_where_and_from_where() {
        let (format, row) = parse("deb config 0640 /etc/x.ini  packaging/x.ini").unwrap();
        assert_eq!(format, Some(Format::Deb));
        let wanted = Row {
            kind: Kind::Config,
            mode: 0o640,
            destination: "/etc/x.ini".to_owned(),
            source: "packaging/x.ini".to_owned(),
        };
        assert_eq!(row, wanted);
    }

    #[test]
    fn a_row_that_is_not_understood_is_refused() {
        for line in [
            "both file 0644 /usr/bin/x",
            "both folder 0755 /etc/x source",
            "both file 0999 /x source",
            "both file 04755 /x source",
            "both file 0644 relative source",
            "both file 0644 /usr/../etc/x source",
            "arch file 0644 /x source",
            "both link 0644 /x source",
            "both file",
        ] {
            assert!(parse(line).is_err(), "{line} was taken");
        }
    }
}
