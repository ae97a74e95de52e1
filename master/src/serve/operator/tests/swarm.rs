//! Hosts and invitations.

use hyper::Method;
use serde_json::{Value, json};

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

#[tokio::test]
async fn a_master_with_packages_gives_a_line_or_what_a_file_is_made_of() {
    let master = Master::new();
    let name = |more: Value| {
        let mut body = json!({ "name": "edge-01" });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Some(body)
    };
    let path = "/swarm/hosts/enroll";
    let without = master
        .ask(Method::POST, path, name(json!({"carried": true})))
        .await
        .json();
    assert_eq!(
        (without.get("line"), without.get("file")),
        (None, None),
        "{without}"
    );

    let master = master.with_package("decnet-agent_1.0-1_amd64.deb", b"package");
    let invited = master
        .ask(Method::POST, path, name(json!({"ipvlan": true, "updater": true})))
        .await
        .json();
    let (line, token) = (
        invited["line"].as_str().unwrap(),
        invited["token"].as_str().unwrap(),
    );
    let call = format!("'decnet_install {token} --ipvlan=true --updater=true'");
    assert!(
        line.contains(&call) && line.contains("https://localhost:8771/enroll/"),
        "{line}"
    );
    assert_eq!(invited.get("file"), None);

    let before = time::OffsetDateTime::now_utc();
    let carried = master
        .ask(Method::POST, path, name(json!({"carried": true})))
        .await
        .json();
    assert_eq!(carried.get("line"), None);
    let (script, token) = (
        carried["file"]["script"].as_str().unwrap(),
        carried["token"].as_str().unwrap(),
    );
    assert!(
        script.contains(&format!(
            "decnet_install '{token}' --later --ipvlan=false --updater=false"
        )),
        "{script}"
    );
    let ends = read_token(token).expires_at.get() - before;
    assert!(
        (time::Duration::hours(23)..time::Duration::hours(25)).contains(&ends),
        "{ends}"
    );
    let package = &carried["file"]["packages"][0];
    assert_eq!(package["size"], 7);
    let at = format!("/swarm/packages/{}", package["digest"].as_str().unwrap());
    let answer = master.ask(Method::GET, &at, None).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, "package"));
    for (at, status) in [
        ("/swarm/packages/sha256:00", 422),
        (&at.replace(&at[at.len() - 8..], "00000000"), 404),
    ] {
        assert_eq!(master.ask(Method::GET, at, None).await.status, status, "{at}");
    }

    // Only a token that is carried may live for longer than an hour.
    for (more, status) in [
        (json!({"carried": true, "ttl_seconds": 604_800}), 201),
        (json!({"carried": true, "ttl_seconds": 604_801}), 422),
        (json!({"ttl_seconds": 3601}), 422),
    ] {
        let answer = master.ask(Method::POST, path, name(more.clone())).await;
        assert_eq!(answer.status, status, "{more}: {}", answer.text);
    }
}
