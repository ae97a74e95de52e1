//! Manual pages of `decnet`.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory as _;
use decnet_agent::manual::Manual;

use super::Cli;
use super::failure::EXIT_CODES;

fn manual() -> Manual<'static> {
    Manual {
        command: Cli::command(),
        source: concat!("decnet ", env!("CARGO_PKG_VERSION")),
        exit_codes: EXIT_CODES,
    }
}

/// Writes the page of `decnet` itself.
///
/// # Errors
/// The output cannot be written.
pub fn page(out: &mut dyn Write) -> io::Result<()> {
    manual().page(out)
}

/// Writes one page for each command into a folder, `decnet-deploy.1` and so on. Gives out how many.
///
/// # Errors
/// The folder cannot be written.
pub fn write_all(folder: &Path) -> io::Result<usize> {
    manual().write_all(folder)
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
