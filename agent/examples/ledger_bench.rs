//! How many changes the agent's ledger takes a second, each on the disk before it is answered.
//!
//! `cargo run --release -p decnet-agent --features bench --example ledger_bench [FOLDER]`

use std::path::PathBuf;

use decnet_agent::bench::operations;

/// As many as a host with many deckies has.
const OPERATIONS: u128 = 2000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()?;
    println!("| at once | changes | commits | changes a second | commits a second |");
    println!("| ---: | ---: | ---: | ---: | ---: |");
    for at_once in [1, 8, 64, 256] {
        let path = folder.join(format!("ledger-bench-{}.redb", std::process::id()));
        let operations_now = if at_once == 1 { OPERATIONS / 10 } else { OPERATIONS };
        let figures = runtime.block_on(operations(&path, operations_now, at_once))?;
        std::fs::remove_file(&path)?;
        let seconds = figures.elapsed.as_secs_f64();
        println!(
            "| {at_once} | {} | {} | {:.0} | {:.0} |",
            figures.operations,
            figures.commits,
            figures.operations as f64 / seconds,
            figures.commits as f64 / seconds,
        );
    }
    Ok(())
}
