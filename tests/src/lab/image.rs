//! The disk that hosts boot from, as `make lab-image` makes it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::command::{program, run};

/// Programs that a lab needs, and the packages that have them.
const NEEDED: [(&str, &str); 5] = [
    ("linux.uml", "user-mode-linux"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
    ("bash", "bash"),
];

/// An image that nobody removes while this is held.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) path: PathBuf,
    _lock: Flock<File>,
}

impl Image {
    /// The image of the recipe as it is now.
    pub(super) fn find() -> Result<Self> {
        for (command, package) in NEEDED {
            ensure!(
                on_path(command),
                "{command} is missing: install Debian's package {package}, or run `make set-up`"
            );
        }
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/image.sh");
        let recipe = recipe.to_str().context("the project's path is not UTF-8")?;
        let said = run(&mut program(recipe, &["--path"]), Duration::from_secs(60))?.ok()?;
        let path = PathBuf::from(said.trim());
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockShared)
            .map_err(|(_, error)| error)
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    /// An empty folder for the logs of the run called `name`.
    pub(super) fn logs(&self, name: &str) -> Result<PathBuf> {
        let above = self.path.parent().context("an image in no folder")?;
        let logs = above.join("logs").join(name);
        if logs.exists() {
            std::fs::remove_dir_all(&logs)?;
        }
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        Ok(logs)
    }
}

fn on_path(command: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(command).is_file()))
}
