//! What the Docker Engine says, asked through its own command line: nothing here shares code with what is tested.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::command::{program, run};

/// The label that names an object's host.
pub const HOST_LABEL: &str = "io.decnet.host";
/// The label that names a container's stack.
pub const STACK_LABEL: &str = "io.decnet.stack";
/// The label that names a container's Compose service.
pub const SERVICE_LABEL: &str = "io.decnet.service";

const LIMIT: Duration = Duration::from_secs(60);
const LOCK: &str = "/run/decnet-tests/turn";

/// Which engine is asked; none for the machine's own.
static SOCKET: RwLock<Option<PathBuf>> = RwLock::new(None);

/// The engine to oneself, among tests: two fleets at once would only make each other slow.
#[derive(Debug)]
pub struct Turn {
    _lock: Flock<File>,
}

/// Waits for the engine's other tests to end.
///
/// # Errors
///
/// When the lock file cannot be made, or the engine does not answer.
pub fn turn() -> Result<Turn> {
    let made = Path::new(LOCK).parent().map_or(Ok(()), std::fs::create_dir_all);
    let file = made
        .and_then(|()| File::create(LOCK))
        .with_context(|| format!("cannot make {LOCK}: root is needed"))?;
    let lock = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("cannot lock {LOCK}"))?;
    docker(&["version", "--format", "{{.Server.Version}}"])
        .context("no Docker Engine answers: run tests/setup.sh as root")?;
    Ok(Turn { _lock: lock })
}

/// A container, as inspected.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub running: bool,
    /// The process's id on the machine; 0 when it does not run.
    pub pid: u64,
    /// When its process was started last.
    pub started_at: String,
    /// Everything that `docker inspect` says.
    pub raw: Value,
}

impl Container {
    fn from_inspect(raw: &Value) -> Self {
        let text = |pointer: &str| {
            raw.pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let labels = raw.pointer("/Config/Labels").and_then(Value::as_object);
        Self {
            id: text("/Id"),
            name: text("/Name").trim_start_matches('/').to_owned(),
            labels: labels
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            running: raw
                .pointer("/State/Running")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            pid: raw.pointer("/State/Pid").and_then(Value::as_u64).unwrap_or(0),
            started_at: text("/State/StartedAt"),
            raw: raw.clone(),
        }
    }

    /// All containers of what `docker inspect` printed, by name.
    ///
    /// # Errors
    ///
    /// When that is no list.
    pub(crate) fn all_from(inspected: &str) -> Result<BTreeMap<String, Self>> {
        let inspected: Vec<Value> =
            serde_json::from_str(inspected).with_context(|| format!("docker inspect said {inspected:?}"))?;
        let containers = inspected.iter().map(Self::from_inspect);
        Ok(containers
            .map(|container| (container.name.clone(), container))
            .collect())
    }

    /// The decky, as the stack's label has it.
    #[must_use]
    pub fn decky(&self) -> &str {
        self.labels
            .get(STACK_LABEL)
            .and_then(|stack| stack.strip_prefix("decnet-"))
            .unwrap_or_default()
    }

    /// The Compose service: `base`, or a service's slug.
    #[must_use]
    pub fn service(&self) -> &str {
        self.labels.get(SERVICE_LABEL).map_or("", String::as_str)
    }

    /// Address and MAC on the first network that gives it any.
    #[must_use]
    pub fn endpoint(&self) -> Option<(String, String)> {
        let networks = self.raw.pointer("/NetworkSettings/Networks")?.as_object()?;
        networks.values().find_map(|network| {
            let address = network
                .get("IPAddress")?
                .as_str()
                .filter(|text| !text.is_empty())?;
            Some((
                address.to_owned(),
                network.get("MacAddress")?.as_str()?.to_owned(),
            ))
        })
    }
}

/// All containers of a host, running or not, by name.
///
/// # Errors
///
/// When the engine does not answer.
pub fn containers(host: &str) -> Result<BTreeMap<String, Container>> {
    let listed = docker(&[
        "ps",
        "-aq",
        "--no-trunc",
        "--filter",
        &format!("label={HOST_LABEL}={host}"),
    ])?;
    let ids: Vec<&str> = listed.split_whitespace().collect();
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut arguments = vec!["inspect", "--type", "container"];
    arguments.extend(ids);
    // One that went away between the two calls is reported on standard error and left out.
    let said = run(&mut cli(&arguments), LIMIT)?;
    Container::all_from(&said.stdout).with_context(|| said.stderr.trim().to_owned())
}

/// A container by name or id, if there is one.
///
/// # Errors
///
/// When the engine does not answer.
pub fn container(name: &str) -> Result<Option<Container>> {
    let said = run(&mut cli(&["inspect", "--type", "container", name]), LIMIT)?;
    let inspected: Vec<Value> = serde_json::from_str(&said.stdout)
        .with_context(|| format!("docker inspect {name} said {:?}", said.stderr))?;
    Ok(inspected.first().map(Container::from_inspect))
}

/// The names of a host's networks.
///
/// # Errors
///
/// When the engine does not answer.
pub fn networks(host: &str) -> Result<Vec<String>> {
    let filter = format!("label={HOST_LABEL}={host}");
    let said = docker(&["network", "ls", "--filter", &filter, "--format", "{{.Name}}"])?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// The subnets that the engine's networks have.
///
/// # Errors
///
/// When the engine does not answer.
pub fn subnets() -> Result<Vec<String>> {
    let ids = docker(&["network", "ls", "-q"])?;
    let mut arguments = vec![
        "network",
        "inspect",
        "--format",
        "{{range .IPAM.Config}}{{.Subnet}} {{end}}",
    ];
    arguments.extend(ids.split_whitespace());
    // A network that goes away meanwhile makes the call fail; the others are in the output all the same.
    let said = run(&mut cli(&arguments), LIMIT)?;
    Ok(said.stdout.split_whitespace().map(str::to_owned).collect())
}

/// What a container wrote, standard output and error.
///
/// # Errors
///
/// When the engine does not answer.
pub fn logs(container: &str) -> Result<String> {
    let said = run(&mut cli(&["logs", container]), LIMIT)?;
    Ok(said.said())
}

/// The names of all images.
///
/// # Errors
///
/// When the engine does not answer.
pub fn images() -> Result<Vec<String>> {
    let said = docker(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"])?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// Removes an image, unless somebody's container uses it.
///
/// # Errors
///
/// When the engine does not answer, or keeps it.
pub fn remove_image(image: &str) -> Result<()> {
    if !images()?.iter().any(|name| name == image) {
        return Ok(());
    }
    let users = docker(&["ps", "-aq", "--filter", &format!("ancestor={image}")])?;
    if !users.trim().is_empty() {
        println!("the image {image} stays: containers of somebody else use it");
        return Ok(());
    }
    docker(&["image", "rm", image]).map(drop)
}

/// A sysctl as the container's network namespace has it.
///
/// # Errors
///
/// When the container does not run or the kernel has no such key.
pub fn sysctl(container: &Container, key: &str) -> Result<String> {
    let pid = container.pid.to_string();
    let said = run(
        &mut program("nsenter", &["-t", &pid, "-n", "sysctl", "-n", key]),
        LIMIT,
    )?
    .ok()?;
    Ok(said.trim().to_owned())
}

/// Force-removes everything of a host: containers, then networks. For cleaning up after a failure.
///
/// # Errors
///
/// When something of it stays.
pub fn purge(host: &str) -> Result<()> {
    for name in containers(host)?.keys() {
        run(&mut cli(&["rm", "-f", "-v", name]), LIMIT)?;
    }
    for name in networks(host)? {
        run(&mut cli(&["network", "rm", &name]), LIMIT)?;
    }
    let left = (containers(host)?.into_keys().collect::<Vec<_>>(), networks(host)?);
    anyhow::ensure!(
        left.0.is_empty() && left.1.is_empty(),
        "still on the engine: {left:?}"
    );
    Ok(())
}

/// From now on this process asks the engine behind `socket`. For a suite that has an engine of its own and one test: what
/// else is in the process asks the same.
pub fn ask(socket: &Path) {
    *SOCKET.write().unwrap_or_else(PoisonError::into_inner) = Some(socket.to_owned());
}

/// Runs `docker` and gives its output.
///
/// # Errors
///
/// When it fails.
pub fn docker(arguments: &[&str]) -> Result<String> {
    run(&mut cli(arguments), LIMIT)?.ok()
}

fn cli(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    if let Some(socket) = &*SOCKET.read().unwrap_or_else(PoisonError::into_inner) {
        command.arg("--host").arg(format!("unix://{}", socket.display()));
    }
    command.args(arguments);
    command
}
