//! The reaper: removes this host's agent, and every trace of it but logs.
//!
//! Flow: [`Phase`] by phase, each written down when it is done and harmless when it is done again. It ends whatever ends
//! it: killed, it is started again by systemd; after a power cut by a unit of its own, which is the last thing to go.
//!
//! What belongs to a master on the same machine is left alone: to decommission a host is not to end a fleet.

mod install;
mod tomb;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use decnet_pki::files;
use decnet_wire::ids::Timestamp;

use super::clearance::{ClearanceError, Removed, clear};
use super::units::{self, Unit, UnitError, Units};
use super::work::{Job, Phase, Work, WorkError};
use crate::backoff::{Backoff, seeded_by_the_system};
use crate::error::error_chain;
use crate::identity::{Identity, IdentityError};
use install::InstallError;

/// Where units are that somebody has put there by hand, and ours while it is needed.
const UNITS: &str = "/etc/systemd/system";
/// The unit by which the reaper goes on after a reboot.
const UNIT: &str = "decnet-reaper.service";
/// Whatever systemd is to forget.
const PATTERNS: [&str; 2] = ["decnet-*", "decnet.target"];
/// A master's state. Where it is, a master lives on this machine too.
const MASTER: &str = "/var/lib/decnet/master";
/// How often it is tried to remove what is left, before the master is told that it is.
const CLEANINGS: usize = 3;
/// Between two of those.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the master is looked for. After that nobody is told, for the keys of a host that has left should not lie about.
const TELL: time::Duration = time::Duration::days(7);

/// The reaper cannot go on for now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReapError {
    #[error("the journal cannot be used")]
    Work(#[from] WorkError),
    #[error("systemd does not do what it is asked for")]
    Units(#[from] UnitError),
    #[error("not everything is removed from the Docker Engine")]
    Engine(#[from] ClearanceError),
    #[error("the agent is not removed")]
    Install(#[from] InstallError),
    #[error("cannot {what} {path}")]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the identity cannot be used")]
    Identity(#[from] IdentityError),
    #[error("cannot write the unit by which the reaper goes on after a reboot")]
    Arm(#[source] files::FileError),
}

/// Does all of it. Returns when nothing is left, or when another reaper works.
///
/// # Errors
/// The folder cannot be used at all; what else goes wrong is tried again until it works.
pub(crate) async fn reap(folder: PathBuf) -> Result<(), ReapError> {
    let work = Work::at(folder);
    let Some(_lock) = work.lock()? else {
        tracing::info!("another reaper works here");
        return Ok(());
    };
    let mut backoff = Backoff::for_the_engine(seeded_by_the_system());
    loop {
        let Some(mut job) = work.load()? else {
            // It was about to remove itself.
            return vanish(&work, None).await;
        };
        tracing::info!(phase = ?job.phase, host = %job.host, "reaping");
        let next = match step(&work, &mut job).await {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(()),
            Err(error) => {
                let pause = backoff.next();
                tracing::warn!(
                    pause_ms = pause.as_millis(),
                    "cannot go on yet: {}",
                    error_chain(&error)
                );
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        backoff.reset();
        job.phase = next;
        work.save(&job)?;
    }
}

/// One phase; gives the next one.
async fn step(work: &Work, job: &mut Job) -> Result<Option<Phase>, ReapError> {
    Ok(Some(match job.phase {
        Phase::Arm => {
            arm(work).await?;
            job.paths = install::own_paths(&job.program, &job.state_dir).await;
            Phase::Units
        }
        Phase::Units => {
            end_the_agent(job).await?;
            Phase::Engine
        }
        Phase::Engine => {
            let removed = Removed::default();
            let cleared = clear(&job.docker_socket, job.host, &job.images, &removed).await;
            job.removed.append(&mut removed.so_far());
            cleared?;
            Phase::Package
        }
        Phase::Package => {
            // The reaper has its own copy, for the tombstone.
            Identity::erase(&job.state_dir)?;
            install::remove_packages(&mut job.removed).await?;
            Phase::Paths
        }
        Phase::Paths => {
            install::remove_paths(job).await?;
            reload().await?;
            Phase::Verify
        }
        Phase::Verify => {
            job.left = clean(job).await?;
            job.removed.extend(install::gone(&job.paths));
            job.done_at = Some(now());
            Phase::Tombstone
        }
        Phase::Tombstone => {
            tell(work, job).await;
            Phase::Erase
        }
        Phase::Erase => {
            vanish(work, Some(job)).await?;
            return Ok(None);
        }
    }))
}

/// Has systemd go on with it after a reboot. Where there is no systemd, nothing does.
async fn arm(work: &Work) -> Result<(), ReapError> {
    if !units::are_there() {
        return Ok(());
    }
    let (program, folder) = (work.program(), work.path().to_owned());
    let link = link();
    let unit = Path::new(UNITS).join(UNIT);
    // Its last lines are for a power cut between the last two things that it removes.
    let text = format!(
        "# Made by the DECNET reaper, which removes it as the last thing.\n\
         [Unit]\n\
         Description=DECNET reaper: goes on removing this host's agent\n\
         Wants=network-online.target\n\
         After=network-online.target docker.service\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart=/bin/sh -c 'if [ -x {program} ]; then exec {program} reap --work {folder}; fi; \
         rm -rf {folder}; rm -f {link} {unit}'\n\
         Restart=on-failure\n\
         RestartSec=1s\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        program = program.display(),
        folder = folder.display(),
        link = link.display(),
        unit = unit.display(),
    );
    files::write_private(&unit, text.as_bytes()).map_err(ReapError::Arm)?;
    if let Some(wants) = link.parent() {
        fs::create_dir_all(wants).map_err(file("make", wants))?;
    }
    match symlink(&unit, &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(file("make", &link)(error));
        }
        _ => {}
    }
    reload().await
}

fn link() -> PathBuf {
    Path::new(UNITS).join("multi-user.target.wants").join(UNIT)
}

async fn reload() -> Result<(), ReapError> {
    if !units::are_there() {
        return Ok(());
    }
    let units = Units::connect().await?;
    units.reload().await?;
    for unit in agents_units(&units).await?.iter().filter(|unit| !unit.is_up()) {
        units.forget(&unit.name).await;
    }
    Ok(())
}

/// The units that go with the agent, as far as systemd knows of them.
async fn agents_units(units: &Units) -> Result<Vec<Unit>, UnitError> {
    let mut found = Vec::new();
    for pattern in PATTERNS {
        found.append(&mut units.matching(pattern).await?);
    }
    let master = Path::new(MASTER).exists();
    found.retain(|unit| is_the_agents(&unit.name, master));
    Ok(found)
}

/// Whether a unit goes with the agent; `master` says whether one lives on this machine.
fn is_the_agents(name: &str, master: bool) -> bool {
    let kept = name.starts_with("decnet-reaper")
        || (master && (name.starts_with("decnet-master") || name == "decnet.target"));
    !kept
}

/// Stops every unit of ours, and whatever else runs the agent's program.
async fn end_the_agent(job: &mut Job) -> Result<(), ReapError> {
    if units::are_there() {
        let units = Units::connect().await?;
        for unit in agents_units(&units).await? {
            if unit.is_up() {
                units.stop(&unit.name).await?;
            }
            // One that no file is about has no links.
            let installed = [".service", ".target", ".path"];
            if unit.load == "loaded" && installed.iter().any(|kind| unit.name.ends_with(kind)) {
                units.disable(&unit.name).await?;
            }
            job.removed.insert(format!("unit {}", unit.name));
        }
    }
    install::end_processes(&job.program).await;
    Ok(())
}

/// Looks for what is left, and removes it, a few times; gives what stays all the same.
async fn clean(job: &mut Job) -> Result<BTreeSet<String>, ReapError> {
    let mut left = BTreeSet::new();
    for cleaning in 0..CLEANINGS {
        if cleaning > 0 {
            tokio::time::sleep(PAUSE).await;
            install::end_processes(&job.program).await;
            install::remove_packages(&mut job.removed).await?;
            install::remove_paths(job).await?;
            reload().await?;
        }
        left = install::left(&job.paths, &job.program).await;
        left.append(&mut units_left().await?);
        if left.is_empty() {
            break;
        }
        tracing::warn!(?left, "not everything is gone");
    }
    Ok(left)
}

async fn units_left() -> Result<BTreeSet<String>, ReapError> {
    let mut left = BTreeSet::new();
    if units::are_there() {
        let units = Units::connect().await?;
        let mut known = agents_units(&units).await?;
        known.retain(|unit| unit.load != "not-found" || unit.is_up());
        left.extend(known.into_iter().map(|unit| format!("unit {}", unit.name)));
    }
    Ok(left)
}

/// Sends the tombstone until the master has it, or has had its time.
async fn tell(work: &Work, job: &Job) {
    let since = job.done_at.unwrap_or_else(now);
    let mut backoff = Backoff::for_the_engine(seeded_by_the_system());
    loop {
        match tomb::send(work, job).await {
            Ok(()) => {
                tracing::info!("the master has the tombstone");
                return;
            }
            Err(error) if error.is_final() => {
                tracing::error!("the master does not take the tombstone: {}", error_chain(&error));
                return;
            }
            Err(error) => {
                tracing::warn!("the master cannot be told yet: {}", error_chain(&error));
            }
        }
        if now().get() - since.get() > TELL {
            tracing::error!("the master was not told that this host has left: it cannot be reached");
            return;
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Erases the identity, then the reaper itself.
async fn vanish(work: &Work, job: Option<&Job>) -> Result<(), ReapError> {
    Identity::erase(work.path())?;
    if let Some(job) = job {
        install::log_end(job);
    }
    install::remove(work.path())?;
    if let Some(parent) = work.path().parent() {
        install::remove_empty(parent);
    }
    if units::are_there() {
        for path in [link(), Path::new(UNITS).join(UNIT)] {
            install::remove(&path)?;
        }
        reload().await?;
    }
    tracing::info!("nothing is left");
    Ok(())
}

fn now() -> Timestamp {
    Timestamp::new(time::OffsetDateTime::now_utc())
}

fn file<'p>(what: &'static str, path: &'p Path) -> impl Fn(io::Error) -> ReapError + use<'p> {
    move |source| ReapError::File {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masters_units_and_the_reapers_own_do_not_go_with_the_agent() {
        for master in [false, true] {
            for own in ["decnet-agent.service", "decnet-updater.path"] {
                assert!(is_the_agents(own, master), "{own}");
            }
            for reaper in ["decnet-reaper.service", "decnet-reaper-123.service"] {
                assert!(!is_the_agents(reaper, master), "{reaper}");
            }
        }
        for shared in ["decnet-master.service", "decnet.target"] {
            assert!(!is_the_agents(shared, true), "{shared}");
        }
        assert!(is_the_agents("decnet.target", false));
    }
}
