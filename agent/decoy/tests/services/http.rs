use serde_json::json;

use crate::decoy::{Decoy, Start};

/// Sends a whole request and returns the whole answer.
fn ask(decoy: &Decoy, request: &str) -> String {
    let mut visitor = decoy.connect();
    visitor.send(request);
    String::from_utf8(visitor.rest()).unwrap()
}

fn get(decoy: &Decoy, path: &str) -> String {
    ask(
        decoy,
        &format!("GET {path} HTTP/1.1\r\nHost: h\r\nUser-Agent: probe/1\r\nConnection: close\r\n\r\n"),
    )
}

fn post(decoy: &Decoy, path: &str, body: &str) -> String {
    let length = body.len();
    ask(
        decoy,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        ),
    )
}

#[test]
fn without_a_persona_it_refuses_like_the_distributions_server_and_logs_the_request() {
    let decoy = Decoy::start("http");
    let answer = get(&decoy, "/secret?x=1");
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(
        answer.contains("\r\nServer: Apache/2.4.") || answer.contains("\r\nServer: nginx/1.22.1"),
        "{answer}"
    );
    let event = decoy.event("request", |_| true);
    assert_eq!(event["http"]["request"]["method"], "GET");
    assert_eq!(event["http"]["response"]["status_code"], 403);
    assert_eq!(
        event["url"],
        json!({"path": "/secret", "query": "x=1", "domain": "h"})
    );
    assert_eq!(event["user_agent"]["original"], "probe/1");
}

#[test]
fn the_persona_decides_status_headers_and_body() {
    for extra in [
        json!("X-One: 1\nX-Two: 2"),
        json!("{\"X-One\":\"1\",\"X-Two\":2}"),
        json!({"X-One": "1", "X-Two": "2"}),
    ] {
        let persona = json!({
            "server_header": "Acme/1", "response_code": 418, "custom_body": "<b>hi</b>", "extra_headers": extra,
            "fake_app": "none",
        });
        let answer = get(&Start::new("http").persona(&persona).run(), "/any");
        assert!(answer.starts_with("HTTP/1.1 418 "), "{answer}");
        for part in [
            "\r\nServer: Acme/1\r\n",
            "\r\nX-One: 1\r\n",
            "\r\nX-Two: 2\r\n",
            "\r\n\r\n<b>hi</b>",
        ] {
            assert!(answer.contains(part), "{part:?} in {answer}");
        }
    }
}

#[test]
fn login_forms_and_basic_credentials_are_captured() {
    let wordpress = Start::new("http")
        .persona(&json!({"fake_app": "wordpress"}))
        .run();
    assert!(get(&wordpress, "/wp-login.php").contains("name=\"pwd\""));
    let answer = post(&wordpress, "/wp-login.php", "log=ed&pwd=p%26w+d&wp-submit=Log+In");
    assert!(answer.contains("login_error"), "{answer}");
    assert_eq!(wordpress.login("ed", "p&w d")["event"]["outcome"], "failure");
    assert!(get(&wordpress, "/nothing").starts_with("HTTP/1.1 404 "));

    let jenkins = Start::new("http").persona(&json!({"fake_app": "jenkins"})).run();
    assert!(get(&jenkins, "/").starts_with("HTTP/1.1 403 "));
    assert!(
        post(&jenkins, "/j_spring_security_check", "j_username=a&j_password=b")
            .contains("Location: /loginError")
    );
    jenkins.login("a", "b");

    let phpmyadmin = Start::new("http")
        .persona(&json!({"fake_app": "phpmyadmin"}))
        .run();
    assert!(get(&phpmyadmin, "/phpmyadmin/").contains("pma_password"));

    let tomcat = Start::new("http").persona(&json!({"fake_app": "tomcat"})).run();
    let answer = ask(
        &tomcat,
        "GET /manager/html HTTP/1.1\r\nHost: h\r\nAuthorization: Basic dG9tY2F0OnMzY3JldA==\r\nConnection: close\r\n\r\n",
    );
    assert!(
        answer.contains("401 Unauthorized") && answer.contains("Tomcat Manager Application"),
        "{answer}"
    );
    tomcat.login("tomcat", "s3cret");
}

#[test]
fn a_body_over_the_cap_is_refused_and_one_below_it_is_cut_in_the_log() {
    let decoy = Decoy::start("http");
    let answer = post(&decoy, "/", &"a".repeat(30_000));
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let event = decoy.event("request", |_| true);
    assert_eq!(event["http"]["request"]["body"]["bytes"], 30_000);
    assert_eq!(
        event["http"]["request"]["body"]["content"]
            .as_str()
            .unwrap()
            .len(),
        4096
    );
    let mut visitor = decoy.connect();
    visitor.send(format!(
        "POST /big HTTP/1.1\r\nHost: h\r\nContent-Length: 70000\r\n\r\n{}",
        "a".repeat(70_000)
    ));
    visitor.expect("HTTP/1.1 413 Payload Too Large\r\n");
}

#[test]
fn http_3_and_impossible_personas_are_refused_at_start() {
    for (persona, complaint) in [
        (json!({"http_versions": ["http/1.1", "http/3"]}), "http/3"),
        (json!({"response_code": 99}), "response_code is 99"),
        (json!({"extra_headers": "no colon here"}), "extra_headers"),
        (json!({"server_header": "a\nb"}), "server_header"),
        (json!({"fake_app": "gopher"}), "DECNET_PERSONA does not fit"),
    ] {
        let output = Start::new("http").persona(&persona).command().output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{persona}: {stderr}");
        assert!(stderr.contains(complaint), "{persona}: {stderr}");
    }
}

#[test]
fn http_2_by_prior_knowledge_is_spoken_only_where_the_persona_asks_for_it() {
    // RFC 9113 §3.4: the preface, then an empty SETTINGS frame.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let both = Start::new("http")
        .persona(&json!({"http_versions": ["http/1.1", "http/2"]}))
        .run();
    assert!(get(&both, "/").starts_with("HTTP/1.1 403 "));
    let mut visitor = both.connect();
    visitor.send(preface);
    // The type of the first frame back is SETTINGS as well.
    assert_eq!(visitor.expect("\x04").len(), 4);
    let only_1 = Decoy::start("http");
    let mut visitor = only_1.connect();
    visitor.send(preface);
    assert!(!visitor.rest().starts_with(b"\0\0"));
}

/// hyper's own answers have neither page nor `Server`, which told the decoy from any web server.
#[test]
fn what_is_no_request_is_answered_as_the_server_would() {
    let decoy = Start::new("http")
        .persona(&json!({"server_header": "Apache/2.4.57 (Debian)"}))
        .run();
    for rubbish in [
        "BLAH\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{16}\u{3}\u{1}\0\0\r\n\r\n",
    ] {
        let answer = ask(&decoy, rubbish);
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\nDate: ")
                && answer.contains("\r\nServer: Apache/2.4.57 (Debian)\r\n")
                && answer.contains("<address>Apache/2.4.57 (Debian) Server at 127.0.0.1 Port "),
            "{rubbish:?}: {answer}"
        );
    }
    decoy.event("garbage", |event| event["decnet"]["payload"] == "BLAH\r\n\r\n");
    // HTTP/0.9 has no head.
    assert!(ask(&decoy, "GET /\r\n").starts_with("<!DOCTYPE HTML"));

    let decoy = Start::new("http")
        .persona(&json!({"server_header": "nginx/1.22.1"}))
        .run();
    let answer = ask(&decoy, "BLAH\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\nServer: nginx/1.22.1\r\nDate: "),
        "{answer}"
    );
}

#[test]
fn headers_stand_in_the_servers_order() {
    for (server, order) in [
        (
            "Apache/2.4.57 (Debian)",
            ["Date", "Server", "Content-Length", "Content-Type"],
        ),
        (
            "nginx/1.22.1",
            ["Server", "Date", "Content-Type", "Content-Length"],
        ),
        (
            "Microsoft-IIS/10.0",
            ["Content-Type", "Server", "Date", "Content-Length"],
        ),
        (
            "lighttpd/1.4.35",
            ["Content-Type", "Content-Length", "Date", "Server"],
        ),
    ] {
        let decoy = Start::new("http")
            .persona(&json!({"server_header": server}))
            .run();
        let answer = get(&decoy, "/");
        let names: Vec<&str> = answer
            .lines()
            .skip(1)
            .map_while(|line| line.split_once(": ").map(|(name, _)| name))
            .filter(|name| *name != "Connection")
            .collect();
        assert_eq!(names, order, "{answer}");
    }
}

#[test]
fn a_request_without_one_host_and_a_trace_are_refused() {
    let decoy = Decoy::start("http");
    for request in [
        "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
    ] {
        assert!(ask(&decoy, request).starts_with("HTTP/1.1 400 "));
    }
    let answer = ask(&decoy, "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nAllow: "),
        "{answer}"
    );
    assert!(ask(&decoy, "GET / HTTP/1.0\r\n\r\n").contains(" 403 "));
}
