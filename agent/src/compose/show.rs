//! Plans and containers, as text and JSON.

use std::fmt::Write as _;
use std::io::Write as _;

use decnet_docker::Listed;
use decnet_plan::planner::describe;
use decnet_plan::step::Plan;

use super::{ComposeError, Ended};

/// Writes to standard output.
pub(super) fn print(text: &str) -> Result<Ended, ComposeError> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Ended::Done),
        Err(error) => Err(ComposeError::Write(error)),
        Ok(()) => Ok(Ended::Done),
    }
}

/// A step a line, with what is to be different below it.
pub(super) fn plan(plan: &Plan, json: bool) -> Result<Ended, ComposeError> {
    if json {
        let text = serde_json::to_string_pretty(plan).map_err(|error| ComposeError::Write(error.into()))?;
        return print(&format!("{text}\n"));
    }
    print(&plan_text(plan))
}

fn plan_text(plan: &Plan) -> String {
    let mut out = String::new();
    for blocked in &plan.blocked {
        let _ = writeln!(out, "blocked: {}", blocked.reason);
    }
    for planned in &plan.steps {
        let _ = write!(out, "{}", describe(&planned.step));
        match &planned.why {
            Some(why) => {
                let _ = writeln!(out, ": {}", why.reason);
                for change in &why.changes {
                    let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
                    let _ = writeln!(
                        out,
                        "    {}: {} -> {}",
                        change.field,
                        side(&change.old),
                        side(&change.new)
                    );
                }
            }
            None => out.push('\n'),
        }
    }
    if out.is_empty() {
        out.push_str("nothing to do\n");
    }
    out
}

/// The containers of services, or of all.
pub(super) fn containers(
    containers: &[Listed],
    services: &[String],
    all: bool,
    json: bool,
) -> Result<Ended, ComposeError> {
    let chosen: Vec<&Listed> = containers
        .iter()
        .filter(|container| services.is_empty() || services.contains(&container.service))
        .filter(|container| all || matches!(container.state.as_str(), "running" | "paused" | "restarting"))
        .collect();
    if json {
        let text =
            serde_json::to_string_pretty(&chosen).map_err(|error| ComposeError::Write(error.into()))?;
        return print(&format!("{text}\n"));
    }
    let head = ["NAME", "SERVICE", "IMAGE", "STATUS", "PORTS"].map(str::to_owned);
    let rows = chosen.iter().map(|container| {
        [
            container.name.clone(),
            container.service.clone(),
            container.image.clone(),
            container.status.clone(),
            container.ports.join(", "),
        ]
    });
    print(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}   ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use decnet_plan::changes::FieldChange;
    use decnet_plan::step::{PlannedStep, Step, Why};

    #[test]
    fn a_plan_tells_what_changes_and_why() {
        let change = FieldChange {
            field: "environment.A".to_owned(),
            old: Some("1".to_owned()),
            new: None,
        };
        let planned = PlannedStep {
            step: Step::RemoveVolume { name: "v".to_owned() },
            stack: None,
            after: Vec::new(),
            why: Some(Why {
                reason: "it is to be another one".to_owned(),
                changes: vec![change],
            }),
        };
        let plan = Plan {
            steps: vec![planned],
            ..Plan::default()
        };
        let text = plan_text(&plan);
        assert!(
            text.ends_with(": it is to be another one\n    environment.A: 1 -> (none)\n"),
            "{text}"
        );
        assert_eq!(plan_text(&Plan::default()), "nothing to do\n");
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let rows = [["a", "bb"], ["ccc", "d"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "a     bb\nccc   d\n");
    }
}
