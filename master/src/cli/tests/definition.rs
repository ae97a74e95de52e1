//! The command line's own definition.

use clap::CommandFactory as _;

use crate::cli::{Cli, parse};

#[test]
fn the_definition_is_sound_and_every_command_has_examples() {
    Cli::command().debug_assert();
    let mut root = Cli::command();
    root.build();
    let mut checked = 0;
    let mut open: Vec<clap::Command> = root.get_subcommands().cloned().collect();
    while let Some(command) = open.pop() {
        if command.get_name() == "help" {
            continue;
        }
        let subs: Vec<clap::Command> = command.get_subcommands().cloned().collect();
        if subs.is_empty() {
            let help = command.clone().render_long_help().to_string();
            assert!(
                help.contains("Examples:"),
                "{} has no examples",
                command.get_name()
            );
            assert!(
                help.contains(&format!("decnet {}", command.get_name())) || help.contains(command.get_name())
            );
            checked += 1;
        }
        open.extend(subs);
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn help_has_the_exit_codes() {
    let help = Cli::command().render_long_help().to_string();
    for code in [
        "0  done",
        "1  the operation failed",
        "3  the master is not reachable",
        "5  no permission",
    ] {
        assert!(help.contains(code), "{help}");
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for args in [
        vec!["decnet"],
        vec!["decnet", "deploy"],
        vec!["decnet", "nonsense"],
        vec!["decnet", "decky", "show", "Not_A_Name"],
        vec!["decnet", "decky", "rm"],
        vec!["decnet", "decky", "rm", "web", "--all"],
        vec!["decnet", "host", "enroll", "a", "--subnet", "10.0.0.0/24"],
        vec!["decnet", "host", "enroll", "a", "--ttl", "2h"],
        vec!["decnet", "system", "limit", "501"],
        vec!["decnet", "token", "create", "x", "--role", "root"],
        vec!["decnet", "lifecycle", "show", "nonsense"],
    ] {
        assert_eq!(parse(args.clone()).unwrap_err().exit_code(), 2, "{args:?}");
    }
}

#[test]
fn the_token_is_not_shown_in_help() {
    let mut root = Cli::command();
    root.build();
    let help = root
        .find_subcommand_mut("status")
        .unwrap()
        .render_long_help()
        .to_string();
    assert!(!help.contains("--token "), "{help}");
    assert!(
        help.contains("--token-file") && help.contains("DECNET_TOKEN"),
        "{help}"
    );
}
