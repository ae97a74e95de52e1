//! Image archives as `docker save` writes them, around one static binary.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use decnet_wire::bundle::{Blob, BlobKind};
use decnet_wire::ids::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// An archive, and what a bundle says of it.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) blob: Blob,
    pub(crate) id: String,
    pub(crate) config: Vec<u8>,
    pub(crate) layer: Vec<u8>,
}

/// An image of its own for each `reference`; `extra` goes into its configuration.
pub(crate) fn image(reference: &str, extra: &Value) -> Image {
    image_of(tar(&[("decoy", binary(), 0o755)]), reference, extra)
}

/// An image whose layer no other image has.
pub(crate) fn own_layer(reference: &str) -> Image {
    let layer = tar(&[("decoy", binary(), 0o755), ("name", reference.as_bytes(), 0o644)]);
    image_of(layer, reference, &json!({}))
}

fn image_of(layer: Vec<u8>, reference: &str, extra: &Value) -> Image {
    let mut runtime =
        json!({"Entrypoint": ["/decoy"], "Cmd": ["idle"], "Labels": {"test.reference": reference}});
    for (key, value) in extra.as_object().into_iter().flatten() {
        runtime[key] = value.clone();
    }
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": runtime,
        "rootfs": {"type": "layers", "diff_ids": [sha256(&layer).as_str()]},
    });
    let config = config.to_string().into_bytes();
    let id = sha256(&config);
    let manifest =
        json!([{"Config": format!("{}.json", id.hex()), "RepoTags": [reference], "Layers": ["layer.tar"]}]);
    let bytes = tar(&[
        ("layer.tar", &layer, 0o644),
        (&format!("{}.json", id.hex()), &config, 0o644),
        ("manifest.json", manifest.to_string().as_bytes(), 0o644),
    ]);
    // The second id stands for the one that the other kind of image store would know.
    let kind = BlobKind::ImageArchive {
        reference: reference.to_owned(),
        image_ids: vec![id.clone(), Digest::from_sha256([9; 32])],
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
        config,
        layer,
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

pub(crate) fn tar(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

pub(crate) fn binary() -> &'static [u8] {
    static BINARY: OnceLock<Vec<u8>> = OnceLock::new();
    BINARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("decoy");
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoy.c");
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
