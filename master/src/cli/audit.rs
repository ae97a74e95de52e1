//! `audit`.

use std::time::Duration;

use clap::Args;
use decnet_wire::ids::Timestamp;
use serde_json::{Value, json};

use super::Console;
use super::client::Client;
use super::failure::Failure;
use super::table::{NONE, printable, table};
use super::tokens::seconds;
use crate::audit::{Chain, Entry};
use crate::serve::operator::views::AuditView;

/// How often `--follow` looks.
const LOOK: Duration = Duration::from_secs(1);
/// Entries of one question: the most that the master gives.
const PAGE: usize = 1000;
/// The longest detail in the table, in characters. `--json` has all of it.
const DETAIL: usize = 160;

/// What `decnet audit` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  decnet audit --since 24h
  decnet audit --action alarm
  decnet audit --actor ci --subject host/edge-01 --json
  decnet audit --verify
  decnet audit --verify --head sha256:5f70…    also tells whether the end was cut off")]
pub struct AuditArgs {
    /// Only what happened since: a moment (2026-01-02T03:04:05Z), or a number with m, h or d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only what happened before, in the same form
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Only what this one did: a token's or a host's name, a host's id, root, token, host, master or stranger
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Only actions that begin so, as in host. or alarm
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only what was done to this: whole, as in host/edge-01, or its name
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// At most so many, the newest
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Then print what happens from now on, until interrupted
    #[arg(long)]
    follow: bool,
    /// Compute the chain of digests anew, from the first entry on, and say where it breaks
    #[arg(long, conflicts_with_all = ["since", "until", "actor", "action", "subject", "limit", "follow"])]
    verify: bool,
    /// A digest that an earlier --verify ended with, and that was kept elsewhere: it must still be in the log
    #[arg(long, value_name = "DIGEST", requires = "verify")]
    head: Option<decnet_wire::ids::Digest>,
}

pub(super) async fn run(args: &AuditArgs, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    if args.verify {
        return verify(args.head.as_ref().map(ToString::to_string), client, console).await;
    }
    let conditions = args.conditions();
    let limit = args.limit;
    let page: AuditView = client
        .get(&format!("/api/v1/audit?limit={limit}{conditions}"))
        .await?;
    if !args.follow {
        if console.json {
            return console.document(&page);
        }
        return console.print(&table(
            ["SEQ", "TIME", "ACTOR", "FROM", "ACTION", "SUBJECT", "CHANGE"],
            page.entries.iter().map(columns),
        ));
    }
    let mut after = page.head.as_ref().map_or(0, |head| head.seq);
    show(&page.entries, console)?;
    loop {
        let path = format!("/api/v1/audit?limit={PAGE}&after={after}{conditions}");
        let page: AuditView = client.get(&path).await?;
        show(&page.entries, console)?;
        match page.next {
            Some(next) => after = next,
            None => {
                after = page.head.map_or(after, |head| head.seq.max(after));
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// Entries as they come: one a line.
fn show(entries: &[Value], console: &mut Console<'_>) -> Result<(), Failure> {
    for entry in entries {
        if console.json {
            console.say(&entry.to_string())?;
        } else {
            console.say(&columns(entry).join("  "))?;
        }
    }
    Ok(())
}

async fn verify(head: Option<String>, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let mut chain = Chain::new(head.as_deref());
    let mut after = Some(0);
    while let Some(from) = after {
        let page: AuditView = client
            .get(&format!("/api/v1/audit?limit={PAGE}&after={from}"))
            .await?;
        for entry in &page.entries {
            chain.follow(entry).map_err(|at| broken(&at))?;
        }
        after = page.next.filter(|next| *next > from);
    }
    let (entries, digest) = chain.end().map_err(|at| broken(&at))?;
    if console.json {
        return console.document(&json!({ "entries": entries, "head": digest }));
    }
    let was_there = match head {
        Some(_) => " The head that was given is in it.",
        None => "",
    };
    console.say(&format!(
        "{entries} entries, and the chain is whole.{was_there} Its head, to be kept elsewhere:"
    ))?;
    console.say(&digest)
}

fn broken(at: &crate::audit::Break) -> Failure {
    Failure::Failed(format!("the audit log is not as it was written: {at}"))
}

fn columns(entry: &Value) -> [String; 7] {
    let cell = |text: &str| printable(text);
    let Ok(entry) = serde_json::from_value::<Entry>(entry.clone()) else {
        let text = entry.to_string().chars().take(DETAIL).collect::<String>();
        return [NONE, NONE, NONE, NONE, "damaged", NONE, &text].map(cell);
    };
    let side = |value: &Value| match value {
        Value::Null => NONE.to_owned(),
        value => value.to_string(),
    };
    let change = match (&entry.before, &entry.after) {
        (Value::Null, after) => side(after),
        (before, after) => format!("{} → {}", side(before), side(after)),
    };
    let shown: String = change.chars().take(DETAIL).collect();
    let more = if shown.len() < change.len() { "…" } else { "" };
    [
        entry.seq.to_string(),
        entry.at.to_string(),
        printable(&entry.actor.to_string()),
        entry
            .from
            .map_or_else(|| NONE.to_owned(), |from| from.to_string()),
        printable(&entry.action),
        printable(&entry.subject),
        format!("{}{more}", printable(&shown)),
    ]
}

impl AuditArgs {
    /// As they stand in the query, after other parameters.
    fn conditions(&self) -> String {
        let given = [
            ("since", self.since.as_ref().map(ToString::to_string)),
            ("until", self.until.as_ref().map(ToString::to_string)),
            ("actor", self.actor.clone()),
            ("action", self.action.clone()),
            ("subject", self.subject.clone()),
        ];
        given
            .into_iter()
            .filter_map(|(name, value)| Some(format!("&{name}={}", escaped(&value?))))
            .collect()
    }
}

/// A value in a query (RFC 3986 §2).
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A moment, or how long ago it was.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Some(at) = crate::text::moment(text) {
        return Ok(at);
    }
    let wrong =
        || format!("{text:?} is neither a moment as in 2026-01-02T03:04:05Z nor a time as in 30m, 12h or 7d");
    let ago = seconds(text).map_err(|_| wrong())?;
    let ago = i64::try_from(ago).map_err(|_| wrong())?;
    time::OffsetDateTime::now_utc()
        .checked_sub(time::Duration::seconds(ago))
        .map(Timestamp::new)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::{escaped, moment};

    #[test]
    fn conditions_come_through_a_query_whole() {
        assert_eq!(escaped("host/edge-01"), "host%2Fedge-01");
        assert_eq!(escaped("a b&c=d+é"), "a%20b%26c%3Dd%2B%C3%A9");
    }

    #[test]
    fn a_moment_is_given_as_one_or_as_how_long_ago_it_was() {
        let at = moment("2026-01-02T03:04:05Z").unwrap();
        assert_eq!(at.to_string(), "2026-01-02T03:04:05Z");
        let now = time::OffsetDateTime::now_utc();
        let ago = now - moment("2h").unwrap().get();
        assert!(
            (ago - time::Duration::hours(2)).abs() < time::Duration::MINUTE,
            "{ago}"
        );
        for wrong in [
            "",
            "yesterday",
            "5",
            "2026-01-02",
            "99999999999999999d",
            "9999999999d",
        ] {
            assert!(moment(wrong).is_err(), "{wrong:?}");
        }
    }
}
