//! `deploy` and `plan`.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use hyper::Method;
use serde_json::json;

use super::Console;
use super::client::Client;
use super::failure::Failure;
use super::follow::{follow, judge};
use super::table::{count, printable};
use crate::serve::operator::views::{DeployBody, DeployedView, PlanView};

/// The most that a fleet description may hold, in bytes: 524,288 characters of UTF-8.
const FILE_CAP: u64 = 4 * 524_288;

/// What `decnet deploy` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  decnet deploy fleet.ini --wait            add to the fleet, and wait until every decky runs
  decnet deploy fleet.ini --replace --wait  the file is the whole fleet; what is not in it goes
  generate-fleet | decnet deploy -          read the description from the standard input

Accepted means stored: the hosts work on it from then on, whether or not anybody waits.")]
pub struct DeployArgs {
    /// The fleet description (INI), or - for the standard input
    pub file: PathBuf,
    /// The description is the whole fleet: deckies that are not in it are removed
    #[arg(long)]
    pub replace: bool,
    /// Wait until every operation has ended; fail unless all succeed
    #[arg(long)]
    pub wait: bool,
}

/// What `decnet plan` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  decnet plan fleet.ini            what a deploy would do, host by host
  decnet plan fleet.ini --replace --json")]
pub struct PlanArgs {
    /// The fleet description (INI), or - for the standard input
    pub file: PathBuf,
    /// The description is the whole fleet: deckies that are not in it are removed
    #[arg(long)]
    pub replace: bool,
}

pub(super) async fn deploy(
    args: &DeployArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let body = body(&args.file, args.replace, console)?;
    let deployed: DeployedView = client
        .call(Method::POST, "/api/v1/deckies/deploy", Some(&body))
        .await?;
    if !console.json {
        for warning in &deployed.warnings {
            console.remark(&format!("decnet: warning: {warning}"));
        }
    }
    if args.wait && !deployed.lifecycle_ids.is_empty() {
        let rows = follow(client, &deployed.lifecycle_ids, console).await?;
        if console.json {
            let mut document = json!(deployed);
            document["rows"] = json!(rows);
            console.document(&document)?;
        }
        return judge(&rows);
    }
    if console.json {
        return console.document(&deployed);
    }
    console.say(&format!(
        "{} ({})",
        printable(&deployed.message),
        printable(&deployed.mode)
    ))?;
    if !deployed.lifecycle_ids.is_empty() {
        console.say("follow with: decnet lifecycle watch, or decnet lifecycle ls --open")?;
    }
    Ok(())
}

pub(super) async fn plan(args: &PlanArgs, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let body = body(&args.file, args.replace, console)?;
    let plan: PlanView = client
        .call(Method::POST, "/api/v1/deckies/plan", Some(&body))
        .await?;
    if console.json {
        return console.document(&plan);
    }
    for warning in &plan.warnings {
        console.remark(&format!("decnet: warning: {warning}"));
    }
    console.print(&render(&plan))
}

/// The plan in words. Nothing is left out: what is not here is not done.
fn render(plan: &PlanView) -> String {
    if plan.hosts.is_empty() {
        return format!("nothing to do ({})\n", printable(&plan.mode));
    }
    let mut text = String::new();
    for host in &plan.hosts {
        let steps = count(host.steps.len(), "step", "steps");
        text.push_str(&format!("{}: {steps}", host.host_name));
        if !host.observed {
            text.push_str(", and the host has not yet said what it runs: the plan assumes nothing");
        }
        text.push('\n');
        for step in &host.steps {
            text.push_str(&format!("  {}\n", printable(&step.describe)));
        }
        for blocked in &host.blocked {
            let on = blocked
                .stack
                .as_ref()
                .map_or_else(String::new, |stack| format!("{stack}: "));
            text.push_str(&format!("  blocked: {on}{}\n", printable(&blocked.reason)));
        }
    }
    text
}

fn body(file: &PathBuf, replace: bool, console: &mut Console<'_>) -> Result<serde_json::Value, Failure> {
    let name = file.display();
    let failed = |why: &dyn std::fmt::Display| Failure::Usage(format!("cannot read {name}: {why}"));
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        (&mut *console.input)
            .take(FILE_CAP + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| failed(&error))?;
    } else {
        let opened = std::fs::File::open(file).map_err(|error| failed(&error))?;
        opened
            .take(FILE_CAP + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| failed(&error))?;
    }
    if bytes.len() as u64 > FILE_CAP {
        return Err(failed(&"a fleet description holds at most 524288 characters"));
    }
    let ini_content = String::from_utf8(bytes).map_err(|_| failed(&"it is not UTF-8 text"))?;
    Ok(json!(DeployBody {
        ini_content,
        replace_fleet: replace
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_in_words_names_every_step_and_what_is_blocked() {
        let plan: PlanView = serde_json::from_value(json!({
            "mode": "swarm",
            "warnings": [],
            "hosts": [{
                "host_uuid": "0190b6f2-7a4e-7c1a-9f57-3b1f6f2f8a11", "host_name": "edge-01", "observed": false,
                "steps": [{
                    "describe": "remove the container web-ssh", "stack": "decnet-web",
                    "step": {"do": "remove-container", "name": "web-ssh", "id": "abc"},
                }],
                "blocked": [{"stack": "decnet-web", "reason": "eth7 does not exist"}],
            }],
        }))
        .unwrap();
        assert_eq!(
            render(&plan),
            "edge-01: 1 step, and the host has not yet said what it runs: the plan assumes nothing\n  \
             remove the container web-ssh\n  blocked: decnet-web: eth7 does not exist\n"
        );
    }
}
