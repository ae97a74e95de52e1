//! Volumes, waits, replacements: one step after the other, on the engine itself.

use std::collections::BTreeMap;

use bollard::models::VolumeCreateRequest;
use decnet_docker::EngineError;
use decnet_plan::labels;
use decnet_plan::step::{ContainerSpec, Healthcheck, Mount, MountKind, Step, VolumeSpec};
use decnet_wire::observed::ContainerState;

use crate::lab::{Lab, create, start};

fn volume(lab: &Lab) -> VolumeSpec {
    VolumeSpec {
        name: format!("{}-v", lab.tag),
        labels: BTreeMap::from([
            (labels::HOST.to_owned(), lab.host.to_string()),
            (labels::HASH.to_owned(), "1".to_owned()),
            ("note".to_owned(), "x".to_owned()),
        ]),
        driver_opts: BTreeMap::from([
            ("type".to_owned(), "tmpfs".to_owned()),
            ("device".to_owned(), "tmpfs".to_owned()),
        ]),
        ..VolumeSpec::default()
    }
}

#[tokio::test]
async fn a_volume_is_made_once_and_goes_once() {
    let lab = Lab::new().await;
    let volume = volume(&lab);
    let (make, remove) = (
        Step::CreateVolume {
            volume: volume.clone(),
        },
        Step::RemoveVolume {
            name: volume.name.clone(),
        },
    );
    for _ in 0..2 {
        lab.apply(&make).await.unwrap();
    }
    let seen = lab.docker.inspect_volume(&volume.name).await.unwrap();
    assert_eq!(seen.labels["note"], "x");
    assert_eq!(seen.options["type"], "tmpfs");
    let observed = lab.observe().await.volumes;
    let observed = observed.iter().find(|seen| seen.name == volume.name).unwrap();
    assert_eq!(observed.hash.as_deref(), Some("1"));
    for _ in 0..2 {
        lab.apply(&remove).await.unwrap();
    }
    assert!(
        lab.observe()
            .await
            .volumes
            .iter()
            .all(|seen| seen.name != volume.name)
    );
}

#[tokio::test]
async fn somebody_elses_volume_is_neither_taken_nor_removed() {
    let lab = Lab::new().await;
    let volume = volume(&lab);
    let request = VolumeCreateRequest {
        name: Some(volume.name.clone()),
        ..VolumeCreateRequest::default()
    };
    lab.docker.create_volume(request).await.unwrap();
    let steps = [
        Step::CreateVolume {
            volume: volume.clone(),
        },
        Step::RemoveVolume {
            name: volume.name.clone(),
        },
    ];
    for step in steps {
        let error = lab.apply(&step).await.unwrap_err();
        assert!(matches!(error, EngineError::Foreign { .. }), "{error:?}");
    }
    lab.docker.inspect_volume(&volume.name).await.unwrap();
}

fn completed(name: &str, timeout_s: Option<u32>, optional: bool) -> Step {
    Step::WaitCompleted {
        name: name.to_owned(),
        timeout_s,
        optional,
    }
}

fn healthy(name: &str, optional: bool) -> Step {
    Step::WaitHealthy {
        name: name.to_owned(),
        timeout_s: Some(20),
        optional,
    }
}

pub(crate) fn command(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

#[tokio::test]
async fn a_wait_ends_with_the_work_and_tells_how_it_failed() {
    let lab = Lab::new().await;
    lab.load().await;
    for (name, code) in [("good", "0"), ("bad", "4")] {
        let mut spec = lab.spec(name);
        spec.command = command(&["exit", code, "300"]);
        lab.create(&spec).await;
        lab.apply(&start(&spec.name, 0)).await.unwrap();
    }
    let name = |name: &str| lab.spec(name).name;
    lab.apply(&completed(&name("good"), None, false)).await.unwrap();
    let error = lab
        .apply(&completed(&name("bad"), None, false))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("exit code 4") && text.contains("flux capacitor"),
        "{text}"
    );
    assert!(!error.retryable());
    lab.apply(&completed(&name("bad"), None, true)).await.unwrap();

    let endless = lab.spec("endless");
    lab.create(&endless).await;
    lab.apply(&start(&endless.name, 0)).await.unwrap();
    let error = lab
        .apply(&completed(&endless.name, Some(1), false))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("still runs after 1 s"), "{error}");
}

fn checked(mut spec: ContainerSpec, test: &[&str]) -> ContainerSpec {
    spec.healthcheck = Some(Healthcheck {
        test: command(test),
        interval_ms: Some(200),
        retries: Some(1),
        ..Healthcheck::default()
    });
    spec
}

#[tokio::test]
async fn health_is_waited_for_and_its_lack_is_told() {
    let lab = Lab::new().await;
    lab.load().await;
    let good = checked(lab.spec("good"), &["CMD", "/decoy", "true"]);
    let bad = checked(lab.spec("bad"), &["CMD", "/decoy", "exit", "1", "0"]);
    let unchecked = lab.spec("unchecked");
    let mut ends = checked(lab.spec("ends"), &["CMD", "/decoy", "true"]);
    ends.command = command(&["exit", "3", "0"]);
    for spec in [&good, &bad, &unchecked, &ends] {
        lab.create(spec).await;
        lab.apply(&start(&spec.name, 0)).await.unwrap();
    }
    lab.apply(&healthy(&good.name, false)).await.unwrap();
    for (spec, word) in [
        (&bad, "fails"),
        (&unchecked, "no health check"),
        (&ends, "exit code 3"),
    ] {
        let error = lab.apply(&healthy(&spec.name, false)).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        lab.apply(&healthy(&spec.name, true)).await.unwrap();
    }
}

#[tokio::test]
async fn a_replacement_is_made_beside_the_old_one_and_takes_its_name_and_volumes() {
    let lab = Lab::new().await;
    lab.load().await;
    let mut spec = lab.spec("a");
    spec.mounts = vec![Mount {
        target: "/data".to_owned(),
        kind: MountKind::Volume {
            name: None,
            nocopy: false,
            subpath: None,
            labels: BTreeMap::new(),
            selinux: None,
        },
        read_only: false,
        consistency: None,
    }];
    let old = lab.create(&spec).await;
    let old_id = old.id.unwrap();
    let data = old.mounts.unwrap()[0].name.clone().unwrap();
    let staged = format!("{}-next", spec.name);
    let steps = [
        Step::CreateContainer {
            container: Box::new(spec.clone()),
            staged: Some(staged.clone()),
            inherit: Some(old_id.clone()),
        },
        Step::RemoveContainer {
            name: spec.name.clone(),
            id: old_id.clone(),
        },
        Step::RenameContainer {
            from: staged,
            id: None,
            to: spec.name.clone(),
        },
        start(&spec.name, 200),
    ];
    for step in &steps {
        for _ in 0..2 {
            // The first is under its new name by the time that it would be repeated.
            lab.apply(step).await.unwrap();
        }
    }
    let new = lab.inspect(&spec.name).await;
    assert_ne!(new.id.unwrap(), old_id);
    assert_eq!(new.mounts.unwrap()[0].name.as_deref(), Some(data.as_str()));
    let _ = lab
        .docker
        .remove_container(
            &spec.name,
            Some(bollard::query_parameters::RemoveContainerOptions {
                force: true,
                v: true,
                link: false,
            }),
        )
        .await;
    let _ = lab
        .docker
        .remove_volume(&data, None::<bollard::query_parameters::RemoveVolumeOptions>)
        .await;
}

#[tokio::test]
async fn what_ran_before_runs_again_when_its_replacement_does_not_come_up() {
    let lab = Lab::new().await;
    lab.load().await;
    let old = lab.create(&lab.spec("old")).await.id.unwrap();
    let mut spec = lab.spec("new");
    spec.command = command(&["exit", "3", "100"]);
    spec.restart = decnet_plan::step::RestartPolicy::Always;
    lab.create(&spec).await;
    let step = Step::StartContainer {
        name: spec.name.clone(),
        settle_ms: 600,
        fallback: vec![old.clone()],
    };
    let error = lab.apply(&step).await.unwrap_err();
    assert!(matches!(error, EngineError::Unsettled { .. }), "{error:?}");
    let observed = lab.observe().await.containers;
    let state = |name: &str| {
        let found = observed.iter().find(|container| container.name == name);
        found.unwrap().state.clone()
    };
    assert_eq!(state(&lab.spec("old").name), ContainerState::Running);
    assert!(matches!(state(&spec.name), ContainerState::Exited { .. }));
}

/// An id that was learnt and has gone is no reason to fail: the name is asked for again.
#[tokio::test]
async fn an_owner_that_was_made_anew_behind_our_back_is_found_by_its_name() {
    let lab = Lab::new().await;
    lab.load().await;
    let owner = lab.spec("owner");
    let first = lab.create(&owner).await.id.unwrap();
    let options = bollard::query_parameters::RemoveContainerOptions::default();
    lab.docker.remove_container(&first, Some(options)).await.unwrap();
    let other = decnet_docker::Engine::connect(std::path::Path::new(crate::lab::SOCKET))
        .await
        .unwrap();
    other.apply(&create(&owner), &lab).await.unwrap();
    let mut spec = lab.spec("a");
    spec.volumes_from = vec![decnet_plan::step::VolumesFrom {
        container: owner.name.clone(),
        read_only: false,
        foreign: false,
    }];
    let made = lab.create(&spec).await;
    let second = lab.inspect(&owner.name).await.id.unwrap();
    assert_ne!(first, second);
    assert_eq!(made.host_config.unwrap().volumes_from.unwrap(), [second]);
}

#[tokio::test]
async fn an_image_goes_only_when_no_container_has_it() {
    let lab = Lab::new().await;
    lab.load().await;
    let step = Step::RemoveImage {
        id: lab.images[0].id.clone(),
        names: vec![lab.reference()],
    };
    let made = lab.create(&lab.spec("a")).await.id.unwrap();
    lab.apply(&step).await.unwrap();
    let has = |observed: decnet_wire::observed::Observed| {
        observed.images.iter().any(|image| image.id == lab.images[0].id)
    };
    assert!(has(lab.observe().await));
    let options = bollard::query_parameters::RemoveContainerOptions::default();
    lab.docker.remove_container(&made, Some(options)).await.unwrap();
    for _ in 0..2 {
        lab.apply(&Step::RemoveImage {
            id: lab.images[0].id.clone(),
            names: Vec::new(),
        })
        .await
        .unwrap();
    }
    assert!(!has(lab.observe().await));
}
