//! Manual pages, made from the command line's own definition.

use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::Cli;
use super::failure::EXIT_CODES;

/// Writes the page of `decnet` itself.
///
/// # Errors
/// The output cannot be written.
pub fn page(out: &mut dyn Write) -> io::Result<()> {
    render(Cli::command(), out)
}

/// Writes one page for each command into a folder, `decnet-deploy.1` and so on. Gives out how many.
///
/// # Errors
/// The folder cannot be written.
pub fn write_all(folder: &Path) -> io::Result<usize> {
    std::fs::create_dir_all(folder)?;
    let mut root = Cli::command().disable_help_subcommand(true);
    // Every command learns its full name and the options that it inherits.
    root.build();
    write(root, "decnet", folder)
}

fn write(command: Command, name: &str, folder: &Path) -> io::Result<usize> {
    let mut written = 1;
    for sub in command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .cloned()
        .collect::<Vec<_>>()
    {
        let name = format!("{name}-{}", sub.get_name());
        written += write(sub, &name, folder)?;
    }
    let mut file = std::fs::File::create(folder.join(format!("{name}.1")))?;
    // clap keeps names for ever; the names of this program's commands are few.
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    render(command.name(name), &mut file)?;
    Ok(written)
}

fn render(command: Command, out: &mut dyn Write) -> io::Result<()> {
    let root = command.get_name() == "decnet";
    let man = Man::new(command)
        .manual("DECNET manual")
        .source(concat!("decnet ", env!("CARGO_PKG_VERSION")));
    man.render(out)?;
    if !root {
        // The page of `decnet` has them as its last words.
        let mut roff = Roff::new();
        roff.control("SH", ["EXIT STATUS"]);
        roff.control("nf", []);
        roff.text(
            EXIT_CODES
                .lines()
                .skip(1)
                .map(roman)
                .flat_map(|line| [line, roman("\n")])
                .collect::<Vec<_>>(),
        );
        roff.control("fi", []);
        roff.to_writer(&mut &mut *out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_examples_and_exit_codes() {
        let folder = tempfile::tempdir().unwrap();
        let written = write_all(folder.path()).unwrap();
        let pages: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(pages.len(), written);
        assert!(written > 25, "{written}");
        for path in pages {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.contains("3  the master is not reachable"),
                "{}",
                path.display()
            );
        }
    }
}
