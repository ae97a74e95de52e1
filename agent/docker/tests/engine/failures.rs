//! What goes wrong, and what the errors say.

use std::path::Path;

use decnet_docker::{Engine, EngineError};
use decnet_plan::compose::Egress;
use decnet_plan::step::{NetworkMode, Step};
use decnet_wire::observed::ContainerState;
use serde_json::json;

use crate::image::image;
use crate::lab::{Lab, lines, start};
use crate::lifecycle::until;
use crate::steps::command;

#[tokio::test]
async fn an_engine_that_is_away_is_worth_a_retry_and_is_named() {
    let error = Engine::connect(Path::new("/nonexistent/docker.sock"))
        .await
        .unwrap_err();
    assert!(error.retryable());
    assert!(error.to_string().contains("/nonexistent/docker.sock"), "{error}");
}

#[tokio::test]
async fn a_service_that_ends_is_told_with_its_code_and_words_and_the_old_one_runs_on() {
    for restart in ["no", "unless-stopped"] {
        let lab = Lab::new().await;
        let lan = lab.bridge();
        lab.converge(&lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[("ssh", json!({}))]))]))
            .await;
        let bad = json!({"command": ["exit", "3", "100"], "restart": restart});
        let next = lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[("http", bad)]))]);
        let plan = lab.plan(&next).await;
        let failures = lab.run(&plan).await;
        let [error @ EngineError::Unsettled { name, .. }] = failures.as_slice() else {
            panic!("{failures:?}")
        };
        assert_eq!(*name, lab.name("web", "http"));
        assert!(
            error
                .to_string()
                .contains("it wrote: cannot open the flux capacitor"),
            "{error}"
        );
        if restart == "no" {
            assert!(error.to_string().contains("ended with exit code 3"), "{error}");
        }
        assert!(!error.retryable());
        assert_eq!(lab.container("web", "ssh").await.state, ContainerState::Running);
        let next = lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[("ssh", json!({}))]))]);
        lab.converge(&next).await;
    }
}

#[tokio::test]
async fn what_needs_a_base_that_has_ended_tells_how_the_base_ended() {
    let lab = Lab::new().await;
    lab.load().await;
    let mut base = lab.spec("base");
    base.command = command(&["exit", "3", "0"]);
    let mut joins = lab.spec("ssh");
    joins.network = NetworkMode::Container {
        name: base.name.clone(),
    };
    lab.create(&base).await;
    lab.create(&joins).await;
    lab.apply(&start(&base.name, 0)).await.unwrap();
    until("the base has ended", async || {
        let containers = lab.observe().await.containers;
        let base = containers.iter().find(|container| container.name == base.name);
        matches!(base.unwrap().state, ContainerState::Exited { .. })
    })
    .await;

    let egress = Egress::default();
    let close = Step::LockNamespace {
        name: base.name.clone(),
        rules: egress.rules(),
        egress,
    };
    for step in [close, start(&joins.name, 0)] {
        let error = lab.apply(&step).await.unwrap_err();
        let EngineError::Unsettled { name, how, logs } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*name, base.name);
        assert!(how.contains("ended with exit code 3"), "{error}");
        assert!(logs.contains("cannot open the flux capacitor"), "{error}");
    }
}

#[tokio::test]
async fn a_foreign_object_of_our_name_is_named_and_left_alone() {
    let (lab, mut other) = (Lab::new().await, Lab::new().await);
    let lan = lab.bridge();
    lab.converge(&lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[]))]))
        .await;
    let before = lab.observe().await;
    other.tag.clone_from(&lab.tag);
    other.images.clone_from(&lab.images);
    let plan = other
        .plan(&other.desire(&[&lan], &[("web", other.decky(&lan, 5, &[]))]))
        .await;
    let mut refused = 0;
    for planned in &plan.steps {
        match &planned.step {
            Step::CreateNetwork { .. } | Step::CreateContainer { .. } => {
                let error = other.engine.apply(&planned.step, &other).await.unwrap_err();
                assert!(matches!(error, EngineError::Foreign { .. }), "{error:?}");
                assert!(error.to_string().contains("is not this host's"), "{error}");
                assert!(!error.retryable());
                refused += 1;
            }
            _ => {}
        }
    }
    assert_eq!(refused, 2, "{}", lines(&plan));
    let after = lab.observe().await;
    assert_eq!(
        (before.containers, before.networks),
        (after.containers, after.networks)
    );
}

// The engine's words were "Pool overlaps with other one on this address space", and left the search to the reader.
#[tokio::test]
async fn the_network_that_holds_our_subnet_is_named() {
    let (lab, other) = (Lab::new().await, Lab::new().await);
    let lan = lab.bridge();
    lab.converge(&lab.desire(&[&lan], &[("web", lab.decky(&lan, 5, &[]))]))
        .await;
    let mut wanted = other.bridge();
    wanted.subnet = lan.subnet;
    wanted.gateway = lan.gateway;
    let plan = other
        .plan(&other.desire(&[&wanted], &[("web", other.decky(&wanted, 5, &[]))]))
        .await;
    let create = plan
        .steps
        .iter()
        .find(|planned| matches!(planned.step, Step::CreateNetwork { .. }));
    let error = other
        .engine
        .apply(&create.unwrap().step, &other)
        .await
        .unwrap_err();
    assert!(!error.retryable());
    let text = error.to_string();
    assert!(text.contains(lan.name.as_str()), "{text}");
    assert!(text.contains(&lan.subnet.to_string()), "{text}");
}

#[tokio::test]
async fn an_archive_with_another_image_is_refused() {
    let mut lab = Lab::new().await;
    let wanted = lab.add_image("wanted", &json!({}));
    let other = image(&format!("decnet-test/{}:other", lab.tag), &json!({}));
    let place = lab.images.len() - 1;
    lab.images[place].bytes.clone_from(&other.bytes);
    let lan = lab.bridge();
    let mut document = lab.decky(&lan, 5, &[]);
    document["services"]["base"]["image"] = json!(wanted);
    let plan = lab.plan(&lab.desire(&[&lan], &[("web", document)])).await;
    // What was loaded instead is this test's to remove.
    lab.images.push(other);
    let failures = lab.run(&plan).await;
    assert!(
        matches!(failures.as_slice(), [EngineError::WrongImage { .. }]),
        "{failures:?}"
    );
    assert!(lab.observe().await.containers.is_empty());
}

#[tokio::test]
async fn a_missing_parent_blocks_its_stack_before_any_container_is_touched() {
    let mut lab = Lab::new().await;
    let lan = lab.macvlan();
    let mut gone = lan.clone();
    gone.parent = Some("nosuchlink0".parse().unwrap());
    let desired = lab.desire(&[&gone], &[("web", lab.decky(&gone, 5, &[]))]);
    let plan = lab.plan(&desired).await;
    assert!(plan.steps.is_empty(), "{}", lines(&plan));
    assert!(plan.blocked[0].reason.contains("nosuchlink0"), "{}", lines(&plan));
}

#[tokio::test]
async fn the_engines_own_words_reach_the_error_chain() {
    let lab = Lab::new().await;
    let lan = lab.bridge();
    let mut plan = lab.plan(&lab.desire(&[&lan], &[])).await;
    for planned in &mut plan.steps {
        if let Step::CreateNetwork { network } = &mut planned.step {
            network.ipam.pools[0].gateway = Some("192.0.2.1".parse().unwrap());
        }
    }
    let failures = lab.run(&plan).await;
    let [error] = failures.as_slice() else {
        panic!("{failures:?}")
    };
    assert!(!error.retryable());
    let source = std::error::Error::source(error).unwrap().to_string();
    assert!(error.to_string().contains(lan.name.as_str()), "{error}");
    assert!(source.contains("gateway"), "{source}");
}
