//! What holds for the process as a whole, and for every service.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::decoy::{BINARY, Decoy, PATIENCE, Start, from_address};

/// Every TCP service there is.
fn tcp_services() -> Vec<&'static str> {
    let table = decnet_decoy::services::TABLE.iter();
    table
        .map(|service| service.slug)
        .filter(|slug| *slug != "snmp")
        .collect()
}

fn refusal(start: &Start) -> (Option<i32>, String) {
    let output = start.command().output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_damaged_environment_is_named_in_one_line_and_exits_2() {
    for (name, value, complaint) in [
        ("DECNET_SEED", "", "DECNET_SEED is not set"),
        ("DECNET_SEED", "abc", "64 hexadecimal characters"),
        (
            "DECNET_OS_FAMILY",
            "beos",
            "DECNET_OS_FAMILY is not linux, windows",
        ),
        ("DECNET_DISTRO", "slackware", "DECNET_DISTRO is not debian"),
        ("DECNET_PERSONA", "[1]", "DECNET_PERSONA"),
        ("DECNET_PERSONA", r#"{"password":7}"#, "DECNET_PERSONA"),
        ("DECNET_PORT", "99999", "DECNET_PORT"),
        ("DECNET_NODE", "", "DECNET_NODE"),
    ] {
        let (code, stderr) = refusal(&Start::new("telnet").with(name, value));
        assert_eq!(code, Some(2), "{name}={value}: {stderr}");
        assert!(stderr.contains(complaint), "{name}={value}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(
            !stderr.contains("abc"),
            "the value of a secret is shown: {stderr}"
        );
    }
}

#[test]
fn an_unknown_service_exits_2_and_names_the_known_ones() {
    let (code, stderr) = refusal(&Start::new("gopher"));
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("\"gopher\"") && stderr.contains("telnet"),
        "{stderr}"
    );
}

#[test]
fn a_taken_port_exits_1_at_once() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, stderr) = refusal(&Start::new("telnet").with("DECNET_PORT", &port));
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&port) && stderr.contains("in use"), "{stderr}");
}

#[test]
fn every_service_ends_promptly_on_sigterm_with_a_visitor_connected() {
    for slug in tcp_services() {
        let decoy = Decoy::start(slug);
        let _visitor = decoy.connect();
        decoy.event("connection", |event| event["event"]["outcome"] == "success");
        let (status, took) = decoy.stop();
        assert!(status.success(), "{slug}: {status}");
        assert!(took < Duration::from_secs(1), "{slug} took {took:?}");
    }
}

#[test]
fn rubbish_and_half_open_connections_do_not_end_a_service() {
    let rubbish: Vec<u8> = (0..40_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for slug in tcp_services() {
        let mut decoy = Decoy::start(slug);
        let _half_open = decoy.connect();
        for chunk in [
            &rubbish[..],
            &[0; 5000],
            &[b'\n'; 300],
            &[0xff; 300],
            &[b'A'; 200_000],
            b"\r\n\r\n",
        ] {
            // The decoy may close while it is being written to.
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", decoy.port)).unwrap();
            stream
                .set_write_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            let _ = stream.write_all(chunk);
        }
        drop(decoy.connect());
        let deadline = Instant::now() + PATIENCE;
        while decoy.events("connection").len() < 8 {
            assert!(
                Instant::now() < deadline,
                "{slug}: {:?}",
                decoy.events("connection").len()
            );
            std::thread::yield_now();
        }
        assert!(decoy.is_running(), "{slug} ended");
        let _still_served = decoy.connect();
    }
}

/// One address that held every connection and sent nothing shut out everybody else for two minutes.
#[test]
fn whoever_holds_all_connections_makes_room_for_others() {
    let decoy = Decoy::start("telnet");
    let mut first = decoy.connect();
    first.expect("login: ");
    let _others: Vec<_> = (0..63).map(|_| decoy.connect()).collect();
    let deadline = Instant::now() + PATIENCE;
    while decoy.events("connection").len() < 64 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let mut strangers: Vec<_> = (2..5)
        .map(|last| from_address([127, 0, 0, last], decoy.port))
        .collect();
    for stranger in &mut strangers {
        stranger.expect("login: ");
    }
    // The oldest of the address with most has gone, and none of the newcomers.
    first.rest();
    let ended = decoy.event("disconnect", |_| true);
    assert_eq!(ended["event"]["reason"], "made room for another");
    assert_eq!(ended["source"]["ip"], "127.0.0.1");
    for stranger in &mut strangers {
        stranger.send("root\r\n");
        stranger.expect("Password: ");
    }
    let count = decoy.events("disconnect").len();
    assert_eq!(count, 3, "as many as came too many");
}

/// Resident memory in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// 500 visitors who say nothing, or one byte and no more, neither fill the container's 64 MiB nor keep others out.
#[test]
fn silent_crowds_fit_the_containers_memory_and_shut_nobody_out() {
    for slug in tcp_services() {
        let decoy = Decoy::start(slug);
        let mut crowd = Vec::new();
        for number in 0..500_u32 {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", decoy.port)).unwrap();
            if number % 2 == 0 {
                // What every protocol here may begin with, or not: the rest never comes.
                let _ = stream.write_all(b"S");
            }
            crowd.push(stream);
        }
        let mut stranger = from_address([127, 0, 0, 2], decoy.port);
        // Where the visitor speaks first, something that is answered.
        match slug {
            "http" | "https" | "redis" => stranger.send("HELP ME\r\n\r\n"),
            "mqtt" => stranger.send(b"\x10\x0e\0\x04MQTT\x04\x02\0\x3c\0\x02me"),
            "postgres" => stranger.send([0, 0, 0, 8, 4, 210, 22, 47]),
            _ => {}
        }
        assert!(!stranger.bytes(1).is_empty(), "{slug}");
        let resident = resident(decoy.pid());
        assert!(resident < 48 * 1024, "{slug}: {resident} KiB");
    }
}

#[test]
fn events_say_who_where_and_which_decoy() {
    let decoy = Decoy::start("telnet");
    drop(decoy.connect());
    let opened = decoy.event("connection", |_| true);
    let closed = decoy.event("disconnect", |_| true);
    assert_eq!(opened["source"]["ip"], "127.0.0.1");
    assert_eq!(opened["destination"]["port"], decoy.port);
    assert_eq!(opened["network"]["transport"], "tcp");
    assert_eq!(opened["network"]["protocol"], "telnet");
    assert_eq!(opened["host"]["name"], "SRV-MAIL-42");
    assert_eq!(opened["observer"]["name"], "node-1");
    assert_eq!(opened["event"]["dataset"], "decnet.telnet");
    assert_eq!(opened["decnet"]["session"], closed["decnet"]["session"]);
    assert!(closed["event"]["duration"].as_u64().unwrap() > 0);
}

#[test]
fn pause_ends_promptly_on_either_signal() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut child = Command::new(BINARY)
            .arg("pause")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        // Until it waits, a signal ends the process by default, which would prove nothing. It sleeps
        // (state S) only where it waits.
        let deadline = Instant::now() + PATIENCE;
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        while !(read("cmdline").ends_with("\0pause\0") && read("status").contains("State:\tS")) {
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("pause does not wait for signals");
            }
            std::thread::yield_now();
        }
        let begun = Instant::now();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
