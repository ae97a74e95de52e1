//! Settings of the project as a whole: which files, which environment, which name, which profiles.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use decnet_wire::ids::StackName;

use super::loader::Loader;
use super::tree::Tree;
use super::{Inputs, LoadError, ReadError, dotenv, interpolate, paths};

const FILE_NAMES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];
const OVERRIDE_NAMES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// What is settled before the files are understood.
#[derive(Debug)]
pub(super) struct Settings {
    /// Path to read, and how to show it.
    pub(super) files: Vec<(String, String)>,
    pub(super) directory: String,
    pub(super) environment: BTreeMap<String, String>,
    /// The name, unless the files are to give it.
    pub(super) name: Option<String>,
    pub(super) profiles: Vec<String>,
}

/// An error that no file is to blame for.
fn failure(problem: impl Into<String>) -> LoadError {
    LoadError {
        position: None,
        path: String::new(),
        problem: problem.into(),
    }
}

impl Loader<'_> {
    /// The environment wins over `.env`; `-p`, `-f` and `--profile` win over both.
    pub(super) fn settings(&mut self, inputs: &Inputs) -> Result<Settings, LoadError> {
        let current = text(&inputs.current_dir)?;
        if !current.starts_with('/') {
            return Err(failure(format!(
                "{current}: the current directory must be absolute"
            )));
        }
        let absolute = |path: &Path| -> Result<String, LoadError> {
            let path = text(path)?;
            Ok(match path.starts_with('/') {
                true => paths::clean(path),
                false => paths::clean(&format!("{current}/{path}")),
            })
        };
        let project_directory = match &inputs.project_directory {
            Some(directory) => Some(absolute(directory)?),
            None => None,
        };
        let first = inputs.files.iter().find(|file| file.as_os_str() != "-");
        let start = match (&project_directory, first) {
            (Some(directory), _) => directory.clone(),
            (None, Some(file)) => paths::parent(&absolute(file)?),
            (None, None) => paths::clean(current),
        };
        let mut environment = inputs.environment.clone();
        self.load_env(inputs, &start, &mut environment, &absolute)?;

        let mut given = inputs.files.clone();
        if given.is_empty()
            && let Some(list) = environment.get("COMPOSE_FILE").filter(|list| !list.is_empty())
        {
            let separator = environment
                .get("COMPOSE_PATH_SEPARATOR")
                .map_or(":", String::as_str);
            given = list.split(separator).map(PathBuf::from).collect();
        }
        let mut files = Vec::new();
        for file in &given {
            let shown = text(file)?.to_owned();
            let path = if shown == "-" {
                shown.clone()
            } else {
                absolute(file)?
            };
            files.push((path, shown));
        }
        if files.is_empty() {
            files = self.discover(&start)?;
        }
        let directory = match project_directory {
            Some(directory) => directory,
            None => match files.iter().find(|(path, _)| path != "-") {
                Some((path, _)) => paths::parent(path),
                None => start.clone(),
            },
        };
        if directory != start {
            self.load_env(inputs, &directory, &mut environment, &absolute)?;
        }

        let name = match &inputs.project_name {
            Some(name) if !name.is_empty() => Some(name.clone()),
            _ => environment
                .get("COMPOSE_PROJECT_NAME")
                .filter(|name| !name.is_empty())
                .cloned(),
        };
        if let Some(name) = &name
            && !is_name(name)
        {
            return Err(failure(format!("the project name {name:?} {NAME_RULE}")));
        }
        let mut profiles = inputs.profiles.clone();
        if profiles.is_empty()
            && let Some(list) = environment.get("COMPOSE_PROFILES")
        {
            profiles = list.split(',').map(|profile| profile.trim().to_owned()).collect();
        }
        Ok(Settings {
            files,
            directory,
            environment,
            name,
            profiles,
        })
    }

    /// Adds what the env files say and the environment does not.
    fn load_env(
        &mut self,
        inputs: &Inputs,
        directory: &str,
        environment: &mut BTreeMap<String, String>,
        absolute: &dyn Fn(&Path) -> Result<String, LoadError>,
    ) -> Result<(), LoadError> {
        let mut files = Vec::new();
        for file in &inputs.env_files {
            files.push((absolute(file)?, text(file)?.to_owned()));
        }
        let required = !files.is_empty();
        if files.is_empty() {
            let off = environment.get("COMPOSE_DISABLE_ENV_FILE");
            if off.is_some_and(|off| matches!(off.to_ascii_lowercase().as_str(), "1" | "t" | "true")) {
                return Ok(());
            }
            let path = format!("{}/.env", directory.trim_end_matches('/'));
            files.push((path.clone(), path));
        }
        let mut values = BTreeMap::new();
        for (path, shown) in files {
            self.show_as(&path, &shown);
            let text = match self.read(&path) {
                Ok(text) => text,
                Err(ReadError::NotFound | ReadError::IsDirectory) if !required => continue,
                Err(error) => return Err(failure(format!("{shown}: cannot be read: {error}"))),
            };
            let lookup = |name: &str| environment.get(name).cloned();
            if let Err(bad) = dotenv::read(&text, &mut values, &lookup, &mut self.sink.budget) {
                self.bad_env(&path, &bad);
            }
        }
        for (name, value) in values {
            environment.entry(name).or_insert(value);
        }
        Ok(())
    }

    /// The usual file, and its usual override, of the directory or the nearest one above.
    fn discover(&mut self, start: &str) -> Result<Vec<(String, String)>, LoadError> {
        let mut directory = start.to_owned();
        loop {
            let path = |name: &str| format!("{}/{name}", directory.trim_end_matches('/'));
            let mut find = |names: [&str; 4]| {
                let found = names.into_iter().find(|name| self.exists(&path(name)))?;
                Some((path(found), path(found)))
            };
            if let Some(main) = find(FILE_NAMES) {
                return Ok(std::iter::once(main).chain(find(OVERRIDE_NAMES)).collect());
            }
            let parent = paths::parent(&directory);
            if parent == directory {
                return Err(failure(format!(
                    "{start}: there is no compose.yaml here or above: name one with -f"
                )));
            }
            directory = parent;
        }
    }

    /// The name that the files give, the last of them first, or else the directory's.
    pub(super) fn name(&mut self, settings: &Settings, names: &[Tree]) -> Result<String, LoadError> {
        if let Some(name) = &settings.name {
            return Ok(name.clone());
        }
        let Some(given) = names.iter().rev().find(|name| name.as_text() != Some("")) else {
            let name = normalised(settings.directory.rsplit('/').next().unwrap_or_default());
            return match is_name(&name) {
                true => Ok(name),
                false => Err(failure(
                    "the project has no name, and the folder's does not do: give one with -p, or write name: in the file",
                )),
            };
        };
        let error = |problem: String| LoadError {
            position: self.sink.position(given.at),
            path: "name".to_owned(),
            problem,
        };
        let template = given
            .as_text()
            .ok_or_else(|| error(format!("must be text, not {}: put it in quotes", given.what())))?;
        let lookup = |name: &str| settings.environment.get(name).cloned();
        let given = interpolate::text(template, &lookup, &mut BTreeSet::new()).map_err(&error)?;
        let name = normalised(&given);
        match is_name(&name) {
            true => Ok(name),
            false => Err(error(format!("{given:?} {NAME_RULE}"))),
        }
    }
}

const NAME_RULE: &str =
    "is no project name: use up to 80 of a-z, 0-9, '_' and '-', and begin with a letter or number";

/// What is left of a text when it is to be a name, as Compose does it with a directory's and with `name`.
fn normalised(text: &str) -> String {
    let name: String = text
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
        .collect();
    name.trim_start_matches(['_', '-']).to_owned()
}

/// Compose Specification, "Version and name", has the pattern; that there are no more than 80 is ours: names of
/// containers, volumes and networks begin with it.
fn is_name(name: &str) -> bool {
    name.parse::<StackName>().is_ok()
}

fn text(path: &Path) -> Result<&str, LoadError> {
    path.to_str()
        .ok_or_else(|| failure(format!("{}: the path is not UTF-8", path.display())))
}
