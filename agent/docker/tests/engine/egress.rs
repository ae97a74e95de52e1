//! A decky answers and does not call; and nobody else on its LAN has its address. On a real engine, with real sockets
//! of this process inside the decky's namespace.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bollard::query_parameters::{KillContainerOptions, RestartContainerOptions};
use decnet_docker::EngineError;
use decnet_docker::host::{self, EgressCounters, Port, Way};
use decnet_plan::planner::describe;
use decnet_wire::bundle::Network;
use decnet_wire::observed::ContainerState;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Lab, address, ip, lines, mac as mac_of};

/// Long enough for an answer on a veth pair of a busy machine.
const ANSWER: Duration = Duration::from_secs(2);
/// The peer's address in the subnet, and the decky's.
pub(crate) const PEER: u8 = 1;
pub(crate) const DECKY: u8 = 5;

/// The other end of a LAN: a namespace with an address on it.
pub(crate) struct Peer {
    name: String,
    pub(crate) network: Network,
}

impl Peer {
    pub(crate) fn new(lab: &mut Lab) -> Self {
        let network = lab.macvlan();
        let parent = network.parent.as_ref().unwrap().as_str().to_owned();
        let name = format!("{}-peer", lab.tag);
        ip(&["netns", "add", &name]);
        let peer = Self { name, network };
        ip(&[
            "link",
            "set",
            &format!("{parent}p"),
            "netns",
            &peer.name,
            "name",
            "lan0",
        ]);
        peer.ip(&["link", "set", "lo", "up"]);
        peer.ip(&["link", "set", "lan0", "up"]);
        peer.has(PEER);
        peer.ip(&["-6", "addr", "add", "fd00::1/64", "dev", "lan0", "nodad"]);
        peer
    }

    pub(crate) fn ip(&self, arguments: &[&str]) {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments);
        ip(&all);
    }

    /// Takes the `n`th address of the subnet.
    pub(crate) fn has(&self, n: u8) {
        let address = format!("{}/26", address(&self.network, n));
        self.ip(&["addr", "add", &address, "dev", "lan0"]);
    }

    pub(crate) fn namespace(&self) -> PathBuf {
        PathBuf::from("/var/run/netns").join(&self.name)
    }

    pub(crate) fn mac(&self) -> String {
        within(self.namespace(), || {
            let address = Command::new("ip")
                .args(["-br", "link", "show", "lan0"])
                .output()
                .unwrap();
            let text = String::from_utf8(address.stdout).unwrap();
            text.split_whitespace().nth(2).unwrap().to_owned()
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Runs `work` in a network namespace, on a thread that ends with it.
pub(crate) fn within<T: Send>(namespace: PathBuf, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let file =
                File::open(&namespace).unwrap_or_else(|error| panic!("{}: {error}", namespace.display()));
            setns(file, CloneFlags::CLONE_NEWNET).expect("root is needed");
            work()
        });
        thread.join().unwrap()
    })
}

pub(crate) async fn namespace_of(lab: &Lab, container: &str) -> PathBuf {
    let container = lab.docker.inspect_container(container, None).await.unwrap();
    let pid = container.state.unwrap().pid.unwrap();
    assert!(pid > 0, "it does not run");
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

pub(crate) fn web(lab: &Lab, network: &Network, more: &Value) -> Value {
    let mut service = json!({"expose": [80]});
    for (key, value) in more.as_object().into_iter().flatten() {
        service[key] = value.clone();
    }
    lab.decky(network, DECKY, &[("http", service)])
}

/// Whether a TCP connection from the calling thread's namespace comes about.
pub(crate) fn connects(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok()
}

/// Sends a datagram; the kernel may refuse it at once.
fn throws(to: SocketAddr) {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let _ = UdpSocket::bind((any, 0)).unwrap().send_to(b"hello", to);
}

/// Whether an ICMP echo request is answered.
pub(crate) fn pings(to: Ipv4Addr) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // Echo request, its checksum, identifier 1, number 1.
    let request = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1];
    if socket
        .send_to(&request, &SocketAddr::from((to, 0)).into())
        .is_err()
    {
        return false;
    }
    let mut answer = [0; 64];
    (&socket)
        .read(&mut answer)
        .is_ok_and(|size| size > 20 && answer[20] == 0)
}

/// Whether a socket of the peer's gets anything.
fn hears(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket.recv(&mut [0; 16]).is_ok()
}

async fn counters(lab: &Lab) -> EgressCounters {
    let all = lab.engine.egress(lab.host).await.unwrap();
    all.get(&lab.name("web", "base"))
        .copied()
        .unwrap_or_else(|| panic!("not closed: {all:?}"))
}

/// Listeners of the peer on one port: TCP and UDP, IPv4 and IPv6.
fn listeners(peer: &Peer) -> (TcpListener, UdpSocket, TcpListener, UdpSocket) {
    within(peer.namespace(), || {
        let (any4, any6) = ((Ipv4Addr::UNSPECIFIED, 7000), (Ipv6Addr::UNSPECIFIED, 7001));
        (
            TcpListener::bind(any4).unwrap(),
            UdpSocket::bind(any4).unwrap(),
            TcpListener::bind(any6).unwrap(),
            UdpSocket::bind(any6).unwrap(),
        )
    })
}

/// Tries to call in every way that there is, and expects silence on the wire.
async fn cannot_call(lab: &Lab, peer: &Peer, decky: PathBuf) {
    let before = counters(lab).await;
    let (_tcp4, udp4, _tcp6, udp6) = listeners(peer);
    let (to4, to6): (IpAddr, IpAddr) = (address(&peer.network, PEER).into(), "fd00::1".parse().unwrap());
    let peer_v4 = address(&peer.network, PEER);
    within(decky, move || {
        // The engine switches IPv6 off where the network has none; an intruder may find it on.
        for key in ["all", "default", "eth0"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{key}/disable_ipv6"), "0").unwrap();
        }
        let _ = Command::new("ip")
            .args(["-6", "addr", "add", "fd00::5/64", "dev", "eth0", "nodad"])
            .status();
        assert!(!connects((to4, 7000).into()), "TCP over IPv4 got out");
        assert!(!connects((to6, 7001).into()), "TCP over IPv6 got out");
        throws((to4, 7000).into());
        throws((to6, 7001).into());
        throws((Ipv4Addr::new(127, 0, 0, 11), 53).into());
        assert!(!pings(peer_v4), "an ICMP echo request got out");
    });
    assert!(!hears(&udp4), "UDP over IPv4 got out");
    assert!(!hears(&udp6), "UDP over IPv6 got out");
    let after = counters(lab).await;
    println!("{before:?}\n{after:?}");
    assert!(after.dropped_tcp >= before.dropped_tcp + 2, "{after:?}");
    assert!(after.dropped_udp >= before.dropped_udp + 2, "{after:?}");
    assert!(after.dropped_icmp > before.dropped_icmp, "{after:?}");
    assert!(after.dropped_dns > before.dropped_dns, "{after:?}");
    assert_eq!(after.allowed, 0);
}

/// The decky answers over TCP and UDP, answers echo requests, and refuses at closed ports.
fn answers(peer: &Peer, decky: PathBuf) {
    let to = IpAddr::from(address(&peer.network, DECKY));
    let (tcp, udp) = within(decky, || {
        (
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap(),
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 161)).unwrap(),
        )
    });
    let server = std::thread::spawn(move || {
        let (mut stream, _) = tcp.accept().unwrap();
        let mut text = [0; 2];
        stream.read_exact(&mut text).unwrap();
        stream.write_all(&text).unwrap();
        let (size, from) = udp.recv_from(&mut text).unwrap();
        udp.send_to(&text[..size], from).unwrap();
    });
    within(peer.namespace(), move || {
        let mut stream = TcpStream::connect_timeout(&(to, 80).into(), ANSWER).unwrap();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        stream.write_all(b"hi").unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        socket.send_to(b"hi", (to, 161)).unwrap();
        socket.recv(&mut [0; 2]).unwrap();
        let IpAddr::V4(v4) = to else { unreachable!() };
        assert!(pings(v4), "an echo request is not answered");
        let closed = TcpStream::connect_timeout(&(to, 81).into(), ANSWER).unwrap_err();
        assert_eq!(closed.kind(), std::io::ErrorKind::ConnectionRefused, "{closed}");
        // An error about a datagram (ICMP port unreachable) is an answer as well.
        socket.connect((to, 162)).unwrap();
        socket.send(b"hi").unwrap();
        let closed = socket.recv(&mut [0; 2]).unwrap_err();
        assert_eq!(closed.kind(), std::io::ErrorKind::ConnectionRefused, "{closed}");
    });
    server.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decky_answers_and_does_not_call_not_even_after_a_restart() {
    keeps_closed(Way::Nftables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decky_answers_and_does_not_call_where_the_kernel_has_no_nftables() {
    keeps_closed(Way::XTables).await;
}

async fn keeps_closed(way: Way) {
    let mut lab = Lab::closing_with(way).await;
    let peer = Peer::new(&mut lab);
    let desired = lab.desire(&[&peer.network], &[("web", web(&lab, &peer.network, &json!({})))]);
    lab.converge(&desired).await;
    let base = lab.name("web", "base");
    let decky = namespace_of(&lab, &base).await;
    answers(&peer, decky.clone());
    cannot_call(&lab, &peer, decky).await;
    let locked = lab.container("web", "base").await;
    assert!(locked.lock.is_some());

    // Somebody restarts the base: a new namespace, open, and nobody of ours in it.
    let options = RestartContainerOptions {
        t: Some(1),
        signal: None,
    };
    lab.docker.restart_container(&base, Some(options)).await.unwrap();
    assert_eq!(lab.container("web", "base").await.lock, None);
    assert_eq!(lab.container("web", "http").await.joined, None);
    let plan = lab.converge(&desired).await;
    assert!(
        lines(&plan).contains("close the network namespace"),
        "{}",
        lines(&plan)
    );
    let again = lab.container("web", "base").await;
    assert_eq!((again.id, again.lock), (locked.id, locked.lock));
    let decky = namespace_of(&lab, &base).await;
    answers(&peer, decky.clone());
    cannot_call(&lab, &peer, decky).await;
}

#[tokio::test]
async fn when_a_base_ends_the_engine_brings_back_neither_it_nor_a_service_without_it() {
    let mut lab = Lab::new().await;
    let network = lab.macvlan();
    let desired = lab.desire(&[&network], &[("web", web(&lab, &network, &json!({})))]);
    lab.converge(&desired).await;
    let (base, http) = (lab.name("web", "base"), lab.name("web", "http"));
    for name in [&base, &http] {
        let options = KillContainerOptions {
            signal: "KILL".to_owned(),
        };
        lab.docker.kill_container(name, Some(options)).await.unwrap();
    }
    // Longer than the engine's first delay before a restart, 100 ms.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let state = lab.container("web", "base").await.state;
    assert!(matches!(state, ContainerState::Exited { .. }), "{state:?}");
    let refused = lab
        .docker
        .start_container(&http, None)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("non running container"), "{refused}");
    let plan = lab.converge(&desired).await;
    let steps: Vec<_> = plan.steps.iter().map(|planned| describe(&planned.step)).collect();
    let position = |text: &str| steps.iter().position(|step| step.starts_with(text));
    assert!(position("start container").is_some(), "{steps:?}");
    assert!(lab.container("web", "base").await.lock.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_gets_out_and_a_change_recreates_nothing() {
    opens_what_is_declared(Way::Nftables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_gets_out_where_the_kernel_has_no_nftables() {
    opens_what_is_declared(Way::XTables).await;
}

async fn opens_what_is_declared(way: Way) {
    let mut lab = Lab::closing_with(way).await;
    let peer = Peer::new(&mut lab);
    let closed = web(&lab, &peer.network, &json!({}));
    lab.converge(&lab.desire(&[&peer.network], &[("web", closed)]))
        .await;
    let before = (
        lab.container("web", "base").await.id,
        lab.container("web", "http").await.id,
    );
    let to = address(&peer.network, PEER);
    let more = json!({"x-decnet": {"egress": [format!("tcp/{to}:7000"), format!("icmp/{to}")]}});
    let plan = lab
        .converge(&lab.desire(&[&peer.network], &[("web", web(&lab, &peer.network, &more))]))
        .await;
    assert_eq!(plan.steps.len(), 1, "{}", lines(&plan));
    let after = (
        lab.container("web", "base").await.id,
        lab.container("web", "http").await.id,
    );
    assert_eq!(before, after);
    let _listeners = listeners(&peer);
    let decky = namespace_of(&lab, &lab.name("web", "base")).await;
    within(decky, move || {
        assert!(
            connects((IpAddr::from(to), 7000).into()),
            "what is declared does not get out"
        );
        assert!(pings(to), "what is declared does not get out");
        assert!(!connects((IpAddr::from(to), 7001).into()), "another port got out");
    });
    assert!(counters(&lab).await.allowed > 0);
}

/// The machine at the other end answers no question that is so.
fn refuse_arp(peer: &Peer, questions: &str) {
    let rules = format!(
        "add table arp port\nadd chain arp port input {{ type filter hook input priority 0; }}\n\
         add rule arp port input {questions} drop\n"
    );
    within(peer.namespace(), move || {
        let made = Command::new("nft").arg(rules).status();
        assert!(
            made.is_ok_and(|status| status.success()),
            "missing: nftables with the family arp"
        );
    });
}

/// Before there is any decky.
#[tokio::test]
async fn it_is_seen_beforehand_whether_a_port_takes_other_macs_than_the_hosts() {
    let mut lab = Lab::new().await;
    let peer = Peer::new(&mut lab);
    let parent = peer.network.parent.clone().unwrap();
    let port = || host::try_port(&parent, address(&peer.network, PEER)).unwrap();
    assert_eq!(port(), Port::Open);
    let interfaces = host::interfaces().unwrap();
    assert!(
        interfaces
            .iter()
            .all(|found| found.parent.as_ref() != Some(&parent)),
        "something stays: {interfaces:?}"
    );

    let own = std::fs::read_to_string(format!("/sys/class/net/{parent}/address")).unwrap();
    refuse_arp(&peer, &format!("arp saddr ether != {}", own.trim()));
    assert_eq!(port(), Port::OwnMacOnly);
    peer.ip(&["link", "set", "lan0", "down"]);
    assert_eq!(port(), Port::Silent, "then nobody is to blame");
}

/// A port that lets frames of the host's own MAC address pass only, as hypervisors have it by default.
#[tokio::test]
async fn a_port_that_takes_the_hosts_own_mac_only_is_suspected() {
    let mut lab = Lab::new().await;
    let mut peer = Peer::new(&mut lab);
    peer.network.gateway = Some(address(&peer.network, PEER));
    let desired = lab.desire(&[&peer.network], &[("web", web(&lab, &peer.network, &json!({})))]);
    lab.converge(&desired).await;
    let base = lab.container("web", "base").await.id;
    assert!(lab.engine.check_reach(&base).await.unwrap().is_empty());

    refuse_arp(&peer, &format!("arp saddr ether {}", mac_of(DECKY)));
    let warnings = lab.engine.check_reach(&base).await.unwrap();
    println!("{warnings:?}");
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains(&peer.mac()) && warnings[0].contains("ipvlan"),
        "{warnings:?}"
    );
    // When nobody answers, nobody is to blame.
    peer.ip(&["link", "set", "lan0", "down"]);
    assert!(lab.engine.check_reach(&base).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_host_reaches_its_deckies_by_a_link_of_its_own() {
    let mut lab = Lab::new().await;
    let mut peer = Peer::new(&mut lab);
    let document = web(&lab, &peer.network, &json!({}));
    lab.converge(&lab.desire(&[&peer.network], &[("web", document.clone())]))
        .await;
    let to = address(&peer.network, DECKY);
    assert!(!pings(to), "the host reaches its decky without a link of its own");

    peer.network.host_address = Some(address(&peer.network, 9));
    let desired = lab.desire(&[&peer.network], &[("web", document)]);
    let plan = lab.converge(&desired).await;
    assert_eq!(plan.steps.len(), 1, "{}", lines(&plan));
    assert!(pings(to), "the host does not reach its decky");
    let name = desired.host_links().into_keys().next().unwrap();
    ip(&["link", "set", name.as_str(), "down"]);
    lab.converge(&desired).await;
    assert!(pings(to), "the host does not reach its decky any more");

    lab.converge(&lab.desire(&[], &[])).await;
    let left = host::interfaces().unwrap();
    assert!(left.iter().all(|interface| interface.name != name), "{left:?}");
}

#[tokio::test]
async fn an_address_that_somebody_on_the_lan_answers_for_is_not_taken() {
    let mut lab = Lab::new().await;
    let peer = Peer::new(&mut lab);
    peer.has(DECKY);
    let desired = lab.desire(&[&peer.network], &[("web", web(&lab, &peer.network, &json!({})))]);
    let plan = lab.plan(&desired).await;
    let failures = lab.run(&plan).await;
    let [
        EngineError::AddressTaken {
            address: taken, mac, ..
        },
    ] = failures.as_slice()
    else {
        panic!("{failures:?}");
    };
    assert_eq!(*taken, address(&peer.network, DECKY));
    assert_eq!(mac.to_string(), peer.mac());
    println!("{}", failures[0]);
    assert_eq!(lab.container("web", "base").await.state, ContainerState::Created);
    peer.ip(&["addr", "del", &format!("{taken}/26"), "dev", "lan0"]);
    lab.converge(&desired).await;
    let seen = lab.container("web", "base").await.attachments[0].mac;
    assert_eq!(seen.map(|seen| seen.to_string()), Some(mac_of(DECKY)));
}
