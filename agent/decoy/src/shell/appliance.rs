//! What a Cisco IOS command line answers.

use super::Reply;
use crate::host::Host;
use crate::identity::Identity;

#[derive(Debug)]
pub(super) struct Appliance {
    host: String,
    version: &'static str,
    board: String,
    enabled: bool,
}

impl Appliance {
    pub(super) fn new(host: &Host, identity: &Identity) -> Self {
        let version = identity.choose("cisco.version", &["15.2(7)E3", "15.2(4)E10", "15.0(2)SE11"]);
        let board = format!("FOC{}", identity.hex::<4>("cisco.board").to_uppercase());
        Self {
            host: host.short_name().to_owned(),
            version,
            board,
            enabled: false,
        }
    }

    pub(super) fn prompt(&self) -> String {
        format!("{}{}", self.host, if self.enabled { '#' } else { '>' })
    }

    pub(super) fn run(&mut self, line: &str) -> Reply {
        let words: Vec<&str> = line.split_whitespace().collect();
        let text = match words.as_slice() {
            [] => String::new(),
            ["exit" | "quit" | "logout", ..] => {
                return Reply {
                    over: true,
                    ..Reply::default()
                };
            }
            ["enable" | "en", ..] => {
                self.enabled = true;
                String::new()
            }
            ["disable", ..] => {
                self.enabled = false;
                String::new()
            }
            ["terminal" | "term", ..] => String::new(),
            ["show" | "sh", "version" | "ver", ..] => format!(
                "Cisco IOS Software, C2960 Software (C2960-LANBASEK9-M), Version {}, RELEASE SOFTWARE (fc1)\n\
                 {} processor (PowerPC405) with 65536K bytes of memory.\n\
                 Processor board ID {}\nConfiguration register is 0xF\n",
                self.version, "cisco WS-C2960-24TT-L (revision D0)", self.board
            ),
            _ => "          ^\n% Invalid input detected at '^' marker.\n\n".to_owned(),
        };
        Reply {
            text,
            ..Reply::default()
        }
    }
}
