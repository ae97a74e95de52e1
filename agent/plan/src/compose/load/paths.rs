//! Relative paths to absolute ones.

use std::path::Path;

use super::tree::{Kind, Tree};

/// What a path starts from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base<'a> {
    pub(super) directory: &'a str,
    /// What `~` stands for.
    pub(super) home: Option<&'a str>,
}

impl Base<'_> {
    /// The path, absolute and without `.` and `..`; an empty one stays empty.
    pub(super) fn resolve(self, path: &str) -> String {
        let home = match (path.strip_prefix('~'), self.home) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
                Some(clean(&format!("{home}{rest}")))
            }
            _ => None,
        };
        match home {
            Some(path) => path,
            None if path.is_empty() => String::new(),
            // Compose leaves an absolute path as it is.
            None if path.starts_with('/') => path.to_owned(),
            None => clean(&format!("{}/{path}", self.directory)),
        }
    }

    /// All paths of a canonical document.
    pub(super) fn document(self, document: &mut Tree) {
        for (_, service) in document.entries_mut("services") {
            self.service(service);
        }
        for section in ["configs", "secrets"] {
            for (_, resource) in document.entries_mut(section) {
                self.at(resource, "file");
            }
        }
        for (_, volume) in document.entries_mut("volumes") {
            if volume.get_text("driver") != Some("local") {
                continue;
            }
            if let Some(options) = volume.get_mut("driver_opts")
                && options.get_text("o") == Some("bind")
            {
                self.at(options, "device");
            }
        }
    }

    /// All paths of a canonical service.
    pub(super) fn service(self, service: &mut Tree) {
        if let Some(build) = service.get_mut("build") {
            if let Some(context) = build.get_mut("context") {
                self.context(context);
            }
            for (_, context) in build.entries_mut("additional_contexts") {
                self.context(context);
            }
        }
        if let Some(extends) = service.get_mut("extends") {
            self.at(extends, "file");
        }
        for key in ["env_file", "label_file", "volumes"] {
            let Some(list) = service.get_mut(key).and_then(Tree::as_list_mut) else {
                continue;
            };
            for item in list {
                match key {
                    "env_file" => self.at(item, "path"),
                    "label_file" => self.text(item),
                    _ if item.get_text("type") == Some("bind") => self.at(item, "source"),
                    _ => {}
                }
            }
        }
    }

    fn at(self, tree: &mut Tree, key: &str) {
        if let Some(value) = tree.get_mut(key) {
            self.text(value);
        }
    }

    fn text(self, tree: &mut Tree) {
        if let Kind::Text(path) = &mut tree.kind {
            *path = match path.is_empty() {
                true => self.directory.to_owned(),
                false => self.resolve(path),
            };
        }
    }

    /// A build context may be an address.
    fn context(self, tree: &mut Tree) {
        if tree
            .as_text()
            .is_some_and(|text| !text.is_empty() && !is_remote(text))
        {
            self.text(tree);
        }
    }
}

/// Whether a build context, or a file that another names, is not on this machine.
pub(super) fn is_remote(text: &str) -> bool {
    text.contains("://")
        || ["github.com/", "git@", "service:"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
}

/// The path without empty parts, `.` and `..`, by its text alone; `.` if nothing is left.
pub(super) fn clean(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    match (is_absolute, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

/// The directory that a file lies in.
pub(super) fn parent(path: &str) -> String {
    let parent = Path::new(path).parent().and_then(Path::to_str).unwrap_or("/");
    clean(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute() {
        let base = Base {
            directory: "/srv/app",
            home: Some("/root"),
        };
        for (path, absolute) in [
            ("", ""),
            (".", "/srv/app"),
            ("./data", "/srv/app/data"),
            ("../data/", "/srv/data"),
            ("../../../..", "/"),
            ("/etc/x", "/etc/x"),
            ("~/x", "/root/x"),
            ("~", "/root"),
            ("~user/x", "/srv/app/~user/x"),
            ("a//b/./c", "/srv/app/a/b/c"),
        ] {
            assert_eq!(base.resolve(path), absolute, "{path}");
        }
        assert_eq!(clean("a/.."), ".");
        assert_eq!(clean("/data/"), "/data");
        assert_eq!(parent("/srv/app/compose.yaml"), "/srv/app");
    }
}
