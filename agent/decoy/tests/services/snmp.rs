//! SNMP: what an agent tells, to whom, and how little of it at once.

use std::net::UdpSocket;
use std::time::Duration;

use crate::decoy::{Decoy, Start};

const SYS_DESCR: &[u8] = &[0x2b, 6, 1, 2, 1, 1, 1, 0];
const SYS_NAME: &[u8] = &[0x2b, 6, 1, 2, 1, 1, 5, 0];
const MIB_2: &[u8] = &[0x2b, 6, 1, 2, 1];

const GET: u8 = 0xa0;
const GET_NEXT: u8 = 0xa1;
const SET: u8 = 0xa3;
const GET_BULK: u8 = 0xa5;

/// A BER element with a content of less than 128 bytes.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128);
    [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
}

fn sequence(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    element(tag, &parts.concat())
}

fn integer(number: u8) -> Vec<u8> {
    element(2, &[number])
}

/// A request for one variable; `second` and `third` are the two numbers after the request id.
fn request(version: u8, community: &str, operation: u8, oid: &[u8], numbers: [u8; 2]) -> Vec<u8> {
    let variable = sequence(0x30, &[&element(6, oid), &element(5, b"")]);
    let pdu = sequence(
        operation,
        &[
            &integer(77),
            &integer(numbers[0]),
            &integer(numbers[1]),
            &sequence(0x30, &[&variable]),
        ],
    );
    sequence(
        0x30,
        &[&integer(version), &element(4, community.as_bytes()), &pdu],
    )
}

pub(crate) fn ask(socket: &UdpSocket, request: &[u8]) -> Vec<u8> {
    socket.send(request).unwrap();
    let mut answer = [0; 4096];
    let count = socket.recv(&mut answer).unwrap();
    answer[..count].to_vec()
}

fn holds(answer: &[u8], part: &[u8]) -> bool {
    answer.windows(part.len()).any(|window| window == part)
}

#[test]
fn both_old_versions_answer_and_the_community_is_captured() {
    let decoy = Decoy::start("snmp");
    let socket = decoy.udp();
    for (version, name) in [(0, "1"), (1, "2c")] {
        let answer = ask(&socket, &request(version, "public", GET, SYS_NAME, [0, 0]));
        assert!(holds(&answer, b"SRV-MAIL-42"), "{answer:02x?}");
        let event = decoy.event("query", |event| event["decnet"]["snmp"]["version"] == name);
        let snmp = &event["decnet"]["snmp"];
        assert_eq!(
            (&snmp["community"], &snmp["operation"]),
            (&"public".into(), &"get".into())
        );
        assert_eq!(snmp["variables"][0], "1.3.6.1.2.1.1.5.0");
        assert_eq!(event["event"]["outcome"], "success");
    }
}

#[test]
fn a_guessed_community_is_captured_and_never_answered() {
    let decoy = Decoy::start("snmp");
    let socket = decoy.udp();
    socket
        .send(&request(1, "s3cret", GET, SYS_DESCR, [0, 0]))
        .unwrap();
    let event = decoy.event("query", |event| event["decnet"]["snmp"]["community"] == "s3cret");
    assert_eq!(event["event"]["outcome"], "failure");
    // The next answer is to the next question: nothing was sent in between.
    assert!(holds(
        &ask(&socket, &request(1, "public", GET, SYS_NAME, [0, 0])),
        b"SRV-MAIL-42"
    ));
}

#[test]
fn the_description_fits_the_system_and_the_seed() {
    let describe = |family: &str, distro: &str, seed: u8| {
        let start = Start::new("snmp")
            .with("DECNET_OS_FAMILY", family)
            .with("DECNET_DISTRO", distro)
            .seed(seed);
        let decoy = start.run();
        let answer = ask(&decoy.udp(), &request(1, "public", GET, SYS_DESCR, [0, 0]));
        String::from_utf8_lossy(&answer).into_owned()
    };
    for (family, distro, word) in [
        ("linux", "debian", "Debian"),
        ("linux", "rocky9", ".el9_"),
        ("windows_server", "debian", "Software: Windows Version"),
        ("cisco", "debian", "Cisco IOS"),
        ("bsd", "debian", "FreeBSD"),
    ] {
        assert!(describe(family, distro, 1).contains(word), "{family} {distro}");
    }
    let all: std::collections::BTreeSet<String> =
        (1..9).map(|seed| describe("embedded", "alpine", seed)).collect();
    assert!(all.len() > 2, "{all:?}");
    assert_eq!(
        describe("embedded", "alpine", 1),
        describe("embedded", "alpine", 1)
    );
}

#[test]
fn a_walk_ends() {
    let decoy = Decoy::start("snmp");
    let socket = decoy.udp();
    let mut oid = MIB_2.to_vec();
    let mut steps = 0;
    loop {
        let answer = ask(&socket, &request(1, "public", GET_NEXT, &oid, [0, 0]));
        // The name stands after the last "30 length 06": the only variable's.
        let at = answer
            .windows(3)
            .rposition(|part| part[0] == 0x30 && part[2] == 6)
            .unwrap()
            + 3;
        let next = answer[at + 1..at + 1 + usize::from(answer[at])].to_vec();
        if answer.ends_with(&[0x82, 0]) {
            break;
        }
        assert_ne!(next, oid);
        oid = next;
        steps += 1;
        assert!(steps < 500, "the walk does not end");
    }
    assert!(steps > 40, "{steps} objects");
}

#[test]
fn nothing_can_be_set_and_the_attempt_is_captured() {
    let decoy = Decoy::start("snmp");
    let variable = sequence(0x30, &[&element(6, SYS_NAME), &element(4, b"owned")]);
    let pdu = sequence(
        SET,
        &[
            &integer(77),
            &integer(0),
            &integer(0),
            &sequence(0x30, &[&variable]),
        ],
    );
    let answer = ask(
        &decoy.udp(),
        &sequence(0x30, &[&integer(1), &element(4, b"private"), &pdu]),
    );
    assert!(
        holds(&answer, &[2, 1, 17, 2, 1, 1]),
        "notWritable at 1: {answer:02x?}"
    );
    let event = decoy.event("query", |event| event["decnet"]["snmp"]["operation"] == "set");
    assert_eq!(
        event["decnet"]["snmp"]["variables"][0],
        "1.3.6.1.2.1.1.5.0 = owned"
    );
}

#[test]
fn an_answer_is_never_much_larger_than_the_least_an_agent_may_send() {
    let decoy = Decoy::start("snmp");
    let answer = ask(&decoy.udp(), &request(1, "public", GET_BULK, MIB_2, [0, 127]));
    assert!((200..=484).contains(&answer.len()), "{} bytes", answer.len());
}

#[test]
fn a_flood_from_one_address_is_answered_only_so_far() {
    let decoy = Decoy::start("snmp");
    let socket = decoy.udp();
    let bulk = request(1, "public", GET_BULK, MIB_2, [0, 127]);
    let mut sent = 0;
    let mut buffer = [0; 4096];
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    for _ in 0..1000 {
        socket.send(&bulk).unwrap();
        match socket.recv(&mut buffer) {
            Ok(count) => sent += count,
            Err(_) => return assert!(sent > 50_000 && sent <= 128 * 1024, "{sent} bytes"),
        }
    }
    panic!("{sent} bytes were sent, and more would have been");
}

/// A version 3 message; the engine id and the user are the visitor's.
pub(crate) fn version_3(engine: &[u8], user: &str) -> Vec<u8> {
    let header = sequence(
        0x30,
        &[
            &integer(9),
            &element(2, &[0, 0xff, 0xe3]),
            &element(4, &[4]),
            &integer(3),
        ],
    );
    let parameters = sequence(
        0x30,
        &[
            &element(4, engine),
            &integer(0),
            &integer(0),
            &element(4, user.as_bytes()),
            &element(4, b""),
            &element(4, b""),
        ],
    );
    let pdu = sequence(
        GET,
        &[&integer(5), &integer(0), &integer(0), &sequence(0x30, &[])],
    );
    let scoped = sequence(0x30, &[&element(4, engine), &element(4, b""), &pdu]);
    sequence(0x30, &[&integer(3), &header, &element(4, &parameters), &scoped])
}

#[test]
fn version_3_discovers_the_seeds_engine_and_refuses_its_users() {
    let engine = |seed: u8, user: Option<&str>| {
        let decoy = Start::new("snmp").seed(seed).run();
        let socket = decoy.udp();
        let answer = ask(&socket, &version_3(b"", ""));
        assert!(
            holds(&answer, &[0x2b, 6, 1, 6, 3, 15, 1, 1, 4, 0]),
            "usmStatsUnknownEngineIDs: {answer:02x?}"
        );
        let at = answer
            .windows(5)
            .position(|part| part == [0x80, 0, 0x1f, 0x88, 0x80])
            .unwrap();
        let id = answer[at..at + usize::from(answer[at - 1])].to_vec();
        if let Some(user) = user {
            let answer = ask(&socket, &version_3(&id, user));
            assert!(
                holds(&answer, &[0x2b, 6, 1, 6, 3, 15, 1, 1, 3, 0]),
                "usmStatsUnknownUserNames: {answer:02x?}"
            );
            let event = decoy.event("login", |event| event["user"]["name"] == user);
            assert_eq!(event["decnet"]["snmp"]["security_level"], "noAuthNoPriv");
        }
        id
    };
    assert_eq!(engine(1, Some("bob")), engine(1, None));
    assert_ne!(engine(1, None), engine(2, None));
}

#[test]
fn rubbish_is_logged_and_ends_nothing() {
    let mut decoy = Decoy::start("snmp");
    let socket = decoy.udp();
    let whole = request(1, "public", GET, SYS_NAME, [0, 0]);
    for length in 0..whole.len() {
        socket.send(&whole[..length]).unwrap();
    }
    let mut nested = vec![0x30, 0x84, 0x7f, 0xff, 0xff, 0xff, 2, 1, 1];
    nested.extend([0x30, 0x80].repeat(3000));
    socket.send(&nested).unwrap();
    socket.send(&[0xff; 8000]).unwrap();
    decoy.event("garbage", |_| true);
    assert!(holds(&ask(&socket, &whole), b"SRV-MAIL-42"));
    assert!(decoy.is_running());
}

/// An engine of Net-SNMP beside the description of a Windows machine gave the decoy away.
#[test]
fn windows_has_no_version_3_and_the_attempt_is_captured() {
    let decoy = Start::new("snmp").with("DECNET_OS_FAMILY", "windows").run();
    let socket = decoy.udp();
    socket.send(&version_3(b"", "")).unwrap();
    decoy.event("discovery", |_| true);
    // The next answer is the next request's.
    let answer = ask(&socket, &request(1, "public", GET, SYS_NAME, [0, 0]));
    assert!(holds(&answer, b"SRV-MAIL-42"), "{answer:02x?}");
}
