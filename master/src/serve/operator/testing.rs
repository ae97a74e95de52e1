//! A master on a temporary store, for the tests of the API and of the command line.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use decnet_pki::key::HostKey;
use decnet_wire::bundle::{Blob, BlobKind};
use decnet_wire::enrol::{self, EnrolRequest, EnrolResponse, Token};
use decnet_wire::ids::{Digest, HostId, Timestamp};
use http_body_util::BodyExt as _;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::Peer;
use crate::audit::Actor;
use crate::control::enrol::{HostNetworking, Invitation, Invited, TOKEN_LIFETIME};
use crate::control::{Addresses, Control, DecoyImage, Limits, Parts, system_clock};
use crate::fleet::catalogue::Catalogue;
use crate::init::{self, InitArgs};
use crate::keys::MasterKeys;
use crate::records::Role;
use crate::serve::installer::Installer;
use crate::serve::packages::Packages;
use crate::store::{Db, RedbStore};

/// A fleet of two deckies that needs nothing of the machine it is tested on.
pub(crate) const FLEET: &str = "[general]\nnet = 10.9.0.0/24\ngw = 10.9.0.1\ninterface = eth0\n\n\
                                [web]\nservices = ssh\n\n[printer]\nservices = snmp\n";

/// A master, and the folder that it lives in.
pub(crate) struct Master {
    pub(crate) control: Arc<Control>,
    pub(crate) router: Router,
    pub(crate) admin: String,
    pub(crate) viewer: String,
    /// The operator's and the master's certificates, for TLS.
    pub(crate) folder: tempfile::TempDir,
}

/// A new key, and the request with which it is traded for a certificate.
fn offer(invited: &Invited) -> (HostKey, EnrolRequest) {
    let key = HostKey::generate().unwrap();
    let request = EnrolRequest {
        schema: enrol::SCHEMA,
        host: invited.host,
        secret: read_token(&invited.token).secret,
        csr: decnet_pki::csr::create(&key).unwrap(),
        agent_version: "test".to_owned(),
    };
    (key, request)
}

impl Master {
    /// A master that was just initialised: no hosts, no deckies.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("master");
        let args = InitArgs {
            state_dir: state_dir.clone(),
            advertise: vec!["localhost".to_owned()],
        };
        let now = Timestamp::new(time::OffsetDateTime::now_utc());
        let admin = init::run(&args, now).unwrap().token;
        let reference = "decnet-decoy:test".to_owned();
        let digest = Digest::from_sha256([7; 32]);
        let kind = BlobKind::ImageArchive {
            reference: reference.clone(),
            image_ids: vec![digest.clone()],
        };
        let parts = Parts {
            db: Db::new(RedbStore::open(&init::store_path(&state_dir)).unwrap()),
            keys: MasterKeys::load(&init::keys_path(&state_dir)).unwrap(),
            catalogue: Catalogue::load(&[]).unwrap(),
            image: Some(DecoyImage {
                reference,
                blob: Blob {
                    digest,
                    size: 1,
                    kind,
                },
            }),
            addresses: Addresses {
                agent_api: "localhost:8770".to_owned(),
                enrolment: "localhost:8771".to_owned(),
            },
            blobs: state_dir.join("blobs"),
            detect: || None,
            limits: Limits::default(),
            tracer: decnet_trace::Tracer::off(),
        };
        let control = Control::new(parts, system_clock()).unwrap();
        let viewer = control
            .create_token(&Actor::master(), "viewer", Role::Viewer, None)
            .unwrap();
        let router = super::router(Arc::clone(&control), Arc::default(), CancellationToken::new());
        Self {
            control,
            router,
            admin,
            viewer,
            folder,
        }
    }

    /// The same master, which hands out a package of the agent.
    pub(crate) fn with_package(mut self, name: &str, bytes: &[u8]) -> Self {
        let packages = self.folder.path().join("packages");
        std::fs::create_dir_all(&packages).unwrap();
        std::fs::write(packages.join(name), bytes).unwrap();
        let packages = Packages::load(&packages).unwrap();
        let installer = Installer::new(packages, self.control.enrolment());
        self.router = super::router(
            Arc::clone(&self.control),
            Arc::new(installer),
            CancellationToken::new(),
        );
        self
    }

    /// Enrols a host, which is never heard of.
    pub(crate) fn enrol(&self, name: &str) -> HostId {
        let invited = self.invite(name);
        self.trade(&invited);
        invited.host
    }

    /// A token for a host.
    pub(crate) fn invite(&self, name: &str) -> Invited {
        self.invite_with(name, false)
    }

    /// A host whose key waits for approval; gives its id and its key's fingerprint.
    pub(crate) fn waiting(&self, name: &str) -> (HostId, String) {
        let invited = self.invite_with(name, true);
        let (key, request) = offer(&invited);
        let answer = self.control.enrol(&Actor::stranger(None), &request).unwrap();
        assert!(answer.is_none(), "it is let in without approval");
        (invited.host, key.digest().to_string())
    }

    fn invite_with(&self, name: &str, approve: bool) -> Invited {
        let invitation = Invitation {
            name: name.parse().unwrap(),
            network: HostNetworking::default(),
            lan: None,
            lifetime: TOKEN_LIFETIME,
            carried: false,
            notes: None,
            approve,
        };
        self.control.invite(&Actor::master(), &invitation).unwrap()
    }

    /// The answer that the token is traded for.
    pub(crate) fn trade(&self, invited: &Invited) -> EnrolResponse {
        let (_, request) = offer(invited);
        self.control
            .enrol(&Actor::stranger(None), &request)
            .unwrap()
            .unwrap()
    }

    /// A master with one host and the deckies of [`FLEET`].
    pub(crate) fn with_fleet() -> Self {
        let master = Self::new();
        master.enrol("edge-01");
        let request = crate::control::deploy::DeployRequest::of_text(FLEET, false);
        master.control.deploy(&Actor::master(), &request).unwrap();
        master
    }

    /// Asks as admin, over TLS, with a token.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.ask_as(&self.admin, method, path, body).await
    }

    /// Asks with a token.
    pub(crate) async fn ask_as(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("authorization", format!("Bearer {token}"));
        let request = match body {
            None => request.body(Body::empty()),
            Some(body) => request
                .header(CONTENT_TYPE, "application/json")
                .body(Body::from(body.to_string())),
        };
        self.send(
            request.unwrap(),
            Peer::Tls {
                address: "192.0.2.7:4711".parse().unwrap(),
            },
        )
        .await
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, mut request: Request, peer: Peer) -> Answer {
        request.extensions_mut().insert(peer);
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let headers = response.headers().clone();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Answer {
            status,
            headers,
            // A backup is no text.
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    pub(crate) fn detail(&self) -> String {
        self.json()["detail"]
            .as_str()
            .unwrap_or_else(|| panic!("no detail: {:?}", self.text))
            .to_owned()
    }
}

/// What an enrolment token says.
pub(crate) fn read_token(token: &str) -> Token {
    use base64::Engine as _;
    let text = token.strip_prefix("decnet1.").unwrap();
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .unwrap();
    serde_json::from_slice(&json).unwrap()
}
