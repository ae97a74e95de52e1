//! `@NAME@` in plain files.

use std::path::Path;

use super::{PackageError, Recipe, read_text};

/// Names and what they stand for.
pub(super) type Values = Vec<(&'static str, String)>;

/// The text of a file with every `@NAME@` filled in.
///
/// # Errors
/// The file cannot be read, or has a name that is not among `values`.
pub(super) fn fill(path: &Path, values: &Values) -> Result<String, PackageError> {
    fill_text(&read_text(path)?, values).map_err(|name| PackageError::Placeholder {
        path: path.to_owned(),
        name,
    })
}

/// Gives back the name that is not known.
fn fill_text(text: &str, values: &Values) -> Result<String, String> {
    let mut parts = text.split('@');
    let mut filled = parts.next().unwrap_or_default().to_owned();
    let mut rest = parts.peekable();
    while let Some(part) = rest.next() {
        let is_name = !part.is_empty()
            && part
                .chars()
                .all(|letter| letter.is_ascii_uppercase() || letter == '_');
        // The text after the last @ ends nothing.
        if !is_name || rest.peek().is_none() {
            filled.push('@');
            filled.push_str(part);
            continue;
        }
        let (_, value) = values
            .iter()
            .find(|(name, _)| *name == part)
            .ok_or_else(|| part.to_owned())?;
        filled.push_str(value);
        filled.push_str(rest.next().unwrap_or_default());
    }
    Ok(filled)
}

/// What every file may name.
pub(super) fn common(recipe: &Recipe) -> Values {
    vec![
        ("PACKAGE", recipe.name.to_string()),
        ("VERSION", recipe.version.to_string()),
        ("REVISION", recipe.revision.to_string()),
        ("MAINTAINER", recipe.maintainer.clone()),
    ]
}

/// What scripts may name: the package's own names, and the functions that all share.
///
/// # Errors
/// A file of the package cannot be read or is not understood.
pub(super) fn scripts(recipe: &Recipe) -> Result<Values, PackageError> {
    let path = recipe.folder().join("package");
    let text = read_text(&path)?;
    let mut values = common(recipe);
    for (name, key) in [
        ("UNIT", "unit"),
        ("STATE", "state"),
        ("OWNER", "owner"),
        ("SETTINGS", "settings"),
    ] {
        let value = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .find_map(|(found, value)| (found.trim() == key).then(|| value.trim().to_owned()))
            .ok_or_else(|| PackageError::Table {
                path: path.clone(),
                line: 1,
                why: format!("there is no line for {key}"),
            })?;
        values.push((name, value));
    }
    let functions = fill(&recipe.packaging().join("common/functions.sh"), &values)?;
    values.push(("FUNCTIONS", functions.trim_end().to_owned()));
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in_and_addresses_are_left() {
        let values = vec![("A", "one".to_owned()), ("B", "a@b".to_owned())];
        let fill = |text| fill_text(text, &values);
        assert_eq!(fill("x @A@@B@ y").as_deref(), Ok("x onea@b y"));
        assert_eq!(
            fill("who@example.org @A@ \"$@\"").as_deref(),
            Ok("who@example.org one \"$@\"")
        );
        assert_eq!(fill("ends with @A"), Ok("ends with @A".to_owned()));
        assert_eq!(fill("@C@"), Err("C".to_owned()));
    }
}
