//! A master that was stolen, with its online key and its CA, feeds a running agent whatever it likes: nothing of it
//! reaches the engine, all of it is told, and what was accepted before runs on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use decnet::keys::MasterKeys;
use decnet::records::EnvelopeRecord;
use decnet::serve::listen::{self, Remote};
use decnet::serve::message::Bodies;
use decnet::serve::message::{self, Body};
use decnet::store::{Db, RedbStore};
use decnet_pki::ServerName;
use decnet_pki::envelope::Envelope;
use decnet_pki::key::SigningKey;
use decnet_pki::peer::PeerIdentity;
use decnet_tests::engine::{self, docker};
use decnet_tests::lan::Lan;
use decnet_tests::processes::Agent;
use decnet_tests::scene::Scene;
use decnet_tests::wait::{Seen, until};
use decnet_wire::ids::{HostId, Timestamp};
use decnet_wire::report::{EventBody, Report, ReportAnswer};
use decnet_wire::{bundle, limits, policy, trust};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long one hostile document may take until it is told: the agent leaves a master that brings nothing of use alone
/// for a while.
const TOLD: Duration = Duration::from_secs(60);
/// No name on the engine but those of hostile documents has this in it.
const MARK: &str = "stolen";

/// What the thief hands out next.
#[derive(Debug, Default)]
struct Offer {
    bundle: Option<Vec<u8>>,
    /// What the header says, and the document.
    policy: Option<(u64, Vec<u8>)>,
    root: Option<(u64, Vec<u8>)>,
    /// The next poll is answered with nothing, which ends the agent's backoff.
    rest: bool,
    /// What the agent has told since the offer was made: code and detail.
    told: Vec<(String, String)>,
}

/// A server in the stolen master's place. It knows its hosts by their certificates.
struct Thief {
    end: CancellationToken,
    runtime: tokio::runtime::Runtime,
}

/// What each host is handed out.
type Offers = Arc<HashMap<uuid::Uuid, Arc<Mutex<Offer>>>>;

impl Thief {
    fn start(keys: &MasterKeys, at: SocketAddr, offers: Offers) -> Result<Self> {
        let now = time::OffsetDateTime::now_utc();
        let names = [ServerName::try_from("127.0.0.1")?];
        let (leaf, key) = keys
            .serving()
            .issue_server(&names, now, time::Duration::days(1))?;
        let clients = [keys.issuing().certificate().clone()];
        let tls = decnet_pki::tls::agent_server_config(&leaf, &key, &clients)?;
        let end = CancellationToken::new();
        let runtime = tokio::runtime::Runtime::new()?;
        let listener = runtime.block_on(listen::bind(at))?;
        let served = end.clone();
        runtime.spawn(async move {
            let tls = tokio::sync::watch::Sender::new(tls);
            listen::serve_tls(
                listener,
                tls.subscribe(),
                listen::limits::AGENTS,
                served,
                move |remote| {
                    let offer = offer_of(&offers, &remote);
                    service_fn(move |request| answer(Arc::clone(&offer), request))
                },
            )
            .await;
        });
        Ok(Self { end, runtime })
    }

    fn stop(self) {
        self.end.cancel();
        self.runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

/// What the host at the other end is handed out; nothing, for a host that is not of the test.
fn offer_of(offers: &Offers, remote: &Remote) -> Arc<Mutex<Offer>> {
    let Remote::Tls {
        certificate: Some(leaf),
        ..
    } = remote
    else {
        return Arc::default();
    };
    let peer = PeerIdentity::from_leaf(leaf).ok();
    let offer = peer.and_then(|peer| offers.get(&peer.host));
    offer.cloned().unwrap_or_default()
}

/// A host whose master was stolen.
struct Target {
    agent: Agent,
    host: String,
    lan: Lan,
    offer: Arc<Mutex<Offer>>,
}

impl Target {
    fn offer(&self) -> MutexGuard<'_, Offer> {
        self.offer
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets the agent rest, hands something out, and waits until the agent has told what it thinks of it.
    fn try_on(&self, hostile: Offer) -> Result<(String, String)> {
        *self.offer() = Offer {
            rest: true,
            ..hostile
        };
        let outcome = until("the refusal is told", TOLD, || {
            Ok(match self.offer().told.first() {
                Some(told) => Seen::Done(told.clone()),
                None => Seen::not_yet("nothing is told"),
            })
        })
        .with_context(|| decnet_tests::processes::tail(&self.agent.log));
        *self.offer() = Offer::default();
        outcome
    }
}

/// Room for one report.
fn bodies() -> Bodies {
    Bodies::new(limits::REPORT, TOLD)
}

/// The agent API, as a thief has it.
async fn answer(
    offer: Arc<Mutex<Offer>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let lock = || offer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/agent/v1/bundle" => {
            let waits = {
                let offer = lock();
                offer.bundle.is_none() && !offer.rest
            };
            if waits {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            let mut offer = lock();
            let rests = std::mem::take(&mut offer.rest);
            let bundle = offer.bundle.clone().filter(|_| !rests);
            let mut answer = bundle.map_or_else(
                || message::empty(StatusCode::NO_CONTENT),
                |bundle| message::whole(StatusCode::OK, bundle),
            );
            let mut head = |name, version: Option<u64>| {
                if let Some(version) = version.filter(|_| !rests) {
                    answer.headers_mut().insert(name, HeaderValue::from(version));
                }
            };
            head(
                trust::VERSION_HEADER,
                offer.root.as_ref().map(|(version, _)| *version),
            );
            head(
                policy::VERSION_HEADER,
                offer.policy.as_ref().map(|(version, _)| *version),
            );
            answer
        }
        "/agent/v1/policy" => handed(lock().policy.clone()),
        "/agent/v1/report" => match bodies().read::<Report>(request.into_body(), limits::REPORT).await {
            Ok(report) => {
                let mut offer = lock();
                for event in &report.events {
                    if let EventBody::Refused { code, detail, .. } = &event.body {
                        offer.told.push((code.clone(), detail.clone()));
                    }
                }
                let acked = report.events.iter().map(|event| event.seq).max().unwrap_or(0);
                message::json(
                    StatusCode::OK,
                    &ReportAnswer {
                        schema: decnet_wire::report::SCHEMA,
                        acked,
                        time: Timestamp::new(time::OffsetDateTime::now_utc()),
                        poll_wait_s: 1,
                        heartbeat_s: 5,
                        resync: false,
                        renew_within_s: None,
                    },
                )
            }
            Err(error) => error.response(),
        },
        path if path.starts_with("/agent/v1/trust-root/") => handed(lock().root.clone()),
        _ => message::refuse(StatusCode::NOT_FOUND, "there is nothing here"),
    })
}

fn handed(document: Option<(u64, Vec<u8>)>) -> Response<Body> {
    match document {
        Some((_, bytes)) => message::whole(StatusCode::OK, bytes),
        None => message::refuse(StatusCode::NOT_FOUND, "there is none"),
    }
}

/// One hostile document, and what has to be told of it.
struct Case {
    name: String,
    offer: Offer,
    code: &'static str,
    detail: &'static str,
}

/// Everything that the thief has.
struct Loot {
    keys: MasterKeys,
    /// The bundle that the agent has accepted last, and its digest.
    accepted: Value,
    digest: String,
    cases: Vec<Case>,
}

fn minutes(from_now: i64) -> Value {
    let at = time::OffsetDateTime::now_utc() + time::Duration::minutes(from_now);
    json!(Timestamp::new(at))
}

impl Loot {
    /// The accepted bundle once more, as the next generation: nothing speaks against it.
    fn next(&self) -> Value {
        let mut next = self.accepted.clone();
        next["generation"] = (next["generation"].as_u64().unwrap_or(0) + 1).into();
        next["previous"] = json!(self.digest);
        next["issued_at"] = minutes(0);
        next["expires_at"] = minutes(600);
        // No two cases are the same bytes.
        next["stacks"][0]["compose"]["x-case"] = json!(self.cases.len());
        next
    }

    fn sign(&self, payload_type: &str, payload: &[u8]) -> Vec<u8> {
        Envelope::sign(payload_type, payload.to_vec(), &[&self.keys.online]).to_json()
    }

    fn add(&mut self, name: impl Into<String>, code: &'static str, detail: &'static str, offer: Offer) {
        self.cases.push(Case {
            name: name.into(),
            offer,
            code,
            detail,
        });
    }

    fn add_bytes(&mut self, name: impl Into<String>, code: &'static str, bundle: Vec<u8>) {
        let offer = Offer {
            bundle: Some(bundle),
            ..Offer::default()
        };
        self.add(name, code, "", offer);
    }

    /// A bundle that is in order, but for one change, and well signed.
    fn changed(
        &mut self,
        name: impl Into<String>,
        code: &'static str,
        detail: &'static str,
        change: impl FnOnce(&mut Value),
    ) {
        let mut bundle = self.next();
        change(&mut bundle);
        let signed = self.sign(bundle::PAYLOAD_TYPE, bundle.to_string().as_bytes());
        let offer = Offer {
            bundle: Some(signed),
            ..Offer::default()
        };
        self.add(name, code, detail, offer);
    }

    /// The same, with something else in the decky's base or one of its services.
    fn asks(&mut self, detail: &'static str, service: &str, more: &Value) {
        let name = format!("asks for {more}");
        let service = service.to_owned();
        self.changed(name, "policy", detail, |bundle| {
            let target = &mut bundle["stacks"][0]["compose"]["services"][service.as_str()];
            for (key, value) in more.as_object().into_iter().flatten() {
                if value.is_null() {
                    target.as_object_mut().map(|map| map.remove(key));
                } else {
                    target[key] = value.clone();
                }
            }
        });
    }

    fn all(&mut self, lan: &Lan) -> Result<()> {
        self.attacks();
        self.signatures()?;
        self.fields();
        self.wishes(lan);
        let first = json!({
            "schema": 1, "fleet": self.accepted["fleet"], "version": 1, "issued_at": minutes(0),
            "expires_at": minutes(600), "rules": {},
        });
        self.documents(&first)
    }

    fn attacks(&mut self) {
        let other = json!("0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11");
        let zeros = json!(format!("sha256:{}", "0".repeat(64)));
        let generation = self.accepted["generation"].as_u64().unwrap_or(0);
        let set = |key: &'static str, value: Value| move |bundle: &mut Value| bundle[key] = value;
        self.changed(
            "another fleet's bundle",
            "audience",
            "fleet",
            set("fleet", other.clone()),
        );
        self.changed("another host's bundle", "audience", "host", set("host", other));
        self.changed(
            "another key's bundle",
            "audience",
            "key",
            set("host_key", zeros.clone()),
        );
        self.changed("rollback", "rollback", "", set("generation", 1.into()));
        self.changed(
            "another truth",
            "equivocation",
            "",
            set("generation", generation.into()),
        );
        self.changed(
            "fast-forward",
            "fast-forward",
            "",
            set("generation", (generation + (1 << 20) + 1).into()),
        );
        self.changed(
            "fast-forward to the end",
            "fast-forward",
            "",
            set("generation", u64::MAX.into()),
        );
        self.changed("freeze", "expired", "", |bundle| {
            bundle["issued_at"] = minutes(-100);
            bundle["expires_at"] = minutes(-1);
        });
        self.changed("from the future", "early", "", |bundle| {
            bundle["issued_at"] = minutes(13 * 60);
            bundle["expires_at"] = minutes(14 * 60);
        });
        self.changed(
            "ends before it begins",
            "malformed",
            "",
            set("expires_at", minutes(-1)),
        );
        self.changed("a higher epoch", "epoch", "", set("epoch", 2.into()));
        self.changed("a lower epoch", "epoch", "", set("epoch", 0.into()));
        self.changed("fork", "fork", "", set("previous", zeros));
        self.changed("endless stacks", "too-large", "", |bundle| {
            let stack = json!({"name": "a", "decky": "a", "compose": {}});
            bundle["stacks"] = json!(vec![stack; limits::STACKS + 1]);
        });
        let deep = format!(
            "{{\"schema\":1,\"stacks\":{}{}}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let deep = self.sign(bundle::PAYLOAD_TYPE, deep.as_bytes());
        self.add_bytes("endless depth", "malformed", deep);
        for payload_type in [trust::PAYLOAD_TYPE, policy::PAYLOAD_TYPE] {
            let payload = self.next().to_string();
            let confused = self.sign(payload_type, payload.as_bytes());
            self.add_bytes(format!("signed as {payload_type}"), "payload-type", confused);
        }
    }

    fn signatures(&mut self) -> Result<()> {
        let payload = self.next().to_string();
        let stranger = SigningKey::generate()?;
        let strange = Envelope::sign(bundle::PAYLOAD_TYPE, payload.clone().into_bytes(), &[&stranger]);
        self.add_bytes("another key's signature", "signature", strange.to_json());
        let none = Envelope::sign(bundle::PAYLOAD_TYPE, self.next().to_string().into_bytes(), &[]);
        self.add_bytes("no signature", "signature", none.to_json());
        let good: Value = serde_json::from_slice(&self.sign(bundle::PAYLOAD_TYPE, payload.as_bytes()))?;
        let mut tampered: Value =
            serde_json::from_slice(&self.sign(bundle::PAYLOAD_TYPE, self.next().to_string().as_bytes()))?;
        tampered["signatures"] = good["signatures"].clone();
        tampered["signatures"][0]["sig"] = json!("AAAA");
        self.add_bytes(
            "a damaged signature",
            "signature",
            tampered.to_string().into_bytes(),
        );
        let mut tampered = good;
        let changed = self.next();
        let other: Value =
            serde_json::from_slice(&self.sign(bundle::PAYLOAD_TYPE, changed.to_string().as_bytes()))?;
        tampered["payload"] = other["payload"].clone();
        tampered["signatures"]
            .as_array_mut()
            .context("no signatures")?
            .push(json!({"keyid": "x", "sig": "AAAA"}));
        self.add_bytes(
            "another payload under a signature",
            "signature",
            tampered.to_string().into_bytes(),
        );
        self.add_bytes("no envelope", "malformed", b"<html>".to_vec());
        self.add_bytes("an empty answer", "malformed", Vec::new());
        for (name, payload) in [
            ("no JSON", "{"),
            ("no bundle", "{\"schema\":1}"),
            ("a list", "[]"),
        ] {
            let signed = self.sign(bundle::PAYLOAD_TYPE, payload.as_bytes());
            self.add_bytes(format!("{name}, well signed"), "malformed", signed);
        }
        Ok(())
    }

    /// Each field is taken away, and made something else.
    fn fields(&mut self) {
        self.changed("a newer form", "schema", "", |bundle| bundle["schema"] = 2.into());
        self.changed("a field that nobody knows", "malformed", "", |bundle| {
            bundle["orders"] = json!(["rm -rf /"]);
        });
        let fields: Vec<String> = self
            .accepted
            .as_object()
            .into_iter()
            .flat_map(serde_json::Map::keys)
            .filter(|field| *field != "previous")
            .cloned()
            .collect();
        for field in fields {
            self.changed(format!("without {field}"), "malformed", "", |bundle| {
                bundle.as_object_mut().map(|map| map.remove(&field));
            });
            self.changed(format!("{field} is another thing"), "malformed", "", |bundle| {
                bundle[field.as_str()] = json!({"x": [1]});
            });
        }
        self.changed("previous is another thing", "malformed", "", |bundle| {
            bundle["previous"] = json!("yesterday");
        });
        self.changed("one operation on two stacks", "document", "", |bundle| {
            let mut stack = bundle["stacks"][0].clone();
            stack["name"] = json!(format!("{MARK}-a"));
            stack["operation"] = json!({"id": "0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11", "kind": "deploy"});
            bundle["stacks"][0]["operation"] = stack["operation"].clone();
            push(&mut bundle["stacks"], stack);
        });
        self.changed("an image by tag", "document", "", |bundle| {
            bundle["stacks"][0]["compose"]["services"]["base"]["image"] =
                json!(format!("{MARK}/image:latest"));
        });
        self.changed("two containers of one address", "document", "", |bundle| {
            let mut stack = bundle["stacks"][0].clone();
            stack["name"] = json!(format!("{MARK}-a"));
            stack["operation"].take();
            push(&mut bundle["stacks"], stack);
        });
    }

    /// What no policy allows, and each rule of the one that the operator has signed.
    fn wishes(&mut self, lan: &Lan) {
        for (detail, more) in [
            ("privileged", json!({"privileged": true})),
            ("network_mode", json!({"network_mode": "host", "networks": null})),
            (
                "network_mode",
                json!({"network_mode": "bridge", "networks": null}),
            ),
            ("pid", json!({"pid": "host"})),
            ("ipc", json!({"ipc": "host"})),
            ("uts", json!({"uts": "host"})),
            ("userns_mode", json!({"userns_mode": "host"})),
            ("cgroup", json!({"cgroup": "host"})),
            ("cgroup_parent", json!({"cgroup_parent": "/system.slice"})),
            ("is the engine's", json!({"volumes": ["/var/run/docker.sock:/s"]})),
            ("is the engine's", json!({"volumes": ["/:/host:ro"]})),
            ("(rule mounts)", json!({"volumes": ["/etc:/x:ro"]})),
            ("(rule mounts)", json!({"volumes": ["/srv/decnet-test:/x"]})),
            (
                "(rule mounts)",
                json!({"volumes": ["/srv/decnet-test/below:/x:ro"]}),
            ),
            ("(rule devices)", json!({"devices": ["/dev/sda:/dev/sda"]})),
            ("gpus", json!({"gpus": "all"})),
            (
                "device_cgroup_rules",
                json!({"device_cgroup_rules": ["a *:* rwm"]}),
            ),
            ("(rule capabilities)", json!({"cap_add": ["SYS_ADMIN"]})),
            ("(rule capabilities)", json!({"cap_add": ["ALL"]})),
            ("cap_drop", json!({"cap_drop": null})),
            (
                "(rule security_options)",
                json!({"security_opt": ["no-new-privileges:true", "seccomp=unconfined"]}),
            ),
            ("security_opt", json!({"security_opt": null})),
            ("(rule sysctls)", json!({"sysctls": {"kernel.msgmax": 1}})),
            ("ports", json!({"ports": ["2222:22"]})),
            ("runtime", json!({"runtime": "evil"})),
            ("logging", json!({"logging": {"driver": "syslog"}})),
            (
                "(rule images.digests)",
                json!({"image": format!("{MARK}.invalid/a@sha256:{}", "0".repeat(64))}),
            ),
            ("(rule resources.memory)", json!({"mem_limit": "1g"})),
            ("(rule resources.memory)", json!({"mem_limit": null})),
            ("(rule resources.pids)", json!({"pids_limit": 100_000})),
            ("(rule resources.pids)", json!({"pids_limit": -1})),
            ("(rule resources.cpus)", json!({"cpus": 64})),
            ("(rule resources.cpus)", json!({"cpus": null})),
            (
                "(rule egress)",
                json!({"x-decnet": {"egress": ["tcp/0.0.0.0/0:1-65535"]}}),
            ),
        ] {
            self.asks(detail, "base", &more);
        }
        let beyond = json!({"networks": {"lan": {"ipv4_address": lan.address(9)}}});
        self.asks("(rule networks.ranges)", "base", &beyond);
        for (name, detail, key, value) in [
            (
                "another interface",
                "(rule networks.parents)",
                "parent",
                json!("lo"),
            ),
            (
                "another driver",
                "(rule networks.drivers)",
                "driver",
                json!("ipvlan"),
            ),
            (
                "an address for the host",
                "(rule networks.ranges)",
                "host_address",
                json!(lan.address(8)),
            ),
        ] {
            self.changed(name, "policy", detail, |bundle| {
                bundle["networks"][0][key] = value;
                // ipvlan has no MACs.
                let endpoint = &mut bundle["stacks"][0]["compose"]["services"]["base"]["networks"]["lan"];
                if key == "driver" {
                    endpoint.as_object_mut().map(|map| map.remove("mac_address"));
                    bundle["networks"][0]
                        .as_object_mut()
                        .map(|map| map.remove("mode"));
                }
            });
        }
        self.changed(
            "one container more",
            "policy",
            "(rule resources.containers)",
            |bundle| {
                let services = &mut bundle["stacks"][0]["compose"]["services"];
                let mut more = services["base"].clone();
                more.as_object_mut().map(|map| map.remove("networks"));
                more.as_object_mut().map(|map| map.remove("sysctls"));
                more.as_object_mut().map(|map| map.remove("hostname"));
                more["network_mode"] = json!("service:base");
                services[MARK] = more;
            },
        );
        self.changed("one decky more", "policy", "(rule resources.deckies)", |bundle| {
            let mut stack = bundle["stacks"][0].clone();
            stack["name"] = json!(format!("{MARK}-b"));
            stack["decky"] = json!(format!("{MARK}-b"));
            stack["operation"].take();
            stack["compose"]["services"]["base"]["networks"]["lan"] =
                json!({"ipv4_address": lan.address(77)});
            push(&mut bundle["stacks"], stack);
        });
        self.changed(
            "an archive that may be another image",
            "policy",
            "(rule images.digests)",
            |bundle| {
                let ids = bundle["blobs"][0]["kind"]["image_ids"].as_array_mut();
                if let Some(ids) = ids {
                    ids.push(json!(format!("sha256:{}", "7".repeat(64))));
                }
            },
        );
        self.changed("a build", "policy", "(rule images.builds)", |bundle| {
            let digest = format!("sha256:{}", "6".repeat(64));
            let blob = json!({"digest": digest, "size": 1, "kind": {"type": "build-context"}});
            push(&mut bundle["blobs"], blob);
            let base = &mut bundle["stacks"][0]["compose"]["services"]["base"];
            base.as_object_mut().map(|map| map.remove("image"));
            base["build"] = json!({"context": format!("blob:{digest}"), "network": "none"});
        });
    }

    /// Policies and trust roots that the operator has not signed, or has replaced.
    fn documents(&mut self, first_policy: &Value) -> Result<()> {
        let online = &self.keys.online;
        let offer = |policy, root| Offer {
            policy,
            root,
            ..Offer::default()
        };
        let held = 2;
        let mut wide: Value = first_policy.clone();
        wide["version"] = json!(held + 1);
        wide["rules"] = json!({"capabilities": ["SYS_ADMIN"]});
        let mut all = Vec::new();
        let forged = Envelope::sign(policy::PAYLOAD_TYPE, wide.to_string().into_bytes(), &[online]);
        all.push(("a policy signed by the online key", forged.to_json(), "operators"));
        let unsigned = Envelope::sign(policy::PAYLOAD_TYPE, (wide.to_string() + " ").into_bytes(), &[]);
        all.push(("a policy that nobody signed", unsigned.to_json(), "operators"));
        let typed = Envelope::sign(
            bundle::PAYLOAD_TYPE,
            (wide.to_string() + "  ").into_bytes(),
            &[online],
        );
        all.push(("a bundle in the place of a policy", typed.to_json(), "type"));
        all.push(("no policy at all", b"null".to_vec(), "signed document"));
        for (name, bytes, detail) in all {
            self.add(
                name,
                "policy-document",
                detail,
                offer(Some((held + 1, bytes)), None),
            );
        }
        let mut root = self.keys.root.document().clone();
        root.version += 1;
        let next = root.version;
        root.policy = None;
        let payload = serde_json::to_vec(&root)?;
        let forged = Envelope::sign(trust::PAYLOAD_TYPE, payload, &[&self.keys.online]);
        self.add(
            "a trust root signed by the online key",
            "trust-root",
            "",
            offer(None, Some((next, forged.to_json()))),
        );
        root.operator_keys = vec![self.keys.online.public().to_string()];
        let payload = serde_json::to_vec(&root)?;
        let forged = Envelope::sign(trust::PAYLOAD_TYPE, payload, &[&self.keys.online]);
        self.add(
            "a trust root with the thief as the operator",
            "trust-root",
            "",
            offer(None, Some((next, forged.to_json()))),
        );
        let offer = Offer {
            bundle: Some(vec![b'['; limits::BUNDLE_ENVELOPE + 1]),
            ..Offer::default()
        };
        self.add("endless data", "too-large", "is longer than", offer);
        Ok(())
    }
}

/// The bundle that the host was given last, out of the master's own store.
fn last_bundle(scene: &Scene, host: &str) -> Result<(Value, String)> {
    let store = RedbStore::open(&decnet::init::store_path(&scene.master.state_dir))?;
    let id: HostId = host.parse()?;
    let record: Option<EnvelopeRecord> = Db::new(store).read(|r| r.get::<EnvelopeRecord>(&id))?;
    let envelope = record.context("the host was given a bundle")?.0;
    let envelope = Envelope::parse(envelope.as_bytes(), limits::BUNDLE_ENVELOPE)?;
    let bundle = serde_json::from_slice(envelope.unverified_payload())?;
    Ok((bundle, envelope.digest().to_string()))
}

fn status(agent: &Agent) -> Result<Value> {
    Ok(serde_json::from_str(
        &agent.command(&["status", "--json"])?.ok()?,
    )?)
}

/// Everything of the host's on the engine, and whatever has a hostile name.
fn on_the_engine(host: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (name, container) in engine::containers(host)? {
        all.push(format!("container {name} {}", container.id));
    }
    for network in engine::networks(host)? {
        all.push(format!("network {network}"));
    }
    for (what, list) in [
        (
            "container",
            docker(&["ps", "-a", "--format", "{{.Names}} {{.Image}}"])?,
        ),
        ("network", docker(&["network", "ls", "--format", "{{.Name}}"])?),
        ("volume", docker(&["volume", "ls", "--format", "{{.Name}}"])?),
        (
            "image",
            docker(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"])?,
        ),
    ] {
        let hostile = list.lines().filter(|line| line.contains(MARK));
        all.extend(hostile.map(|line| format!("hostile {what} {line}")));
    }
    Ok(all)
}

/// As `docker events` takes it: to the nanosecond, or what happened earlier in the same second would count.
fn moment() -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(format!("{}.{:09}", now.as_secs(), now.subsec_nanos()))
}

/// How many hosts share the cases: each waits for its agent's pause after every refusal.
const HOSTS: usize = 6;

#[test]
fn a_stolen_master_reaches_nothing_on_a_host_that_its_operator_has_forbidden() -> Result<()> {
    let mut scene = Scene::swarm("stolen master")?;
    let mut targets = Vec::new();
    for number in 0..HOSTS {
        let lan = Lan::create(&scene.seed)?;
        let (agent, host) = scene.agent(&format!("there-{number}"), &lan, None)?;
        targets.push(Target {
            agent,
            host,
            lan,
            offer: Arc::default(),
        });
    }
    for number in 0..HOSTS {
        scene.explained(scene.operator.active(&format!("there-{number}")))?;
    }
    let text = format!(
        "{}\n[{}]\nservices = redis\namount = {HOSTS}\n",
        scene.lan.general(),
        scene.prefix
    );
    let rows = scene.operator.deploy(&scene.describe("a.ini", &text)?, false)?;
    scene.explained(scene.operator.succeeded(&rows))?;

    let before = hold(&mut scene, &targets)?;
    let accepted = steal(&mut scene, &targets)?;
    let state_dir = scene.master.state_dir.clone();
    let at = SocketAddr::from(([127, 0, 0, 1], scene.master.agent_port));
    let keys = || MasterKeys::load(&decnet::init::keys_path(&state_dir));
    ensure!(
        !keys()?.has_operator_key(),
        "the operator's key is still on the master"
    );
    let mut offers = HashMap::new();
    for target in &targets {
        offers.insert(target.host.parse()?, Arc::clone(&target.offer));
    }
    let thief = Thief::start(&keys()?, at, Arc::new(offers))?;

    println!("{:>3}  {:<52} {:<18} DETAIL", "", "HOSTILE DOCUMENT", "TOLD AS");
    let since = moment()?;
    let wrong = std::thread::scope(|scope| {
        let mut shares = Vec::new();
        for (number, (target, (bundle, digest))) in targets.iter().zip(accepted).enumerate() {
            let keys = keys()?;
            shares.push(scope.spawn(move || {
                let mut loot = Loot {
                    keys,
                    accepted: bundle,
                    digest,
                    cases: Vec::new(),
                };
                loot.all(&target.lan)?;
                ensure!(loot.cases.len() >= 40, "{} cases", loot.cases.len());
                share(target, loot.cases, number)
            }));
        }
        let mut wrong = Vec::new();
        for share in shares {
            match share.join() {
                Ok(outcome) => wrong.extend(outcome?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok::<_, anyhow::Error>(wrong)
    })?;
    ensure!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );

    // Nothing happened on the engine meanwhile that was a host's, or had a hostile name.
    let until_now = moment()?;
    let stream = docker(&[
        "events",
        "--since",
        &since,
        "--until",
        &until_now,
        "--format",
        "{{json .}}",
    ])?;
    let concerns =
        |line: &str| line.contains(MARK) || targets.iter().any(|target| line.contains(&target.host));
    let ours: Vec<&str> = stream.lines().filter(|line| concerns(line)).collect();
    ensure!(ours.is_empty(), "{ours:?}");
    for (target, before) in targets.iter().zip(&before) {
        let after = status(&target.agent)?;
        for key in ["accepted", "trust_root_version"] {
            ensure!(
                after[key] == before[key],
                "{key}: {} became {}",
                before[key],
                after[key]
            );
        }
        ensure!(after["policy"]["version"] == 2, "{}", after["policy"]);
    }

    // What was accepted is still repaired, also by an agent that was started anew.
    let Target { agent, host, .. } = &mut targets[0];
    agent.stop()?;
    let service = engine::containers(host)?
        .into_iter()
        .find(|(_, container)| container.service() != "base")
        .context("the decky has a service")?
        .0;
    docker(&["rm", "-f", &service])?;
    agent.start()?;
    until("the service is back", TOLD, || {
        let back = engine::container(&service)?.is_some();
        Ok(Seen::when(back, "it is not there"))
    })?;
    thief.stop();
    scene.master.start()?;
    scene.end()?;
    drop(targets);
    Ok(())
}

/// The operator signs two policies, and asks for the second; then the key goes away. Gives each host's status.
fn hold(scene: &mut Scene, targets: &[Target]) -> Result<Vec<Value>> {
    let state_dir = scene.master.state_dir.clone();
    let state = state_dir.to_str().context("not UTF-8")?;
    let (mut parents, mut ranges) = (Vec::new(), Vec::new());
    for target in targets {
        let address = engine::containers(&target.host)?
            .values()
            .find_map(engine::Container::endpoint)
            .context("the decky has an address")?
            .0;
        parents.push(target.lan.parent().to_owned());
        ranges.push(format!("{address}/32"));
        ranges.push(format!("{}/32", target.lan.address(77)));
    }
    scene.master.stop()?;
    let (bundle, _) = last_bundle(scene, &targets[0].host)?;
    scene.master.start()?;
    let rules = format!(
        "days = 3\ncapabilities = [\"NET_RAW\"]\negress = [\"udp/192.0.2.1:53\"]\n[images]\ndigests = {}\n\
         [[mounts]]\npath = \"/srv/decnet-test\"\n[networks]\ndrivers = [\"macvlan\"]\nparents = {parents:?}\n\
         ranges = {ranges:?}\n[resources]\nmemory = \"64m\"\ncpus = 0.5\npids = 64\ncontainers = 2\ndeckies = 1\n",
        bundle["blobs"][0]["kind"]["image_ids"],
    );
    let file = scene.describe("policy.toml", &rules)?;
    let file = file.to_str().context("not UTF-8")?;
    let mut policies = Vec::new();
    for more in [&["--json"][..], &["--require", "--json"]] {
        let mut sign = vec!["policy", "sign", file, "--state-dir", state];
        sign.extend(more);
        scene.operator.command(&sign)?.ok()?;
        policies.push(scene.operator.json(&["policy", "show"])?);
    }
    ensure!(policies[1]["required"] == 2, "{}", policies[1]);
    let away = scene.folder().join("operator.pem");
    let away = away.to_str().context("not UTF-8")?;
    scene
        .operator
        .command(&["key", "offline", away, "--state-dir", state])?
        .ok()?;
    let held = |target: &Target| {
        until("the agent holds the policy, and a bundle by it", TOLD, || {
            let status = status(&target.agent)?;
            let holds = status["policy"]["version"] == 2
                && status["policy"]["bundle"] == 2
                && status["trust_root_version"] == 2
                && status["running"]["converged"] == true;
            Ok(if holds {
                Seen::Done(status)
            } else {
                Seen::not_yet(&status["policy"])
            })
        })
    };
    targets.iter().map(held).collect()
}

/// The master ends, once its newest bundles are those that the hosts have accepted; gives these and their digests.
fn steal(scene: &mut Scene, targets: &[Target]) -> Result<Vec<(Value, String)>> {
    until("the newest bundles are the accepted ones", TOLD, || {
        let mut known = Vec::new();
        for target in targets {
            known.push(status(&target.agent)?["accepted"]["generation"].clone());
        }
        scene.master.stop()?;
        let bundles = targets
            .iter()
            .map(|target| last_bundle(scene, &target.host))
            .collect::<Result<Vec<_>>>()?;
        if bundles.iter().map(|(bundle, _)| &bundle["generation"]).eq(&known) {
            return Ok(Seen::Done(bundles));
        }
        scene.master.start()?;
        Ok(Seen::not_yet(format!("{known:?}")))
    })
}

/// Tries a host's share of the cases on it; gives what was not as expected.
fn share(target: &Target, cases: Vec<Case>, number: usize) -> Result<Vec<String>> {
    let started = || -> Result<Vec<String>> {
        let containers = engine::containers(&target.host)?.into_values();
        Ok(containers.map(|container| container.started_at).collect())
    };
    let (seen, first) = (on_the_engine(&target.host)?, started()?);
    let mut wrong = Vec::new();
    for (at, case) in cases.into_iter().enumerate() {
        if at % HOSTS != number {
            continue;
        }
        let told = target.try_on(case.offer);
        let (code, detail) = match told {
            Ok(told) => told,
            Err(error) => ("NOTHING".to_owned(), format!("{error:#}").replace('\n', " ")),
        };
        let short = |text: &str, most: usize| text.chars().take(most).collect::<String>();
        let line = format!(
            "{:>3}  {:<52} {:<18} {}",
            at + 1,
            short(&case.name, 52),
            code,
            short(&detail, 140)
        );
        println!("{line}");
        if code != case.code || !detail.contains(case.detail) {
            wrong.push(format!("{line}; expected {} with {:?}", case.code, case.detail));
        }
        let now = on_the_engine(&target.host)?;
        ensure!(now == seen, "after {}: {now:?}, not {seen:?}", case.name);
    }
    let last = started()?;
    ensure!(last == first, "{first:?} became {last:?}");
    Ok(wrong)
}

/// Adds to a list; a bundle without one gets one.
fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    }
}
