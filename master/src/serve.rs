//! `decnet serve`: the listeners, the timers and the embedded worker.
//!
//! | listener | default | authentication |
//! | --- | --- | --- |
//! | [`agent`] | :8770 | client certificate, host and key checked at every request |
//! | [`enrolment`] | :8771 | one-shot token; the token pins the CA |
//! | [`operator`] | :8772 and `/run/decnet/master.sock` | bearer token; on the socket the user id |

pub mod agent;
mod attempts;
pub mod blobs;
mod certificates;
pub mod embedded;

pub mod enrolment;
pub mod image;
pub mod installer;
pub mod listen;
pub mod message;
pub mod operator;
pub mod packages;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use decnet_agent::supervisor::Supervisor;
use decnet_pki::ServerName;
use decnet_pki::files::{self, FileError};
use decnet_trace::{Endpoint, Exporter, Tracer, Value};
use hyper::service::service_fn;
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::history::Keep;
use crate::control::sweep::Deadlines;
use crate::control::{Addresses, Control, ControlError, Limits, Parts, system_clock};
use crate::fleet::catalogue::Catalogue;
use crate::init;
use crate::keys::{KeysError, MasterKeys};
use crate::records::Settings;
use crate::store::{Db, RedbStore, StoreError};
use listen::{Bounds, limits};

/// What `decnet serve` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// The folder that `decnet init` made.
    #[arg(long, env = "DECNET_MASTER_DIR", default_value = init::STATE_DIR)]
    pub state_dir: PathBuf,
    /// Where agents pull and report.
    #[arg(long, default_value = "0.0.0.0:8770")]
    pub agent_listen: SocketAddr,
    /// Where hosts enrol.
    #[arg(long, default_value = "0.0.0.0:8771")]
    pub enrol_listen: SocketAddr,
    /// Where operators reach the API over HTTPS.
    #[arg(long, default_value = "0.0.0.0:8772")]
    pub api_listen: SocketAddr,
    /// Where operators on this machine reach the API.
    #[arg(long, env = "DECNET_SOCKET", default_value = "/run/decnet/master.sock")]
    pub socket: PathBuf,
    /// The decoy image's archive; its description (`.json`) lies beside it.
    #[arg(
        long,
        env = "DECNET_DECOY_IMAGE",
        default_value = "/usr/share/decnet/decoy-image.tar"
    )]
    pub decoy_image: PathBuf,
    /// A folder with the agent's packages, for hosts that are to become workers.
    #[arg(
        long,
        env = "DECNET_PACKAGES",
        value_name = "DIR",
        default_value = "/usr/share/decnet/packages"
    )]
    pub packages: PathBuf,
    /// A folder of TOML files that add to the catalogue.
    #[arg(long, default_value = "/etc/decnet/catalogue.d")]
    pub catalogue_dir: PathBuf,
    /// Do not run deckies on this machine, even as root with a Docker Engine.
    #[arg(long)]
    pub no_local_worker: bool,
    /// The Docker Engine of the worker on this machine.
    #[arg(long, default_value = "/var/run/docker.sock")]
    pub docker_socket: PathBuf,
    /// The OpenTelemetry collector that gets a trace of every operation, such as `http://127.0.0.1:4318`; off without one
    #[arg(long, env = "DECNET_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<Endpoint>,
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// How long operations may take until they have failed, and how long they are kept.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Operations")]
pub struct LimitArgs {
    /// Seconds after which a deploy has failed that its host has not ended
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u32).range(60..=86_400))]
    pub deploy_deadline: u32,
    /// Seconds after which a mutation has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u32).range(60..=86_400))]
    pub mutate_deadline: u32,
    /// Seconds after which a removal has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u32).range(60..=86_400))]
    pub teardown_deadline: u32,
    /// Days for which operations that have ended are kept; 0: for ever
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u16).range(0..=36_500))]
    pub keep_days: u16,
    /// How many operations are kept, the newest ones; 0: all
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub keep_operations: u64,
}

impl LimitArgs {
    fn limits(&self) -> Limits {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Limits {
            keep: Keep {
                age: (self.keep_days > 0).then(|| time::Duration::days(self.keep_days.into())),
                rows: Some(self.keep_operations).filter(|rows| *rows > 0),
            },
            deadlines: Deadlines {
                deploy: seconds(self.deploy_deadline),
                mutate: seconds(self.mutate_deadline),
                teardown: seconds(self.teardown_deadline),
            },
        }
    }
}

/// Why the master does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("there is no master in {0}: run `decnet init`")]
    NotInitialised(PathBuf),
    #[error("the state folder cannot be used")]
    StateDir(#[source] FileError),
    #[error("the store does not open")]
    Store(#[from] StoreError),
    #[error("the keys do not load")]
    Keys(#[from] KeysError),
    #[error("the catalogue is refused: {0}")]
    Catalogue(String),
    #[error("the decoy image is refused")]
    Image(#[from] image::ImageError),
    #[error("the agent's packages cannot be handed out")]
    Packages(#[from] packages::PackagesError),
    #[error("the master's state does not load")]
    Control(#[from] ControlError),
    #[error("{0:?} is neither a DNS name nor an IP address: initialise with another --advertise")]
    Name(String),
    #[error(transparent)]
    Certificate(#[from] certificates::IssueError),
    #[error(transparent)]
    Listen(#[from] listen::ListenError),
}

/// Serves until `end`. `ready` is called once every listener is open; `supervisor` is told that as well, and from then on
/// that the master is alive.
///
/// # Errors
/// Something that it needs is not there. After `ready` it does not fail.
pub async fn run(
    args: ServeArgs,
    end: CancellationToken,
    supervisor: Supervisor,
    ready: impl FnOnce(&Bound),
) -> Result<(), ServeError> {
    let agents = listen::agent_limits(listen::allow_files());
    let agent_listener = listen::bind(args.agent_listen).await?;
    let enrol_listener = listen::bind(args.enrol_listen).await?;
    let api_listener = listen::bind(args.api_listen).await?;
    let bound = Bound {
        agent: agent_listener.local_addr().unwrap_or(args.agent_listen),
        enrolment: enrol_listener.local_addr().unwrap_or(args.enrol_listen),
        api: api_listener.local_addr().unwrap_or(args.api_listen),
        socket: args.socket.clone(),
    };
    let (tracer, exporter) = tracing_to(args.otlp_endpoint.as_ref());
    let (control, names) = load(&args, &bound, tracer)?;
    let packages = packages::Packages::load(&args.packages)?;
    let installer = Arc::new(installer::Installer::new(packages, control.enrolment()));
    let socket = listen::bind_unix(&args.socket).await?;

    let names = names
        .iter()
        .map(|name| ServerName::try_from(name.clone()).map_err(|_| ServeError::Name(name.clone())))
        .collect::<Result<Vec<_>, _>>()?;
    let certificates = certificates::Certificates::new(&control, names)?;
    let (agent_tls, public_tls) = (certificates.agents(), certificates.public());

    let metered = |limits, name| Bounds::new(limits, control.metrics().listener(name));
    let tasks = TaskTracker::new();
    let api = Arc::new(agent::AgentApi::new(
        Arc::clone(&control),
        args.state_dir.join("blobs"),
        end.clone(),
    ));
    tasks.spawn(listen::serve_tls(
        agent_listener,
        agent_tls,
        metered(agents, "agents"),
        end.clone(),
        move |remote| {
            let api = Arc::clone(&api);
            service_fn(move |request| Arc::clone(&api).answer(remote.clone(), request))
        },
    ));
    let enrolling = Arc::new(enrolment::Enrolment::new(
        Arc::clone(&control),
        Arc::clone(&installer),
    ));
    tasks.spawn(listen::serve_tls(
        enrol_listener,
        public_tls.clone(),
        metered(limits::ENROLMENT, "enrolment"),
        end.clone(),
        move |remote| {
            let enrolling = Arc::clone(&enrolling);
            service_fn(move |request| Arc::clone(&enrolling).answer(remote.clone(), request))
        },
    ));
    let router = operator::router(Arc::clone(&control), installer, end.clone());
    let over_tls = router.clone();
    tasks.spawn(listen::serve_tls(
        api_listener,
        public_tls,
        metered(limits::OPERATORS, "operators"),
        end.clone(),
        move |remote| TowerToHyperService::new(operator::for_peer(over_tls.clone(), &remote)),
    ));
    tasks.spawn(listen::serve_unix(
        socket,
        metered(limits::LOCAL, "local"),
        end.clone(),
        move |remote| TowerToHyperService::new(operator::for_peer(router.clone(), &remote)),
    ));

    // Ends when everybody else has, who may have something to tell until then.
    let told = CancellationToken::new();
    let exporting = exporter.map(|exporter| tokio::spawn(exporter.run(told.clone())));
    let renewing = tokio::spawn(certificates.run());
    let publisher = tokio::spawn(Arc::clone(&control).run_publisher());
    let watcher = supervisor.clone();
    let sweep = tokio::spawn(Arc::clone(&control).run_sweep(move || watcher.alive()));
    let listening = tokio::spawn(Arc::clone(&control).run_listening());
    if !args.no_local_worker {
        embedded::spawn(&tasks, &args, &bound, Arc::clone(&control), end.clone());
    }
    ready(&bound);
    supervisor.ready(&format!(
        "agents at {}, enrolment at {}, operators at {} and {}",
        bound.agent,
        bound.enrolment,
        bound.api,
        bound.socket.display()
    ));
    end.cancelled().await;
    supervisor.stopping("stopping");
    tasks.close();
    tasks.wait().await;
    renewing.abort();
    publisher.abort();
    sweep.abort();
    listening.abort();
    if let Err(error) = control.flush_status() {
        tracing::warn!(error = %crate::text::chain(&error), "the hosts' last words were not stored");
    }
    told.cancel();
    if let Some(exporting) = exporting {
        // It does not panic, and nobody aborts it.
        let _ = exporting.await;
    }
    // Nobody is served there any more; a file that stays would only look like a master.
    if let Err(error) = std::fs::remove_file(&args.socket) {
        tracing::debug!(%error, "the socket's file stays");
    }
    Ok(())
}

/// What takes spans, and what sends them, where there is a collector.
fn tracing_to(endpoint: Option<&Endpoint>) -> (Tracer, Option<Exporter>) {
    let Some(endpoint) = endpoint else {
        return (Tracer::off(), None);
    };
    tracing::info!(to = %endpoint, "operations are traced");
    let resource = vec![
        ("service.name", Value::text("decnet-master")),
        ("service.version", Value::text(env!("CARGO_PKG_VERSION"))),
    ];
    let (tracer, exporter) = Tracer::new(endpoint.clone(), resource);
    (tracer, Some(exporter))
}

/// Where the listeners are.
#[derive(Debug, Clone)]
pub struct Bound {
    pub agent: SocketAddr,
    pub enrolment: SocketAddr,
    pub api: SocketAddr,
    pub socket: PathBuf,
}

fn load(args: &ServeArgs, bound: &Bound, tracer: Tracer) -> Result<(Arc<Control>, Vec<String>), ServeError> {
    let store = init::store_path(&args.state_dir);
    match store.try_exists() {
        Ok(true) => {}
        Ok(false) => return Err(ServeError::NotInitialised(args.state_dir.clone())),
        Err(source) => {
            return Err(ServeError::StateDir(FileError::Read { path: store, source }));
        }
    }
    files::create_private_dir(&args.state_dir).map_err(ServeError::StateDir)?;
    let db = Db::new(RedbStore::open(&store)?);
    let keys = MasterKeys::load(&init::keys_path(&args.state_dir))?;
    let extra = image::catalogue_files(&args.catalogue_dir)?;
    let catalogue = Catalogue::load(&extra).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        ServeError::Catalogue(lines.join("; "))
    })?;
    let blobs = args.state_dir.join("blobs");
    let catalogue =
        catalogue.with_contexts(|archive| image::context(&args.catalogue_dir.join(archive), &blobs))?;
    let image = image::load(&args.decoy_image, &blobs)?;
    let settings: Option<Settings> = db.read(|r| r.get::<Settings>(&()))?;
    let advertise = settings.map(|settings| settings.advertise).unwrap_or_default();
    let first = advertise
        .first()
        .cloned()
        .unwrap_or_else(|| "localhost".to_owned());
    let addresses = Addresses {
        agent_api: authority(&first, bound.agent.port()),
        enrolment: authority(&first, bound.enrolment.port()),
    };
    let parts = Parts {
        db,
        keys,
        catalogue,
        image,
        addresses,
        blobs,
        detect: crate::lan::detect,
        limits: args.limits.limits(),
        tracer,
    };
    let control = Control::new(parts, system_clock())?;
    control.metrics().store_is_at(store);
    // The embedded worker and operators on this machine come over loopback, or where a listener is bound.
    let here = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let bound = [bound.agent, bound.enrolment, bound.api]
        .map(|address| address.ip())
        .into_iter()
        .filter(|ip| !ip.is_unspecified())
        .map(|ip| ip.to_string());
    let names: BTreeSet<String> = advertise.into_iter().chain(here).chain(bound).collect();
    Ok((control, names.into_iter().collect()))
}

/// A name or address with a port, as URLs have it (RFC 3986, §3.2.2).
fn authority(host: &str, port: u16) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::authority;

    /// An advertised IPv6 address came into tokens bare, and no agent took it.
    #[test]
    fn an_advertised_address_is_one_that_agents_read() {
        for (host, expected) in [
            ("2001:db8::1", "[2001:db8::1]:8770"),
            ("192.0.2.1", "192.0.2.1:8770"),
            ("master.example", "master.example:8770"),
        ] {
            assert_eq!(authority(host, 8770), expected);
            assert!(
                expected.parse::<decnet_agent::config::HostPort>().is_ok(),
                "{expected}"
            );
        }
    }
}
