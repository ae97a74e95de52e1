//! `decnet-agent`: see [`decnet_agent::cli`].

use std::process::ExitCode;

use clap::Parser as _;
use decnet_agent::cli::{Cli, Exit};

fn main() -> ExitCode {
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
