//! Images that are built here.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use decnet_docker::{Builder, Engine, EngineError, Progress};
use decnet_plan::step::{BuildContext, BuildSpec, Dockerfile, Step, Ulimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::image::{binary, sha256, tar};
use crate::lab::{Lab, SOCKET, start};

fn spec(tag: String, context: BuildContext, dockerfile: Dockerfile) -> BuildSpec {
    BuildSpec {
        tags: vec![tag],
        context,
        dockerfile,
        args: BTreeMap::new(),
        target: None,
        labels: BTreeMap::new(),
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        platform: None,
        network: None,
        extra_hosts: Vec::new(),
        shm_size: None,
        ulimits: BTreeMap::new(),
        no_cache: false,
        pull: false,
        additional_contexts: BTreeMap::new(),
    }
}

fn build(spec: &BuildSpec) -> Step {
    Step::BuildImage {
        build: Box::new(spec.clone()),
    }
}

/// The program that runs everywhere, as `decoy` in the folder.
fn write_decoy(folder: &Path) {
    let path = folder.join("decoy");
    std::fs::write(&path, binary()).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// What the image that comes of it says of where it comes from.
async fn built_from(lab: &Lab, spec: &BuildSpec) -> String {
    lab.apply(&build(spec)).await.unwrap();
    let image = lab.docker.inspect_image(&spec.tags[0]).await.unwrap();
    image.config.unwrap().labels.unwrap()["from"].clone()
}

#[tokio::test]
async fn buildkit_makes_a_folder_an_image_that_runs_with_every_option() {
    with_every_option(Builder::BuildKit).await;
}

#[tokio::test]
async fn the_classic_builder_makes_a_folder_an_image_that_runs_with_every_option() {
    with_every_option(Builder::Classic).await;
}

async fn with_every_option(builder: Builder) {
    let lab = Lab::building_with(builder).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write_decoy(folder.path());
    file("secret", b"s");
    file(".dockerignore", b"*\n!decoy\n");
    // What BuildKit alone understands shows that it is the one.
    let mount = match builder {
        Builder::BuildKit => "--mount=type=tmpfs,target=/t ",
        Builder::Classic => "",
    };
    let text = format!(
        "FROM scratch AS one\nARG WHO\nLABEL who=$WHO\nCOPY . /\nRUN {mount}[\"/decoy\", \"true\"]\n\
         ENTRYPOINT [\"/decoy\"]\nFROM one AS two\nLABEL two=yes\n"
    );
    file("Dockerfile", text.as_bytes());
    let context = BuildContext::Folder {
        path: folder.path().display().to_string(),
    };
    let path = Dockerfile::Path {
        path: "Dockerfile".to_owned(),
    };
    let tag = |n: u8| format!("decnet-test/{}-built:{n}", lab.tag);
    let mut spec = spec(tag(1), context, path);
    spec.tags.push(tag(2));
    spec.args = BTreeMap::from([
        ("WHO".to_owned(), Some("me".to_owned())),
        ("NONE".to_owned(), None),
    ]);
    spec.labels = BTreeMap::from([("more".to_owned(), "x".to_owned())]);
    spec.target = Some("one".to_owned());
    spec.network = Some("none".to_owned());
    spec.extra_hosts = vec!["h:192.0.2.1".to_owned(), "i:192.0.2.2".to_owned()];
    if builder == Builder::Classic {
        spec.shm_size = Some(1 << 20);
        spec.ulimits = BTreeMap::from([("nofile".to_owned(), Ulimit { soft: 100, hard: 200 })]);
    }

    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let engine = lab
        .engine
        .clone()
        .with_progress(Arc::new(move |progress: Progress| {
            sink.lock().unwrap().push(progress);
        }));
    engine.apply(&build(&spec), &lab).await.unwrap();
    let told = told.lock().unwrap().clone();
    let said = |words: &str| {
        told.iter()
            .any(|progress| matches!(progress, Progress::Build { line, .. } if line.contains(words)))
    };
    assert!(said("COPY . /"), "{told:?}");

    let image = lab.docker.inspect_image(&tag(2)).await.unwrap();
    let config = image.config.unwrap();
    let labels = config.labels.unwrap();
    assert_eq!((labels["who"].as_str(), labels["more"].as_str()), ("me", "x"));
    assert!(!labels.contains_key("two"), "only the target is built");
    let mut container = lab.spec("a");
    container.image = vec![tag(1)];
    lab.create(&container).await;
    lab.apply(&start(&container.name, 300)).await.unwrap();
    let exported = lab.docker.export_container(&container.name);
    let exported: Vec<_> = futures_util::TryStreamExt::try_collect(exported).await.unwrap();
    let exported = exported.concat();
    let mut archive = tar::Archive::new(exported.as_slice());
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.iter().any(|name| name == "decoy"), "{names:?}");
    assert!(!names.iter().any(|name| name == "secret"), "{names:?}");
}

#[tokio::test]
async fn an_archive_is_built_with_its_own_dockerfile_or_one_from_the_document() {
    for builder in [Builder::BuildKit, Builder::Classic] {
        of_archives(builder).await;
    }
}

async fn of_archives(builder: Builder) {
    let mut lab = Lab::building_with(builder).await;
    let own = b"FROM scratch\nCOPY a /a\nLABEL from=archive\n";
    lab.blobs = vec![tar(&[("a", b"a", 0o644), ("sub/Dockerfile", own, 0o644)])];
    let context = BuildContext::Blob {
        digest: sha256(&lab.blobs[0]),
        size: lab.blobs[0].len() as u64,
    };
    let own = Dockerfile::Path {
        path: "sub/Dockerfile".to_owned(),
    };
    let inline = Dockerfile::Inline {
        text: "FROM scratch\nCOPY a /a\nLABEL from=document\n".to_owned(),
    };
    for (n, dockerfile, from) in [(1, own, "archive"), (2, inline, "document")] {
        let tag = format!("decnet-test/{}-blob:{n}", lab.tag);
        let spec = spec(tag, context.clone(), dockerfile);
        assert_eq!(built_from(&lab, &spec).await, from);
    }
}

/// BuildKit, on an engine that has it, unless the build asks for what it cannot do.
#[tokio::test]
async fn who_says_nothing_has_the_builder_that_can_do_it() {
    let lab = Lab::new().await;
    let folder = tempfile::tempdir().unwrap();
    write_decoy(folder.path());
    let context = BuildContext::Folder {
        path: folder.path().display().to_string(),
    };
    let inline = Dockerfile::Inline {
        text: "FROM scratch\nCOPY decoy /\nRUN --mount=type=tmpfs,target=/t [\"/decoy\", \"true\"]\n"
            .to_owned(),
    };
    let mut spec = spec(format!("decnet-test/{}-which:1", lab.tag), context, inline);
    lab.apply(&build(&spec)).await.unwrap();
    spec.shm_size = Some(1 << 20);
    let error = lab.apply(&build(&spec)).await.unwrap_err();
    let source = error.to_string();
    assert!(
        source.contains("BuildKit"),
        "the classic builder's own words: {source}"
    );
}

/// What `tar --format=posix` writes: BuildKit takes it for a Dockerfile.
#[tokio::test]
async fn an_archive_that_buildkit_does_not_know_is_built_all_the_same() {
    let mut lab = Lab::new().await;
    let mut archive = ::tar::Builder::new(Vec::new());
    let text = b"FROM scratch\nCOPY Dockerfile /\nLABEL from=posix\n";
    archive
        .append_pax_extensions([("mtime", b"1.5".as_slice())])
        .unwrap();
    let mut header = ::tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "Dockerfile", text.as_slice())
        .unwrap();
    lab.blobs = vec![archive.into_inner().unwrap()];
    let context = BuildContext::Blob {
        digest: sha256(&lab.blobs[0]),
        size: lab.blobs[0].len() as u64,
    };
    let dockerfile = Dockerfile::Path {
        path: "Dockerfile".to_owned(),
    };
    let tag = format!("decnet-test/{}-posix:1", lab.tag);
    let spec = spec(tag, context, dockerfile);
    assert_eq!(built_from(&lab, &spec).await, "posix");
}

/// The engine fetches it by itself; here it is an archive that a server on loopback has.
#[tokio::test]
async fn a_context_may_be_fetched_by_the_engine() {
    use std::io::{Read as _, Write as _};

    let archive = tar(&[
        ("a", b"far", 0o644),
        ("Dockerfile", b"FROM scratch\nCOPY a /a\nLABEL from=far\n", 0o644),
    ]);
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/context.tar", server.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in server.incoming() {
            let mut client = client.unwrap();
            // What is asked for is always the same.
            let _ = client.read(&mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nConnection: close\r\n";
            let _ = write!(client, "{head}Content-Length: {}\r\n\r\n", archive.len());
            let _ = client.write_all(&archive);
        }
    });
    for builder in [Builder::BuildKit, Builder::Classic] {
        let lab = Lab::building_with(builder).await;
        let tag = format!("decnet-test/{}-far:1", lab.tag);
        let context = BuildContext::Remote { url: url.clone() };
        let dockerfile = Dockerfile::Path {
            path: "Dockerfile".to_owned(),
        };
        let spec = spec(tag, context, dockerfile);
        assert_eq!(built_from(&lab, &spec).await, "far");
    }
}

#[tokio::test]
async fn a_build_that_fails_says_what_the_builder_said() {
    for builder in [Builder::BuildKit, Builder::Classic] {
        that_fails(builder).await;
    }
}

async fn that_fails(builder: Builder) {
    let lab = Lab::building_with(builder).await;
    let folder = tempfile::tempdir().unwrap();
    let context = BuildContext::Folder {
        path: folder.path().display().to_string(),
    };
    let inline = |text: &str| Dockerfile::Inline {
        text: text.to_owned(),
    };
    let tag = format!("decnet-test/{}-bad:1", lab.tag);
    let mut bad = spec(tag, context, inline("FROM scratch\nCOPY missing /\n"));
    let error = lab.apply(&build(&bad)).await.unwrap_err();
    let source = error.to_string();
    assert!(source.contains("missing"), "{source}");
    assert!(!error.retryable());
    write_decoy(folder.path());
    bad.dockerfile = inline("FROM scratch\nCOPY decoy /\nRUN [\"/decoy\", \"exit\", \"3\", \"0\"]\n");
    let error = lab.apply(&build(&bad)).await.unwrap_err();
    let source = error.to_string();
    assert!(
        source.contains("flux capacitor"),
        "what the program wrote: {source}"
    );
    bad.additional_contexts = BTreeMap::from([("x".to_owned(), "/".to_owned())]);
    let error = lab.apply(&build(&bad)).await.unwrap_err();
    assert!(matches!(error, EngineError::Unsupported { .. }), "{error:?}");
}

/// The engine's answer to the first call that builds is what it says when an image goes that it looks at.
#[tokio::test]
async fn an_image_that_goes_meanwhile_does_not_make_a_build_fail() {
    let mut lab = Lab::new().await;
    let (folder, sockets) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let socket = sockets.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let disturbed = tokio::spawn(async move {
        let said = "{\"error\":\"unable to find image \\\"sha256:0123\\\"\"}\n";
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len());
        let mut builds = 0;
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let read = client.read(&mut head).await.unwrap();
            head.truncate(read);
            if head.starts_with(b"POST /") && head.windows(7).any(|part| part == b"/build?") {
                builds += 1;
                if builds == 1 {
                    client.write_all(answer.as_bytes()).await.unwrap();
                    client.shutdown().await.unwrap();
                    // With what was sent and not read, the answer would be lost as well.
                    let _ = client.read_to_end(&mut Vec::new()).await;
                    continue;
                }
            }
            tokio::spawn(async move {
                let mut engine = UnixStream::connect(SOCKET).await.unwrap();
                engine.write_all(&head).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
            });
        }
    });
    lab.engine = Engine::connect(&socket)
        .await
        .unwrap()
        .building_with(Builder::Classic);
    let context = BuildContext::Folder {
        path: folder.path().display().to_string(),
    };
    let inline = Dockerfile::Inline {
        text: "FROM scratch\nCOPY a /a\nLABEL from=anew\n".to_owned(),
    };
    std::fs::write(folder.path().join("a"), "anew").unwrap();
    let spec = spec(format!("decnet-test/{}-anew:1", lab.tag), context, inline);
    assert_eq!(built_from(&lab, &spec).await, "anew");
    disturbed.abort();
}
