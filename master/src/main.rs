//! The `decnet` command: the master and its admin command line.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use decnet::cli::{self, AdminCommand, Cli, Command, Console};
use decnet::init::{self, InitArgs};
use decnet::serve::{self, Bound, ServeArgs};
use decnet_agent::supervisor::Supervisor;
use decnet_wire::ids::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Init(args) => initialise(&args),
        Command::Serve(args) => run_master(args),
        Command::Admin(command) => return ask_master(&command),
        Command::Sign(args) => return ExitCode::from(with_console(|console| cli::sign(&args, console))),
        Command::Completions { shell } => cli::completions(shell, &mut std::io::stdout()).map_err(Into::into),
        Command::Man { dir: None } => cli::manual_page(&mut std::io::stdout()).map_err(Into::into),
        Command::Man { dir: Some(dir) } => cli::write_manual(&dir)
            .map(|_| ())
            .with_context(|| format!("cannot write to {}", dir.display())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("decnet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn ask_master(command: &AdminCommand) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("decnet: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    ExitCode::from(with_console(|console| {
        runtime.block_on(cli::run(command, console))
    }))
}

fn with_console(run: impl FnOnce(&mut Console<'_>) -> u8) -> u8 {
    run(&mut Console {
        input: &mut std::io::stdin(),
        out: &mut std::io::stdout(),
        err: &mut std::io::stderr(),
        terminal: std::io::stdout().is_terminal(),
        asks: std::io::stdin().is_terminal(),
        json: false,
    })
}

fn initialise(args: &InitArgs) -> anyhow::Result<()> {
    let made = init::run(args, Timestamp::new(time::OffsetDateTime::now_utc()))?;
    let mut out = std::io::stdout();
    writeln!(out, "fleet       {}", made.fleet)?;
    writeln!(out, "CA pin      {}", made.ca_pin)?;
    writeln!(out, "advertised  {}", made.advertise.join(", "))?;
    writeln!(out, "keys        {}", made.keys.display())?;
    writeln!(out, "token       {}", made.token)?;
    writeln!(out, "\nThe token has the role admin and is shown this once.")?;
    writeln!(
        out,
        "{0}/operator.pem signs the trust root: `decnet key offline FILE` moves it away. Next: decnet serve",
        made.keys.display()
    )?;
    Ok(())
}

fn run_master(args: ServeArgs) -> anyhow::Result<()> {
    let asked = std::env::var("DECNET_LOG").unwrap_or_else(|_| "info".to_owned());
    decnet_agent::logging::for_people(&asked, "decnet");
    decnet_agent::core_dumps::forbid();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        let end = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let asked = end.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            asked.cancel();
        });
        let supervisor = Supervisor::from_environment();
        let serving = serve::run(args, end, supervisor.clone(), |bound: &Bound| {
            tracing::info!(?bound, "the master serves");
        });
        let served = serving.await.map_err(anyhow::Error::from);
        served.inspect_err(|error| supervisor.status(&format!("{error:#}")))
    })
}
