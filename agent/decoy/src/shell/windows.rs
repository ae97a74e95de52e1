//! What cmd.exe answers.

use super::Reply;
use crate::host::{Host, OsFamily};

#[derive(Debug)]
pub(super) struct Windows {
    host: String,
    user: String,
    directory: String,
    version: &'static str,
}

impl Windows {
    pub(super) fn new(host: &Host, user: &str) -> Self {
        let version = if host.family == OsFamily::WindowsServer {
            "10.0.17763.5458"
        } else {
            "10.0.19045.3930"
        };
        let directory = format!("C:\\Users\\{user}");
        Self {
            host: host.short_name().to_owned(),
            user: user.to_owned(),
            directory,
            version,
        }
    }

    pub(super) fn greeting(&self) -> String {
        format!(
            "Microsoft Windows [Version {}]\n(c) Microsoft Corporation. All rights reserved.\n\n",
            self.version
        )
    }

    pub(super) fn prompt(&self) -> String {
        format!("{}>", self.directory)
    }

    pub(super) fn run(&mut self, line: &str) -> Reply {
        let line = line.trim();
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let name = command.to_ascii_lowercase();
        let text = match name.strip_suffix(".exe").unwrap_or(&name) {
            "" => String::new(),
            "exit" => {
                return Reply {
                    over: true,
                    ..Reply::default()
                };
            }
            "whoami" => format!("{}\\{}\n", self.host.to_lowercase(), self.user.to_lowercase()),
            "hostname" => format!("{}\n", self.host),
            "ver" => format!("\nMicrosoft Windows [Version {}]\n", self.version),
            "echo" => format!("{rest}\n"),
            "cd" if rest.is_empty() => format!("{}\n", self.directory),
            "cd" => "The system cannot find the path specified.\n".to_owned(),
            "dir" => format!(
                " Volume in drive C has no label.\n\n Directory of {}\n\nFile Not Found\n",
                self.directory
            ),
            _ => {
                let text = format!(
                    "'{command}' is not recognized as an internal or external command,\n\
                     operable program or batch file.\n"
                );
                return Reply {
                    text,
                    status: 9009,
                    over: false,
                };
            }
        };
        Reply {
            text,
            ..Reply::default()
        }
    }
}
