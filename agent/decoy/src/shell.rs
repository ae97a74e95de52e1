//! The shell that ssh and telnet give to whoever got in. Nothing is run: every answer is made up.

mod appliance;
mod editor;
mod unix;
mod windows;

use serde::Deserialize;

use crate::host::{Host, OsFamily};
use crate::identity::Identity;

pub use editor::{Editor, Entered};
pub use unix::release_name;

/// The longest command line read, in bytes.
pub const COMMAND_CAP: usize = 4096;

/// The most one command line prints, in bytes.
pub const OUTPUT_CAP: usize = 32 * 1024;

/// The persona keys of services that give a shell.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ShellPersona {
    /// Root's password.
    pub password: String,
    /// A second account; empty or `root` for none.
    pub user: String,
    /// The second account's password.
    pub user_password: String,
    /// The host name shown, when it is not the decky's.
    pub hostname: Option<String>,
}

impl Default for ShellPersona {
    fn default() -> Self {
        Self {
            password: "admin".into(),
            user: "ubuntu".into(),
            user_password: "admin".into(),
            hostname: None,
        }
    }
}

impl ShellPersona {
    /// The accounts that get in.
    #[must_use]
    pub fn accounts(&self) -> Vec<(String, String)> {
        let mut accounts = vec![("root".to_owned(), self.password.clone())];
        if !self.user.is_empty() && self.user != "root" {
            accounts.push((self.user.clone(), self.user_password.clone()));
        }
        accounts
    }

    /// The machine as this persona shows it.
    #[must_use]
    pub fn host(&self, host: &Host) -> Host {
        let hostname = self.hostname.clone().filter(|name| !name.is_empty());
        Host {
            hostname: hostname.unwrap_or_else(|| host.hostname.clone()),
            ..host.clone()
        }
    }
}

/// What a command line answers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The output, with bare line feeds.
    pub text: String,
    /// The exit status.
    pub status: u32,
    /// Whether the shell has ended.
    pub over: bool,
}

/// One login's shell.
#[derive(Debug)]
pub struct Shell {
    dialect: Dialect,
}

#[derive(Debug)]
enum Dialect {
    Unix(unix::Unix),
    Windows(windows::Windows),
    Appliance(appliance::Appliance),
}

impl Shell {
    /// A shell for `user` on `host`.
    #[must_use]
    pub fn new(host: &Host, identity: &Identity, user: &str) -> Self {
        let dialect = match host.family {
            OsFamily::Windows | OsFamily::WindowsServer => {
                Dialect::Windows(windows::Windows::new(host, user))
            }
            OsFamily::Cisco => Dialect::Appliance(appliance::Appliance::new(host, identity)),
            OsFamily::Linux | OsFamily::Bsd | OsFamily::Embedded => {
                Dialect::Unix(unix::Unix::new(host, identity, user))
            }
        };
        Self { dialect }
    }

    /// What is shown once after login.
    #[must_use]
    pub fn greeting(&self) -> String {
        match &self.dialect {
            Dialect::Unix(shell) => shell.greeting(),
            Dialect::Windows(shell) => shell.greeting(),
            Dialect::Appliance(_) => String::new(),
        }
    }

    /// What is shown before each command.
    #[must_use]
    pub fn prompt(&self) -> String {
        match &self.dialect {
            Dialect::Unix(shell) => shell.prompt(),
            Dialect::Windows(shell) => shell.prompt(),
            Dialect::Appliance(shell) => shell.prompt(),
        }
    }

    /// Answers one command line, with at most [`OUTPUT_CAP`] bytes.
    pub fn run(&mut self, line: &str) -> Reply {
        let mut reply = match &mut self.dialect {
            Dialect::Unix(shell) => shell.run(line),
            Dialect::Windows(shell) => shell.run(line),
            Dialect::Appliance(shell) => shell.run(line),
        };
        reply.text.truncate(reply.text.floor_char_boundary(OUTPUT_CAP));
        reply
    }
}
