//! Waiting until operations have ended.
//!
//! The rows are the truth and are read again and again; the event stream only says when to look, so that a lost
//! event costs a few seconds and nothing else.

use std::collections::HashMap;
use std::time::Duration;

use decnet_wire::ids::OperationId;
use tokio::time::Instant;

use super::Console;
use super::client::{Client, EventStream};
use super::failure::Failure;
use super::lifecycle::TRANSITIONS;
use super::table::{NONE, count, printable};
use crate::records::RowStatus;
use crate::serve::operator::views::{RowView, RowsView};

/// Ids in one request.
const IDS: usize = 200;
/// How long until the rows are read again without an event.
const LOOK: Duration = Duration::from_secs(2);
/// How long to gather events before the rows are read.
const GATHER: Duration = Duration::from_millis(100);
/// How long a master may be away before waiting for it ends.
const AWAY: Duration = Duration::from_secs(120);
/// Rows that are drawn at once.
const DRAWN: usize = 15;
/// The width that is drawn in.
const WIDTH: usize = 79;

/// Waits until every operation has ended, showing how they go. Gives out their rows.
///
/// # Errors
/// An id is unknown, or no master answers for [`AWAY`].
pub(super) async fn follow(
    client: &Client,
    ids: &[OperationId],
    console: &mut Console<'_>,
) -> Result<Vec<RowView>, Failure> {
    let mut progress = Progress::default();
    let topics = [TRANSITIONS.to_owned()];
    let mut events = client.events(&topics, None).await.ok();
    let mut away: Option<Instant> = None;
    loop {
        match rows(client, ids).await {
            Ok(rows) => {
                away = None;
                progress.show(&rows, console)?;
                if rows.iter().all(|row| row.status.is_terminal()) {
                    progress.finish(&rows, console)?;
                    return Ok(rows);
                }
            }
            Err(failure @ Failure::Unreachable(_)) => {
                let since = *away.get_or_insert_with(Instant::now);
                if since.elapsed() >= AWAY {
                    return Err(failure);
                }
            }
            Err(failure) => return Err(failure),
        }
        pause(&mut events).await;
        if events.is_none() && away.is_none() {
            events = client.events(&topics, None).await.ok();
        }
    }
}

/// The rows of these ids.
///
/// # Errors
/// An id is unknown, or the master's.
pub(super) async fn rows(client: &Client, ids: &[OperationId]) -> Result<Vec<RowView>, Failure> {
    let mut rows = Vec::with_capacity(ids.len());
    for ids in ids.chunks(IDS) {
        let query: Vec<String> = ids.iter().map(|id| format!("ids={id}")).collect();
        let view: RowsView = client
            .get(&format!("/api/v1/deckies/lifecycle?{}", query.join("&")))
            .await?;
        rows.extend(view.rows);
    }
    let known: HashMap<OperationId, ()> = rows.iter().map(|row| (row.id, ())).collect();
    let unknown: Vec<String> = ids
        .iter()
        .filter(|id| !known.contains_key(id))
        .map(|id| format!("there is no operation {id}: `decnet lifecycle ls` lists them"))
        .collect();
    if unknown.is_empty() {
        Ok(rows)
    } else {
        Err(Failure::Refused(unknown))
    }
}

/// What the end of these operations means for the command.
///
/// # Errors
/// Some did not succeed.
pub(super) fn judge(rows: &[RowView]) -> Result<(), Failure> {
    let bad: Vec<&RowView> = rows
        .iter()
        .filter(|row| row.status != RowStatus::Succeeded)
        .collect();
    match bad.as_slice() {
        [] => Ok(()),
        [row] => Err(Failure::Failed(format!(
            "the {} of {} {}: {}",
            row.operation.as_str(),
            row.decky_name,
            row.status.as_str(),
            row.error.as_deref().unwrap_or("no reason was given")
        ))),
        rows => Err(Failure::Failed(format!(
            "{} did not succeed: `decnet lifecycle show ID` tells why",
            count(rows.len(), "operation", "operations")
        ))),
    }
}

/// Waits for an event, or for [`LOOK`].
async fn pause(events: &mut Option<EventStream>) {
    let Some(stream) = events else {
        tokio::time::sleep(LOOK).await;
        return;
    };
    match tokio::time::timeout(LOOK, stream.next()).await {
        Ok(Some(_)) => {
            // What happens together is read together.
            let end = Instant::now() + GATHER;
            while let Ok(Some(_)) = tokio::time::timeout_at(end, stream.next()).await {}
        }
        Ok(None) => {
            *events = None;
            tokio::time::sleep(LOOK).await;
        }
        Err(_) => {}
    }
}

/// What has been shown so far.
#[derive(Debug, Default)]
struct Progress {
    /// Lines that the next drawing goes over.
    drawn: usize,
    shown: HashMap<OperationId, RowStatus>,
}

impl Progress {
    fn show(&mut self, rows: &[RowView], console: &mut Console<'_>) -> Result<(), Failure> {
        if console.json {
            return Ok(());
        }
        if console.terminal {
            return self.draw(&lines(rows), console);
        }
        for row in rows {
            if self.shown.insert(row.id, row.status) != Some(row.status) {
                console.say(&line(row))?;
            }
        }
        Ok(())
    }

    /// Draws over what was drawn before: cursor up, erase to the end (ECMA-48, CUU and ED).
    fn draw(&mut self, lines: &[String], console: &mut Console<'_>) -> Result<(), Failure> {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        for line in lines {
            text.extend(line.chars().take(WIDTH));
            text.push('\n');
        }
        self.drawn = lines.len();
        console.print(&text)
    }

    /// Leaves the outcome on the screen: what did not succeed in full, the rest in numbers.
    fn finish(&mut self, rows: &[RowView], console: &mut Console<'_>) -> Result<(), Failure> {
        if console.json {
            return Ok(());
        }
        if console.terminal {
            self.draw(&[], console)?;
            for row in rows.iter().filter(|row| row.status != RowStatus::Succeeded) {
                console.say(&line(row))?;
            }
        }
        console.say(&summary(rows))
    }
}

fn lines(rows: &[RowView]) -> Vec<String> {
    let unsettled = rows.iter().filter(|row| row.status != RowStatus::Succeeded);
    let mut lines: Vec<String> = unsettled.take(DRAWN).map(line).collect();
    lines.push(summary(rows));
    lines
}

fn line(row: &RowView) -> String {
    let mut text = format!(
        "{}  {}  {}",
        row.decky_name,
        row.operation.as_str(),
        row.status.as_str()
    );
    if let Some(error) = &row.error {
        text.push_str("  ");
        text.push_str(error);
    }
    printable(&text)
}

/// How many are in each status.
pub(super) fn summary(rows: &[RowView]) -> String {
    use RowStatus::{Failed, Pending, Running, Succeeded, Superseded};
    let parts: Vec<String> = [Pending, Running, Succeeded, Failed, Superseded]
        .into_iter()
        .map(|status| (rows.iter().filter(|row| row.status == status).count(), status))
        .filter(|(number, _)| *number > 0)
        .map(|(number, status)| format!("{number} {}", status.as_str()))
        .collect();
    if parts.is_empty() {
        NONE.to_owned()
    } else {
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(decky: &str, status: &str, error: Option<&str>) -> RowView {
        serde_json::from_value(serde_json::json!({
            "id": uuid::Uuid::new_v4(), "decky_name": decky, "host_uuid": null, "operation": "deploy",
            "status": status, "error": error, "started_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z", "completed_at": null,
        }))
        .unwrap()
    }

    #[test]
    fn only_success_is_success() {
        assert_eq!(judge(&[row("a", "succeeded", None)]), Ok(()));
        for status in ["failed", "superseded"] {
            let failure = judge(&[row("a", "succeeded", None), row("b", status, Some("why"))]).unwrap_err();
            assert_eq!(failure.code(), 1);
            assert!(failure.to_string().contains("why"), "{failure}");
        }
    }

    #[test]
    fn the_summary_counts_what_there_is() {
        let rows = [
            row("a", "failed", None),
            row("b", "succeeded", None),
            row("c", "succeeded", None),
        ];
        assert_eq!(summary(&rows), "2 succeeded, 1 failed");
        assert_eq!(summary(&[]), "-");
    }

    #[test]
    fn without_a_terminal_each_transition_is_one_line_and_nothing_is_drawn_over() {
        let mut out = Vec::new();
        let mut err = Vec::new();
        let mut console = Console {
            input: &mut std::io::empty(),
            out: &mut out,
            err: &mut err,
            terminal: false,
            asks: false,
            json: false,
        };
        let mut progress = Progress::default();
        let mut rows = [row("a", "pending", None)];
        progress.show(&rows, &mut console).unwrap();
        progress.show(&rows, &mut console).unwrap();
        rows[0].status = RowStatus::Failed;
        rows[0].error = Some("no \x1b[2J disk".to_owned());
        progress.show(&rows, &mut console).unwrap();
        progress.finish(&rows, &mut console).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "a  deploy  pending\na  deploy  failed  no \u{fffd}[2J disk\n1 failed\n"
        );
    }

    #[test]
    fn on_a_terminal_progress_is_drawn_over() {
        let mut out = Vec::new();
        let mut console = Console {
            input: &mut std::io::empty(),
            out: &mut out,
            err: &mut std::io::sink(),
            terminal: true,
            asks: false,
            json: false,
        };
        let mut progress = Progress::default();
        let rows = [row("a", "pending", None)];
        progress.show(&rows, &mut console).unwrap();
        progress.show(&rows, &mut console).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("\x1b[2A\x1b[J"));
    }
}
