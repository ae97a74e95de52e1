use serde_json::json;

use crate::decoy::{Decoy, Start};

#[test]
fn the_personas_credentials_open_a_shell_and_every_command_is_logged() {
    let persona = json!({"password": "s3cret", "user": "dev", "user_password": "dev1", "hostname": "web01"});
    let decoy = Start::new("telnet").persona(&persona).run();
    let mut visitor = decoy.connect();
    visitor.expect("Debian GNU/Linux 12\r\nweb01 login: ");
    visitor.send("root\r\n");
    visitor.expect("Password: ");
    visitor.send("wrong\r\n");
    visitor.expect("Login incorrect\r\n");
    visitor.expect("web01 login: ");
    visitor.send("dev\r\0");
    visitor.expect("Password: ");
    let echoed = visitor.ask("dev1", "dev@web01:~$ ");
    assert!(!echoed.contains("dev1"), "the password is echoed: {echoed}");
    let answer = visitor.ask("whoami", "$ ");
    assert!(answer.starts_with("whoami\r\ndev\r\n"), "{answer}");
    visitor.send("exit\n");
    visitor.rest();

    assert_eq!(decoy.login("root", "wrong")["event"]["outcome"], "failure");
    assert_eq!(decoy.login("dev", "dev1")["event"]["outcome"], "success");
    decoy.event("command", |event| event["process"]["command_line"] == "whoami");
    decoy.event("disconnect", |_| true);
}

#[test]
fn an_oversized_line_is_cut_in_the_log_and_the_shell_goes_on() {
    let decoy = Decoy::start("telnet");
    let mut visitor = decoy.connect();
    visitor.expect("login: ");
    visitor.send("root\r\nadmin\r\n");
    visitor.expect("# ");
    visitor.send("x".repeat(50_000));
    visitor.ask("", "# ");
    let event = decoy.event("command", |_| true);
    assert_eq!(event["process"]["command_line"].as_str().unwrap().len(), 4096);
    assert!(visitor.ask("hostname", "# ").contains("SRV-MAIL-42"));
}

/// One list of offers for every machine was no known server's, and scanners said so.
#[test]
fn the_first_offers_are_those_of_the_familys_server() {
    for (family, first) in [
        ("linux", &b"\xff\xfd\x18\xff\xfd\x20\xff\xfd\x23\xff\xfd\x27"[..]),
        ("bsd", b"\xff\xfd\x25"),
        (
            "cisco",
            b"\xff\xfb\x01\xff\xfb\x03\xff\xfd\x18\xff\xfd\x1f\r\n\r\nUser Access",
        ),
        (
            "windows",
            b"\xff\xfd\x25\xff\xfb\x01\xff\xfb\x03\xff\xfd\x27\xff\xfd\x1f\xff\xfd\x00\xff\xfb\x00",
        ),
        ("embedded", b"\xff\xfd\x01\xff\xfd\x1f\xff\xfb\x01\xff\xfb\x03"),
    ] {
        let decoy = Start::new("telnet").with("DECNET_OS_FAMILY", family).run();
        let mut visitor = decoy.connect();
        assert_eq!(visitor.bytes(first.len()), first, "{family}");
        // Who answers gets the prompt at once, who does not a moment later.
        if matches!(family, "linux" | "bsd") {
            visitor.send(b"\xff\xfc\x18");
        }
        visitor.expect(": ");
    }
}
