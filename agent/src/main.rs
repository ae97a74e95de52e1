//! `decnet-agent`: see [`decnet_agent::cli`].

use std::process::ExitCode;

use clap::Parser as _;
use decnet_agent::cli::{Cli, Exit};

fn main() -> ExitCode {
    // A wrong command line ends here with code 2, as clap has it.
    let cli = Cli::parse();
    cli.init_tracing();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("decnet-agent: cannot start the runtime: {error}");
            return Exit::Failed.into();
        }
    };
    match runtime.block_on(cli.run()) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("decnet-agent: {failure}");
            failure.exit().into()
        }
    }
}
