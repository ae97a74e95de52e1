//! What is mounted or copied into a container.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::is_default;

/// One mount point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The absolute path in the container.
    pub target: String,
    pub kind: MountKind,
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// `consistent`, `cached` or `delegated`; means nothing on Linux, and is passed on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub consistency: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MountKind {
    Bind {
        /// An absolute path of the host.
        source: String,
        /// The engine makes the folder where it is missing. Compose passes such a mount as a bind
        /// (`source:target:options`), the others as a mount.
        #[serde(default, skip_serializing_if = "is_default")]
        create_host_path: bool,
        #[serde(default, skip_serializing_if = "is_default")]
        propagation: Option<String>,
        /// `z` or `Z`.
        #[serde(default, skip_serializing_if = "is_default")]
        selinux: Option<String>,
        /// `enabled`, `disabled`, `writable` or `readonly`. From API 1.44 on.
        #[serde(default, skip_serializing_if = "is_default")]
        recursive: Option<String>,
    },
    Volume {
        /// The volume's name on the engine; none for an anonymous one.
        #[serde(default, skip_serializing_if = "is_default")]
        name: Option<String>,
        #[serde(default, skip_serializing_if = "is_default")]
        nocopy: bool,
        /// From API 1.45 on.
        #[serde(default, skip_serializing_if = "is_default")]
        subpath: Option<String>,
        #[serde(default, skip_serializing_if = "is_default")]
        labels: BTreeMap<String, String>,
        /// `z` or `Z`: then it is passed as a bind.
        #[serde(default, skip_serializing_if = "is_default")]
        selinux: Option<String>,
    },
    Tmpfs {
        /// Bytes.
        #[serde(default, skip_serializing_if = "is_default")]
        size: Option<u64>,
        /// Permission bits.
        #[serde(default, skip_serializing_if = "is_default")]
        mode: Option<u32>,
    },
    /// The files of an image. From API 1.48 on.
    Image {
        image: String,
        #[serde(default, skip_serializing_if = "is_default")]
        subpath: Option<String>,
    },
}

/// A file that is copied into a container after its creation and before its first start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// The absolute path in the container.
    pub path: String,
    pub content: FileContent,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// What a file says; may be a secret, so that it is not printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileContent(pub String);

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}
