//! `token`.

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;

use super::Console;
use super::client::Client;
use super::failure::Failure;
use super::table::{or_none, printable, table};
use crate::records::Role;
use crate::serve::operator::views::{MessageView, NameBody, TokenBody, TokenView, TokensView};

/// What `decnet token` takes.
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What may be done with operator tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// List the tokens: role, end, last use
    #[command(after_help = "Examples:\n  decnet token ls\n  decnet token ls --json")]
    Ls,
    /// Make a token; it is shown this once
    #[command(after_help = "\
Examples:
  decnet token create dashboard --role viewer > token && chmod 600 token
  decnet token create ci --role admin --ttl 30d")]
    Create {
        /// For whom or what it is; no two tokens have the same name
        name: String,
        /// What it may do
        #[arg(long)]
        role: Role,
        /// How long it lives: a number with m, h or d [default: until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        ttl: Option<u64>,
    },
    /// Revoke a token: from now on nobody gets in with it
    #[command(after_help = "Examples:\n  decnet token revoke dashboard")]
    Revoke {
        /// Its name
        name: String,
    },
}

pub(super) async fn run(args: &TokenArgs, client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    match &args.command {
        TokenCommand::Ls => list(client, console).await,
        TokenCommand::Create { name, role, ttl } => {
            let body = TokenBody {
                name: name.clone(),
                role: role.as_str().to_owned(),
                ttl_seconds: *ttl,
            };
            let made: TokenView = client
                .call(Method::POST, "/api/v1/tokens", Some(&json!(body)))
                .await?;
            if console.json {
                return console.document(&made);
            }
            console.remark("The token is shown this once; only its hash is stored:");
            console.say(&printable(&made.token))
        }
        TokenCommand::Revoke { name } => {
            let body = NameBody { name: name.clone() };
            let done: MessageView = client
                .call(Method::POST, "/api/v1/tokens/revoke", Some(&json!(body)))
                .await?;
            if console.json {
                return console.document(&done);
            }
            console.say(&printable(&done.message))
        }
    }
}

async fn list(client: &Client, console: &mut Console<'_>) -> Result<(), Failure> {
    let tokens: TokensView = client.get("/api/v1/tokens").await?;
    if console.json {
        return console.document(&tokens);
    }
    let rows = tokens.tokens.into_iter().map(|token| {
        [
            token.name,
            token.role.as_str().to_owned(),
            token.created_at,
            or_none(token.expires_at),
            or_none(token.last_used),
        ]
    });
    console.print(&table(["NAME", "ROLE", "MADE", "UNTIL", "LAST USED"], rows))
}

/// A length of time in minutes, hours or days.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time: a number with m, h or d, as in 12h");
    let at = text.len().checked_sub(1).ok_or_else(wrong)?;
    let (number, unit) = text.split_at_checked(at).ok_or_else(wrong)?;
    let each = match unit {
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(each)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(seconds("90m"), Ok(5400));
        assert_eq!(seconds("12h"), Ok(43_200));
        assert_eq!(seconds("30d"), Ok(2_592_000));
        for wrong in [
            "",
            "d",
            "30",
            "0d",
            "-1h",
            "1w",
            "1.5h",
            "9999999999999999999d",
            "1é",
        ] {
            assert!(seconds(wrong).is_err(), "{wrong:?}");
        }
    }
}
