//! Master and agents as the processes that they are in the field.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Finished, SHORT, run};
use crate::wait::{Seen, until};

/// How long a program may take until it answers, and until it ends when asked to.
const READY: Duration = Duration::from_secs(30);
/// How much of a log is shown when something fails, in lines.
const TAIL: usize = 15;

/// The folder that holds what was built, from `DECNET_BIN_DIR` or beside this program.
///
/// # Errors
///
/// When this program's own path cannot be read.
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("DECNET_BIN_DIR") {
        return Ok(folder.into());
    }
    let mut folder = std::env::current_exe().context("where is this program?")?;
    folder.pop();
    // Tests lie one deeper than programs.
    if folder.ends_with("deps") {
        folder.pop();
    }
    Ok(folder)
}

/// A program of the project.
///
/// # Errors
///
/// When it was not built.
pub fn bin(name: &str) -> Result<PathBuf> {
    let path = bin_dir()?.join(name);
    ensure!(path.exists(), "{} is not there: run `make build`", path.display());
    Ok(path)
}

/// The decoy image's archive, from `DECNET_DECOY_IMAGE` or the target folder.
///
/// # Errors
///
/// When it was not built.
pub fn decoy_image() -> Result<PathBuf> {
    let path = match std::env::var_os("DECNET_DECOY_IMAGE") {
        Some(path) => path.into(),
        None => bin_dir()?
            .parent()
            .context("no target folder")?
            .join("decoy-image.tar"),
    };
    ensure!(path.exists(), "{} is not there: run `make image`", path.display());
    Ok(path)
}

/// The name that the decoy image gets on an engine, as its description says.
///
/// # Errors
///
/// When the description was not made, or names no image.
pub fn decoy_reference() -> Result<String> {
    let path = decoy_image()?.with_extension("json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: run `make image`", path.display()))?;
    let description: serde_json::Value = serde_json::from_str(&text)?;
    let reference = description["reference"].as_str().map(str::to_owned);
    reference.with_context(|| format!("{} names no image", path.display()))
}

/// A port of the loopback address that was free a moment ago.
///
/// # Errors
///
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A process in the background, its output in a file. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    kept: bool,
}

impl Process {
    /// Starts a command; its output is added to `log`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self {
            child,
            log: log.to_owned(),
            kept: false,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit code, once it ended; -1 when a signal ended it.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    /// The signal that ended it, if one did.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn ended_by(&mut self) -> Result<Option<Signal>> {
        let number = self.child.try_wait()?.and_then(|status| status.signal());
        Ok(number.map(Signal::try_from).transpose()?)
    }

    /// Fails when it has ended, with the end of its log.
    ///
    /// # Errors
    ///
    /// As said.
    pub fn check(&mut self) -> Result<()> {
        if let Some(code) = self.ended()? {
            bail!("it ended with {code}; its log ends with:\n{}", tail(&self.log));
        }
        Ok(())
    }

    /// Asks it to end, as a service manager would, and waits.
    ///
    /// # Errors
    ///
    /// When it does not end, or not with success.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let code = until("the process ends when asked to", READY, || {
            Ok(match self.ended()? {
                Some(code) => Seen::Done(code),
                None => Seen::not_yet(format!("still running; its log ends with:\n{}", tail(&self.log))),
            })
        })?;
        ensure!(
            code == 0,
            "it ended with {code}; its log ends with:\n{}",
            tail(&self.log)
        );
        Ok(())
    }

    /// Ends it like a power cut.
    ///
    /// # Errors
    ///
    /// When it had ended by itself.
    pub fn kill(mut self) -> Result<()> {
        self.check()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When there is no such process any more.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.id())?);
        kill(pid, signal).with_context(|| format!("cannot send {signal} to {pid}"))
    }

    /// Leaves it running.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.kept {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// The last lines of a log.
#[must_use]
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// A master: its folder, its ports, and its process while it runs.
#[derive(Debug)]
pub struct Master {
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    pub log: PathBuf,
    /// The first operator token.
    pub token: String,
    pub agent_port: u16,
    pub enrol_port: u16,
    pub api_port: u16,
    /// Where TOML files that add to the catalogue lie.
    pub catalogue_dir: PathBuf,
    /// Set for the program.
    pub environment: Vec<(&'static str, OsString)>,
    /// Where it listens, in `namespace` or on the machine itself.
    address: String,
    namespace: Option<String>,
    arguments: Vec<String>,
    /// What it logs, where that is not the usual.
    pub logs: Option<&'static str>,
    /// How many days its clock is ahead when it is started next.
    pub days_ahead: u32,
    process: Option<Process>,
}

impl Master {
    /// Makes a master under `folder`, not yet running.
    ///
    /// # Errors
    ///
    /// When `decnet init` fails.
    pub fn init(folder: &Path) -> Result<Self> {
        Self::made(folder, "127.0.0.1".to_owned(), None)
    }

    /// As [`Master::init`]; it runs in a network namespace, on `address` there.
    ///
    /// # Errors
    ///
    /// As [`Master::init`].
    pub fn init_at(folder: &Path, address: &str, namespace: &str) -> Result<Self> {
        Self::made(folder, address.to_owned(), Some(namespace.to_owned()))
    }

    fn made(folder: &Path, address: String, namespace: Option<String>) -> Result<Self> {
        let state_dir = folder.join("master");
        let mut command = Command::new(bin("decnet")?);
        command
            .arg("init")
            .arg("--state-dir")
            .arg(&state_dir)
            .args(["--advertise", &address]);
        let said = run(&mut command, SHORT)?;
        ensure!(said.status.success(), "`decnet init` fails: {}", said.said());
        let token = operator_token(&said.stdout)
            .with_context(|| format!("no operator token in what `decnet init` said: {}", said.stdout))?;
        let catalogue_dir = folder.join("catalogue.d");
        std::fs::create_dir_all(&catalogue_dir)?;
        Ok(Self {
            socket: folder.join("master.sock"),
            log: folder.join("master.log"),
            token,
            agent_port: free_port()?,
            enrol_port: free_port()?,
            api_port: free_port()?,
            catalogue_dir,
            address,
            namespace,
            arguments: Vec::new(),
            logs: None,
            days_ahead: 0,
            environment: Vec::new(),
            process: None,
            state_dir,
        })
    }

    /// Runs no deckies by itself.
    #[must_use]
    pub fn without_worker(mut self) -> Self {
        self.arguments.push("--no-local-worker".to_owned());
        self
    }

    /// It traces operations for the collector at `endpoint`.
    #[must_use]
    pub fn with_collector(mut self, endpoint: &str) -> Self {
        self.arguments
            .extend(["--otlp-endpoint".to_owned(), endpoint.to_owned()]);
        self
    }

    /// It hands out the agent's packages in `folder`.
    #[must_use]
    pub fn with_packages(mut self, folder: &Path) -> Self {
        self.arguments
            .extend(["--packages".to_owned(), folder.display().to_string()]);
        self
    }

    /// Its own worker uses the engine behind `socket`.
    #[must_use]
    pub fn with_engine(mut self, socket: &Path) -> Self {
        self.arguments
            .extend(["--docker-socket".to_owned(), socket.display().to_string()]);
        self
    }

    /// Starts it and waits until the operator's socket answers.
    ///
    /// # Errors
    ///
    /// When it ends, or does not answer.
    pub fn start(&mut self) -> Result<()> {
        let program = bin("decnet")?;
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("serve").arg("--state-dir").arg(&self.state_dir);
        for (flag, port) in [
            ("--agent-listen", self.agent_port),
            ("--enrol-listen", self.enrol_port),
            ("--api-listen", self.api_port),
        ] {
            command.arg(flag).arg(format!("{}:{port}", self.address));
        }
        command.arg("--socket").arg(&self.socket);
        command.arg("--decoy-image").arg(decoy_image()?);
        command.arg("--catalogue-dir").arg(&self.catalogue_dir);
        command.args(&self.arguments);
        if let Some(filter) = self.logs {
            command.env("DECNET_LOG", filter);
        }
        set_clock(&mut command, self.days_ahead)?;
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start(&mut command, &self.log)?;
        until("the master answers on its socket", READY, || {
            process.check().context("the master does not run")?;
            Ok(match UnixStream::connect(&self.socket) {
                Ok(_) => Seen::Done(()),
                Err(error) => Seen::not_yet(error),
            })
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    ///
    /// When it does not run, or does not end well.
    pub fn stop(&mut self) -> Result<()> {
        self.running()?.stop().context("the master does not stop")
    }

    /// Ends it like a power cut.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?
            .kill()
            .context("the master was not there to be killed")
    }

    /// Its process, while it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// The state folder of the worker inside it.
    #[must_use]
    pub fn worker_dir(&self) -> PathBuf {
        self.state_dir.join("worker")
    }

    fn running(&mut self) -> Result<Process> {
        self.process.take().context("the master does not run")
    }
}

/// Lets a program believe that it is so many days later. Its timers run as they do.
fn set_clock(command: &mut Command, days_ahead: u32) -> Result<()> {
    if days_ahead == 0 {
        return Ok(());
    }
    command
        .envs(libfaketime()?)
        .env("FAKETIME", format!("+{days_ahead}d"));
    Ok(())
}

/// What puts another clock before a program, and leaves its timers as they are.
fn libfaketime() -> Result<[(&'static str, OsString); 2]> {
    let library = std::fs::read_dir("/usr/lib")?
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|path| path.exists())
        .context("there is no libfaketime: install the package faketime (tests/setup.sh does)")?;
    Ok([
        ("LD_PRELOAD", library.into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ])
}

/// A clock that somebody sets while programs run by it. Their timers run as they do.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// A right one.
    ///
    /// # Errors
    ///
    /// When its file cannot be written.
    pub fn right(folder: &Path, name: &str) -> Result<Self> {
        let clock = Self {
            file: folder.join(format!("{name}.clock")),
        };
        clock.set(0)?;
        Ok(clock)
    }

    /// It shows so many seconds more than it is.
    ///
    /// # Errors
    ///
    /// When its file cannot be written.
    pub fn set(&self, ahead: i64) -> Result<()> {
        // It is read at any moment.
        let whole = self.file.with_extension("new");
        std::fs::write(&whole, format!("{ahead:+}\n"))?;
        Ok(std::fs::rename(whole, &self.file)?)
    }

    /// What a program needs to run by it.
    ///
    /// # Errors
    ///
    /// When libfaketime is not there.
    pub fn environment(&self) -> Result<Vec<(&'static str, OsString)>> {
        let mut environment = libfaketime()?.to_vec();
        environment.push(("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()));
        environment.push(("FAKETIME_NO_CACHE", "1".into()));
        Ok(environment)
    }
}

/// The token among what `decnet init` prints.
fn operator_token(text: &str) -> Option<String> {
    text.split_whitespace()
        .find(|word| word.starts_with("decnet_"))
        .map(str::to_owned)
}

/// An agent of its own: its folder, and its process while it runs.
#[derive(Debug)]
pub struct Agent {
    pub state_dir: PathBuf,
    pub log: PathBuf,
    engine: Option<PathBuf>,
    config: Option<PathBuf>,
    /// What it logs, where that is not the usual.
    pub logs: Option<&'static str>,
    /// How many days its clock is ahead when it is started next.
    pub days_ahead: u32,
    /// Which of the project's programs it is.
    pub program: &'static str,
    /// Variables that it runs with besides.
    pub environment: Vec<(&'static str, OsString)>,
    process: Option<Process>,
}

impl Agent {
    /// An agent that keeps its state under `folder`, in a folder called `name`.
    #[must_use]
    pub fn new(folder: &Path, name: &str) -> Self {
        Self {
            state_dir: folder.join(name),
            log: folder.join(format!("{name}.log")),
            engine: None,
            config: None,
            logs: None,
            days_ahead: 0,
            program: "decnet-agent",
            environment: Vec::new(),
            process: None,
        }
    }

    /// One that runs already, for its commands: its state folder.
    #[must_use]
    pub fn at(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            log: PathBuf::new(),
            engine: None,
            config: None,
            logs: None,
            days_ahead: 0,
            program: "decnet-agent",
            environment: Vec::new(),
            process: None,
        }
    }

    /// It uses the engine behind `socket`.
    #[must_use]
    pub fn with_engine(mut self, socket: &Path) -> Self {
        self.engine = Some(socket.to_owned());
        self
    }

    /// It reads these settings, in place of the machine's own.
    #[must_use]
    pub fn with_settings(mut self, file: &Path) -> Self {
        self.config = Some(file.to_owned());
        self
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Runs one of its commands to the end.
    ///
    /// # Errors
    ///
    /// When it cannot be run, or does not end.
    pub fn command(&self, arguments: &[&str]) -> Result<Finished> {
        run(self.base()?.args(arguments), Duration::from_secs(60))
    }

    /// Uses an enrolment token.
    ///
    /// # Errors
    ///
    /// When the master refuses.
    pub fn enrol(&self, token: &str) -> Result<()> {
        self.command(&["enroll", token])?.ok().map(drop)
    }

    /// Starts it and waits until its own socket answers.
    ///
    /// # Errors
    ///
    /// When it ends, or does not answer.
    pub fn start(&mut self) -> Result<()> {
        let mut command = self.base()?;
        set_clock(command.arg("run"), self.days_ahead)?;
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start(&mut command, &self.log)?;
        let socket = self.state_dir.join("agent.sock");
        until("the agent answers on its socket", READY, || {
            process.check().context("the agent does not run")?;
            Ok(match UnixStream::connect(&socket) {
                Ok(_) => Seen::Done(()),
                Err(error) => Seen::not_yet(error),
            })
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    ///
    /// When it does not run, or does not end well.
    pub fn stop(&mut self) -> Result<()> {
        self.running()?.stop().context("the agent does not stop")
    }

    /// Ends it like a power cut.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?
            .kill()
            .context("the agent was not there to be killed")
    }

    /// Whether it aborted; then it does not run any more.
    ///
    /// # Errors
    ///
    /// When it does not run, or ended otherwise; the end of its log is in it.
    pub fn aborted(&mut self) -> Result<bool> {
        let process = self.process.as_mut().context("the agent does not run")?;
        if process.ended_by()? == Some(Signal::SIGABRT) {
            self.process = None;
            return Ok(true);
        }
        process.check()?;
        Ok(false)
    }

    /// Does something while the agent stands still; what happens meanwhile reaches it afterwards, all at once.
    ///
    /// # Errors
    ///
    /// When it does not run, or what is done fails.
    pub fn frozen<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let process = self.process.as_ref().context("the agent does not run")?;
        process.signal(Signal::SIGSTOP)?;
        let done = work();
        process.signal(Signal::SIGCONT)?;
        done
    }

    fn running(&mut self) -> Result<Process> {
        self.process.take().context("the agent does not run")
    }

    fn base(&self) -> Result<Command> {
        let mut command = Command::new(bin(self.program)?);
        command.arg("--state-dir").arg(&self.state_dir);
        if let Some(engine) = &self.engine {
            command.arg("--docker-socket").arg(engine);
        }
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        if let Some(filter) = self.logs {
            command.env("DECNET_LOG", filter);
        }
        Ok(command)
    }
}
