//! `deploy` and `plan`.

use std::io::Read;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use hyper::Method;
use serde_json::json;

use super::Console;
use super::client::Client;
use super::failure::Failure;
use super::follow::{follow, judge};
use super::table::{count, printable};
use crate::fleet::model::{DeploymentLimit, Minutes};
use crate::serve::operator::views::{DeployBody, DeployedView, GenerateBody, PlanView};

/// The most that a fleet description may hold, in bytes: 524,288 characters of UTF-8.
const FILE_CAP: u64 = 4 * 524_288;

/// The heading of the flags that stand for a file.
const WITHOUT_FILE: &str = "Without a file";

/// What `decnet deploy` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  decnet deploy fleet.ini --wait            add to the fleet, and wait until every decky runs
  decnet deploy fleet.ini --replace --wait  the file is the whole fleet; what is not in it goes
  generate-fleet | decnet deploy -          read the description from the standard input
  decnet deploy --deckies 5 --archetype linux-server --wait
  decnet deploy --deckies 8 --randomize-services --randomize-distros --ip-start 192.168.1.50

Accepted means stored: the hosts work on it from then on, whether or not anybody waits.")]
pub struct DeployArgs {
    #[command(flatten)]
    pub described: Described,
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
  decnet plan fleet.ini --replace --json
  decnet plan --deckies 5 --archetype linux-server")]
pub struct PlanArgs {
    #[command(flatten)]
    pub described: Described,
    /// The description is the whole fleet: deckies that are not in it are removed
    #[arg(long)]
    pub replace: bool,
}

/// The deckies: a file, or flags that say how many and what.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("description").args(["file", "deckies"]).required(true),
    group = ArgGroup::new("kind").args(["services", "archetype", "randomize_services"]).multiple(true)
)]
pub struct Described {
    /// The fleet description (INI), or - for the standard input
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub flags: Flags,
}

/// Deckies without a file.
#[derive(Debug, Args)]
pub struct Flags {
    /// Make so many deckies, decky-01 and so on, 1 to 500
    #[arg(long, help_heading = WITHOUT_FILE, value_name = "N", requires = "kind",
          value_parser = clap::value_parser!(u16).range(1..=i64::from(DeploymentLimit::MAX)))]
    pub deckies: Option<u16>,
    /// The services of every decky, as in ssh,http
    #[arg(
        long,
        help_heading = WITHOUT_FILE,
        value_name = "LIST",
        value_delimiter = ',',
        requires = "deckies",
        conflicts_with = "file"
    )]
    pub services: Vec<String>,
    /// The kind of machine, see `decnet archetypes`; its services, unless --services says others
    #[arg(long, help_heading = WITHOUT_FILE, value_name = "NAME", requires = "deckies", conflicts_with = "file")]
    pub archetype: Option<String>,
    /// One to three services at random for each decky, where neither of the two above is given
    #[arg(long, help_heading = WITHOUT_FILE, requires = "deckies", conflicts_with = "file")]
    pub randomize_services: bool,
    /// Take the free addresses from this one on [default: the lowest free ones]
    #[arg(long, help_heading = WITHOUT_FILE, value_name = "IP", requires = "deckies", conflicts_with = "file")]
    pub ip_start: Option<Ipv4Addr>,
    /// The distros, in turns, see `decnet distros` [default: the archetype's, or all]
    #[arg(
        long,
        help_heading = WITHOUT_FILE,
        value_name = "LIST",
        value_delimiter = ',',
        requires = "deckies",
        conflicts_with = "file"
    )]
    pub distro: Vec<String>,
    /// A distro at random for each decky, where --distro is not given
    #[arg(long, help_heading = WITHOUT_FILE, requires = "deckies", conflicts_with = "file")]
    pub randomize_distros: bool,
    /// Minutes between changes of services [default: 30]
    #[arg(long, help_heading = WITHOUT_FILE, value_name = "MINUTES", requires = "deckies", conflicts_with = "file",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(Minutes::MAX)))]
    pub mutate_interval: Option<u32>,
}

pub(super) async fn deploy(
    args: &DeployArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let body = args.described.body(args.replace, console)?;
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
    let body = args.described.body(args.replace, console)?;
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

impl Described {
    fn body(&self, replace_fleet: bool, console: &mut Console<'_>) -> Result<serde_json::Value, Failure> {
        let (ini_content, generate) = match &self.file {
            Some(file) => (Some(text(file, console)?), None),
            None => (None, Some(self.flags.body())),
        };
        Ok(json!(DeployBody {
            ini_content,
            generate,
            replace_fleet
        }))
    }
}

impl Flags {
    fn body(&self) -> GenerateBody {
        GenerateBody {
            deckies: self.deckies.unwrap_or_default(),
            services: self.services.clone(),
            archetype: self.archetype.clone(),
            randomize_services: self.randomize_services,
            ip_start: self.ip_start,
            distros: self.distro.clone(),
            randomize_distros: self.randomize_distros,
            mutate_interval: self.mutate_interval,
        }
    }
}

/// Reads the fleet description.
fn text(file: &Path, console: &mut Console<'_>) -> Result<String, Failure> {
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
    String::from_utf8(bytes).map_err(|_| failed(&"it is not UTF-8 text"))
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
