//! What holds for every fleet, every state of the engine and every crash.

use std::collections::BTreeSet;

use crate::fleet::{
    decky_with_base, engine, host, lan, lines, network, other_host, plan_now, run, run_in_any_order, stack,
};
use decnet_plan::desired::Desired;
use decnet_plan::planner::{StackState, stack_states};
use decnet_plan::sim::Engine;
use decnet_plan::step::{Plan, Step};
use decnet_wire::bundle::Network;
use decnet_wire::observed::{ContainerState, Observed};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::{collection::vec, sample::select};
use serde_json::{Value, json};

/// A fleet as a test case: small numbers that make documents.
#[derive(Debug, Clone)]
struct Fleet {
    deckies: Vec<(&'static str, Option<Machine>)>,
    moved: bool,
    turned: bool,
}

#[derive(Debug, Clone)]
struct Machine {
    image: u8,
    second_network: bool,
    services: Vec<(&'static str, u16, u8)>,
}

fn machine() -> impl Strategy<Value = Machine> {
    let service = (
        select(vec!["ssh", "http", "ftp"]),
        select(vec![21, 22, 80]),
        1..=2_u8,
    );
    (1..=2_u8, any::<bool>(), vec(service, 0..4)).prop_map(|(image, second_network, mut services)| {
        // One process a port and one service a name, as the fleet compiler sees to it.
        let (mut names, mut ports) = (BTreeSet::new(), BTreeSet::new());
        services.retain(|(name, port, _)| names.insert(*name) && ports.insert(*port));
        Machine {
            image,
            second_network,
            services,
        }
    })
}

fn fleet() -> impl Strategy<Value = Fleet> {
    let machines = ["web", "db", "db-x"].map(|name| {
        let kind = proptest::option::weighted(0.8, machine());
        proptest::option::weighted(0.8, kind.prop_map(move |machine| (name, machine)))
    });
    (machines, any::<bool>(), any::<bool>()).prop_map(|(deckies, moved, turned)| Fleet {
        deckies: deckies.into_iter().flatten().collect(),
        moved,
        turned,
    })
}

impl Fleet {
    fn networks(&self) -> Vec<Network> {
        let (first, second) = if self.moved {
            ("eth1", "eth0")
        } else {
            ("eth0", "eth1")
        };
        let mut lan = lan();
        lan.parent = Some(first.parse().unwrap());
        vec![lan, network("decnet-wan", second, "10.10.0.0/24")]
    }

    fn documents(&self) -> Vec<(decnet_wire::ids::StackName, Value)> {
        let count = u8::try_from(self.deckies.len()).unwrap();
        let document = |(index, (name, machine)): (usize, &(&str, Option<Machine>))| {
            let index = u8::try_from(index).unwrap();
            let address = 5 + if self.turned { count - index } else { index };
            let document = match machine {
                None => json!({"services": {}}),
                Some(machine) => {
                    let lan = if machine.second_network {
                        "decnet-wan"
                    } else {
                        "decnet-lan"
                    };
                    let mut document = decky_with_base(lan, address, machine.image, &machine.services);
                    if machine.second_network {
                        document["services"]["base"]["networks"]["lan"]["ipv4_address"] =
                            json!(format!("10.10.0.{address}"));
                    }
                    document
                }
            };
            (stack(name), document)
        };
        self.deckies.iter().enumerate().map(document).collect()
    }

    fn desired(&self) -> Desired {
        self.desired_as(host(), false)
    }

    fn desired_as(&self, host: decnet_wire::ids::HostId, backwards: bool) -> Desired {
        let (mut networks, mut blobs, mut documents) =
            (self.networks(), crate::fleet::blobs(), self.documents());
        if backwards {
            networks.reverse();
            blobs.reverse();
            documents.reverse();
        }
        Desired::new(
            host,
            &networks,
            &blobs,
            documents.iter().map(|(name, value)| (name, value)),
        )
        .unwrap()
    }
}

/// Something that happens to one container, chosen by number.
#[derive(Debug, Clone, Copy)]
enum Mishap {
    Dies,
    IsPaused,
    CrashLoops,
    IsRestarted,
    IsRemoved,
    IsHalfRemoved,
    IsOfAnotherVersion,
    LosesItsImage,
    IsUpdated,
    /// Everything on its network ends, and somebody prunes the network.
    LosesItsNetwork,
    /// The same, and the network has been made anew since.
    HasAnOutdatedNetwork,
}

fn mishaps() -> impl Strategy<Value = Vec<(usize, Mishap)>> {
    let mishap = select(vec![
        Mishap::Dies,
        Mishap::IsPaused,
        Mishap::CrashLoops,
        Mishap::IsRestarted,
        Mishap::IsRemoved,
        Mishap::IsHalfRemoved,
        Mishap::IsOfAnotherVersion,
        Mishap::LosesItsImage,
        Mishap::IsUpdated,
        Mishap::LosesItsNetwork,
        Mishap::HasAnOutdatedNetwork,
    ]);
    vec((0..12_usize, mishap), 0..5)
}

fn happen(engine: &mut Engine, mishaps: &[(usize, Mishap)]) {
    for (number, mishap) in mishaps {
        let names: Vec<_> = engine.containers.keys().cloned().collect();
        let Some(name) = names.get(*number % names.len().max(1)).cloned() else {
            return;
        };
        if matches!(mishap, Mishap::LosesItsImage) {
            engine.images.clear();
            continue;
        }
        if matches!(mishap, Mishap::IsRemoved) {
            engine.containers.remove(&name);
            continue;
        }
        if matches!(mishap, Mishap::LosesItsNetwork | Mishap::HasAnOutdatedNetwork) {
            let Some(id) = engine.containers[&name].networks.values().next().cloned() else {
                continue;
            };
            for container in engine
                .containers
                .values_mut()
                .filter(|c| c.networks.values().any(|n| *n == id))
            {
                container.state = ContainerState::Exited { code: 0 };
            }
            let Some(network) = engine.networks.remove(&id) else {
                continue;
            };
            if matches!(mishap, Mishap::HasAnOutdatedNetwork) {
                engine.networks.insert(format!("{id}+"), network);
            }
            continue;
        }
        let container = engine.containers.get_mut(&name).unwrap();
        match mishap {
            Mishap::Dies => container.state = ContainerState::Exited { code: 137 },
            Mishap::IsPaused => container.state = ContainerState::Paused,
            Mishap::CrashLoops => {
                (container.state, container.restarts) = (ContainerState::Restarting { code: 1 }, 4);
            }
            Mishap::IsRestarted => {
                (container.run, container.restarts) = (container.run + 1, 1);
                container.state = ContainerState::Running;
            }
            Mishap::IsUpdated => container.spec.memory = Some(7 << 20),
            Mishap::IsHalfRemoved => container.state = ContainerState::Dead,
            Mishap::IsOfAnotherVersion => {
                container
                    .spec
                    .labels
                    .insert(decnet_plan::labels::HASH.to_owned(), "0".repeat(64));
            }
            Mishap::IsRemoved
            | Mishap::LosesItsImage
            | Mishap::LosesItsNetwork
            | Mishap::HasAnOutdatedNetwork => {}
        }
    }
}

/// An engine in any state: a fleet brought up as far as `steps`, then mishaps, then another fleet half way, then
/// mishaps again.
fn anywhere() -> impl Strategy<Value = Engine> {
    let leg = || {
        (
            fleet(),
            proptest::prop_oneof![Just(usize::MAX), 0..30_usize],
            mishaps(),
        )
    };
    vec(leg(), 0..3).prop_map(|legs| {
        let mut engine = engine();
        for (fleet, steps, mishaps) in legs {
            let plan = plan_now(&fleet.desired(), &engine);
            run(&mut engine, &plan, steps);
            happen(&mut engine, &mishaps);
        }
        engine
    })
}

/// What an agent can tell apart about an end state: everything but ids and counts of restarts.
fn essence(engine: &Engine) -> Vec<(String, String, ContainerState)> {
    let Observed {
        containers, networks, ..
    } = engine.observe(host());
    let containers = containers.into_iter().map(|c| (c.name, c.hash, c.state));
    let networks = networks
        .into_iter()
        .map(|n| (n.name, n.hash, ContainerState::Running));
    containers.chain(networks).collect()
}

fn ids(plan: &Plan) -> BTreeSet<String> {
    let id = |step: &Step| match step {
        Step::RemoveNetwork { id, .. }
        | Step::UnpauseContainer { id, .. }
        | Step::StopContainer { id, .. }
        | Step::RemoveContainer { id, .. } => Some(id.clone()),
        _ => None,
    };
    plan.steps
        .iter()
        .filter_map(|planned| id(&planned.step))
        .collect()
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// The first plan is complete: it leads to the end, and then there is nothing left to do.
    #[test]
    fn from_any_state_one_round_settles(mut engine in anywhere(), fleet in fleet()) {
        let desired = fleet.desired();
        let plan = plan_now(&desired, &engine);
        let failures = run(&mut engine, &plan, usize::MAX);
        prop_assert!(failures.is_empty(), "{failures:?}\n{}", lines(&plan));
        let next = plan_now(&desired, &engine);
        prop_assert!(next.is_settled(), "left:\n{}\nafter:\n{}", lines(&next), lines(&plan));
        for (name, state) in stack_states(&desired, &engine.observe(host())) {
            prop_assert_eq!(state, StackState::Settled, "{}", name);
        }
    }

    /// Independent steps run at once, so what a step waits for has to say all that matters.
    #[test]
    fn any_order_that_keeps_the_waits_settles(
        mut engine in anywhere(),
        fleet in fleet(),
        choices in vec(any::<usize>(), 1..20),
    ) {
        let desired = fleet.desired();
        let plan = plan_now(&desired, &engine);
        let failures = run_in_any_order(&mut engine, &plan, &choices);
        prop_assert!(failures.is_empty(), "{failures:?}\n{}", lines(&plan));
        let next = plan_now(&desired, &engine);
        prop_assert!(next.is_settled(), "left:\n{}\nafter:\n{}", lines(&next), lines(&plan));
    }

    #[test]
    fn a_crash_after_any_step_ends_in_the_same_state(start in anywhere(), fleet in fleet(), cut in 0..40_usize) {
        let desired = fleet.desired();
        let plan = plan_now(&desired, &start);
        let (mut straight, mut crashed) = (start.clone(), start);
        run(&mut straight, &plan, usize::MAX);
        run(&mut crashed, &plan, cut);
        for _ in 0..2 {
            let plan = plan_now(&desired, &crashed);
            run(&mut crashed, &plan, usize::MAX);
        }
        prop_assert!(plan_now(&desired, &crashed).is_settled());
        prop_assert_eq!(essence(&straight), essence(&crashed));
    }

    #[test]
    fn the_order_of_the_input_does_not_change_the_plan(engine in anywhere(), fleet in fleet()) {
        let mut observed = engine.observe(host());
        let policy = decnet_plan::policy::Policy::built_in();
        let forwards = decnet_plan::planner::plan(&fleet.desired(), &observed, &policy);
        observed.containers.reverse();
        observed.networks.reverse();
        observed.images.reverse();
        observed.interfaces.reverse();
        let backwards = decnet_plan::planner::plan(&fleet.desired_as(host(), true), &observed, &policy);
        prop_assert_eq!(forwards, backwards);
    }

    /// Steps come after what they wait for, so that a list is as good as a graph.
    #[test]
    fn every_step_waits_for_earlier_ones_only(engine in anywhere(), fleet in fleet()) {
        let plan = plan_now(&fleet.desired(), &engine);
        for (index, planned) in plan.steps.iter().enumerate() {
            prop_assert!(planned.after.iter().all(|other| *other < index), "{}", lines(&plan));
        }
    }

    #[test]
    fn no_image_is_fetched_after_a_stop(engine in anywhere(), fleet in fleet()) {
        let plan = plan_now(&fleet.desired(), &engine);
        let fetch = |step: &Step| matches!(step, Step::LoadImage { .. } | Step::PullImage { .. });
        let first_other = plan.steps.iter().position(|planned| !fetch(&planned.step)).unwrap_or(0);
        prop_assert!(plan.steps[first_other..].iter().all(|planned| !fetch(&planned.step)), "{}", lines(&plan));
    }

    /// Another host's objects on the same engine, of the same kind: none is named, none changes.
    #[test]
    fn foreign_objects_are_untouched(mine in fleet(), theirs in fleet(), then in fleet()) {
        let mut engine = engine();
        let plan = decnet_plan::planner::plan(
            &theirs.desired_as(other_host(), false),
            &engine.observe(other_host()),
            &decnet_plan::policy::Policy::built_in(),
        );
        run(&mut engine, &plan, usize::MAX);
        let before = engine.observe(other_host());
        let foreign: BTreeSet<String> = before.containers.iter().map(|c| c.id.clone())
            .chain(before.networks.iter().map(|n| n.id.clone())).collect();
        for fleet in [mine, then] {
            let plan = plan_now(&fleet.desired(), &engine);
            prop_assert!(ids(&plan).is_disjoint(&foreign), "{}", lines(&plan));
            // Names and subnets clash here, so steps may fail.
            run(&mut engine, &plan, usize::MAX);
        }
        let after = engine.observe(other_host());
        prop_assert_eq!((before.containers, before.networks), (after.containers, after.networks));
    }

    /// Whatever happens to other stacks, one that is as desired and runs gets no step.
    #[test]
    fn an_untouched_stack_gets_no_step(before in fleet(), after in fleet()) {
        let mut engine = engine();
        let desired = before.desired();
        let plan = plan_now(&desired, &engine);
        run(&mut engine, &plan, usize::MAX);
        let next = after.desired();
        let plan = plan_now(&next, &engine);
        let same_networks = desired.networks() == next.networks();
        for (name, wanted) in next.stacks() {
            if same_networks && desired.stack(name) == Some(wanted) {
                let steps = plan.steps.iter().filter(|planned| planned.stack.as_ref() == Some(name)).count();
                prop_assert_eq!(steps, 0, "{}:\n{}", name, lines(&plan));
            }
        }
    }

    /// A service that does not start costs nothing that ran before, except where it needs its port.
    #[test]
    fn a_failed_start_leaves_the_old_services_running(port in select(vec![21, 22, 80]), rounds in 1..4_usize) {
        let web = |services: &[(&str, u16, u8)]| {
            crate::fleet::desire(&[lan()], &[("web", decky_with_base("decnet-lan", 5, 1, services))])
        };
        let mut engine = engine();
        crate::fleet::converge_at_once(&mut engine, &web(&[("ssh", 22, 1), ("ftp", 21, 1)]));
        engine.broken.insert("web-new-1".to_owned(), 7);
        let next = web(&[("new", port, 2)]);
        for _ in 0..rounds {
            let plan = plan_now(&next, &engine);
            run(&mut engine, &plan, usize::MAX);
        }
        for (name, own) in [("web-ssh-1", 22), ("web-ftp-1", 21)] {
            let running = engine.containers.get(name).is_some_and(|c| c.state == ContainerState::Running);
            prop_assert_eq!(running, own != port, "{}", name);
        }
    }
}
