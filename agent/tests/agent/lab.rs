//! One worker on the machine's own engine: the real binary, a LAN on a veth pair, and everything gone at the
//! end.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use decnet_plan::labels;
use decnet_wire::bundle::{Network, NetworkDriver};
use decnet_wire::ids::HostId;
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::image::{Image, image};

const BINARY: &str = env!("CARGO_BIN_EXE_decnet-agent");

pub(crate) struct Lab {
    dir: tempfile::TempDir,
    /// Unique on the machine, and the prefix of every name.
    tag: String,
    pub(crate) image: Image,
    host: HostId,
    links: Vec<String>,
    child: Option<Child>,
}

/// Numbers that no two labs of a process share.
fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Lab {
    pub(crate) fn new(host: HostId) -> Self {
        docker(&["version"]);
        let tag = format!("da{:x}x{}", std::process::id(), number());
        let image = image(&format!("decnet-test/{tag}:1"));
        Self {
            dir: tempfile::tempdir().unwrap(),
            tag,
            image,
            host,
            links: Vec::new(),
            child: None,
        }
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    /// The binary, on this lab's state.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--config")
            .arg(self.dir.path().join("no.ini"));
        command
    }

    /// Runs a command of the binary to its end. It must not hold up the runtime that serves the master.
    pub(crate) async fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        })
        .await
        .unwrap()
    }

    pub(crate) fn start(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("agent.log"))
            .unwrap();
        self.child = Some(self.command(&["run"]).stderr(log).spawn().unwrap());
    }

    /// SIGKILL: no destructor runs, nothing is flushed.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("the agent runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; gives the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the agent runs");
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        child.wait().unwrap().code()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    pub(crate) fn stack(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    /// A macvlan network on a new veth pair.
    pub(crate) fn macvlan(&mut self) -> Network {
        let link = format!("da{:x}.{}", std::process::id(), number());
        let peer = format!("{link}p");
        ip(&["link", "add", &link, "type", "veth", "peer", "name", &peer]);
        self.links.push(link.clone());
        ip(&["link", "set", &link, "up"]);
        ip(&["link", "set", &peer, "up"]);
        Network {
            name: format!("{}-lan", self.tag).parse().unwrap(),
            driver: NetworkDriver::Macvlan,
            parent: Some(link.parse().unwrap()),
            subnet: subnet(),
            gateway: None,
            subnet6: None,
            gateway6: None,
            host_address: None,
            mode: None,
        }
    }

    /// A decky at the `n`th address: a base, and one container for each service, with its command.
    pub(crate) fn decky(&self, network: &Network, n: u8, services: &[(&str, &[&str])]) -> Value {
        let address = Ipv4Addr::from(u32::from(network.subnet.network()) + u32::from(n));
        let hardened = |more: Value| {
            let decnet_wire::bundle::BlobKind::ImageArchive { reference, .. } = &self.image.blob.kind else {
                panic!("an image archive");
            };
            let mut service = json!({
                "image": reference,
                "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges:true"],
                "restart": "unless-stopped",
            });
            for (key, value) in more.as_object().unwrap() {
                service[key] = value.clone();
            }
            service
        };
        let endpoint =
            json!({"ipv4_address": address.to_string(), "mac_address": format!("02:00:00:00:01:{n:02x}")});
        let mut all = json!({"base": hardened(json!({"networks": {"lan": endpoint}, "hostname": "decoy"}))});
        for (name, command) in services {
            all[*name] = hardened(json!({"network_mode": "service:base", "command": command}));
        }
        json!({"networks": {"lan": {"external": true, "name": network.name.as_str()}}, "services": all})
    }

    /// This host's containers that run: `service id`, sorted by service.
    pub(crate) fn running(&self) -> Vec<String> {
        let filter = format!("label={}={}", labels::HOST, self.host);
        let form = format!("{{{{.Label \"{}\"}}}} {{{{.ID}}}}", labels::SERVICE);
        let out = docker(&["ps", "--no-trunc", "--filter", &filter, "--format", &form]);
        let mut lines: Vec<_> = out.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// The files of blobs and parts of blobs that the agent keeps, each with its size.
    pub(crate) fn blobs(&self) -> Vec<(String, u64)> {
        let Ok(files) = std::fs::read_dir(self.state_dir().join("blobs")) else {
            return Vec::new();
        };
        files
            .map(|file| {
                let file = file.unwrap();
                let name = file.file_name().into_string().unwrap();
                (name, file.metadata().unwrap().len())
            })
            .collect()
    }

    /// The images that were built with this lab's label.
    pub(crate) fn built(&self) -> Vec<String> {
        let filter = format!("label=test.tag={}", self.tag);
        let form = "{{.Repository}}:{{.Tag}}";
        let out = docker(&["image", "ls", "--filter", &filter, "--format", form]);
        out.lines().map(str::to_owned).collect()
    }

    /// What a `build` of this lab says besides its context, so that what it builds is found again.
    pub(crate) fn build_labels(&self) -> Value {
        json!({"test.tag": self.tag})
    }

    /// Removes a container behind the agent's back.
    pub(crate) fn remove_container(&self, id: &str) {
        docker(&["rm", "-f", id]);
    }

    /// This host's containers, whatever their state.
    pub(crate) fn containers(&self) -> usize {
        let filter = format!("label={}={}", labels::HOST, self.host);
        docker(&["ps", "-aq", "--filter", &filter]).lines().count()
    }
}

impl Drop for Lab {
    /// Runs after a failure as well.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
        let filter = format!("label={}={}", labels::HOST, self.host);
        let quietly = |arguments: &[&str]| {
            Command::new("docker")
                .args(arguments)
                .output()
                .map(|out| out.stdout)
                .unwrap_or_default()
        };
        let remove = |list: &[&str], remove: &[&str]| {
            for id in String::from_utf8_lossy(&quietly(list)).lines() {
                quietly(&[remove, &[id]].concat());
            }
        };
        remove(&["ps", "-aq", "--filter", &filter], &["rm", "-fv"]);
        remove(&["network", "ls", "-q", "--filter", &filter], &["network", "rm"]);
        quietly(&["image", "rm", "-f", &self.image.id]);
        let tagged = format!("label=test.tag={}", self.tag);
        remove(
            &["image", "ls", "-q", "--filter", &tagged],
            &["image", "rm", "-f"],
        );
        for link in &self.links {
            let _ = Command::new("ip").args(["link", "del", link]).status();
        }
    }
}

fn docker(arguments: &[&str]) -> String {
    let out = Command::new("docker").args(arguments).output();
    let out = out.unwrap_or_else(|error| panic!("missing: the Docker CLI (Debian: docker.io): {error}"));
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success(),
        "missing: a Docker Engine that answers: docker {arguments:?}: {error}"
    );
    String::from_utf8(out.stdout).unwrap()
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "missing: iproute2 and the right to make links (run as root): ip {arguments:?}: {status:?}"
    );
}

/// A /26 of 10.64.0.0/10: sixty-four for each process that runs at a time.
fn subnet() -> Ipv4Net {
    let block = (std::process::id() % 1024) * 64 + number() % 64;
    let base = u32::from(Ipv4Addr::new(10, 64, 0, 0)) + block * 64;
    Ipv4Net::new(Ipv4Addr::from(base), 26).unwrap()
}
