//! What holds for the process as a whole, and for every service.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::decoy::{BINARY, Decoy, PATIENCE, Start};

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

#[test]
fn the_65th_visitor_is_turned_away_and_a_place_that_falls_free_is_given_again() {
    let decoy = Decoy::start("telnet");
    let mut visitors: Vec<_> = (0..64).map(|_| decoy.connect()).collect();
    for visitor in &mut visitors {
        visitor.expect("login: ");
    }
    assert_eq!(decoy.connect().rest(), b"");
    let refused = decoy.event("connection", |event| event["event"]["outcome"] == "failure");
    assert_eq!(refused["event"]["reason"], "too many connections");

    visitors.pop();
    decoy.event("disconnect", |_| true);
    decoy.connect().expect("login: ");
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
