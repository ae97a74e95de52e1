//! Compose projects that stand alone: what Docker Compose does with them, and what it leaves to be wished for.

use decnet_plan::desired::Desired;
use decnet_plan::planner::{Refresh, outdated_volumes, plan, refresh, remove_volumes};
use decnet_plan::policy::Policy;
use decnet_plan::sim::Engine;
use decnet_plan::step::{ContainerSpec, NetworkMode, Plan, RestartPolicy, Step};
use decnet_wire::observed::ContainerState;
use serde_json::{Value, json};

use crate::fleet::{host, lines, run, stack};

pub(crate) fn project(document: &Value) -> Desired {
    Desired::project(host(), &stack("shop"), document).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// Without a word about it, namespaces of a project stay open.
pub(crate) fn engine() -> Engine {
    let mut engine = crate::fleet::engine();
    engine.strict_about_egress = false;
    engine
}

fn problems(document: &Value) -> Vec<String> {
    let errors = Desired::project(host(), &stack("shop"), document).expect_err("it has an error");
    errors.iter().map(ToString::to_string).collect()
}

/// Whoever runs a project of their own decides about it alone.
pub(crate) fn plan_of(desired: &Desired, engine: &Engine) -> Plan {
    let mut policy = Policy::built_in();
    policy.require_cap_drop_all = false;
    policy.require_no_new_privileges = false;
    policy.attributes = ["ports", "volumes", "volumes_from", "volumes.driver_opts"]
        .map(str::to_owned)
        .into();
    plan(desired, &engine.observe(host()), &policy)
}

fn up(engine: &mut Engine, document: &Value) -> Plan {
    let desired = project(document);
    let plan = plan_of(&desired, engine);
    let failures = run(engine, &plan, usize::MAX);
    assert!(failures.is_empty(), "{failures:?}\n{}", lines(&plan));
    let next = plan_of(&desired, engine);
    assert!(
        next.is_settled(),
        "left:\n{}\nafter:\n{}",
        lines(&next),
        lines(&plan)
    );
    plan
}

/// Plans and applies once; returns what failed.
fn round(engine: &mut Engine, document: &Value) -> Vec<String> {
    let plan = plan_of(&project(document), engine);
    run(engine, &plan, usize::MAX)
}

fn spec<'a>(desired: &'a Desired, name: &str) -> &'a ContainerSpec {
    let mut all = desired.containers();
    all.find(|(_, _, spec)| spec.name == name)
        .map(|(_, _, spec)| spec)
        .unwrap()
}

fn texts(plan: &Plan) -> Vec<String> {
    plan.steps
        .iter()
        .map(|planned| decnet_plan::planner::describe(&planned.step))
        .collect()
}

fn running(engine: &Engine) -> Vec<&str> {
    let containers = engine.containers.iter();
    containers
        .filter(|(_, container)| container.state == ContainerState::Running)
        .map(|(name, _)| name.as_str())
        .collect()
}

#[test]
fn names_are_those_that_docker_compose_gives() {
    let desired = project(&json!({
        "services": {
            "web": {"image": "nginx", "scale": 2, "volumes": ["data:/data", "/cache"]},
            "db": {"image": "db", "container_name": "the-db", "networks": {"back": {"aliases": ["sql"]}}},
            "tool": {"build": "/src"},
        },
        "networks": {"back": {}, "unused": {}},
        "volumes": {"data": {}, "unused": {}},
    }));
    let names: Vec<_> = desired
        .containers()
        .map(|(_, _, spec)| spec.name.as_str())
        .collect();
    assert_eq!(names, ["the-db", "shop-tool-1", "shop-web-1", "shop-web-2"]);
    let networks: Vec<_> = desired.networks().keys().collect();
    assert_eq!(networks, ["shop_back", "shop_default"]);
    assert_eq!(desired.volumes().keys().collect::<Vec<_>>(), ["shop_data"]);
    assert_eq!(spec(&desired, "shop-tool-1").image, ["shop-tool"]);
    let NetworkMode::Networks { endpoints } = &spec(&desired, "the-db").network else {
        panic!("the-db is on a network");
    };
    assert_eq!(endpoints[0].aliases, ["the-db", "db", "sql"]);
}

#[test]
fn deploy_wins_over_the_attributes_of_the_service() {
    let desired = project(&json!({"services": {"web": {
        "image": "nginx", "mem_limit": "1g", "cpus": 4, "restart": "no", "pids_limit": 5,
        "deploy": {
            "replicas": 1,
            "resources": {"limits": {"memory": "64m", "cpus": "0.5"}, "reservations": {"memory": "32m"}},
            "restart_policy": {"condition": "on-failure", "max_attempts": 3},
        },
    }}}));
    let spec = spec(&desired, "shop-web-1");
    assert_eq!(
        (spec.memory, spec.nano_cpus, spec.pids),
        (Some(64 << 20), Some(500_000_000), Some(5))
    );
    assert_eq!(spec.limits.memory_reservation, Some(32 << 20));
    assert_eq!(spec.restart, RestartPolicy::OnFailure { retries: 3 });
}

#[test]
fn what_does_not_go_together_is_named() {
    for (service, expected) in [
        (
            json!({"image": "a", "container_name": "one", "scale": 2}),
            "container_name: 2 containers cannot share one name",
        ),
        (
            json!({"image": "a", "volumes": ["data:/d"]}),
            "volumes: data: is not among the document's volumes",
        ),
        (
            json!({"image": "a", "secrets": ["key"]}),
            "secrets: key: is not among the document's secrets",
        ),
        (
            json!({"image": "a", "links": ["db"]}),
            "links: there is no service db",
        ),
        (
            json!({"image": "a", "pid": "service:db"}),
            "pid: there is no service db",
        ),
        (
            json!({"image": "a", "networks": ["back"]}),
            "networks: back: is not among the document's networks",
        ),
    ] {
        let found = problems(&json!({"services": {"web": service}}));
        assert_eq!(found[0], format!("stack shop: services.web.{expected}"));
    }
}

#[test]
fn a_project_comes_up_whole_and_goes_but_for_its_volumes() {
    let mut engine = engine();
    let document = json!({
        "services": {
            "web": {"image": "nginx", "ports": ["8080:80"], "depends_on": ["db"]},
            "db": {"image": "db", "volumes": ["data:/data"]},
        },
        "volumes": {"data": {}},
    });
    up(&mut engine, &document);
    assert_eq!(running(&engine), ["shop-db-1", "shop-web-1"]);
    let mut other = document.clone();
    other["volumes"]["data"] = json!({"driver_opts": {"type": "tmpfs"}});
    let observed = engine.observe(host());
    assert_eq!(outdated_volumes(&project(&other), &observed).len(), 1);
    assert!(outdated_volumes(&project(&document), &observed).is_empty());
    // The volume's options are no part of the container: whoever wants them removes the volume.
    up(&mut engine, &other);

    let none = Desired::no_project(host(), &stack("shop"));
    let plan = plan_of(&none, &engine);
    assert!(run(&mut engine, &plan, usize::MAX).is_empty());
    assert!(engine.containers.is_empty() && engine.networks.is_empty());
    assert_eq!(engine.volumes.len(), 1);
    let plan = remove_volumes(&engine.observe(host()));
    run(&mut engine, &plan, usize::MAX);
    assert!(engine.volumes.is_empty());
}

#[test]
fn scaling_touches_no_container_that_stays() {
    let mut engine = engine();
    let web = |scale: u32| json!({"services": {"web": {"image": "nginx", "scale": scale}}});
    up(&mut engine, &web(1));
    let first = engine.containers["shop-web-1"].id.clone();
    up(&mut engine, &web(3));
    assert_eq!(running(&engine), ["shop-web-1", "shop-web-2", "shop-web-3"]);
    up(&mut engine, &web(1));
    assert_eq!(running(&engine), ["shop-web-1"]);
    assert_eq!(engine.containers["shop-web-1"].id, first);
    up(&mut engine, &web(0));
    assert!(engine.containers.is_empty());
}

#[test]
fn a_changed_field_is_told_with_both_values() {
    let mut engine = engine();
    let web = |mode: &str| json!({"services": {"web": {"image": "nginx", "environment": {"MODE": mode}}}});
    up(&mut engine, &web("a"));
    let plan = up(&mut engine, &web("b"));
    let why = plan.steps.iter().find_map(|planned| match planned.step {
        Step::CreateContainer { .. } => planned.why.clone(),
        _ => None,
    });
    let change = &why.unwrap().changes[0];
    assert_eq!(
        (
            change.field.as_str(),
            change.old.as_deref(),
            change.new.as_deref()
        ),
        ("environment.MODE", Some("a"), Some("b"))
    );
}

#[test]
fn a_container_is_made_anew_when_its_images_name_means_another_image() {
    let mut engine = engine();
    let document = json!({"services": {
        "web": {"image": "nginx", "pull_policy": "always"},
        "own": {"build": "/src"},
        "other": {"image": "db"},
    }});
    let desired = project(&document);
    assert_eq!(
        texts(&refresh(&desired, Refresh::default())),
        ["pull image nginx"]
    );
    up(&mut engine, &document);
    engine.published.insert("nginx:latest".to_owned());
    let options = Refresh {
        build: true,
        pull: false,
    };
    let plan = refresh(&desired, options);
    assert_eq!(texts(&plan), ["pull image nginx", "build image shop-own"]);
    run(&mut engine, &plan, usize::MAX);
    let other = engine.containers["shop-other-1"].id.clone();
    let plan = up(&mut engine, &document);
    assert_eq!(engine.containers["shop-other-1"].id, other);
    for name in ["shop-web-1", "shop-own-1"] {
        let line = format!("create container {name} as {name}.next");
        assert!(texts(&plan).contains(&line), "{}", lines(&plan));
    }
}

#[test]
fn an_image_that_may_not_be_pulled_and_is_not_there_blocks_the_project() {
    let document = json!({"services": {"web": {"image": "nginx", "pull_policy": "never"}}});
    let plan = plan_of(&project(&document), &engine());
    assert!(plan.steps.iter().all(|planned| planned.stack.is_none()));
    assert!(
        plan.blocked[0].reason.contains("pull_policy is never"),
        "{}",
        lines(&plan)
    );
}

fn waiting(condition: &str, required: bool) -> Value {
    json!({"services": {
        "web": {"image": "nginx", "depends_on": {"db": {"condition": condition, "required": required}}},
        "db": {"image": "db", "healthcheck": {"test": "true"}},
    }})
}

#[test]
fn whoever_waits_for_health_does_not_start_before_it() {
    let mut engine = engine();
    engine.unhealthy.insert("shop-db-1".to_owned());
    let document = waiting("service_healthy", true);
    assert_eq!(round(&mut engine, &document).len(), 1);
    assert_eq!(running(&engine), ["shop-db-1"]);
    engine.unhealthy.clear();
    up(&mut engine, &document);
    assert_eq!(running(&engine), ["shop-db-1", "shop-web-1"]);
}

#[test]
fn what_is_not_required_holds_nobody_up() {
    let mut engine = engine();
    engine.unhealthy.insert("shop-db-1".to_owned());
    up(&mut engine, &waiting("service_healthy", false));
    assert_eq!(running(&engine), ["shop-db-1", "shop-web-1"]);
}

#[test]
fn a_service_that_is_done_is_waited_for_and_not_started_again() {
    let mut engine = engine();
    engine.one_shot.insert("shop-db-1".to_owned());
    let plan = up(&mut engine, &waiting("service_completed_successfully", true));
    assert!(
        texts(&plan).contains(&"wait until container shop-db-1 has completed".to_owned()),
        "{}",
        lines(&plan)
    );
    assert_eq!(running(&engine), ["shop-web-1"]);
}

#[test]
fn a_dependency_that_is_made_anew_restarts_only_whoever_asks_for_it() {
    let mut engine = engine();
    let document = |image: &str| {
        json!({"services": {
            "db": {"image": image},
            "asks": {"image": "nginx", "depends_on": {"db": {"condition": "service_started", "restart": true}}},
            "waits": {"image": "nginx", "depends_on": ["db"]},
        }})
    };
    up(&mut engine, &document("db"));
    let runs = |engine: &Engine| {
        ["shop-asks-1", "shop-waits-1"].map(|name| {
            let container = &engine.containers[name];
            (container.id.clone(), container.run)
        })
    };
    let before = runs(&engine);
    up(&mut engine, &document("db:2"));
    let after = runs(&engine);
    assert_eq!(after[0], (before[0].0.clone(), before[0].1 + 1));
    assert_eq!(after[1], before[1]);
}

#[test]
fn an_update_that_fails_leaves_the_old_container_running() {
    let mut engine = engine();
    let document = |image: &str| {
        json!({"services": {
            "base": {"image": image, "ports": ["80:80"]},
            "side": {"image": "nginx", "network_mode": "service:base"},
        }})
    };
    const NAMES: [&str; 2] = ["shop-base-1", "shop-side-1"];
    up(&mut engine, &document("db"));
    let before = NAMES.map(|name| engine.containers[name].id.clone());
    engine.broken.insert("shop-base-1".to_owned(), 3);
    for _ in 0..3 {
        let desired = project(&document("db:2"));
        let plan = plan_of(&desired, &engine);
        // The simulated process of that name never works; the old one is told apart by its image.
        let start = plan.steps.iter().position(
            |planned| matches!(&planned.step, Step::StartContainer { name, .. } if name == "shop-base-1.next"),
        );
        let start = start.unwrap_or_else(|| panic!("{}", lines(&plan)));
        run(&mut engine, &plan, start);
        let Step::StartContainer { fallback, .. } = &plan.steps[start].step else {
            unreachable!()
        };
        assert_eq!(*fallback, before);
        // What the executor does with a replacement that does not come up.
        for name in NAMES {
            let container = engine.containers.get_mut(name).unwrap();
            container.state = ContainerState::Running;
        }
        let run_of_base = engine.containers["shop-base-1"].run;
        let base = engine.containers["shop-base-1"].id.clone();
        let side = engine.containers.get_mut("shop-side-1").unwrap();
        side.joined = Some((base, run_of_base));
    }
    // Whoever goes back finds everything as it was.
    engine.broken.clear();
    up(&mut engine, &document("db"));
    assert_eq!(running(&engine), NAMES);
    assert_eq!(NAMES.map(|name| engine.containers[name].id.clone()), before);
    up(&mut engine, &document("db:2"));
    assert_ne!(engine.containers["shop-base-1"].id, before[0]);
}

#[test]
fn a_port_of_the_host_passes_from_one_service_to_another() {
    let mut engine = engine();
    let on = |name: &str| json!({"services": {name: {"image": "nginx", "ports": ["127.0.0.1:80:80"]}}});
    up(&mut engine, &on("old"));
    up(&mut engine, &on("new"));
    assert_eq!(running(&engine), ["shop-new-1"]);
    let both = |a: &str, b: &str| {
        json!({"services": {
            "a": {"image": "nginx", "ports": [a]},
            "b": {"image": "nginx", "ports": [b]},
        }})
    };
    up(&mut engine, &both("81:80", "82:80"));
    up(&mut engine, &both("82:80", "81:80"));
}

#[test]
fn a_container_that_somebody_renamed_gets_its_name_back() {
    let mut engine = engine();
    let document = json!({"services": {"web": {"image": "nginx"}}});
    up(&mut engine, &document);
    let web = engine.containers.remove("shop-web-1").unwrap();
    engine.containers.insert("mine".to_owned(), web);
    let plan = up(&mut engine, &document);
    assert_eq!(texts(&plan), ["rename container mine to shop-web-1"]);
}

/// The engine looks an owner up by its name when it creates who shares something with it.
#[test]
fn whoever_shares_with_a_renamed_container_is_made_once_that_has_its_name_back() {
    let owner = json!({"image": "image:1"});
    let mut engine = engine();
    up(&mut engine, &json!({"services": {"a": owner}}));
    let container = engine.containers.remove("shop-a-1").unwrap();
    engine.containers.insert("mine".to_owned(), container);
    let plan = plan_of(
        &project(&json!({"services": {"a": owner, "b": {"image": "image:1", "pid": "service:a"}}})),
        &engine,
    );
    let place = |text: &str| texts(&plan).iter().position(|line| line == text).unwrap();
    let rename = place("rename container mine to shop-a-1");
    let create = place("create container shop-b-1");
    assert!(plan.steps[create].after.contains(&rename), "{}", lines(&plan));
}

#[test]
fn whoever_shares_something_follows_when_the_other_is_made_anew() {
    for share in [
        json!({"pid": "service:base"}),
        json!({"ipc": "service:base"}),
        json!({"volumes_from": ["base:ro"]}),
        json!({"network_mode": "service:base"}),
    ] {
        let document = |image: &str| {
            let mut side = share.clone();
            side["image"] = json!("nginx");
            json!({"services": {"base": {"image": image, "volumes": ["/data"]}, "side": side}})
        };
        let mut engine = engine();
        up(&mut engine, &document("db"));
        let before = engine.containers["shop-side-1"].id.clone();
        up(&mut engine, &document("db:2"));
        assert_ne!(engine.containers["shop-side-1"].id, before, "{share}");
    }
}
