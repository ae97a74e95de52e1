//! Containers as people ask for them, and what they have written.

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use decnet_plan::labels;
use decnet_wire::ids::HostId;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use crate::{Engine, EngineError};

/// A container in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    pub id: String,
    pub name: String,
    pub service: String,
    /// The image, as it was named when the container was made.
    pub image: String,
    /// The engine's word: `running`, `exited`, …
    pub state: String,
    /// The engine's words: `Up 2 minutes (healthy)`.
    pub status: String,
    /// `127.0.0.1:8080->80/tcp`, or `80/tcp` for one that is not published.
    pub ports: Vec<String>,
}

/// What a container wrote in one go; a line, as a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Standard error, not standard output.
    pub error: bool,
    pub text: String,
}

impl Engine {
    /// Every container that carries this host's label, sorted by name.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn listed(&self, host: HostId) -> Result<Vec<Listed>, EngineError> {
        let list = self.list(host).await?;
        let mut listed: Vec<Listed> = list
            .into_iter()
            .map(|container| {
                let names = container.names.unwrap_or_default();
                let name = names.first().map_or("", |name| name.trim_start_matches('/'));
                let service = container.labels.unwrap_or_default().remove(labels::SERVICE);
                let ports = container.ports.unwrap_or_default();
                let mut ports: Vec<String> = ports
                    .into_iter()
                    .map(|port| {
                        let protocol = port.typ.map(|kind| kind.to_string()).unwrap_or_default();
                        let inner = format!("{}/{protocol}", port.private_port);
                        match (port.public_port, port.ip) {
                            (Some(public), Some(ip)) if ip.contains(':') => {
                                format!("[{ip}]:{public}->{inner}")
                            }
                            (Some(public), Some(ip)) => format!("{ip}:{public}->{inner}"),
                            (Some(public), None) => format!("{public}->{inner}"),
                            (None, _) => inner,
                        }
                    })
                    .collect();
                ports.sort();
                ports.dedup();
                Listed {
                    id: container.id.unwrap_or_default(),
                    name: name.to_owned(),
                    service: service.unwrap_or_default(),
                    image: container.image.unwrap_or_default(),
                    state: container.state.map(|state| state.to_string()).unwrap_or_default(),
                    status: container.status.unwrap_or_default(),
                    ports,
                }
            })
            .collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    /// What a container has written, the oldest first; with `follow`, what it writes until it ends as well. `tail`
    /// leaves all but the newest lines out.
    pub fn logs(
        &self,
        container: &str,
        follow: bool,
        tail: Option<u32>,
        since: Option<u32>,
        timestamps: bool,
    ) -> impl Stream<Item = Result<LogLine, EngineError>> + Send + 'static {
        let options = LogsOptions {
            follow,
            stdout: true,
            stderr: true,
            tail: tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()),
            since: since.map_or(0, |time| i32::try_from(time).unwrap_or(i32::MAX)),
            timestamps,
            ..LogsOptions::default()
        };
        let what = format!("read the logs of container {container}");
        let lines = self
            .docker
            .logs(container, Some(options))
            .map_ok(|output| LogLine {
                error: matches!(output, LogOutput::StdErr { .. }),
                text: String::from_utf8_lossy(output.as_ref()).into_owned(),
            });
        lines
            .map_err(move |source| EngineError::Call {
                what: what.clone(),
                source,
            })
            .boxed()
    }
}
