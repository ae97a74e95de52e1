//! PostgreSQL: the password asked for in clear text, captured and refused.

use crate::decoy::{Decoy, Start, Talk};

const TLS_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

fn request(code: u32, parameters: &[&str]) -> Vec<u8> {
    let mut body = code.to_be_bytes().to_vec();
    for text in parameters {
        body.extend(text.as_bytes());
        body.push(0);
    }
    if !parameters.is_empty() {
        body.push(0);
    }
    [&u32::try_from(body.len() + 4).unwrap().to_be_bytes(), &body[..]].concat()
}

fn startup(user: &str) -> Vec<u8> {
    request(
        3 << 16,
        &["user", user, "database", "prod", "application_name", "psql"],
    )
}

fn password(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len() + 5).unwrap().to_be_bytes();
    [b"p", &length[..], text, b"\0"].concat()
}

/// The fields of an error message, by letter.
fn error(answer: &[u8]) -> Vec<(char, String)> {
    assert_eq!(answer.first(), Some(&b'E'), "{answer:?}");
    let fields = answer[5..]
        .split(|byte| *byte == 0)
        .filter(|field| !field.is_empty());
    fields
        .map(|field| {
            (
                char::from(field[0]),
                String::from_utf8_lossy(&field[1..]).into_owned(),
            )
        })
        .collect()
}

fn ask_for_password(talk: &mut Talk, user: &str) {
    talk.send(startup(user));
    assert_eq!(talk.bytes(9), b"R\0\0\0\x08\0\0\0\x03");
}

#[test]
fn a_password_is_captured_and_refused_as_a_server_refuses() {
    let decoy = Decoy::start("postgres");
    let mut talk = decoy.connect();
    for code in [TLS_REQUEST, GSS_REQUEST] {
        talk.send(request(code, &[]));
        assert_eq!(talk.bytes(1), b"N");
    }
    ask_for_password(&mut talk, "admin");
    talk.send(password(b"hunter2"));
    let fields = error(&talk.rest());
    assert_eq!(
        fields[..3],
        [
            ('S', "FATAL".into()),
            ('V', "FATAL".into()),
            ('C', "28P01".into())
        ]
    );
    assert_eq!(
        fields[3],
        ('M', "password authentication failed for user \"admin\"".into())
    );

    let event = decoy.login("admin", "hunter2");
    assert_eq!(event["decnet"]["postgres"]["database"], "prod");
    assert_eq!(event["decnet"]["postgres"]["application"], "psql");
    assert_eq!(event["event"]["outcome"], "failure");
    assert_eq!(decoy.events("encryption_request").len(), 2);
}

#[test]
fn a_visitor_that_hangs_up_at_the_prompt_is_logged_too() {
    let decoy = Decoy::start("postgres");
    let mut talk = decoy.connect();
    ask_for_password(&mut talk, "scout");
    drop(talk);
    let event = decoy.event("login", |event| event["user"]["name"] == "scout");
    assert!(event["decnet"].get("password").is_none());
}

#[test]
fn another_protocol_version_is_refused_in_the_servers_words() {
    let decoy = Decoy::start("postgres");
    let mut talk = decoy.connect();
    talk.send(request(2 << 16 | 5, &["user", "x"]));
    let fields = error(&talk.rest());
    assert_eq!(fields[2], ('C', "0A000".into()));
    assert!(
        fields[3]
            .1
            .starts_with("unsupported frontend protocol 2.5: server supports "),
        "{fields:?}"
    );

    let mut talk = decoy.connect();
    talk.send(request(3 << 16, &["database", "x"]));
    assert_eq!(error(&talk.rest())[2], ('C', "28000".into()));

    // A newer minor version is negotiated down, then goes on.
    let mut talk = decoy.connect();
    talk.send(request(3 << 16 | 2, &["user", "new"]));
    assert_eq!(talk.bytes(13), b"v\0\0\0\x0c\0\0\0\0\0\0\0\0");
    assert_eq!(talk.bytes(1), b"R");
}

#[test]
fn rubbish_and_promises_too_large_end_the_connection_and_nothing_else() {
    let mut decoy = Decoy::start("postgres");
    for sent in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &[0, 0, 0, 1, 0, 3, 0, 0],
        &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
    ] {
        let mut talk = decoy.connect();
        talk.send(sent);
        talk.rest();
    }
    let mut talk = decoy.connect();
    ask_for_password(&mut talk, "root");
    talk.send([b'p', 0x7f, 0xff, 0xff, 0xff]);
    talk.send(vec![b'x'; 40_000]);
    talk.rest();
    // A length shorter than itself once made the codec subtract below zero.
    let mut talk = decoy.connect();
    ask_for_password(&mut talk, "root");
    talk.send(b"p\0\0\0\x03abc");
    talk.rest();
    decoy.event("garbage", |event| event["decnet"]["payload"] == "p\0\0\0\u{3}abc");
    decoy.event("garbage", |event| {
        event["decnet"]["payload"].as_str().unwrap().starts_with("GET /")
    });
    ask_for_password(&mut decoy.connect(), "again");
    assert!(decoy.is_running());
}

#[test]
fn bytes_that_are_no_text_are_kept_as_far_as_json_can() {
    let decoy = Decoy::start("postgres");
    let mut talk = decoy.connect();
    ask_for_password(&mut talk, "root");
    talk.send(password(b"p\xffw"));
    talk.rest();
    decoy.login("root", "p\u{fffd}w");
}

#[test]
fn the_seed_chooses_the_release() {
    let line = |seed| {
        let decoy = Start::new("postgres")
            .with("DECNET_DISTRO", "ubuntu22")
            .seed(seed)
            .run();
        let mut talk = decoy.connect();
        ask_for_password(&mut talk, "u");
        talk.send(password(b"p"));
        error(&talk.rest())
            .into_iter()
            .find(|(field, _)| *field == 'L')
            .unwrap()
            .1
    };
    assert_eq!(line(3), line(3));
    let all: std::collections::BTreeSet<String> = (1..12).map(line).collect();
    assert!(all.len() > 1, "{all:?}");
}

/// Scanners take the release from the line that refuses their probe; numbers of no release named a fraud.
#[test]
fn a_scanners_probe_is_refused_on_a_line_of_a_real_release() {
    for (family, distro, file, lines) in [
        ("linux", "debian", "postmaster.c", &["2194"][..]),
        ("linux", "ubuntu20", "postmaster.c", &["2119", "2133", "2138"]),
        (
            "windows_server",
            "debian",
            ".\\src\\backend\\postmaster\\postmaster.c",
            &["2133", "2138", "2194"],
        ),
    ] {
        let decoy = Start::new("postgres")
            .with("DECNET_OS_FAMILY", family)
            .with("DECNET_DISTRO", distro)
            .run();
        let mut talk = decoy.connect();
        // The negotiation of SMB, as it stands after a length that PostgreSQL would take.
        talk.send([&[0, 0, 0, 0xa4][..], b"\xffSMBr\0\0\0"].concat());
        let fields = error(&talk.rest());
        let field = |letter| {
            fields
                .iter()
                .find(|(known, _)| *known == letter)
                .unwrap()
                .1
                .as_str()
        };
        assert_eq!((field('C'), field('F')), ("0A000", file));
        assert!(lines.contains(&field('L')), "{fields:?}");
        assert!(
            field('M').starts_with("unsupported frontend protocol 65363.19778"),
            "{fields:?}"
        );
    }
}
