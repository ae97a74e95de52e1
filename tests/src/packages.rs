//! Packages of the programs that were built here, quickly made and not small.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::command::run;
use crate::processes::{bin, decoy_image};

/// How long it may take on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(120);
/// Of every file in a package.
const EPOCH: &str = "1700000000";

/// Makes the agent's deb of a version, with units of one's own where a folder of them is given; gives its path.
///
/// # Errors
///
/// When it cannot be made.
pub fn agent_deb(version: &str, units: Option<&Path>, out: &Path) -> Result<PathBuf> {
    let mut command = Command::new(bin("decnet-pack")?);
    command.args(["deb", "--package", "decnet-agent", "--level", "0"]);
    command.args(["--package-version", version]);
    if let Some(units) = units {
        command.arg("--units").arg(units);
    }
    command.arg("--binary").arg(bin("decnet-agent")?);
    command.arg("--decoy-image").arg(decoy_image()?);
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    command.arg("--source").arg(project).arg("--out").arg(out);
    command.env("SOURCE_DATE_EPOCH", EPOCH);
    run(&mut command, LIMIT)?.ok()?;
    Ok(out.join(format!("decnet-agent_{version}-1_amd64.deb")))
}
