//! `env_file` and `label_file`, read and folded into `environment` and `labels`, and the seccomp profiles of
//! `security_opt`.

use std::collections::BTreeMap;

use super::dotenv;
use super::loader::Loader;
use super::tree::{At, Kind, Map, Trail, Tree};

impl Loader<'_> {
    /// A later file wins over an earlier one, and the service's own entries over all files. Variables in the files come
    /// from the project's environment, then from the service's entries, then from lines before.
    pub(super) fn fold_files(
        &mut self,
        document: &mut Tree,
        environment: &BTreeMap<String, String>,
        directory: &str,
    ) {
        let root = Trail::Root;
        let services = root.key("services");
        for (name, service) in document.entries_mut("services") {
            let trail = services.key(name);
            let Some(map) = service.as_map_mut() else { continue };
            if let Some(files) = map.remove("env_file") {
                let own = texts(map.get("environment"));
                let mut values = own.clone();
                let lookup = |name: &str| environment.get(name).or_else(|| own.get(name)).cloned();
                let trail = trail.key("env_file");
                for (i, file) in files.as_list().unwrap_or_default().iter().enumerate() {
                    self.fold(file, &trail.item(i), &mut values, &lookup);
                }
                put(map, "environment", files.at, values);
            }
            if let Some(options) = map.get_mut("security_opt") {
                self.profiles(options, &trail.key("security_opt"), directory);
            }
            if let Some(files) = map.remove("label_file") {
                let mut values = BTreeMap::new();
                let trail = trail.key("label_file");
                for (i, file) in files.as_list().unwrap_or_default().iter().enumerate() {
                    self.fold(file, &trail.item(i), &mut values, &|_| None);
                }
                put(map, "labels", files.at, values);
            }
        }
    }

    /// The engine takes the text of a seccomp profile, not its path.
    fn profiles(&mut self, options: &mut Tree, trail: &Trail<'_>, directory: &str) {
        let Kind::List(options) = &mut options.kind else {
            return;
        };
        for (i, option) in options.iter_mut().enumerate() {
            let Some(path) = option.as_text().and_then(|text| text.strip_prefix("seccomp")) else {
                continue;
            };
            let Some(path) = path.strip_prefix([':', '=']) else {
                continue;
            };
            // "unconfined" and "builtin" are the engine's words; a profile itself is JSON.
            if matches!(path, "unconfined" | "builtin") || path.starts_with('{') {
                continue;
            }
            let path = match path.starts_with('/') {
                true => path.to_owned(),
                false => super::paths::clean(&format!("{directory}/{path}")),
            };
            let trail = trail.item(i);
            let Some(text) = self.text_of(&path, true, Some((option.at, &trail))) else {
                continue;
            };
            match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
                Ok(profile) => {
                    let profile = serde_json::Value::Object(profile);
                    option.kind = Kind::Text(format!("seccomp={profile}"));
                }
                Err(error) => self.sink.fail(
                    option.at,
                    &trail,
                    format!("{path}: is no seccomp profile, which is a JSON object: {error}"),
                ),
            }
        }
    }

    fn fold(
        &mut self,
        file: &Tree,
        trail: &Trail<'_>,
        values: &mut BTreeMap<String, String>,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) {
        let Some(path) = file.as_text().or_else(|| file.get_text("path")) else {
            return;
        };
        let required = !matches!(file.get("required").map(|r| &r.kind), Some(Kind::Bool(false)));
        let Some(text) = self.text_of(path, required, Some((file.at, trail))) else {
            return;
        };
        let result = match file.get_text("format") {
            None => dotenv::read(&text, values, lookup, &mut self.sink.budget),
            Some("raw") => dotenv::read_raw(&text, values, lookup, &mut self.sink.budget),
            Some(other) => {
                let problem = format!("the format {other:?} is not known: use raw, or leave it out");
                return self.sink.fail(file.at, trail, problem);
            }
        };
        if let Err(bad) = result {
            self.bad_env(path, &bad);
        }
    }
}

fn texts(tree: Option<&Tree>) -> BTreeMap<String, String> {
    let entries = tree.and_then(Tree::as_map).into_iter().flatten();
    entries
        .filter_map(|(name, value)| Some((name.clone(), value.as_text()?.to_owned())))
        .collect()
}

/// Adds what is not there yet.
fn put(map: &mut Map, key: &str, at: At, values: BTreeMap<String, String>) {
    let own = map.entry(key.to_owned()).or_insert_with(|| Tree::map(at));
    for (name, value) in values {
        if let Some(own) = own.as_map_mut() {
            own.entry(name).or_insert_with(|| Tree::text(at, value));
        }
    }
}
