//! A Docker Engine of a suite's own, which may be killed like a power cut, stopped and started again. The machine's own
//! is not touched.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::command::{program, run};
use crate::processes::{Process, tail};
use crate::wait::{Seen, until};

/// How long it may take to answer: after a crash it looks at every container there was.
const READY: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(10);

/// The engine. Everything of it is gone when this is dropped.
#[derive(Debug)]
pub struct OwnEngine {
    process: Option<Process>,
    socket: PathBuf,
    log: PathBuf,
    /// Its default bridge. Without one of its own an engine takes `docker0`, and one that is to have none removes that.
    bridge: String,
    folder: TempDir,
}

impl OwnEngine {
    /// Starts one, with nothing in it.
    ///
    /// # Errors
    ///
    /// When there is no `dockerd`, or it does not answer.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("decnet-engine-")
            .tempdir_in("/var/tmp")?;
        let process = std::process::id();
        let mut engine = Self {
            process: None,
            socket: folder.path().join("sock"),
            log: folder.path().join("log"),
            bridge: format!("dne{process}"),
            folder,
        };
        let bridge = &engine.bridge;
        // LANs of suites lie elsewhere.
        let address = format!("10.201.{}.1/24", process % 256);
        ip(&["link", "add", bridge, "type", "bridge"])?;
        ip(&["address", "add", &address, "dev", bridge])?;
        ip(&["link", "set", bridge, "up"])?;
        engine.begin()?;
        engine.answers()?;
        Ok(engine)
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Starts it again; whether it answers yet is another question.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    pub fn begin(&mut self) -> Result<()> {
        let mut command = Command::new("dockerd");
        for (flag, name) in [
            ("--data-root", "data"),
            ("--exec-root", "run"),
            ("--pidfile", "pid"),
        ] {
            command.arg(flag).arg(self.folder.path().join(name));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(self.programs()).chain(std::env::split_paths(&path));
        command
            .env("PATH", std::env::join_paths(path)?)
            .arg("--host")
            .arg(format!("unix://{}", self.socket.display()))
            .args(["--bridge", &self.bridge])
            .args(["--iptables=false", "--ip6tables=false"])
            .args(["--ip-forward=false", "--ip-masq=false"]);
        // One that was killed leaves it behind, and a process of that id may be another one by now.
        drop(std::fs::remove_file(self.folder.path().join("pid")));
        self.process = Some(Process::start(&mut command, &self.log)?);
        Ok(())
    }

    /// Waits until it answers. One that gives up while it starts is started again, as a service manager would do.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn answers(&mut self) -> Result<()> {
        until("the suite's engine answers", READY, || {
            let ended = match &mut self.process {
                Some(process) => process.ended()?.is_some(),
                None => true,
            };
            if ended {
                self.begin()?;
            }
            let host = format!("unix://{}", self.socket.display());
            let said = run(&mut program("docker", &["--host", &host, "info"]), ANSWER);
            Ok(match said.and_then(crate::command::Finished::ok) {
                Ok(_) => Seen::Done(()),
                Err(error) => Seen::not_yet(format!("{error:#}; its log ends with:\n{}", tail(&self.log))),
            })
        })
    }

    /// Kills the engine and all that it has started, containers too, as a power cut does; or the engine alone, whose
    /// containers run on until it is back.
    ///
    /// # Errors
    ///
    /// When a process cannot be killed.
    pub fn kill(&mut self, everything: bool) -> Result<()> {
        if let Some(mut process) = self.process.take()
            && process.ended()?.is_none()
        {
            process.kill()?;
        }
        if everything {
            self.kill_descendants()?;
            self.unmount();
        }
        Ok(())
    }

    /// Holds every container up in the middle of its creation, from now on or no more: its shim runs, its process does not.
    ///
    /// # Errors
    ///
    /// When the program that does this cannot be put before the real one, or not be removed.
    pub fn hold(&self, held: bool) -> Result<()> {
        let program = self.programs().join("runc");
        if !held {
            return Ok(std::fs::remove_file(program)?);
        }
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *' create '*) touch {} && exec sleep 600;; esac\n\
             PATH=${{PATH#*:}} exec runc \"$@\"\n",
            self.holds().display()
        );
        std::fs::create_dir_all(self.programs())?;
        std::fs::write(&program, script)?;
        Ok(std::fs::set_permissions(&program, Permissions::from_mode(0o755))?)
    }

    /// There once a container is held up.
    #[must_use]
    pub fn holds(&self) -> PathBuf {
        self.folder.path().join("held")
    }

    /// Programs that the engine uses before those of the machine.
    fn programs(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    /// Where it keeps what it knows of a container. Only an engine that does not run may be lied to.
    #[must_use]
    pub fn record_of(&self, container: &str) -> PathBuf {
        self.folder
            .path()
            .join("data/containers")
            .join(container)
            .join("config.v2.json")
    }

    /// The folder in which containerd keeps a container's task while there is one.
    #[must_use]
    pub fn task_of(&self, container: &str) -> PathBuf {
        self.folder
            .path()
            .join("run/containerd/daemon/io.containerd.runtime.v2.task/moby")
            .join(container)
    }

    /// Sends the engine itself a signal.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref().context("the suite's engine does not run")?;
        process.signal(signal)
    }

    /// What the engine has started names its folder in its command line: its containerd and a shim for each container.
    /// The processes of a container are the children of its shim.
    fn kill_descendants(&self) -> Result<()> {
        let folder = self.folder.path().as_os_str().as_encoded_bytes();
        let all = processes()?;
        let ours: Vec<i32> = all
            .iter()
            .filter(|process| {
                process
                    .command_line
                    .windows(folder.len())
                    .any(|part| part == folder)
            })
            .map(|process| process.id)
            .collect();
        let children: Vec<i32> = all
            .iter()
            .filter(|process| ours.contains(&process.parent))
            .map(|process| process.id)
            .collect();
        for id in ours.into_iter().chain(children) {
            match kill(Pid::from_raw(id), Signal::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("cannot kill {id}")),
            }
        }
        Ok(())
    }

    /// The file systems of killed containers are still mounted, and so are their network namespaces, which would answer
    /// on the LAN for ever.
    fn unmount(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let folder = self.folder.path().display().to_string();
        for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if mount.starts_with(&folder) {
                // What stays is seen by the removal of the folder.
                let _ = umount2(mount, MntFlags::MNT_DETACH);
            }
        }
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if let Err(error) = self.kill(true) {
            let folder = self.folder.path().display();
            eprintln!("something of the engine in {folder} still runs: {error:#}");
        }
        if let Err(error) = ip(&["link", "delete", &self.bridge]) {
            eprintln!("the bridge {} stays: {error:#}", self.bridge);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(&mut program("ip", arguments), ANSWER)?.ok().map(drop)
}

struct Running {
    id: i32,
    parent: i32,
    command_line: Vec<u8>,
}

fn processes() -> Result<Vec<Running>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that has ended meanwhile is none any more.
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        let Some(parent) = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
        else {
            continue;
        };
        let command_line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        found.push(Running {
            id,
            parent,
            command_line,
        });
    }
    Ok(found)
}
