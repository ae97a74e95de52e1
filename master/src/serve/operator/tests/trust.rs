//! The trust root over the API.

use decnet_pki::envelope::Envelope;
use decnet_pki::key::SigningKey;
use decnet_wire::trust::{PAYLOAD_TYPE, TrustRoot};
use hyper::Method;
use serde_json::{Value, json};

use crate::init;
use crate::keys::{OPERATOR, signing_key};
use crate::serve::operator::testing::Master;

pub(super) fn operator(master: &Master) -> SigningKey {
    let state_dir = master.folder.path().join("master");
    signing_key(&init::keys_path(&state_dir).join(OPERATOR)).unwrap()
}

pub(super) fn signed(document: &TrustRoot, key: &SigningKey) -> Value {
    let payload = serde_json::to_vec(document).unwrap();
    serde_json::from_slice(&Envelope::sign(PAYLOAD_TYPE, payload, &[key]).to_json()).unwrap()
}

pub(super) async fn draft(master: &Master, body: Value) -> TrustRoot {
    let answer = master.ask(Method::POST, "/trust/draft", Some(body)).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    serde_json::from_value(answer.json()).unwrap()
}

#[tokio::test]
async fn a_draft_changes_nothing_before_it_is_signed_and_brought_back() {
    let master = Master::new();
    let host = master.enrol("east");
    master.control.publish_due().unwrap();
    let before = master.ask(Method::GET, "/trust", None).await.json();
    let draft = draft(&master, json!({"online": true})).await;
    assert_eq!(draft.version, 2);
    assert_eq!(master.ask(Method::GET, "/trust", None).await.json(), before);

    let stranger = SigningKey::generate().unwrap();
    let refused = master
        .ask(Method::POST, "/trust/root", Some(signed(&draft, &stranger)))
        .await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.detail().contains("not signed by the operators"),
        "{}",
        refused.detail()
    );
    assert_eq!(master.ask(Method::GET, "/trust", None).await.json(), before);

    let generation = |master: &Master| master.control.bundle(host).unwrap().unwrap();
    let old = generation(&master);
    let root = signed(&draft, &operator(&master));
    let taken = master.ask(Method::POST, "/trust/root", Some(root.clone())).await;
    assert_eq!(taken.status, 200, "{}", taken.json());
    assert_eq!(taken.json()["online_key"], json!(draft.online_key));
    assert_eq!(
        master.ask(Method::GET, "/trust/root", None).await.json()["payload"],
        root["payload"]
    );

    // Every bundle is signed anew, by the new key.
    master.control.publish_due().unwrap();
    let new = generation(&master);
    assert!(new.generation > old.generation && new.root_version == 2);
    let envelope = master.control.envelope(host, 0).unwrap().unwrap();
    let envelope = Envelope::parse(envelope.as_bytes(), 1 << 20).unwrap();
    envelope
        .verify(
            decnet_wire::bundle::PAYLOAD_TYPE,
            &[draft.online_key.parse().unwrap()],
            std::num::NonZeroUsize::MIN,
        )
        .unwrap();
    // Once is enough.
    let again = master.ask(Method::POST, "/trust/root", Some(root)).await;
    assert_eq!(again.status, 422);
}

#[tokio::test]
async fn a_draft_that_could_not_be_signed_or_says_nothing_is_refused() {
    let master = Master::new();
    let key = operator(&master).public().to_string();
    for (body, status) in [
        (json!({}), 422),
        (json!({"online": false}), 422),
        (json!({"operator_keys": "nonsense"}), 422),
        (json!({"operator_keys": key, "threshold": 2}), 422),
        (json!({"operator_keys": key, "threshold": 0}), 422),
        (json!({"threshold": 1}), 400),
        (json!({"ca": true}), 400),
    ] {
        let answer = master.ask(Method::POST, "/trust/draft", Some(body.clone())).await;
        assert_eq!(answer.status, status, "{body}");
    }
    for path in ["/trust/draft", "/trust/root"] {
        let answer = master
            .ask_as(&master.viewer, Method::POST, path, Some(json!({"online": true})))
            .await;
        assert_eq!(answer.status, 403, "{path}");
    }
}

#[tokio::test]
async fn a_host_that_was_invited_before_a_rotation_gets_the_root_that_its_token_pins() {
    let master = Master::new();
    let invited = master.invite("east");
    let draft = draft(&master, json!({"epoch": true})).await;
    let root = signed(&draft, &operator(&master));
    assert_eq!(
        master.ask(Method::POST, "/trust/root", Some(root)).await.status,
        200
    );
    let answer = master.trade(&invited);
    let envelope = Envelope::parse(answer.trust_root.to_string().as_bytes(), 1 << 20).unwrap();
    let pinned = crate::serve::operator::testing::read_token(&invited.token).root_pin;
    assert_eq!(
        pinned.as_str(),
        envelope.digest().to_string(),
        "the token pins another root"
    );
}
