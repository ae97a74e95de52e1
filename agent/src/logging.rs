//! Where the programs' logs go.

mod journal;

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

/// Begins to write lines for people to standard error. Where that is the journal, it gets them with fields of their own,
/// by which `journalctl` finds what concerns one decky or operation; `program` is what the lines are said to come from.
pub fn for_people(asked: &str, program: &'static str) {
    if let Some(journal) = journal::Journal::behind_standard_error(program) {
        begin(asked, journal);
        return;
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    begin(asked, lines.with_ansi(std::io::stderr().is_terminal()));
}

pub use journal::concerns_host;

/// Begins to write `lines` of what `asked` lets through, such as `info` or `info,decnet_docker=debug`; of `info`, with a
/// word about it, where that is not understood. A second call in one process keeps the first: nothing to do about it,
/// and nothing lost.
pub fn begin(asked: &str, lines: impl Layer<Registry> + Send + Sync) {
    let filter = asked.trim_matches(',').parse::<Targets>();
    let unread = filter.is_err();
    let filter = filter.unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
    if unread {
        tracing::warn!(
            filter = asked,
            "this log filter is not understood, so it is info: write LEVEL or TARGET=LEVEL, with commas between"
        );
    }
}
