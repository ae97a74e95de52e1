//! `decnet-agent`: see [`decnet_agent::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    decnet_agent::cli::main()
}
