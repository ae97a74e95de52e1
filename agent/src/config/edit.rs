//! Settings that a program writes into a file that people keep: what is theirs stays as it is.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::{ConfigError, ini};

/// The mode of a file that is made: it holds nothing secret.
const MODE: u32 = 0o644;

/// Sets `keys` of the `[agent]` section, and leaves every other line as it is. The file is made where there is none. Whoever
/// reads it meanwhile finds the old one or the new one.
///
/// # Errors
/// The file is none that the agent would read, or cannot be written; it is then as it was.
pub fn set(path: &Path, keys: &[(&str, &str)]) -> Result<(), ConfigError> {
    let before = ini::read_text(path)?;
    let text = before.as_deref().unwrap_or_default();
    let settings = ini::parse(text).map_err(|(line, why)| ConfigError::Syntax {
        path: path.to_owned(),
        line,
        why,
    })?;
    let after = edited(text, &settings, keys);
    if before.as_deref() == Some(after.as_str()) {
        return Ok(());
    }
    replace(path, after.as_bytes()).map_err(|source| ConfigError::Write {
        path: path.to_owned(),
        source,
    })
}

fn edited(text: &str, settings: &ini::Settings, keys: &[(&str, &str)]) -> String {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let mut new = String::new();
    for (key, value) in keys {
        let setting = format!("{key} = {value}\n");
        match settings.section("agent").find(|entry| entry.key == *key) {
            Some(entry) if entry.value == *value => {}
            Some(entry) => lines[entry.line - 1] = setting,
            None => new.push_str(&setting),
        }
    }
    if new.is_empty() {
        return lines.concat();
    }
    let header = lines
        .iter()
        .position(|line| ini::header(line.trim()) == Some("agent"));
    if let Some(line) = lines.last_mut().filter(|line| !line.ends_with('\n')) {
        line.push('\n');
    }
    match header {
        Some(at) => lines.insert(at + 1, new),
        None => {
            let between = if lines.is_empty() { "" } else { "\n" };
            lines.push(format!("{between}[agent]\n{new}"));
        }
    }
    lines.concat()
}

/// Puts a new file in the place of the one behind `path`, or behind the link that it is, with that one's mode and owner.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (path, before) = match std::fs::canonicalize(path) {
        Ok(path) => {
            let before = std::fs::metadata(&path)?;
            (path, Some(before))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), None),
        Err(error) => return Err(error),
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder)?;
    let mut name = path.clone().into_os_string();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let written =
        write_as(&temporary, bytes, before.as_ref()).and_then(|()| std::fs::rename(&temporary, &path));
    if let Err(error) = written {
        // The first failure is the one to tell.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

fn write_as(path: &Path, bytes: &[u8], like: Option<&Metadata>) -> io::Result<()> {
    // What a try that was cut off has left.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    if let Some(like) = like {
        fchown(&file, Some(like.uid()), Some(like.gid()))?;
    }
    let mode = like.map_or(MODE, |like| like.mode() & 0o7777);
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [(&str, &str); 2] = [("ipvlan", "true"), ("updater", "false")];

    fn after(before: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decnet.ini");
        std::fs::write(&path, before).unwrap();
        set(&path, &KEYS).unwrap();
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "something else lies beside the file");
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn what_an_administrator_wrote_stays_line_by_line() {
        for (before, expected) in [
            (
                "; mine\n[other]\nipvlan = 7\n\n[agent]\n# note\n  ipvlan=false\nrelist = 300\n[last]\nx = 1\n",
                "; mine\n[other]\nipvlan = 7\n\n[agent]\nupdater = false\n# note\nipvlan = true\nrelist = 300\n[last]\nx = 1\n",
            ),
            (
                "[agent]\nipvlan = true\nupdater=false",
                "[agent]\nipvlan = true\nupdater=false",
            ),
            (
                "[agent]\r\nrelist = 5\r\n",
                "[agent]\r\nipvlan = true\nupdater = false\nrelist = 5\r\n",
            ),
            ("[agent]", "[agent]\nipvlan = true\nupdater = false\n"),
            (
                "[x]\ny = 1",
                "[x]\ny = 1\n\n[agent]\nipvlan = true\nupdater = false\n",
            ),
            ("", "[agent]\nipvlan = true\nupdater = false\n"),
        ] {
            assert_eq!(after(before), expected, "from {before:?}");
            assert_eq!(after(expected), expected, "once more");
        }
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real.ini"), folder.path().join("decnet.ini"));
        std::fs::write(&file, "[agent]\n").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        set(&link, &KEYS).unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert!(std::fs::read_to_string(&file).unwrap().contains("ipvlan = true"));
    }

    #[test]
    fn a_file_that_no_agent_would_read_is_not_touched_and_a_missing_one_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("broken.ini");
        std::fs::write(&broken, "[agent\n").unwrap();
        assert!(matches!(set(&broken, &KEYS), Err(ConfigError::Syntax { .. })));
        assert_eq!(std::fs::read_to_string(&broken).unwrap(), "[agent\n");
        let made = folder.path().join("decnet/decnet.ini");
        set(&made, &KEYS).unwrap();
        assert_eq!(std::fs::metadata(&made).unwrap().mode() & 0o777, MODE);
        let config = crate::Config::new("/nowhere").with_file(&made).unwrap();
        assert_eq!((config.ipvlan, config.updater), (Some(true), false));
    }
}
