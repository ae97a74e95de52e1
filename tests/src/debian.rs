//! A Debian to install packages in: the files of the lab hosts' disk, with a layer of its own that is thrown away.
//!
//! Nothing is booted. A command runs in namespaces of its own (mounts, processes, network, names), so that whatever a package's
//! scripts do, they see only these files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::command::{Finished, program, run};

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The disk's files are 0.6 GB.
const UNPACK: Duration = Duration::from_secs(120);

/// Arguments: the files, the layer, a folder that is shown at `/mnt`, the command.
const ENTER: &str = r#"set -e
cd "$2"
mount -t overlay overlay -o "lowerdir=$1,upperdir=upper,workdir=work" merged
cd merged
mount -t proc proc proc
mount -t tmpfs tmpfs dev
for device in null zero urandom; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mount --bind -o ro "$3" mnt
# Not in place of this shell: nobody in the namespace can kill its first process.
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C \
    DEBIAN_FRONTEND=noninteractive chroot . bash -c "$4" || exit $?
exit 0
"#;

/// One Debian.
#[derive(Debug)]
pub struct Debian {
    base: PathBuf,
    layer: TempDir,
    shown: PathBuf,
}

impl Debian {
    /// A Debian as the lab's disk has it. The disk's files are unpacked into `cache` unless they are there; `shown` is what
    /// commands see as `/mnt`.
    ///
    /// # Errors
    ///
    /// The disk was not made, or cannot be unpacked.
    pub fn new(cache: &Path, shown: &Path) -> Result<Self> {
        let base = unpacked(cache)?;
        let layer = tempfile::tempdir_in(cache).context("no folder for a layer")?;
        for folder in ["upper", "work", "merged"] {
            std::fs::create_dir(layer.path().join(folder))?;
        }
        // Thrown away: nothing has to be safe on disk after each package.
        let settings = layer.path().join("upper/etc/dpkg/dpkg.cfg.d");
        std::fs::create_dir_all(&settings)?;
        std::fs::write(settings.join("layer"), "force-unsafe-io\n")?;
        Ok(Self {
            base,
            layer,
            shown: shown.to_owned(),
        })
    }

    /// Runs a bash script as root and tells how it ended. What it started ends with it.
    ///
    /// # Errors
    ///
    /// It takes too long.
    pub fn run(&self, script: &str) -> Result<Finished> {
        let mut command = program("unshare", &["--mount", "--pid", "--fork", "--kill-child"]);
        command.args(["--net", "--ipc", "--uts", "bash", "-c", ENTER, "debian"]);
        command.args([self.base.as_path(), self.layer.path(), self.shown.as_path()]);
        run(command.arg(script), LIMIT)
    }

    /// What a script that succeeds prints.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn ok(&self, script: &str) -> Result<String> {
        self.run(script)?.ok()
    }
}

/// The folder with the disk's files.
fn unpacked(cache: &Path) -> Result<PathBuf> {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/image.sh");
    let recipe = recipe.to_str().context("the project's path is not UTF-8")?;
    let said = run(&mut program(recipe, &["--path"]), LIMIT)?.ok()?;
    let image = PathBuf::from(said.trim());
    let name = image.file_stem().context("a disk without a name")?;
    let base = cache.join(name);
    std::fs::create_dir_all(cache)?;
    // Several tests begin at the same moment.
    let _turn = locked(&cache.join("lock"), FlockArg::LockExclusive)?;
    if base.exists() {
        return Ok(base);
    }
    // Nobody removes the disk meanwhile.
    let _used = locked(&image, FlockArg::LockShared)?;
    remove_older(cache)?;
    let half = cache.join("half");
    std::fs::create_dir(&half)?;
    let order = format!("rdump / {}", half.display());
    let disk = image.to_str().context("the disk's path is not UTF-8")?;
    run(&mut program("debugfs", &["-R", &order, disk]), UNPACK)?.ok()?;
    ensure!(
        half.join("var/lib/dpkg/status").exists(),
        "{disk} could not be unpacked into {}",
        half.display()
    );
    std::fs::rename(&half, &base)?;
    Ok(base)
}

/// Files of disks of older recipes, and what broke off.
fn remove_older(cache: &Path) -> Result<()> {
    for entry in std::fs::read_dir(cache)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "half" || name.to_string_lossy().starts_with("host-") {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn locked(path: &Path, how: FlockArg) -> Result<Flock<File>> {
    let file = match how {
        FlockArg::LockExclusive => File::create(path),
        _ => File::open(path),
    };
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, how)
        .map_err(|(_, error)| error)
        .with_context(|| format!("cannot lock {}", path.display()))
}
