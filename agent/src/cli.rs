//! The commands of `decnet-agent`.

mod enroll;
mod status;

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use http::Method;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, OpenError, RunError};
use crate::compose::{self, ComposeError};
use crate::config::{CONFIG_FILE, Config, DOCKER_SOCKET, HostPort, STATE_DIR};
use crate::control::{self, ControlError};
use crate::doctor;
use crate::enrol::later;
use crate::error::error_chain;
use crate::host::launch::leave_the_agent;
use crate::host::reaper;
use crate::ledger::JournalEntry;
use crate::logging;
use crate::manual::Manual;
use crate::status::{Preview, Retried, Status, journal_text};
use crate::supervisor::Supervisor;
use crate::update::{self, Overview};

/// How long `run` waits for whoever holds the ledger.
const LOOKED_AT: Duration = Duration::from_secs(5);

/// How long `run` leaves a disk alone that was full.
const DISK: Duration = Duration::from_secs(5);

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the last line on standard error says what, on what, and why
  2  the command line is wrong
  3  this host is not enrolled
  4  another agent holds the state folder
  5  doctor found something that does not work
`compose` has more of them, see `decnet-agent compose --help`.";

/// How a command ended. The numbers are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotEnrolled = 3,
    Held = 4,
    Unwell = 5,
    /// `compose plan` has something to do.
    Changes = 6,
    /// Compose files cannot be understood, or ask for what is not supported.
    Files = 7,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that failed: the whole story on one line, and the exit code.
#[derive(Debug)]
pub struct Failure {
    text: String,
    exit: Exit,
}

impl Failure {
    fn new(exit: Exit, error: &dyn std::error::Error) -> Self {
        Self {
            text: error_chain(error),
            exit,
        }
    }

    /// The exit code.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let exit = if error.is_not_enrolled() {
            Exit::NotEnrolled
        } else if error.is_held() {
            Exit::Held
        } else {
            Exit::Failed
        };
        match error {
            // What to do stands in its own line, which is all that somebody needs.
            OpenError::Identity(not_enrolled) if exit == Exit::NotEnrolled => Self::new(exit, &not_enrolled),
            error => Self::new(exit, &error),
        }
    }
}

impl From<ComposeError> for Failure {
    fn from(error: ComposeError) -> Self {
        // Problems of files come several at once, one a line.
        let text = match &error {
            ComposeError::Files(problems)
            | ComposeError::Blocked(problems)
            | ComposeError::Steps(problems) => problems.to_string(),
            error => error_chain(error),
        };
        Self {
            text,
            exit: error.exit(),
        }
    }
}

/// Keeps this host's deckies as its master's signed bundles say.
#[derive(Debug, Parser)]
#[command(name = "decnet-agent", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// Folder of the identity, the ledger and the control socket.
    #[arg(long, global = true, value_name = "DIR", env = "DECNET_STATE_DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// The Docker Engine's socket.
    #[arg(long, global = true, value_name = "PATH", default_value = DOCKER_SOCKET)]
    docker_socket: PathBuf,
    /// Settings: `[agent] master = host:port, ipvlan = true|false`. A missing file is fine.
    #[arg(long, global = true, value_name = "FILE", default_value = CONFIG_FILE)]
    config: PathBuf,
    /// Log as JSON, one object a line, on standard error.
    #[arg(long, global = true)]
    log_json: bool,
    /// What to log, such as `info` or `decnet_agent=debug`; `info` unless said, for `compose` nothing.
    #[arg(long, global = true, value_name = "FILTER", env = "DECNET_LOG")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this host a worker of the master that made the token.
    #[command(alias = "enrol")]
    Enroll(enroll::Options),
    /// Run the agent until SIGTERM or SIGINT. The deckies keep running after that.
    Run,
    /// Show what was accepted, how far it is, and what was asked.
    Status {
        #[command(flatten)]
        output: Output,
        /// First wait until the agent runs and the master has heard from it; fail after so many seconds.
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u64>,
    },
    /// Show what the agent would do now. Changes nothing.
    Plan(Output),
    /// Try again at once what is quarantined or waits for its next try.
    Retry {
        /// The stack or decky; everything that is not as it was asked for, unless said.
        #[arg(value_parser = retry_name)]
        stack: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Get a new key and certificate now. It happens by itself long before the present certificate ends.
    Renew,
    /// Show the newest steps.
    Journal {
        #[command(flatten)]
        output: Output,
        /// How many steps.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Look for what keeps this host from working, and say what to do about it.
    Doctor {
        #[command(flatten)]
        output: Output,
        /// Where the master's enrolment listener is, before this host is enrolled
        #[arg(long, value_name = "HOST:PORT")]
        master: Option<HostPort>,
    },
    /// Show what became of updates of this agent's package.
    Update {
        #[command(flatten)]
        output: Output,
        /// Install what the agent asks for, or go on with what was cut off. The unit decnet-updater does this
        #[arg(long)]
        run: bool,
    },
    /// Run a Compose project on this machine's engine.
    Compose(compose::Options),
    /// Remove this host's agent, on an order that it has accepted. Started by the agent itself.
    #[command(hide = true)]
    Reap {
        /// The folder that the agent has prepared.
        #[arg(long, value_name = "DIR")]
        work: PathBuf,
        /// Leave the session and the control groups of the agent.
        #[arg(long)]
        detach: bool,
    },
    /// Print the completions of a shell.
    Completions { shell: Shell },
    /// Print the manual page, or write one for each command into a folder.
    Man {
        /// The folder.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, Args)]
struct Output {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    decnet_heap::share();
    // A wrong command line ends here with code 2, as clap has it.
    let cli = Cli::parse();
    cli.init_tracing();
    let runtime = match cli.runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("decnet-agent: cannot start the runtime: {error}");
            return Exit::Failed.into();
        }
    };
    match runtime.block_on(cli.run()) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            match failure.exit() {
                // One line for each problem, which begins with the file's name.
                Exit::Files => eprintln!("{failure}"),
                _ => eprintln!("decnet-agent: {failure}"),
            }
            failure.exit().into()
        }
    }
}

impl Cli {
    /// Sends logs to standard error. Call it once, before [`Cli::run`].
    pub fn init_tracing(&self) {
        let usual = match self.command {
            // It tells what it does in its own words.
            Command::Compose(_) => "off",
            _ => "info",
        };
        let asked = self.common.log.as_deref().unwrap_or(usual);
        if self.common.log_json {
            let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
            logging::begin(asked, lines.json().flatten_event(true));
        } else {
            logging::for_people(asked, "decnet-agent");
        }
    }

    /// What [`Cli::run`] is to run on: threads only where there is work for more than one.
    ///
    /// # Errors
    /// The system gives no threads or file descriptors.
    pub fn runtime(&self) -> std::io::Result<Runtime> {
        let mut builder = match self.command {
            Command::Compose(_) => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        // The engine is what it waits for, however many cores there are. Each thread has a stack, so those that ask a
        // LAN about a large fleet's addresses are bounded, and gone soon after.
        builder
            .worker_threads(2)
            .max_blocking_threads(32)
            .thread_keep_alive(Duration::from_secs(1))
            .enable_all()
            .build()
    }

    /// Does what the command line says.
    ///
    /// # Errors
    /// [`Failure`], to be shown as it is.
    pub async fn run(self) -> Result<Exit, Failure> {
        if let Command::Completions { shell } = self.command {
            // Not written to the output at once: a reader that leaves would be a panic.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Self::command(), "decnet-agent", &mut script);
            return written(&script);
        }
        if let Command::Man { dir } = &self.command {
            return print_manual(dir.as_deref());
        }
        if let Command::Compose(options) = self.command {
            return Ok(match compose::run(options, &self.common.docker_socket).await? {
                compose::Ended::Done => Exit::Done,
                compose::Ended::Changes => Exit::Changes,
            });
        }
        if let Command::Reap { work, detach } = self.command {
            if detach {
                leave_the_agent();
            }
            reaper::reap(work)
                .await
                .map_err(|error| Failure::new(Exit::Failed, &error))?;
            return Ok(Exit::Done);
        }
        let config = self
            .common
            .config()
            .map_err(|error| Failure::new(Exit::Failed, &error))?;
        match self.command {
            Command::Enroll(options) => enroll::run(&options, &config, &self.common.config).await,
            Command::Run => {
                let supervisor = Supervisor::from_environment();
                run(config, &supervisor)
                    .await
                    .inspect_err(|failure| supervisor.status(&failure.text))
            }
            Command::Status { output, wait } => {
                let status = match wait {
                    Some(seconds) => status::heard(&config, Duration::from_secs(seconds)).await?,
                    None => status::now(config).await?,
                };
                output.print(&status, Status::to_text)
            }
            Command::Plan(output) => {
                let preview: Preview = match asked(&config, "/plan").await? {
                    Some(preview) => preview,
                    None => Agent::open(config)?
                        .preview()
                        .await
                        .map_err(|error| Failure::new(Exit::Failed, &error))?,
                };
                output.print(&preview, Preview::to_text)
            }
            Command::Retry { stack, output } => {
                let query = stack
                    .as_ref()
                    .map_or_else(|| "/retry".to_owned(), |stack| format!("/retry?stack={stack}"));
                let answer = control::call(&config.socket_path(), Method::POST, &query).await;
                let retried: Retried = match found(answer)? {
                    Some(retried) => retried,
                    None => Agent::open(config)?
                        .retry(stack.as_deref())
                        .await
                        .map_err(|error| Failure::new(Exit::Failed, &error))?,
                };
                output.print(&retried, Retried::to_text)
            }
            Command::Renew => {
                let answer = control::call(&config.socket_path(), Method::POST, "/renew").await;
                let _: serde_json::Value = found(answer)?.ok_or_else(|| Failure {
                    text: "no agent runs here: start it first".to_owned(),
                    exit: Exit::Failed,
                })?;
                println!(
                    "the agent asks the master for a certificate for a new key; `decnet-agent status` shows it"
                );
                Ok(Exit::Done)
            }
            Command::Journal { output, limit } => {
                let entries: Vec<JournalEntry> =
                    match asked(&config, &format!("/journal?limit={limit}")).await? {
                        Some(entries) => entries,
                        None => Agent::open(config)?
                            .ledger()
                            .journal(limit)
                            .map_err(|error| Failure::new(Exit::Failed, &error))?,
                    };
                output.print(&entries, |entries| journal_text(entries))
            }
            Command::Doctor { output, master } => {
                let findings = doctor::examine(&config, master.as_ref()).await;
                output.print(&findings, |findings| doctor::to_text(findings))?;
                let unwell = findings
                    .iter()
                    .any(|finding| finding.level == doctor::Level::Fail);
                Ok(if unwell { Exit::Unwell } else { Exit::Done })
            }
            Command::Update { run: true, .. } => {
                crate::core_dumps::forbid();
                update::run(&config)
                    .await
                    .map_err(|error| Failure::new(Exit::Failed, &error))?;
                Ok(Exit::Done)
            }
            Command::Update { output, .. } => output.print(&Overview::read(&config), Overview::to_text),
            // Answered above, before any file was looked at.
            Command::Completions { .. }
            | Command::Man { .. }
            | Command::Compose(_)
            | Command::Reap { .. } => Ok(Exit::Done),
        }
    }
}

impl Common {
    fn config(&self) -> Result<Config, crate::config::ConfigError> {
        let mut config = Config::new(&self.state_dir);
        config.docker_socket.clone_from(&self.docker_socket);
        config.with_file(&self.config)
    }
}

impl Output {
    fn print<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<Exit, Failure> {
        let mut out = if self.json {
            serde_json::to_string_pretty(value).map_err(|error| Failure::new(Exit::Failed, &error))?
        } else {
            text(value)
        };
        if !out.ends_with('\n') {
            out.push('\n');
        }
        written(out.as_bytes())
    }
}

fn print_manual(folder: Option<&Path>) -> Result<Exit, Failure> {
    let manual = Manual {
        command: Cli::command(),
        source: concat!("decnet-agent ", env!("CARGO_PKG_VERSION")),
        exit_codes: EXIT_CODES,
    };
    let Some(folder) = folder else {
        let mut page = Vec::new();
        manual
            .page(&mut page)
            .map_err(|error| Failure::new(Exit::Failed, &error))?;
        return written(&page);
    };
    manual.write_all(folder).map_err(|error| Failure {
        text: format!("cannot write to {}: {}", folder.display(), error_chain(&error)),
        exit: Exit::Failed,
    })?;
    Ok(Exit::Done)
}

fn written(out: &[u8]) -> Result<Exit, Failure> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(out).and_then(|()| stdout.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        Err(error) => Err(Failure::new(Exit::Failed, &error)),
        Ok(()) => Ok(Exit::Done),
    }
}

/// Asks the running agent; none when there is none.
async fn asked<T: serde::de::DeserializeOwned>(config: &Config, query: &str) -> Result<Option<T>, Failure> {
    found(control::ask(&config.socket_path(), query).await)
}

fn found<T>(answer: Result<T, ControlError>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        // No socket, or nobody behind it: the ledger is free to be opened, or its holder says so.
        Err(ControlError::Connect { .. }) => Ok(None),
        Err(error) => Err(Failure::new(Exit::Failed, &error)),
    }
}

/// A name that stands in a query as it is.
fn retry_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !text.is_empty() && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("it is no name of a stack or decky".to_owned())
    }
}

/// Opens the agent's state to run. Commands that look at an agent that does not run hold the ledger for a moment.
async fn open(config: Config) -> Result<Agent, OpenError> {
    let begun = tokio::time::Instant::now();
    loop {
        match Agent::open(config.clone()) {
            Err(error) if error.is_held() && begun.elapsed() < LOOKED_AT => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            opened => return opened,
        }
    }
}

async fn run(config: Config, supervisor: &Supervisor) -> Result<Exit, Failure> {
    crate::core_dumps::forbid();
    let shutdown = CancellationToken::new();
    let failed = |error: std::io::Error| Failure::new(Exit::Failed, &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let cancel = shutdown.clone();
    let told = supervisor.clone();
    let signals = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; the deckies keep running");
        told.stopping("stopping; the deckies keep running");
        cancel.cancel();
    });
    let outcome = run_enrolled(&config, supervisor, &shutdown).await;
    signals.abort();
    outcome
}

async fn run_enrolled(
    config: &Config,
    supervisor: &Supervisor,
    shutdown: &CancellationToken,
) -> Result<Exit, Failure> {
    let opened = match open(config.clone()).await {
        Err(error) if error.is_not_enrolled() => {
            let used = later::use_kept(config, supervisor, shutdown).await;
            match used.map_err(|error| Failure::new(Exit::NotEnrolled, &error))? {
                later::Outcome::Enrolled => open(config.clone()).await,
                later::Outcome::NoToken => Err(error),
                later::Outcome::Stopped => return Ok(Exit::Done),
            }
        }
        opened => opened,
    };
    let mut agent = opened?.supervised_by(supervisor.clone());
    logging::concerns_host(agent.host());
    loop {
        match agent.run(shutdown.clone()).await {
            Ok(()) => return Ok(Exit::Done),
            // What was not written did not happen: it goes on from what the ledger has.
            Err(RunError::Ledger(error)) if error.may_pass() => {
                tracing::error!("{}; trying again", error_chain(&error));
            }
            Err(error) => return Err(Failure::new(Exit::Failed, &error)),
        }
        match reopen(config, shutdown, supervisor).await? {
            Some(opened) => agent = opened.supervised_by(supervisor.clone()),
            None => return Ok(Exit::Done),
        }
    }
}

/// Opens the state again once the disk lets it; none when the agent is to end before that. There is no reconcile loop
/// meanwhile: this one is alive in its place.
async fn reopen(
    config: &Config,
    shutdown: &CancellationToken,
    supervisor: &Supervisor,
) -> Result<Option<Agent>, OpenError> {
    supervisor.status("waiting until the ledger can be written again");
    loop {
        supervisor.alive();
        tokio::select! {
            () = tokio::time::sleep(DISK) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
        match open(config.clone()).await {
            Err(error) if error.may_pass() => {
                tracing::warn!("the state cannot be used yet: {}", error_chain(&error));
            }
            opened => return opened.map(Some),
        }
    }
}
