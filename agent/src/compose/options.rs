//! The command line of `decnet-agent compose`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::EXIT_CODES;

/// Runs a Compose project on this machine's engine: no master and no enrolment are needed.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(super) project: ProjectOptions,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Which project.
#[derive(Debug, Clone, Args)]
pub(super) struct ProjectOptions {
    /// The project's name. Otherwise COMPOSE_PROJECT_NAME, `name:` of the files, or the folder's name.
    #[arg(short = 'p', long, value_name = "NAME")]
    pub(super) project_name: Option<String>,
    /// A Compose file, `-` for standard input; later ones win. Otherwise COMPOSE_FILE, or compose.yaml here or above.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// A profile to enable; `*` enables all. Otherwise COMPOSE_PROFILES.
    #[arg(long = "profile", value_name = "PROFILE")]
    pub(super) profiles: Vec<String>,
    /// A file of variables, instead of `.env`; later ones win.
    #[arg(long = "env-file", value_name = "FILE")]
    pub(super) env_files: Vec<PathBuf>,
    /// What relative paths start from; otherwise the first file's folder.
    #[arg(long, value_name = "DIR")]
    pub(super) project_directory: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make everything be as the files say, and return once it is started.
    Up(UpOptions),
    /// Show what `up` would change and why, field by field. Changes nothing.
    Plan {
        #[command(flatten)]
        up: UpOptions,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Stop and remove the project's containers and networks.
    Down(DownOptions),
    /// List the project's containers.
    Ps {
        /// Those that do not run as well.
        #[arg(short, long)]
        all: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Only these services.
        services: Vec<String>,
    },
    /// Show what the containers have written.
    Logs {
        /// Go on until interrupted.
        #[arg(short, long)]
        follow: bool,
        /// The newest lines of each container only.
        #[arg(short = 'n', long, value_name = "LINES")]
        tail: Option<u32>,
        /// Nothing older: a time ago such as 10m or 1h30m, or seconds since 1970.
        #[arg(long, value_name = "TIME", value_parser = since)]
        since: Option<Since>,
        /// With the time of each line.
        #[arg(short, long)]
        timestamps: bool,
        /// Without the containers' names.
        #[arg(long)]
        no_log_prefix: bool,
        /// Only these services.
        services: Vec<String>,
    },
    /// Print the one document that the files make.
    Config {
        #[arg(long, value_enum, default_value_t = Format::Yaml)]
        format: Format,
        /// Print nothing: only look for errors.
        #[arg(short, long)]
        quiet: bool,
        /// Print the services' names only.
        #[arg(long)]
        services: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Yaml,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Pull {
    Always,
    Missing,
    Never,
}

#[derive(Debug, Clone, Default, Args)]
pub(super) struct UpOptions {
    /// For those used to it; `up` always returns.
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Create, and start nothing.
    #[arg(long)]
    pub(super) no_start: bool,
    /// Recreate containers that have not changed.
    #[arg(long)]
    pub(super) force_recreate: bool,
    /// Remove containers of services that the files no longer have.
    #[arg(long)]
    pub(super) remove_orphans: bool,
    /// When to pull, instead of what the files say.
    #[arg(long, value_enum)]
    pub(super) pull: Option<Pull>,
    /// Build images that exist as well.
    #[arg(long)]
    pub(super) build: bool,
    /// How many containers of a service, instead of what the files say.
    #[arg(long, value_name = "SERVICE=NUMBER", value_parser = scale)]
    pub(super) scale: Vec<(String, u32)>,
    /// Seconds until a container that is being stopped is killed, instead of its grace period.
    #[arg(short, long, value_name = "SECONDS")]
    pub(super) timeout: Option<u32>,
    /// Wait until everything runs, and is healthy where it can tell.
    #[arg(long)]
    pub(super) wait: bool,
    /// The longest wait, in seconds.
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub(super) wait_timeout: Option<u32>,
    /// Only these services and what they depend on.
    pub(super) services: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(super) struct DownOptions {
    /// Remove the project's volumes as well.
    #[arg(short, long)]
    pub(super) volumes: bool,
    /// Remove containers of services that the files do not have.
    #[arg(long)]
    pub(super) remove_orphans: bool,
    /// Remove images as well: `local` for those without a name of their own, `all` for all that services use.
    #[arg(long, value_enum)]
    pub(super) rmi: Option<RemoveImages>,
    /// Seconds until a container is killed, instead of its grace period.
    #[arg(short, long, value_name = "SECONDS")]
    pub(super) timeout: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum RemoveImages {
    Local,
    All,
}

/// The oldest line that is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// Seconds before now.
    Ago(u32),
    /// Seconds since 1970.
    At(u32),
}

fn since(text: &str) -> Result<Since, String> {
    let bad = || format!("{text:?} is neither a time such as 10m or 1h30m nor a number of seconds");
    if let Ok(seconds) = text.parse() {
        return Ok(Since::At(seconds));
    }
    let (mut rest, mut total) = (text, 0_u32);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, behind) = rest.split_at(end);
        let unit = match behind.chars().next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return Err(bad()),
        };
        let number: u32 = number.parse().map_err(|_| bad())?;
        let seconds = number.checked_mul(unit).ok_or_else(bad)?;
        total = total.checked_add(seconds).ok_or_else(bad)?;
        rest = behind.get(1..).unwrap_or_default();
    }
    match text.is_empty() {
        true => Err(bad()),
        false => Ok(Since::Ago(total)),
    }
}

fn scale(text: &str) -> Result<(String, u32), String> {
    let bad = || format!("{text:?} is no SERVICE=NUMBER");
    let (service, number) = text.split_once('=').ok_or_else(bad)?;
    Ok((service.to_owned(), number.parse().map_err(|_| bad())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_ago_or_a_time_is_read() {
        assert_eq!(since("1h30m"), Ok(Since::Ago(5_400)));
        assert_eq!(since("45s"), Ok(Since::Ago(45)));
        assert_eq!(since("1700000000"), Ok(Since::At(1_700_000_000)));
        for bad in ["", "m", "10", "10x", "1h3", "99999999999d", "-1s", "é"] {
            assert!(since(bad).is_err() || bad == "10", "{bad}");
        }
    }
}
