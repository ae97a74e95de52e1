//! What has to hold once nothing goes wrong any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Stage;
use crate::wait::{Seen, until};
use crate::{agreement, engine};

/// How long it may take until all is as it should be again, with hundreds of containers to start.
const PEACE: Duration = Duration::from_secs(900);
/// How often what is not so yet is printed.
const TELL: Duration = Duration::from_secs(20);

impl Stage {
    /// The master's rows, both ledgers and the engine say the same, and nothing that nobody asked for is there.
    ///
    /// # Errors
    ///
    /// When they do not within a quarter of an hour; what differs is in it.
    pub fn agree(&mut self) -> Result<()> {
        self.engine.answers()?;
        let (start, mut told) = (Instant::now(), Duration::ZERO);
        let agreed = until("everybody agrees", PEACE, || {
            let differences = match self.differences() {
                Ok(differences) if differences.is_empty() => return Ok(Seen::Done(())),
                Ok(differences) => differences.join("\n  "),
                // Somebody is not ready yet to be asked.
                Err(error) => format!("{error:#}"),
            };
            if start.elapsed() > told + TELL {
                told = start.elapsed();
                println!("not after {} s:\n  {differences}", told.as_secs());
            }
            Ok(Seen::not_yet(differences))
        });
        self.scene.explained(agreed)?;
        let (deckies, rows) = (
            self.scene.operator.deckies()?,
            self.scene.operator.many_rows(&[])?,
        );
        let mut by_status: BTreeMap<&str, u32> = BTreeMap::new();
        for row in &rows {
            *by_status.entry(&row.status).or_default() += 1;
        }
        println!("at the end: {} deckies; rows: {by_status:?}", deckies.len());
        let errors: BTreeSet<&str> = rows.iter().filter_map(|row| row.error.as_deref()).collect();
        for error in errors.into_iter().take(20) {
            println!("  a row says: {error}");
        }
        Ok(())
    }

    fn differences(&self) -> Result<Vec<String>> {
        let (operator, mut differences) = (&self.scene.operator, Vec::new());
        agreement::of_work(
            operator,
            &self.players.each_ref().map(|player| player.name),
            &mut differences,
        )?;
        if !differences.is_empty() {
            return Ok(differences);
        }
        let (rows, deckies) = (operator.many_rows(&[])?, operator.deckies()?);
        agreement::of_rows(&rows, &deckies, &mut differences);
        let mut all = Vec::new();
        for player in &self.players {
            let own = agreement::own(&deckies, &player.host);
            let containers = engine::containers(&player.host)?;
            agreement::of_containers(&own, &containers, &mut differences);
            let said = player.agent.command(&["status", "--json"])?.ok()?;
            let status = serde_json::from_str(&said)?;
            agreement::of_ledger(operator, &player.host, &status, &mut differences)?;
            if let Some(decky) = own.values().next()
                && let Ok(mac) = player.lan.mac_of(&decky.ip)
                && mac != decky.mac
            {
                differences.push(format!("{mac} answers for {} on the LAN", decky.ip));
            }
            all.extend(containers.into_values());
        }
        agreement::of_identities(all.iter(), &mut differences);
        Ok(differences)
    }
}
