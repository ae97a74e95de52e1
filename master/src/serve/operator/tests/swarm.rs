//! Hosts and invitations.

use hyper::Method;
use serde_json::json;

use crate::serve::operator::testing::{Master, read_token};

#[tokio::test]
async fn an_invitation_gives_a_token_in_one_line_and_an_enrolled_name_is_taken() {
    let master = Master::new();
    let body = json!({
        "name": "edge-01", "ipvlan": true, "interface": "eth1", "subnet": "10.20.0.7/24", "gateway": "10.20.0.1",
        "ttl_seconds": 60, "notes": "rack 4",
    });
    let answer = master.ask(Method::POST, "/swarm/hosts/enroll", Some(body)).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let invited = answer.json();
    let token = read_token(invited["token"].as_str().unwrap());
    assert_eq!(token.host.to_string(), invited["host_uuid"].as_str().unwrap());
    assert_eq!(
        invited["command"],
        format!("decnet-agent enroll {}", invited["token"].as_str().unwrap())
    );
    let host = master
        .ask(Method::GET, &format!("/swarm/hosts/{}", token.host), None)
        .await
        .json();
    assert_eq!(
        (&host["status"], &host["use_ipvlan"]),
        (&json!("invited"), &json!(true))
    );
    assert_eq!(
        (&host["subnet"], &host["gateway"]),
        (&json!("10.20.0.0/24"), &json!("10.20.0.1"))
    );
    assert_eq!(
        (&host["interface"], &host["notes"]),
        (&json!("eth1"), &json!("rack 4"))
    );

    let name = |name: &str| Some(json!({ "name": name }));
    // Nobody used the invitation: it may be repeated.
    assert_eq!(
        master
            .ask(Method::POST, "/swarm/hosts/enroll", name("edge-01"))
            .await
            .status,
        201
    );
    master.enrol("edge-02");
    assert_eq!(
        master
            .ask(Method::POST, "/swarm/hosts/enroll", name("edge-02"))
            .await
            .status,
        409
    );
    let filtered = master
        .ask(Method::GET, "/swarm/hosts?host_status=enrolled", None)
        .await
        .json();
    assert_eq!(filtered.as_array().unwrap().len(), 1);
    assert_eq!(filtered[0]["name"], "edge-02");
    assert_eq!(
        master
            .ask(Method::GET, "/swarm/hosts", None)
            .await
            .json()
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn a_bad_invitation_is_400_or_422_and_makes_no_host() {
    let master = Master::new();
    for (body, status) in [
        (json!({}), 400),
        (json!({ "name": 5 }), 400),
        (json!({ "name": "a", "x": 1 }), 400),
        (json!({ "name": "" }), 422),
        (json!({ "name": "Edge" }), 422),
        (json!({ "name": "a", "ipvlan": "maybe" }), 422),
        (json!({ "name": "a", "interface": "no such/name" }), 422),
        (json!({ "name": "a", "mode": "l2" }), 422),
        (json!({ "name": "a", "mode": "private", "ipvlan": true }), 422),
        (json!({ "name": "a", "mode": "hub" }), 422),
        (json!({ "name": "a", "mode": 2 }), 400),
        (json!({ "name": "a", "subnet": "10.20.0.0/24" }), 422),
        (json!({ "name": "a", "gateway": "10.20.0.1" }), 422),
        (
            json!({ "name": "a", "subnet": "10.20.0.0/24", "gateway": "10.21.0.1" }),
            422,
        ),
        (
            json!({ "name": "a", "subnet": "10.20.0.0/24", "gateway": "10.20.0.255" }),
            422,
        ),
        (
            json!({ "name": "a", "subnet": "nonsense", "gateway": "10.20.0.1" }),
            422,
        ),
        (json!({ "name": "a", "ttl_seconds": 0 }), 422),
        (json!({ "name": "a", "ttl_seconds": 3601 }), 422),
        (json!({ "name": "a", "ttl_seconds": -1 }), 422),
        (json!({ "name": "a", "ttl_seconds": "300" }), 422),
        (json!({ "name": "a", "notes": "two\nlines" }), 422),
    ] {
        let answer = master
            .ask(Method::POST, "/swarm/hosts/enroll", Some(body.clone()))
            .await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
    }
    assert_eq!(
        master.ask(Method::GET, "/swarm/hosts", None).await.json(),
        json!([])
    );
    assert_eq!(
        master
            .ask(Method::GET, "/swarm/hosts?host_status=nonsense", None)
            .await
            .status,
        422
    );
    assert_eq!(
        master
            .ask(Method::GET, "/swarm/hosts/nonsense", None)
            .await
            .status,
        422
    );
    let unknown = "/swarm/hosts/0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11";
    assert_eq!(master.ask(Method::GET, unknown, None).await.status, 404);
}

#[tokio::test]
async fn how_deckies_are_attached_is_set_whole_and_shown() {
    let master = Master::new();
    let body = json!({ "name": "edge-09", "ipvlan": true, "mode": "l3", "interface": "eth1.30" });
    let invited = master
        .ask(Method::POST, "/swarm/hosts/enroll", Some(body))
        .await
        .json();
    let path = format!("/swarm/hosts/{}", invited["host_uuid"].as_str().unwrap());
    let host = master.ask(Method::GET, &path, None).await.json();
    assert_eq!(
        (&host["use_ipvlan"], &host["mode"], &host["interface"]),
        (&json!(true), &json!("l3"), &json!("eth1.30"))
    );
    let path = format!("{path}/network");
    for (body, status) in [
        (json!({ "ipvlan": false, "mode": "l3" }), 422),
        (json!({ "mode": "hub" }), 422),
        (json!({ "driver": "ipvlan" }), 400),
    ] {
        let answer = master.ask(Method::PUT, &path, Some(body.clone())).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
    }
    let set = Some(json!({ "mode": "private" }));
    let answer = master.ask(Method::PUT, &path, set.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let host = answer.json();
    assert_eq!(
        (&host["use_ipvlan"], &host["mode"], &host["interface"]),
        (&json!(false), &json!("private"), &json!(null))
    );
    assert_eq!(
        master
            .ask_as(&master.viewer, Method::PUT, &path, set.clone())
            .await
            .status,
        403
    );
    let unknown = "/swarm/hosts/0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11/network";
    assert_eq!(master.ask(Method::PUT, unknown, set).await.status, 404);
}
