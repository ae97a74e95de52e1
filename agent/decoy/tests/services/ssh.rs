use std::sync::Arc;

use russh::client::{self, AuthResult, KeyboardInteractiveAuthResponse};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{ChannelMsg, Disconnect, MethodKind};
use serde_json::json;

use crate::decoy::{Decoy, Start};

/// A client that trusts any host key and remembers it.
#[derive(Default)]
pub(crate) struct Client {
    seen: Arc<std::sync::Mutex<Option<String>>>,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        *self.seen.lock().unwrap() = Some(key.public_key().fingerprint(HashAlg::Sha256).to_string());
        Ok(true)
    }
}

pub(crate) async fn connect(decoy: &Decoy) -> (client::Handle<Client>, String) {
    let client = Client::default();
    let seen = Arc::clone(&client.seen);
    let handle = client::connect(Arc::default(), ("127.0.0.1", decoy.port), client)
        .await
        .unwrap();
    let fingerprint = seen.lock().unwrap().clone().unwrap();
    (handle, fingerprint)
}

/// Output and exit status of an exec request.
async fn exec(handle: &client::Handle<Client>, command: &str) -> (String, Option<u32>) {
    let channel = handle.channel_open_session().await.unwrap();
    channel.exec(true, command).await.unwrap();
    drain(channel).await
}

/// What a channel says until it is closed, and its exit status.
async fn drain(mut channel: russh::Channel<client::Msg>) -> (String, Option<u32>) {
    let (mut output, mut status) = (Vec::new(), None);
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => output.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
            _ => {}
        }
    }
    (String::from_utf8(output).unwrap(), status)
}

// Waiting for an event blocks the thread, and the client's own task has to go on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_personas_password_opens_exec_and_shell_and_everything_is_logged() {
    let decoy = Start::new("ssh")
        .persona(&json!({"password": "t0p", "user": ""}))
        .run();
    let (mut handle, _) = connect(&decoy).await;
    assert!(
        !handle
            .authenticate_password("root", "guess")
            .await
            .unwrap()
            .success()
    );
    assert!(
        !handle
            .authenticate_password("ubuntu", "admin")
            .await
            .unwrap()
            .success()
    );
    assert!(
        handle
            .authenticate_password("root", "t0p")
            .await
            .unwrap()
            .success()
    );
    assert_eq!(
        exec(&handle, "whoami; uname -s").await,
        ("root\nLinux\n".to_owned(), Some(0))
    );
    assert_eq!(exec(&handle, "nothere").await.1, Some(127));

    let channel = handle.channel_open_session().await.unwrap();
    channel
        .request_pty(true, "xterm", 80, 24, 0, 0, &[])
        .await
        .unwrap();
    channel.request_shell(true).await.unwrap();
    channel.data_bytes("hostname\rexit 3\r").await.unwrap();
    let (output, status) = drain(channel).await;
    assert_eq!(status, Some(3));
    assert!(
        output.contains("root@SRV-MAIL-42:~# hostname\r\nSRV-MAIL-42\r\n"),
        "{output:?}"
    );
    handle
        .disconnect(Disconnect::ByApplication, "", "")
        .await
        .unwrap();

    assert_eq!(decoy.login("root", "guess")["event"]["outcome"], "failure");
    assert_eq!(decoy.login("root", "t0p")["event"]["outcome"], "success");
    for command in ["whoami; uname -s", "nothere", "hostname", "exit 3"] {
        decoy.event("command", |event| event["process"]["command_line"] == command);
    }
    let session = decoy.event("session", |_| true);
    assert!(
        session["user_agent"]["original"]
            .as_str()
            .unwrap()
            .starts_with("SSH-2.0-")
    );
    decoy.event("disconnect", |_| true);
}

#[tokio::test]
async fn keys_and_keyboard_interactive_answers_are_captured() {
    let decoy = Decoy::start("ssh");
    let (mut handle, _) = connect(&decoy).await;
    let key = PrivateKey::from(russh::keys::ssh_key::private::Ed25519Keypair::from_seed(&[9; 32]));
    let fingerprint = key.public_key().fingerprint(HashAlg::Sha256).to_string();
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    assert!(matches!(
        handle.authenticate_publickey("git", key).await.unwrap(),
        AuthResult::Failure { .. }
    ));
    let answer = handle
        .authenticate_keyboard_interactive_start("root", None)
        .await
        .unwrap();
    assert!(matches!(
        answer,
        KeyboardInteractiveAuthResponse::InfoRequest { .. }
    ));
    let answer = handle
        .authenticate_keyboard_interactive_respond(vec!["admin".into()])
        .await
        .unwrap();
    assert!(matches!(answer, KeyboardInteractiveAuthResponse::Success));

    let offered = decoy.event("login", |event| event["decnet"]["auth_method"] == "publickey");
    assert_eq!(offered["decnet"]["public_key"]["fingerprint"], fingerprint);
    assert_eq!(
        offered["decnet"]["public_key"]["type"],
        Algorithm::Ed25519.to_string()
    );
    assert_eq!(
        decoy.login("root", "admin")["decnet"]["auth_method"],
        "keyboard-interactive"
    );
}

/// The server dropped a method once it had failed, which no sshd does: a scanner could tell the decoy by it.
#[tokio::test]
async fn a_wrong_password_leaves_every_method_on_offer() {
    let decoy = Decoy::start("ssh");
    let (mut handle, _) = connect(&decoy).await;
    let answer = handle.authenticate_password("root", "not this").await.unwrap();
    let AuthResult::Failure {
        remaining_methods, ..
    } = answer
    else {
        panic!("a wrong password got in");
    };
    for method in [
        MethodKind::PublicKey,
        MethodKind::Password,
        MethodKind::KeyboardInteractive,
    ] {
        assert!(
            remaining_methods.contains(&method),
            "{method:?} is gone: {remaining_methods:?}"
        );
    }
}

#[tokio::test]
async fn a_seed_keeps_its_host_key_and_another_has_another() {
    let first = connect(&Start::new("ssh").seed(1).run()).await.1;
    assert_eq!(first, connect(&Start::new("ssh").seed(1).run()).await.1);
    assert_ne!(first, connect(&Start::new("ssh").seed(2).run()).await.1);
}

#[test]
fn the_banner_is_the_distributions() {
    for (distro, wanted) in [
        ("debian", "SSH-2.0-OpenSSH_9.2p1 Debian-2"),
        ("ubuntu22", "SSH-2.0-OpenSSH_8.9p1 Ubuntu-3"),
        ("centos7", "SSH-2.0-OpenSSH_7.4\r\n"),
    ] {
        Start::new("ssh")
            .with("DECNET_DISTRO", distro)
            .run()
            .connect()
            .expect(wanted);
    }
}

#[tokio::test]
async fn guessing_gets_in_in_the_end() {
    let decoy = Decoy::start("ssh");
    for guess in 0..12 {
        let (mut handle, _) = connect(&decoy).await;
        if handle
            .authenticate_password("pi", format!("guess{guess}"))
            .await
            .unwrap()
            .success()
        {
            assert_eq!(exec(&handle, "id -u; whoami").await.0.lines().last(), Some("pi"));
            return;
        }
    }
    panic!("12 guesses are refused");
}
