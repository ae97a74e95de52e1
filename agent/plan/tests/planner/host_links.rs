//! The host itself reaches its deckies, when it is asked to.

use decnet_plan::desired::{Desired, HOST_LINK};
use decnet_plan::planner::describe;
use decnet_wire::bundle::{Network, NetworkDriver};
use decnet_wire::observed::Interface;

use crate::fleet::{blobs, converge_at_once, decky, desire, engine, host, lan, lines, other_host, stack};
use serde_json::{Value, json};

const WEB: [(&str, u16, u8); 1] = [("ssh", 22, 1)];

fn reachable() -> Network {
    Network {
        host_address: Some("10.9.0.250".parse().unwrap()),
        ..lan()
    }
}

fn web() -> Value {
    decky("decnet-lan", 5, &WEB)
}

fn links(engine: &decnet_plan::sim::Engine) -> Vec<&Interface> {
    let ours = |interface: &&Interface| interface.name.as_str().starts_with(HOST_LINK);
    engine.interfaces.iter().filter(ours).collect()
}

#[test]
fn the_link_is_made_with_a_route_to_every_decky_and_goes_when_it_is_not_wanted() {
    let mut engine = engine();
    converge_at_once(&mut engine, &desire(&[lan()], &[("web", web())]));
    assert!(links(&engine).is_empty(), "nobody has asked for one");
    let desired = desire(&[reachable()], &[("web", web())]);
    let plan = converge_at_once(&mut engine, &desired);
    assert_eq!(plan.steps.len(), 1, "the network is made anew:\n{}", lines(&plan));
    let wanted = desired.host_links();
    let link = wanted.values().next().unwrap();
    assert_eq!(
        link.routes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.9.0.5"]
    );

    let more = desire(
        &[reachable()],
        &[("web", web()), ("db", decky("decnet-lan", 6, &WEB))],
    );
    let plan = converge_at_once(&mut engine, &more);
    assert!(lines(&plan).contains("for this host itself"), "{}", lines(&plan));
    converge_at_once(
        &mut engine,
        &desire(&[lan()], &[("web", web()), ("db", json!({}))]),
    );
    assert!(links(&engine).is_empty());
}

#[test]
fn a_link_that_is_down_or_changed_by_hand_is_made_anew() {
    let mut engine = engine();
    let desired = desire(&[reachable()], &[("web", web())]);
    converge_at_once(&mut engine, &desired);
    engine.interfaces.last_mut().unwrap().up = false;
    converge_at_once(&mut engine, &desired);
    engine.interfaces.last_mut().unwrap().addresses.clear();
    converge_at_once(&mut engine, &desired);
    engine.interfaces.pop();
    converge_at_once(&mut engine, &desired);
    assert_eq!(links(&engine).len(), 1);
}

#[test]
fn a_change_of_driver_takes_the_link_off_the_parent_before_the_network_comes() {
    let mut engine = engine();
    converge_at_once(&mut engine, &desire(&[reachable()], &[]));
    let ipvlan = Network {
        driver: NetworkDriver::Ipvlan,
        ..reachable()
    };
    let plan = converge_at_once(&mut engine, &desire(&[ipvlan], &[]));
    let position = |text: &str| {
        let mut steps = plan.steps.iter();
        steps
            .position(|planned| describe(&planned.step).starts_with(text))
            .unwrap()
    };
    let removal = position("remove link");
    assert!(
        plan.steps[position("create ipvlan network")]
            .after
            .contains(&removal)
    );
    assert!(removal < position("create ipvlan link"));
    assert_eq!(links(&engine)[0].kind.as_deref(), Some("ipvlan"));
}

#[test]
fn a_link_of_another_host_or_of_somebody_else_stays() {
    let mut engine = engine();
    let name = stack("web");
    let document = web();
    let other = Desired::new(
        other_host(),
        &[reachable()],
        &blobs(),
        [(&name, &document)].into_iter(),
    )
    .unwrap();
    let theirs = other.host_links().into_values().next().unwrap();
    for (link, alias) in [
        (theirs.name.as_str(), Some(theirs.alias.clone())),
        ("decnet-h-000000", None),
    ] {
        engine.interfaces.push(Interface {
            alias,
            ..Interface::new(link.parse().unwrap())
        });
    }
    converge_at_once(&mut engine, &desire(&[lan()], &[]));
    assert_eq!(links(&engine).len(), 2);
}

#[test]
fn the_hosts_address_is_nobody_elses() {
    let errors = |network: Network| {
        let (name, document) = (stack("web"), web());
        Desired::new(host(), &[network], &blobs(), [(&name, &document)].into_iter()).unwrap_err()[0]
            .to_string()
    };
    let at = |address: &str| Network {
        host_address: Some(address.parse().unwrap()),
        ..lan()
    };
    assert!(
        errors(at("10.9.0.5")).contains("10.9.0.5 is reserved"),
        "{}",
        errors(at("10.9.0.5"))
    );
    assert!(errors(at("10.8.0.5")).contains("host_address"));
    assert!(errors(at("10.9.0.255")).contains("host_address"));
}
