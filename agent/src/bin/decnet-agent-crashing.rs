//! `decnet-agent` with the points at which a test ends it, see [`decnet_docker::crash`]. For suites; it is in no package.

use std::process::ExitCode;

fn main() -> ExitCode {
    decnet_agent::cli::main()
}
