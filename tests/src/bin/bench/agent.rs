//! The contender that is the product: a master and its worker, with everything on.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::query_parameters::EventsOptions;
use decnet_tests::engine::HOST_LABEL;
use decnet_tests::fleet::Operator;
use decnet_tests::processes::Agent;
use decnet_tests::scene::Scene;
use futures_util::StreamExt as _;

use crate::SERVICES;

/// How long a fleet may take.
const LIMIT: Duration = Duration::from_secs(300);

pub(crate) struct Fleet {
    pub(crate) host: String,
    operator: Operator,
    worker: Agent,
    file: PathBuf,
    containers: usize,
}

pub(crate) struct Up {
    /// Until the engine said that the last container runs.
    pub(crate) running: Duration,
    /// Until every row had succeeded.
    pub(crate) told: Duration,
}

impl Fleet {
    pub(crate) fn new(scene: &mut Scene, size: usize) -> Result<Self> {
        let host = scene.local()?;
        scene
            .operator
            .json(&["system", "limit", &size.max(10).to_string()])?;
        let mut text = scene.lan.general();
        text.push_str(&format!("[bench]\nservices = {}\n", SERVICES.join(", ")));
        if size > 1 {
            text.push_str(&format!("amount = {size}\n"));
        }
        Ok(Self {
            host,
            operator: scene.operator.clone(),
            worker: Agent::at(&scene.master.worker_dir()),
            file: scene.describe("bench.ini", &text)?,
            containers: size * (1 + SERVICES.len()),
        })
    }

    pub(crate) async fn up(&mut self, docker: &Docker) -> Result<Up> {
        let begun = Instant::now();
        let last = self.events(docker, "start");
        let rows = self.operator.deploy(&self.file, true)?;
        let running = last.await?.duration_since(begun);
        self.operator.succeeded(&rows)?;
        Ok(Up {
            running,
            told: begun.elapsed(),
        })
    }

    pub(crate) async fn down(&mut self, docker: &Docker) -> Result<Duration> {
        let begun = Instant::now();
        let last = self.events(docker, "destroy");
        self.operator.command(&["decky", "rm", "--all"])?.ok()?;
        let took = last.await?.duration_since(begun);
        self.operator.command(&["decky", "ls"])?.ok()?;
        self.operator.settled("local")?;
        Ok(took)
    }

    /// How long the newest round of the running agent took that found nothing to do.
    pub(crate) fn idle(&self) -> Result<Duration> {
        self.operator.settled("local")?;
        let said = self.worker.command(&["status", "--json"])?.ok()?;
        let status: serde_json::Value = serde_json::from_str(&said)?;
        let micros = status["running"]["idle_round_us"].as_u64();
        Ok(Duration::from_micros(
            micros.context("the agent tells no idle round")?,
        ))
    }

    /// The moment of the last of as many events as the fleet has containers. Subscribed before this returns.
    fn events(&self, docker: &Docker, event: &str) -> impl Future<Output = Result<Instant>> + use<> {
        let filters = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("event".to_owned(), vec![event.to_owned()]),
            ("label".to_owned(), vec![format!("{HOST_LABEL}={}", self.host)]),
        ]);
        let mut stream = docker.events(Some(EventsOptions {
            filters: Some(filters),
            ..Default::default()
        }));
        let (expected, event) = (self.containers, event.to_owned());
        let counting = tokio::spawn(async move {
            let mut last = Instant::now();
            for seen in 0..expected {
                stream.next().await.with_context(|| {
                    format!("{seen} of {expected} containers: {event}, then no more events")
                })??;
                last = Instant::now();
            }
            anyhow::Ok(last)
        });
        async move {
            tokio::time::timeout(LIMIT, counting)
                .await
                .context("the fleet takes too long")??
        }
    }
}
