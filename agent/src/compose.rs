//! `decnet-agent compose`: a Compose project on this machine's engine, without a master.
//!
//! The same loader, planner and executor as for a bundle; there is no ledger, and no policy but the user's own.
//!
//! | module | what it does |
//! | --- | --- |
//! | `options` | the command line |
//! | `disk` | the files of a project |
//! | `project` | from the command line to what the engine is to have |
//! | `runner` | looks, plans, applies |
//! | `show` | plans and containers as text and JSON |
//! | `logs` | what containers have written |
//! | `terminal` | what is told while it happens |

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use decnet_docker::EngineError;
use decnet_plan::compose::load;
use decnet_plan::desired::Desired;
use decnet_plan::planner::{self, Refresh};
use decnet_plan::step::{Plan, PlannedStep, Step};
use decnet_wire::observed::Observed;

mod disk;
mod logs;
mod options;
mod project;
mod runner;
mod show;
mod terminal;

pub(crate) use options::Options;

use options::{Command, DownOptions, Format, ProjectOptions, Pull, RemoveImages, UpOptions};
use project::Project;
use runner::{Hidden, Manner, Runner};

const EXIT_CODES: &str = "\
Exit codes:
  0    done; of `plan`: nothing to do
  1    failed; standard error says what, on what, and why
  2    the command line is wrong
  6    of `plan`: there is something to do
  7    the files cannot be understood, or ask for what is not supported
  130  interrupted";

/// How a command ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    /// A plan that is not empty.
    Changes,
}

/// Lines, one for each problem.
#[derive(Debug)]
pub(crate) struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComposeError {
    #[error("{0}")]
    Files(Problems),
    #[error("{name:?} cannot name a project: {why}")]
    Name { name: String, why: String },
    #[error("project {project} has no service {service} that is enabled: look at `config --services`")]
    NoService { service: String, project: String },
    #[error("cannot tell the current directory")]
    CurrentDirectory(#[source] std::io::Error),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{0}")]
    Blocked(Problems),
    #[error("{0}")]
    Steps(Problems),
    #[error("cannot write to standard output")]
    Write(#[source] std::io::Error),
    #[error("interrupted: what is done stays; run the command again to go on")]
    Interrupted,
}

impl ComposeError {
    /// The process's exit code.
    pub(crate) const fn exit(&self) -> crate::cli::Exit {
        use crate::cli::Exit;
        match self {
            Self::Files(_) | Self::Name { .. } | Self::NoService { .. } => Exit::Files,
            Self::Interrupted => Exit::Interrupted,
            _ => Exit::Failed,
        }
    }
}

/// Does what the command line says.
///
/// # Errors
/// [`ComposeError`]; its text may have several lines, each of which stands for itself.
pub(crate) async fn run(options: Options, socket: &Path) -> Result<Ended, ComposeError> {
    let project = &options.project;
    match options.command {
        Command::Up(up) => start(project, &up, socket).await,
        Command::Plan { up, json } => preview(project, &up, json, socket).await,
        Command::Down(down) => stop(project, &down, socket).await,
        Command::Ps { all, json, services } => {
            let (runner, name) = look(project, &services, socket).await?;
            let containers = runner.engine().listed(project::host(&name)).await?;
            show::containers(&containers, &services, all, json)
        }
        Command::Logs {
            follow,
            tail,
            no_log_prefix,
            since,
            timestamps,
            services,
        } => {
            let (runner, name) = look(project, &services, socket).await?;
            let wanted = logs::Wanted {
                services: &services,
                follow,
                tail,
                prefix: !no_log_prefix,
                since,
                timestamps,
            };
            logs::show(runner.engine(), project::host(&name), &wanted).await
        }
        Command::Config {
            format,
            quiet,
            services,
        } => {
            let project = Project::load(project)?;
            // Finds what the loader does not look for, such as addresses that two containers share.
            project.desired()?;
            if quiet {
                return Ok(Ended::Done);
            }
            let text = if services {
                project
                    .services()
                    .iter()
                    .map(|name| format!("{name}\n"))
                    .collect()
            } else {
                let document = load::printable(&project.loaded.document);
                match format {
                    Format::Yaml => load::to_yaml(&document),
                    Format::Json => format!("{document:#}\n"),
                }
            };
            show::print(&text)
        }
    }
}

/// What `up` and `plan` begin with.
struct Aim {
    desired: Desired,
    hidden: Hidden,
    manner: Manner,
    observed: Observed,
    runner: Runner,
    refresh: Refresh,
}

async fn aim(options: &ProjectOptions, up: &UpOptions, socket: &Path) -> Result<Aim, ComposeError> {
    let mut project = match up.services.is_empty() && up.scale.is_empty() {
        true => Project::load(options)?,
        false => Project::load_with(
            options,
            up.services.iter().chain(up.scale.iter().map(|(name, _)| name)),
        )?,
    };
    let own = project.services();
    project.adjust(up)?;
    let desired = project.desired()?;
    let runner = Runner::connect(socket, desired.host()).await?;
    let observed = runner.observe().await?;

    let orphans = orphans(&observed, &own);
    let disabled = match orphans.is_empty() {
        true => BTreeSet::new(),
        false => project.disabled(options),
    };
    let orphans: BTreeSet<_> = orphans.difference(&disabled).cloned().collect();
    let mut only = project.services();
    if up.remove_orphans {
        only.extend(orphans);
    } else if !orphans.is_empty() {
        let names: Vec<_> = orphans.into_iter().collect();
        runner.terminal().line(&format!(
            "warning: containers of services that the files do not have: {}; --remove-orphans removes them",
            names.join(", ")
        ));
    }
    for outdated in planner::outdated_volumes(&desired, &observed) {
        runner.terminal().line(&format!("warning: {outdated}"));
    }
    Ok(Aim {
        desired,
        hidden: Hidden { only: Some(only) },
        manner: Manner {
            no_start: up.no_start,
            force_recreate: up.force_recreate,
            stop_timeout: up.timeout,
        },
        observed,
        runner,
        refresh: Refresh {
            build: up.build,
            pull: up.pull == Some(Pull::Always),
        },
    })
}

async fn start(options: &ProjectOptions, up: &UpOptions, socket: &Path) -> Result<Ended, ComposeError> {
    let mut aim = aim(options, up, socket).await?;
    aim.runner.stop_on_interrupt();
    let refresh = planner::refresh(&aim.desired, aim.refresh);
    if !refresh.steps.is_empty() {
        aim.runner.apply_all(&refresh).await?;
        aim.observed = aim.runner.observe().await?;
    }
    aim.runner
        .settle(&aim.desired, &aim.hidden, aim.manner, aim.observed)
        .await?;
    if up.wait {
        aim.runner.wait(&aim.desired, up.wait_timeout).await?;
    }
    Ok(Ended::Done)
}

async fn preview(
    options: &ProjectOptions,
    up: &UpOptions,
    json: bool,
    socket: &Path,
) -> Result<Ended, ComposeError> {
    let aim = aim(options, up, socket).await?;
    let mut plan = planner::refresh(&aim.desired, aim.refresh);
    let first = plan.steps.len();
    let rest = aim
        .runner
        .plan(&aim.desired, &aim.observed, &aim.hidden, aim.manner)
        .await;
    plan.blocked = rest.blocked;
    plan.steps.extend(rest.steps.into_iter().map(|mut planned| {
        planned.after = planned
            .after
            .iter()
            .map(|index| index + first)
            .chain(0..first)
            .collect();
        planned.after.sort_unstable();
        planned
    }));
    show::plan(&plan, json)?;
    Ok(if plan.is_settled() {
        Ended::Done
    } else {
        Ended::Changes
    })
}

async fn stop(options: &ProjectOptions, down: &DownOptions, socket: &Path) -> Result<Ended, ComposeError> {
    // Without files, everything of that name goes.
    let (name, project) = match project::name_only(options)? {
        Some(name) => (name, Project::load(options).ok()),
        None => {
            let project = Project::load(options)?;
            (project.name.clone(), Some(project))
        }
    };
    let desired = Desired::no_project(project::host(&name), &name);
    let runner = Runner::connect(socket, desired.host()).await?;
    runner.stop_on_interrupt();
    let observed = runner.observe().await?;
    let mut hidden = Hidden::default();
    if let Some(project) = &project
        && !down.remove_orphans
    {
        let mut known = project.services();
        known.extend(project.disabled(options));
        let orphans = orphans(&observed, &known);
        if !orphans.is_empty() {
            let names: Vec<_> = orphans.into_iter().collect();
            runner.terminal().line(&format!(
                "warning: containers of services that the files do not have stay: {}; --remove-orphans removes them",
                names.join(", ")
            ));
            hidden.only = Some(known);
        }
    }
    let manner = Manner {
        stop_timeout: down.timeout,
        ..Manner::default()
    };
    runner.settle(&desired, &hidden, manner, observed).await?;
    if down.volumes {
        let observed = runner.observe().await?;
        runner.apply_all(&planner::remove_volumes(&observed)).await?;
    }
    if let (Some(which), Some(project)) = (down.rmi, &project) {
        runner
            .apply_all(&images(project, which, &runner.observe().await?)?)
            .await?;
    }
    Ok(Ended::Done)
}

/// The removal of the images of a project: those without a name of their own, or all.
fn images(project: &Project, which: RemoveImages, observed: &Observed) -> Result<Plan, ComposeError> {
    let desired = project.desired()?;
    let local = |service: &str| {
        let service = &project.loaded.document["services"][service];
        service.get("image").is_none()
    };
    let names: BTreeSet<String> = desired
        .containers()
        .filter(|(_, service, _)| which == RemoveImages::All || local(service))
        .flat_map(|(_, _, spec)| &spec.image)
        .map(|name| tagged(name))
        .collect();
    let found = observed.images.iter().filter_map(|image| {
        let references = image.references.iter();
        let names: Vec<String> = references.filter(|name| names.contains(*name)).cloned().collect();
        (!names.is_empty()).then(|| Step::RemoveImage {
            id: image.id.clone(),
            names,
        })
    });
    Ok(Plan {
        steps: found.map(PlannedStep::alone).collect(),
        ..Plan::default()
    })
}

/// The reference that the engine lists an image by.
fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.contains([':', '@']) {
        true => name.to_owned(),
        false => format!("{name}:latest"),
    }
}

/// Services of containers that are not among these.
fn orphans(observed: &Observed, services: &BTreeSet<String>) -> BTreeSet<String> {
    let all = observed.containers.iter().map(|container| &container.service);
    all.filter(|service| !services.contains(*service))
        .cloned()
        .collect()
}

/// The project's name, and the engine.
async fn look(
    options: &ProjectOptions,
    services: &[String],
    socket: &Path,
) -> Result<(Runner, decnet_wire::ids::StackName), ComposeError> {
    let name = match project::name_only(options)? {
        Some(name) => name,
        None => {
            let project = Project::load_with(options, services.iter())?;
            for service in services {
                project.know(service)?;
            }
            project.name
        }
    };
    let runner = Runner::connect(socket, project::host(&name)).await?;
    Ok((runner, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `down --rmi local` left the images that it had built: they have no tag in the file and one on the engine.
    #[test]
    fn an_image_without_a_tag_is_found_by_the_one_that_the_engine_gives_it() {
        for (name, reference) in [
            ("p-a", "p-a:latest"),
            ("host:5000/a", "host:5000/a:latest"),
            ("a:1", "a:1"),
            ("a@sha256:0", "a@sha256:0"),
        ] {
            assert_eq!(tagged(name), reference);
        }
    }
}
