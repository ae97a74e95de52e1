//! Deckies, hosts, operations, the master itself.

use std::sync::{Arc, Mutex};

use decnet_wire::ids::DeckyName;
use decnet_wire::report::Outcome;
use serde_json::Value;

use super::{Running, while_agent};
use crate::cli::{Command, Console, parse, run};
use crate::serve::operator::testing::FLEET;

#[tokio::test]
async fn deckies_are_shown_mutated_and_removed() {
    let running = Running::start().await;
    let host = running.master.enrol("edge-01");
    let good = |_: &DeckyName| Outcome::Succeeded;
    while_agent(&running, host, &["deploy", "-", "--wait"], FLEET, good)
        .await
        .ok();

    let output = running.decnet(&["decky", "show", "web"]).await.ok();
    assert!(
        output.out.contains("edge-01") && output.out.contains("ssh"),
        "{output:?}"
    );
    running.decnet(&["decky", "show", "nobody"]).await.failed(4);
    let output = while_agent(&running, host, &["decky", "mutate", "web", "--wait"], "", good)
        .await
        .ok();
    assert!(output.out.contains("web  mutate  succeeded"), "{output:?}");
    running.decnet(&["decky", "mutate", "nobody"]).await.failed(4);

    let output = running.decnet(&["decky", "interval", "web", "12d"]).await.ok();
    assert_eq!(output.out, "web mutates: 17280m\n");
    running
        .decnet(&["decky", "interval", "web", "soon"])
        .await
        .failed(4);

    let output = running.decnet(&["decky", "rm", "web", "--json"]).await.ok();
    let id = output.json()["lifecycle_ids"][0].as_str().unwrap().to_owned();
    let output = while_agent(&running, host, &["lifecycle", "watch", &id], "", good)
        .await
        .ok();
    assert!(output.out.contains("web  teardown  succeeded"), "{output:?}");
    let output = while_agent(&running, host, &["decky", "rm", "--all", "--wait"], "", good)
        .await
        .ok();
    assert!(output.out.contains("printer  teardown"), "{output:?}");
}

#[tokio::test]
async fn hosts_are_invited_and_shown_by_name_and_id() {
    let running = Running::start().await;
    let output = running
        .decnet(&["host", "enroll", "edge-09", "--ipvlan", "--ttl", "90s"])
        .await
        .ok();
    assert!(
        output.out.starts_with("decnet-agent enroll decnet1."),
        "{output:?}"
    );
    assert_eq!(output.out.lines().count(), 1, "{output:?}");
    let id = running.master.enrol("edge-01");
    running.decnet(&["host", "enroll", "edge-01"]).await.failed(4);
    let output = running.decnet(&["host", "ls"]).await.ok();
    assert!(
        output.out.contains("edge-09") && output.out.contains("invited"),
        "{output:?}"
    );
    for name in ["edge-01", &id.to_string()] {
        assert_eq!(
            running
                .decnet(&["host", "show", name, "--json"])
                .await
                .ok()
                .json()["name"],
            "edge-01"
        );
    }
    running.decnet(&["host", "show", "edge-77"]).await.failed(4);
}

#[tokio::test]
async fn a_hosts_driver_mode_and_interface_change_and_what_is_not_given_stays() {
    let running = Running::start().await;
    running.master.enrol("edge-01");
    let wrong = [
        "host", "network", "edge-01", "--driver", "macvlan", "--mode", "l3",
    ];
    let wrong = running.decnet(&wrong).await.failed(4);
    assert!(wrong.err.contains("l3 is a mode of ipvlan"), "{wrong:?}");
    for (flags, said) in [
        (
            &["--driver", "ipvlan", "--interface", "eth1.30"][..],
            "edge-01: ipvlan, mode l2\n",
        ),
        (&["--mode", "l3"], "edge-01: ipvlan, mode l3\n"),
        (&["--interface", "eth2"], "edge-01: ipvlan, mode l3\n"),
        (&["--driver", "macvlan"], "edge-01: macvlan, mode bridge\n"),
    ] {
        let output = running
            .decnet(&[&["host", "network", "edge-01"], flags].concat())
            .await
            .ok();
        assert_eq!(output.out, said);
    }
    let output = running.decnet(&["host", "show", "edge-01"]).await.ok();
    assert!(
        output.out.contains("macvlan, mode bridge") && output.out.contains("eth2"),
        "{output:?}"
    );
}

#[tokio::test]
async fn operations_are_listed_shown_and_streamed() {
    let running = Running::start().await;
    running.master.enrol("edge-01");
    let output = running.decnet_with(&["deploy", "-", "--json"], FLEET).await.ok();
    let id = output.json()["lifecycle_ids"][0].as_str().unwrap().to_owned();
    let output = running
        .decnet(&["lifecycle", "ls", "--open", "--host", "edge-01"])
        .await
        .ok();
    assert!(
        output.out.contains(&id) && output.out.contains("edge-01"),
        "{output:?}"
    );
    let output = running.decnet(&["lifecycle", "show", &id]).await.ok();
    assert!(output.out.contains("pending"), "{output:?}");
    let unknown = "0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11";
    running.decnet(&["lifecycle", "show", unknown]).await.failed(4);
    running.decnet(&["lifecycle", "watch", unknown]).await.failed(4);

    // Printed as it comes; ends, as not reachable, when the master goes.
    let lines = Lines::default();
    let (mut out, mut err) = (lines.clone(), Vec::new());
    let socket = running.socket.to_str().unwrap();
    let args = ["decnet", "lifecycle", "watch", "--json", "--socket", socket];
    let Command::Admin(command) = parse(args).unwrap().command else {
        panic!()
    };
    let mut console = Console {
        input: &mut std::io::empty(),
        out: &mut out,
        err: &mut err,
        terminal: false,
        asks: false,
        json: false,
    };
    let watched = async {
        while lines.text().is_empty() {
            running.decnet(&["decky", "mutate", "web"]).await.ok();
        }
    };
    tokio::select! {
        code = run(&command, &mut console) => panic!("ended with {code}"),
        () = watched => {}
    }
    let text = lines.text();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["decky_name"], &first["operation"].is_string()),
        (&Value::from("web"), &true)
    );
}

/// An output that can be read while it is written.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn status_health_limit_token_and_catalogue() {
    let running = Running::start().await;
    running.master.enrol("edge-01");
    let output = running.decnet(&["status"]).await.ok();
    assert!(output.out.contains("swarm (1 enrolled host)"), "{output:?}");
    let json = running.decnet(&["status", "--json"]).await.ok().json();
    assert_eq!(json["hosts"][0]["name"], "edge-01");
    let output = running.decnet(&["system", "health"]).await.ok();
    assert!(output.out.starts_with("degraded\n"), "{output:?}");
    assert_eq!(running.decnet(&["system", "limit"]).await.ok().out, "10\n");
    running.decnet(&["system", "limit", "50"]).await.ok();
    assert_eq!(
        running.decnet(&["system", "limit", "--json"]).await.ok().json()["deployment_limit"],
        50
    );
    let output = running
        .decnet(&["token", "create", "dash", "--role", "viewer"])
        .await
        .ok();
    let token = output.out.trim().to_owned();
    assert!(token.starts_with("decnet_"), "{output:?}");
    let file = running.file("dash", &token);
    running
        .decnet(&["host", "ls", "--token-file", &file])
        .await
        .failed(5);
    assert!(running.decnet(&["services"]).await.ok().out.contains("ssh"));
    assert!(
        running
            .decnet(&["archetypes"])
            .await
            .ok()
            .out
            .contains("web-server")
    );
    assert!(running.decnet(&["distros"]).await.ok().out.contains("debian"));
}
