//! Texts that nobody would write. Ten thousand of each kind; a failure prints its seed and the smallest text.

use std::cell::Cell;

use proptest::prelude::{Just, Strategy, TestCaseError, any, prop, prop_oneof};
use proptest::string::{RegexGeneratorStrategy, string_regex};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::{Document, IniError};
use crate::fleet::fixture::{CATALOGUE, master, parse};

const CASES: u32 = 10_000;

/// Texts of this form. A plain string as strategy would parse its expression anew for every text.
fn like(expression: &str) -> RegexGeneratorStrategy<String> {
    string_regex(expression).unwrap()
}

/// How many texts were built, refused by the builder, and refused by the parser.
#[derive(Debug, Default)]
struct Tally {
    built: Cell<u32>,
    unbuilt: Cell<u32>,
    refused: Cell<u32>,
}

fn run(strategy: impl Strategy<Value = String>) -> Tally {
    let seed = [42; 32];
    println!("seed: {seed:?}");
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let tally = Tally::default();
    let result = runner.run(&strategy, |text| {
        check(&text, parse(&text), &tally).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    println!("{tally:?}");
    tally
}

fn count(cell: &Cell<u32>) {
    cell.set(cell.get() + 1);
}

/// The promise: a document that builds or is refused with reasons, or at least one fault, each with its line.
fn check(text: &str, result: Result<Document, Vec<IniError>>, tally: &Tally) -> Result<(), String> {
    let lines = text.replace("\r\n", "\n").replace('\r', "\n").split('\n').count();
    match result {
        Ok(document) => {
            for decky in &document.deckies {
                let list = decky
                    .services
                    .as_ref()
                    .map(|at| at.value.as_slice())
                    .unwrap_or_default();
                if decky.services.is_some() && list.is_empty() {
                    return Err(format!("{} has an empty list of services", decky.name));
                }
                if list.iter().any(|slug| {
                    CATALOGUE
                        .service(slug)
                        .is_some_and(|service| !service.is_deployable())
                }) {
                    return Err(format!("{} has a service that cannot be deployed", decky.name));
                }
            }
            match master().plan(text, false) {
                Err(errors) if errors.is_empty() => Err("refused without a reason".to_owned()),
                Ok(built) if built.fleet.deckies.len() != document.deckies.len() => {
                    Err("deckies were lost".to_owned())
                }
                Ok(_) => {
                    count(&tally.built);
                    Ok(())
                }
                Err(_) => {
                    count(&tally.unbuilt);
                    Ok(())
                }
            }
        }
        Err(errors) if errors.is_empty() => Err("refused without a reason".to_owned()),
        Err(errors) => match errors
            .iter()
            .find(|error| !error.line.is_some_and(|line| (1..=lines).contains(&line)))
        {
            Some(error) => Err(format!("no such line: {error}")),
            None => {
                count(&tally.refused);
                Ok(())
            }
        },
    }
}

#[test]
fn any_text_is_read_or_refused_with_lines() {
    run(like(
        "\\PC{0,120}|[\\x00-\\x7f\\r\\n\\[\\]=:;#. ]{0,200}|(?s:.{0,80})",
    ));
}

#[test]
fn any_bytes_are_read_or_refused_with_lines() {
    run(prop::collection::vec(any::<u8>(), 0..200)
        .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
}

#[test]
fn any_text_in_the_shape_of_the_grammar_is_read_or_refused_with_lines() {
    let name = prop_oneof![
        4 => like("[a-c]{1,3}"),
        1 => Just("general".to_owned()),
        1 => Just("DEFAULT".to_owned()),
        1 => like("custom-[a-b]{0,2}"),
        2 => like("[a-c](-0[1-3])?\\.(ssh|http|rdp|sniffer|smb|a|SSH)"),
        1 => like("[A-Za-z0-9_. -]{0,8}"),
    ];
    let value = prop_oneof![
        4 => like("(ssh|http|ftp|smb|redis|https|a|sniffer)(, ?(ssh|http|ftp|vnc|mqtt|a)){0,3},?"),
        2 => like("[0-9]{0,4}"),
        2 => like("192\\.168\\.50\\.[0-9]{1,3}"),
        1 => like("10\\.0\\.[0-9]\\.0/[0-9]{1,2}"),
        2 => like("(web-server|printer|iot-device|file-server|linux|windows|bsd|cisco)"),
        1 => like("(b64:)?[A-Za-z0-9+/=%$]{0,12}"),
        1 => like("\\PC{0,12}"),
    ];
    let key = like(
        "(ip|IP|services|archetype|nmap[_-]os|mutate[_-]interval|amount|net|gw|interface|password|user\
               |response_code|http_versions|custom_body|binary|exec|ports|nla|x)",
    );
    let sound = like(
        "services ?= ?(ssh|http|redis)(, ?(ftp|vnc))?|ip ?= ?192\\.168\\.50\\.[1-9][0-9]|amount = [1-3]\
                 |archetype = (web-server|printer|iot-device)|mutate_interval: [1-9][0-9]?|nmap-os=(linux|bsd)",
    );
    let line = prop_oneof![
        12 => sound,
        8 => (key, like("( ?= ?| ?: ?)"), value).prop_map(|(key, delimiter, value)| format!("{key}{delimiter}{value}")),
        3 => name.prop_map(|name| format!("[{name}]")),
        1 => like("[ \\t]{1,4}\\PC{0,8}"),
        1 => like("[#;]\\PC{0,8}"),
        1 => like("(services|\\[a|=x|)"),
    ];
    let text =
        (prop::collection::vec(line, 0..10), like("(\n|\r\n|\r)")).prop_map(|(lines, end)| lines.join(&end));
    let tally = run((like("(\\[a\\]\n)?"), text).prop_map(|(head, text)| head + &text));
    // Otherwise the generator has drifted away from the grammar and shows nothing.
    assert!(tally.built.get() > 500 && tally.refused.get() > 300, "{tally:?}");
}
