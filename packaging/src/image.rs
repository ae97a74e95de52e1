//! The decoy image: one static binary as an archive that every Docker Engine loads.
//!
//! The archive is two formats over the same blobs, as `docker save` of Engine 25 and later writes it:
//!
//! - docker-archive (`manifest.json`), read by the classic graph-driver stores, which name the image by
//!   the digest of its config;
//! - OCI image layout 1.0 (`oci-layout`, `index.json`), read by the containerd stores, which name it by
//!   the digest of its manifest.
//!
//! Guarantee: the same binary, architecture and reference give the same bytes. Every time is the epoch,
//! every owner root, the order of the entries fixed.

use std::fmt;
use std::io;

use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::elf::{self, ElfError};

mod reference;

pub use reference::{Reference, ReferenceError};

/// Where the binary stands in the image; also its entrypoint.
const ENTRYPOINT: &str = "/decnet-decoy";
/// `nobody:nogroup`; by number, for the image holds no `/etc/passwd`.
const USER: &str = "65534:65534";
const EPOCH: &str = "1970-01-01T00:00:00Z";
/// Hex digits of the config digest in the tag that is used when none is given.
const SHORT: usize = 12;

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// Processor of the image, by its OCI name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// `e_machine` of the ELF header.
    pub fn elf_machine(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}

/// Why no archive was made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("the binary cannot be an image's only file")]
    CheckBinary(#[source] ElfError),
    #[error("the archive could not be assembled in memory")]
    Assemble(#[source] io::Error),
    #[error("the image's metadata could not be written as JSON")]
    Describe(#[source] serde_json::Error),
}

/// What the master must know to send the archive to hosts and to recognise the image there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Name and tag the engine gives the image.
    pub reference: String,
    /// `sha256:` digest of the archive.
    pub digest: String,
    /// Length of the archive in bytes.
    pub size: u64,
    /// The ids an engine may report: the config's digest (classic stores), the manifest's (containerd).
    pub image_ids: [String; 2],
}

/// A finished archive and its description.
#[derive(Clone)]
pub struct Archive {
    pub bytes: Vec<u8>,
    pub description: Description,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive")
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

/// Makes the image archive of `binary`; without `reference` it is named
/// `decnet/decoy:<first 12 hex digits of the config digest>`.
///
/// # Errors
/// [`ImageError::CheckBinary`] when `binary` is not a static executable for `arch`.
pub fn build(binary: &[u8], arch: Arch, reference: Option<Reference>) -> Result<Archive, ImageError> {
    elf::check_static(binary, arch).map_err(ImageError::CheckBinary)?;

    let mut layer = TarWriter::new();
    layer.file(ENTRYPOINT.trim_start_matches('/'), 0o755, binary)?;
    let layer = Blob::new(layer.finish()?);
    let config = Blob::new(to_json(&config(arch, &layer))?);
    let manifest = Blob::new(to_json(&manifest(&config, &layer))?);
    let reference = reference.unwrap_or_else(|| Reference::decoy(&config.hex[..SHORT]));

    let mut archive = TarWriter::new();
    archive.directory("blobs")?;
    archive.directory("blobs/sha256")?;
    let mut blobs = [&layer, &config, &manifest];
    blobs.sort_by_key(|blob| &blob.hex);
    for blob in blobs {
        archive.file(&blob.path(), 0o644, &blob.bytes)?;
    }
    archive.file(
        "index.json",
        0o644,
        &to_json(&index(&manifest, arch, &reference))?,
    )?;
    archive.file(
        "manifest.json",
        0o644,
        &to_json(&docker_manifest(&config, &layer, &reference))?,
    )?;
    archive.file(
        "oci-layout",
        0o644,
        &to_json(&json!({ "imageLayoutVersion": "1.0.0" }))?,
    )?;
    let bytes = archive.finish()?;

    let description = Description {
        reference: reference.to_string(),
        digest: format!("sha256:{}", sha256_hex(&bytes)),
        size: bytes.len() as u64,
        image_ids: [config.digest(), manifest.digest()],
    };
    Ok(Archive { bytes, description })
}

/// OCI image configuration. The layer is not compressed, so its diff id is its digest.
fn config(arch: Arch, layer: &Blob) -> serde_json::Value {
    json!({
        "architecture": arch.to_string(),
        "config": { "Entrypoint": [ENTRYPOINT], "User": USER },
        "created": EPOCH,
        "history": [{ "created": EPOCH, "created_by": "decnet-pack image" }],
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [layer.digest()] },
    })
}

fn manifest(config: &Blob, layer: &Blob) -> serde_json::Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config.descriptor(CONFIG_TYPE),
        "layers": [layer.descriptor(LAYER_TYPE)],
    })
}

/// The annotations are what gives the image its name on import: the whole name to containerd, the tag to
/// readers of plain OCI layouts.
fn index(manifest: &Blob, arch: Arch, reference: &Reference) -> serde_json::Value {
    let mut descriptor = manifest.descriptor(MANIFEST_TYPE);
    descriptor["annotations"] = json!({
        "io.containerd.image.name": reference.familiar_to_full(),
        "org.opencontainers.image.ref.name": reference.tag(),
    });
    descriptor["platform"] = json!({ "architecture": arch.to_string(), "os": "linux" });
    json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [descriptor] })
}

fn docker_manifest(config: &Blob, layer: &Blob, reference: &Reference) -> serde_json::Value {
    json!([{
        "Config": config.path(),
        "RepoTags": [reference.to_string()],
        "Layers": [layer.path()],
        "LayerSources": { (layer.digest()): layer.descriptor(LAYER_TYPE) },
    }])
}

/// `serde_json` keeps maps sorted by key, so equal values give equal bytes.
fn to_json(value: &serde_json::Value) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(ImageError::Describe)
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

struct Blob {
    hex: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            hex: sha256_hex(&bytes),
            bytes,
        }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hex)
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hex)
    }

    fn descriptor(&self, media_type: &str) -> serde_json::Value {
        json!({ "mediaType": media_type, "digest": self.digest(), "size": self.bytes.len() })
    }
}

/// A tar stream whose headers carry nothing of the machine that wrote it.
struct TarWriter(tar::Builder<Vec<u8>>);

impl TarWriter {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<(), ImageError> {
        self.entry(path, tar::EntryType::Regular, mode, bytes)
    }

    fn directory(&mut self, path: &str) -> Result<(), ImageError> {
        self.entry(&format!("{path}/"), tar::EntryType::Directory, 0o755, &[])
    }

    fn entry(&mut self, path: &str, kind: tar::EntryType, mode: u32, bytes: &[u8]) -> Result<(), ImageError> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        self.0
            .append_data(&mut header, path, bytes)
            .map_err(ImageError::Assemble)
    }

    fn finish(self) -> Result<Vec<u8>, ImageError> {
        self.0.into_inner().map_err(ImageError::Assemble)
    }
}

#[cfg(test)]
mod tests;
