//! `include`: other Compose files, each loaded by itself, whose services, networks, volumes, configs and secrets join.

use std::rc::Rc;

use super::loader::{Context, Loader};
use super::tree::{Map, Trail, Tree};
use super::{dotenv, paths};

/// How deep files may include one another.
const MAX_DEPTH: usize = 32;

const SECTIONS: [&str; 6] = ["services", "networks", "volumes", "configs", "secrets", "models"];

impl Loader<'_> {
    /// Replaces the `include` of a canonical document by what it brings.
    pub(super) fn include(&mut self, document: &mut Tree, context: &Context) {
        let Some(include) = document.as_map_mut().and_then(|map| map.remove("include")) else {
            return;
        };
        let root = Trail::Root;
        let trail = root.key("include");
        for (i, entry) in include.as_list().unwrap_or_default().iter().enumerate() {
            let trail = trail.item(i);
            if let Some(model) = self.included(entry, &trail, context) {
                self.import(document, model, entry, &trail);
            }
        }
    }

    fn included(&mut self, entry: &Tree, trail: &Trail<'_>, context: &Context) -> Option<Tree> {
        let mut fail = |problem: String| {
            self.sink.fail(entry.at, trail, problem);
            None
        };
        let known = ["path", "project_directory", "env_file"];
        if let Some(key) = entry.as_map()?.keys().find(|key| !known.contains(&key.as_str())) {
            return fail(format!(
                "has no attribute {key}: it takes path, project_directory and env_file"
            ));
        }
        let given: Vec<&str> = entry.items("path").filter_map(Tree::as_text).collect();
        if let Some(remote) = given
            .iter()
            .find(|path| path.is_empty() || paths::is_remote(path))
        {
            return fail(format!(
                "{remote:?} must name a file on this machine: copy a remote one here"
            ));
        }
        if context.included.len() >= MAX_DEPTH {
            return fail(format!(
                "files include one another more than {MAX_DEPTH} levels deep"
            ));
        }
        let base = self.base(&context.directory);
        let files: Vec<String> = given.iter().map(|path| base.resolve(path)).collect();
        let main = files.first()?;
        if let Some(start) = context.included.iter().position(|file| file == main) {
            let mut names: Vec<&str> = context
                .included
                .iter()
                .skip(start)
                .map(|file| self.shown(file))
                .collect();
            names.push(self.shown(main));
            let problem = format!("the files include each other: {}", names.join(", "));
            self.sink.fail(entry.at, trail, problem);
            return None;
        }
        let directory = match entry.get_text("project_directory") {
            Some(directory) => base.resolve(directory),
            None => paths::parent(main),
        };
        let mut env_files: Vec<(String, bool)> = entry
            .items("env_file")
            .filter_map(|path| Some((base.resolve(path.as_text()?), true)))
            .collect();
        if env_files.is_empty() {
            env_files.push((format!("{}/.env", directory.trim_end_matches('/')), false));
        }
        let mut environment = Rc::clone(&context.environment);
        let mut values = std::collections::BTreeMap::new();
        for (path, required) in env_files {
            let Some(text) = self.text_of(&path, required, Some((entry.at, trail))) else {
                continue;
            };
            let lookup = |name: &str| context.environment.get(name).cloned();
            if let Err(bad) = dotenv::read(&text, &mut values, &lookup, &mut self.sink.budget) {
                self.bad_env(&path, &bad);
            }
        }
        if !values.is_empty() {
            let environment = Rc::make_mut(&mut environment);
            for (name, value) in values {
                environment.entry(name).or_insert(value);
            }
        }
        let context = self.context(directory, environment, context.included.clone());
        let sources = files
            .into_iter()
            .map(|file| {
                let documents = self.documents(&file, Some((entry.at, trail)));
                documents.map(|documents| (file, documents))
            })
            .collect::<Option<Vec<_>>>()?;
        Some(self.model(sources, &context))
    }

    /// Adds what an included model brings; the same thing said twice is no conflict.
    fn import(&mut self, document: &mut Tree, model: Tree, entry: &Tree, trail: &Trail<'_>) {
        let Some(document) = document.as_map_mut() else {
            return;
        };
        let super::tree::Kind::Map(mut model) = model.kind else {
            return;
        };
        for section in SECTIONS {
            let Some(brought) = model.remove(section).and_then(|section| match section.kind {
                super::tree::Kind::Map(map) => Some(map),
                _ => None,
            }) else {
                continue;
            };
            let own = document
                .entry(section.to_owned())
                .or_insert_with(|| Tree::map(entry.at));
            if own.is_null() {
                *own = Tree::map(entry.at);
            }
            let Some(own) = own.as_map_mut() else { continue };
            let conflicts = join(own, brought);
            for name in conflicts {
                let problem = format!(
                    "{section}.{name} is in the included file as well, and is another one: rename it, or put changes in an override file"
                );
                self.sink.fail(entry.at, trail, problem);
            }
        }
    }
}

/// The names that both have, with different things.
fn join(own: &mut Map, brought: Map) -> Vec<String> {
    let mut conflicts = Vec::new();
    for (name, value) in brought {
        match own.get(&name) {
            Some(known) if *known == value => {}
            Some(_) => conflicts.push(name),
            None => drop(own.insert(name, value)),
        }
    }
    conflicts
}
