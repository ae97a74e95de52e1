//! What holds for every Compose project, every state of the engine and every crash.

use std::collections::BTreeSet;

use decnet_plan::sim::Engine;
use decnet_wire::observed::ContainerState;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::{collection::vec, sample::select};
use serde_json::{Map, Value, json};

use crate::fleet::{lines, run, run_in_any_order};
use crate::project::{engine, plan_of, project};

/// A project as a test case: services by name.
#[derive(Debug, Clone)]
struct Case(Vec<(&'static str, Kind)>);

#[derive(Debug, Clone)]
struct Kind {
    image: u8,
    scale: u32,
    volume: bool,
    port: Option<u16>,
    network: bool,
    bond: Bond,
}

/// What ties a service to the one before it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bond {
    None,
    Starts,
    Restarts,
    Healthy,
    Pid,
    Volumes,
    Links,
    Network,
}

fn case() -> impl Strategy<Value = Case> {
    let bond = select(vec![
        Bond::None,
        Bond::Starts,
        Bond::Restarts,
        Bond::Healthy,
        Bond::Pid,
        Bond::Volumes,
        Bond::Links,
        Bond::Network,
    ]);
    let port = proptest::option::of(select(vec![80_u16, 81]));
    let kind = (1..=2_u8, 0..3_u32, any::<bool>(), port, any::<bool>(), bond).prop_map(
        |(image, scale, volume, port, network, bond)| Kind {
            image,
            scale,
            volume,
            port,
            network,
            bond,
        },
    );
    ["a", "b", "c"]
        .map(|name| proptest::option::weighted(0.8, kind.clone().prop_map(move |kind| (name, kind))))
        .prop_map(|kinds| Case(kinds.into_iter().flatten().collect()))
}

impl Case {
    fn document(&self) -> Value {
        let mut services = Map::new();
        let mut previous: Option<(&str, u32, bool)> = None;
        let mut ports = BTreeSet::new();
        for (name, kind) in &self.0 {
            // One container has a port of the host, and one network namespace is shared by those next to it.
            let port = kind.port.filter(|port| ports.insert(*port));
            let scale = if port.is_some() {
                kind.scale.min(1)
            } else {
                kind.scale
            };
            let mut service = json!({"image": format!("image:{}", kind.image), "scale": scale});
            if kind.volume {
                service["volumes"] = json!(["data:/data"]);
            }
            let mut joins = false;
            if let Some((other, others, joined)) = previous {
                let there = others > 0;
                let on = |condition: &str, restart: bool| json!({other: {"condition": condition, "restart": restart}});
                match kind.bond {
                    Bond::Starts => service["depends_on"] = on("service_started", false),
                    Bond::Restarts => service["depends_on"] = on("service_started", true),
                    Bond::Healthy => service["depends_on"] = on("service_healthy", false),
                    Bond::Pid if there => service["pid"] = json!(format!("service:{other}")),
                    Bond::Volumes if there => service["volumes_from"] = json!([other]),
                    Bond::Links => service["links"] = json!([other]),
                    Bond::Network if there && !joined => joins = true,
                    Bond::None | Bond::Pid | Bond::Volumes | Bond::Network => {}
                }
                if joins {
                    service["network_mode"] = json!(format!("service:{other}"));
                }
            }
            if let Some(port) = port.filter(|_| !joins) {
                service["ports"] = json!([format!("{port}:80")]);
            }
            if kind.network && !joins {
                service["networks"] = json!(["back"]);
            }
            services.insert((*name).to_owned(), service);
            previous = Some((name, scale, joins));
        }
        json!({"services": services, "networks": {"back": {"internal": true}}, "volumes": {"data": {}}})
    }
}

#[derive(Debug, Clone, Copy)]
enum Mishap {
    Dies,
    IsDone,
    IsPaused,
    IsRemoved,
    IsHalfRemoved,
    IsRenamed,
    LosesItsImage,
}

fn happen(engine: &mut Engine, mishaps: &[(usize, Mishap)]) {
    for (number, mishap) in mishaps {
        let names: Vec<_> = engine.containers.keys().cloned().collect();
        let Some(name) = names.get(number % names.len().max(1)) else {
            return;
        };
        let Some(mut container) = engine.containers.remove(name) else {
            return;
        };
        let mut now = name.clone();
        match mishap {
            Mishap::Dies => container.state = ContainerState::Exited { code: 137 },
            Mishap::IsDone => container.state = ContainerState::Exited { code: 0 },
            Mishap::IsPaused => container.state = ContainerState::Paused,
            Mishap::IsRemoved => continue,
            Mishap::IsHalfRemoved => container.state = ContainerState::Dead,
            Mishap::IsRenamed => now = format!("{name}-{number}"),
            Mishap::LosesItsImage => engine.images.retain(|image| image.id != container.image),
        }
        engine.containers.entry(now).or_insert(container);
    }
}

fn anywhere() -> impl Strategy<Value = Engine> {
    let mishap = select(vec![
        Mishap::Dies,
        Mishap::IsDone,
        Mishap::IsPaused,
        Mishap::IsRemoved,
        Mishap::IsHalfRemoved,
        Mishap::IsRenamed,
        Mishap::LosesItsImage,
    ]);
    let steps = proptest::prop_oneof![Just(usize::MAX), 0..30_usize];
    let leg = (case(), steps, vec((0..12_usize, mishap), 0..4));
    vec(leg, 0..3).prop_map(|legs| {
        let mut engine = engine();
        for (case, steps, mishaps) in legs {
            let plan = plan_of(&project(&case.document()), &engine);
            run(&mut engine, &plan, steps);
            happen(&mut engine, &mishaps);
        }
        engine
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// An image that is fetched can be another one than that of a container that runs, so that a second round may
    /// have something to do.
    #[test]
    fn two_rounds_settle_a_project_from_any_state_in_any_order(
        mut engine in anywhere(),
        case in case(),
        choices in vec(any::<usize>(), 1..20),
    ) {
        let desired = project(&case.document());
        let first = plan_of(&desired, &engine);
        let failures = run_in_any_order(&mut engine, &first, &choices);
        prop_assert!(failures.is_empty(), "{failures:?}\n{}", lines(&first));
        let second = plan_of(&desired, &engine);
        let failures = run(&mut engine, &second, usize::MAX);
        prop_assert!(failures.is_empty(), "{failures:?}\n{}", lines(&second));
        let last = plan_of(&desired, &engine);
        prop_assert!(
            last.is_settled(),
            "left:\n{}\nafter:\n{}\nand:\n{}", lines(&last), lines(&first), lines(&second)
        );
        prop_assert_eq!(engine.containers.len(), desired.containers().count());
    }

    #[test]
    fn a_crash_after_any_step_ends_in_a_settled_project(
        mut engine in anywhere(),
        case in case(),
        cut in 0..40_usize,
    ) {
        let desired = project(&case.document());
        let plan = plan_of(&desired, &engine);
        run(&mut engine, &plan, cut);
        for _ in 0..3 {
            let plan = plan_of(&desired, &engine);
            run(&mut engine, &plan, usize::MAX);
        }
        let last = plan_of(&desired, &engine);
        prop_assert!(last.is_settled(), "{}", lines(&last));
    }
}
