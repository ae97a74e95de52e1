//! `decnet-decoy <slug>`: runs one emulated service, or `pause` for a decky's base container.
//!
//! Exit codes: 0 after SIGTERM or SIGINT, 1 when the service cannot run (the port cannot be bound),
//! 2 when it was started wrongly (unknown service, damaged environment).

use std::process::ExitCode;

use decnet_decoy::{Failure, pause, services};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let outcome = match arguments.as_slice() {
        [word] if word == "--help" || word == "-h" => {
            println!("{}", usage());
            return ExitCode::SUCCESS;
        }
        [word] if word == "--version" || word == "-V" => {
            println!("decnet-decoy {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        [word] if word == "pause" => pause::run().map_err(Failure::from),
        [slug] => decnet_decoy::run(slug),
        _ => {
            eprintln!("decnet-decoy: expected one argument\n{}", usage());
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.exit_code();
            eprintln!("decnet-decoy: {:#}", anyhow::Error::new(failure));
            ExitCode::from(code)
        }
    }
}

fn usage() -> String {
    format!(
        "usage: decnet-decoy <service>\nservices: {}, pause",
        services::slugs()
    )
}
