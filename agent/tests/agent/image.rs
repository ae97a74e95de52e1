//! An image archive as `docker save` writes it, around one static binary.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use decnet_wire::bundle::{Blob, BlobKind};
use decnet_wire::ids::Digest;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// An archive, and what a bundle says of it.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) blob: Blob,
    pub(crate) id: String,
}

pub(crate) fn image(reference: &str) -> Image {
    let layer = tar(&[("decoy", binary(), 0o755)]);
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/decoy"], "Cmd": ["idle"], "Labels": {"test.reference": reference}},
        "rootfs": {"type": "layers", "diff_ids": [sha256(&layer).as_str()]},
    });
    let config = config.to_string().into_bytes();
    let id = sha256(&config);
    let name = format!("{}.json", id.hex());
    let manifest = json!([{"Config": name, "RepoTags": [reference], "Layers": ["layer.tar"]}]);
    let bytes = tar(&[
        ("layer.tar", &layer, 0o644),
        (&name, &config, 0o644),
        ("manifest.json", manifest.to_string().as_bytes(), 0o644),
    ]);
    let kind = BlobKind::ImageArchive {
        reference: reference.to_owned(),
        image_ids: vec![id.clone()],
    };
    let blob = Blob {
        digest: sha256(&bytes),
        size: bytes.len() as u64,
        kind,
    };
    Image {
        bytes,
        blob,
        id: id.to_string(),
    }
}

/// A build context: a Dockerfile, and the binary that it puts into an empty image.
pub(crate) fn context(says: &str) -> (Blob, Vec<u8>) {
    let dockerfile = format!(
        "FROM scratch\nCOPY decoy /decoy\nLABEL test.says=\"{says}\"\nENTRYPOINT [\"/decoy\"]\nCMD [\"idle\"]\n"
    );
    let bytes = tar(&[
        ("Dockerfile", dockerfile.as_bytes(), 0o644),
        ("decoy", binary(), 0o755),
    ]);
    let blob = Blob {
        digest: sha256(&bytes),
        size: bytes.len() as u64,
        kind: BlobKind::BuildContext {},
    };
    (blob, bytes)
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

fn tar(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

fn binary() -> &'static [u8] {
    static BINARY: OnceLock<Vec<u8>> = OnceLock::new();
    BINARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("decoy");
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docker/tests/fixtures/decoy.c");
        let status = Command::new("gcc")
            .args(["-static", "-Os", "-s", "-o"])
            .arg(&out)
            .arg(source)
            .status();
        assert!(
            status.as_ref().is_ok_and(std::process::ExitStatus::success),
            "missing: gcc with a static C library (Debian: gcc, libc6-dev): {status:?}"
        );
        std::fs::read(out).unwrap()
    })
}
