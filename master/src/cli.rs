//! The command line. Parses, asks the master, prints: tables for people, `--json` for programs.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`client`] | the way to the master: Unix socket or HTTPS |
//! | [`failure`] | failures and exit codes |
//! | [`table`] | what people read |
//! | [`follow`], [`events`] | waiting for operations to end; what happens |
//! | [`audit`], [`backup`], [`fleet`], [`deckies`], [`hosts`], [`lifecycle`], [`catalogue`], [`system`], [`tokens`], [`keys`], [`policy`] | the commands |
//! | [`policy_file`] | the policy as an operator writes it |
//! | [`manual`] | man pages and shell completions |

mod audit;
mod backup;
mod catalogue;
mod client;
mod deckies;
mod events;
pub mod failure;
mod fleet;
mod follow;
mod hosts;
mod keys;
mod lifecycle;
mod manual;
mod policy;
mod policy_file;
mod system;
mod table;
#[cfg(test)]
mod tests;
mod tokens;

use std::ffi::OsString;
use std::io::{Read, Write};

use clap::{CommandFactory as _, Parser, Subcommand};
use serde::Serialize;

use self::client::{Client, Connection};
use self::failure::{EXIT_CODES, Failure};
use crate::init::InitArgs;
use crate::serve::ServeArgs;

/// DECNET's master and its admin command line.
///
/// The admin commands ask the master over its Unix socket, or over HTTPS with --server, --ca and a token.
#[derive(Debug, Parser)]
#[command(name = "decnet", version, propagate_version = true, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a master: keys, CA, trust root, store, the first token
    #[command(
        after_help = "Examples:\n  decnet init\n  decnet init --advertise master.example --advertise 192.0.2.10"
    )]
    Init(InitArgs),
    /// Run the master
    #[command(
        after_help = "Examples:\n  decnet serve\n  decnet serve --api-listen 127.0.0.1:8772 --no-local-worker"
    )]
    Serve(ServeArgs),
    #[command(flatten)]
    Admin(AdminCommand),
    /// Show a document that needs an operator's signature, and sign it; needs no master
    #[command(
        after_help = "Examples:\n  decnet sign root.json\n  decnet sign root.json --key operator.pem\n  decnet sign policy.json --key operator.pem"
    )]
    Sign(SignArgs),
    /// Print a script that completes this command line in a shell
    #[command(after_help = "Examples:\n  decnet completions bash > /etc/bash_completion.d/decnet")]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command into a folder
    #[command(after_help = "Examples:\n  decnet man | man -l -\n  decnet man --dir /usr/share/man/man1")]
    Man {
        /// The folder
        #[arg(long, value_name = "DIR")]
        dir: Option<std::path::PathBuf>,
    },
}

/// The commands that ask a running master.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Deploy a fleet description
    Deploy(Asking<fleet::DeployArgs>),
    /// Show what each host would do for a fleet description; change nothing
    Plan(Asking<fleet::PlanArgs>),
    /// Show mode, hosts, deckies and open operations
    #[command(after_help = "Examples:\n  decnet status\n  decnet status --json")]
    Status(Asking<Nothing>),
    /// List, show, mutate and remove deckies
    Decky(Asking<deckies::DeckyArgs>),
    /// Enrol, list and show hosts
    Host(Asking<hosts::HostArgs>),
    /// List, show and follow operations
    Lifecycle(Asking<lifecycle::LifecycleArgs>),
    /// Print what happens to deckies and hosts, until interrupted
    Events(Asking<events::EventsArgs>),
    /// Remove operations that have ended, and say which
    Purge(Asking<lifecycle::PurgeArgs>),
    /// Write a consistent copy of the store to a file, while the master runs
    Backup(Asking<backup::BackupArgs>),
    /// Put the store of a backup in the place of a stopped master's
    Restore(Asking<backup::RestoreArgs>),
    /// List the services that deckies can show
    #[command(after_help = "Examples:\n  decnet services\n  decnet services --json")]
    Services(Asking<Nothing>),
    /// List the archetypes
    #[command(after_help = "Examples:\n  decnet archetypes")]
    Archetypes(Asking<Nothing>),
    /// List the distributions that deckies claim to run
    #[command(after_help = "Examples:\n  decnet distros")]
    Distros(Asking<Nothing>),
    /// Show the master's mode and health; show or set the deployment limit
    System(Asking<system::SystemArgs>),
    /// Make, list and revoke operator tokens
    Token(Asking<tokens::TokenArgs>),
    /// Show who changed what, and alarms; check that nobody altered the log of it
    Audit(Asking<audit::AuditArgs>),
    /// List, rotate, export and import the keys of the trust root
    Key(Asking<keys::KeyArgs>),
    /// Show, check, explain and sign what bundles may ask of hosts
    Policy(Asking<policy::PolicyArgs>),
}

/// A command's own arguments and how to reach the master.
#[derive(Debug, clap::Args)]
pub struct Asking<T: clap::Args> {
    #[command(flatten)]
    pub args: T,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    #[command(flatten)]
    pub connection: Connection,
}

/// No arguments.
#[derive(Debug, clap::Args)]
pub struct Nothing {}

/// Where a command reads and writes.
pub struct Console<'a> {
    /// What `-` reads, and where questions are answered.
    pub input: &'a mut (dyn Read + Send),
    pub out: &'a mut (dyn Write + Send),
    pub err: &'a mut (dyn Write + Send),
    /// `out` is a terminal: progress may be drawn over.
    pub terminal: bool,
    /// `input` is a terminal: somebody is there to be asked.
    pub asks: bool,
    /// Print JSON.
    pub json: bool,
}

impl std::fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console")
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

impl Console<'_> {
    /// Prints text as it is.
    fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush())
            .map_err(|error| not_written(&error))
    }

    /// Prints a line.
    fn say(&mut self, line: &str) -> Result<(), Failure> {
        self.print(&format!("{line}\n"))
    }

    /// Prints a remark that is no result.
    fn remark(&mut self, line: &str) {
        // Nobody is left to be told.
        let _ = writeln!(self.err, "{}", table::printable(line));
    }

    /// Prints a document as JSON.
    fn document(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| Failure::Failed(format!("cannot write the answer as JSON: {error}")))?;
        self.say(&text)
    }
}

fn not_written(error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return Failure::ReaderLeft;
    }
    Failure::Failed(format!("cannot write to the standard output: {error}"))
}

/// Runs an admin command, and gives out the exit code. What went wrong is printed.
pub async fn run(command: &AdminCommand, console: &mut Console<'_>) -> u8 {
    ended(perform(command, console).await, console)
}

/// Runs `decnet sign`, and gives out the exit code. What went wrong is printed.
pub fn sign(args: &SignArgs, console: &mut Console<'_>) -> u8 {
    ended(keys::sign(args, console), console)
}

fn ended(outcome: Result<(), Failure>, console: &mut Console<'_>) -> u8 {
    let Err(failure) = outcome else { return 0 };
    for line in failure.lines() {
        console.remark(&format!("decnet: {line}"));
    }
    failure.code()
}

async fn perform(command: &AdminCommand, console: &mut Console<'_>) -> Result<(), Failure> {
    use AdminCommand as C;
    let (json, connection) = command.shared();
    console.json = json;
    let client = Client::new(connection)?;
    match command {
        C::Deploy(asking) => fleet::deploy(&asking.args, &client, console).await,
        C::Plan(asking) => fleet::plan(&asking.args, &client, console).await,
        C::Status(_) => system::status(&client, console).await,
        C::Decky(asking) => deckies::run(&asking.args, &client, console).await,
        C::Host(asking) => hosts::run(&asking.args, &client, console).await,
        C::Backup(asking) => backup::take(&asking.args, &client, console).await,
        C::Restore(asking) => backup::restore(&asking.args, &client, console).await,
        C::Purge(asking) => lifecycle::purge(&asking.args, &client, console).await,
        C::Lifecycle(asking) => lifecycle::run(&asking.args, &client, console).await,
        C::Events(asking) => events::run(&asking.args, &client, console).await,
        C::Services(_) => catalogue::services(&client, console).await,
        C::Archetypes(_) => catalogue::archetypes(&client, console).await,
        C::Distros(_) => catalogue::distros(&client, console).await,
        C::System(asking) => system::run(&asking.args, &client, console).await,
        C::Token(asking) => tokens::run(&asking.args, &client, console).await,
        C::Audit(asking) => audit::run(&asking.args, &client, console).await,
        C::Key(asking) => keys::run(&asking.args, &client, console).await,
        C::Policy(asking) => policy::run(&asking.args, &client, console).await,
    }
}

impl AdminCommand {
    /// What every command takes: whether to print JSON, and how to reach the master.
    fn shared(&self) -> (bool, &Connection) {
        match self {
            Self::Deploy(asking) => asking.shared(),
            Self::Plan(asking) => asking.shared(),
            Self::Status(asking)
            | Self::Services(asking)
            | Self::Archetypes(asking)
            | Self::Distros(asking) => asking.shared(),
            Self::Decky(asking) => asking.shared(),
            Self::Host(asking) => asking.shared(),
            Self::Purge(asking) => asking.shared(),
            Self::Backup(asking) => asking.shared(),
            Self::Restore(asking) => asking.shared(),
            Self::Lifecycle(asking) => asking.shared(),
            Self::Events(asking) => asking.shared(),
            Self::System(asking) => asking.shared(),
            Self::Token(asking) => asking.shared(),
            Self::Audit(asking) => asking.shared(),
            Self::Key(asking) => asking.shared(),
            Self::Policy(asking) => asking.shared(),
        }
    }
}

impl<T: clap::Args> Asking<T> {
    fn shared(&self) -> (bool, &Connection) {
        (self.json, &self.connection)
    }
}

/// Prints the completion script of a shell.
///
/// # Errors
/// The output cannot be written.
pub fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> std::io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "decnet", &mut script);
    out.write_all(&script)
}

pub use keys::SignArgs;
pub use manual::{page as manual_page, write_all as write_manual};

/// Parses a command line, as the tests give it.
///
/// # Errors
/// It is wrong, or asks for help.
pub fn parse(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(args)
}
