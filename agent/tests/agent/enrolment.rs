//! Enrolment: what is believed, and what a broken-off try leaves.

use decnet_agent::Agent;
use decnet_agent::config::Config;
use decnet_agent::enrol::{EnrolError, Existing, enrol, enrol_over};
use decnet_wire::ids::{Digest, Timestamp};

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
