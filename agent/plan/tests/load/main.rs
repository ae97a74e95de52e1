//! The loader of Compose files, from outside.

// A test may panic; only its `#[test]` functions are known to be tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod damaged;
mod fuzz;
mod meaning;
mod promise;
mod published;
mod table;

use decnet_plan::compose::load::{Inputs, LoadError, Loaded, load};
use serde_json::Value;

use promise::Disk;

/// A project in `/srv/app`, from files by their path below it and a few settings.
#[derive(Debug, Default)]
struct Project {
    disk: Disk,
    inputs: Inputs,
}

impl Project {
    /// One file, `compose.yaml`.
    fn new(text: &str) -> Self {
        let mut project = Self::default();
        project.inputs.current_dir = "/srv/app".into();
        project
            .inputs
            .environment
            .insert("HOME".to_owned(), "/root".to_owned());
        project.file("compose.yaml", text)
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.disk.0.insert(format!("/srv/app/{path}"), text.to_owned());
        self
    }

    /// `compose.yaml` and this one over it.
    fn over(mut self, text: &str) -> Self {
        if self.inputs.files.is_empty() {
            self.inputs.files.push("compose.yaml".into());
        }
        let path = format!("over-{}.yaml", self.inputs.files.len());
        self.inputs.files.push(path.as_str().into());
        self.file(&path, text)
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.inputs.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn profile(mut self, name: &str) -> Self {
        self.inputs.profiles.push(name.to_owned());
        self
    }

    fn load(&self) -> Result<Loaded, Vec<LoadError>> {
        load(&self.inputs, &self.disk)
    }

    fn document(&self) -> Value {
        match self.load() {
            Ok(loaded) => loaded.document,
            Err(errors) => panic!("{errors:#?}"),
        }
    }

    /// The value at a JSON pointer into `services`.
    fn service(&self, pointer: &str) -> Value {
        let document = self.document();
        let value = document.pointer(&format!("/services/{pointer}"));
        value
            .unwrap_or_else(|| panic!("no {pointer} in {document:#}"))
            .clone()
    }

    fn errors(&self) -> Vec<String> {
        match self.load() {
            Ok(loaded) => panic!("loads: {:#}", loaded.document),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }
}
