//! What the containers of a project have written, as they write it.

use std::io::Write as _;
use std::pin::pin;

use decnet_docker::{Engine, LogLine};
use decnet_wire::ids::HostId;
use futures_util::StreamExt as _;
use futures_util::stream::select_all;

use super::options::Since;
use super::{ComposeError, Ended, show};

#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// Empty for all.
    pub(super) services: &'a [String],
    pub(super) follow: bool,
    /// Lines of each container; none for all.
    pub(super) tail: Option<u32>,
    /// Names of containers before the lines.
    pub(super) prefix: bool,
    pub(super) since: Option<Since>,
    pub(super) timestamps: bool,
}

pub(super) async fn show(engine: &Engine, host: HostId, wanted: &Wanted<'_>) -> Result<Ended, ComposeError> {
    let containers = engine.listed(host).await?;
    let chosen: Vec<_> = containers
        .iter()
        .filter(|container| wanted.services.is_empty() || wanted.services.contains(&container.service))
        .collect();
    let width = chosen
        .iter()
        .map(|container| container.name.len())
        .max()
        .unwrap_or(0);
    let since = wanted.since.map(|since| match since {
        Since::At(time) => time,
        Since::Ago(seconds) => now().saturating_sub(seconds),
    });
    let streams = chosen.iter().map(|container| {
        let name = container.name.clone();
        let lines = engine.logs(
            &container.id,
            wanted.follow,
            wanted.tail,
            since,
            wanted.timestamps,
        );
        lines.map(move |line| (name.clone(), line)).boxed()
    });
    if !wanted.follow {
        // One after the other, so that what belongs together stays together.
        for stream in streams {
            let mut stream = pin!(stream);
            while let Some((name, line)) = stream.next().await {
                write(&name, &line?, width, wanted.prefix)?;
            }
        }
        return Ok(Ended::Done);
    }
    let mut all = select_all(streams);
    loop {
        tokio::select! {
            next = all.next() => match next {
                Some((name, line)) => write(&name, &line?, width, wanted.prefix)?,
                None => break,
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    Ok(Ended::Done)
}

/// Seconds since 1970.
fn now() -> u32 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

fn write(name: &str, line: &LogLine, width: usize, prefix: bool) -> Result<(), ComposeError> {
    for text in line.text.trim_end_matches('\n').split('\n') {
        let text = text.trim_end_matches('\r');
        let text = match prefix {
            true => format!("{name:width$} | {text}\n"),
            false => format!("{text}\n"),
        };
        if line.error {
            // Nobody can be told that standard error does not work.
            let _ = std::io::stderr().write_all(text.as_bytes());
        } else {
            show::print(&text)?;
        }
    }
    Ok(())
}
