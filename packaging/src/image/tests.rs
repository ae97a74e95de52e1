use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::Value;

use super::*;
use crate::elf::tests::elf;

fn binary() -> Vec<u8> {
    let mut binary = elf(62, 1);
    binary.extend(std::iter::repeat_n(b'x', 5000));
    binary
}

fn entries(bytes: &[u8]) -> Vec<(String, Vec<u8>, tar::Header)> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (
            entry.path().unwrap().to_str().unwrap().to_owned(),
            content,
            entry.header().clone(),
        )
    });
    entries.collect()
}

fn files(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    entries(bytes)
        .into_iter()
        .map(|(path, content, _)| (path, content))
        .collect()
}

fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let digest = descriptor["digest"].as_str().unwrap();
    let content = &files[&format!("blobs/{}", digest.replace(':', "/"))];
    assert_eq!(descriptor["size"], content.len());
    content
}

#[test]
fn the_same_binary_gives_the_same_bytes() {
    let (one, two) = (
        build(&binary(), Arch::Amd64, None).unwrap(),
        build(&binary(), Arch::Amd64, None).unwrap(),
    );
    assert_eq!(one.bytes, two.bytes);
    assert_eq!(one.description, two.description);

    let mut changed = binary();
    *changed.last_mut().unwrap() = b'y';
    let other = build(&changed, Arch::Amd64, None).unwrap();
    assert_ne!(one.description.image_ids, other.description.image_ids);
    assert_ne!(one.description.reference, other.description.reference);
}

#[test]
fn no_header_carries_anything_of_the_machine() {
    let archive = build(&binary(), Arch::Amd64, None).unwrap().bytes;
    let files = files(&archive);
    let layer = files
        .iter()
        .find(|(path, content)| path.starts_with("blobs/") && content.len() > 5000)
        .unwrap()
        .1;
    for (path, _, header) in entries(&archive).into_iter().chain(entries(layer)) {
        assert_eq!(
            (
                header.mtime().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap()
            ),
            (0, 0, 0),
            "{path}"
        );
        assert_eq!(
            (header.username().unwrap(), header.groupname().unwrap()),
            (Some(""), Some("")),
            "{path}"
        );
    }
}

#[test]
fn every_digest_is_that_of_the_bytes_it_names() {
    let archive = build(&binary(), Arch::Amd64, None).unwrap();
    assert_eq!(
        archive.description.digest,
        format!("sha256:{}", sha256_hex(&archive.bytes))
    );
    assert_eq!(archive.description.size, archive.bytes.len() as u64);

    let files = files(&archive.bytes);
    for (path, content) in files.iter().filter(|(_, content)| !content.is_empty()) {
        if let Some(hex) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(hex, sha256_hex(content));
        }
    }
}

#[test]
fn both_formats_lead_to_the_same_config_and_layer() {
    let archive = build(&binary(), Arch::Amd64, None).unwrap();
    let [config_id, manifest_id] = &archive.description.image_ids;
    let files = files(&archive.bytes);

    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    assert_eq!(index["manifests"][0]["digest"], **manifest_id);
    let manifest: Value = serde_json::from_slice(blob(&files, &index["manifests"][0])).unwrap();
    assert_eq!(manifest["config"]["digest"], **config_id);
    let config: Value = serde_json::from_slice(blob(&files, &manifest["config"])).unwrap();
    let layer = blob(&files, &manifest["layers"][0]);
    assert_eq!(
        config["rootfs"]["diff_ids"][0],
        format!("sha256:{}", sha256_hex(layer))
    );
    assert_eq!(config["config"]["User"], "65534:65534");
    assert_eq!(
        config["config"]["Entrypoint"],
        serde_json::json!(["/decnet-decoy"])
    );
    assert_eq!(config["config"].get("Cmd"), None);

    let docker: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(docker[0]["Config"], config_id.replace("sha256:", "blobs/sha256/"));
    assert_eq!(
        docker[0]["Layers"][0],
        format!("blobs/sha256/{}", sha256_hex(layer))
    );
    assert_eq!(docker[0]["RepoTags"][0], archive.description.reference);

    let inside = entries(layer);
    assert_eq!(inside.len(), 1);
    assert_eq!((inside[0].0.as_str(), &inside[0].1), ("decnet-decoy", &binary()));
    assert_eq!(inside[0].2.mode().unwrap(), 0o755);
}

#[test]
fn the_default_name_is_short_for_the_config_and_a_given_name_does_not_change_the_image() {
    let unnamed = build(&binary(), Arch::Amd64, None).unwrap().description;
    let short = &unnamed.image_ids[0]["sha256:".len()..][..12];
    assert_eq!(unnamed.reference, format!("decnet/decoy:{short}"));

    let named = build(&binary(), Arch::Amd64, Some("my/decoy:1".parse().unwrap())).unwrap();
    assert_eq!(named.description.reference, "my/decoy:1");
    assert_eq!(named.description.image_ids, unnamed.image_ids);
    let index: Value = serde_json::from_slice(&files(&named.bytes)["index.json"]).unwrap();
    let annotations = &index["manifests"][0]["annotations"];
    assert_eq!(annotations["io.containerd.image.name"], "docker.io/my/decoy:1");
    assert_eq!(annotations["org.opencontainers.image.ref.name"], "1");
}

#[test]
fn a_binary_that_could_not_start_is_refused() {
    let refused = build(&elf(62, 3), Arch::Amd64, None);
    assert!(
        matches!(refused, Err(ImageError::CheckBinary(ElfError::Dynamic))),
        "{refused:?}"
    );
}
