//! systemd over D-Bus (org.freedesktop.systemd1(5)): only the calls that are needed here.

use std::path::Path;

use futures_util::StreamExt as _;
use zbus::{Connection, OwnedObjectPath, Variant, proxy};

/// What `sd_booted(3)` looks at.
const BOOTED: &str = "/run/systemd/system";

/// Whether systemd is this host's service manager.
pub(crate) fn are_there() -> bool {
    Path::new(BOOTED).is_dir()
}

/// Something that systemd was asked for and did not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnitError {
    #[error("cannot reach systemd over the system bus")]
    Connect(#[source] zbus::Error),
    #[error("systemd refused to {what} {unit}")]
    Refused {
        what: &'static str,
        unit: String,
        #[source]
        source: zbus::Error,
    },
    #[error("the job to {what} {unit} ended with {result}")]
    Job {
        what: &'static str,
        unit: String,
        /// As of `JobRemoved`: `failed`, `timeout`, `canceled`, `dependency`, `skipped`.
        result: String,
    },
    #[error("systemd has hung up")]
    Gone,
}

/// `(name, description, load, active, sub, following, path, job, job type, job path)`.
type Listed = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);
/// `(type, file, destination)`.
type Links = Vec<(String, String, String)>;
type Properties<'a> = [(&'a str, Variant<'a>)];

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<Listed>>;
    fn disable_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<Links>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &Properties<'_>,
        aux: &[(&str, &Properties<'_>)],
    ) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// A program that systemd is to run outside of whatever asks for it.
#[derive(Debug)]
pub(crate) struct Transient<'a> {
    pub(crate) name: &'a str,
    pub(crate) description: &'a str,
    /// The program, by its absolute path, and what it is called with.
    pub(crate) command: &'a [&'a str],
}

/// A unit that systemd knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) name: String,
    /// As in `loaded` or `not-found`.
    pub(crate) load: String,
    /// As in `active` or `failed`.
    pub(crate) active: String,
}

impl Unit {
    /// Whether there is something to be stopped.
    pub(crate) fn is_up(&self) -> bool {
        !matches!(self.active.as_str(), "inactive" | "failed")
    }
}

/// This host's service manager.
#[derive(Debug)]
pub(crate) struct Units {
    manager: ManagerProxy<'static>,
}

impl Units {
    pub(crate) async fn connect() -> Result<Self, UnitError> {
        let connection = Connection::system().await.map_err(UnitError::Connect)?;
        let manager = ManagerProxy::new(&connection).await.map_err(UnitError::Connect)?;
        // Without it, ends of jobs are not told to everybody.
        manager.subscribe().await.map_err(UnitError::Connect)?;
        Ok(Self { manager })
    }

    /// Starts a service that is gone with its process; systemd starts it again should it be killed. Returns when it runs.
    pub(crate) async fn start(&self, transient: &Transient<'_>) -> Result<(), UnitError> {
        let (program, name) = (
            transient.command.first().copied().unwrap_or_default(),
            transient.name,
        );
        let command = vec![(program, transient.command.to_vec(), false)];
        let properties = [
            ("Description", Variant::from(transient.description)),
            // Started is what was executed, not what was forked.
            ("Type", Variant::from("exec")),
            ("ExecStart", Variant::from(command)),
            ("CollectMode", Variant::from("inactive-or-failed")),
            ("Restart", Variant::from("on-failure")),
            ("RestartUSec", Variant::from(1_000_000_u64)),
            ("StartLimitIntervalUSec", Variant::from(0_u64)),
        ];
        let job = Job {
            what: "start",
            unit: name,
        };
        // Listened to first: the job may be over before its name is known here.
        let ends = self.manager.receive_job_removed().await.map_err(job.refused())?;
        let asked = self.manager.start_transient_unit(name, "fail", &properties, &[]);
        job.ended(asked.await.map_err(job.refused())?, ends).await
    }

    /// Stops a unit, and waits until it has stopped.
    pub(crate) async fn stop(&self, name: &str) -> Result<(), UnitError> {
        let job = Job {
            what: "stop",
            unit: name,
        };
        let ends = self.manager.receive_job_removed().await.map_err(job.refused())?;
        let asked = self.manager.stop_unit(name, "replace");
        job.ended(asked.await.map_err(job.refused())?, ends).await
    }

    /// The units whose names match a pattern, as in `decnet-*`.
    pub(crate) async fn matching(&self, pattern: &str) -> Result<Vec<Unit>, UnitError> {
        let listed = self.manager.list_units_by_patterns(&[], &[pattern]).await;
        let listed = listed.map_err(|source| UnitError::Refused {
            what: "list",
            unit: pattern.to_owned(),
            source,
        })?;
        let unit = |(name, _, load, active, ..): Listed| Unit { name, load, active };
        Ok(listed.into_iter().map(unit).collect())
    }

    /// Removes the links by which a unit is started at boot.
    pub(crate) async fn disable(&self, name: &str) -> Result<(), UnitError> {
        let done = self.manager.disable_unit_files(&[name], false).await;
        done.map(drop).map_err(|source| UnitError::Refused {
            what: "disable",
            unit: name.to_owned(),
            source,
        })
    }

    /// Reads all unit files anew.
    pub(crate) async fn reload(&self) -> Result<(), UnitError> {
        self.manager.reload().await.map_err(|source| UnitError::Refused {
            what: "reload",
            unit: "the unit files".to_owned(),
            source,
        })
    }

    /// Forgets that a unit has failed. One that is not known any more is forgotten already.
    pub(crate) async fn forget(&self, name: &str) {
        if let Err(error) = self.manager.reset_failed_unit(name).await {
            tracing::debug!(unit = name, %error, "nothing to forget");
        }
    }
}

/// What systemd was asked to do with a unit.
#[derive(Debug, Clone, Copy)]
struct Job<'a> {
    what: &'static str,
    unit: &'a str,
}

impl Job<'_> {
    fn refused(self) -> impl FnOnce(zbus::Error) -> UnitError {
        let (what, unit) = (self.what, self.unit.to_owned());
        move |source| UnitError::Refused { what, unit, source }
    }

    /// Waits until systemd says how a job ended.
    async fn ended(self, asked: OwnedObjectPath, mut ends: JobRemovedStream) -> Result<(), UnitError> {
        while let Some(end) = ends.next().await {
            let end = end.args().map_err(self.refused())?;
            if end.job != asked {
                continue;
            }
            return match end.result.as_str() {
                "done" => Ok(()),
                result => Err(UnitError::Job {
                    what: self.what,
                    unit: self.unit.to_owned(),
                    result: result.to_owned(),
                }),
            };
        }
        Err(UnitError::Gone)
    }
}
