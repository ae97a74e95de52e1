//! One lab host: its process, its disk, and commands in it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{HostPlan, PREFIX};
use crate::command::Finished;
use crate::engine;
use crate::processes::tail;
use crate::wait::{Seen, until};

/// The guest's network interface.
pub(super) const INTERFACE: &str = "vec0";
/// What runs as the guest's kernel.
const KERNEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/kernel.sh");
/// How long a boot or a shutdown may take, on a machine that is busy with other things as well.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// The kernel's last words before it runs itself again.
const RESTARTING: &str = "reboot: Restarting system";
/// How long it may take until it says the first words after that: it is a matter of milliseconds.
const RESTART_LIMIT: Duration = Duration::from_secs(30);
/// How long a command may take unless the caller says.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// What the guest is given beyond a command's limit to say how it ended.
const SLACK: Duration = Duration::from_secs(60);
/// What coreutils' `timeout` ends with when the time was over: by SIGTERM, by SIGKILL.
const OVER_TIME: [i32; 2] = [124, 137];

/// A lab host. Its process is killed and its disk removed when it is dropped.
#[derive(Debug)]
pub struct Host {
    plan: HostPlan,
    folder: PathBuf,
    console: PathBuf,
    jobs: AtomicU32,
    power: Mutex<Option<Power>>,
}

/// How a boot went.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The kernel's id of it.
    pub id: String,
    /// `running`, or `degraded` when a unit failed.
    pub state: String,
    /// From power-on, or from the order to reboot, until everything was started.
    pub took: Duration,
}

/// A guest that runs.
#[derive(Debug)]
struct Power {
    /// The process that holds the guest's PID namespace: nothing of the guest outlives it.
    child: Child,
    since: Instant,
    /// Boots before this one.
    before: BTreeSet<String>,
}

/// A command that was begun in the guest.
#[derive(Debug)]
struct Job {
    script: String,
    folder: PathBuf,
    start: Instant,
    limit: Duration,
}

impl Host {
    /// Makes a disk and switches the host on; [`Host::ready`] waits for it.
    pub(super) fn start(plan: HostPlan) -> Result<Self> {
        let folder = plan.site.folder.path().join(&plan.name);
        for part in ["share/boots", "share/jobs", "share/files"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        let console = plan.site.logs.join(format!("{}.log", plan.name));
        plan.site.plug(&plan.tap)?;
        let host = Self {
            plan,
            folder,
            console,
            jobs: AtomicU32::new(0),
            power: Mutex::new(None),
        };
        host.switch_on()?;
        Ok(host)
    }

    /// Waits for the first boot, in which every unit has to start.
    pub(super) fn ready(&self) -> Result<Boot> {
        let boot = self.wait_for_boot()?;
        let failed = if boot.state == "running" {
            String::new()
        } else {
            self.run("systemctl --failed --no-legend --plain")?.said()
        };
        ensure!(
            boot.state == "running",
            "{} is {}: {failed}",
            self.plan.name,
            boot.state
        );
        Ok(boot)
    }

    /// Its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Its address on the LAN.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.plan.address
    }

    /// The MAC of its interface.
    #[must_use]
    pub fn mac(&self) -> &str {
        &self.plan.mac
    }

    /// What its consoles said, of all boots.
    #[must_use]
    pub fn console(&self) -> &Path {
        &self.console
    }

    /// Runs a script of bash as root, whatever comes of it, for at most a minute.
    ///
    /// # Errors
    ///
    /// When it does not end in time, or the host does not live to its end.
    pub fn run(&self, script: &str) -> Result<Finished> {
        self.run_for(script, COMMAND_LIMIT)
    }

    /// As [`Host::run`], for at most `limit`, which counts in whole seconds.
    ///
    /// # Errors
    ///
    /// As [`Host::run`].
    pub fn run_for(&self, script: &str, limit: Duration) -> Result<Finished> {
        let job = self.begin(script, limit)?;
        self.finish(&job)
    }

    /// What `script` prints.
    ///
    /// # Errors
    ///
    /// As [`Host::run`]; and when it does not succeed.
    pub fn ok(&self, script: &str) -> Result<String> {
        self.run(script)?.ok()
    }

    /// Copies a file into the guest, with its mode; it is on the guest's disk when this returns.
    ///
    /// # Errors
    ///
    /// When one of both files cannot be used.
    pub fn put(&self, from: &Path, to: &str) -> Result<()> {
        let (inside, outside) = self.exchange();
        std::fs::copy(from, &outside).with_context(|| format!("cannot copy {}", from.display()))?;
        // Beside its name and then over it: a program that runs can be replaced.
        let script = format!(
            "set -e; mkdir -p \"$(dirname '{to}')\"; cp --preserve=mode {inside} '{to}.put'; \
             sync '{to}.put'; mv '{to}.put' '{to}'; sync \"$(dirname '{to}')\""
        );
        let put = self.ok(&script);
        std::fs::remove_file(&outside)?;
        put.map(drop)
    }

    /// Shows the guest a file, and gives back its path there: what is only read need not be written to the guest's disk.
    ///
    /// # Errors
    ///
    /// When the file cannot be copied.
    pub fn show(&self, from: &Path) -> Result<String> {
        let (inside, outside) = self.exchange();
        std::fs::copy(from, &outside).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(inside)
    }

    /// Copies a file out of the guest.
    ///
    /// # Errors
    ///
    /// When one of both files cannot be used.
    pub fn get(&self, from: &str, to: &Path) -> Result<()> {
        let (inside, outside) = self.exchange();
        self.ok(&format!("cp '{from}' {inside}"))?;
        std::fs::copy(&outside, to).with_context(|| format!("cannot copy to {}", to.display()))?;
        std::fs::remove_file(&outside)?;
        Ok(())
    }

    /// The containers that carry a host's label in the guest's engine, running or not, by name.
    ///
    /// # Errors
    ///
    /// When the engine does not answer.
    pub fn containers(&self, host: &str) -> Result<std::collections::BTreeMap<String, engine::Container>> {
        let label = engine::HOST_LABEL;
        let said = self.ok(&format!(
            "ids=$(docker ps -aq --no-trunc --filter label={label}={host}) || exit
             [ -n \"$ids\" ] || {{ echo '[]'; exit; }}
             docker inspect --type container $ids || true"
        ))?;
        engine::Container::all_from(&said)
    }

    /// Ends it like a power cut: what the guest had not written to its disk is lost.
    ///
    /// # Errors
    ///
    /// When it was off.
    pub fn power_cut(&self) -> Result<()> {
        let power = self.held().take();
        cut(power.with_context(|| format!("{} was off", self.plan.name))?)
    }

    /// Shuts it down in order, and waits until it is off.
    ///
    /// # Errors
    ///
    /// When it was off, or does not go off.
    pub fn shut_down(&self) -> Result<()> {
        self.begin("systemctl poweroff", COMMAND_LIMIT)?;
        until(&format!("{} is off", self.plan.name), BOOT_LIMIT, || {
            Ok(Seen::when(self.has_ended()?, self.says()))
        })?;
        self.held().take();
        Ok(())
    }

    /// Switches it on again, on the disk that it had, and waits until everything is started.
    ///
    /// # Errors
    ///
    /// When it is on, or does not come up.
    pub fn boot_again(&self) -> Result<Boot> {
        self.switch_on()?;
        self.wait_for_boot()
    }

    /// Reboots it in order, and waits until everything is started again.
    ///
    /// # Errors
    ///
    /// When it is off, or does not come back.
    pub fn reboot(&self) -> Result<Boot> {
        self.begin_reboot()?;
        self.wait_for_boot()
    }

    /// Orders a reboot; [`Host::wait_for_boot`] waits for it.
    ///
    /// # Errors
    ///
    /// When it is off.
    pub fn begin_reboot(&self) -> Result<()> {
        let boots = self.boots()?;
        if let Some(power) = self.held().as_mut() {
            power.before = boots;
            power.since = Instant::now();
        }
        self.begin("systemctl reboot", COMMAND_LIMIT).map(drop)
    }

    /// Switches it on, on the disk that it had; [`Host::wait_for_boot`] waits for it.
    ///
    /// # Errors
    ///
    /// When it is on.
    pub fn switch_on(&self) -> Result<()> {
        let plan = &self.plan;
        let mut held = self.held();
        ensure!(held.is_none(), "{} is on", plan.name);
        let console = File::options().create(true).append(true).open(&self.console)?;
        let part = |name: &str| self.folder.join(name).display().to_string();
        let child = plan
            .site
            .bound(&[
                KERNEL,
                &format!("mem={}M", plan.memory_mib),
                &format!("uml_dir={}", part("uml")),
                &format!("ubd0={},{}", part("disk"), plan.site.image.path.display()),
                "root=/dev/ubda",
                "rw",
                // All that a guest can reach of the machine's files.
                &format!("hostfs={}", part("share")),
                "con=null",
                "con0=null,fd:1",
                "ssl=null",
                "ssl0=fd:0,null",
                &format!("{INTERFACE}:transport=tap,ifname={},mac={}", plan.tap, plan.mac),
                &format!("systemd.hostname={}", plan.name),
                &format!("lab.address={}/24", plan.address),
                &format!("lab.gateway={PREFIX}.1"),
                // What services say is of use when a boot fails; escape sequences are not.
                "systemd.journald.forward_to_console=1",
                "systemd.log_color=0",
                "SYSTEMD_COLORS=0",
            ])
            // Guests' memory is a file, and that file is to be memory.
            .env("TMPDIR", "/dev/shm")
            .env("LAB_PRELOAD", plan.site.image.path.with_extension("so"))
            .stdin(Stdio::piped())
            .stdout(console.try_clone()?)
            .stderr(console)
            // A Ctrl-C is for the one who waits, who then cleans up.
            .process_group(0)
            .spawn()
            .context("cannot start a guest")?;
        *held = Some(Power {
            child,
            since: Instant::now(),
            before: self.boots()?,
        });
        Ok(())
    }

    /// Waits until the boot that [`Host::switch_on`] or [`Host::begin_reboot`] began is through.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn wait_for_boot(&self) -> Result<Boot> {
        let name = &self.plan.name;
        let (before, since) = match self.held().as_ref() {
            Some(power) => (power.before.clone(), power.since),
            None => bail!("{name} is off"),
        };
        let id = until(&format!("{name} boots"), BOOT_LIMIT, || {
            if self.hangs_in_its_restart() {
                println!("{name} hangs between two boots: it is switched off and on");
                self.power_cut()?;
                self.switch_on()?;
            }
            ensure!(!self.has_ended()?, "{name} went off: {}", self.says());
            let boot = self.boots()?.into_iter().find(|boot| !before.contains(boot));
            Ok(boot.map_or_else(|| Seen::not_yet(self.says()), Seen::Done))
        })?;
        // With the engine wanted, `docker version` waits for it behind its socket.
        let state = self
            .run_for(
                "systemctl is-system-running --wait
                 ! systemctl is-enabled --quiet docker.service || docker version >/dev/null",
                BOOT_LIMIT,
            )?
            .ok()
            .with_context(|| format!("{name} does not come up: {}", self.says()))?;
        Ok(Boot {
            id,
            state: state.trim().to_owned(),
            took: since.elapsed(),
        })
    }

    fn begin(&self, script: &str, limit: Duration) -> Result<Job> {
        let number = self.jobs.fetch_add(1, Ordering::SeqCst);
        let folder = self.folder.join("share/jobs").join(number.to_string());
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("script"), format!("{script}\n"))?;
        let mut held = self.held();
        let line = held
            .as_mut()
            .and_then(|power| power.child.stdin.as_mut())
            .with_context(|| format!("{} is off", self.plan.name))?;
        writeln!(line, "{number} {}", limit.as_secs().max(1))
            .with_context(|| format!("{} went off: {}", self.plan.name, self.says()))?;
        Ok(Job {
            script: script.to_owned(),
            folder,
            start: Instant::now(),
            limit,
        })
    }

    fn finish(&self, job: &Job) -> Result<Finished> {
        let what = format!("`{}` on {}", job.script, self.plan.name);
        let part = |name: &str| {
            String::from_utf8_lossy(&std::fs::read(job.folder.join(name)).unwrap_or_default()).into_owned()
        };
        let code = until(&format!("{what} ends"), job.limit + SLACK, || {
            // Looked at first: what ended with the guest has its code all the same.
            let off = self.has_ended()?;
            if let Ok(code) = std::fs::read_to_string(job.folder.join("code")) {
                return Ok(Seen::Done(code));
            }
            ensure!(!off, "{} went off during {what}: {}", self.plan.name, self.says());
            Ok(Seen::not_yet(format!(
                "{}{}; {}",
                part("stdout"),
                part("stderr"),
                self.says()
            )))
        })?;
        let code: i32 = code
            .trim()
            .parse()
            .with_context(|| format!("{what} ended with {code:?}"))?;
        let finished = Finished {
            what,
            // As wait(2) has it: the exit code in the second byte.
            status: ExitStatus::from_raw(code << 8),
            stdout: part("stdout"),
            stderr: part("stderr"),
            took: job.start.elapsed(),
        };
        if OVER_TIME.contains(&code) && finished.took >= job.limit {
            bail!(
                "{} did not end within {} s; it said: {}",
                finished.what,
                job.limit.as_secs(),
                finished.said()
            );
        }
        Ok(finished)
    }

    /// Two names of one file that does not exist: in the guest, and on the machine.
    fn exchange(&self) -> (String, PathBuf) {
        let name = format!("files/{}", self.jobs.fetch_add(1, Ordering::SeqCst));
        (format!("/lab/{name}"), self.folder.join("share").join(name))
    }

    /// The boots of this host so far that got as far as taking commands.
    fn boots(&self) -> Result<BTreeSet<String>> {
        let mut boots = BTreeSet::new();
        for boot in std::fs::read_dir(self.folder.join("share/boots"))? {
            boots.insert(boot?.file_name().to_string_lossy().into_owned());
        }
        Ok(boots)
    }

    fn has_ended(&self) -> Result<bool> {
        match self.held().as_mut() {
            Some(power) => Ok(power.child.try_wait()?.is_some()),
            None => Ok(true),
        }
    }

    /// Whether the kernel said long ago that it restarts the machine, and nothing since. User-mode Linux does so now and
    /// then: it has ended everything by then, disks included, and does not get as far as to run itself again.
    fn hangs_in_its_restart(&self) -> bool {
        let quiet = || {
            std::fs::metadata(&self.console)?
                .modified()?
                .elapsed()
                .map_err(std::io::Error::other)
        };
        tail(&self.console).trim_end().ends_with(RESTARTING)
            && quiet().is_ok_and(|quiet| quiet > RESTART_LIMIT)
    }

    fn says(&self) -> String {
        format!(
            "its console ({}) ends with:\n{}",
            self.console.display(),
            tail(&self.console)
        )
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Power>> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(power) = self.held().take()
            && let Err(error) = cut(power)
        {
            eprintln!("{} may still run: {error:#}", self.plan.name);
        }
        if std::thread::panicking() {
            eprintln!("{}: {}", self.plan.name, self.says());
        }
    }
}

/// Kills a guest and waits until nothing of it is left: only then its disk and its cable are free.
fn cut(mut power: Power) -> Result<()> {
    let process = power.child.id();
    // The first process of the guest's PID namespace; it is gone only when all others are.
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    power.child.kill()?;
    power.child.wait()?;
    for child in children.unwrap_or_default().split_whitespace() {
        until("a killed guest is gone", BOOT_LIMIT, || {
            let state = std::fs::read_to_string(format!("/proc/{child}/stat")).ok();
            // A zombie holds nothing; who reaps it is not ours to say.
            let gone = state
                .as_deref()
                .and_then(|stat| stat.rsplit_once(") "))
                .is_none_or(|(_, rest)| rest.starts_with('Z'));
            Ok(Seen::when(gone, state.unwrap_or_default()))
        })?;
    }
    Ok(())
}
