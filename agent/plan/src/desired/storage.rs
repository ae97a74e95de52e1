//! Volumes, mounts and files.

use std::collections::BTreeMap;

use super::normalise::{Context, Found};
use super::{DocumentError, hash};
use crate::compose::{FileReference, MountSource, Project, Service, TopFile, TopVolume};
use crate::labels;
use crate::step::{FileContent, FileSpec, Mount, MountKind, VolumeSpec};

/// The volumes that a document makes: those that a service mounts and that are not external.
pub(super) fn volumes(
    context: Context<'_>,
    project: &Project,
    errors: &mut Vec<DocumentError>,
) -> BTreeMap<String, VolumeSpec> {
    let mut specs = BTreeMap::new();
    for (key, volume) in &project.volumes {
        if let Some(label) = volume
            .labels
            .keys()
            .find(|label| label.starts_with(labels::PREFIX))
        {
            let path = format!("volumes.{key}");
            let problem = format!("{label}: labels that start with {} are reserved", labels::PREFIX);
            errors.push(DocumentError::new(Some(context.stack), path, problem));
        }
        let mut services = project.services.values();
        if volume.external || !services.any(|service| mounts_volume(service, key)) {
            continue;
        }
        let mut spec = VolumeSpec {
            name: engine_name(context, key, volume),
            driver: volume.driver.clone(),
            driver_opts: volume.driver_opts.clone(),
            labels: volume.labels.clone(),
        };
        spec.labels
            .insert(labels::HOST.to_owned(), context.host.to_string());
        let hash = hash::of(&spec);
        spec.labels.insert(labels::HASH.to_owned(), hash);
        specs.insert(spec.name.clone(), spec);
    }
    specs
}

fn mounts_volume(service: &Service, key: &str) -> bool {
    service
        .mounts
        .iter()
        .any(|mount| matches!(&mount.source, MountSource::Volume { key: Some(other), .. } if other == key))
}

fn engine_name(context: Context<'_>, key: &str, volume: &TopVolume) -> String {
    match &volume.name {
        Some(name) => name.clone(),
        None if volume.external => key.to_owned(),
        None => format!("{}_{key}", context.stack),
    }
}

/// What is mounted into a service: its volumes, and the configs and secrets that are files of the host.
pub(super) fn mounts(
    context: Context<'_>,
    project: &Project,
    service: &Service,
    found: &mut Found,
) -> Vec<Mount> {
    let mut all: Vec<Mount> = Vec::new();
    for mount in &service.mounts {
        let kind = match &mount.source {
            MountSource::Bind {
                path,
                create_host_path,
                propagation,
                selinux,
                recursive,
            } => MountKind::Bind {
                source: path.clone(),
                create_host_path: *create_host_path,
                propagation: propagation.clone(),
                selinux: selinux.clone(),
                recursive: recursive.clone(),
            },
            MountSource::Volume {
                key,
                nocopy,
                subpath,
                labels,
                selinux,
            } => {
                let name = match key {
                    None => None,
                    Some(key) => match project.volumes.get(key) {
                        Some(volume) => Some(engine_name(context, key, volume)),
                        None => {
                            found.push(("volumes", format!("{key}: is not among the document's volumes")));
                            continue;
                        }
                    },
                };
                MountKind::Volume {
                    name,
                    nocopy: *nocopy,
                    subpath: subpath.clone(),
                    labels: labels.clone(),
                    selinux: selinux.clone(),
                }
            }
            MountSource::Tmpfs { size, mode } => MountKind::Tmpfs {
                size: *size,
                mode: *mode,
            },
            MountSource::Image { image, subpath } => MountKind::Image {
                image: image.clone(),
                subpath: subpath.clone(),
            },
        };
        all.push(Mount {
            target: mount.target.clone(),
            kind,
            read_only: mount.read_only,
            consistency: mount.consistency.clone(),
        });
    }
    for (reference, file, target, _) in references(project, service, found) {
        // A mount of the service's own at the same place wins, as in Compose.
        if let TopFile::Path(path) = file
            && !all.iter().any(|mount| mount.target == target)
        {
            if reference.uid.is_some() || reference.gid.is_some() || reference.mode.is_some() {
                let problem = format!(
                    "{}: uid, gid and mode are those of the file on the host: set them there",
                    reference.source
                );
                found.push(("secrets", problem));
            }
            all.push(Mount {
                target,
                kind: MountKind::Bind {
                    source: path.clone(),
                    create_host_path: false,
                    propagation: None,
                    selinux: None,
                    recursive: None,
                },
                read_only: true,
                consistency: None,
            });
        }
    }
    all.sort_by(|a, b| a.target.cmp(&b.target));
    all
}

/// Permission bits of a file that are not said (Compose Specification, "configs", "mode").
const FILE_MODE: u32 = 0o444;

/// The configs and secrets that the document itself holds.
pub(super) fn files(project: &Project, service: &Service, found: &mut Found) -> Vec<FileSpec> {
    let mut all = Vec::new();
    for (reference, file, target, attribute) in references(project, service, &mut Vec::new()) {
        if let TopFile::Content(content) = file {
            all.push(FileSpec {
                path: target,
                content: FileContent(content.clone()),
                uid: reference.uid.unwrap_or_default(),
                gid: reference.gid.unwrap_or_default(),
                mode: reference.mode.unwrap_or(FILE_MODE),
            });
            if service.read_only {
                let problem = format!(
                    "{}: nothing can be copied into a read-only container: use file",
                    reference.source
                );
                found.push((attribute, problem));
            }
        }
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

type Reference<'a> = (&'a FileReference, &'a TopFile, String, &'static str);

fn references<'a>(project: &'a Project, service: &'a Service, found: &mut Found) -> Vec<Reference<'a>> {
    let secrets = service
        .secrets
        .iter()
        .map(|reference| (reference, &project.secrets, "/run/secrets/", "secrets"));
    let configs = service
        .configs
        .iter()
        .map(|reference| (reference, &project.configs, "/", "configs"));
    let mut all = Vec::new();
    for (reference, declared, folder, attribute) in secrets.chain(configs) {
        let Some(file) = declared.get(&reference.source) else {
            let problem = format!("{}: is not among the document's {attribute}", reference.source);
            found.push((attribute, problem));
            continue;
        };
        let name = reference.target.as_ref().unwrap_or(&reference.source);
        let target = if name.starts_with('/') {
            name.clone()
        } else {
            format!("{folder}{name}")
        };
        all.push((reference, file, target, attribute));
    }
    all
}
