//! Manual pages, made from a command line's own definition. Both programs use it.

use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// A program whose pages are wanted.
#[derive(Debug)]
pub struct Manual<'a> {
    /// The whole command line.
    pub command: Command,
    /// Name and version, for the pages' last lines.
    pub source: &'a str,
    /// A heading, then one exit code a line. The program's own page is taken to have them from its command's last words.
    pub exit_codes: &'a str,
}

impl Manual<'_> {
    /// Writes the program's own page.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn page(&self, out: &mut dyn Write) -> io::Result<()> {
        self.render(self.command.clone(), out)
    }

    /// Writes one page for each command into a folder, `decnet-deploy.1` and so on. Gives out how many.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_all(&self, folder: &Path) -> io::Result<usize> {
        std::fs::create_dir_all(folder)?;
        let mut root = self.command.clone().disable_help_subcommand(true);
        // Every command learns its full name and the options that it inherits.
        root.build();
        let name = root.get_name().to_owned();
        self.write(root, &name, folder)
    }

    fn write(&self, command: Command, name: &str, folder: &Path) -> io::Result<usize> {
        let mut written = 1;
        for sub in command
            .get_subcommands()
            .filter(|sub| !sub.is_hide_set())
            .cloned()
            .collect::<Vec<_>>()
        {
            let name = format!("{name}-{}", sub.get_name());
            written += self.write(sub, &name, folder)?;
        }
        let mut file = std::fs::File::create(folder.join(format!("{name}.1")))?;
        // clap keeps names for ever; the names of a program's commands are few.
        let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
        self.render(command.name(name), &mut file)?;
        Ok(written)
    }

    fn render(&self, command: Command, out: &mut dyn Write) -> io::Result<()> {
        let root = command.get_name() == self.command.get_name();
        Man::new(command)
            .manual("DECNET manual")
            .source(self.source)
            .render(out)?;
        if root {
            return Ok(());
        }
        let mut roff = Roff::new();
        roff.control("SH", ["EXIT STATUS"]);
        roff.control("nf", []);
        roff.text(
            self.exit_codes
                .lines()
                .skip(1)
                .map(roman)
                .flat_map(|line| [line, roman("\n")])
                .collect::<Vec<_>>(),
        );
        roff.control("fi", []);
        roff.to_writer(&mut &mut *out)
    }
}
