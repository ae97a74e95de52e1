//! VNC: challenge and response captured, nobody let in.

use crate::decoy::{Decoy, Start, Talk};

/// Up to the challenge, as a client of 3.8.
fn challenge(talk: &mut Talk) -> Vec<u8> {
    assert_eq!(talk.bytes(12), b"RFB 003.008\n");
    talk.send("RFB 003.008\n");
    assert_eq!(talk.bytes(2), [1, 2]);
    talk.send([2]);
    talk.bytes(16)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_response_is_captured_with_its_challenge_and_refused_with_a_reason() {
    let decoy = Decoy::start("vnc");
    let mut talk = decoy.connect();
    let challenge = challenge(&mut talk);
    talk.send([0x5a; 16]);
    let answer = talk.rest();
    assert_eq!(answer[..4], [0, 0, 0, 1]);
    assert_eq!(usize::from(answer[7]), answer.len() - 8, "the reason's length");

    let event = decoy.event("login", |_| true);
    assert_eq!(event["decnet"]["vnc"]["challenge"], hex(&challenge));
    assert_eq!(event["decnet"]["vnc"]["response"], "5a".repeat(16));
    assert_eq!(event["event"]["outcome"], "failure");
}

#[test]
fn challenges_never_repeat_even_for_one_seed() {
    let decoy = Start::new("vnc").seed(1).run();
    let one = challenge(&mut decoy.connect());
    assert_ne!(one, challenge(&mut decoy.connect()));
    assert_ne!(one, challenge(&mut Start::new("vnc").seed(1).run().connect()));
}

#[test]
fn older_clients_are_served_in_their_own_protocol() {
    let decoy = Decoy::start("vnc");
    let mut talk = decoy.connect();
    talk.send("RFB 003.003\n");
    talk.bytes(12);
    assert_eq!(talk.bytes(4), [0, 0, 0, 2]);
    talk.bytes(16);
    talk.send([1; 16]);
    assert_eq!(talk.rest(), [0, 0, 0, 1], "3.3 has no reasons");
}

#[test]
fn a_security_type_that_was_not_offered_is_refused() {
    let decoy = Decoy::start("vnc");
    let mut talk = decoy.connect();
    talk.bytes(12);
    talk.send("RFB 003.008\n");
    talk.bytes(2);
    talk.send([1]);
    assert_eq!(talk.rest()[..4], [0, 0, 0, 1]);
    decoy.event("security_type", |event| {
        event["decnet"]["vnc"]["security_type"] == 1
    });
}

#[test]
fn the_seed_chooses_the_wording() {
    let reason = |seed| {
        let decoy = Start::new("vnc").seed(seed).run();
        let mut talk = decoy.connect();
        challenge(&mut talk);
        talk.send([0; 16]);
        talk.rest()
    };
    assert_eq!(reason(1), reason(1));
    let all: std::collections::BTreeSet<Vec<u8>> = (1..12).map(reason).collect();
    assert!(all.len() > 1, "{all:?}");
}

#[test]
fn rubbish_ends_the_connection_and_nothing_else() {
    let mut decoy = Decoy::start("vnc");
    for sent in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 300], b"RFB 0"] {
        let mut talk = decoy.connect();
        talk.bytes(12);
        talk.send(sent);
    }
    decoy.event("garbage", |event| event["decnet"]["payload"] == "GET / HTTP/1");
    challenge(&mut decoy.connect());
    assert!(decoy.is_running());
}
