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
        vec!["decnet", "deploy", "--deckies", "3"],
        vec!["decnet", "deploy", "--services", "ssh"],
        vec![
            "decnet",
            "deploy",
            "fleet.ini",
            "--deckies",
            "3",
            "--services",
            "ssh",
        ],
        vec!["decnet", "plan", "fleet.ini", "--randomize-distros"],
        vec!["decnet", "deploy", "--deckies", "0", "--services", "ssh"],
        vec![
            "decnet",
            "deploy",
            "--deckies",
            "1",
            "--services",
            "ssh",
            "--mutate-interval",
            "0",
        ],
        vec![
            "decnet",
            "deploy",
            "--deckies",
            "1",
            "--services",
            "ssh",
            "--ip-start",
            "10.0.0.256",
        ],
        vec!["decnet", "decky", "show", "Not_A_Name"],
        vec!["decnet", "decky", "rm"],
        vec!["decnet", "decky", "rm", "web", "--all"],
        vec!["decnet", "host", "enroll", "a", "--subnet", "10.0.0.0/24"],
        vec!["decnet", "host", "enroll", "a", "--ttl", "8d"],
        vec!["decnet", "host", "enroll", "a", "--here", "--approve"],
        vec!["decnet", "host", "enroll", "a", "--here", "--out", "f"],
        vec!["decnet", "host", "network", "a"],
        vec!["decnet", "host", "network", "a", "--driver", "bridge"],
        vec!["decnet", "host", "enroll", "a", "--mode", "hub"],
        vec!["decnet", "system", "limit", "501"],
        vec!["decnet", "token", "create", "x", "--role", "root"],
        vec!["decnet", "lifecycle", "show", "nonsense"],
    ] {
        assert_eq!(parse(args.clone()).unwrap_err().exit_code(), 2, "{args:?}");
    }
}

#[test]
fn a_file_and_the_flags_exclude_each_other_and_one_of_them_is_needed() {
    let refusal = |args: &[&str]| parse(args.iter().copied()).unwrap_err().to_string();
    for command in ["deploy", "plan"] {
        let neither = refusal(&["decnet", command]);
        assert!(neither.contains("<FILE|--deckies <N>>"), "{neither}");
        for flags in [
            &["--deckies", "2", "--services", "ssh"][..],
            &["--archetype", "printer"],
        ] {
            let both = refusal(&[&["decnet", command, "fleet.ini"], flags].concat());
            assert!(both.contains("cannot be used with"), "{both}");
            assert!(both.contains("[FILE]"), "{both}");
        }
        let unsaid = refusal(&["decnet", command, "--deckies", "2"]);
        for flag in ["--services", "--archetype", "--randomize-services"] {
            assert!(unsaid.contains(flag), "{unsaid}");
        }
    }
}

#[test]
fn completion_scripts_know_the_flags_that_stand_for_a_file() {
    for shell in [
        clap_complete::Shell::Bash,
        clap_complete::Shell::Zsh,
        clap_complete::Shell::Fish,
    ] {
        let mut script = Vec::new();
        crate::cli::completions(shell, &mut script).unwrap();
        let script = String::from_utf8(script).unwrap();
        for flag in [
            "ip-start",
            "randomize-services",
            "randomize-distros",
            "mutate-interval",
        ] {
            assert!(script.contains(flag), "{shell}: {flag}");
        }
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
