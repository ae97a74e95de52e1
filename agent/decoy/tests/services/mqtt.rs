//! MQTT: logins captured, retained topics shown, messages kept to their own address.

use crate::decoy::{Decoy, Start, Talk, from_address};

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

/// A packet with a body of less than 128 bytes.
fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128);
    [&[head, u8::try_from(body.len()).unwrap()], body].concat()
}

/// CONNECT with a user and a password; `level` is 3, 4 or 5.
fn connect_packet(level: u8, client: &str) -> Vec<u8> {
    let name = text(if level == 3 { "MQIsdp" } else { "MQTT" });
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    let body = [
        &name[..],
        &[level, 0xc2, 0, 60],
        properties,
        &text(client),
        &text("joe"),
        &text("s3cret"),
    ]
    .concat();
    packet(0x10, &body)
}

pub(crate) fn enter(talk: &mut Talk) {
    talk.send(connect_packet(4, "c1"));
    assert_eq!(talk.bytes(4), [0x20, 2, 0, 0]);
}

pub(crate) fn subscribe(talk: &mut Talk, filter: &str) {
    talk.send(packet(0x82, &[&[0, 1][..], &text(filter), &[0]].concat()));
    assert_eq!(talk.bytes(5), [0x90, 3, 0, 1, 0]);
}

pub(crate) fn publish(topic: &str, payload: &str, retain: bool) -> Vec<u8> {
    packet(
        0x30 | u8::from(retain),
        &[&text(topic), payload.as_bytes()].concat(),
    )
}

#[test]
fn every_version_may_log_in_and_is_captured() {
    for (level, version, answer) in [
        (3, "3.1", &[0x20u8, 2, 0, 0][..]),
        (4, "3.1.1", &[0x20, 2, 0, 0]),
        (5, "5.0", &[0x20]),
    ] {
        let decoy = Decoy::start("mqtt");
        let mut talk = decoy.connect();
        talk.send(connect_packet(level, "sensor-7"));
        assert_eq!(talk.bytes(answer.len()), answer);
        let event = decoy.login("joe", "s3cret");
        assert_eq!(event["decnet"]["mqtt"]["client_id"], "sensor-7");
        assert_eq!(event["decnet"]["mqtt"]["version"], version);
        assert_eq!(event["event"]["outcome"], "success");
    }
}

#[test]
fn a_client_without_an_id_is_given_one_in_version_5() {
    let decoy = Decoy::start("mqtt");
    let mut talk = decoy.connect();
    talk.send(connect_packet(5, ""));
    talk.expect("auto-");
}

#[test]
fn a_visitor_hears_its_own_messages_and_no_stranger_does() {
    let decoy = Decoy::start("mqtt");
    let mut mine = decoy.connect();
    enter(&mut mine);
    subscribe(&mut mine, "cmd/+");
    let mut stranger = from_address([127, 0, 0, 2], decoy.port);
    enter(&mut stranger);
    subscribe(&mut stranger, "cmd/#");

    let mut other = decoy.connect();
    enter(&mut other);
    other.send(publish("cmd/run", "reboot", true));
    mine.expect("cmd/runreboot");
    assert_eq!(decoy.event("publish", |_| true)["decnet"]["payload"], "reboot");

    // Neither now, nor from what is retained: the answer to the ping is all there is.
    stranger.send([0xc0, 0]);
    assert_eq!(stranger.bytes(2), [0xd0, 0]);
    subscribe(&mut stranger, "cmd/run");
    stranger.send([0xc0, 0]);
    assert_eq!(stranger.bytes(2), [0xd0, 0]);
    subscribe(&mut other, "cmd/run");
    other.expect("cmd/runreboot");
}

#[test]
fn the_seed_chooses_the_devices_and_system_topics_must_be_asked_for() {
    let seen = |seed: u8, filter: &str| {
        let decoy = Start::new("mqtt").seed(seed).run();
        let mut talk = decoy.connect();
        enter(&mut talk);
        subscribe(&mut talk, filter);
        talk.send(packet(
            0x82,
            &[&[0, 2][..], &text("$SYS/broker/version"), &[0]].concat(),
        ));
        talk.expect("mosquitto version ")
    };
    assert_eq!(seen(1, "#"), seen(1, "#"));
    assert_ne!(seen(1, "#"), seen(2, "#"));
    assert!(!seen(1, "#").contains("uptime"));
    assert!(seen(1, "$SYS/#").contains("$SYS/broker/uptime"));
}

#[test]
fn rubbish_and_promises_too_large_end_the_connection_and_nothing_else() {
    let mut decoy = Decoy::start("mqtt");
    let too_large = [0x10, 0xff, 0xff, 0xff, 0x7f];
    for sent in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 300],
        &[0; 16],
        &too_large,
        &packet(0x30, b"\0\x01a"),
    ] {
        let mut talk = decoy.connect();
        talk.send(sent);
        talk.rest();
    }
    decoy.event("garbage", |event| {
        event["decnet"]["payload"].as_str().unwrap().starts_with("GET /")
    });
    decoy.event("garbage", |event| event["event"]["reason"] == "PacketTooLarge");
    enter(&mut decoy.connect());
    assert!(decoy.is_running());
}

#[test]
fn filters_beyond_the_cap_are_refused_one_by_one() {
    let decoy = Decoy::start("mqtt");
    let mut talk = decoy.connect();
    enter(&mut talk);
    for index in 0..70u8 {
        talk.send(packet(
            0x82,
            &[&[0, 1][..], &text(&format!("f/{index}")), &[0]].concat(),
        ));
        let answer = talk.bytes(5);
        assert_eq!(answer[4], if index < 64 { 0 } else { 0x80 }, "filter {index}");
    }
}
