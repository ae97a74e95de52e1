//! What the fixtures take for granted: images, and objects that belong to no project.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::fixture::PREFIX;
use crate::command::{SHORT, program, run, run_with};
use crate::engine::docker;

const BUSYBOX: &str = "/bin/busybox";
const REPOSITORY: &str = "decnet-oracle";
const WORDS: [&str; 9] = ["sh", "sleep", "true", "false", "cat", "echo", "id", "ls", "stat"];

/// Removed when dropped.
#[derive(Debug)]
pub struct Stage {
    /// What could not be cleared away: an engine may keep a network for good when its containers vanish at a bad
    /// moment.
    stuck: Vec<String>,
}

impl Stage {
    /// # Errors
    ///
    /// When something needed is missing, or cannot be made.
    pub fn set() -> Result<Self> {
        let said = run(&mut program("docker", &["compose", "version", "--short"]), SHORT)?;
        let version = said
            .ok()
            .context("Docker Compose v2 is missing: run tests/setup.sh as root")?;
        ensure!(
            version.trim_start_matches('v').starts_with('2'),
            "Docker Compose {version} is no version 2: run tests/setup.sh as root"
        );
        ensure!(
            Path::new(BUSYBOX).exists(),
            "{BUSYBOX} is missing: run tests/setup.sh as root"
        );
        println!("docker compose {}", version.trim());
        // What an earlier run that was killed has left.
        clear()?;
        let stage = Self { stuck: listed()? };
        if !stage.stuck.is_empty() {
            println!("earlier runs have left for good: {:?}", stage.stuck);
        }
        images()?;
        let (name, image) = (format!("{PREFIX}external"), format!("{REPOSITORY}/box:1"));
        docker(&["network", "create", &format!("{name}-net")])?;
        docker(&["volume", "create", &format!("{name}-volume")])?;
        let name = format!("{name}-box");
        docker(&[
            "run",
            "-d",
            "--name",
            &name,
            "-v",
            "/shared",
            "--ipc",
            "shareable",
            &image,
        ])?;
        Ok(stage)
    }
}

impl Stage {
    /// Names of containers, networks and volumes of projects that are still there.
    ///
    /// # Errors
    ///
    /// When the engine does not answer.
    pub fn left(&self) -> Result<Vec<String>> {
        let mut left = listed()?;
        left.retain(|name| !self.stuck.contains(name));
        Ok(left)
    }
}

fn listed() -> Result<Vec<String>> {
    let filter = format!("name={PREFIX}");
    let mut all = Vec::new();
    for (list, format) in [
        (["ps", "-a"].as_slice(), "{{.Names}}"),
        (["network", "ls"].as_slice(), "{{.Name}}"),
        (["volume", "ls"].as_slice(), "{{.Name}}"),
    ] {
        let mut arguments = list.to_vec();
        arguments.extend(["--filter", &filter, "--format", format]);
        let names = docker(&arguments)?;
        let own = format!("{PREFIX}external");
        all.extend(
            names
                .lines()
                .filter(|name| !name.starts_with(&own))
                .map(str::to_owned),
        );
    }
    Ok(all)
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = clear() {
            println!("the stage is not cleared: {error:#}");
        }
    }
}

fn images() -> Result<()> {
    let root = tempfile::tempdir()?;
    let folder = |name: &str| root.path().join(name);
    for name in ["bin", "etc", "proc", "tmp"] {
        fs::create_dir(folder(name))?;
    }
    fs::copy(BUSYBOX, folder("bin/busybox"))?;
    for word in WORDS {
        symlink("busybox", folder("bin").join(word))?;
    }
    fs::write(
        folder("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    )?;
    fs::write(folder("etc/group"), "root:x:0:\naudio:x:29:\nnogroup:x:65534:\n")?;
    let pipe = format!(
        "tar -c -C '{}' . | docker import - {REPOSITORY}/base:1",
        root.path().display()
    );
    run(&mut program("sh", &["-c", &pipe]), SHORT)?.ok()?;
    // Nothing catches signals, so that a stop would take ten seconds.
    let common = format!("FROM {REPOSITORY}/base:1\nSTOPSIGNAL SIGKILL\n");
    let sleeper = "CMD [\"sleep\",\"100000\"]\n";
    let rich = "ENTRYPOINT [\"sleep\"]\nCMD [\"100000\"]\nENV COLOUR=green SHAPE=round\nEXPOSE 80\nVOLUME /var/data\n\
         WORKDIR /work\nLABEL com.example.image=1\nHEALTHCHECK --interval=1h CMD true\n";
    for (tag, text) in [
        ("box:1", sleeper.to_owned()),
        ("box:2", format!("{sleeper}ENV SECOND=1\n")),
        ("rich:1", rich.to_owned()),
    ] {
        let tag = format!("{REPOSITORY}/{tag}");
        let mut build = program("docker", &["build", "-q", "-t", &tag, "-"]);
        // The builder that every engine has, without a plugin.
        build.env("DOCKER_BUILDKIT", "0");
        run_with(&mut build, format!("{common}{text}").as_bytes(), SHORT)?.ok()?;
    }
    Ok(())
}

/// Removes everything whose name begins with the prefix.
fn clear() -> Result<()> {
    let filter = format!("name={PREFIX}");
    let each = |list: &[&str], remove: &[&str]| -> Result<()> {
        let found = docker(list)?;
        let mut arguments = remove.to_vec();
        arguments.extend(found.split_whitespace());
        if arguments.len() > remove.len() {
            // What goes meanwhile needs no removal; what stays shows in the next list.
            run(&mut program("docker", &arguments), SHORT)?;
        }
        Ok(())
    };
    each(&["ps", "-aq", "--filter", &filter], &["rm", "-f", "-v"])?;
    each(&["network", "ls", "-q", "--filter", &filter], &["network", "rm"])?;
    each(&["volume", "ls", "-q", "--filter", &filter], &["volume", "rm"])?;
    let format = "{{.Repository}}:{{.Tag}}";
    for filter in [
        format!("reference={PREFIX}*"),
        format!("reference={REPOSITORY}/*"),
    ] {
        each(
            &["image", "ls", "--filter", &filter, "--format", format],
            &["image", "rm", "-f"],
        )?;
    }
    Ok(())
}
