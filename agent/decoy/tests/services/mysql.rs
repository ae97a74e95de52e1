//! MySQL: a real greeting, and logins captured as hashes.

use serde_json::json;

use crate::decoy::{Decoy, Start, Talk};

/// Flags: long password, database, protocol 4.1, secure connection, plugin, attributes.
const FLAGS: u32 = 1 | 1 << 3 | 1 << 9 | 1 << 15 | 1 << 19 | 1 << 20;

fn packet(sequence: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&length[..3], &[sequence], body].concat()
}

fn login(user: &str, response: &[u8], plugin: &str) -> Vec<u8> {
    let mut body = FLAGS.to_le_bytes().to_vec();
    body.extend([0; 28]);
    body.extend(
        [
            user.as_bytes(),
            b"\0",
            &[u8::try_from(response.len()).unwrap()],
            response,
        ]
        .concat(),
    );
    body.extend([b"shop\0", plugin.as_bytes(), b"\0\x13\x0cprogram_name\x05mysql"].concat());
    packet(1, &body)
}

/// The greeting's version, and its scramble.
fn greeting(talk: &mut Talk) -> (String, Vec<u8>) {
    let head = talk.bytes(5);
    assert_eq!((head[3], head[4]), (0, 10), "sequence and protocol");
    let rest = talk.bytes(usize::from(head[0]) - 1);
    let end = rest.iter().position(|byte| *byte == 0).unwrap();
    let version = String::from_utf8(rest[..end].to_vec()).unwrap();
    let after = &rest[end + 5..];
    (version, [&after[..8], &after[27..39]].concat())
}

#[test]
fn a_login_is_captured_with_its_scramble_and_refused_as_a_server_refuses() {
    let decoy = Start::new("mysql")
        .persona(&json!({ "version": "5.7.44-log" }))
        .run();
    let mut talk = decoy.connect();
    let (version, scramble) = greeting(&mut talk);
    assert_eq!(version, "5.7.44-log");
    talk.send(login("root", &[7; 20], "mysql_native_password"));
    let answer = talk.rest();
    assert_eq!(answer[3..7], [2, 0xff, 0x15, 0x04]);
    let text = String::from_utf8_lossy(&answer[7..]).into_owned();
    assert_eq!(
        text,
        "#28000Access denied for user 'root'@'127.0.0.1' (using password: YES)"
    );

    let event = decoy.event("login", |event| event["user"]["name"] == "root");
    let mysql = &event["decnet"]["mysql"];
    assert_eq!(mysql["response"], "07".repeat(20));
    let hex: String = scramble.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(mysql["scramble"], hex);
    assert_eq!(
        (&mysql["database"], &mysql["client"]["program"]),
        (&json!("shop"), &json!("mysql"))
    );
    assert_eq!(event["event"]["outcome"], "failure");
}

#[test]
fn a_newer_server_asks_again_in_the_older_method_and_keeps_both_answers() {
    let decoy = Start::new("mysql").persona(&json!({ "version": "8.0.36" })).run();
    let mut talk = decoy.connect();
    greeting(&mut talk);
    talk.send(login("admin", &[1; 32], "caching_sha2_password"));
    let head = talk.bytes(4);
    assert_eq!(head[3], 2);
    let again = talk.bytes(usize::from(head[0]));
    assert_eq!(again[..23], *b"\xfemysql_native_password\0");
    talk.send(packet(3, &[9; 20]));
    let answer = talk.rest();
    assert_eq!(answer[3..7], [4, 0xff, 0x15, 0x04]);
    let mysql = &decoy.event("login", |event| event["user"]["name"] == "admin")["decnet"]["mysql"];
    assert_eq!(mysql["response"], "01".repeat(32));
    assert_eq!(mysql["native_response"], "09".repeat(20));
}

#[test]
fn scrambles_never_repeat_and_the_seed_chooses_the_version() {
    let versions = |seed| {
        let decoy = Start::new("mysql").seed(seed).run();
        let first = greeting(&mut decoy.connect());
        let second = greeting(&mut decoy.connect());
        assert_ne!(first.1, second.1);
        first.0
    };
    assert_eq!(versions(1), versions(1));
    let all: std::collections::BTreeSet<String> = (1..12).map(versions).collect();
    assert!(all.len() > 1, "{all:?}");
}

#[test]
fn rubbish_gets_the_servers_own_errors_and_ends_nothing() {
    let mut decoy = Decoy::start("mysql");
    for (sent, error) in [
        (packet(1, b"GET / HTTP/1.1\r\n\r\n"), "#08S01Bad handshake"),
        (packet(1, b""), "#08S01Bad handshake"),
        (
            vec![0xff, 0xff, 0xff, 1, 0],
            "#08S01Got a packet bigger than 'max_allowed_packet' bytes",
        ),
    ] {
        let mut talk = decoy.connect();
        greeting(&mut talk);
        talk.send(sent);
        let answer = talk.rest();
        assert!(String::from_utf8_lossy(&answer).ends_with(error), "{answer:?}");
    }
    decoy.event("garbage", |event| {
        event["decnet"]["payload"].as_str().unwrap().starts_with("GET /")
    });
    greeting(&mut decoy.connect());
    assert!(decoy.is_running());
}
