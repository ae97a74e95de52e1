//! The labels that every object of ours carries. An object without our host's label is foreign and is not touched.

/// The host's id (UUID).
pub const HOST: &str = "io.decnet.host";
/// The stack's name. On containers only.
pub const STACK: &str = "io.decnet.stack";
/// The Compose service's name within the stack. On containers only.
pub const SERVICE: &str = "io.decnet.service";
/// SHA-256 (hex) over the normalised specification that the object was made from.
pub const HASH: &str = "io.decnet.hash";
/// The ports that the container listens on, as `22/tcp,80/tcp`. On containers that listen only.
pub const EXPOSE: &str = "io.decnet.expose";
/// The normalised specification itself, as JSON, to tell later what has changed. On containers of projects that stand
/// alone only. Contents of files are replaced by their digests.
pub const SPEC: &str = "io.decnet.spec";
/// What every label of ours starts with. Documents cannot set labels of that prefix.
pub const PREFIX: &str = "io.decnet.";
