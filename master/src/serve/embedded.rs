//! The worker inside the master: on one machine the master runs deckies itself. It enrols over loopback and takes
//! the same signed bundles as every other agent; nothing in the master knows it is near.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use decnet_agent::{Agent, Config, enrol};
use decnet_wire::ids::HostName;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Bound, ServeArgs};
use crate::control::Control;
use crate::text::chain;

/// How the embedded worker's host is called.
const NAME: &str = "local";
/// How long to wait before a worker that ended is started again.
const RESTART: Duration = Duration::from_secs(5);

/// Starts the worker where it can work: as root, with a Docker Engine.
pub(super) fn spawn(
    tasks: &TaskTracker,
    args: &ServeArgs,
    bound: &Bound,
    control: Arc<Control>,
    end: CancellationToken,
) {
    if !nix::unistd::geteuid().is_root() {
        tracing::info!("no deckies on this machine: the master is not root");
        return;
    }
    if !args.docker_socket.exists() {
        tracing::info!(socket = %args.docker_socket.display(), "no deckies on this machine: no Docker Engine");
        return;
    }
    let mut config = Config::new(args.state_dir.join("worker"));
    config.docker_socket.clone_from(&args.docker_socket);
    let master = loopback(bound.agent);
    config.master = master.to_string().parse().ok();
    config.otlp_endpoint.clone_from(&args.otlp_endpoint);
    let enrol_at = loopback(bound.enrolment).to_string();
    config.enrolment = enrol_at.parse().ok();
    tasks.spawn(async move {
        while !end.is_cancelled() {
            if let Err(error) = work(&config, &control, &enrol_at, end.clone()).await {
                tracing::error!(error = %chain(error.as_ref()), "the worker on this machine ended; starting it again");
                tokio::select! {
                    () = tokio::time::sleep(RESTART) => {}
                    () = end.cancelled() => {}
                }
            }
        }
    });
}

async fn work(
    config: &Config,
    control: &Arc<Control>,
    enrol_at: &str,
    end: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let agent = match Agent::open(config.clone()) {
        Err(error) if error.is_not_enrolled() => {
            let name: HostName = NAME.parse()?;
            let invited = control.invite_embedded(&name, enrol_at)?;
            enrol::enrol(&invited.token, config).await?;
            Agent::open(config.clone())?
        }
        opened => opened?,
    };
    agent.run(end).await?;
    Ok(())
}

/// Where a listener is reached from this machine.
fn loopback(bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), bound.port())
    } else {
        bound
    }
}
