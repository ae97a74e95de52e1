//! Mounts, in the engine's words.
//!
//! The engine has two ways to take a mount. `Binds` (`source:target:options`) make a missing folder of the host and
//! take SELinux labels; `Mounts` do neither, and take everything else. Compose chooses in the same way.

use bollard::models::{
    Mount as EngineMount, MountBindOptions, MountBindOptionsPropagationEnum as Propagation,
    MountImageOptions, MountTmpfsOptions, MountType, MountVolumeOptions,
};
use decnet_plan::step::{ContainerSpec, Mount, MountKind};

use super::{Inherited, Resolved};

/// What a mount needs of the engine, and the words for one that is older.
pub(super) fn needs(mount: &Mount) -> Option<((usize, usize), &'static str)> {
    match &mount.kind {
        MountKind::Bind { recursive, .. } => match recursive.as_deref() {
            Some("writable" | "readonly") => Some((
                (1, 44),
                "bind.recursive writable and readonly need Docker 25.0 or newer",
            )),
            _ => None,
        },
        MountKind::Volume { subpath: Some(_), .. } => {
            Some(((1, 45), "volume.subpath needs Docker 26.0 or newer"))
        }
        MountKind::Image { .. } => Some(((1, 48), "a mount of type image needs Docker 28.0 or newer")),
        MountKind::Volume { .. } | MountKind::Tmpfs { .. } => None,
    }
}

/// What no engine can do.
pub(super) fn impossible(mount: &Mount) -> Option<&'static str> {
    match &mount.kind {
        MountKind::Bind {
            create_host_path: false,
            selinux: Some(_),
            ..
        } => Some("the engine takes an SELinux label only together with bind.create_host_path"),
        MountKind::Bind {
            create_host_path: true,
            recursive: Some(_),
            ..
        } => Some("the engine takes bind.recursive only without bind.create_host_path"),
        MountKind::Volume {
            name,
            subpath,
            labels,
            selinux: Some(_),
            ..
        } if name.is_none() || subpath.is_some() || !labels.is_empty() => Some(
            "the engine takes an SELinux label of a volume only with a name, and with neither subpath nor labels",
        ),
        _ => None,
    }
}

/// `HostConfig.Binds` and `HostConfig.Mounts`.
pub(super) fn to_mounts(spec: &ContainerSpec, resolved: &Resolved) -> (Vec<String>, Vec<EngineMount>) {
    let mut binds = Vec::new();
    let mut mounts = Vec::new();
    for mount in &spec.mounts {
        match as_bind(mount) {
            Some(bind) => binds.push(bind),
            None => mounts.push(to_mount(mount, resolved.inherited.get(&mount.target))),
        }
    }
    // The rest are those of the image's own volumes.
    for (target, volume) in &resolved.inherited {
        if spec.mounts.iter().all(|mount| mount.target != *target) {
            mounts.push(EngineMount {
                typ: Some(MountType::VOLUME),
                source: Some(volume.name.clone()),
                target: Some(target.clone()),
                read_only: Some(volume.read_only),
                ..EngineMount::default()
            });
        }
    }
    (binds, mounts)
}

fn as_bind(mount: &Mount) -> Option<String> {
    let (source, more) = match &mount.kind {
        MountKind::Bind {
            source,
            create_host_path: true,
            propagation,
            selinux,
            ..
        } => (source, [selinux.as_deref(), propagation.as_deref()]),
        MountKind::Volume {
            name: Some(name),
            selinux: Some(label),
            nocopy,
            ..
        } => (name, [Some(label.as_str()), nocopy.then_some("nocopy")]),
        _ => return None,
    };
    let access = if mount.read_only { "ro" } else { "rw" };
    let options: Vec<&str> = std::iter::once(access)
        .chain(more.into_iter().flatten())
        .collect();
    Some(format!("{source}:{}:{}", mount.target, options.join(",")))
}

fn to_mount(mount: &Mount, inherited: Option<&Inherited>) -> EngineMount {
    let base = EngineMount {
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        consistency: mount.consistency.clone(),
        ..EngineMount::default()
    };
    match &mount.kind {
        MountKind::Bind {
            source,
            propagation,
            recursive,
            ..
        } => {
            let recursive = recursive.as_deref();
            let yes = |holds: bool| holds.then_some(true);
            let options = MountBindOptions {
                propagation: propagation.as_deref().map(to_propagation),
                non_recursive: yes(recursive == Some("disabled")),
                read_only_non_recursive: yes(recursive == Some("writable")),
                read_only_force_recursive: yes(recursive == Some("readonly")),
                create_mountpoint: None,
            };
            EngineMount {
                typ: Some(MountType::BIND),
                source: Some(source.clone()),
                bind_options: (options != MountBindOptions::default()).then_some(options),
                ..base
            }
        }
        MountKind::Volume {
            name,
            nocopy,
            subpath,
            labels,
            selinux: _,
        } => EngineMount {
            typ: Some(MountType::VOLUME),
            source: name
                .clone()
                .or_else(|| inherited.map(|volume| volume.name.clone())),
            volume_options: Some(MountVolumeOptions {
                no_copy: nocopy.then_some(true),
                subpath: subpath.clone(),
                labels: (!labels.is_empty()).then(|| labels.clone().into_iter().collect()),
                driver_config: None,
            }),
            ..base
        },
        MountKind::Tmpfs { size, mode } => EngineMount {
            typ: Some(MountType::TMPFS),
            tmpfs_options: Some(MountTmpfsOptions {
                size_bytes: size.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
                mode: mode.map(i64::from),
                options: None,
            }),
            ..base
        },
        MountKind::Image { image, subpath } => EngineMount {
            typ: Some(MountType::IMAGE),
            source: Some(image.clone()),
            image_options: subpath.clone().map(|subpath| MountImageOptions {
                subpath: Some(subpath),
            }),
            ..base
        },
    }
}

fn to_propagation(word: &str) -> Propagation {
    match word {
        "private" => Propagation::PRIVATE,
        "rprivate" => Propagation::RPRIVATE,
        "shared" => Propagation::SHARED,
        "rshared" => Propagation::RSHARED,
        "slave" => Propagation::SLAVE,
        "rslave" => Propagation::RSLAVE,
        _ => Propagation::EMPTY,
    }
}

/// As `id` or `id:ro`.
pub(super) fn volumes_from(spec: &ContainerSpec, resolved: &Resolved) -> Vec<String> {
    let to_text = |from: &decnet_plan::step::VolumesFrom| {
        let id = if from.foreign {
            &from.container
        } else {
            resolved.id(&from.container)
        };
        if from.read_only {
            format!("{id}:ro")
        } else {
            id.to_owned()
        }
    };
    spec.volumes_from.iter().map(to_text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(create_host_path: bool, selinux: Option<&str>) -> Mount {
        Mount {
            target: "/in".to_owned(),
            kind: MountKind::Bind {
                source: "/out".to_owned(),
                create_host_path,
                propagation: Some("rslave".to_owned()),
                selinux: selinux.map(str::to_owned),
                recursive: None,
            },
            read_only: true,
            consistency: None,
        }
    }

    #[test]
    fn only_a_bind_that_makes_its_folder_is_written_as_one_text() {
        assert_eq!(as_bind(&bind(true, Some("z"))).unwrap(), "/out:/in:ro,z,rslave");
        assert!(as_bind(&bind(false, None)).is_none());
        assert_eq!(impossible(&bind(true, Some("z"))), None);
    }

    /// Docker Compose passes it to the engine, which relabels the volume.
    #[test]
    fn the_label_of_a_volume_is_written_as_of_a_bind() {
        let mut mount = bind(true, None);
        mount.kind = MountKind::Volume {
            name: Some("p_data".to_owned()),
            nocopy: true,
            subpath: None,
            labels: std::collections::BTreeMap::new(),
            selinux: Some("z".to_owned()),
        };
        assert_eq!(as_bind(&mount).unwrap(), "p_data:/in:ro,z,nocopy");
        assert_eq!(impossible(&mount), None);
    }

    /// A label that the engine would leave out without a word would be taken for one that is there.
    #[test]
    fn a_label_that_would_be_lost_is_refused() {
        assert!(impossible(&bind(false, Some("Z"))).is_some());
    }

    #[test]
    fn anonymous_volumes_are_taken_over_at_their_mount_points() {
        let anonymous = MountKind::Volume {
            name: None,
            nocopy: false,
            subpath: None,
            labels: std::collections::BTreeMap::new(),
            selinux: None,
        };
        let spec = ContainerSpec {
            mounts: vec![Mount {
                target: "/a".to_owned(),
                kind: anonymous,
                read_only: false,
                consistency: None,
            }],
            ..ContainerSpec::default()
        };
        let old = |name: &str| Inherited {
            name: name.to_owned(),
            read_only: false,
        };
        let resolved = Resolved {
            inherited: [("/a".to_owned(), old("1")), ("/b".to_owned(), old("2"))].into(),
            ..Resolved::default()
        };
        let (_, mounts) = to_mounts(&spec, &resolved);
        let pairs: Vec<_> = mounts
            .iter()
            .map(|mount| (mount.target.as_deref().unwrap(), mount.source.as_deref().unwrap()))
            .collect();
        assert_eq!(pairs, [("/a", "1"), ("/b", "2")]);
    }
}
