//! Where the programs' logs go.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

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
