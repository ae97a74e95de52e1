//! An image to build.

use std::collections::BTreeMap;

use decnet_wire::ids::Digest;
use serde::{Deserialize, Serialize};

use super::{Ulimit, is_default};

/// What to build, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildSpec {
    /// The names that the image gets; the first is the one that containers use.
    pub tags: Vec<String>,
    pub context: BuildContext,
    pub dockerfile: Dockerfile,
    /// None takes the value from the builder's own environment, which has none here.
    #[serde(default, skip_serializing_if = "is_default")]
    pub args: BTreeMap<String, Option<String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub cache_from: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub cache_to: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub platform: Option<String>,
    /// Network mode of `RUN` instructions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Option<String>,
    /// As `name:address`, sorted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub extra_hosts: Vec<String>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shm_size: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ulimits: BTreeMap<String, Ulimit>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_cache: bool,
    /// Ask the registry for the base images even where the engine has them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pull: bool,
    /// Named contexts: a folder, a URL or `docker-image://…`. BuildKit only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub additional_contexts: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub enum BuildContext {
    /// A tar archive that the agent has, or fetches, as a blob.
    Blob { digest: Digest, size: u64 },
    /// An absolute path of this machine.
    Folder { path: String },
    /// A Git repository or a tar archive that the builder fetches.
    Remote { url: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Dockerfile {
    /// Relative to the context.
    Path {
        path: String,
    },
    Inline {
        text: String,
    },
}
