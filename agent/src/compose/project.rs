//! From the command line to what the engine is to have.

use std::collections::BTreeSet;
use std::path::PathBuf;

use decnet_plan::compose::load::{self, Inputs, Loaded};
use decnet_plan::desired::{Desired, DocumentError};
use decnet_wire::ids::{HostId, StackName};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::disk::Disk;
use super::options::{ProjectOptions, Pull, UpOptions};
use super::{ComposeError, Problems};

/// A project as its files describe it.
#[derive(Debug)]
pub(super) struct Project {
    pub(super) loaded: Loaded,
    pub(super) name: StackName,
}

impl Project {
    /// Reads the files.
    pub(super) fn load(options: &ProjectOptions) -> Result<Self, ComposeError> {
        Self::read(&inputs(options)?)
    }

    /// Reads the files, and enables the profiles of services that somebody names, as Compose does (Compose
    /// Specification, "Profiles": a service that is named is enabled, and others of its profiles with it).
    pub(super) fn load_with<'a>(
        options: &ProjectOptions,
        services: impl Iterator<Item = &'a String>,
    ) -> Result<Self, ComposeError> {
        let mut inputs = inputs(options)?;
        let mut all = inputs.clone();
        all.more_profiles.push("*".to_owned());
        // Whether what is not enabled is good is of no interest.
        if let Ok(all) = load::load(&all, &Disk) {
            let known = entries(&all.document, "services");
            let named = services.filter_map(|name| known.get(name)?["profiles"].as_array());
            let profiles = named.flatten().filter_map(Value::as_str);
            inputs.more_profiles.extend(profiles.map(str::to_owned));
        }
        Self::read(&inputs)
    }

    fn read(inputs: &Inputs) -> Result<Self, ComposeError> {
        let loaded = load::load(inputs, &Disk).map_err(|errors| {
            let lines = errors.iter().map(ToString::to_string);
            ComposeError::Files(Problems(lines.collect()))
        })?;
        for warning in &loaded.warnings {
            eprintln!("warning: {warning}");
        }
        let name = stack_name(&loaded.project_name)?;
        Ok(Self { loaded, name })
    }

    /// The services' names, in order.
    pub(super) fn services(&self) -> BTreeSet<String> {
        entries(&self.loaded.document, "services")
            .keys()
            .cloned()
            .collect()
    }

    /// Services that no profile enables now, which are no orphans.
    pub(super) fn disabled(&self, options: &ProjectOptions) -> BTreeSet<String> {
        let mut options = options.clone();
        options.profiles = vec!["*".to_owned()];
        // Whether all of the files are good is of no interest now.
        let all = inputs(&options)
            .ok()
            .and_then(|inputs| load::load(&inputs, &Disk).ok());
        let own = self.services();
        let all = all.map(|all| entries(&all.document, "services").keys().cloned().collect());
        let all: BTreeSet<String> = all.unwrap_or_default();
        all.difference(&own).cloned().collect()
    }

    /// Applies what the command line says of the document.
    pub(super) fn adjust(&mut self, up: &UpOptions) -> Result<(), ComposeError> {
        for service in up
            .services
            .iter()
            .chain(up.scale.iter().map(|(service, _)| service))
        {
            self.know(service)?;
        }
        let kept = self.closure(&up.services);
        let Some(Value::Object(services)) = self.loaded.document.get_mut("services") else {
            return Ok(());
        };
        if !up.services.is_empty() {
            services.retain(|name, _| kept.contains(name));
        }
        for (name, number) in &up.scale {
            if let Some(Value::Object(service)) = services.get_mut(name) {
                service.insert("scale".to_owned(), json!(number));
                if let Some(Value::Object(deploy)) = service.get_mut("deploy") {
                    deploy.remove("replicas");
                }
            }
        }
        for service in services.values_mut().filter_map(Value::as_object_mut) {
            let built = service.contains_key("build");
            let policy = match (up.build && built, up.pull) {
                (true, _) => "build",
                (false, Some(Pull::Always)) if !built => "always",
                (false, Some(Pull::Missing)) => "missing",
                (false, Some(Pull::Never)) => "never",
                (false, _) => continue,
            };
            service.insert("pull_policy".to_owned(), json!(policy));
        }
        Ok(())
    }

    /// That there is such a service.
    pub(super) fn know(&self, service: &str) -> Result<(), ComposeError> {
        match entries(&self.loaded.document, "services").contains_key(service) {
            true => Ok(()),
            false => Err(ComposeError::NoService {
                service: service.to_owned(),
                project: self.name.to_string(),
            }),
        }
    }

    /// What the engine is to have.
    pub(super) fn desired(&self) -> Result<Desired, ComposeError> {
        Desired::project(host(&self.name), &self.name, &self.loaded.document).map_err(|errors| {
            let lines = errors.iter().map(|error| self.line(error));
            ComposeError::Files(Problems(lines.collect()))
        })
    }

    /// With the place in the file.
    fn line(&self, error: &DocumentError) -> String {
        match self.loaded.positions.find(&error.problem.path) {
            Some(position) => format!("{position}: {}", error.problem),
            None => error.problem.to_string(),
        }
    }

    /// The services and all that they depend on.
    fn closure(&self, services: &[String]) -> BTreeSet<String> {
        let all = entries(&self.loaded.document, "services");
        let mut kept = BTreeSet::new();
        let mut open: Vec<&str> = services.iter().map(String::as_str).collect();
        while let Some(name) = open.pop() {
            if !kept.insert(name.to_owned()) {
                continue;
            }
            let Some(service) = all.get(name) else { continue };
            open.extend(entries(service, "depends_on").keys().map(String::as_str));
            for key in ["network_mode", "pid", "ipc"] {
                open.extend(
                    service[key]
                        .as_str()
                        .and_then(|mode| mode.strip_prefix("service:")),
                );
            }
            for key in ["links", "volumes_from"] {
                let list = service[key]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str);
                let own = list.filter(|entry| !entry.starts_with("container:"));
                open.extend(own.filter_map(|entry| entry.split(':').next()));
            }
        }
        kept
    }
}

/// The name alone, for commands that need no files once there is a name.
pub(super) fn name_only(options: &ProjectOptions) -> Result<Option<StackName>, ComposeError> {
    match &options.project_name {
        Some(name) if options.files.is_empty() => stack_name(name).map(Some),
        _ => Ok(None),
    }
}

/// The id that labels a project's objects: its own for each project, and no host's, so that neither the agent nor
/// another project takes them for its own. RFC 9562, 5.8 (version 8) over SHA-256 of the name.
pub(super) fn host(project: &StackName) -> HostId {
    let digest = Sha256::digest(format!("decnet compose project {project}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    HostId::new(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

fn stack_name(name: &str) -> Result<StackName, ComposeError> {
    name.parse().map_err(|error| ComposeError::Name {
        name: name.to_owned(),
        why: format!("{error}"),
    })
}

fn inputs(options: &ProjectOptions) -> Result<Inputs, ComposeError> {
    Ok(Inputs {
        files: options.files.clone(),
        current_dir: std::env::current_dir().map_err(ComposeError::CurrentDirectory)?,
        project_directory: options.project_directory.clone(),
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        env_files: options.env_files.iter().map(PathBuf::from).collect(),
        project_name: options.project_name.clone(),
        profiles: options.profiles.clone(),
        more_profiles: Vec::new(),
    })
}

fn entries<'a>(value: &'a Value, key: &str) -> &'a Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    value.get(key).and_then(Value::as_object).unwrap_or(&NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_project_has_an_id_of_its_own_that_stays() {
        let id = |name: &str| host(&name.parse().unwrap()).to_string();
        assert_eq!(id("a"), id("a"));
        assert_ne!(id("a"), id("b"));
        assert_eq!(id("a").as_bytes()[14], b'8');
    }

    fn project(text: &str) -> (tempfile::TempDir, Project) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("compose.yaml");
        std::fs::write(&file, text).unwrap();
        let options = ProjectOptions {
            project_name: Some("p".to_owned()),
            files: vec![file],
            profiles: Vec::new(),
            env_files: Vec::new(),
            project_directory: None,
        };
        let project = Project::load(&options).unwrap();
        (folder, project)
    }

    #[test]
    fn a_service_that_is_named_is_enabled_with_its_profiles() {
        let (folder, project) = project(
            "services: {a: {image: i}, b: {image: i, profiles: [p]}, c: {image: i, profiles: [p]}, d: {image: i, profiles: [q]}}",
        );
        assert_eq!(project.services(), ["a"].map(str::to_owned).into());
        let options = ProjectOptions {
            project_name: None,
            files: vec![folder.path().join("compose.yaml")],
            profiles: Vec::new(),
            env_files: Vec::new(),
            project_directory: None,
        };
        let named = ["b".to_owned()];
        let project = Project::load_with(&options, named.iter()).unwrap();
        assert_eq!(project.services(), ["a", "b", "c"].map(str::to_owned).into());
    }

    #[test]
    fn a_service_comes_with_all_that_it_needs_and_nothing_else() {
        let (_folder, mut project) = project(
            "services: {a: {image: i, depends_on: [b]}, b: {image: i, network_mode: 'service:c'}, c: {image: i}, d: {image: i}}",
        );
        let up = UpOptions {
            services: vec!["a".to_owned()],
            scale: vec![("a".to_owned(), 3)],
            ..UpOptions::default()
        };
        project.adjust(&up).unwrap();
        assert_eq!(project.services(), ["a", "b", "c"].map(str::to_owned).into());
        assert_eq!(project.loaded.document["services"]["a"]["scale"], 3);
        let unknown = UpOptions {
            services: vec!["x".to_owned()],
            ..UpOptions::default()
        };
        assert!(matches!(
            project.adjust(&unknown),
            Err(ComposeError::NoService { .. })
        ));
    }
}
