//! Enrolment: what is believed, and what a broken-off try leaves.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use decnet_agent::Agent;
use decnet_agent::config::Config;
use decnet_agent::enrol::{EnrolError, Existing, enrol, enrol_over};
use decnet_wire::ids::{Digest, Timestamp};
use tokio::process::Command;
use tokio_util::task::AbortOnDropHandle;

use crate::master::{Faults, Master, token_text};

fn state() -> (tempfile::TempDir, Config) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new(dir.path().join("agent"));
    (dir, config)
}

fn is_enrolled(config: &Config) -> bool {
    match Agent::open(config.clone()) {
        Ok(_) => true,
        Err(error) if error.is_not_enrolled() => false,
        Err(error) => panic!("{}", decnet_agent::error_chain(&error)),
    }
}

#[tokio::test]
async fn a_lost_answer_costs_a_retry_with_the_same_token() {
    let master = Master::start().await;
    let (_dir, config) = state();
    let token = token_text(&master.token());
    master.break_next(Faults {
        lost_enrol_answers: 1,
        ..Faults::default()
    });
    let error = enrol(&token, &config).await.unwrap_err();
    assert!(matches!(error, EnrolError::Ask(_)), "{error:?}");
    assert!(!is_enrolled(&config));
    let enrolled = enrol(&token, &config).await.unwrap();
    assert_eq!(enrolled.host, master.host());
    assert!(is_enrolled(&config));
    let names: Vec<_> = std::fs::read_dir(&config.state_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        !names.iter().any(|name| name.contains("enrolling")),
        "the pending key is gone: {names:?}"
    );
}

#[tokio::test]
async fn an_enrolled_host_is_not_overwritten_without_being_told_to() {
    let master = Master::start().await;
    let (_dir, config) = state();
    enrol(&token_text(&master.token()), &config).await.unwrap();
    let other = Master::start().await;
    let error = enrol(&token_text(&other.token()), &config).await.unwrap_err();
    assert!(matches!(error, EnrolError::AlreadyEnrolled { .. }), "{error:?}");
    let enrolled = enrol_over(
        &token_text(&other.token()),
        &config,
        Existing::Replace,
        &mut |_| {},
    )
    .await
    .unwrap();
    assert_eq!(enrolled.host, other.host());
    assert_eq!(Agent::open(config).unwrap().host(), other.host());
}

#[tokio::test]
async fn a_server_of_another_authority_hears_no_secret() {
    let (master, impostor) = (Master::start().await, Master::start().await);
    let (_dir, config) = state();
    let mut token = master.token();
    token.enrol_at = impostor.enrol_at.to_string();
    let error = enrol(&token_text(&token), &config).await.unwrap_err();
    assert!(decnet_agent::error_chain(&error).contains("TLS"), "{error:?}");
    assert!(!is_enrolled(&config));
}

#[tokio::test]
async fn a_trust_root_that_the_token_does_not_pin_is_not_believed() {
    let master = Master::start().await;
    let (_dir, config) = state();
    let mut token = master.token();
    token.root_pin = Digest::from_sha256([7; 32]);
    let error = enrol(&token_text(&token), &config).await.unwrap_err();
    assert!(matches!(error, EnrolError::Trust(_)), "{error:?}");
    assert!(!is_enrolled(&config));
}

#[tokio::test]
async fn an_expired_or_mangled_token_is_refused_before_anybody_is_asked() {
    let master = Master::start().await;
    let (_dir, config) = state();
    let mut token = master.token();
    let text = token_text(&token);
    token.expires_at = Timestamp::new(time::OffsetDateTime::UNIX_EPOCH);
    let error = enrol(&token_text(&token), &config).await.unwrap_err();
    assert!(matches!(error, EnrolError::Expired(_)), "{error:?}");
    for bad in [
        "",
        "decnet2.abc",
        "decnet1.",
        &text[..text.len() - 5],
        &format!("{text}!"),
    ] {
        let error = enrol(bad, &config).await.unwrap_err();
        assert!(matches!(error, EnrolError::Token { .. }), "{bad}: {error:?}");
    }
    assert!(!config.state_dir.exists(), "nothing was touched");
}

#[tokio::test]
async fn a_spent_token_is_refused_with_the_masters_own_words() {
    let master = Master::start().await;
    let token = token_text(&master.token());
    let (_dir, first) = state();
    enrol(&token, &first).await.unwrap();
    let (_dir, second) = state();
    let error = enrol(&token, &second).await.unwrap_err();
    assert!(
        decnet_agent::error_chain(&error).contains("the token is spent"),
        "{error:?}"
    );
}

/// The program, with a state folder and settings of its own and no engine.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        std::fs::write(host.settings(), "[agent]\nrelist = 30\n").unwrap();
        host
    }

    fn settings(&self) -> PathBuf {
        self.0.path().join("decnet.ini")
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("agent")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_decnet-agent"));
        command.arg("--state-dir").arg(self.state());
        command.arg("--config").arg(self.settings());
        command.arg("--docker-socket").arg(self.0.path().join("none"));
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs it to its end; gives the exit code and what it said.
    async fn run(&self, arguments: &[&str], token: &str) -> (Option<i32>, String) {
        let file = self.0.path().join("given");
        std::fs::write(&file, token).unwrap();
        let input = std::fs::File::open(file).unwrap();
        let output = self.command(arguments).stdin(input).output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    fn says(&self) -> String {
        std::fs::read_to_string(self.settings()).unwrap()
    }

    /// What is left in the state folder of an enrolment.
    fn pending(&self) -> Vec<String> {
        std::fs::read_dir(self.state())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("enrolling"))
            .collect()
    }
}

/// An address where nobody listens, until a master does.
fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

async fn forward(from: SocketAddr, to: SocketAddr) {
    let listener = tokio::net::TcpListener::bind(from).await.unwrap();
    loop {
        let (mut one, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut other = tokio::net::TcpStream::connect(to).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut one, &mut other).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_kept_is_used_as_soon_as_the_master_is_there() {
    let master = Master::start().await;
    let (host, at) = (Host::new(), nowhere());
    let mut token = master.token();
    token.enrol_at = at.to_string();
    let (code, said) = host
        .run(
            &["enroll", "-", "--later", "--ipvlan", "--updater"],
            &token_text(&token),
        )
        .await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        host.says().contains("ipvlan = true\nupdater = true\nrelist = 30"),
        "{}",
        host.says()
    );
    assert_eq!(host.pending(), ["enrolling.token"]);
    let mode = host
        .state()
        .join("enrolling.token")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let log = std::fs::File::create(host.0.path().join("log")).unwrap();
    let mut agent = host.command(&["run"]).stderr(log).spawn().unwrap();
    let waits = async {
        while !std::fs::read_to_string(host.0.path().join("log"))
            .unwrap()
            .contains("is not enrolled yet")
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waits)
        .await
        .unwrap();
    let (code, said) = host.run(&["status"], "").await;
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains("not enrolled yet") && said.contains(&at.to_string()),
        "{said}"
    );

    let _reached = AbortOnDropHandle::new(tokio::spawn(forward(at, master.enrol_at)));
    let enrolled = async {
        while !host.pending().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), enrolled)
        .await
        .unwrap();
    master.publish(&master.bundle(1));
    let (code, said) = host.run(&["status", "--wait", "60"], "").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("generation 1"), "{said}");
    // Whoever runs the file once more has what he asked for; now the master's word on the driver is known.
    let (code, said) = host
        .run(
            &["enroll", "-", "--later", "--ipvlan", "--updater=false"],
            &token_text(&token),
        )
        .await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("enrolled already as"), "{said}");
    assert!(
        host.says().contains("ipvlan = false\nupdater = false\n"),
        "{}",
        host.says()
    );
    assert!(host.pending().is_empty());
    agent.kill().await.unwrap();
}

#[tokio::test]
async fn a_kept_token_that_the_master_refuses_is_forgotten_and_an_impostor_changes_nothing() {
    let (master, impostor) = (Master::start().await, Master::start().await);
    let (_dir, other) = state();
    let mut token = master.token();
    enrol(&token_text(&token), &other).await.unwrap();
    let host = Host::new();
    let (code, said) = host.run(&["enroll", "-", "--later"], &token_text(&token)).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(host.says(), "[agent]\nrelist = 30\n", "nobody asked for settings");
    let (code, said) = host.run(&["run"], "").await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("the token is spent"), "{said}");
    assert!(
        !host.pending().contains(&"enrolling.token".to_owned()),
        "{:?}",
        host.pending()
    );

    token.enrol_at = impostor.enrol_at.to_string();
    host.run(&["enroll", "-", "--later"], &token_text(&token)).await;
    let log = std::fs::File::create(host.0.path().join("log")).unwrap();
    let mut agent = host.command(&["run"]).stderr(log).spawn().unwrap();
    let tries = async {
        let said = || std::fs::read_to_string(host.0.path().join("log")).unwrap();
        while said().matches("is not enrolled yet").count() < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), tries)
        .await
        .unwrap();
    assert_eq!(agent.try_wait().unwrap(), None, "it goes on trying");
    assert!(host.pending().contains(&"enrolling.token".to_owned()));
    agent.kill().await.unwrap();
}

#[tokio::test]
async fn a_wait_for_the_master_ends_and_says_what_is_missing() {
    let master = Master::start().await;
    let host = Host::new();
    let (code, said) = host.run(&["status", "--wait", "0"], "").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no agent runs here"), "{said}");
    host.run(&["enroll", "-"], &token_text(&master.token())).await;
    let mut agent = host.command(&["run"]).stderr(Stdio::null()).spawn().unwrap();
    // It is heard, and has no bundle.
    let missing = async {
        loop {
            let (code, said) = host.run(&["status", "--wait", "0"], "").await;
            assert_eq!(code, Some(1), "{said}");
            if said.contains("no bundle was accepted yet") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), missing)
        .await
        .unwrap();
    master.publish(&master.bundle(1));
    let (code, said) = host.run(&["status", "--wait", "30"], "").await;
    assert_eq!(code, Some(0), "{said}");
    agent.kill().await.unwrap();
}
