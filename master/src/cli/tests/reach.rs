//! Reaching the master, and not reaching it.

use super::{Running, decnet};
use crate::init;
use crate::serve::operator::testing::Master;

#[tokio::test]
async fn a_master_that_is_not_there_is_exit_3() {
    let output = decnet(&["status", "--socket", "/nonexistent/master.sock"], "")
        .await
        .failed(3);
    assert!(
        output.err.contains("/nonexistent/master.sock") && output.err.contains("decnet serve"),
        "{output:?}"
    );
    let folder = tempfile::tempdir().unwrap();
    let dead = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    decnet(&["status", "--socket", dead.to_str().unwrap()], "")
        .await
        .failed(3);
}

#[tokio::test]
async fn over_https_the_ca_is_checked_and_the_token_gives_the_role() {
    let running = Running::start().await;
    let server = format!("https://localhost:{}", running.tls.port());
    let ca = init::keys_path(&running.master.folder.path().join("master")).join("ca.crt");
    let ca = ca.to_str().unwrap();
    let admin = running.file("admin", &format!("{}\n", running.master.admin));
    let viewer = running.file("viewer", &running.master.viewer);
    let at = ["--server", &server, "--ca", ca];
    let with = |token| [at.as_slice(), &["--token-file", token]].concat();

    let output = decnet(&[&["system", "mode"], with(&viewer).as_slice()].concat(), "")
        .await
        .ok();
    assert_eq!(output.out, "unihost (0 enrolled hosts)\n");
    decnet(&[&["host", "ls"], with(&admin).as_slice()].concat(), "")
        .await
        .ok();

    let denied = decnet(&[&["host", "ls"], with(&viewer).as_slice()].concat(), "")
        .await
        .failed(5);
    assert!(denied.err.contains("admin"), "{denied:?}");
    let denied = decnet(&[&["status"], at.as_slice()].concat(), "").await.failed(5);
    assert!(denied.err.contains("--token-file"), "{denied:?}");
    let wrong = running.file("wrong", "decnet_nonsense");
    decnet(&[&["status"], with(&wrong).as_slice()].concat(), "")
        .await
        .failed(5);
    // A viewer's status is without the hosts.
    let output = decnet(&[&["status"], with(&viewer).as_slice()].concat(), "")
        .await
        .ok();
    assert!(output.out.contains("shown to admins only"), "{output:?}");

    // Somebody else's CA.
    let other = Master::new();
    let foreign = init::keys_path(&other.folder.path().join("master")).join("ca.crt");
    let args = [
        "status",
        "--server",
        &server,
        "--ca",
        foreign.to_str().unwrap(),
        "--token-file",
        &admin,
    ];
    let output = decnet(&args, "").await.failed(3);
    assert!(output.err.contains("--ca"), "{output:?}");
    // Another name than the certificate's.
    let by_address = format!("https://127.0.0.1:{}", running.tls.port());
    decnet(
        &[
            "status",
            "--server",
            &by_address,
            "--ca",
            ca,
            "--token-file",
            &admin,
        ],
        "",
    )
    .await
    .failed(3);

    decnet(&["status", "--server", &server], "").await.failed(2);
    decnet(&["status", "--server", &server, "--ca", "/nonexistent"], "")
        .await
        .failed(2);
    decnet(&["status", "--server", &server, "--ca", &admin], "")
        .await
        .failed(2);
}

#[tokio::test]
async fn an_empty_token_file_is_a_usage_error_and_not_the_same_as_no_token() {
    let running = Running::start().await;
    let empty = running.file("empty", "\n");
    let output = running
        .decnet(&["status", "--token-file", &empty])
        .await
        .failed(2);
    assert!(output.err.contains("empty"), "{output:?}");
}
