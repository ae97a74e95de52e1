//! A scrape as Prometheus makes it, read by the letter.

mod exposition;

use std::sync::Arc;

use decnet_wire::ids::{HostId, Timestamp};
use decnet_wire::report::{self, Event, EventBody, Heartbeat, Outcome, Report};
use hyper::Method;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::audit::{Action, Actor};
use crate::control::Alarm;
use crate::control::events::topic::Filter;
use crate::control::rows::RowFilter;
use crate::serve::listen::{self, Bounds, limits};
use crate::serve::operator::for_peer;
use crate::serve::operator::testing::{FLEET, Master};
use exposition::Exposition;

/// A master on a socket, whose connections are counted.
struct Served {
    master: Master,
    socket: std::path::PathBuf,
    _end: tokio_util::sync::DropGuard,
}

impl Served {
    async fn start() -> Self {
        let master = Master::new();
        let socket = master.folder.path().join("master.sock");
        let end = CancellationToken::new();
        let listener = listen::bind_unix(&socket).await.unwrap();
        let router = master.router.clone();
        let metrics = master.control.metrics();
        metrics.store_is_at(crate::init::store_path(&master.folder.path().join("master")));
        tokio::spawn(listen::serve_unix(
            listener,
            Bounds::new(limits::LOCAL, metrics.listener("local")),
            end.clone(),
            move |remote| TowerToHyperService::new(for_peer(router.clone(), &remote)),
        ));
        Self {
            master,
            socket,
            _end: end.drop_guard(),
        }
    }

    /// Asks as a viewer, and gives out the head and the body.
    async fn get(&self, path: &str, token: &str) -> (String, String) {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: m\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    async fn scrape(&self) -> Exposition {
        let (head, body) = self.get("/metrics", &self.master.viewer).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains(super::CONTENT_TYPE), "{head}");
        Exposition::read(&body)
    }

    /// Every open operation of the host ends so; each is said twice.
    fn end_all(&self, host: HostId, outcome: &Outcome) {
        let control = &self.master.control;
        let filter = RowFilter {
            open: true,
            host: Some(host),
            limit: 1000,
        };
        let at = Timestamp::new(time::OffsetDateTime::now_utc());
        let events: Vec<Event> = (1..)
            .zip(control.list_rows(filter).unwrap())
            .map(|(seq, row)| Event {
                seq,
                at,
                body: EventBody::Operation {
                    id: row.id,
                    decky: row.decky,
                    kind: row.operation,
                    outcome: outcome.clone(),
                },
            })
            .collect();
        let report = Report {
            schema: report::SCHEMA,
            heartbeat: Heartbeat {
                update: None,
                agent_version: "test".to_owned(),
                sent_at: at,
                accepted: None,
                converged: false,
                reason: None,
                engine: None,
                pending: Vec::new(),
            },
            observed: None,
            events,
        };
        for _ in 0..2 {
            control.ingest(host, &report).unwrap();
        }
        let mut absurd = report;
        absurd.events[0].seq = u64::MAX;
        control.ingest(host, &absurd).unwrap_err();
    }
}

#[tokio::test]
async fn a_new_master_is_scraped_and_every_family_is_told_of() {
    let served = Served::start().await;
    let scraped = served.scrape().await;
    for (family, kind) in [
        ("decnet_build", "info"),
        ("decnet_lifecycle_transitions", "counter"),
        ("decnet_lifecycle_duration_seconds", "histogram"),
        ("decnet_lifecycle_open", "gauge"),
        ("decnet_hosts", "gauge"),
        ("decnet_deckies", "gauge"),
        ("decnet_reports", "counter"),
        ("decnet_reports_rejected", "counter"),
        ("decnet_report_events", "counter"),
        ("decnet_report_events_duplicate", "counter"),
        ("decnet_report_duration_seconds", "histogram"),
        ("decnet_bundles_published", "counter"),
        ("decnet_polls_waiting", "gauge"),
        ("decnet_store_commit_duration_seconds", "histogram"),
        ("decnet_store_commits_failed", "counter"),
        ("decnet_store_size_bytes", "gauge"),
        ("decnet_events", "counter"),
        ("decnet_event_readers", "gauge"),
        ("decnet_event_gaps", "counter"),
        ("decnet_listener_connections", "gauge"),
        ("decnet_listener_accepted", "counter"),
        ("decnet_listener_refused", "counter"),
        ("decnet_audit_entries", "counter"),
        ("decnet_alarms", "counter"),
        ("decnet_spans_exported", "counter"),
        ("decnet_spans_dropped", "counter"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_open_fds", "gauge"),
        ("process_max_fds", "gauge"),
        ("process_start_time_seconds", "gauge"),
    ] {
        assert_eq!(scraped.kind(family), Some(kind), "{family}");
    }
    assert!(scraped.value("process_resident_memory_bytes", &[]) > 1e6);
    assert!(scraped.value("decnet_store_size_bytes", &[]) > 1e3);
    assert_eq!(scraped.value("decnet_hosts", &[("state", "active")]), 0.0);
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(scraped.value("decnet_build_info", &version), 1.0);
}

#[tokio::test]
async fn counters_move_with_what_happens() {
    let served = Served::start().await;
    let control = Arc::clone(&served.master.control);
    let before = served.scrape().await;
    let host = served.master.enrol("edge-01");
    let request = crate::control::deploy::DeployRequest::of_text(FLEET, false);
    control.deploy(&Actor::master(), &request).unwrap();
    control.publish_due().unwrap();
    let deploys = |status| [("operation", "deploy"), ("status", status)];

    let asked = served.scrape().await;
    let moved = |name, labels: &[(&str, &str)]| asked.value(name, labels) - before.value(name, labels);
    assert_eq!(
        moved("decnet_lifecycle_transitions_total", &deploys("pending")),
        2.0
    );
    assert_eq!(moved("decnet_lifecycle_open", &[("status", "pending")]), 2.0);
    assert_eq!(moved("decnet_hosts", &[("state", "enrolled")]), 1.0);
    assert_eq!(moved("decnet_deckies", &[("state", "pending")]), 2.0);
    assert_eq!(moved("decnet_bundles_published_total", &[]), 1.0);
    assert_eq!(moved("decnet_events_total", &[("kind", "lifecycle")]), 2.0);
    assert_eq!(moved("decnet_events_total", &[("kind", "mutation")]), 2.0);
    assert_eq!(moved("decnet_events_total", &[("kind", "host_state")]), 2.0);
    // Invited, enrolled, deployed.
    assert_eq!(moved("decnet_audit_entries_total", &[]), 3.0);
    assert!(moved("decnet_store_commit_duration_seconds_count", &[]) >= 4.0);
    assert_eq!(
        moved("decnet_listener_accepted_total", &[("listener", "local")]),
        1.0
    );
    assert_eq!(
        asked.value("decnet_listener_connections", &[("listener", "local")]),
        1.0
    );

    served.end_all(host, &Outcome::Succeeded);
    let reader = control.events().subscribe(Filter::all());
    let mut lost = control.events().resume(Filter::all(), "nonsense");
    lost.next().await;
    let alarm = |from: u8| {
        let by = Actor::stranger(Some([192, 0, 2, from].into()));
        control.alarm(&Alarm::new(Action::AlarmTokenReuse, &by, "host/edge-01", "tried"));
    };
    (1..=3).for_each(alarm);
    let after = served.scrape().await;
    let moved = |name, labels: &[(&str, &str)]| after.value(name, labels) - asked.value(name, labels);
    assert_eq!(
        moved("decnet_lifecycle_transitions_total", &deploys("succeeded")),
        2.0
    );
    assert_eq!(
        moved("decnet_lifecycle_duration_seconds_count", &deploys("succeeded")),
        2.0
    );
    assert_eq!(
        after.value("decnet_lifecycle_open", &[("status", "pending")]),
        0.0
    );
    assert_eq!(after.value("decnet_hosts", &[("state", "active")]), 1.0);
    assert_eq!(after.value("decnet_hosts", &[("state", "enrolled")]), 0.0);
    assert_eq!(moved("decnet_reports_total", &[]), 2.0);
    assert_eq!(moved("decnet_report_events_total", &[]), 4.0);
    assert_eq!(moved("decnet_report_events_duplicate_total", &[]), 2.0);
    assert_eq!(
        moved("decnet_reports_rejected_total", &[("reason", "numbers")]),
        1.0
    );
    assert_eq!(moved("decnet_report_duration_seconds_count", &[]), 3.0);
    assert_eq!(moved("decnet_event_readers", &[]), 2.0);
    assert_eq!(moved("decnet_event_gaps_total", &[("reason", "unknown")]), 1.0);
    // The third of them waits for its turn in the audit log, and is counted all the same.
    let tried = [("action", Action::AlarmTokenReuse.as_str())];
    assert_eq!(moved("decnet_alarms_total", &tried), 3.0);
    drop((reader, lost));
    assert_eq!(served.scrape().await.value("decnet_event_readers", &[]), 0.0);
}

#[tokio::test]
async fn metrics_want_a_token_and_name_nobody() {
    let served = Served::start().await;
    served.master.enrol("edge-01");
    served
        .master
        .ask(
            Method::POST,
            "/deckies/deploy",
            Some(serde_json::json!({ "ini_content": FLEET })),
        )
        .await;
    let (head, body) = served.get("/metrics", "nobody").await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    assert!(!body.contains("decnet_"), "{body}");
    let (_, body) = served.get("/metrics", &served.master.viewer).await;
    let host = served.master.control.hosts().unwrap()[0].host.id.to_string();
    for name in ["edge-01", "printer", "10.9.0.", &host] {
        assert!(!body.contains(name), "{name}");
    }
}
