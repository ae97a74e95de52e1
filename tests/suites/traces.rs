//! Traces: what an OpenTelemetry collector gets of an operation, and that operations do not care what it does with it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use decnet_tests::collector::{Collected, Collector, Manner};
use decnet_tests::command::{SHORT, program, run_with};
use decnet_tests::fleet::SETTLED;
use decnet_tests::processes::Agent;
use decnet_tests::scene::{Scene, journal};
use decnet_tests::wait::{Seen, until};
use serde_json::{Value, json};

/// The span of somebody who calls the master, and whom the collector does not know.
const CALLER: &str = "00f067aa0ba902b7";

/// Deploys a description as a part of somebody's trace; gives the ids of the rows.
fn deploy(scene: &Scene, ini: &str, trace: &str) -> Result<Vec<String>> {
    let socket = scene.master.socket.display().to_string();
    let header = format!("traceparent: 00-{trace}-{CALLER}-01");
    let mut command = program(
        "curl",
        &[
            "-sS",
            "--fail-with-body",
            "--max-time",
            "20",
            "--unix-socket",
            &socket,
            "-H",
            "Content-Type: application/json",
            "-H",
            &header,
            "--data-binary",
            "@-",
            "http://master/api/v1/deckies/deploy",
        ],
    );
    let body = json!({ "ini_content": ini }).to_string();
    let said = run_with(&mut command, body.as_bytes(), SHORT)?.ok()?;
    let said: Value = serde_json::from_str(&said)?;
    let ids = said["lifecycle_ids"].as_array().context("no ids")?;
    Ok(ids.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// The value of a series without labels.
fn metric(scene: &Scene, name: &str) -> Result<u64> {
    let socket = scene.master.socket.display().to_string();
    let arguments = [
        "-sS",
        "--max-time",
        "20",
        "--unix-socket",
        &socket,
        "http://master/metrics",
    ];
    let text = run_with(&mut program("curl", &arguments), b"", SHORT)?.ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    Ok(value.with_context(|| format!("no {name} in {text}"))?.parse()?)
}

/// Waits for a trace that holds the ends of an operation on both sides.
fn whole_trace(collector: &Collector, trace: &str) -> Result<Vec<Collected>> {
    until("the trace is whole", SETTLED, || {
        let spans = collector.trace(trace)?;
        let names: BTreeSet<&str> = spans.iter().map(|one| one.span.name.as_str()).collect();
        let ends = ["operation deploy", "host deploy"];
        Ok(if ends.iter().all(|end| names.contains(end)) {
            Seen::Done(spans)
        } else {
            Seen::not_yet(format!("{names:?}"))
        })
    })
}

/// What holds of every trace: ids that are ids, no span twice, every parent there, and nothing before its parent. All
/// programs have one clock here.
fn is_sound(trace: &str, spans: &[Collected]) -> Result<()> {
    let hex = |text: &str, digits| {
        text.len() == digits
            && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && text.bytes().any(|byte| byte != b'0')
    };
    let by_id: BTreeMap<&str, &Collected> =
        spans.iter().map(|one| (one.span.span_id.as_str(), one)).collect();
    ensure!(by_id.len() == spans.len(), "a span came twice: {spans:#?}");
    for Collected { span, .. } in spans {
        ensure!(span.trace_id == trace && hex(&span.trace_id, 32), "{span:?}");
        ensure!(hex(&span.span_id, 16), "{span:?}");
        ensure!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
        let parent = span
            .parent_span_id
            .as_deref()
            .context("a span without a parent")?;
        if parent == CALLER {
            ensure!(span.name == "POST /api/v1/deckies/deploy", "{span:?}");
            continue;
        }
        let parent = by_id.get(parent);
        let parent = parent.with_context(|| format!("its parent is not known: {span:?} in {spans:#?}"))?;
        ensure!(
            span.start_time_unix_nano >= parent.span.start_time_unix_nano,
            "{span:?} begins before its parent {parent:?}"
        );
    }
    Ok(())
}

fn named<'a>(spans: &'a [Collected], name: &str) -> Result<&'a Collected> {
    let mut found = spans.iter().filter(|one| one.span.name == name);
    let one = found
        .next()
        .with_context(|| format!("no span {name:?} in {spans:#?}"))?;
    ensure!(found.next().is_none(), "{name:?} came twice");
    Ok(one)
}

#[test]
fn an_operation_is_one_trace_from_request_to_step_and_cares_for_no_collector() -> Result<()> {
    let collector = Collector::start()?;
    let mut scene = Scene::prepare("traces", |master, _| {
        Ok(master.without_worker().with_collector(&collector.endpoint))
    })?;
    scene.master.start()?;
    let settings = scene.describe(
        "decnet.ini",
        &format!("[agent]\notlp_endpoint = {}\n", collector.endpoint),
    )?;
    let mut agent = Agent::new(scene.folder(), "worker").with_settings(&settings);
    let (host, token) = scene.operator.enroll("worker", Some(&scene.lan), &[])?;
    scene.owns(&host);
    agent.enrol(&token)?;
    agent.start()?;
    scene.operator.active("worker")?;
    let section = |name: &str| format!("[{}-{name}]\nservices = ssh\n", scene.prefix);
    let general = scene.lan.general();

    // One deploy, one trace.
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let rows = deploy(&scene, &format!("{general}\n{}", section("a")), trace)?;
    scene.explained(scene.operator.succeeded(&rows))?;
    let [id] = &rows[..] else {
        anyhow::bail!("one decky is one operation: {rows:?}")
    };
    let spans = whole_trace(&collector, trace)?;
    is_sound(trace, &spans)?;
    let request = named(&spans, "POST /api/v1/deckies/deploy")?;
    let operation = named(&spans, "operation deploy")?;
    ensure!(operation.span.parent_span_id.as_ref() == Some(&request.span.span_id));
    let moments: Vec<&str> = operation
        .span
        .events
        .iter()
        .map(|event| event.name.as_str())
        .collect();
    ensure!(moments == ["pending", "running", "succeeded"], "{moments:?}");
    let published: Vec<_> = spans
        .iter()
        .filter(|one| one.span.name == "publish bundle")
        .collect();
    ensure!(!published.is_empty(), "no bundle was published: {spans:#?}");
    let worked = named(&spans, "host deploy")?;
    for below in published.into_iter().chain([worked]) {
        ensure!(
            below.span.parent_span_id.as_ref() == Some(&operation.span.span_id),
            "{below:?}"
        );
    }
    let admitted = named(&spans, "admit bundle")?;
    let steps: Vec<_> = spans
        .iter()
        .filter(|one| one.span.name.starts_with("step "))
        .collect();
    for below in steps.iter().copied().chain([admitted]) {
        ensure!(
            below.span.parent_span_id.as_ref() == Some(&worked.span.span_id),
            "{below:?}"
        );
        ensure!(below.span.attribute("decnet.host.id") == Some(&host), "{below:?}");
        ensure!(
            below.span.attribute("decnet.operation.id") == Some(id),
            "{below:?}"
        );
    }
    for one in &spans {
        ensure!(one.span.status.code == 0, "it says that it failed: {one:?}");
        let of_the_host = ["host deploy", "admit bundle"].contains(&one.span.name.as_str());
        let service = if of_the_host || one.span.name.starts_with("step ") {
            "decnet-agent"
        } else {
            "decnet-master"
        };
        ensure!(one.service == service, "{one:?}");
    }
    let mut told: Vec<&str> = steps
        .iter()
        .filter_map(|one| one.span.attribute("decnet.step.kind"))
        .collect();
    let journal = journal(&agent)?;
    let mut done: Vec<&str> = journal.iter().filter_map(|step| step["do"].as_str()).collect();
    told.sort_unstable();
    done.sort_unstable();
    ensure!(
        !done.is_empty() && told == done,
        "{told:?} were told, {done:?} done"
    );

    // A master that is started again goes on with the trace.
    let trace = "0af7651916cd43dd8448eb211c80319c";
    agent.stop()?;
    let rows = deploy(&scene, &format!("{general}\n{}", section("b")), trace)?;
    scene.master.stop()?;
    scene.master.start()?;
    agent.start()?;
    scene.explained(scene.operator.succeeded(&rows))?;
    is_sound(trace, &whole_trace(&collector, trace)?)?;

    // Whatever the collector does, operations succeed.
    for (manner, name) in [(Manner::Refuses, "c"), (Manner::Hangs, "d")] {
        collector.set(manner);
        let before = collector.requests();
        let rows = deploy(
            &scene,
            &format!("{general}\n{}", section(name)),
            &trace.replace("0a", "0b"),
        )?;
        scene.explained(scene.operator.succeeded(&rows))?;
        until("the collector was asked", SETTLED, || {
            Ok(Seen::when(collector.requests() > before, "no request"))
        })?;
        if manner == Manner::Refuses {
            until("spans are counted that nobody took", SETTLED, || {
                let dropped = metric(&scene, "decnet_spans_dropped_total")?;
                Ok(Seen::when(dropped > 0, dropped))
            })?;
        }
    }
    scene.end()
}
