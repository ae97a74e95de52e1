//! What the operator asks for meanwhile.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Fault, Stage};
use crate::processes::bin;

/// Services whose decoys are small and quick.
const SERVICES: [&str; 6] = ["redis", "telnet", "http", "mqtt", "smtp", "ftp"];
/// Deckies that come at once, at most.
const BATCH: u32 = 8;
/// Deckies that go at once, at most.
const LEAVING: u32 = 3;

impl Stage {
    /// Asks the master for something, unless nobody could.
    pub(super) fn ask(&mut self, deckies: usize, ills: &[(std::time::Instant, Fault)]) -> Result<()> {
        let seed = &self.scene.seed;
        let (choice, first, second, batch) = (
            seed.below(10),
            seed.below(u32::MAX),
            seed.below(u32::MAX),
            1 + seed.below(BATCH),
        );
        if ills.iter().any(|(_, ill)| ill.silences_the_master()) {
            return Ok(());
        }
        let names: Vec<String> = self.scene.operator.deckies()?.into_keys().collect();
        let room = deckies.saturating_sub(names.len());
        let drawn = |number: u32| names.get(number as usize % names.len().max(1));
        match choice {
            0..=4 if room > 0 => {
                let amount = (batch as usize).min(room);
                let section = format!(
                    "[{}-{}]\nservices = {}, {}\namount = {amount}\n",
                    self.scene.prefix,
                    self.scene.seed.word(),
                    SERVICES[first as usize % SERVICES.len()],
                    SERVICES[(first as usize + 1 + second as usize % (SERVICES.len() - 1)) % SERVICES.len()],
                );
                let text = if first % 2 == 0 {
                    format!("{}\n{section}", self.scene.lan.general())
                } else {
                    section
                };
                let file = self.scene.describe("deploy.ini", &text)?;
                let file = file.to_str().context("not UTF-8")?.to_owned();
                self.order("deploy", &["deploy", &file], second)
            }
            0..=7 => match drawn(first).cloned() {
                Some(name) => self.order("mutate", &["decky", "mutate", &name], second),
                None => Ok(()),
            },
            _ => {
                for number in 0..=second % LEAVING {
                    if let Some(name) = drawn(first.wrapping_add(number)).cloned() {
                        self.order("remove", &["decky", "rm", &name], second.wrapping_add(number))?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Gives an order. One in eight is given to a master that is killed before or while it answers.
    fn order(&mut self, what: &'static str, arguments: &[&str], draw: u32) -> Result<()> {
        *self.tally.asked.entry(what).or_default() += 1;
        if !draw.is_multiple_of(8) {
            let said = self.scene.operator.command(arguments)?;
            // What is there no more cannot be changed: somebody removed it meanwhile.
            if !said.status.success() {
                self.tally.unanswered += 1;
                println!("           {what} refused: {}", said.said());
            }
            return Ok(());
        }
        *self.tally.faults.entry("master killed in a request").or_default() += 1;
        let mut asking = Command::new(bin("decnet")?)
            .args(arguments)
            .arg("--socket")
            .arg(&self.scene.master.socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        thread::sleep(Duration::from_millis(u64::from(draw / 8 % 60)));
        let killed = self.scene.master.kill();
        if !asking.wait()?.success() {
            self.tally.unanswered += 1;
        }
        killed?;
        self.scene.master.start()
    }
}
