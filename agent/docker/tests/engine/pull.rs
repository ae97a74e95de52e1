//! Pulls, from a registry on the loopback interface: engines take one there without TLS.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use decnet_docker::{EngineError, Progress};
use decnet_plan::step::Step;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::image::{Image, own_layer, sha256};
use crate::lab::Lab;

/// A body and its type, by path.
type Answers = HashMap<String, (&'static str, Vec<u8>)>;

/// The part of the registry's protocol (OCI Distribution Specification, "Pull") that an engine uses.
struct Registry {
    address: String,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

impl Registry {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answers = Arc::new(Mutex::new(HashMap::from([(
            "/v2/".to_owned(),
            ("application/json", b"{}".to_vec()),
        )])));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (theirs, log) = (Arc::clone(&answers), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, asked) = (Arc::clone(&theirs), Arc::clone(&log));
                tokio::spawn(async move {
                    let _ = answer(stream, &answers, &asked).await;
                });
            }
        });
        Self {
            address,
            answers,
            asked,
            task,
        }
    }

    /// Gives out an image under a tag; returns its manifest's digest.
    fn serve(&self, name: &str, tag: &str, image: &Image) -> String {
        let part = |kind: &str, bytes: &[u8]| {
            let media = format!("application/vnd.docker.{kind}");
            json!({"mediaType": media, "size": bytes.len(), "digest": sha256(bytes).as_str()})
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": part("container.image.v1+json", &image.config),
            "layers": [part("image.rootfs.diff.tar.gzip", &image.layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = sha256(&manifest).to_string();
        let mut answers = self.answers.lock().unwrap();
        for version in [tag, &digest] {
            answers.insert(
                format!("/v2/{name}/manifests/{version}"),
                (MANIFEST, manifest.clone()),
            );
        }
        for bytes in [&image.config, &image.layer] {
            let path = format!("/v2/{name}/blobs/{}", sha256(bytes));
            answers.insert(path, ("application/octet-stream", bytes.clone()));
        }
        digest
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn answer(
    mut stream: TcpStream,
    answers: &Mutex<Answers>,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split_ascii_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    asked.lock().unwrap().push(format!("{method} {path}"));
    let found = answers.lock().unwrap().get(path).cloned();
    let (status, (kind, body)) = match found {
        Some(found) => ("200 OK", found),
        None => ("404 Not Found", ("application/json", b"{\"errors\":[]}".to_vec())),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Docker-Distribution-Api-Version: registry/2.0\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(&body).await?;
    }
    stream.shutdown().await
}

fn pull(reference: &str, always: bool, optional: bool) -> Step {
    Step::PullImage {
        reference: reference.to_owned(),
        platform: None,
        always,
        optional,
    }
}

#[tokio::test]
async fn a_tag_is_pulled_with_its_layers_told_and_asked_for_again_only_on_demand() {
    let mut lab = Lab::new().await;
    let registry = Registry::new().await;
    let name = format!("{}-pulled", lab.tag);
    let first = own_layer(&format!("{name}:one"));
    registry.serve(&name, "1", &first);
    let reference = format!("{}/{name}:1", registry.address);
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let engine = lab
        .engine
        .clone()
        .with_progress(Arc::new(move |progress: Progress| {
            sink.lock().unwrap().push(progress);
        }));
    engine.apply(&pull(&reference, false, false), &lab).await.unwrap();
    let layers = told.lock().unwrap().clone();
    let complete = |progress: &Progress| {
        matches!(progress, Progress::Layer { image, layer: Some(_), state, .. }
            if *image == reference && state == "Pull complete")
    };
    assert!(layers.iter().any(complete), "{layers:?}");
    assert_eq!(
        lab.docker.inspect_image(&reference).await.unwrap().id.unwrap(),
        first.id
    );

    let before = registry.asked();
    lab.apply(&pull(&reference, false, false)).await.unwrap();
    assert_eq!(registry.asked(), before, "what is there is not asked for");
    let second = own_layer(&format!("{name}:two"));
    registry.serve(&name, "1", &second);
    lab.apply(&pull(&reference, true, false)).await.unwrap();
    assert_eq!(
        lab.docker.inspect_image(&reference).await.unwrap().id.unwrap(),
        second.id
    );
    lab.images.extend([first, second]);
}

#[tokio::test]
async fn a_digest_is_pulled_and_one_that_does_not_fit_is_refused() {
    let mut lab = Lab::new().await;
    let registry = Registry::new().await;
    let name = format!("{}-pinned", lab.tag);
    let good = own_layer(&format!("{name}:good"));
    let digest = registry.serve(&name, "1", &good);
    let reference = format!("{}/{name}@{digest}", registry.address);
    // The registry gives another manifest than the one that the digest names.
    let other = own_layer(&format!("{name}:other"));
    let path = format!("/v2/{name}/manifests/{digest}");
    let right = registry.answers.lock().unwrap()[&path].clone();
    registry.serve(&name, "2", &other);
    let wrong = registry.answers.lock().unwrap()[&format!("/v2/{name}/manifests/2")].clone();
    registry.answers.lock().unwrap().insert(path.clone(), wrong);
    let error = lab.apply(&pull(&reference, false, false)).await.unwrap_err();
    assert!(!error.retryable(), "{error:?}");
    assert!(
        lab.docker.inspect_image(&other.id).await.is_err(),
        "nothing of it is kept"
    );

    registry.answers.lock().unwrap().insert(path, right);
    lab.apply(&pull(&reference, false, false)).await.unwrap();
    assert_eq!(
        lab.docker.inspect_image(&reference).await.unwrap().id.unwrap(),
        good.id
    );
    lab.images.extend([good, other]);
}

#[tokio::test]
async fn a_layer_that_was_tampered_with_is_refused() {
    let mut lab = Lab::new().await;
    let registry = Registry::new().await;
    let name = format!("{}-layer", lab.tag);
    let good = own_layer(&format!("{name}:good"));
    registry.serve(&name, "1", &good);
    let path = format!("/v2/{name}/blobs/{}", sha256(&good.layer));
    let mut bytes = good.layer.clone();
    bytes[600] ^= 1;
    registry
        .answers
        .lock()
        .unwrap()
        .insert(path, ("application/octet-stream", bytes));
    let reference = format!("{}/{name}:1", registry.address);
    let error = lab.apply(&pull(&reference, false, false)).await.unwrap_err();
    assert!(matches!(error, EngineError::Call { .. }), "{error:?}");
    assert!(lab.docker.inspect_image(&reference).await.is_err());
    lab.images.push(good);
}

#[tokio::test]
async fn a_pull_that_may_fail_does_and_one_that_may_not_names_the_image() {
    let lab = Lab::new().await;
    let registry = Registry::new().await;
    let reference = format!("{}/{}-none:1", registry.address, lab.tag);
    let error = lab.apply(&pull(&reference, false, false)).await.unwrap_err();
    assert!(error.to_string().contains(&reference), "{error}");
    lab.apply(&pull(&reference, false, true)).await.unwrap();
}
