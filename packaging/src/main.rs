//! `decnet-pack`: makes what is shipped. One subcommand for each thing.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use decnet_packaging::image::{self, Arch, Reference};
use decnet_packaging::package::{self, Format, Name, Recipe, Version};

/// Largest binary that is read: far above any decoy, far below what fills a builder's memory.
const MAX_BINARY: u64 = 256 << 20;

/// The project has no address of its own yet; who hands packages out names theirs.
const MAINTAINER: &str = "DECNET contributors <decnet@localhost.localdomain>";

#[derive(Debug, Parser)]
#[command(version, about = "Makes what DECNET ships")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the decoy image archive, and its description as JSON beside it and on standard output
    Image {
        /// The static decoy binary
        #[arg(long, value_name = "PATH")]
        binary: PathBuf,
        /// Where to write the archive; the description gets the same name with .json
        #[arg(long, value_name = "FILE", default_value = "decoy-image.tar")]
        out: PathBuf,
        /// Name and tag of the image [default: decnet/decoy:<first 12 hex digits of the config digest>]
        #[arg(long, value_name = "NAMESPACE/NAME:TAG")]
        reference: Option<Reference>,
        /// Processor the binary was built for
        #[arg(long, value_enum, default_value_t = Arch::Amd64)]
        arch: Arch,
    },
    /// Write a package's files into a new folder, and their manifest to standard output
    Tree {
        #[command(flatten)]
        package: PackageArgs,
        /// For which kind of system
        #[arg(long, value_enum)]
        format: Format,
        /// The folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Make a package for dpkg
    Deb {
        #[command(flatten)]
        package: PackageArgs,
        /// The folder for it
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Make a package for rpm
    Rpm {
        #[command(flatten)]
        package: PackageArgs,
        /// The folder for it
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
struct PackageArgs {
    /// Which package
    #[arg(long, value_enum)]
    package: Name,
    /// The built program, which has to run here
    #[arg(long, value_name = "PATH")]
    binary: PathBuf,
    /// The project's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    source: PathBuf,
    /// Where units come from [default: systemd in the project's folder]
    #[arg(long, value_name = "DIR")]
    units: Option<PathBuf>,
    /// The decoy image's archive; its description lies beside it
    #[arg(long, value_name = "FILE", default_value = "target/decoy-image.tar")]
    decoy_image: PathBuf,
    /// A package of the agent that the master hands out to hosts; may be given again
    #[arg(long = "agent-package", value_name = "FILE")]
    agent_packages: Vec<PathBuf>,
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    package_version: Version,
    /// Which packaging of this version it is
    #[arg(long, value_name = "N", default_value_t = 1)]
    revision: u32,
    /// The time of every file, in seconds since 1970 [default: that of the last commit]
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    epoch: Option<u32>,
    /// Who answers for the package
    #[arg(long, value_name = "NAME <ADDRESS>", default_value = MAINTAINER)]
    maintainer: String,
    /// How hard xz tries; 0 compresses nothing, for packages that only a test installs
    #[arg(long, value_name = "0-9", default_value_t = 9, value_parser = clap::value_parser!(u8).range(0..=9))]
    level: u8,
    /// Fail when the program holds this text, such as the builder's folders; may be given again
    #[arg(long = "forbid", value_name = "TEXT")]
    forbidden: Vec<String>,
}

impl PackageArgs {
    fn recipe(self) -> anyhow::Result<Recipe> {
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => last_commit(&self.source)?,
        };
        // It is run, and a plain name would be looked for elsewhere.
        let binary = std::path::absolute(&self.binary).context("where is this?")?;
        Ok(Recipe {
            name: self.package,
            source: self.source,
            binary,
            units: self.units,
            decoy_image: self.decoy_image,
            agent_packages: self.agent_packages,
            version: self.package_version,
            revision: self.revision,
            epoch,
            maintainer: self.maintainer,
            level: self.level,
            forbidden: self
                .forbidden
                .into_iter()
                .filter(|text| !text.is_empty())
                .collect(),
        })
    }
}

fn last_commit(source: &Path) -> anyhow::Result<u32> {
    let said = std::process::Command::new("git")
        .arg("-C")
        .arg(source)
        .args(["log", "-1", "--format=%ct"])
        .output();
    said.ok()
        .filter(|said| said.status.success())
        .and_then(|said| String::from_utf8_lossy(&said.stdout).trim().parse().ok())
        .with_context(|| {
            format!(
                "git knows no last commit of {}: set SOURCE_DATE_EPOCH to the packages' time, in seconds since 1970",
                source.display()
            )
        })
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Image {
            binary,
            out,
            reference,
            arch,
        } => make_image(&binary, &out, reference, arch),
        Command::Tree { package, format, out } => {
            let tree = package::tree::make(&package.recipe()?, format, &out)?;
            print!("{}", tree.manifest()?);
            Ok(())
        }
        Command::Deb { package, out } => {
            println!("{}", package::deb::build(&package.recipe()?, &out)?.display());
            Ok(())
        }
        Command::Rpm { package, out } => {
            println!("{}", package::rpm::build(&package.recipe()?, &out)?.display());
            Ok(())
        }
    }
}

fn make_image(binary: &Path, out: &Path, reference: Option<Reference>, arch: Arch) -> anyhow::Result<()> {
    let beside = out.with_extension("json");
    if beside == out {
        bail!(
            "--out {} would be overwritten by its own description; name it .tar",
            out.display()
        );
    }
    let bytes =
        read_capped(binary).with_context(|| format!("cannot read the binary {}", binary.display()))?;
    let archive = image::build(&bytes, arch, reference)
        .with_context(|| format!("cannot make an image of {}", binary.display()))?;
    let mut description = serde_json::to_string_pretty(&archive.description).context("describe the image")?;
    description.push('\n');
    replace(out, &archive.bytes)?;
    replace(&beside, description.as_bytes())?;
    print!("{description}");
    Ok(())
}

fn read_capped(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BINARY + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BINARY {
        bail!("it is larger than {} MiB", MAX_BINARY >> 20);
    }
    Ok(bytes)
}

/// Whole or not at all: a reader never sees half an archive.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .permissions(readable_by_all())
            .tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn readable_by_all() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}
